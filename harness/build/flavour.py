"""A system other than the reference one, to be put into the same disk and the same live ISO: an ostree commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Flavour:
    """A commit in a repository of this host; `ref` is what the system is updated by, `version` what it is called."""

    repo: Path
    commit: str
    ref: str
    version: str

    def settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of a definition for this commit."""
        return {**settings, "ref": self.ref, "version": self.version}


def system_of(flavour: Flavour | None, definition: Path, rootfs: Path, initramfs: Path) -> dict[str, str]:
    """Where lay_sysroot finds what is deployed."""
    system = {"rootfs": str(rootfs), "overlay": str(definition / "overlay"), "initramfs": str(initramfs)}
    return system | ({"repo": str(flavour.repo), "commit": flavour.commit} if flavour else {})
