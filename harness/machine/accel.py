"""Which accelerator to use, found out by trying: /dev/kvm may exist, open, and still run no kernel.

KVM counts only if a guest kernel prints its first line within seconds. The answer is remembered in the store for this
boot of this host, this QEMU and this kernel.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from harness.deadline import Deadline
from harness.errors import BadInput, DeadlinePassed, HarnessError, MachineFailed
from harness.machine.console.console import Console
from harness.machine.hardware.arches import ARCHES, is_foreign
from harness.machine.hardware.spec import MachineSpec
from harness.machine.qemu.command_line import version_of
from harness.machine.qemu.process import Process
from harness.store import Store, content_key

KVM_DEVICE = Path("/dev/kvm")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TRIAL_TIME = 6.0  # seconds; real KVM prints "Linux version" within one
TRIAL_MEMORY = 512  # MiB, enough to unpack any distribution kernel
ANSWER = "answer.json"

AccelName = Literal["kvm", "tcg"]


@dataclass(frozen=True, slots=True)
class Accel:
    """The accelerator, and in one line why this one."""

    name: AccelName
    reason: str


def choose(store: Store, kernel: Path | None = None, override: str | None = None) -> Accel:
    """The accelerator to use on this host. `kernel` is a Linux kernel to try KVM with; `override` is believed.

    Raises BadInput for an override that is neither kvm nor tcg.
    """
    if override is not None:
        if override == "kvm":
            return Accel("kvm", "kvm: asked for")
        if override == "tcg":
            return Accel("tcg", "tcg: asked for")
        raise BadInput(f"unknown accelerator {override!r}", next_step="choose kvm or tcg")
    if (obstacle := _obstacle()) is not None:
        return Accel("tcg", obstacle)
    if kernel is None:
        return Accel("tcg", "kvm: there is no kernel to try it with")
    inputs = {"host": _host(), "qemu": version_of(), "kernel": _digest(kernel), "trial": TRIAL_TIME}

    def build(folder: Path) -> None:
        (folder / ANSWER).write_text(json.dumps(asdict(_try_kvm(store, kernel))), encoding="utf-8")

    entry = store.entry("accel", content_key(inputs), build)
    remembered = json.loads((entry / ANSWER).read_text(encoding="utf-8"))
    return Accel(remembered["name"], remembered["reason"])


def for_machine(spec: MachineSpec, found: Accel) -> Accel:
    """The accelerator of a machine, given what this host has for machines of its own kind."""
    if found.name == "kvm" and is_foreign(spec.arch):
        return Accel("tcg", f"kvm: this host's processor does not run {spec.arch}")
    return found


def _obstacle() -> str | None:
    """Why KVM need not even be tried."""
    if not KVM_DEVICE.exists():
        return "kvm: there is no /dev/kvm"
    try:
        os.close(os.open(KVM_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as cause:
        return f"kvm: /dev/kvm does not open ({cause.strerror})"
    return None


def _try_kvm(store: Store, kernel: Path) -> Accel:
    ours, theirs = socket.socketpair()
    argv = [ARCHES["x86_64"].program, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", f"{TRIAL_MEMORY}M"]
    argv += ["-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console"]
    argv += ["-kernel", str(kernel.absolute()), "-append", "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1"]
    with store.scratch("accel") as scratch, Process(argv, scratch, [theirs.fileno()]) as process:
        theirs.close()
        with Console(ours, scratch / "console.log", obituary=process.obituary, allowed=("kernel-panic",)) as console:
            try:
                console.wait_for("Linux version", Deadline(TRIAL_TIME))
            except DeadlinePassed:
                return Accel("tcg", f"kvm: /dev/kvm opens but no guest kernel spoke within {TRIAL_TIME:.0f} s")
            except MachineFailed:
                words = process.last_words.splitlines() or ["it said nothing"]
                return Accel("tcg", f"kvm: /dev/kvm opens but QEMU gave up: {words[-1][:200]}")
            except HarnessError as cause:
                return Accel("tcg", f"kvm: the guest kernel failed: {cause}")
            return Accel("kvm", f"kvm: a guest kernel spoke after {console.elapsed:.1f} s")


def _host() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path), next_step="give a kernel") from cause
