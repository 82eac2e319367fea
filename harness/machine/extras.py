"""What a machine has besides its boot disk, as files: the empty disks and fw_cfg items of its spec.

A booted machine's disks are sparse raw files in its scratch folder. A snapshot keeps them, and each restored machine
writes to an overlay of its own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.machine.hardware.spec import MachineSpec
from harness.machine.qemu.layers import Layer
from harness.tools import run

DISKS = "disk-*.raw"
DISK, OVERLAY = "disk-{}.raw", "disk-{}.qcow2"  # by number, from 1


@dataclass(frozen=True, slots=True)
class Extras:
    """For `Wiring`: the layers of each disk, top layer first, and names and files of fw_cfg."""

    disks: tuple[tuple[Layer, ...], ...]
    fw_cfg: tuple[tuple[str, Path], ...]


def new_extras(spec: MachineSpec, scratch: Path) -> Extras:
    """Empty disks, in files of `scratch` that take no room until the guest writes."""
    layers = []
    for number, disk in enumerate(spec.disks, 1):
        layer = Layer(scratch / DISK.format(number), "raw")
        with layer.path.open("wb") as file:
            file.truncate(disk.size)
        layers.append((layer,))
    return Extras(tuple(layers), _fw_cfg(spec, scratch))


def hand_over_disks(scratch: Path, folder: Path) -> None:
    """Move the disks of a machine that has ended to the folder of its snapshot."""
    for disk in scratch.glob(DISKS):
        disk.rename(folder / disk.name)


def prepare_overlays(spec: MachineSpec, folder: Path) -> None:
    """Make the empty overlays of a snapshot's disks, to be copied for each machine. Raises ToolFailed."""
    for number, disk in enumerate(spec.disks, 1):
        overlay = folder / OVERLAY.format(number)
        run(["qemu-img", "create", "-q", "-f", "qcow2", overlay, str(disk.size)], timeout=60)


def restored_extras(spec: MachineSpec, folder: Path, scratch: Path) -> Extras:
    """The disks as a snapshot has them, each below an overlay in `scratch`."""
    layers = []
    for number in range(1, len(spec.disks) + 1):
        overlay = OVERLAY.format(number)
        shutil.copyfile(folder / overlay, scratch / overlay)
        layers.append((Layer(scratch / overlay, "qcow2"), Layer(folder / DISK.format(number), "raw")))
    return Extras(tuple(layers), _fw_cfg(spec, scratch))


def _fw_cfg(spec: MachineSpec, scratch: Path) -> tuple[tuple[str, Path], ...]:
    items = []
    for number, item in enumerate(spec.fw_cfg):
        file = scratch / f"fw_cfg-{number}"
        file.write_bytes(item.content)
        items.append((item.name, file))
    return tuple(items)
