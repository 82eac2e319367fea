"""Machines that run: boot an image on a throw-away overlay, wait for its guest while watching it, and use it.

The image itself is never written. Console, journal and boot timeline end up in the folder the caller names.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from testinfra.host import Host

from harness.deadline import Deadline
from harness.errors import BootFailed, DeadlinePassed, HarnessError, MachineFailed
from harness.ignition.access import with_access
from harness.ignition.config import read_config
from harness.machine.boot import Boot
from harness.machine.console.badness import Finding, Watcher
from harness.machine.console.console import Console
from harness.machine.console.tap import Tap
from harness.machine.guest.channel import Channel, Completed
from harness.machine.guest.shell import KEY, KeyPair, Shell, make_key_pair
from harness.machine.hardware.spec import MachineSpec
from harness.machine.power import Powered, powered
from harness.machine.qemu.command_line import Layer, Memory, Wiring, command_line, firmware_files, layer_of
from harness.machine.qemu.process import Process
from harness.machine.qemu.qmp import Qmp
from harness.store import Store
from harness.tools import run

COMMAND_TIME = 120.0  # seconds a command may take unless the caller says otherwise
GRACE_AFTER_LOGIN = 90.0  # seconds the channel may be behind the login prompt
SETTLE_TIME = 180  # seconds systemd may need to finish its start-up jobs once the channel speaks
FAREWELL = 90.0  # seconds a guest may take to shut down
JOURNAL_LIMIT = 16 * 2**20  # bytes, the newest are kept
CONSOLE_LOG, JOURNAL, TIMELINE = "console.log", "journal.txt", "timeline.json"
DISK, VARIABLES = "disk.qcow2", "variables.fd"  # names in scratch folders and snapshots

SETTLE = f"timeout {SETTLE_TIME} systemctl is-system-running --wait"
READ_JOURNAL = f"journalctl -b -o short-monotonic --no-pager | tail -c {JOURNAL_LIMIT}"
READ_HOST_KEYS = "for i in {1..150}; do ls /etc/ssh/ssh_host_*_key.pub && break; sleep 0.2; done >/dev/null 2>&1; "
READ_HOST_KEYS += "cat /etc/ssh/ssh_host_*_key.pub"


class Machine:
    """A machine whose guest is up. `has_channel` is False for images we could give no Ignition config."""

    def __init__(self, parts: Powered, logs: Path, scratch: Path, keys: KeyPair | None, *, host_keys: str = "") -> None:
        self.process: Process = parts.process
        self.console: Console = parts.console
        self.qmp: Qmp = parts.qmp
        self.channel: Channel = parts.channel
        self.logs = logs
        self.keys = keys
        self.host_keys = host_keys  # a restored guest's are known beforehand
        self.is_restored = bool(host_keys)
        self.journal_findings: Sequence[Finding] = ()
        self.scratch = scratch  # gone when the machine is
        self._shell: Shell | None = None
        self._stack = ExitStack()

    @property
    def has_channel(self) -> bool:
        return self.keys is not None

    @property
    def timeline(self) -> dict[str, float]:
        """Stages reached, in seconds since QEMU was started."""
        return dict(self.console.timeline.events)

    @property
    def findings(self) -> Sequence[Finding]:
        """Bad lines seen so far on the console, and in the journal if it was collected."""
        return (*self.console.findings, *self.journal_findings)

    @property
    def shell(self) -> Shell:
        """ssh, connected at first use. Raises MachineFailed if no key of ours is in the guest."""
        if self._shell is None:
            if self.keys is None:
                raise MachineFailed("no ssh: the machine was booted without an Ignition config", where="guest")
            if not self.host_keys:
                self.host_keys = self.run(READ_HOST_KEYS).text
            port = self.qmp.ssh_port()
            shell = self._stack.enter_context(Shell(self.scratch, port, self.keys, self.host_keys))
            if not self.is_restored:  # there sshd is known to listen, and the first command connects by itself
                shell.connect(Deadline(COMMAND_TIME), self._check)
            self.console.timeline.mark("ssh", self.console.elapsed)
            self._shell = shell
        return self._shell

    @property
    def guest(self) -> Host:
        """The guest as testinfra sees it."""
        return self.shell.host()

    def run(self, script: str, deadline: Deadline | None = None) -> Completed:
        """Run a bash script as root in the guest, by the channel. Raises MachineFailed, DeadlinePassed."""
        if not self.has_channel:
            raise MachineFailed("no channel: the machine was booted without an Ignition config", where="guest")
        return self.channel.run(script, deadline or Deadline(COMMAND_TIME))

    def reboot(self, deadline: Deadline, *, at_menu: Callable[[Console], None] | None = None) -> None:
        """Reboot the guest and wait until it is up again; `at_menu` may drive the boot loader meanwhile."""
        self.hang_up()
        greetings = self.channel.greetings
        self.run("systemctl reboot --no-block", deadline)
        self.console.timeline.restart()
        self.is_restored = False
        if at_menu is not None:
            at_menu(self.console)
        await_guest(self, deadline, greetings + 1)

    def hang_up(self) -> None:
        """Let go of the ssh connection; the next use opens it again."""
        self._stack.close()
        self._shell = None

    def collect_journal(self, deadline: Deadline) -> None:
        """Write this boot's journal to `journal.txt` beside the console log and look for bad lines in it."""
        done = self.run(READ_JOURNAL, deadline)
        (self.logs / JOURNAL).write_bytes(done.out)
        watcher = Watcher("journal")
        watcher.feed(done.out.decode(errors="replace").splitlines())
        self.journal_findings = tuple(watcher.findings)

    def shutdown(self, deadline: Deadline) -> None:
        """Power the guest off as an operator would; if it does not go, end QEMU."""
        self.hang_up()
        with suppress(HarnessError):
            if self.has_channel:
                self.channel.run("systemctl poweroff --no-block", deadline.at_most(30))
            else:
                self.qmp.execute("system_powerdown")
            if self.process.wait(deadline) is None:
                self.qmp.execute("quit", within=5)
        self.process.kill()

    def hand_over(self, disk: Path, variables: Path, key: Path) -> None:
        """Move disk overlay, UEFI variables and ssh key out of a machine that has ended."""
        (self.scratch / DISK).rename(disk)
        if self.keys is not None:
            (self.scratch / KEY).rename(key)
        if (self.scratch / VARIABLES).exists():
            (self.scratch / VARIABLES).rename(variables)

    def _check(self) -> None:
        if self.console.has_ended:
            raise self.console.obituary()


