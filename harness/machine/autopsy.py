"""Why a guest did not come up: its journal, by whatever way is left, and the unit that failed first.

CoreOS writes its journal to a virtio-serial port when its initramfs fails, even where its console is silent; another
initramfs is asked by the emergency shell on its console, and a system that reached its own root by the channel, which
emergency mode leaves alone. All of it takes time, but never more than LAST_WORDS_TIME.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline, overdue
from harness.errors import BootFailed, DeadlinePassed, HarnessError, HostTooBusy
from harness.ignition.blame import place_of
from harness.machine.console.badness import Finding, Watcher
from harness.machine.console.console import Console
from harness.machine.console.emergency import journal_by_shell
from harness.machine.guest.journal import Entry, first_failure, lines_of, read_entries
from harness.machine.power import Powered
from harness.machine.qemu.command_line import JOURNAL_PORT, JOURNAL_RING, JOURNAL_SIZE

JOURNAL = "journal.txt"
LAST_WORDS_TIME = 40.0  # seconds; under TCG dracut needs fifteen from its first complaint to a shell prompt
CHANNEL_TIME = 20.0  # of these, for the channel of a system that came as far as emergency mode
TIMED_OUT = re.compile(r"[Tt]imed out|result 'timeout'")
LEADS_TO_A_SHELL = frozenset(("emergency-shell", "dracut-refusing", "ignition-failed", "ignition-cancelled"))


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What a guest told before it was given up; `cause` is None where that explains nothing."""

    entries: Sequence[Entry]
    findings: Sequence[Finding]
    cause: HarnessError | None


def examine(
    parts: Powered, logs: Path, config: bytes, failure: HarnessError, by_channel: Callable[[Deadline], bytes]
) -> Autopsy:
    """Read what can be read of a guest that failed to boot, and write it to `journal.txt` in `logs`.

    `config` is the user's Ignition config, to say which part of it is to blame; `by_channel` asks for the journal
    where the channel may still be there. Raises no HarnessError.
    """
    journal = b""
    if parts.process.is_running:
        with suppress(HarnessError):
            journal = _journal(parts, failure, by_channel, Deadline(LAST_WORDS_TIME))
    entries = read_entries(journal)
    if not entries:
        return Autopsy((), (), None)
    target = logs / JOURNAL
    target.write_text("".join(lines_of(entries)), encoding="utf-8", errors="replace")
    watcher = Watcher("journal")
    watcher.feed([entry.line for entry in entries])
    first = first_failure(entries)
    if first is None:
        return Autopsy(entries, watcher.findings, None)
    place = place_of(config, first.words) if first.stage else ""
    what = first.describe() + (f" (config: {place})" if place else "") + _badness(parts.console)
    return Autopsy(entries, watcher.findings, BootFailed(what, where=first.unit, next_step=f"see {target}"))


def blame_the_host(failure: HarnessError) -> HarnessError:
    """HostTooBusy for a boot in which something timed out on a host that is overloaded; any other error as it is."""
    if isinstance(failure, BootFailed) and TIMED_OUT.search(failure.what):
        late = overdue(failure.what, where=failure.where)
        return late if isinstance(late, HostTooBusy) else failure
    return failure


def _journal(
    parts: Powered, failure: HarnessError, by_channel: Callable[[Deadline], bytes], deadline: Deadline
) -> bytes:
    def take() -> bytes:
        return parts.qmp.read_ring(JOURNAL_RING, JOURNAL_SIZE)

    if _leads_to_a_shell(parts.console.watcher.fatal):
        if "real root" in parts.console.timeline.events:
            with suppress(DeadlinePassed):
                return by_channel(deadline.at_most(CHANNEL_TIME))
        port = f"/dev/virtio-ports/{JOURNAL_PORT}"
        if journal := journal_by_shell(parts.console.typist, port, take, deadline):
            return journal
    elif not isinstance(failure, DeadlinePassed):
        return b""  # a kernel that panicked writes no more
    return take()


def _leads_to_a_shell(finding: Finding | None) -> bool:
    return finding is not None and finding.pattern.id in LEADS_TO_A_SHELL


def _badness(console: Console) -> str:
    """The pattern's id, as in every other cause line that a bad line led to."""
    fatal = console.watcher.fatal
    return f" [{fatal.pattern.id}]" if fatal is not None else ""
