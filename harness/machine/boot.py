"""What is booted: an image, the config it gets, on which machine, accelerated how."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.machine.accel import Accel
from harness.machine.hardware.firmware import firmware_files, has_variables
from harness.machine.hardware.spec import MachineSpec
from harness.machine.qemu.command_line import version_of
from harness.machine.qemu.swtpm import swtpm_version

BOOT_TIME = {"kvm": 180.0, "tcg": 600.0}  # seconds a cold boot may take once it is its turn, until systemd is done
RESTORE_TIME = 120.0


@dataclass(frozen=True, slots=True)
class Boot:
    """A first boot. The image file is never written.

    `ignition` is the user's config, delivered by fw_cfg with our access added; empty means no config but ours. None
    delivers nothing at all: then nobody gets in but by the console. `digest` is the image file's SHA-256 or another
    name of its content, computed where it is not given. With `embeds` the config is not delivered by the machine: it is
    put where a live system looks, into the room that the ISO has for it or behind the kernel's initrds.
    """

    image: Path
    ignition: bytes | None
    spec: MachineSpec
    accel: Accel
    digest: str = ""
    embeds: bool = False

    def key(self) -> dict[str, Any]:
        """Everything that decides what the guest will be like, as JSON-able values. Raises MissingTool, ToolFailed."""
        embeds = {"embeds": True} if self.embeds else {}
        return embeds | {
            "image": self.digest or _sha256(self.image),
            "ignition": None if self.ignition is None else hashlib.sha256(self.ignition).hexdigest(),
            "spec": self.spec.key(),
            "accel": self.accel.name,
            "qemu": version_of(self.spec.arch),
            "firmware": _firmware(self.spec),
            "swtpm": swtpm_version() if self.spec.tpm else "",
        }


def _firmware(spec: MachineSpec) -> list[str]:
    """SHA-256 of its code and of the variables a machine starts with."""
    if not has_variables(spec.firmware):
        return []
    files = firmware_files(spec.arch, spec.firmware)
    return [_sha256(files.code), _sha256(files.variables)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
