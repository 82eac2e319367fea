"""What the running kernel knows of its filesystems: whether a journal was replayed at this boot, and any errors since.

A mounted filesystem cannot be checked by e2fsck or xfs_repair without false alarms. The kernel's counters
(/sys/fs/ext4/*/errors_count, kept in the superblock) and its log tell the same, and so does what fsck said at boot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import MachineFailed
from harness.machine.guest.channel import Completed

LOOK = r"""
for folder in /sys/fs/ext4/*/ /sys/fs/xfs/*/; do
    device=$(basename "$folder") kind=$(basename "$(dirname "$folder")")
    [[ -b /dev/$device ]] || continue
    errors=0
    [[ ! -e $folder/errors_count ]] || errors=$(<"$folder/errors_count")
    echo "$kind $device $errors $(lsblk -ndo LABEL "/dev/$device")"
done
echo --
journalctl -b -q --no-pager -o cat _TRANSPORT=kernel + SYSLOG_IDENTIFIER=systemd-fsck
"""
END_OF_TABLE = "--"
ROW = re.compile(r"(?P<kind>ext4|xfs) (?P<device>\S+) (?P<errors>\d+) ?(?P<label>.*)")
RECOVERED = r"EXT4-fs \({device}\): recovery complete|XFS \({device}\): Ending recovery|{label}: recovering journal"
DAMAGED = (
    r"EXT4-fs error \(device {device}\)|EXT4-fs \({device}\): .*with errors"
    r"|XFS \({device}\): (?:.*[Cc]orruption|Internal error|.*shutting down)|{label}: UNEXPECTED INCONSISTENCY"
)


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A mounted filesystem; `damage` is the first line that speaks of any, or empty."""

    kind: str
    device: str
    label: str
    was_recovered: bool
    damage: str


def read_filesystems(answer: Completed) -> tuple[Filesystem, ...]:
    """The mounted ext4 and XFS filesystems, from what LOOK printed. Raises MachineFailed if it could not look."""
    lines = answer.text.splitlines()
    if answer.rc != 0 or END_OF_TABLE not in lines:
        words = answer.err.decode(errors="replace").strip()
        raise MachineFailed(f"the guest's filesystems cannot be looked at: {words[:200]}", where="guest")
    end = lines.index(END_OF_TABLE)
    rows = [row for line in lines[:end] if (row := ROW.fullmatch(line)) is not None]
    return tuple(_filesystem(row, lines[end:]) for row in rows)


def _filesystem(row: re.Match[str], log: Sequence[str]) -> Filesystem:
    names = {"device": re.escape(row["device"]), "label": re.escape(row["label"] or row["device"])}
    recovered, damaged = (re.compile(pattern.format(**names)) for pattern in (RECOVERED, DAMAGED))
    damage = next((line for line in log if damaged.search(line)), "")
    if not damage and row["errors"] != "0":
        damage = f"{row['errors']} errors in its superblock"
    was_recovered = any(recovered.search(line) for line in log)
    return Filesystem(row["kind"], row["device"], row["label"], was_recovered, damage[:400])
