"""A larger virtual disk, as CoreOS makes its cloud images: laid out at metal size, then lengthened.

The backup GPT stays where the shorter disk ended (facts A7: that is how such an image is shipped, and first boot
moves it); `move_backup` does that here. No partition grows: first boot does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput
from harness.images.edits.backup_gpt import move_backup as move_to_end
from harness.images.edits.draft import Form, drafting
from harness.images.edits.stages import Progress, silent, stage

LARGEST = 2**44  # bytes: 16 TiB, the longest file of ext4
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Grown:
    """Bytes of the virtual disk before and after; the byte at which the backup GPT's header lies, if there is one."""

    before: int
    after: int
    backup_at: int | None


def grow(
    source: Path,
    size: int,
    target: Path,
    *,
    move_backup: bool = False,
    form: Form | None = None,
    progress: Progress = silent,
) -> Grown:
    """Write `target`, a disk like `source` with `size` bytes.

    Raises BadInput for a size that is smaller than the disk or absurd, UnsupportedImage where a backup GPT is to be
    moved and there is no GPT, DamagedImage where it cannot be.
    """
    with drafting(source, target, form=form, progress=progress) as draft:
        before = draft.image.block.size
        _check_size(before, size, str(source))
        os.truncate(draft.disk, size)
        if move_backup:
            with stage(progress, "move backup GPT"):
                table = draft.layout.gpt
                return Grown(before, size, move_to_end(draft.disk, table) * table.sector_size)
        backup_at = None
        if draft.layout.label == "gpt" and draft.layout.gpt.backup.found:
            backup_at = draft.layout.gpt.backup.location_lba * draft.layout.gpt.sector_size
    return Grown(before, size, backup_at)


def _check_size(before: int, size: int, where: str) -> None:
    if size < before:
        raise BadInput(
            f"is {before:,} bytes long and would become shorter: {size:,}",
            where=where,
            next_step="a disk only grows here; sparsify it to make its file smaller",
        )
    if size > LARGEST or size % SECTOR:
        raise BadInput(f"{size:,} bytes are no size for a disk", next_step="whole sectors of 512, at most 16 TiB")
