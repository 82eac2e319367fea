"""A host program that runs on a guest's behalf (ssh), given up as soon as the guest is known to be lost.

A program that talks to a guest over the network hears of the guest's death late or never. We hear at once: from QEMU,
from the console, from the channel.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from harness.deadline import Deadline, overdue
from harness.errors import HarnessError, MachineFailed
from harness.machine.guest.channel import Completed
from harness.pulse import Pulse

CHUNK = 64 * 1024  # bytes
MOST_OUTPUT = 64 * 2**20  # bytes of each stream, as in an answer by the channel
FIRST_DOUBT = 5.0  # seconds; the second comes after twice that, and so on
FAREWELL = 5.0  # seconds a program may need to end once its output has ended, or it was killed


def no_news() -> None:
    """Nobody knows anything."""


@dataclass(frozen=True, slots=True)
class Lifeline:
    """How whoever waits for a guest learns that the wait is in vain.

    `check` is cheap, is called whenever the pulse beats, and raises what the guest was lost by. `doubt` does the same
    but may ask the guest and take a while; it is called when an answer is long in coming. `explain` makes ssh's last
    words into an error.
    """

    pulse: Pulse = field(default_factory=Pulse)
    check: Callable[[], None] = no_news
    doubt: Callable[[], None] = no_news
    explain: Callable[[str], HarnessError] = lambda words: MachineFailed(f"ssh is lost: {words}", where="guest")


def run_errand(argv: Sequence[str], lifeline: Lifeline, deadline: Deadline | None, purpose: str) -> Completed:
    """Run a program to its end, without input. `purpose` ends the sentence "waited for ...".

    Without a deadline it may take as long as the guest lives. Raises DeadlinePassed, MachineFailed when it prints too
    much, and what the lifeline raises; the program is dead then.
    """
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0)
    drains = [_Drain(pipe, lifeline.pulse) for pipe in (child.stdout, child.stderr) if pipe is not None]
    try:
        _await(drains, lifeline, deadline, purpose)
        code = child.wait(FAREWELL)
    finally:
        child.kill()  # does nothing to one that has ended
        child.wait()
    out, err = (bytes(drain.kept) for drain in drains)
    return Completed(code, out, err)


class _Drain(threading.Thread):
    """Reads a pipe to its end, closes it, and keeps the beginning.

    It may outlive the program: ssh hands its pipes to the process that holds the shared connection.
    """

    def __init__(self, pipe: IO[bytes], pulse: Pulse) -> None:
        super().__init__(name="errand", daemon=True)
        self.kept = bytearray()
        self.is_full = False
        self.has_ended = False
        self._pipe = pipe
        self._pulse = pulse
        self.start()

    def run(self) -> None:
        with self._pipe as pipe:
            while chunk := pipe.read(CHUNK):
                if self.is_full:
                    continue  # read on, so that whoever writes can end
                self.kept += chunk
                if len(self.kept) > MOST_OUTPUT:
                    with self._pulse.beat():
                        self.is_full = True
        with self._pulse.beat():
            self.has_ended = True


def _await(drains: Sequence[_Drain], lifeline: Lifeline, deadline: Deadline | None, purpose: str) -> None:
    def look() -> bool | None:
        if any(drain.is_full for drain in drains):
            raise MachineFailed(
                f"more than {MOST_OUTPUT >> 20} MiB came instead of {purpose}", next_step="let it write into a file"
            )
        if all(drain.has_ended for drain in drains):
            return True
        lifeline.check()
        return None

    def is_done_within(seconds: float) -> bool:
        pause = Deadline(seconds) if deadline is None else deadline.at_most(seconds)
        return lifeline.pulse.wait_until(look, pause) is not None

    patience = FIRST_DOUBT
    while not is_done_within(patience):
        if deadline is not None and deadline.expired:
            raise overdue(f"waited {deadline.seconds:.0f} s for {purpose}")
        lifeline.doubt()
        patience *= 2
