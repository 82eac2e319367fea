"""Disks and network cards as QEMU's arguments."""

from __future__ import annotations

from collections.abc import Sequence

from harness.machine.hardware.disks import Disk
from harness.machine.hardware.spec import SSH_PORT, MachineSpec
from harness.machine.qemu.layers import Layer, stack

PRIMARY_SERIAL = "primary-disk"  # as kola has it: the boot disk is /dev/disk/by-id/virtio-primary-disk
LOCAL_WWN = 0x3 << 60  # NAA 3: ours to assign
MAC = 0x525400123456  # the first card's, as QEMU has it
CONTROLLER = "scsi"


def disks(spec: MachineSpec, layers: Sequence[Sequence[Layer]]) -> list[str]:
    """All disks of a machine, the boot disk first; `layers` has each one's files, top layer first."""
    argv: list[str] = []
    if any(disk.bus in {"scsi", "cd"} for disk in spec.every_disk):
        argv += ["-device", f"virtio-scsi-{spec.architecture.devices},id={CONTROLLER}"]
    for number, (disk, files) in enumerate(zip(spec.every_disk, layers, strict=True)):
        nodes, top = stack(f"disk{number}", files)
        argv += nodes
        # Two paths are two devices on one node, so that there is but one cache of what the file holds.
        for path in range(2 if disk.is_multipath else 1):
            argv += ["-device", _device(spec, disk, number, top, path)]
    return argv


def network(spec: MachineSpec) -> list[str]:
    """The cards, each on a network of its own; the first one's has the ports that lead into the guest.

    The kernel chooses the ports of the host: ask QMP for them.
    """
    kind = f"virtio-net-{spec.architecture.devices}"
    rom = ",romfile=" if spec.architecture.devices == "pci" else ""
    argv: list[str] = []
    for number in range(spec.nics):
        ports = (SSH_PORT, *spec.forwards) if number == 0 else ()
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:0-:{port}" for port in ports)
        subnet = f",net=10.0.{2 + number}.0/24" if number else ""  # QEMU's own for the first: 10.0.2.0/24
        mac = (MAC + number).to_bytes(6, "big").hex(":")
        argv += ["-netdev", f"user,id=net{number}{subnet}{forwards}"]
        argv += ["-device", f"{kind},netdev=net{number}{rom},mac={mac}"]
    return argv


def wwn_of(disk: Disk, number: int) -> int:
    """The world wide name that a disk has; 0 for none. Two paths without one are not seen as one disk."""
    return disk.wwn or (LOCAL_WWN + number if disk.is_multipath else 0)


def serial_of(disk: Disk, number: int) -> str:
    """The serial that a disk has: its own, else `primary-disk`, `disk-1`, `disk-2`, ..."""
    return disk.serial or (f"disk-{number}" if number else PRIMARY_SERIAL)


def _device(spec: MachineSpec, disk: Disk, number: int, node: str, path: int) -> str:
    devices = {
        "virtio": f"virtio-blk-{spec.architecture.devices}",
        "scsi": f"scsi-hd,bus={CONTROLLER}.0",
        "nvme": "nvme",
        "cd": f"scsi-cd,bus={CONTROLLER}.0",
    }
    options = [devices[disk.bus], f"drive={node}", f"serial={serial_of(disk, number)}"]
    if number == 0 and path == 0:
        options.append("bootindex=1")
    if disk.sectors != "512":
        logical, physical = disk.sector_sizes
        options += [f"logical_block_size={logical}", f"physical_block_size={physical}"]
    if wwn := wwn_of(disk, number):
        options.append(f"wwn={wwn:#018x}")
    if disk.is_multipath:
        options.append("share-rw=on")
    return ",".join(options)
