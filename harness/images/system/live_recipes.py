"""What coreos-installer makes images from, as far as their headers tell: osmet files and miniso.dat.

Both are written with Rust's bincode in its variable-length form (bincode's specification, "Varint Encoding").
"""

from __future__ import annotations

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.manifest import OsmetFacts

OSMET = b"OSMET\0\0\0"
MINISO = b"MINISO\0\0"
KNOWN_VERSION = 1
HEAD = 1024  # bytes: more than any header has
WIDTHS = {251: 2, 252: 4, 253: 8}  # what follows a first byte beyond 250


def read_osmet(block: Block, name: str) -> OsmetFacts:
    """The header of an osmet file. Raises DamagedImage for what is none, UnsupportedImage for another version."""
    fields = Fields(block, OSMET)
    app_version, sector_size = fields.text(), fields.number()
    return OsmetFacts(
        name=name,
        size=block.size,
        version=KNOWN_VERSION,
        app_version=app_version,
        sector_size=sector_size,
        os_description=fields.text(),
        architecture=fields.text(),
    )


def read_minimal_iso(block: Block) -> str:
    """The version of coreos-installer that wrote miniso.dat; errors as `read_osmet`."""
    return Fields(block, MINISO).text()


class Fields:
    """Numbers and texts in a row, after a magic and the version of the format."""

    def __init__(self, block: Block, magic: bytes, most: int = HEAD) -> None:
        """Reads `most` bytes of the block."""
        self._name = block.name
        self._raw = block.read(0, min(most, block.size))
        self._at = len(magic)
        if not self._raw.startswith(magic):
            raise DamagedImage(f"starts with {self._raw[:8]!r}, not {magic!r}", where=self._name)
        if (version := self.number()) != KNOWN_VERSION:
            raise UnsupportedImage(f"has version {version}; we know {KNOWN_VERSION}", where=self._name)

    def number(self) -> int:
        """An unsigned number."""
        first = self.raw(1)[0]
        if first <= 250:
            return first
        if first not in WIDTHS:
            raise DamagedImage(f"no number starts with {first}", where=self._name)
        return int.from_bytes(self.raw(WIDTHS[first]), "little")

    def text(self) -> str:
        """A text, what cannot be printed replaced."""
        found = self.raw(self.number()).decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "\ufffd" for c in found)

    def raw(self, count: int) -> bytes:
        """Exactly so many bytes."""
        found = self._raw[self._at : self._at + count]
        if len(found) < count:
            raise DamagedImage("ends within its header", where=self._name)
        self._at += count
        return found
