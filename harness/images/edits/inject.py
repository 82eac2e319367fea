"""Files and an Ignition config put into the boot filesystem of a new image; the old image never changes.

CoreOS copies `/boot/ignition/config.ign` in its initramfs when a machine has no other way to be given a config
(facts: fedora-coreos-config's 35coreos-ignition; fast-vm's images are made this way).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput, UnsupportedImage
from harness.ignition.delivery import INJECTION_PATH
from harness.images.edits.debugfs import NewFile, write_files
from harness.images.edits.draft import Form, drafting
from harness.images.edits.stages import Progress, silent, stage
from harness.images.filesystems.files import shown
from harness.images.partitions.layout import Layout, LayoutPartition
from harness.images.system.tree import find_boot

CONFIG_MODE = 0o600  # a config may hold secrets
LARGEST_FILE = 2**30  # bytes: more than any boot filesystem has
SPECIFICATION = re.compile(r"(?P<source>.+?):(?P<path>/.*?)(?::(?P<mode>[0-7]{3,5}))?")


@dataclass(frozen=True, slots=True)
class Injected:
    """What was put where: SHA-256 by path."""

    partition: str
    digests: tuple[tuple[str, str], ...]


def inject_ignition(
    source: Path, config: bytes, target: Path, *, replace: bool = False, form: Form | None = None
) -> Injected:
    """As `inject`, with a config where first boot looks for it. The config is not judged here."""
    return inject(source, [ignition_file(config)], target, replace=replace, form=form)


def inject(
    source: Path,
    files: Sequence[NewFile],
    target: Path,
    *,
    replace: bool = False,
    form: Form | None = None,
    progress: Progress = silent,
) -> Injected:
    """Write `target`, a disk like `source` with more files in its boot filesystem (ext4).

    Raises BadInput where a file is there already (unless `replace`) or no space is left, DamagedImage where the
    filesystem cannot be written safely, ToolFailed with debugfs's words.
    """
    with drafting(source, target, form=form, progress=progress) as draft:
        boot = boot_partition(draft.layout)
        with stage(progress, "inject"):
            write_files(draft.disk, boot, files, replace=replace)
    digests = {file.path: hashlib.sha256(file.content).hexdigest() for file in files}
    return Injected(boot.label, tuple(sorted(digests.items())))


def boot_partition(layout: Layout) -> LayoutPartition:
    """The partition with the boot filesystem. Raises UnsupportedImage for a disk without one."""
    found = find_boot(layout)
    if found is None:
        labels = ", ".join(partition.title for partition in layout.partitions) or "none at all"
        raise UnsupportedImage(f"no partition is labelled 'boot'; there are: {labels}", where=layout.block.name)
    return found


def ignition_file(config: bytes) -> NewFile:
    """An Ignition config as first boot looks for it."""
    return NewFile(INJECTION_PATH, config, CONFIG_MODE)


def read_new_file(specification: str) -> NewFile:
    """A file of this host to be injected, from `SRC:DEST[:MODE]`; MODE is octal, 0644 where it is not said.

    Raises BadInput for what does not read like that, and for a source that cannot be read.
    """
    match = SPECIFICATION.fullmatch(specification)
    if match is None:
        raise BadInput(
            f"{shown(specification)!r} does not read as SRC:DEST[:MODE]",
            next_step="DEST is absolute as seen from the boot filesystem, MODE octal: motd:/etc/motd:0644",
        )
    mode = int(match["mode"], 8) if match["mode"] else None
    if mode is not None and mode > 0o7777:
        raise BadInput(f"{match['mode']} is no file mode", next_step="the largest is 7777")
    source = Path(match["source"])
    try:
        if source.stat().st_size > LARGEST_FILE:
            raise BadInput(f"is larger than {LARGEST_FILE:,} bytes", where=str(source))
        return NewFile(match["path"], source.read_bytes(), mode)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(source)) from cause
