"""An image packed for publication, with what has to be said about it; the same image gives the same bytes.

Two houses, two ways. CoreOS packs the container file (qcow2, raw, ...) as it is: `rhcos.qcow2` becomes
`rhcos.qcow2.gz`. fast-vm packs the raw disk and calls it `<N>g__<image>.img.<xz|zst|gz>`, N GiB large.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from harness.errors import BadInput, StoreError
from harness.images.block import Block
from harness.images.formats.compression import Compression
from harness.images.formats.raw import FileBlock
from harness.images.source import Image, open_image
from harness.release.checksums import meta_entry, write_meta, write_parts, write_sha256sum
from harness.release.digests import GIB, Digest, Sha512Parts, pieces_of
from harness.release.metadata import unpacked_name
from harness.release.packing import COSA, FAST_VM, Packer, packer
from harness.store import replacing

Dialect = Literal["sha256sum", "meta", "fast-vm"]
FAST_VM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
PLATFORM_IN_NAME = re.compile(r"-([a-z0-9]+)\.(?:x86_64|aarch64|ppc64le|s390x)\.")
USUAL_PLATFORM = {"qcow2": "qemu", "raw": "metal"}


@dataclass(frozen=True, slots=True)
class Wish:
    """How an image is to be exported. `fast_vm` is the image's name there, empty for CoreOS' way."""

    formats: tuple[Compression, ...]
    checksums: tuple[Dialect, ...] = ()
    fast_vm: str = ""
    platform: str = ""  # its key in meta.json; empty for what the image's name or container says
    threads: int = 0  # cores to use, 0 for all; for xz in CoreOS' way a number asks for blocks (other bytes)


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written."""

    path: Path
    packed: Digest


@dataclass(frozen=True, slots=True)
class Export:
    """All that was written: packed files, what they hold, and the files that vouch for them."""

    files: tuple[Exported, ...]
    plain: Digest
    checksums: tuple[Path, ...]


def export(source: Path, folder: Path, wish: Wish, progress: Callable[[int, int], None] | None = None) -> Export:
    """Pack an image into `folder`, in all formats in one pass. `progress` is told bytes done and their total.

    Raises BadInput for a wish that cannot be granted, StoreError where the folder cannot be written, and what
    `open_image` raises. Files get their names when all of them are complete.
    """
    with open_image(source) as image, _content(image, wish) as block:
        _check(wish, block, image)
        stem = f"{block.size // GIB}g__{wish.fast_vm}.img" if wish.fast_vm else unpacked_name(image.path.name)
        targets = {kind: folder / f"{stem}.{kind}" for kind in wish.formats}
        for target in targets.values():
            if target.exists() and target.samefile(source):
                raise BadInput("would overwrite the image itself", where=str(target), next_step="choose another folder")
        try:
            with ExitStack() as stack:
                sinks = [_Sink(stack, target, kind, wish, block.size) for kind, target in targets.items()]
                plain, parts = _pour(block, sinks, with_parts="fast-vm" in wish.checksums, progress=progress)
        except OSError as cause:
            raise StoreError(f"cannot be written: {cause.strerror}", where=str(folder)) from cause
        files = tuple(Exported(sink.target, sink.digest) for sink in sinks)
        written = _write_checksums(folder, files, plain, parts, _named(wish, image))
    return Export(files, plain, tuple(written))


@contextmanager
def _content(image: Image, wish: Wish) -> Iterator[Block]:
    """The bytes to pack: the raw disk for fast-vm, else the container file."""
    if wish.fast_vm:
        yield image.block
        return
    with FileBlock(image.plain_path, str(image.path)) as file:
        yield file


def _check(wish: Wish, block: Block, image: Image) -> None:
    if not wish.formats:
        raise BadInput("no format was asked for", next_step="gz, xz or zst")
    if wish.fast_vm and not FAST_VM_NAME.fullmatch(wish.fast_vm):
        raise BadInput("is no name for an image of fast-vm", where=repr(wish.fast_vm), next_step="as rhcos-4.4.3")
    if wish.fast_vm and block.size % GIB:
        raise BadInput(
            f"the disk has {block.size:,} bytes, and fast-vm counts in whole GiB",
            where=str(image.path),
            next_step="grow it to a whole number first",
        )
    if "fast-vm" in wish.checksums and not wish.fast_vm:
        raise BadInput(
            "fast-vm's checksums are of its own kind of file", next_step="give the image's name by --fast-vm"
        )
    if "meta" in wish.checksums and len(wish.formats) > 1:
        raise BadInput("meta.json has one file for a platform", next_step="choose one format")


def _named(wish: Wish, image: Image) -> Wish:
    """The wish with its platform decided."""
    in_name = PLATFORM_IN_NAME.search(image.path.name)
    usual = USUAL_PLATFORM.get(image.container, image.container)
    return replace(wish, platform=wish.platform or (in_name[1] if in_name else usual))


class _Sink:
    """A file that is being packed; it takes its name when the stack ends well."""

    def __init__(self, stack: ExitStack, target: Path, kind: Compression, wish: Wish, size: int) -> None:
        self.target = target
        setting = (FAST_VM if wish.fast_vm else COSA)[kind]
        if wish.threads:
            setting = replace(setting, in_blocks=True)
        aside = stack.enter_context(replacing(target))
        self._file: BinaryIO = stack.enter_context(aside.open("wb"))
        self._packer: Packer = packer(kind, setting, size, wish.threads)
        stack.callback(self._packer.close)
        self._digest = hashlib.sha256()
        self._size = 0

    def take(self, piece: bytes) -> None:
        self._write(self._packer.pack(piece))

    def finish(self) -> None:
        self._write(self._packer.finish())

    def _write(self, packed: bytes) -> None:
        self._file.write(packed)
        self._digest.update(packed)
        self._size += len(packed)

    @property
    def digest(self) -> Digest:
        return Digest(self._size, self._digest.hexdigest())


def _pour(
    block: Block, sinks: Sequence[_Sink], *, with_parts: bool, progress: Callable[[int, int], None] | None
) -> tuple[Digest, tuple[str, ...]]:
    """Give each piece to all sinks and digests at the same time."""
    whole, parts = hashlib.sha256(), Sha512Parts()
    takers: list[Callable[[bytes], None]] = [whole.update, *(sink.take for sink in sinks)]
    takers += [parts.update] if with_parts else []
    done = 0
    with ThreadPoolExecutor(len(takers)) as pool:
        for piece in pieces_of(block):
            for taken in [pool.submit(take, piece) for take in takers]:
                taken.result()
            done += len(piece)
            if progress:
                progress(done, block.size)
        for finished in [pool.submit(sink.finish) for sink in sinks]:
            finished.result()
    return Digest(block.size, whole.hexdigest()), parts.finish() if with_parts else ()


def _write_checksums(
    folder: Path, files: Sequence[Exported], plain: Digest, parts: Sequence[str], wish: Wish
) -> Iterator[Path]:
    if "sha256sum" in wish.checksums:
        yield write_sha256sum(folder, {file.path.name: file.packed.sha256 for file in files})
    if "meta" in wish.checksums:
        yield write_meta(folder, wish.platform, meta_entry(files[0].path.name, files[0].packed, plain))
    if "fast-vm" in wish.checksums:
        yield from write_parts(folder, wish.fast_vm, parts)