@contextmanager
def booted(
    boot: Boot,
    store: Store,
    logs: Path,
    deadline: Deadline,
    *,
    allowed: Sequence[str] = (),
    memory: tuple[int, Memory] | None = None,
    tap: Tap | None = None,
    until: Callable[[Machine, Deadline], None] | None = None,
) -> Iterator[Machine]:
    """A machine that has booted; where it was given no Ignition config, as far as its login prompt.

    `allowed` are badness ids expected here. `memory` is an open file, by descriptor and path, to use as guest memory.
    `tap` is on the console from its first byte on. `until` waits instead of `await_guest`, or does not wait at all.
    Raises BootFailed at the first bad console line, MachineFailed if QEMU fails, DeadlinePassed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    bottom, spec, ignition = layer_of(boot.image), boot.spec, boot.ignition
    with store.scratch("machine") as scratch:
        keys = None if ignition is None else make_key_pair(scratch)
        config = None
        if ignition is not None and keys is not None:
            config = scratch / "config.ign"
            user_config = read_config(ignition) if ignition else None
            config.write_bytes(with_access(user_config, ssh_public_key=keys.public, channel=True))
        layers = (overlay_of(bottom, scratch / DISK), bottom)
        variables = own_variables(spec, scratch)

        def argv(ends: tuple[int, int, int]) -> list[str]:
            guest_memory = None if memory is None else memory[1]
            return command_line(spec, boot.accel.name, Wiring(*ends, layers, config, guest_memory, variables))

        keep_open = () if memory is None else (memory[0],)
        with powered(argv, scratch, logs / CONSOLE_LOG, allowed=allowed, keep_open=keep_open, tap=tap) as parts:
            machine = Machine(parts, logs, scratch, keys)
            try:
                (until or await_guest)(machine, deadline)
                yield machine
            except BaseException as failure:
                if not isinstance(failure, KeyboardInterrupt):
                    _last_words(machine, Deadline(20))
                raise
            else:
                if machine.process.is_running:
                    _last_words(machine, Deadline(FAREWELL))
                    machine.shutdown(Deadline(FAREWELL))
            finally:
                machine.hang_up()
                machine.console.timeline.write(logs / TIMELINE)


def overlay_of(bottom: Layer, path: Path) -> Layer:
    """An empty overlay as large as `bottom`; it names no backing file, because the command line spells layers out."""
    size = bottom.path.stat().st_size
    if bottom.format == "qcow2":
        with bottom.path.open("rb") as head:
            size = int.from_bytes(head.read(32)[24:32], "big")
    run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(-(-size // 512) * 512)], timeout=60)
    return Layer(path, "qcow2")


def own_variables(spec: MachineSpec, scratch: Path, template: Path | None = None) -> Path | None:
    """This machine's copy of the UEFI variable store, or None where the firmware has none."""
    if spec.firmware != "uefi":
        return None
    own = scratch / VARIABLES
    shutil.copyfile(template or firmware_files()[1], own)
    return own


def await_guest(machine: Machine, deadline: Deadline, greetings: int = 1) -> None:
    """Wait until the guest is up: its channel speaks and systemd has settled, or else it shows a login prompt."""
    console = machine.console
    if not machine.has_channel:
        console.wait_for(r"login: ?$", deadline)
        return

    def check() -> None:
        console.check()
        prompted = console.timeline.events.get("login prompt")
        if prompted is not None and console.elapsed - prompted > GRACE_AFTER_LOGIN:
            raise BootFailed(
                f"the guest showed a login prompt after {prompted:.0f} s but our channel never spoke",
                where="console",
                next_step="does the image run Ignition on this boot? see the console log",
            )

    machine.channel.await_ready(deadline, greetings, check)
    console.timeline.mark("channel", console.elapsed)
    machine.channel.run(SETTLE, deadline.at_most(SETTLE_TIME + 10), console.check)
    console.timeline.mark("settled", console.elapsed)


def _last_words(machine: Machine, deadline: Deadline) -> None:
    """Save the journal if the guest can still give it."""
    if machine.has_channel and machine.channel.greetings:
        with suppress(MachineFailed, DeadlinePassed):
            machine.collect_journal(deadline)
