"""What this machine can do: every host program with its version, the accelerator as tried, firmware, room to work.

`examine` returns plain values; `render` shows them on a terminal.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.errors import HarnessError
from harness.machine import accel
from harness.machine.hardware.firmware import installed_firmware
from harness.report.svg import size_text
from harness.store import Store
from harness.tools import Tool, known_tools

OPTIONAL = frozenset(  # only tests use them, and say so when they skip
    {
        "chromium",
        "mkfs.xfs",
        "ignition-validate",
        "xorriso",
        "/usr/lib/ISOLINUX/isohdpfx.bin",
        "/usr/lib/shim/shimx64.efi.signed",
        "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed",
        "rpm",
        "rpmbuild",
        "docker-registry",
    }
)
# How a program is asked for its version, where that is not --version; None where it has no way to tell.
QUESTIONS: dict[str, list[str] | None] = {
    "mke2fs": ["-V"],
    "debugfs": ["-V"],
    "e2fsck": ["-V"],
    "mkfs.xfs": ["-V"],
    "ssh": ["-V"],
    "ssh-keygen": None,
    "mkfs.vfat": [],
}
VERSION = re.compile(r"\d+\.\d[\w.+~:-]*")
PATIENCE = 15  # seconds
LITTLE_DISK = 8 * 2**30  # bytes: packages, stages and two copies of the reference image
LITTLE_MEMORY = 3 * 2**30  # bytes: one guest of 2 GiB and ourselves
KERNELS = ("initramfs/*/vmlinuz",)  # in the store, from the reference image
HOST_KERNELS = ("boot/vmlinuz-*", "lib/modules/*/vmlinuz")


@dataclass(frozen=True, slots=True)
class ToolState:
    """One host program or file; `version` is empty when it is missing."""

    name: str
    version: str
    needed_for: str
    apt: str
    dnf: str
    is_required: bool

    @property
    def is_missing(self) -> bool:
        return not self.version


@dataclass(frozen=True, slots=True)
class Health:
    """Everything the doctor looks at. Sizes are bytes; `accelerator` is empty where it could not be chosen."""

    tools: tuple[ToolState, ...]
    accelerator: str
    accelerator_reason: str
    firmware: tuple[str, ...]
    store: str
    free_disk: int
    memory: int
    free_memory: int
    cpus: int

    @property
    def complaints(self) -> tuple[str, ...]:
        """What keeps the harness from working here, a line each; empty on a good machine."""
        return tuple(_complaints(self))


def examine(store: Store, override: str | None = None) -> Health:
    """Look at this machine. The accelerator is tried with a kernel where one is at hand."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        tools = tuple(pool.map(_state, known_tools().values()))
    chosen, reason = _accelerator(store, override)
    total, free = _memory()
    return Health(
        tools=tools,
        accelerator=chosen,
        accelerator_reason=reason,
        firmware=tuple(str(path) for path in installed_firmware()),
        store=str(store.root),
        free_disk=shutil.disk_usage(store.root).free,
        memory=total,
        free_memory=free,
        cpus=len(os.sched_getaffinity(0)),
    )


def as_document(health: Health) -> dict[str, Any]:
    """The examination for `--json`."""
    return {"schema": 1, "healthy": not health.complaints, "complaints": list(health.complaints), **asdict(health)}


def render(health: Health, console: Console) -> None:
    """Show it."""
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("tool", no_wrap=True)
    table.add_column("version", overflow="fold")
    table.add_column("needed for", overflow="fold")
    for tool in health.tools:
        colour = ("red" if tool.is_required else "yellow") if tool.is_missing else "green"
        version = f"missing: install {tool.apt} (apt) or {tool.dnf} (dnf)" if tool.is_missing else tool.version
        table.add_row(escape(tool.name), f"[{colour}]{escape(version)}[/]", f"[dim]{escape(tool.needed_for)}[/]")
    console.print(table)
    console.print()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_row("accelerator", f"[bold]{health.accelerator or 'none'}[/]  {escape(health.accelerator_reason)}")
    facts.add_row("UEFI firmware", escape(", ".join(health.firmware)) or "[red]none[/]")
    facts.add_row("store", f"{escape(health.store)}, {size_text(health.free_disk)} free")
    facts.add_row("memory", f"{size_text(health.free_memory)} free of {size_text(health.memory)}")
    facts.add_row("CPUs", str(health.cpus))
    console.print(facts)
    console.print()
    for complaint in health.complaints:
        console.print(f"[red]![/] {escape(complaint)}")
    if not health.complaints:
        console.print("[green]This machine can build, inspect and boot images.[/]")


def _complaints(health: Health) -> Iterator[str]:
    if lost := [tool for tool in health.tools if tool.is_missing and tool.is_required]:
        names = ", ".join(tool.name for tool in lost)
        yield f"missing: {names}; without them no {'; no '.join(dict.fromkeys(tool.needed_for for tool in lost))}"
        yield "run ./setup to install what is missing"
    if not health.accelerator:
        yield f"no accelerator: {health.accelerator_reason}"
    if not health.firmware:
        yield "no UEFI firmware: images can be booted by BIOS only"
    if health.free_disk < LITTLE_DISK:
        yield f"{health.store} has {size_text(health.free_disk)} free, a build wants {size_text(LITTLE_DISK)}"
    if health.free_memory < LITTLE_MEMORY:
        yield f"{size_text(health.free_memory)} of memory free, a guest wants {size_text(LITTLE_MEMORY)}"


def _state(tool: Tool) -> ToolState:
    found = tool.find()
    version = _version(tool, found) if found else ""
    return ToolState(tool.name, version, tool.needed_for, tool.apt, tool.dnf, tool.name not in OPTIONAL)


def _version(tool: Tool, found: Path) -> str:
    question = QUESTIONS.get(tool.name, ["--version"])
    if tool.name.startswith("/") or question is None:
        return "present"
    try:
        done = subprocess.run(
            [found, *question],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except (OSError, subprocess.TimeoutExpired) as trouble:
        return f"present, but did not tell its version ({type(trouble).__name__})"
    match = VERSION.search((done.stdout + done.stderr).decode(errors="replace"))
    return match[0] if match else "present"


def _accelerator(store: Store, override: str | None) -> tuple[str, str]:
    kernel = _kernel(store)
    try:
        chosen = accel.choose(store, kernel=kernel, override=override)
    except HarnessError as trouble:
        return "", str(trouble)
    if kernel is None and chosen.name == "tcg" and override is None and accel.KVM_DEVICE.exists():
        return chosen.name, f"{chosen.reason} (KVM not tried yet: `harness build reference` brings a guest kernel)"
    return chosen.name, chosen.reason


def _kernel(store: Store) -> Path | None:
    """A guest kernel at hand: of the reference image, else of the host."""
    ours = [path for pattern in KERNELS for path in store.root.glob(pattern)]
    hosts = [path for pattern in HOST_KERNELS for path in Path("/").glob(pattern)]
    return next((path for path in (*ours, *sorted(hosts, reverse=True)) if os.access(path, os.R_OK)), None)


def _memory() -> tuple[int, int]:
    """Total and available, in bytes (proc(5))."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    sizes = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}
    return sizes["MemTotal"], sizes["MemAvailable"]
