"""One condition variable per machine: threads that hear from QEMU beat it, whoever waits looks at the state again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from harness.deadline import Deadline

HEARTBEAT = 5.0  # seconds after which `look` is asked again anyway: it may be looking at the clock

T = TypeVar("T")


class Pulse:
    """Lets a waiter sleep until something has happened to its machine, whatever it was."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    @contextmanager
    def beat(self) -> Iterator[None]:
        """Change shared state inside this block; waiters look at it when the block ends."""
        with self._condition:
            yield
            self._condition.notify_all()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Read shared state inside this block without it changing."""
        with self._condition:
            yield

    def wait_until(self, look: Callable[[], T | None], deadline: Deadline) -> T | None:
        """What `look` returns as soon as it is not None, or None once the deadline has passed.

        `look` may raise to end the wait; that is how bad news travels.
        """
        with self._condition:
            while (seen := look()) is None and not deadline.expired:
                self._condition.wait(min(deadline.left, HEARTBEAT))
            return seen
