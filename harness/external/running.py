"""Running an external test in a guest: copied there, started as a systemd unit, followed through its reboots.

Everything goes over the channel, so a test may break network and sshd. What kola gives a test it gets here: the
environment KOLA_UNIT, KOLA_TEST, KOLA_TEST_EXE and KOLA_EXT_DATA, the same places in the guest, and autopkgtest's way
to reboot (/tmp/autopkgtest-reboot MARK, and -prepare). A test fails with its exit code or the signal that killed it,
other than those that systemd calls clean (SIGTERM among them); exit code 77 means skipped, as autopkgtest has it.
"""

from __future__ import annotations

import base64
import io
import shlex
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.deadline import Deadline, overdue
from harness.errors import BadInput, ExternalTestFailed, HostTooBusy, MachineFailed
from harness.external.discovery import ExternalTest
from harness.machine.machine import Machine, await_guest

FOLDER = "/run/image-harness-external"
SCRIPT = Path(__file__).with_name("guest.sh")
PROGRAMS, DATA = "/usr/local/bin", "/var/opt/kola/extdata"  # where kola has them; SELinux lets units run the former
BY_CHANNEL = 48 * 1024  # bytes; bash reads them one by one, so more goes by ssh
MOST_DATA = 512 * 2**20  # bytes of a test with its data
OUTPUT_LIMIT = 256 * 1024  # bytes of a test's output that are kept, the newest
MOST_REBOOTS = 50
LOOK = 15.0  # seconds one wait in the guest may take; then the machine itself is looked at
STEP_TIME = 90.0  # seconds for each step that is not the test's own
SKIPPED = "77"
UNCHECKED = "skip-base-checks"  # tag of tests whose consoles may say anything
QUOTED = 300  # characters of the last line that an error quotes


@dataclass(frozen=True, slots=True)
class Result:
    """How a test ended that did not fail; `output` is what it printed, over all its boots."""

    outcome: Literal["passed", "skipped"]
    output: str
    reboots: int = 0


@dataclass(frozen=True, slots=True)
class _Event:
    """What guest.sh says: `ended` with the unit's result, or `reboot` or `prepare` with a mark."""

    kind: str
    words: tuple[str, ...] = ()
    mark: str = ""


@dataclass(slots=True)
class _Job:
    """One test on one machine."""

    machine: Machine
    test: ExternalTest
    number: int
    deadline: Deadline
    output: str = ""
    reboots: int = 0
    unit: str = field(init=False)
    data: str = field(init=False)
    program: str = field(init=False)

    def __post_init__(self) -> None:
        suffix = f"-{self.number}" if self.number else ""
        self.unit = f"kola-runext{suffix}.service"
        self.data = DATA + suffix
        self.program = f"{PROGRAMS}/kola-runext-{self.test.path.name}"

    def sh(self, script: str, within: float = STEP_TIME) -> str:
        """What a script prints that must work. Raises MachineFailed with its last words."""
        done = self.machine.run(script, Deadline(within))
        if done.rc != 0:
            words = done.err.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise MachineFailed(f"the guest cannot run {self.test.name}: {words[0][:QUOTED]}", where="guest")
        return done.text


def run_test(machine: Machine, test: ExternalTest, *, number: int = 0, seconds: float | None = None) -> Result:
    """Run a test to its end in `seconds` (default: its own limit), its reboots included; copying it does not count.

    `number` tells tests apart that share a machine; such a test may not reboot. 0 means that it has one of its own.
    Raises ExternalTestFailed, BadInput for data that is too much, and what befalls a machine. The output is left in a
    file (`output_of`).
    """
    job = _Job(machine, test, number, Deadline(seconds or test.seconds))
    try:
        _copy(job)
        job.deadline = Deadline(job.deadline.seconds)
        mark = ""
        while True:
            _start(job, mark)
            event = _await_event(job)
            if event.kind == "ended":
                return _judged(job, event)
            job.reboots += 1
            if job.reboots > MOST_REBOOTS:
                raise ExternalTestFailed(f"has rebooted {MOST_REBOOTS} times", where=test.name)
            mark = event.mark
            _reboot(job, event)
    finally:
        output_of(machine, test).write_text(job.output, encoding="utf-8", errors="replace")


def output_of(machine: Machine, test: ExternalTest) -> Path:
    """The file beside the console log that has what a test printed."""
    return machine.logs / f"{test.name}.txt"


def _copy(job: _Job) -> None:
    """Executable and data, as one archive."""
    archive = _archive(job.test)
    name, data = shlex.quote(job.program), shlex.quote(job.data)
    unpack = f"mkdir -p {PROGRAMS} {data} && tar -xzf $tar -C {PROGRAMS} --strip-components=1 bin "
    unpack += f"&& {{ [[ $(tar -tzf $tar) != *data/* ]] || tar -xzf $tar -C {data} --strip-components=1 data; }} "
    unpack += f"&& rm -f $tar && test -x {name}"
    if len(archive) <= BY_CHANNEL:
        encoded = base64.b64encode(archive).decode()
        job.sh(f"tar=$(mktemp) && base64 -d >$tar <<<{encoded} && {unpack}")
        return
    bring = "f=$(mktemp) && cat >$f && echo $f"
    done = subprocess.run([*job.machine.shell.command, bring], input=archive, capture_output=True, check=False)
    if done.returncode != 0:
        raise MachineFailed(f"ssh cannot copy {job.test.name}: {done.stderr.decode(errors='replace').strip()[:QUOTED]}")
    job.sh(f"tar={shlex.quote(done.stdout.decode().strip())} && {unpack}")


