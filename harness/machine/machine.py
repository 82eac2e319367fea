"""Machines that run: boot an image on a throw-away overlay, wait for its guest while watching it, and use it.

The image itself is never written. Console, journal and boot timeline end up in the folder the caller names.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import BadInput, BootFailed, DeadlinePassed, HarnessError, MachineFailed, NotInGuest
from harness.ignition.access import with_access
from harness.ignition.config import read_config
from harness.machine.autopsy import JOURNAL, blame_the_host, examine
from harness.machine.boot import Boot
from harness.machine.console.badness import Finding, Watcher
from harness.machine.console.console import Console
from harness.machine.console.tap import Tap
from harness.machine.embedding import append_config, embed_in_overlay, join_initrds
from harness.machine.extras import hand_over_disks, new_extras
from harness.machine.guest.agent import Agent
from harness.machine.guest.backend import COMMAND_TIME, ScriptBackend
from harness.machine.guest.channel import Channel, Completed
from harness.machine.guest.errand import Lifeline
from harness.machine.guest.host import Guest
from harness.machine.guest.reach import check_links, why_unreachable
from harness.machine.guest.settle import settle
from harness.machine.guest.shell import KEY, KeyPair, Shell, make_key_pair
from harness.machine.hardware.firmware import firmware_files, has_variables
from harness.machine.hardware.spec import MachineSpec
from harness.machine.power import Powered, powered
from harness.machine.qemu.command_line import Ends, Memory, Wiring, command_line
from harness.machine.qemu.layers import Layer, layer_of
from harness.machine.qemu.process import Process
from harness.machine.qemu.qmp import Qmp
from harness.machine.qemu.swtpm import emulated_tpm
from harness.store import Store
from harness.tools import run

GRACE_AFTER_LOGIN = 90.0  # seconds the channel may be behind the login prompt
FAREWELL = 90.0  # seconds a guest may take to shut down
JOURNAL_LIMIT = 16 * 2**20  # bytes, the newest are kept
CONSOLE_LOG, TIMELINE = "console.log", "timeline.json"
DISK, VARIABLES, CONFIG = "disk.qcow2", "variables.fd", "config.ign"  # names in scratch folders and snapshots

READ_JOURNAL = f"journalctl -b -o short-monotonic --no-pager | tail -c {JOURNAL_LIMIT}"
# Started in the guest's background before it is saved, it sleeps until there is something to write down. To wait for
# journalctl at the end of each restored machine would cost almost as much as to restore it.
FOLLOWED = "/run/image-harness-journal"
FOLLOW_JOURNAL = "(ulimit -f 16384; exec journalctl -f -n 0 -o short-iso-precise -q --utc --no-pager) "
FOLLOW_JOURNAL += f"</dev/null >{FOLLOWED} 2>/dev/null &"
READ_FOLLOWED = f"""if [[ -e {FOLLOWED} ]]; then printf '%s\\n' "$(<{FOLLOWED})"; else {READ_JOURNAL}; fi"""
READ_JOURNAL_AS_JSON = f"journalctl -b -o json --no-pager | tail -c {JOURNAL_LIMIT}"
READ_HOST_KEYS = "for i in {1..150}; do ls /etc/ssh/ssh_host_*_key.pub && break; sleep 0.2; done >/dev/null 2>&1; "
READ_HOST_KEYS += "cat /etc/ssh/ssh_host_*_key.pub"
BY_CHANNEL = "ask the guest by its channel: channel_guest, or harness shell"
SOFT_REBOOT_SINCE = 254  # of systemd
SYSTEMD_VERSION = re.compile(r"systemd (\d+)")


class Machine:
    """A machine whose guest is up. `has_channel` is False for images we could give no Ignition config."""

    def __init__(
        self,
        parts: Powered,
        logs: Path,
        scratch: Path,
        keys: KeyPair | None,
        *,
        ignition: bytes | None,
        host_keys: str = "",
        has_network: bool = True,
    ) -> None:
        self.process: Process = parts.process
        self.console: Console = parts.console
        self.qmp: Qmp = parts.qmp
        self.channel: Channel = parts.channel
        self.agent: Agent = parts.agent
        self.logs = logs
        self.keys = keys
        self.host_keys = host_keys  # a restored guest's are known beforehand
        self.is_restored = bool(host_keys)
        self.is_up = self.is_restored  # since its last boot it has been heard of by the channel
        self.has_network = has_network
        self.guest_by_channel = Guest(self, lambda: ScriptBackend(self))
        self.guest = Guest(self, lambda: self.shell.host().backend) if has_network else self.guest_by_channel
        self.journal_findings: Sequence[Finding] = ()
        self._parts = parts
        self._ignition = ignition or b""
        self.scratch = scratch  # gone when the machine is
        self._shell: Shell | None = None
        self._stack = ExitStack()
        self._turn = threading.Lock()  # the channel takes one script at a time

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
        """ssh, connected at first use. Raises MachineFailed if no key of ours is in the guest, or it has no network."""
        if self._shell is None:
            if not self.has_network:
                raise MachineFailed("no ssh: the machine has no network card", where="guest", next_step=BY_CHANNEL)
            if self.keys is None:
                raise MachineFailed("no ssh: the machine was booted without an Ignition config", where="guest")
            if not self.host_keys:
                self.host_keys = self.run(READ_HOST_KEYS).text
            port = self.qmp.ssh_port()
            lifeline = Lifeline(self.console.pulse, self.check, self._doubt, self._explain_ssh)
            shell = self._stack.enter_context(Shell(self.scratch, port, self.keys, self.host_keys, lifeline=lifeline))
            if not self.is_restored:  # there sshd is known to listen, and the first command connects by itself
                shell.connect(Deadline(COMMAND_TIME))
            self.console.timeline.mark("ssh", self.console.elapsed)
            self._shell = shell
        return self._shell

    def port(self, guest_port: int) -> int:
        """The port of 127.0.0.1 that leads to this TCP port of the guest. Raises BadInput if the spec asks for none."""
        ports = self.qmp.forwarded()
        if guest_port not in ports:
            next_step = f"add forward={guest_port} to the machine"
            raise BadInput(f"no port leads to the guest's port {guest_port}", next_step=next_step)
        return ports[guest_port]

    def run(self, script: str, deadline: Deadline | None = None) -> Completed:
        """Run a bash script as root in the guest: by the channel, or where there is none by the image's guest agent.

        Raises MachineFailed, GuestLost, DeadlinePassed.
        """
        deadline = deadline or Deadline(COMMAND_TIME)
        if self.has_channel:
            with self._turn:
                return self.channel.run(script, deadline, self.check)
        if self.agent.answers():
            return self.agent.run(script, deadline)
        raise MachineFailed(
            "no channel: the machine was booted without an Ignition config, and no guest agent answers", where="guest"
        )

    def check(self) -> None:
        """Raise what makes every wait for this guest vain: it is dead, or stopped for a fault of the host.

        Costs nothing; whoever waits for the guest calls it whenever the machine's pulse beats.
        """
        if why := self.qmp.standstill:
            where = str(self.scratch.parent)
            raise MachineFailed(f"{why}, so QEMU has stopped the guest", where=where, next_step="make room there")
        self.console.check_life()

    def reboot(self, deadline: Deadline, *, at_menu: Callable[[Console], None] | None = None) -> None:
        """Reboot the guest and wait until it is up again; `at_menu` may drive the boot loader meanwhile."""
        with self._restarting(deadline):
            self.run("systemctl reboot --no-block", deadline)
            if at_menu is not None:
                at_menu(self.console)

    def soft_reboot(self, deadline: Deadline) -> None:
        """Restart user space under the same kernel. Raises NotInGuest where systemd does not know how."""
        said = self.run("systemctl --version", deadline).text.partition("\n")[0]
        version = SYSTEMD_VERSION.match(said)
        if version is None or int(version[1]) < SOFT_REBOOT_SINCE:
            what = f"no soft reboot: it came with systemd {SOFT_REBOOT_SINCE}, here is {said[:80]!r}"
            raise NotInGuest(what, where="guest", next_step="skip the test for this image")
        with self._restarting(deadline):
            self.run("systemctl soft-reboot --no-block", deadline)

    def cut_power(self, deadline: Deadline) -> None:
        """Reset the machine while it runs, and wait until it is up again.

        What the guest has flushed is on its disk, what it still held in memory is lost: that is a power cut.
        """
        with self._restarting(deadline):
            self.qmp.execute("system_reset")

    @contextmanager
    def _restarting(self, deadline: Deadline) -> Iterator[None]:
        """Whatever the block does makes the guest boot again; afterwards it is up."""
        self.hang_up()
        greetings = self.channel.greetings
        self.console.start_over()
        self.is_restored = self.is_up = False
        yield
        await_guest(self, deadline, greetings + 1)

    def hang_up(self) -> None:
        """Let go of the ssh connection; the next use opens it again."""
        self._stack.close()
        self._shell = None

    def follow_journal(self) -> None:
        """Have the guest write down what its journal says from now on, each line with the time, UTC."""
        self.run(FOLLOW_JOURNAL)

    def collect_journal(self, deadline: Deadline, *, followed: bool = False) -> None:
        """Write this boot's journal to `journal.txt` beside the console log and look for bad lines in it.

        With `followed` only what came since `follow_journal`, if the guest has not been rebooted meanwhile.
        """
        done = self.run(READ_FOLLOWED if followed else READ_JOURNAL, deadline)
        (self.logs / JOURNAL).write_bytes(done.out)
        watcher = Watcher("journal", allowed=self.console.watcher.allowed)
        watcher.feed(done.out.decode(errors="replace").splitlines())
        self.journal_findings = tuple(watcher.findings)

    def shutdown(self, deadline: Deadline) -> None:
        """Power the guest off as an operator would; if it does not go, end QEMU."""
        self.hang_up()
        with suppress(HarnessError):
            if self.has_channel:
                self.run("systemctl poweroff --no-block", deadline.at_most(30))
            else:
                self.qmp.execute("system_powerdown")
            if self.process.wait(deadline) is None:
                self.qmp.execute("quit", within=5)
        self.process.kill()

    def hand_over(self, folder: Path) -> None:
        """Move what a machine that has ended was made of to `folder`: disks, UEFI variables, ssh key, config."""
        hand_over_disks(self.scratch, folder)
        for name in (DISK, VARIABLES, KEY, CONFIG):
            if (self.scratch / name).exists():
                (self.scratch / name).rename(folder / name)

    def explain(self, failure: HarnessError, greetings: int) -> HarnessError:
        """A better error for a boot that failed, where the guest's journal can be had and names the cause.

        `greetings` is how often the channel has spoken once it speaks in this boot.
        """

        def by_channel(deadline: Deadline) -> bytes:
            self.channel.await_ready(deadline, greetings)
            return self.channel.run(READ_JOURNAL_AS_JSON, deadline).out

        told = examine(self._parts, self.logs, self._ignition, failure, by_channel)
        self.journal_findings = told.findings
        return blame_the_host(told.cause or failure)

    def _doubt(self) -> None:
        """ssh takes long: raise MachineFailed or GuestLost if the guest says that its network is down."""
        if self._turn.acquire(blocking=False):  # else somebody else has the channel
            try:
                check_links(self.channel, self.check)
            finally:
                self._turn.release()

    def _explain_ssh(self, words: str) -> HarnessError:
        """What ended ssh."""
        with self._turn:
            return why_unreachable(self.channel, self.check, words)


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
    with store.scratch("machine") as scratch, emulated_tpm(spec, scratch) as tpm:
        keys = None if ignition is None else make_key_pair(scratch)
        config = None
        if ignition is not None and keys is not None:
            config = scratch / CONFIG
            user_config = read_config(ignition) if ignition else None
            config.write_bytes(with_access(user_config, ssh_public_key=keys.public, channel=True))
        layers = (overlay_of(bottom, scratch / DISK), bottom)
        initrd = join_initrds(spec.kernel, scratch) if spec.kernel else None
        if config is not None and boot.embeds:
            if initrd is None:
                embed_in_overlay(bottom, layers[0], config.read_bytes(), spec.architecture.console)
            else:
                append_config(initrd, config.read_bytes())
            config = None
        variables = own_variables(spec, scratch)
        extras = new_extras(spec, scratch)

        def argv(ends: Ends) -> list[str]:
            guest_memory = None if memory is None else memory[1]
            wiring = Wiring(*ends, layers, config, guest_memory, variables, tpm.control)
            wiring = replace(wiring, disks=extras.disks, fw_cfg=extras.fw_cfg, initrd=initrd)
            return command_line(spec, boot.accel.name, wiring)

        keep_open = tpm.descriptors if memory is None else (*tpm.descriptors, memory[0])
        with powered(argv, scratch, logs / CONSOLE_LOG, allowed=allowed, keep_open=keep_open, tap=tap) as parts:
            machine = Machine(parts, logs, scratch, keys, ignition=ignition, has_network=spec.nics > 0)
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
    if not has_variables(spec.firmware):
        return None
    own = scratch / VARIABLES
    shutil.copyfile(template or firmware_files(spec.arch, spec.firmware).variables, own)
    return own


def await_guest(machine: Machine, deadline: Deadline, greetings: int = 1) -> None:
    """Wait until the guest is up: its channel speaks and systemd has settled, or else it shows a login prompt.

    Raises BootFailed with the cause that the guest's journal names, if it can be had, else the bad console line.
    """
    try:
        _await_guest(machine, deadline, greetings)
    except (BootFailed, DeadlinePassed) as failure:
        explained = machine.explain(failure, greetings)
        if explained is failure:
            raise
        raise explained from failure


def _await_guest(machine: Machine, deadline: Deadline, greetings: int) -> None:
    console = machine.console
    if not machine.has_channel:
        console.wait_for(r"login: ?$", deadline)
        return

    def check() -> None:
        console.check()
        machine.check()

    def check_channel() -> None:
        check()
        prompted = console.timeline.events.get("login prompt")
        if prompted is not None and console.elapsed - prompted > GRACE_AFTER_LOGIN:
            raise BootFailed(
                f"the guest showed a login prompt after {prompted:.0f} s but our channel never spoke",
                where="console",
                next_step="does the image run Ignition on this boot? see the console log",
            )

    machine.channel.await_ready(deadline, greetings, check_channel)
    machine.is_up = True
    console.timeline.mark("channel", console.elapsed)
    settle(machine.channel, deadline, check)
    console.timeline.mark("settled", console.elapsed)


def _last_words(machine: Machine, deadline: Deadline) -> None:
    """Save the journal if the guest can still give it."""
    if machine.is_up:
        with suppress(HarnessError):  # the failure that is being raised tells more
            machine.collect_journal(deadline)
