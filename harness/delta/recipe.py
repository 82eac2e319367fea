"""A recipe file: a prefix, a header in JSON, and checksummed sections; docs/recipe.md describes each field.

All sizes and offsets are bytes. A recipe comes from outside: sizes are bounded before they are believed, sections are
compared with their checksums before the first is unpacked, and whatever is wrong raises DamagedRecipe.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from harness.delta.coding import GROUP, MOST_DICTIONARY, Codec, Dictionary, decoded
from harness.delta.errors import DamagedRecipe, one_line
from harness.delta.ops import CHUNK, MOST_BASES, MOST_OPS, ROW_SIZE, Op, Unpacker
from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.formats.raw import FileBlock

MAGIC = b"\x89IMGDLT\n"  # a byte above 127 and a line end: copying as text shows
VERSION = 1
PREFIX = struct.Struct("<8sHHI")  # magic, version, zero, length of the header; then the header's checksum
CHECK_SIZE = 8  # bytes of BLAKE2b
PREFIX_SIZE = PREFIX.size + CHECK_SIZE
MOST_HEADER = 16 * 2**20
MOST_SIZE = 2**44  # 16 TiB of image: what claims more is not meant to be made
MOST_PLAN = 4 * 2**20  # as harness.delta.containers.plan reads them
MOST_CODECS = 16
SMALLEST_GROUP = 2**20  # of literals, but for the last one: each may ask for a dictionary of 128 MiB
STEP = 2**20

Size = Annotated[int, msgspec.Meta(ge=0, le=MOST_SIZE)]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]  # `$` would let a line end follow
Check = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}\Z")]
Plain = Annotated[str, msgspec.Meta(max_length=80, pattern=r"^[ -~]*\Z")]  # is shown: one line of plain text


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file is."""

    size: Size
    sha256: Sha256


ViewKind = Literal["disk", "files"]


class View(Identity, frozen=True, forbid_unknown_fields=True):
    """What operations copy from where that is not the base's file as it is, but what lies in it (views.py)."""

    kind: ViewKind


