"""A QEMU process with its console, QMP and channel connected: what booted and restored machines have in common."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.machine.console.console import Console
from harness.machine.console.tap import Tap
from harness.machine.guest.agent import Agent
from harness.machine.guest.channel import Channel
from harness.machine.qemu.command_line import Ends
from harness.machine.qemu.process import Process
from harness.machine.qemu.qmp import Qmp
from harness.machine.qemu.wire import serial_line
from harness.pulse import Pulse


@dataclass(frozen=True, slots=True)
class Powered:
    """A running QEMU and our ends of its connections."""

    process: Process
    console: Console
    qmp: Qmp
    channel: Channel
    agent: Agent


@contextmanager
def powered(
    command_line: Callable[[Ends], list[str]],
    scratch: Path,
    console_log: Path,
    *,
    allowed: Sequence[str] = (),
    keep_open: Sequence[int] = (),
    tap: Tap | None = None,
) -> Iterator[Powered]:
    """Start QEMU with `command_line(descriptors of console, qmp, channel, agent)`; at the end it is dead.

    `tap` is on the console from its first byte on. Raises MachineFailed with QEMU's last words if it does not start.
    """
    pulse = Pulse()
    with ExitStack() as stack, ExitStack() as handed_over:
        pairs = [serial_line(), *(socket.socketpair() for _ in range(3))]
        for ours, theirs in pairs:
            stack.callback(ours.close)
            handed_over.callback(theirs.close)
        console_fd, qmp_fd, channel_fd, agent_fd = (theirs.fileno() for _, theirs in pairs)
        ends = (console_fd, qmp_fd, channel_fd, agent_fd)
        process = stack.enter_context(Process(command_line(ends), scratch, [*ends, *keep_open]))
        handed_over.close()  # so that our ends hear it when QEMU dies
        (console_end, _), (qmp_end, _), (channel_end, _), (agent_end, _) = pairs
        obituary = process.obituary
        console = stack.enter_context(
            Console(console_end, console_log, pulse=pulse, allowed=allowed, obituary=obituary, tap=tap)
        )
        channel = stack.enter_context(Channel(channel_end, pulse, obituary))
        qmp = stack.enter_context(Qmp(qmp_end, obituary, pulse))
        yield Powered(process, console, qmp, channel, Agent(agent_end, obituary))
