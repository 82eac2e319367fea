"""A container file as its content and a plan to write the same bytes again; what cannot be so is left alone.

The content is what is worth comparing with other images: the disk, unpacked, in the disk's order. A format is a row in
`FORMATS`; layers nest (gzip around tar around VMDK). Nothing is returned that was not compared with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from harness.delta.containers import frames, ova, qcow2, splice, squashfs, streams, vhd, vhdx, vmdk
from harness.delta.containers.codecs import check_codec
from harness.delta.containers.mapped import rebuild_mapped
from harness.delta.containers.plan import MOST_LAYERS, WHERE, Frames, Mapped, Plan, Splice, Stream, from_bytes, to_bytes
from harness.delta.containers.sparse_map import folded, unfolded
from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.extents import SparseBlock, sha256_of
from harness.images.formats.compression import detect, unpacked
from harness.images.formats.raw import FileBlock
from harness.release.digests import pieces_of

SNIFFED = 512  # bytes

Layer = Mapped | Splice | Stream | Frames
Taken = tuple[Layer, SparseBlock] | None


@dataclass(frozen=True, slots=True)
class Format:
    """How a container is told from others, and taken apart, for as long as a stack if that needs files."""

    name: str
    recognises: Callable[[bytes, Block], bool]
    dissect: Callable[[Block, ExitStack], Taken]


FORMATS: tuple[Format, ...] = (
    Format("qcow2", lambda head, _: qcow2.recognises(head), lambda file, _: qcow2.dissect(file)),
    Format("vmdk", lambda head, _: vmdk.recognises(head), lambda file, _: vmdk.dissect(file)),
    Format("tar", lambda head, _: ova.recognises(head), lambda file, _: ova.dissect(file)),
    Format("vhdx", lambda head, _: vhdx.recognises(head), lambda file, _: vhdx.dissect(file)),
    Format("vhd", lambda _, file: vhd.recognises(file), lambda file, _: vhd.dissect(file)),
    Format("squashfs", lambda _, file: squashfs.recognises(file), squashfs.dissect),
)


@dataclass(frozen=True, slots=True)
class Dissection:
    """A file taken apart: `rebuild(plan, content)` gives it again. Use it as a context: it holds files open."""

    formats: tuple[str, ...]  # from the outermost, as FORMATS and streams.METHODS name them
    size: int  # bytes of the file
    sha256: str  # of the file, hex
    content: SparseBlock
    plan: bytes
    _open: ExitStack = field(repr=False, compare=False)

    def close(self) -> None:
        """Let go of the file; the content cannot be read any more."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Outline:
    """What a plan says of itself: for `recipe show`, and to be held against a recipe before anything is done."""

    size: int
    sha256: str
    content_size: int
    layers: tuple[str, ...]
    codecs: tuple[str, ...]  # libraries with versions


def dissect(path: Path) -> Dissection | None:
    """Take a file apart; None for what is no container we know, or cannot be made again exactly, or is damaged.

    Raises BadInput where the file cannot be read, StoreError where there is no room to unpack it.
    """
    with ExitStack() as stack:
        whole = stack.enter_context(FileBlock(path))
        peeled = list(_peeled(path, whole, stack))
        if not peeled:
            return None
        digest = sha256_of(whole)
        content = peeled[-1].inside
        layers = [*(each.layer for each in peeled[:-1]), _short(peeled[-1].layer, content)]
        try:
            plan = to_bytes(Plan(whole.size, bytes.fromhex(digest), content.size, layers))
            _checked_layers(from_bytes(plan), content)
        except DamagedImage:  # a file in more pieces than a plan may have, or of numbers beyond its bounds
            return None
        return Dissection(tuple(each.name for each in peeled), whole.size, digest, content, plan, stack.pop_all())


class _Peeled(NamedTuple):
    """One layer, and what is inside."""

    name: str
    layer: Layer
    inside: SparseBlock


def _peeled(path: Path, file: SparseBlock, stack: ExitStack) -> Iterator[_Peeled]:
    """The layers from the outermost, as far as there are any that can be made again."""
    for depth in range(MOST_LAYERS):
        try:
            found = _taken(file, stack) if depth else _unpacked(path, file, stack)
        except (DamagedImage, UnsupportedImage):
            return
        if found is None:
            return
        yield found
        if isinstance(found.layer, Mapped | Frames):
            return
        file = found.inside


def _unpacked(path: Path, file: SparseBlock, stack: ExitStack) -> _Peeled | None:
    """The outermost layer: compression, which needs the file unpacked beside, or what `_taken` knows."""
    kind = detect(file.read(0, min(SNIFFED, file.size)))
    if kind is None:
        return _taken(file, stack)
    plain = stack.enter_context(FileBlock(stack.enter_context(unpacked(path, kind)).path, str(path)))
    stream = streams.dissect(file, kind, plain)
    return _Peeled(stream.method, stream, plain) if stream else None


