"""A child process that has given up root for good."""

from __future__ import annotations

import os
from collections.abc import Callable

from harness.errors import HarnessError

NOBODY = 65534


def as_nobody(action: Callable[[], object]) -> str:
    """What `action` gives, as text, or the error of ours that it raised."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said = "an error that is none of ours"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = str(action())
        except HarnessError as cause:
            said = f"{type(cause).__name__}: {cause}"
        finally:
            os.write(write, said.encode())
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(child, 0)
    return told
