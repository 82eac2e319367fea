"""QEMU's command line, made from a spec: one q35 machine, everything it talks to on descriptors we pass it.

Consoles, QMP and the channel are connected sockets (`-chardev socket,fd=N`), so there are no socket paths to clash, no
ports to guess and nothing left over. The guest's ssh port is forwarded from a port the kernel chooses; ask QMP for it.
Disk layers are spelled out one by one, so the backing file an image names is never opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import BadInput, MissingTool, UnsupportedImage
from harness.machine.hardware.spec import MachineSpec
from harness.tools import run

PROGRAMS = {"x86_64": "qemu-system-x86_64"}
CHANNEL_PORT = "org.image-harness.channel"  # in the guest: /dev/virtio-ports/<this>
AGENT_PORT = "org.qemu.guest_agent.0"  # where qemu-ga looks when nobody tells it otherwise
JOURNAL_PORT = "com.coreos.ignition.journal"  # where a CoreOS initramfs writes its journal when it fails
JOURNAL_RING = "ignition-journal"  # the character device behind it; read it by QMP
JOURNAL_SIZE = 16 * 2**20  # bytes, a power of two; QEMU keeps the newest and takes memory as it is filled
IGNITION_KEY = "opt/com.coreos/config"  # where Ignition's qemu platform looks (x86_64, aarch64)
OVMF_CODE = (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"))
OVMF_VARS = (Path("/usr/share/OVMF/OVMF_VARS_4M.fd"), Path("/usr/share/edk2/ovmf/OVMF_VARS.fd"))
# x86-64-v2, what RHEL 9 asks for. TCG's `max` adds AVX2, nested virtualisation and five-level paging, all of which the
# guest's kernel and libc then use and TCG emulates slowly: a boot costs 82 s of CPU instead of 58.
CPUS = {"kvm": "host", "tcg": "Nehalem"}
QCOW2_MAGIC = b"QFI\xfb"
QCOW2_EXTERNAL_DATA = 1 << 2  # incompatible feature bit: the data is in another file

ImageFormat = Literal["raw", "qcow2"]
Ends = tuple[int, int, int, int]  # QEMU's ends of console, QMP, channel and guest agent


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a disk."""

    path: Path
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class Memory:
    """Guest memory in a file: shared with it (writes go to the file) or a private copy on write."""

    path: Path
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one machine is connected to. Descriptors are QEMU's ends of socket pairs; `disk` is top layer first."""

    console: int
    qmp: int
    channel: int
    agent: int
    disk: Sequence[Layer]
    ignition: Path | None = None
    memory: Memory | None = None
    variables: Path | None = None  # UEFI variable store, this machine's own copy
    is_incoming: bool = False

    @property
    def descriptors(self) -> Ends:
        return (self.console, self.qmp, self.channel, self.agent)


def layer_of(path: Path) -> Layer:
    """An image file as the bottom layer of a disk. Raises BadInput or UnsupportedImage."""
    try:
        with path.open("rb") as image:
            head = image.read(104)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path), next_step="give an image file") from cause
    if not head:
        raise BadInput("is empty", where=str(path), next_step="give an image file")
    if not head.startswith(QCOW2_MAGIC):
        return Layer(path.absolute(), "raw")
    version, features = int.from_bytes(head[4:8], "big"), int.from_bytes(head[72:80], "big")
    if version >= 3 and features & QCOW2_EXTERNAL_DATA:  # qcow2 version 3 brought feature bits
        raise UnsupportedImage("keeps its data in another file", where=str(path), next_step="convert it with qemu-img")
    return Layer(path.absolute(), "qcow2")


def version_of(arch: str = "x86_64") -> str:
    """The version line of the QEMU that machines of `arch` run on. Raises MissingTool, ToolFailed."""
    return run([PROGRAMS[arch], "--version"], timeout=30).decode(errors="replace").splitlines()[0].strip()


def firmware_files() -> tuple[Path, Path]:
    """OVMF's code and the template of its variable store. Raises MissingTool."""
    for code, variables in zip(OVMF_CODE, OVMF_VARS, strict=True):
        if code.exists() and variables.exists():
            return code, variables
    raise MissingTool("UEFI firmware is not installed", next_step="install ovmf (apt) or edk2-ovmf (dnf)")


