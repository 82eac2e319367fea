"""What a machine is made of, apart from its disk: a value that can be compared, stored and made part of a key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.errors import BadInput
from harness.machine.hardware.firmware import FIRMWARES, Firmware
from harness.machine.hardware.tpm import TPM_DEVICES

Arch = Literal["x86_64"]

ARCHES: tuple[Arch, ...] = ("x86_64",)
LEAST_MEMORY = 128  # MiB; GRUB and a CoreOS initramfs do not fit in less
MOST_CPUS = 255  # what q35 takes without x2APIC


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """Memory in MiB, virtual CPUs, firmware, architecture, and whether there is a TPM.

    >>> MachineSpec(memory=2048).describe()
    'x86_64 bios, 2 cpus, 2048 MiB'
    """

    memory: int = 1024
    cpus: int = 2
    firmware: Firmware = "bios"
    arch: Arch = "x86_64"
    tpm: bool = False  # a TPM 2.0, emulated by swtpm

    def __post_init__(self) -> None:
        """Raise BadInput for a machine that QEMU would refuse or that cannot boot an image of ours."""
        if self.memory < LEAST_MEMORY:
            raise BadInput(f"memory of {self.memory} MiB is too small", next_step=f"give at least {LEAST_MEMORY}")
        if not 1 <= self.cpus <= MOST_CPUS:
            raise BadInput(f"{self.cpus} cpus cannot be had", next_step=f"choose 1 to {MOST_CPUS}")
        if self.firmware not in FIRMWARES:
            raise BadInput(f"unknown firmware {self.firmware!r}", next_step=f"choose one of {', '.join(FIRMWARES)}")
        if self.arch not in ARCHES:
            raise BadInput(f"unknown architecture {self.arch!r}", next_step=f"choose one of {', '.join(ARCHES)}")
        if self.tpm and self.arch not in TPM_DEVICES:
            raise BadInput(f"{self.arch} has no TPM", next_step=f"these have: {', '.join(TPM_DEVICES)}")

    def key(self) -> dict[str, Any]:
        """The spec as JSON-able values, for content keys and reports."""
        return asdict(self)

    def describe(self) -> str:
        """One phrase for header lines and reports."""
        tpm = ", tpm" if self.tpm else ""
        return f"{self.arch} {self.firmware}, {self.cpus} cpus, {self.memory} MiB{tpm}"
