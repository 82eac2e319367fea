"""QEMU's command line, made from a spec: one machine, everything it talks to on descriptors we pass it.

Consoles, QMP and the channel are connected sockets (`-chardev socket,fd=N`), so there are no socket paths to clash, no
ports to guess and nothing left over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.machine.hardware.arches import ARCHES
from harness.machine.hardware.firmware import firmware_arguments, machine_options
from harness.machine.hardware.spec import IGNITION_KEY, MachineSpec
from harness.machine.hardware.tpm import tpm_arguments
from harness.machine.qemu import devices
from harness.machine.qemu.layers import Layer, blockdev
from harness.tools import run

CHANNEL_PORT = "org.image-harness.channel"  # in the guest: /dev/virtio-ports/<this>
AGENT_PORT = "org.qemu.guest_agent.0"  # where qemu-ga looks when nobody tells it otherwise
JOURNAL_PORT = "com.coreos.ignition.journal"  # where a CoreOS initramfs writes its journal when it fails
JOURNAL_RING = "ignition-journal"  # the character device behind it; read it by QMP
JOURNAL_SIZE = 16 * 2**20  # bytes, a power of two; QEMU keeps the newest and takes memory as it is filled
IGNITION_SERIAL = "ignition"  # of the disk that it looks for elsewhere (ppc64le, s390x)

Ends = tuple[int, int, int, int]  # QEMU's ends of console, QMP, channel and guest agent


@dataclass(frozen=True, slots=True)
class Memory:
    """Guest memory in a file: shared with it (writes go to the file) or a private copy on write."""

    path: Path
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one machine is connected to. Descriptors are QEMU's ends of socket pairs.

    `disk` is the boot disk, top layer first, and `disks` has the same for each of the spec's other ones.
    """

    console: int
    qmp: int
    channel: int
    agent: int
    disk: Sequence[Layer]
    ignition: Path | None = None
    memory: Memory | None = None
    variables: Path | None = None  # UEFI variable store, this machine's own copy
    tpm: int | None = None  # descriptor of swtpm's control channel
    is_incoming: bool = False
    disks: Sequence[Sequence[Layer]] = ()
    fw_cfg: Sequence[tuple[str, Path]] = ()  # names and the files that hold what they give
    initrd: Path | None = None  # all initrds of the spec's kernel in one file

    @property
    def descriptors(self) -> Ends:
        return (self.console, self.qmp, self.channel, self.agent)


def version_of(arch: str = "x86_64") -> str:
    """The version line of the QEMU that machines of `arch` run on. Raises MissingTool, ToolFailed."""
    return run([ARCHES[arch].program, "--version"], timeout=30).decode(errors="replace").splitlines()[0].strip()


def command_line(spec: MachineSpec, accel: Literal["kvm", "tcg"], wiring: Wiring) -> list[str]:
    """The whole argument list, program first."""
    arch = spec.architecture
    machine = f"{arch.machine},graphics=off,memory-backend=ram{machine_options(spec.firmware)}"
    argv = [arch.program, "-nodefaults", "-no-user-config", "-display", "none", "-boot", "strict=on"]
    argv += ["-accel", "tcg,thread=multi" if accel == "tcg" else "kvm", "-cpu", arch.cpu if accel == "tcg" else "host"]
    argv += ["-smp", f"cpus={spec.cpus},sockets=1,cores={spec.cpus},threads=1", "-m", f"{spec.memory}M"]
    argv += ["-object", _memory(spec, wiring.memory)]
    argv += ["-rtc", "base=utc,clock=host"]
    argv += firmware_arguments(spec.arch, spec.firmware, wiring.variables)
    argv += ["-machine", machine]
    argv += devices.disks(spec, (wiring.disk, *wiring.disks))
    argv += _sockets(spec, wiring)
    argv += devices.network(spec)
    argv += ["-object", "rng-random,id=entropy,filename=/dev/urandom"]
    argv += ["-device", f"virtio-rng-{arch.devices},rng=entropy"]
    if arch.has_generation_id:
        argv += ["-device", "vmgenid,guid=auto"]
    if spec.tpm:
        argv += tpm_arguments(spec.arch, wiring.tpm)
    if spec.kernel and wiring.initrd:
        kernel = spec.kernel
        argv += ["-kernel", str(kernel.linux), "-initrd", str(wiring.initrd), "-append", kernel.arguments]
    if wiring.ignition is not None:
        argv += _ignition(spec, wiring.ignition)
    for name, file in wiring.fw_cfg:
        argv += ["-fw_cfg", f"name={name},file={_escaped(file)}"]
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


def _ignition(spec: MachineSpec, config: Path) -> list[str]:
    if spec.architecture.ignition_by == "fw_cfg":
        return ["-fw_cfg", f"name={IGNITION_KEY},file={_escaped(config)}"]
    file = {"driver": "file", "filename": str(config), "read-only": True}
    node = blockdev(**{"driver": "raw", "node-name": "config", "read-only": True}, file=file)
    kind = f"virtio-blk-{spec.architecture.devices}"
    return [*node, "-device", f"{kind},drive=config,serial={IGNITION_SERIAL}"]


def _sockets(spec: MachineSpec, wiring: Wiring) -> list[str]:
    return [
        *("-chardev", f"socket,id=console,fd={wiring.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=qmp,fd={wiring.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-device", f"virtio-serial-{spec.architecture.devices},id=ports"),
        *("-chardev", f"socket,id=channel,fd={wiring.channel}"),
        *("-device", f"virtserialport,bus=ports.0,chardev=channel,name={CHANNEL_PORT}"),
        *("-chardev", f"socket,id=agent,fd={wiring.agent}"),
        *("-device", f"virtserialport,bus=ports.0,chardev=agent,name={AGENT_PORT}"),
        *("-chardev", f"ringbuf,id={JOURNAL_RING},size={JOURNAL_SIZE}"),
        *("-device", f"virtserialport,bus=ports.0,chardev={JOURNAL_RING},name={JOURNAL_PORT}"),
    ]
