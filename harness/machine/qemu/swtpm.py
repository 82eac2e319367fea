"""A TPM 2.0 for one machine: a swtpm process, tied to our life as QEMU is, with its state in the scratch folder.

QEMU and swtpm talk over a socket pair, so there is no socket path that could clash or be too long. The state needs no
place in a snapshot: QEMU fetches all of it when it saves, permanent (seeds, non-volatile memory) and volatile (PCRs),
and gives it to whichever swtpm it finds when it loads (QEMU's docs/specs/tpm.rst, "The QEMU TPM emulator device").
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import HarnessError
from harness.machine.hardware.spec import MachineSpec
from harness.machine.qemu.process import Process
from harness.tools import run

STATE = "tpm"  # the folder of its state in a scratch folder
LAST_MOMENT = 0.2  # seconds in which a dying swtpm is noticed as such


@dataclass(frozen=True, slots=True)
class Tpm:
    """QEMU's end of the control channel, by descriptor; None for a machine without TPM."""

    control: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What QEMU has to inherit."""
        return () if self.control is None else (self.control,)


@contextmanager
def emulated_tpm(spec: MachineSpec, scratch: Path) -> Iterator[Tpm]:
    """A new TPM for the time of the block, if the spec asks for one.

    A failure inside the block is blamed on swtpm where that has died by then: MachineFailed with its last words.
    Raises MissingTool.
    """
    if not spec.tpm:
        yield Tpm()
        return
    (scratch / STATE).mkdir()
    qemus_end, swtpms_end = socket.socketpair()
    with qemus_end:
        with swtpms_end:
            control = f"type=unixio,clientfd={swtpms_end.fileno()}"
            argv = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={STATE}", "--ctrl", control]
            process = Process(argv, scratch, [swtpms_end.fileno()])
        with process:
            try:
                yield Tpm(qemus_end.fileno())
            except HarnessError as failure:
                if process.wait(Deadline(LAST_MOMENT)):  # 0: QEMU sent it home
                    raise process.obituary() from failure
                raise


def swtpm_version() -> str:
    """The version line of swtpm. Raises MissingTool, ToolFailed."""
    return run(["swtpm", "--version"], timeout=30).decode(errors="replace").splitlines()[0].strip()
