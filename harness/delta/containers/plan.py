"""The plan of a container: all that is needed beside its content to write the file again, as compact bytes.

`HCP` and a version, the length of what follows unpacked, then zlib around msgpack. Nothing in it is believed before
its type, its bounds and its sums are checked: what is wrong is one DamagedImage, before any output.
"""

from __future__ import annotations

import zlib
from typing import Annotated

import msgspec

from harness.delta.containers.codecs import Codec, Name
from harness.delta.containers.dialects import Dialect
from harness.delta.errors import one_line
from harness.errors import DamagedImage, UnsupportedImage

MAGIC = b"HCP"
VERSION = 1
VERSION_OF_FRAMES = 2  # of a plan that has a layer of frames, which readers of version 1 do not know
HEADER_SIZE = 8  # magic, version, length of the body unpacked
LARGEST_PLAN = 4 * 2**20  # bytes, packed or not: numbers take a hundred megabytes then
LARGEST_FILE = 2**44  # bytes: 16 TiB, as for images
MOST_LAYERS = 4  # gzip around tar around VMDK is three
WHERE = "plan of a container"

Size = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_FILE)]
Shift = Annotated[int, msgspec.Meta(ge=-LARGEST_FILE, le=LARGEST_FILE)]


class Layer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True):
    """What all layers have: they are tagged arrays."""


class Tables(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`count` tables from number `first` on; they lie `stride` bytes apart from `offset` on."""

    first: Size
    count: Size
    offset: Size
    stride: Size


class Series(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Numbers of 4 bytes, little-endian, at `offset`: `start`, `start + step`, ... as a grain directory has them."""

    offset: Size
    count: Size
    start: Size
    step: Size


class Mapped(Layer, frozen=True, array_like=True):
    """A disk in units that a file holds somewhere, packed or not: qcow2, VMDK, dynamic VHD and VHDX.

    Content is the disk, then units that cannot be packed again, then (where they are many) the `patches`.
    Lists count relative to what is predicted: an image as qemu-img writes it has nearly nothing in them.
    """

    entries: Dialect
    size: Size  # of the file
    disk: Size  # bytes of the content that are the disk
    unit: Size  # bytes of a grain or cluster
    last: Size  # bytes of the disk's last unit that were packed: whole units are, but not by everybody
    per_table: Size  # entries of a table
    flips: list[Size]  # run lengths: units present exactly if they are not zero, units for which that is wrong, ...
    order: list[tuple[Size, Size]]  # runs of present units in the file's order: the first's rank on the disk, length
    codecs: list[Codec]
    uses: list[tuple[Size, Size]]  # runs in the file's order: index of the codec, length
    lengths: list[Size]  # bytes of each verbatim unit
    jumps: list[tuple[Size, Shift]]  # units since the last jump; how far from where it was expected the next lies
    tables: list[Tables]  # where the tables of entries lie
    counts: list[Tables]  # where refcount blocks lie (qcow2, 16 bits)
    series: list[Series]
    patches: list[tuple[Size, Size]]  # bytes since the last patch, length
    literals: bytes  # XOR of patches with what was predicted; empty where the patches are in the content
    absent: Size = 0  # entry of a unit that the file has not
    log: tuple[Size, Size] = (0, 0)  # offset and length of a VHDX log that holds spent entries as QEMU leaves them


class Splice(Layer, frozen=True, array_like=True):
    """Pieces of the content between bytes that the plan has: tar, OVA, fixed VHD. In turn literal, piece, literal."""

    size: Size
    literals: list[bytes]  # one more than pieces
    pieces: list[tuple[Size, Size]]  # bytes of the content skipped before it, length
    is_sparse: bool = False  # the pieces are those of sparse_map.py; the first literal is XOR with their map


class Stream(Layer, frozen=True, array_like=True):
    """The content packed as one: `method` names a row in streams.py; head and tail are bytes around it."""

    size: Size
    method: Name
    level: int
    library: Name
    sample: bytes
    content: Size
    head: bytes
    tail: bytes


class Frames(Layer, frozen=True, array_like=True):
    """Frames one behind the other, each made of pieces of the content, packed or not: squashfs and what is around it.

    A piece is expected at the next multiple of 4 KiB behind the piece before it.
    """

    size: Size  # of the file
    codecs: list[Codec]
    uses: list[tuple[Size, Size]]  # runs of frames: index of the codec, length
    headed: list[Size]  # run lengths: frames as they are, frames behind two bytes that tell their length, ...
    counts: list[tuple[Size, Size]]  # runs of frames: how many pieces, length
    gaps: list[Shift]  # of each piece: bytes from where it was expected to where it begins
    lengths: list[Size]  # of each piece


class Plan(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """`layers` from the outermost; `size` and `sha256` of the file; `content` is the bytes of content it needs."""

    size: Size
    sha256: bytes
    content: Size
    layers: list[Mapped | Splice | Stream | Frames]


def to_bytes(plan: Plan) -> bytes:
    """The plan as bytes, the same for the same plan. Raises DamagedImage for one too large to be read again."""
    body = msgspec.msgpack.encode(plan)
    if len(body) > LARGEST_PLAN:
        raise DamagedImage(f"takes {len(body):,} bytes, more than we read", where=WHERE)
    return MAGIC + bytes([_version(plan)]) + len(body).to_bytes(4, "little") + zlib.compress(body, 9)


def from_bytes(raw: bytes) -> Plan:
    """Read a plan. Raises DamagedImage for what is none, UnsupportedImage for a version that we do not read."""
    if len(raw) < HEADER_SIZE or not raw.startswith(MAGIC):
        raise _damaged(f"begins with {raw[:4]!r}")
    if raw[3] not in {VERSION, VERSION_OF_FRAMES}:
        told = f"is of version {raw[3]}, we read {VERSION} and {VERSION_OF_FRAMES}"
        raise UnsupportedImage(told, where=WHERE, next_step="update harness")
    size = int.from_bytes(raw[4:HEADER_SIZE], "little")
    if size > LARGEST_PLAN or len(raw) > LARGEST_PLAN:
        raise _damaged(f"claims {size:,} bytes, more than any plan")
    inner = zlib.decompressobj()
    try:
        body = inner.decompress(raw[HEADER_SIZE:], size + 1)
        if len(body) != size or not inner.eof or inner.unused_data:
            raise _damaged("is not as long as it claims")
        plan = msgspec.msgpack.decode(body, type=Plan)
    except (zlib.error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise _damaged(f"cannot be read: {one_line(cause)}") from cause
    if not 1 <= len(plan.layers) <= MOST_LAYERS or len(plan.sha256) != 32:
        raise _damaged(f"has {len(plan.layers)} layers")
    if (
        plan.layers[0].size != plan.size
        or raw[3] != _version(plan)
        or any(isinstance(layer, Mapped | Frames) for layer in plan.layers[:-1])
        or any(isinstance(layer, Stream) for layer in plan.layers[1:])  # each can take as much memory as xz -9
    ):
        raise _damaged("has layers that do not fit each other")
    return plan


def _version(plan: Plan) -> int:
    return VERSION_OF_FRAMES if any(isinstance(layer, Frames) for layer in plan.layers) else VERSION


def _damaged(what: str) -> DamagedImage:
    return DamagedImage(what, where=WHERE, next_step="get it again and compare its checksum")