def _archive(test: ExternalTest) -> bytes:
    """`bin/kola-runext-NAME` and `data/...`, everything root's. Raises BadInput where that is too much."""
    target = io.BytesIO()
    size = 0

    def as_roots(member: tarfile.TarInfo) -> tarfile.TarInfo:
        nonlocal size
        size += member.size
        if size > MOST_DATA:
            raise BadInput(f"has more than {MOST_DATA:,} bytes of data", where=test.name)
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=6, format=tarfile.GNU_FORMAT) as tar:
        program = as_roots(tar.gettarinfo(test.path.resolve(), f"bin/kola-runext-{test.path.name}"))
        program.mode = 0o755
        with test.path.open("rb") as content:
            tar.addfile(program, content)
        if test.data is not None:
            tar.add(test.data, "data", filter=as_roots)
    return target.getvalue()


def _start(job: _Job, mark: str) -> None:
    """(Re)install what /run and /tmp have lost in a reboot, and start the unit."""
    own = {
        "KOLA_UNIT": job.unit,
        "KOLA_TEST": job.test.name,
        "KOLA_TEST_EXE": job.test.path.name,
        "KOLA_EXT_DATA": job.data,
        **({"AUTOPKGTEST_REBOOT_MARK": mark} if mark else {}),
    }
    script = base64.b64encode(SCRIPT.read_bytes()).decode()
    lines = [
        "set -e",
        f"rm -rf {FOLDER}; mkdir -p {FOLDER}",
        f"base64 -d <<<{script} >{FOLDER}/guest.sh",
        *([] if job.number else [f">{FOLDER}/may-reboot"]),
        f"bash {FOLDER}/guest.sh install",
        shlex.join(
            [
                *("systemd-run", "--quiet", "--collect", f"--unit={job.unit}"),
                *("-p", f"ExecStopPost=/bin/bash {FOLDER}/guest.sh ended"),
                *(f"--setenv={name}={value}" for name, value in own.items()),
                *("--", job.program),
            ]
        ),
    ]
    job.sh("\n".join(lines))


def _await_event(job: _Job) -> _Event:
    """Wait for the test to end or to ask for a reboot. Raises ExternalTestFailed when its time is up."""
    while not job.deadline.expired:
        seconds = max(1, round(min(LOOK, job.deadline.left)))
        told = job.sh(f"bash {FOLDER}/guest.sh await {seconds}", seconds + STEP_TIME)
        if UNCHECKED not in job.test.metadata.tags:
            job.machine.console.check()
        if told:
            line, _, mark = told.partition("\n")
            kind, *words = line.split()
            _collect_output(job)
            return _Event(kind, tuple(words), mark)
    job.machine.run(f"systemctl kill -s KILL {job.unit}; systemctl stop {job.unit}", Deadline(STEP_TIME))
    _collect_output(job)
    what, next_step = f"ran longer than {job.deadline.seconds:.0f} s", "timeoutMin in its header says how long it may"
    late = overdue(what, where=job.test.name)
    if isinstance(late, HostTooBusy):
        raise late
    raise ExternalTestFailed(f"{what}{_last_line(job.output)}", where=job.test.name, next_step=next_step)


def _collect_output(job: _Job) -> None:
    """Add what the unit has printed in this boot."""
    script = f"id=$(cat {FOLDER}/invocation 2>/dev/null); journalctl --sync 2>/dev/null; "
    script += f"journalctl -b -q -o cat --no-pager ${{id:+_SYSTEMD_INVOCATION_ID=$id}} _SYSTEMD_UNIT={job.unit} "
    printed = job.machine.run(f"{script} | tail -c {OUTPUT_LIMIT}", Deadline(STEP_TIME)).text
    job.output = f"{job.output}{printed}\n"[-OUTPUT_LIMIT:]


def _reboot(job: _Job, event: _Event) -> None:
    """Let the reboot happen that the test has asked for, and wait until the guest is back."""
    machine = job.machine
    job.output += f"--- reboot {job.reboots}, mark {event.mark!r} ---\n"
    if event.kind == "reboot":
        machine.reboot(job.deadline)
        return
    machine.hang_up()
    greetings = machine.channel.greetings
    machine.console.timeline.restart()
    machine.is_restored = False
    job.sh(f">{FOLDER}/acknowledged")
    await_guest(machine, job.deadline, greetings + 1)


def _judged(job: _Job, event: _Event) -> Result:
    result, code, status = (*event.words, "-", "-", "-")[:3]
    if result == "success":
        return Result("passed", job.output, job.reboots)
    if (result, status) == ("exit-code", SKIPPED):
        return Result("skipped", job.output, job.reboots)
    how = f"exited with {status}" if code == "exited" else f"was ended by {status} ({result})"
    raise ExternalTestFailed(f"{how}{_last_line(job.output)}", where=job.test.name)


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return f": {lines[-1].strip()[:QUOTED]}" if lines else " and said nothing"
