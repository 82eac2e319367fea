"""What a machine is made of, apart from its image: a value that can be compared, stored and made part of a key.

In words, as `--machine` takes them, separated by commas:

    bios, uefi                         firmware
    memory=2048, cpus=4, arch=x86_64   MiB, or with a unit as in memory=2G
    nvme, scsi, virtio, cd, 4k, 512e, mpath, serial=TEXT, wwn=NUMBER    how the boot disk is attached
    disk=5G                            an empty disk besides; repeatable, and what is said of disks after it is about it
    disk=@FILE                         the same, and what a raw or qcow2 file holds is on it; the file is never written
    nics=2                             network cards; with 0 there is no ssh either, only the channel
    forward=80                         a port of 127.0.0.1 that leads to this TCP port of the guest; repeatable
    fw_cfg=opt/org.example/name:text   for the guest to read below /sys/firmware/qemu_fw_cfg; `:@FILE` takes a file's
                                       content

So `uefi,nvme,disk=5G:mpath,disk=1G,4k,nics=2` boots from NVMe by UEFI, with a second disk of two paths, a third one of
4 KiB sectors (`disk=1G:4k` is the same), and two network cards.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.machine.hardware.arches import ARCHES, Arch, Architecture
from harness.machine.hardware.disks import UNITS, Disk, bytes_of, disk_of, option_of
from harness.machine.hardware.firmware import FIRMWARES, Firmware
from harness.machine.hardware.tpm import TPM_DEVICES

LEAST_MEMORY, MOST_MEMORY = 128, 2**22  # MiB; GRUB and a CoreOS initramfs do not fit in less, QEMU's q35 ends above
MOST_CPUS = 255  # what q35 takes without x2APIC
MOST_DISKS = 16  # each may take one of the 32 slots of the machine's bus
MOST_NICS = 8
MOST_FW_CFG = 1 << 20  # bytes of one item: it is carried in the spec
SSH_PORT = 22
VIRTIO = Disk()
IGNITION_KEY = "opt/com.coreos/config"  # where Ignition's qemu platform looks (x86_64, aarch64)
FW_CFG_NAME = re.compile(r"opt/[A-Za-z0-9._/-]{1,51}")  # QEMU keeps 55 characters, and "opt/" for users
COUNT = re.compile(r"[0-9]{1,7}")


@dataclass(frozen=True, slots=True)
class FwCfg:
    """A file that the guest finds below /sys/firmware/qemu_fw_cfg/by_name."""

    name: str
    content: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Raise BadInput for what QEMU would not take, or would take from us."""
        if not FW_CFG_NAME.fullmatch(self.name) or self.name == IGNITION_KEY:
            next_step = "opt/ and up to 51 letters, digits, '.', '_', '/' or '-'; Ignition's own is taken"
            raise BadInput(f"cannot be a fw_cfg name: {self.name[:80]!r}", next_step=next_step)
        if not 1 <= len(self.content) <= MOST_FW_CFG:
            raise BadInput(f"fw_cfg {self.name} has {len(self.content)} bytes", next_step=f"give 1 to {MOST_FW_CFG}")

    @classmethod
    def parse(cls, text: str) -> FwCfg:
        """`NAME:TEXT` or `NAME:@FILE`. Raises BadInput."""
        name, _, content = text.partition(":")
        if not content.startswith("@"):
            return cls(name, content.encode())
        try:
            with Path(content[1:]).open("rb") as file:
                return cls(name, file.read(MOST_FW_CFG + 1))
        except (OSError, ValueError) as cause:
            why = getattr(cause, "strerror", None) or str(cause)
            where = repr(content[1:201])  # it may hold line ends
            raise BadInput(f"cannot be read: {why}", where=where, next_step="give fw_cfg a file") from cause


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel that QEMU puts into memory, as a PXE server would: with its initrds, one behind the other."""

    linux: Path = field(compare=False)
    initrds: tuple[Path, ...] = field(compare=False)
    arguments: str
    digest: str  # of all these files


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Memory in MiB, virtual CPUs, firmware, architecture, disks, network cards and what leads into the guest.

    >>> MachineSpec(memory=2048).describe()
    'x86_64 bios, 2 cpus, 2048 MiB'
    >>> MachineSpec.parse("uefi,nvme,disk=5G:mpath").describe()
    'x86_64 uefi, 2 cpus, 1024 MiB, boots from nvme disk, 5G scsi disk with two paths'
    """

    memory: int = 1024
    cpus: int = 2
    firmware: Firmware = "bios"
    arch: Arch = "x86_64"
    primary: Disk = VIRTIO  # how the boot disk is attached
    disks: tuple[Disk, ...] = ()  # empty ones besides
    nics: int = 1
    forwards: tuple[int, ...] = ()  # the guest's TCP ports, besides ssh, that a port of the host leads to
    fw_cfg: tuple[FwCfg, ...] = ()
    tpm: bool = False  # a TPM 2.0, emulated by swtpm
    kernel: Kernel | None = None  # booted instead of what is on the boot disk, as PXE does

    def __post_init__(self) -> None:
        """Raise BadInput for a machine that QEMU would refuse or that cannot boot an image of ours."""
        if not LEAST_MEMORY <= self.memory <= MOST_MEMORY:
            how = "small" if self.memory < LEAST_MEMORY else "large"
            next_step = f"give {LEAST_MEMORY} to {MOST_MEMORY}"
            raise BadInput(f"memory of {self.memory} MiB is too {how}", next_step=next_step)
        if not 1 <= self.cpus <= MOST_CPUS:
            raise BadInput(f"{self.cpus} cpus cannot be had", next_step=f"choose 1 to {MOST_CPUS}")
        if self.firmware not in FIRMWARES:
            raise BadInput(f"unknown firmware {self.firmware!r}", next_step=f"choose one of {', '.join(FIRMWARES)}")
        if self.arch not in ARCHES:
            raise BadInput(f"unknown architecture {self.arch!r}", next_step=f"choose one of {', '.join(ARCHES)}")
        if self.firmware not in self.architecture.firmwares:
            next_step = f"choose one of {', '.join(self.architecture.firmwares)}"
            raise BadInput(f"{self.arch} has no firmware {self.firmware!r}", next_step=next_step)
        if self.tpm and self.arch not in TPM_DEVICES:
            raise BadInput(f"{self.arch} has no TPM", next_step=f"these have: {', '.join(TPM_DEVICES)}")
        self._check_disks()
        self._check_network()
        if len({item.name for item in self.fw_cfg}) < len(self.fw_cfg):
            raise BadInput("two fw_cfg items have the same name")

    @classmethod
    def parse(cls, text: str) -> MachineSpec:
        """A machine in the words above. Raises BadInput."""
        told: dict[str, Any] = {}
        forwards: list[int] = []
        fw_cfg: list[FwCfg] = []
        disks: list[tuple[str, list[str]]] = [("", [])]  # content and options; the boot disk is the first
        for word in text.split(","):
            name, _, value = word.partition("=")
            if name == "disk":
                content, colon, option = value.partition(":")
                disks.append((content or "nothing", [option] if colon else []))
            elif name == "forward":
                forwards.append(_count(name, value))
            elif name == "fw_cfg":
                fw_cfg.append(FwCfg.parse(value))
            elif option_of(word) is not None:
                disks[-1][1].append(word)
            else:
                known, found = _told(word)
                if known in told:
                    raise BadInput(f"machine word {word[:40]!r} repeats or contradicts another")
                told[known] = found
        if (arch := ARCHES.get(told.get("arch", ""))) is not None:
            told.setdefault("firmware", arch.firmwares[0])
        primary, *others = (disk_of(options, content) for content, options in disks)
        return cls(**told, primary=primary, disks=(*others,), forwards=(*forwards,), fw_cfg=(*fw_cfg,))

    @property
    def architecture(self) -> Architecture:
        """What QEMU and CoreOS call things there."""
        return ARCHES[self.arch]

    @property
    def every_disk(self) -> tuple[Disk, ...]:
        """The boot disk and the others."""
        return (self.primary, *self.disks)

    def key(self) -> dict[str, Any]:
        """The spec as JSON-able values, for content keys and reports."""
        fw_cfg = {item.name: hashlib.sha256(item.content).hexdigest() for item in self.fw_cfg}
        key = asdict(self) | {"fw_cfg": fw_cfg}
        for disk in (key["primary"], *key["disks"]):
            del disk["file"]  # known by its digest
        if key.pop("kernel") and self.kernel:
            key["kernel"] = [self.kernel.digest, self.kernel.arguments]
        return key

    def describe(self) -> str:
        """One phrase for header lines and reports; what is usual is left out."""
        words = [f"{self.arch} {self.firmware}", f"{self.cpus} cpus", f"{self.memory} MiB"]
        words += [name for name in FLAGS if getattr(self, name)]
        words += [f"boots from {self.primary.describe()}"] if self.primary != VIRTIO else []
        words += ["boots a kernel of its own"] if self.kernel else []
        words += [disk.describe() for disk in self.disks]
        words += [f"{self.nics} network cards" if self.nics else "no network card"] if self.nics != 1 else []
        words += [f"port {port} forwarded" for port in self.forwards]
        words += [f"fw_cfg {item.name}" for item in self.fw_cfg]
        return ", ".join(words)

    def _check_disks(self) -> None:
        if self.primary.size:
            raise BadInput("the boot disk has the size of its image", next_step="name a size for disk=SIZE only")
        if any(not disk.size for disk in self.disks):
            raise BadInput("a disk besides the boot disk needs a size", next_step="give one, as in disk=5G")
        if len(self.disks) > MOST_DISKS:
            raise BadInput(f"{len(self.disks)} disks are too many", next_step=f"give up to {MOST_DISKS}")
        buses = self.architecture.buses
        if unfit := [disk.bus for disk in self.every_disk if disk.bus not in buses]:
            raise BadInput(
                f"{self.arch} has no disks on {unfit[0]} here", next_step=f"choose one of {', '.join(buses)}"
            )
        if self.firmware == "bios" and self.arch == "x86_64" and self.primary.sectors == "4k":
            raise BadInput("SeaBIOS cannot boot from sectors of 4 KiB", next_step="choose uefi")

    def _check_network(self) -> None:
        if not 0 <= self.nics <= MOST_NICS:
            raise BadInput(f"{self.nics} network cards cannot be had", next_step=f"choose 0 to {MOST_NICS}")
        if self.forwards and not self.nics:
            raise BadInput("no port leads into a machine without a network card", next_step="choose nics=1")
        if unfit := [port for port in self.forwards if not 1 <= port <= 65535 or port == SSH_PORT]:
            next_step = "choose 1 to 65535, but not 22: ssh is forwarded anyway"
            raise BadInput(f"port {unfit[0]} of the guest cannot be forwarded", next_step=next_step)
        if len(set(self.forwards)) < len(self.forwards):
            raise BadInput("a port of the guest is forwarded twice")


