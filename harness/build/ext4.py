"""ext4 filesystems made from folders, without mounting, the same bytes every time (e2fsprogs 1.47)."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Directory hashes must not depend on the moment: any fixed value will do.
HASH_SEED = uuid.uuid5(uuid.NAMESPACE_URL, "image-harness:ext4-hash-seed")
# CoreOS's boot filesystem stores its checksum seed, so that its UUID can change while it is in use (facts A2).
FEATURES = "metadata_csum_seed"
FIRST_FILE_INODE = 11


@dataclass(frozen=True, slots=True)
class Ext4:
    """What to make: label, UUID and size in MiB."""

    label: str
    uuid: str
    mib: int


def make_filesystem(wanted: Ext4, source: Path, target: Path, flags: Mapping[str, int]) -> None:
    """`<target>/<label>.ext4` with the files of `source`; `flags` sets inode flags by path.

    The environment's E2FSPROGS_FAKE_TIME is the time of all that mke2fs writes itself; the change times that it
    copies from the source are set to it afterwards.
    """
    image = target / f"{wanted.label}.ext4"
    subprocess.run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-O", FEATURES, "-L", wanted.label,
         "-U", wanted.uuid, "-E", f"hash_seed={HASH_SEED},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0",
         "-J", "size=16", "-d", source, image, f"{wanted.mib}M"],
        check=True,
    )  # fmt: skip
    epoch = os.environ["E2FSPROGS_FAKE_TIME"]
    script = [f"sif <{inode}> {field} @{epoch}" for inode in _used_inodes(image) for field in ("ctime", "atime")]
    script += [f"sif {path} flags {value:#x}" for path, value in flags.items()]
    script += ["ssv kbytes_written 0"]  # it depends on the order of what we do; at zero e2fsprogs stops counting
    _debugfs(image, script)
    subprocess.run(["e2fsck", "-f", "-n", image], check=True, stdout=subprocess.DEVNULL)


def _used_inodes(image: Path) -> list[int]:
    """All inodes in use: dumpe2fs lists the free ones of every group."""
    listing = subprocess.run(["dumpe2fs", image], check=True, capture_output=True).stdout.decode()
    count = int(re.search(r"^Inode count: +(\d+)", listing, re.MULTILINE)[1])  # type: ignore[index]
    free: set[int] = set()
    for ranges in re.findall(r"^  Free inodes: (.+)$", listing, re.MULTILINE):
        for piece in ranges.split(", "):
            first, _, last = piece.partition("-")
            free.update(range(int(first), int(last or first) + 1))
    return [2, *(inode for inode in range(FIRST_FILE_INODE, count + 1) if inode not in free)]


def _debugfs(image: Path, script: list[str]) -> None:
    """debugfs exits 0 whatever happens: anything on its error output but its banner is a failure."""
    done = subprocess.run(
        ["debugfs", "-w", "-f", "/dev/stdin", image], input="\n".join(script).encode(), capture_output=True, check=True
    )
    complaints = [line for line in done.stderr.decode().splitlines() if not line.startswith("debugfs 1.")]
    if complaints:
        raise SystemExit(f"debugfs: {complaints[0]}")
