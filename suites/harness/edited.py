"""What is compared of an image before and after an edit: its bytes, its partitions, its files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.images.block import Block
from harness.images.filesystems.files import Files, open_files
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_of(files: Files) -> dict[str, object]:
    """Every file: all that stat says, its attributes and its content's digest."""
    return {
        entry.path: (
            (entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, entry.target),
            dict(files.xattrs(entry.path)),
            files.sha256(entry.path) if entry.kind == "file" else "",
        )
        for entry in files.walk("/")
    }


def trees(path: Path) -> dict[str, dict[str, object]]:
    """The files of every partition whose files can be read, by its label."""
    with open_image(path) as image:
        layout = read_layout(image.block)
        return {
            partition.label: tree_of(open_files(layout.part_block(partition.label)))
            for partition in layout.partitions
            if partition.filesystem and partition.filesystem.type in {"ext4", "xfs", "vfat"}
        }


def changed_outside(one: Path, other: Path, start: int, end: int) -> list[int]:
    """The MiB in which two disks differ outside of a range of bytes."""
    with open_image(one) as first, open_image(other) as second:
        assert first.block.size == second.block.size
        return [
            at // 2**20
            for at in range(0, first.block.size, 2**20)
            if not start <= at < end and _piece(first.block, at) != _piece(second.block, at)
        ]


def _piece(block: Block, at: int) -> bytes:
    return block.read(at, min(2**20, block.size - at))