FLAGS = tuple(field.name for field in fields(MachineSpec) if field.type == "bool")  # said by their name alone
COUNTED = ("memory", "cpus", "nics")


def unsaveable(spec: MachineSpec) -> str:
    """Why QEMU cannot save such a machine, or ""; what cannot be saved boots anew for everyone who wants it fresh."""
    if any(disk.bus == "nvme" for disk in spec.every_disk):
        return "QEMU cannot save NVMe disks"  # 7.2: "State blocked by non-migratable device '.../nvme'"
    if spec.kernel:
        return "a machine that was handed its kernel has not been tried to be restored"
    if not spec.architecture.is_tried:
        return f"restoring {spec.arch} has never been tried"
    return ""


def _told(word: str) -> tuple[str, Any]:
    """The field and value that a word stands for which is about the machine as a whole."""
    name, equals, value = word.partition("=")
    if not equals and word in FIRMWARES:
        return "firmware", word
    if not equals and word in FLAGS:
        return word, True
    if equals and name == "arch":
        return name, value
    if equals and name in COUNTED:
        return name, _mebibytes(value) if name == "memory" else _count(name, value)
    raise BadInput(f"unknown machine word {word[:40]!r}", next_step=f"words are {', '.join(WORDS)}")


WORDS = (*FIRMWARES, *FLAGS, "memory=MIB", "cpus=N", "arch=NAME", "nics=N", "nvme", "scsi", "virtio", "cd", "4k",
         "512e", "mpath", "serial=TEXT", "wwn=NUMBER", "disk=SIZE:OPTIONS", "forward=PORT",
         "fw_cfg=NAME:TEXT")  # fmt: skip


def _count(name: str, text: str) -> int:
    if not COUNT.fullmatch(text):
        raise BadInput(f"{name} takes a number, not {text[:40]!r}")
    return int(text)


def _mebibytes(text: str) -> int:
    """MiB from `2048` or `2G`."""
    return bytes_of(text) // UNITS["M"] if text[-1:] in UNITS else _count("memory", text)
