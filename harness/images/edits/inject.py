"""New images made from old ones: files put into the boot filesystem without mounting. The old image never changes.

debugfs writes; it exits 0 whatever happens and overwrites nothing, so everything is checked before and read back after.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import BadInput, DamagedImage, ToolFailed
from harness.ignition.delivery import INJECTION_PATH
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import Layout, LayoutPartition, read_layout
from harness.images.source import open_image
from harness.store import replacing
from harness.tools import find_tool, run

MODE = 0o100600  # a config may hold secrets
FIXED_TIME = "1"  # the same input gives the same image


def inject_ignition(source: Path, config: bytes, target: Path) -> None:
    """Write `target`, a raw disk like `source` whose boot filesystem holds the config where first boot looks for it.

    Raises BadInput where a config is there already, DamagedImage where the filesystem cannot be written safely,
    ToolFailed with debugfs's words.
    """
    inject(source, {INJECTION_PATH: config}, target)


def inject(source: Path, files: Mapping[str, bytes], target: Path) -> None:
    """Write `target`, a raw disk like `source` with new files (absolute path -> content) in its boot filesystem."""
    with open_image(source) as image, replacing(target) as aside:
        run(["qemu-img", "convert", "-f", image.container, "-O", "raw", image.plain_path, aside])
        layout = read_layout(image.block)
        boot = layout.partition("boot")
        _check_writable(layout, boot, files)
        _write(aside, boot, files)
        _check_written(aside, files)


def _check_writable(layout: Layout, boot: LayoutPartition, files: Mapping[str, bytes]) -> None:
    found = boot.filesystem
    where = f"{layout.block.name}, partition 'boot'"
    if found is None or found.type != "ext4":
        raise DamagedImage(f"holds {found.type if found else 'no filesystem'}, not ext4", where=where)
    if found.details.get("needs_recovery"):
        raise DamagedImage("has a journal to replay; a later boot could undo the change", where=where,
                           next_step="boot and shut down the image once, or run e2fsck on it")  # fmt: skip
    tree = open_files(layout.part_block("boot"))
    for path in files:
        if tree.exists(path):
            raise BadInput("is there already", where=f"{where}: {path}", next_step="start from an image without it")


def _write(disk: Path, boot: LayoutPartition, files: Mapping[str, bytes]) -> None:
    commands, content = [], []
    for number, (path, data) in enumerate(sorted(files.items())):
        parent = os.path.dirname(path)  # noqa: PTH120 - a path inside the image
        if parent != "/":
            commands.append(f"mkdir {parent}")
        staged = disk.with_name(f"{disk.name}.{number}")
        staged.write_bytes(data)
        content.append(staged)
        commands += [f'write "{staged}" {path}', f"sif {path} mode 0{MODE:o}", f"sif {path} uid 0", f"sif {path} gid 0"]
    try:
        done = subprocess.run(
            [find_tool("debugfs"), "-w", "-f", "/dev/stdin", f"{disk}?offset={boot.start}"],
            input="\n".join(commands).encode(),
            capture_output=True,
            env={**os.environ, "E2FSPROGS_FAKE_TIME": FIXED_TIME},
            check=False,
        )
    finally:
        for staged in content:
            staged.unlink(missing_ok=True)
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("debugfs ")]
    if complaints or done.returncode:
        raise ToolFailed(f"debugfs: {' | '.join(complaints)[:300]}", where=str(disk))


def _check_written(disk: Path, files: Mapping[str, bytes]) -> None:
    with open_image(disk) as image:
        tree = open_files(read_layout(image.block).part_block("boot"))
        for path, data in files.items():
            if tree.read(path) != data:
                raise DamagedImage("does not hold what was written", where=f"{disk}: {path}",
                                   next_step="is the boot filesystem full?")  # fmt: skip
