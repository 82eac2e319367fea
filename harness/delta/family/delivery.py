"""Where images that were made again go: a folder, a stream (one image, or a tar of several), or a block device."""

from __future__ import annotations

import fcntl
import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from harness.delta.family.listing import Listed
from harness.delta.sparse import STEP, Content
from harness.errors import BadInput, DamagedImage, HarnessError, StoreError
from harness.images.formats.compression import Compression
from harness.images.formats.raw import FileBlock
from harness.release.digests import pieces_of
from harness.release.packing import Setting, packer
from harness.store import replacing

LEVELS: dict[Compression, int] = {"gz": 1, "zst": 3}  # for the way only: who keeps it packs it better
BLKSSZGET = 0x1268  # linux/fs.h
DEVICES = Path("/dev")
ON_A_DEVICE = ("raw", "iso")


class ToFolder:
    """Images as files of a folder, each taking its name when it is right; packed on request."""

    def __init__(self, folder: Path, *, compress: Compression | None = None, force: bool = False) -> None:
        self._folder, self._compress, self._force = folder, compress, force
        if folder.exists() and not folder.is_dir():
            raise BadInput("is no folder", where=str(folder), next_step="name a folder, a block device, or -")
        if folder.absolute().parent == DEVICES and not folder.exists():
            raise BadInput("is no device", where=str(folder), next_step="see lsblk")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise BadInput(f"cannot be written into: {cause.strerror}", where=str(folder)) from cause

    def scratch(self) -> Path | None:
        return self._folder

    def place(self, image: Listed) -> Path | None:
        """Where the image is written. Raises BadInput where that is taken."""
        target = self.path_of(image)
        if target.exists() and not self._force:
            raise BadInput("is there already", where=str(target), next_step="add --force to replace it")
        return None if self._compress else target

    def path_of(self, image: Listed) -> Path:
        """The file that the image becomes."""
        return self._folder / (f"{image.name}.{self._compress}" if self._compress else image.name)

    def take(self, image: Listed, made: Path) -> None:
        if self._compress is None:  # it was made in its place
            return
        target = self.path_of(image)
        try:
            with replacing(target) as aside, aside.open("wb") as out, FileBlock(made) as block:
                out.writelines(_packed(block, self._compress))
        except OSError as cause:
            raise StoreError(f"cannot be written: {cause.strerror}", where=str(target)) from cause

    def finish(self) -> None:
        """Nothing: each image is there."""


class ToStream:
    """Images one after another into a stream, as a tar archive where there may be several."""

    def __init__(self, stream: BinaryIO, *, as_tar: bool, compress: Compression | None = None) -> None:
        self._stream, self._compress = stream, compress
        self._tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) if as_tar else None  # noqa: SIM115

    def scratch(self) -> Path | None:
        return None

    def place(self, image: Listed) -> Path | None:
        del image
        return None

    def take(self, image: Listed, made: Path) -> None:
        with _streaming(), FileBlock(made) as block:
            if self._tar is None:
                self._write(block)
            elif self._compress:
                packed = made.with_name(f"{made.name}.{self._compress}")
                with packed.open("xb") as out:
                    out.writelines(_packed(block, self._compress))
                self._add(f"{image.name}.{self._compress}", packed)
                packed.unlink()
            else:
                self._add(image.name, made)

    def finish(self) -> None:
        """End the archive: who reads one without its end knows that something went wrong."""
        with _streaming():
            if self._tar is not None:
                self._tar.close()
            self._stream.flush()

    def _write(self, block: FileBlock) -> None:
        pieces = _packed(block, self._compress) if self._compress else pieces_of(block)
        for piece in pieces:
            self._stream.write(piece)
        self._stream.flush()

    def _add(self, name: str, path: Path) -> None:
        if self._tar is None:
            return
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = path.stat().st_size, 0o644
        with path.open("rb") as file:
            self._tar.addfile(entry, file)


@contextmanager
def _streaming() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # who reads has had enough: for the command line to end quietly
        raise
    except OSError as cause:
        raise StoreError(f"cannot be written: {cause.strerror}", where="standard output") from cause


class ToDevice:
    """One image onto a block device that nobody uses, once it was made and found right."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def scratch(self) -> Path | None:
        return None

    def place(self, image: Listed) -> Path | None:
        """None: the device is touched when the image is known to be right. Raises BadInput where it will not fit."""
        with _device(self._path) as device:
            size = os.lseek(device, 0, os.SEEK_END)
            if size < image.size:
                raise BadInput(f"has {size:,} bytes, and {image.name} {image.size:,}", where=str(self._path))
        return None

    def take(self, image: Listed, made: Path) -> None:
        if (container := _container(made)) not in ON_A_DEVICE:
            raise BadInput(
                f"is {container}, which no machine boots from a device",
                where=image.name,
                next_step="write a raw disk or an ISO",
            )
        with FileBlock(made) as block, _device(self._path) as device:
            content = Content(block)
            try:
                for start in range(0, content.size, STEP):
                    _write(device, content.read(start, min(STEP, content.size - start)), start)
                os.fsync(device)
                self._compare(device, content, image)
            except OSError as cause:
                raise BadInput(f"cannot be written: {cause.strerror}", where=str(self._path)) from cause
            finally:
                content.close()

    def finish(self) -> None:
        """Nothing: the image was read back."""

    def _compare(self, device: int, content: Content, image: Listed) -> None:
        """Read back what the device has: a disk that lies about its size takes everything."""
        os.posix_fadvise(device, 0, 0, os.POSIX_FADV_DONTNEED)
        for start in range(0, content.size, STEP):
            length = min(STEP, content.size - start)
            if os.pread(device, length, start) != content.read(start, length):
                raise DamagedImage(
                    f"does not give back {image.name} as it was written, at {start:,}", where=str(self._path)
                )


def _container(path: Path) -> str:
    """The format of an image; what is none that we know is bytes like a raw disk."""
    from harness.images.source import open_image  # noqa: PLC0415 - brings all readers of images

    try:
        with open_image(path) as image:
            return f"{image.container} in {image.compression}" if image.compression else image.container
    except HarnessError:
        return "raw"


@contextmanager
def _device(path: Path) -> Iterator[int]:
    """A block device, opened so that nobody else mounts or uses it."""
    try:
        device = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as cause:
        raise BadInput(
            f"cannot be opened: {cause.strerror}", where=str(path), next_step="is it mounted or in use? see lsblk"
        ) from cause
    try:
        fcntl.ioctl(device, BLKSSZGET, struct.pack("i", 0))
        yield device
    finally:
        os.close(device)


def _write(device: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        done = os.pwrite(device, view, offset)
        view, offset = view[done:], offset + done


def _packed(block: FileBlock, kind: Compression) -> Iterator[bytes]:
    """The image packed on all cores, the same bytes each time."""
    inner = packer(kind, Setting(LEVELS[kind]), block.size)
    try:
        for piece in pieces_of(block):
            yield inner.pack(piece)
        yield inner.finish()
    finally:
        inner.close()
