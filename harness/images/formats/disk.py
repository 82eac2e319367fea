"""What every container format gives: a virtual disk that knows its holes and what its header says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.images.block import Block
from harness.images.extents import SparseBlock

Fact = str | int | bool | None


class Disk(SparseBlock, Protocol):
    """An opened virtual disk; closing it closes its files."""

    def facts(self) -> Mapping[str, Fact]:
        """What the container's header says beyond the disk's size, in the format's own words."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Opening:
    """A file to open: where it lies uncompressed, what messages call it, and the base that the user named for it."""

    path: Path
    name: str
    backing: Block | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """How one container format is told from others (by its first bytes, or by the whole file) and opened."""

    name: str
    recognises: Callable[[bytes, Block | None], bool]  # no block while only the beginning is unpacked
    open: Callable[[Opening], Disk]
