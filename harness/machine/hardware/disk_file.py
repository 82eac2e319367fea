"""A file that a machine's extra disk starts out as: its size as a disk, and a name for its content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput

QCOW2_MAGIC = b"QFI\xfb"
PIECE = 1 << 20  # bytes
ZEROES = bytes(PIECE)


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A raw or qcow2 file; `size` is the disk's, in bytes, `digest` a SHA-256 that another content does not have."""

    path: Path
    size: int
    digest: str


def read_disk_file(path: Path) -> DiskFile:
    """Look at a file that is to be a disk; holes cost nothing. Raises BadInput where it cannot be read."""
    next_step = "give a raw or qcow2 file"
    try:
        if not path.is_file():
            raise BadInput("is no file", where=str(path), next_step=next_step)
        with path.open("rb") as file:
            head = file.read(32)
            length = os.fstat(file.fileno()).st_size
            digest = hashlib.sha256(length.to_bytes(8, "big"))
            for offset in _pieces(file.fileno(), length):
                if (piece := os.pread(file.fileno(), PIECE, offset)) != ZEROES[: len(piece)]:
                    digest.update(offset.to_bytes(8, "big"))
                    digest.update(piece)
    except (OSError, ValueError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else cause
        raise BadInput(f"cannot be read: {why}", where=str(path), next_step=next_step) from cause
    is_qcow2 = head.startswith(QCOW2_MAGIC)  # its size: docs/interop/qcow2.txt, bytes 24 to 31
    return DiskFile(path.absolute(), int.from_bytes(head[24:32], "big") if is_qcow2 else length, digest.hexdigest())


def _pieces(file: int, length: int) -> Iterator[int]:
    """Where whole pieces begin that hold any data. What the host takes for data is its own affair and may change."""
    done = 0
    for start, end in _data(file, length):
        first = max(done, start // PIECE)
        done = max(done, -(-end // PIECE))
        yield from (number * PIECE for number in range(first, done))


def _data(file: int, length: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data: first byte and the one after the last."""
    end = 0
    while end < length:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end
