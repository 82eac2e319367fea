"""The emergency shell, used as an operator would: press Enter, type a command, read what it prints.

dracut starts it through sulogin, which asks for Enter and gives a root shell without a password where root has none
(an initramfs usually has none); CoreOS asks for Enter once more before. A system whose root account is locked lets
nobody in. Nothing here waits longer than it is told to: often there is no shell at all.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.deadline import Deadline
from harness.errors import DeadlinePassed
from harness.machine.console.typist import SHELL_PROMPT, Typist

NO_WAY_IN = r"Give root password for|the root account is locked"
PRESS_ENTER = r"Press Enter for (?:maintenance|emergency shell)"
PATIENCE = 4.0  # seconds a key may need to show an effect; sulogin throws away what is typed before it reads
COMMAND_SHARE = 0.5  # of the time left, for the quicker of two ways

# A port takes a journal in a second, without kernel messages in between; not every initramfs has a driver for it.
INTO_PORT = "test -c {port} && journalctl -b --quiet --no-pager -o json >{port}"
ONTO_CONSOLE = "journalctl -b --quiet --no-pager -o short"


def journal_by_shell(typist: Typist, port: str, take: Callable[[], bytes], deadline: Deadline) -> bytes:
    """The journal of this boot, as JSON or in its short form; empty where no shell lets us in before the deadline.

    `port` is a virtio-serial port's path in the guest, and `take` gives what was written to it. CoreOS writes its
    journal there before it starts the shell: then nothing needs to be typed. Raises MachineFailed if the machine ends.
    """
    with typist.undeterred():
        try:
            if not open_shell(typist, deadline):
                return b""
            if journal := take():
                return journal
            within = deadline.at_most(deadline.left * COMMAND_SHARE)
            if typist.run(INTO_PORT.format(port=port), within)[0] == 0 and (journal := take()):
                return journal
            return typist.run(ONTO_CONSOLE, deadline)[1].encode()
        except DeadlinePassed:
            return b""


def open_shell(typist: Typist, deadline: Deadline) -> bool:
    """Wait for the emergency shell and get to its prompt; False where there is no way in or no time left."""
    has_pressed = False
    while not deadline.expired:
        patience = deadline.at_most(PATIENCE) if has_pressed else deadline
        try:
            found = typist.await_one_of([NO_WAY_IN, PRESS_ENTER, SHELL_PROMPT], patience)
        except DeadlinePassed:
            if not has_pressed:
                return False
        else:
            if found != 1:
                return found == 2
        typist.send("\r")
        has_pressed = True
    return False
