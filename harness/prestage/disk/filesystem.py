"""What both kinds of filesystem on a data partition take and give back; how each is made is in xfs.py and ext4.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from harness.errors import BadInput

Kind = Literal["xfs", "ext4"]
Counting = Callable[[int], None]  # bytes of files that are done


@dataclass(frozen=True, slots=True)
class Site:
    """Where a filesystem is to be: bytes of a raw disk that hold nothing yet. `scratch` is a folder that goes away."""

    disk: Path
    start: int
    size: int
    sector_size: int
    label: str
    scratch: Path


@dataclass(frozen=True, slots=True)
class Made:
    """A filesystem with its files: its UUID, and the bytes that are free in it for more."""

    uuid: UUID
    free: int


LONGEST_LABEL: Final[Mapping[Kind, int]] = {"xfs": 12, "ext4": 16}  # bytes
SMALLEST: Final[Mapping[Kind, int]] = {"xfs": 300 * 2**20, "ext4": 16 * 2**20}  # since xfsprogs 5.19; for a journal


def check_possible(kind: Kind, label: str, size: int) -> None:
    """Raise BadInput for a label or a size that a kind of filesystem cannot have."""
    if len(label.encode(errors="replace")) > LONGEST_LABEL[kind] or not label.isprintable():
        raise BadInput(f"{label!r} is no label for {kind}", next_step=f"at most {LONGEST_LABEL[kind]} bytes")
    if size < SMALLEST[kind]:
        raise BadInput(
            f"{kind} needs {SMALLEST[kind]:,} bytes, the partition has {size:,}",
            next_step="make it larger" + (", or say ext4" if kind == "xfs" else ""),
        )


def does_not_fit(needed: int, free: int) -> BadInput:
    """The files need more than the partition has."""
    return BadInput(
        f"the files need {needed:,} bytes and the partition has room for {free:,}",
        next_step="make the partition larger, or stage fewer images",
    )
