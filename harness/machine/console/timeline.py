"""When a boot reached which stage, read from its console: the boot timeline of a report."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Milestone:
    """A stage of a boot; `regex` is searched in console lines until it is found once."""

    name: str
    regex: re.Pattern[str]


MILESTONES = (
    Milestone("firmware", re.compile(r"SeaBIOS|BdsDxe|iPXE|\S")),
    Milestone("boot loader", re.compile(r"GRUB|Booting `|Loading Linux")),
    Milestone("kernel", re.compile(r"Linux version")),
    Milestone("initramfs", re.compile(r"Running in initrd|dracut-\d|systemd\[1\]: systemd \d+ running in system mode")),
    Milestone("ignition", re.compile(r"ignition\[\d+\]|Ignition \(")),
    Milestone("ignition finished", re.compile(r"Reached target.*Ignition Complete|Ignition finished successfully")),
    Milestone("real root", re.compile(r"Switching root|Starting.*(?:initrd-switch-root|Switch Root)")),
    Milestone("login prompt", re.compile(r"login:\s*$")),
)


class Timeline:
    """Stages and their times in seconds since QEMU was started; each is kept the first time only."""

    def __init__(self) -> None:
        self.events: dict[str, float] = {}
        self._awaited = list(MILESTONES)

    def mark(self, name: str, seconds: float) -> None:
        self.events.setdefault(name, round(seconds, 3))

    def feed(self, lines: Sequence[str], seconds: float) -> None:
        """Look for stages not reached yet in console lines that arrived at `seconds`."""
        for milestone in tuple(self._awaited):
            if any(milestone.regex.search(line) for line in lines):
                self.mark(milestone.name, seconds)
                self._awaited.remove(milestone)

    def look_no_more(self) -> None:
        """Keep to what is marked: the guest was not booted, so its console shows no stages."""
        self._awaited.clear()

    def restart(self) -> None:
        """Forget what a reboot will show again."""
        self.events.clear()
        self._awaited = list(MILESTONES)

    def write(self, target: Path) -> None:
        """A JSON list of `{"name", "seconds"}` in order of time."""
        rows = [{"name": name, "seconds": at} for name, at in sorted(self.events.items(), key=lambda item: item[1])]
        target.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