def command_line(spec: MachineSpec, accel: Literal["kvm", "tcg"], wiring: Wiring) -> list[str]:
    """The whole argument list, program first."""
    machine = "q35,graphics=off,memory-backend=ram"
    argv = [PROGRAMS[spec.arch], "-nodefaults", "-no-user-config", "-display", "none", "-boot", "strict=on"]
    argv += ["-accel", "tcg,thread=multi" if accel == "tcg" else "kvm", "-cpu", CPUS[accel]]
    argv += ["-smp", f"cpus={spec.cpus},sockets=1,cores={spec.cpus},threads=1", "-m", f"{spec.memory}M"]
    argv += ["-object", _memory(spec, wiring.memory)]
    argv += ["-rtc", "base=utc,clock=host"]
    if spec.firmware == "uefi":
        machine += ",pflash0=code,pflash1=variables"
        argv += _pflash(wiring)
    argv += ["-machine", machine]
    argv += _disk(wiring.disk)
    argv += _sockets(wiring)
    argv += ["-netdev", "user,id=net0,hostfwd=tcp:127.0.0.1:0-:22"]
    argv += ["-device", "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56"]
    argv += ["-object", "rng-random,id=entropy,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=entropy"]
    argv += ["-device", "vmgenid,guid=auto"]
    if wiring.ignition is not None:
        argv += ["-fw_cfg", f"name={IGNITION_KEY},file={_escaped(wiring.ignition)}"]
    if wiring.is_incoming:
        argv += ["-incoming", "defer"]
    return argv


def _escaped(path: Path) -> str:
    """A path inside a comma-separated option."""
    return str(path).replace(",", ",,")


def _memory(spec: MachineSpec, memory: Memory | None) -> str:
    if memory is None:
        return f"memory-backend-ram,id=ram,size={spec.memory}M"
    share = "on" if memory.is_shared else "off"
    return f"memory-backend-file,id=ram,size={spec.memory}M,mem-path={_escaped(memory.path)},share={share}"


def _blockdev(**options: Any) -> list[str]:
    return ["-blockdev", json.dumps(options)]


def _pflash(wiring: Wiring) -> list[str]:
    code, _ = firmware_files()
    if wiring.variables is None:
        raise BadInput("a UEFI machine needs a variable store of its own")
    read_only = {"driver": "raw", "node-name": "code", "read-only": True}
    writable = {"driver": "raw", "node-name": "variables"}
    return [
        *_blockdev(**read_only, file={"driver": "file", "filename": str(code)}),
        *_blockdev(**writable, file={"driver": "file", "filename": str(wiring.variables)}),
    ]


def _disk(layers: Sequence[Layer]) -> list[str]:
    """Node graph from the bottom up; only the top layer is opened for writing, and never flushed to the platter."""
    argv: list[str] = []
    below: str | None = None
    for number, layer in enumerate(reversed(layers)):
        is_top = number == len(layers) - 1
        cache = {"direct": False, "no-flush": True}
        options: dict[str, Any] = {
            "driver": layer.format,
            "node-name": f"disk{number}",
            "read-only": not is_top,
            "cache": cache,
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(layer.path), "cache": cache, "discard": "unmap"},
        }
        if layer.format == "qcow2":
            options["backing"] = below
        argv += _blockdev(**options)
        below = f"disk{number}"
    return [*argv, "-device", f"virtio-blk-pci,drive={below},bootindex=1,serial=primary-disk"]


def _sockets(wiring: Wiring) -> list[str]:
    return [
        *("-chardev", f"socket,id=console,fd={wiring.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={wiring.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=channel,fd={wiring.channel}"),
        *("-device", f"virtserialport,chardev=channel,name={CHANNEL_PORT}"),
        *("-chardev", f"socket,id=agent,fd={wiring.agent}"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-chardev", f"ringbuf,id={JOURNAL_RING},size={JOURNAL_SIZE}"),
        *("-device", f"virtserialport,chardev={JOURNAL_RING},name={JOURNAL_PORT}"),
    ]
