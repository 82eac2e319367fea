"""Whose bytes are whose in a filesystem: what a difference of one file explains, and what nothing explains.

`Account` knows nothing but names and serves every filesystem; ext4 and FAT have exact ones of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.images.filesystems.inodes import Inodes

Moment = tuple[int, int]  # seconds, nanoseconds
Range = tuple[int, int]  # start and end in bytes of the filesystem


class Account:
    """Two filesystems of one type whose bytes cannot be attributed."""

    is_exact = False  # whether footprints are everything that belongs to a file
    seeded = False  # whether every checksum of metadata differs, because what it begins with does
    time_knob = "file time"

    def __init__(self, inodes: tuple[Inodes, Inodes]) -> None:
        self._inodes = inodes

    def footprints(self, mine: int | None, theirs: int | None) -> list[Range]:  # noqa: ARG002 - for those who know
        """Where a file's inode and blocks lie, on both sides."""
        return []

    def is_moved(self, mine: int, theirs: int) -> bool:  # noqa: ARG002 - for those who know
        """Whether a file lies elsewhere, or under another number."""
        return False

    def checksums(self, mine: int, theirs: int) -> list[Range]:  # noqa: ARG002 - for those who know
        """The checksums in a file's metadata blocks."""
        return []

    def keeps_order(self, mine: int, theirs: int) -> bool:  # noqa: ARG002 - for those who know
        """Whether names of a directory that are the same should come in the same order."""
        return True

    def names(self, side: int, number: int) -> Sequence[str]:
        """The names in a directory as it holds them."""
        return list(self._inodes[side].entries(number))

    def times(self, mine: int, theirs: int) -> Iterator[tuple[str, Moment, Moment]]:  # noqa: ARG002 - for those who know
        """Times beside the mtime that differ."""
        return iter(())

    def follows(self, path: str, name: str, first: Moment, second: Moment) -> bool:  # noqa: ARG002 - for those who know
        """Whether a time differs only because the filesystem was made at another time."""
        return False

    def oddities(self, mine: int, theirs: int) -> Iterator[tuple[str, str]]:  # noqa: ARG002 - for those who know
        """Other fields of an inode that differ, and the key of their knob."""
        return iter(())

    def consequences(self, *, found: bool, may_move: bool) -> Iterable[Range]:  # noqa: ARG002 - for those who know
        """Metadata that belongs to no file and follows from what was reported."""
        return ()

    def mask(self, offset: int, left: bytearray) -> None:
        """Zero what follows from other seeds in a piece of changed bytes."""

    def place_of(self, offset: int) -> tuple[str, str]:  # noqa: ARG002 - for those who know
        """What lies at a byte, in words, and the key of a knob."""
        return "", ""