class Base(Identity, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A base file, and what of it is copied from."""

    view: View | None = None

    @property
    def copied_from(self) -> Identity:
        """Size and SHA-256 of what operations copy from."""
        return self.view or self


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`stored` bytes in the recipe that unpack to `raw`; `check` is over the stored ones.

    `dictionary` is offset and length in the residue of the bases (residue.py) where the coder needs it.
    """

    codec: Codec
    stored: Size
    raw: Annotated[int, msgspec.Meta(ge=0, le=GROUP)]
    check: Check
    dictionary: tuple[Size, Annotated[int, msgspec.Meta(ge=1, le=MOST_DICTIONARY)]] | None = None


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that is to be known before a section is read.

    Operations and literals make `target` of `bases`. Where `plan` is given, its content and the target make the file
    `wrapped`: a container with compressed parts (harness.delta.containers).
    """

    target: Identity
    bases: Annotated[list[Base], msgspec.Meta(max_length=MOST_BASES)]
    ops: list[Section]
    literals: list[Section]
    codecs: Annotated[
        dict[Plain, Plain], msgspec.Meta(max_length=MOST_CODECS)
    ] = {}  # library and version that wrote it, to be told; any version reads it
    plan: Section | None = None
    wrapped: Identity | None = None

    def sections(self) -> list[Section]:
        """In the order of the file."""
        return [*self.ops, *self.literals, *([self.plan] if self.plan else [])]


def check_of(*parts: bytes) -> bytes:
    """The checksum of prefix, header and sections."""
    digest = hashlib.blake2b(digest_size=CHECK_SIZE)
    for part in parts:
        digest.update(part)
    return digest.digest()


def packed(header: Header, sections: list[bytes]) -> Iterator[bytes]:
    """The bytes of a recipe file."""
    text = msgspec.json.encode(header)
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(text))
    yield prefix + check_of(prefix, text) + text
    yield from sections


class Recipe:
    """A recipe whose header and checksums were found right. The block stays open as long as it is read."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.name = block.name
        self.header = _read_header(block)
        self._offsets: dict[int, int] = {}
        position = block.size - sum(section.stored for section in self.header.sections())
        for section in self.header.sections():
            self._offsets[id(section)] = position
            self._check(section, position)
            position += section.stored
        self.literal_size = sum(section.raw for section in self.header.literals)
        for _op in self.ops():
            pass

    @property
    def size(self) -> int:
        return self._block.size

    def ops(self) -> Iterator[Op]:
        """What to do, in the order of the target. Raises DamagedRecipe."""
        sizes = [base.copied_from.size for base in self.header.bases]
        unpacker = Unpacker(sizes, self.header.target.size, self.literal_size)
        try:
            for section in self.header.ops:
                yield from unpacker.unpack(b"".join(self.content(section)))
            unpacker.finish()
        except DamagedRecipe as cause:
            raise _damaged(self.name, cause.what) from cause

    def content(self, section: Section, dictionary: Dictionary | None = None) -> Iterator[bytes]:
        """A section unpacked, in pieces. Raises DamagedRecipe."""
        start = self._offsets[id(section)]
        try:
            yield from decoded(
                section.codec,
                lambda offset, length: self._block.read(start + offset, length),
                section.stored,
                section.raw,
                dictionary,
            )
        except (DamagedRecipe, DamagedImage) as cause:  # an image: the recipe became shorter while it was read
            raise _damaged(self.name, cause.what) from cause

    def _check(self, section: Section, start: int) -> None:
        digest = hashlib.blake2b(digest_size=CHECK_SIZE)
        try:
            for offset in range(0, section.stored, STEP):
                digest.update(self._block.read(start + offset, min(STEP, section.stored - offset)))
        except DamagedImage as cause:
            raise _damaged(self.name, cause.what) from cause
        if digest.hexdigest() != section.check:
            raise _damaged(
                self.name, f"its section of {section.stored:,} bytes at {start:,} does not match its checksum"
            )


@contextmanager
def open_recipe(path: Path) -> Iterator[Recipe]:
    """Open a recipe file and check all of it. Raises DamagedRecipe, and BadInput where it cannot be read."""
    with FileBlock(path) as block:
        yield Recipe(block)


def _read_header(block: Block) -> Header:
    where = block.name
    try:
        prefix = block.read(0, PREFIX_SIZE)
        magic, version, reserved, length = PREFIX.unpack_from(prefix)
        if magic != MAGIC:
            raise _damaged(where, f"is no recipe: begins with {prefix[:8]!r}")
        if version != VERSION or reserved:
            raise _damaged(where, f"is of version {version}, and we read {VERSION}", "use a newer harness")
        if length > MOST_HEADER:
            raise _damaged(where, f"its header claims {length:,} bytes")
        text = block.read(PREFIX_SIZE, length)
    except DamagedImage as cause:
        raise _damaged(where, f"ends within its header, at {block.size:,} bytes") from cause
    if check_of(prefix[: PREFIX.size], text) != prefix[PREFIX.size :]:
        raise _damaged(where, "its header does not match its checksum")
    try:
        header = msgspec.json.decode(text, type=Header)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as cause:
        raise _damaged(where, f"its header is not of this format: {one_line(cause)}") from cause
    _check_sizes(block, header, PREFIX_SIZE + length)
    return header


def _check_sizes(block: Block, header: Header, start: int) -> None:
    expected = start + sum(section.stored for section in header.sections())
    if expected != block.size:
        raise _damaged(block.name, f"is {block.size:,} bytes long instead of {expected:,}")
    if header.plan and header.plan.raw > MOST_PLAN:
        raise _damaged(block.name, f"its plan claims {header.plan.raw:,} bytes")
    if any(section.raw < SMALLEST_GROUP for section in header.literals[:-1]):
        raise _damaged(block.name, f"a section of literals, not the last, claims less than {SMALLEST_GROUP:,} bytes")
    if any(not 0 < section.raw <= CHUNK * ROW_SIZE or section.raw % ROW_SIZE for section in header.ops):
        raise _damaged(block.name, "a section of operations is not of whole ones")
    if sum(section.raw for section in header.ops) > MOST_OPS * ROW_SIZE:
        raise _damaged(block.name, f"claims more than {MOST_OPS:,} operations")
    if (header.plan is None) != (header.wrapped is None):
        raise _damaged(block.name, "names a container without its plan, or a plan without a container")
    if any(each.dictionary for each in [*header.ops, *([header.plan] if header.plan else [])]):
        raise _damaged(block.name, "only literals may have a dictionary")


def _damaged(where: str, what: str, next_step: str = "get it again") -> DamagedRecipe:
    return DamagedRecipe(what, where=where, next_step=next_step)
