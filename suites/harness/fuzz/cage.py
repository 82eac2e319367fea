"""Work done in a child process with little memory and little time: whatever hangs or explodes is found and named."""

from __future__ import annotations

import os
import resource
import select
import signal
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

MEMORY = 2**30  # bytes of address space beyond what the process has already
PATIENCE = 20.0  # seconds for one piece of work


@dataclass(frozen=True, slots=True)
class Accident:
    """A piece of work that hung, died, or raised what no user may see."""

    number: int
    what: str


def first_accident(work: Callable[[int], None], numbers: Iterable[int]) -> Accident | None:
    """Do `work(number)` for all numbers in a caged child, until the first accident."""
    left = list(numbers)
    return _caged(work, left) if left else None


def _caged(work: Callable[[int], None], numbers: list[int]) -> Accident | None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _labour(work, numbers, writing)
    os.close(writing)
    done, words = 0, b""
    try:
        while True:
            if not select.select([reading], [], [], PATIENCE)[0]:
                os.kill(child, signal.SIGKILL)
                return Accident(numbers[done], f"took longer than {PATIENCE:.0f} s")
            chunk = os.read(reading, 65536)
            if not chunk:
                break
            words += chunk
            while words.startswith(b"."):
                done, words = done + 1, words[1:]
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    if done == len(numbers):
        return None
    return Accident(numbers[done], words.decode(errors="replace") or f"the process died: {status}")


def _labour(work: Callable[[int], None], numbers: list[int], writing: int) -> None:
    """In the child: one dot for each number that went well, or a traceback; never returns."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            work(number)
            os.write(writing, b".")
    except BaseException:  # noqa: BLE001  whatever it is, the parent wants to know
        os.write(writing, traceback.format_exc()[-4000:].encode())
    finally:
        os._exit(0)