def _taken(file: SparseBlock, stack: ExitStack) -> _Peeled | None:
    head = file.read(0, min(SNIFFED, file.size))
    for known in FORMATS:
        if known.recognises(head, file) and (found := known.dissect(file, stack)):
            layer, content = found
            if not isinstance(layer, Splice) or _is_whole(layer, content, file):
                return _Peeled(known.name, layer, content)
    return None


def _is_whole(layer: Splice, content: SparseBlock, file: SparseBlock) -> bool:
    """Whether a splice gives the file, compared piece by piece."""
    made = splice.cut(splice.rebuild(layer, splice.OfBlock(content)), file.size)
    return all(one is other or one == other for one, other in zip(made, pieces_of(file), strict=True))


def _short(layer: Layer, content: SparseBlock) -> Layer:
    """The same layer; without the map of a sparse member, where the content tells it."""
    if isinstance(layer, Splice):
        shorter = folded(layer, content)
        if shorter.is_sparse and unfolded(shorter, content) == layer:
            return shorter
    return layer


def outline(plan: bytes) -> Outline:
    """What a plan says. Raises DamagedImage for bytes that are none, UnsupportedImage for another version."""
    read = from_bytes(plan)
    codecs = [codec.library for layer in read.layers if isinstance(layer, Mapped | Frames) for codec in layer.codecs]
    codecs += [layer.library for layer in read.layers if isinstance(layer, Stream)]
    return Outline(
        read.size, read.sha256.hex(), read.content, tuple(map(_name, read.layers)), tuple(filter(None, codecs))
    )


def check_plan(plan: bytes, content_size: int, size: int, sha256: str) -> None:
    """What can be known to be wrong with a plan before there is any content, so that minutes of work are not in vain.

    Raises DamagedImage, UnsupportedImage for another version, BadInput where this host's codecs give other bytes.
    """
    read = from_bytes(plan)
    if (read.content, read.size, read.sha256.hex()) != (content_size, size, sha256):
        raise _damaged("is for another content, or makes another file")
    for layer in read.layers:
        if isinstance(layer, Stream):
            streams.check(layer)
        elif isinstance(layer, Mapped | Frames):
            for codec in layer.codecs:
                check_codec(codec)


def _name(layer: Layer) -> str:
    if isinstance(layer, Mapped):
        return layer.entries
    if isinstance(layer, Frames):
        return "frames"
    return layer.method if isinstance(layer, Stream) else "splice"


def rebuild(plan: bytes, content: Block) -> Iterator[bytes]:
    """The file's bytes in order; whoever writes them compares the SHA-256 (`outline` has it).

    Raises, before the first byte: DamagedImage for a plan that contradicts itself or the content, UnsupportedImage for
    another version, BadInput where this host's codecs give other bytes than those of the host that made the plan.
    """
    read = from_bytes(plan)
    return _bounded(_layered(_checked_layers(read, content), content), read.size)


def _checked_layers(plan: Plan, content: Block) -> list[Layer]:
    """The layers, ready to be used, as far as they can be held against each other. Raises as `rebuild` does."""
    if content.size != plan.content:
        raise _damaged(f"is for {plan.content:,} bytes of content, not {content.size:,}")
    sizes = [layer.size for layer in plan.layers[1:]] + [content.size]
    layers = [*plan.layers[:-1], _whole_splice(plan.layers[-1], content)]
    for layer, inside in zip(layers, sizes, strict=True):
        if isinstance(layer, Stream):
            streams.check(layer)
            if layer.content != inside:
                raise _damaged(f"packs {layer.content:,} bytes of a layer of {inside:,}")
        elif isinstance(layer, Splice):
            splice.check(layer, inside)
        elif isinstance(layer, Frames):
            frames.check(layer, inside)
    return layers


def _whole_splice(layer: Layer, content: Block) -> Layer:
    return unfolded(layer, content) if isinstance(layer, Splice) and layer.is_sparse else layer


def _layered(layers: list[Layer], content: Block) -> Iterator[bytes]:
    """The innermost layer reads the content, each other what the one inside it writes."""
    pieces: Iterator[bytes] | None = None
    for layer in reversed(layers):
        if isinstance(layer, Mapped):
            pieces = rebuild_mapped(layer, content)
            continue
        if isinstance(layer, Frames):
            pieces = frames.rebuild_frames(layer, content)
            continue
        source = splice.OfBlock(content) if pieces is None else splice.OfPieces(pieces)
        if isinstance(layer, Splice):
            pieces = splice.rebuild(layer, source)
        else:
            pieces = streams.rebuild(layer, source.take(layer.content))
    if pieces is None:
        raise _damaged("has no layers")
    return pieces


def _bounded(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same pieces. Raises DamagedImage where they are more or fewer bytes than the plan says."""
    done = 0
    for piece in pieces:
        done += len(piece)
        if done > size:
            raise _damaged(f"gives more than the {size:,} bytes it says")
        if piece:
            yield piece
    if done != size:
        raise _damaged(f"gives {done:,} bytes, not {size:,}")


def _damaged(what: str) -> DamagedImage:
    return DamagedImage(what, where=WHERE, next_step="get it again and compare its checksum")
