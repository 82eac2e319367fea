"""What a machine has besides its boot disk, as files: the other disks and fw_cfg items of its spec.

A booted machine's empty disks are sparse raw files in its scratch folder, and over one that was there before lies an
overlay. A snapshot keeps both, and each restored machine writes to an overlay of its own.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from harness.machine.hardware.disks import Disk
from harness.machine.hardware.spec import MachineSpec
from harness.machine.qemu.layers import Layer, layer_of
from harness.tools import run

EMPTY, OVER_FILE, OVERLAY = "disk-{}.raw", "disk-{}.first.qcow2", "disk-{}.qcow2"  # by number, from 1


@dataclass(frozen=True, slots=True)
class Extras:
    """For `Wiring`: the layers of each disk, top layer first, and names and files of fw_cfg."""

    disks: tuple[tuple[Layer, ...], ...]
    fw_cfg: tuple[tuple[str, Path], ...]


def new_extras(spec: MachineSpec, scratch: Path) -> Extras:
    """Disks as the spec has them, in files of `scratch` that take no room until the guest writes. Raises BadInput."""
    layers = []
    for number, disk in enumerate(spec.disks, 1):
        first, *below = _first_boot(disk, number, scratch)
        if first.format == "raw":
            with first.path.open("wb") as file:
                file.truncate(disk.size)
        else:
            _create_overlay(first.path, disk.size)
        layers.append((first, *below))
    return Extras(tuple(layers), _fw_cfg(spec, scratch))


def hand_over_disks(scratch: Path, folder: Path) -> None:
    """Move the disks of a machine that has ended to the folder of its snapshot."""
    for kind in (EMPTY, OVER_FILE):
        for disk in scratch.glob(kind.format("*")):
            disk.rename(folder / disk.name)


def prepare_overlays(spec: MachineSpec, folder: Path) -> None:
    """Make the empty overlays of a snapshot's disks, to be copied for each machine. Raises ToolFailed."""
    for number, disk in enumerate(spec.disks, 1):
        _create_overlay(folder / OVERLAY.format(number), disk.size)


def restored_extras(spec: MachineSpec, folder: Path, scratch: Path) -> Extras:
    """The disks as a snapshot has them, each below an overlay in `scratch`."""
    layers = []
    for number, disk in enumerate(spec.disks, 1):
        overlay = OVERLAY.format(number)
        shutil.copyfile(folder / overlay, scratch / overlay)
        layers.append((Layer(scratch / overlay, "qcow2"), *_first_boot(disk, number, folder)))
    return Extras(tuple(layers), _fw_cfg(spec, scratch))


def _first_boot(disk: Disk, number: int, folder: Path) -> tuple[Layer, ...]:
    """What the first boot writes to, in `folder`, and what lies below; top layer first."""
    if disk.file is None:
        return (Layer(folder / EMPTY.format(number), "raw"),)
    return Layer(folder / OVER_FILE.format(number), "qcow2"), layer_of(disk.file)


def _create_overlay(path: Path, size: int) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], timeout=60)


def _fw_cfg(spec: MachineSpec, scratch: Path) -> tuple[tuple[str, Path], ...]:
    items = []
    for number, item in enumerate(spec.fw_cfg):
        file = scratch / f"fw_cfg-{number}"
        file.write_bytes(item.content)
        items.append((item.name, file))
    return tuple(items)
