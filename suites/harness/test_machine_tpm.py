"""A TPM in a machine: an emulator that lives as long as we do, and survives a snapshot by way of QEMU's state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import BadInput, DeadlinePassed, MachineFailed
from harness.machine.accel import Accel
from harness.machine.boot import Boot
from harness.machine.guest.tpm import stir_script
from harness.machine.hardware.spec import MachineSpec
from harness.machine.power import powered
from harness.machine.qemu.command_line import Layer, Wiring, command_line
from harness.machine.qemu.swtpm import STATE, Tpm, emulated_tpm, swtpm_version
from harness.machine.snapshot import Snapshot, restored, snapshot_of
from harness.store import Store
from suites.harness.small_esp import needs_signed_loaders
from suites.harness.small_guest import guest_disk

SPEC = MachineSpec(memory=128, cpus=1, tpm=True)
PARENT = """
import sys, time
from pathlib import Path
from harness.machine.hardware.spec import MachineSpec
from harness.machine.qemu.swtpm import emulated_tpm
with emulated_tpm(MachineSpec(tpm=True), Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""
PCR7 = "cat /sys/class/tpm/tpm0/pcr-sha256/7"
# TPM2_GetRandom of 16 bytes (TPM 2.0, part 3); the answer begins with tag, size and result code: 2, 4 and 4 bytes.
ASK = "( exec 3<>/dev/tpm0; printf '{}' >&3; dd bs=4096 count=1 2>/dev/null <&3 | od -An -v -t x1 | tr -d ' \\n' )"
RANDOM = ASK.format(r"\x80\x01\x00\x00\x00\x0c\x00\x00\x01\x7b\x00\x10")
# TPM2_PCR_Extend of PCR 23: an empty password session, then one SHA-256 digest.
EXTEND = ASK.format(
    r"\x80\x02\x00\x00\x00\x41\x00\x00\x01\x82\x00\x00\x00\x17"
    r"\x00\x00\x00\x09\x40\x00\x00\x09\x00\x00\x00\x00\x00"
    r"\x00\x00\x00\x01\x00\x0b" + r"\x07" * 32
)


@pytest.fixture
def own_store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def empty_disk(tmp_path) -> Path:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(2**20))
    return disk


def emulators_in(folder: Path) -> list[int]:
    """Processes of swtpm that work in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder and (process / "comm").read_text() == "swtpm\n":
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    return condition()


# -- the emulator -----------------------------------------------------------------------------------------------------


def test_a_machine_has_no_tpm_unless_it_is_asked_for(tmp_path):
    with emulated_tpm(MachineSpec(), tmp_path) as tpm:
        assert tpm == Tpm()
        assert emulators_in(tmp_path) == []
    line = command_line(MachineSpec(), "tcg", Wiring(3, 4, 5, 9, [Layer(Path("/disk"), "raw")]))
    assert not any("tpm" in word for word in line)


def test_a_tpm_is_a_device_with_an_emulator_behind_it():
    line = " ".join(command_line(SPEC, "tcg", Wiring(3, 4, 5, 9, [Layer(Path("/disk"), "raw")], tpm=6)))
    assert "-chardev socket,id=tpm,fd=6 -tpmdev emulator,id=tpm0,chardev=tpm -device tpm-crb,tpmdev=tpm0" in line


def test_a_machine_with_a_tpm_but_no_emulator_is_refused():
    with pytest.raises(BadInput, match="an emulator"):
        command_line(SPEC, "tcg", Wiring(3, 4, 5, 9, [Layer(Path("/disk"), "raw")]))


def test_a_tpm_is_part_of_what_a_machine_is():
    assert MachineSpec().key() != MachineSpec(tpm=True).key()
    assert MachineSpec(tpm=True).describe().endswith("tpm")


def test_the_emulator_tells_its_version():
    assert swtpm_version().startswith("TPM emulator version")


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM], ids=lambda death: death.name)
def test_the_emulator_dies_with_us_whatever_kills_us(tmp_path, death):
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert wait_until(lambda: emulators_in(tmp_path))
        parent.send_signal(death)
        parent.wait(10)
    assert wait_until(lambda: not emulators_in(tmp_path)), "swtpm outlived the run"


def test_the_emulator_is_gone_at_the_end_of_the_block(tmp_path):
    with emulated_tpm(SPEC, tmp_path):
        assert wait_until(lambda: emulators_in(tmp_path))
    assert emulators_in(tmp_path) == []


def test_a_failure_after_the_emulator_died_names_the_emulator(tmp_path):
    def lose_both():
        assert wait_until(lambda: emulators_in(tmp_path))
        os.kill(emulators_in(tmp_path)[0], signal.SIGKILL)
        raise DeadlinePassed("waited 60 s for the guest")

    with pytest.raises(MachineFailed, match="swtpm was killed by signal 9"), emulated_tpm(SPEC, tmp_path):
        lose_both()


def test_a_failure_while_the_emulator_lives_is_not_its_own(tmp_path):
    with pytest.raises(DeadlinePassed, match="for the guest"), emulated_tpm(SPEC, tmp_path):
        raise DeadlinePassed("waited 60 s for the guest")


# -- QEMU and the emulator --------------------------------------------------------------------------------------------


def test_qemu_has_a_tpm(own_store, empty_disk, tmp_path):
    with own_store.scratch("t") as scratch, emulated_tpm(SPEC, scratch) as tpm:

        def argv(ends):
            return command_line(SPEC, "tcg", Wiring(*ends, [Layer(empty_disk, "raw")], tpm=tpm.control))

        with powered(argv, scratch, tmp_path / "log", keep_open=tpm.descriptors) as parts:
            (found,) = parts.qmp.execute("query-tpm")
            assert (found["model"], found["options"]["type"]) == ("tpm-crb", "emulator")
        assert (scratch / STATE / "tpm2-00.permall").exists()


def test_a_command_for_a_tpm_is_written_in_one_piece(monkeypatch):
    """Shells write what printf prints line by line, and half a command is refused."""
    monkeypatch.setattr(os, "urandom", lambda count: b"\n" * count)
    assert r"\x0a" not in stir_script()


# -- in a guest -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory, guest_kernel, system) -> tuple[Snapshot, Store]:
    """A small guest with secure boot and a TPM, saved at its login prompt, and the store it lies in."""
    folder = tmp_path_factory.mktemp("guest")
    disk = guest_disk(folder, guest_kernel.read_bytes(), system.read("/usr/bin/busybox"))
    spec = MachineSpec(memory=512, cpus=1, firmware="uefi-secure", tpm=True)
    store = Store(folder / "store")
    return snapshot_of(Boot(disk, None, spec, Accel("tcg", "tests")), store, folder / "logs", Deadline(400)), store


@pytest.fixture
def clones(saved, tmp_path):
    """A clone each time, as what runs a command in it."""
    snapshot, store = saved

    @contextmanager
    def clone(name):
        with restored(snapshot, store, tmp_path / name, Deadline(120)) as machine:
            machine.console.sendline("root")
            machine.console.expect("# ", Deadline(60))

            def run(command):
                code, said = machine.console.run(command, Deadline(60))
                assert code == 0, said
                return said.strip()

            yield run

    return clone


@needs_signed_loaders
@pytest.mark.boot
def test_the_guest_was_booted_with_secure_boot(clones):
    with clones("secure") as run:
        run("dmesg | grep -q 'Secure boot enabled'")  # kernel messages are taken out of what a console command says
        assert "[integrity]" in run("cat /sys/kernel/security/lockdown")


@needs_signed_loaders
@pytest.mark.boot
def test_the_guest_has_a_tpm_that_measured_its_boot(clones):
    with clones("measured") as run:
        assert run("cat /sys/class/tpm/tpm0/tpm_version_major") == "2"
        measured = run(PCR7)
        assert len(measured) == 64
        assert set(measured) != {"0"}


@needs_signed_loaders
@pytest.mark.boot
def test_two_clones_at_once_have_a_tpm_each(clones):
    """Their emulators began with empty folders: all they know, they have from QEMU's state."""
    with clones("one") as one, clones("two") as two:
        assert one(PCR7) == two(PCR7)
        assert one(RANDOM) == two(RANDOM)  # why they are stirred wherever the channel reaches
        one(stir_script()), two(stir_script())
        answers = [run(RANDOM) for run in (one, two)]
    assert [answer[12:20] for answer in answers] == ["0" * 8, "0" * 8], answers  # result codes
    assert answers[0] != answers[1]


@needs_signed_loaders
@pytest.mark.nightly
def test_restored_guests_draw_different_numbers_from_their_tpm(snapshots, restores):
    """The reference image's own first boot with secure boot: here the channel stirs."""
    saved = snapshots("uefi-secure", tpm=True)
    with restores(saved, "tpm-one") as one, restores(saved, "tpm-two") as two:
        assert one.run(PCR7).text == two.run(PCR7).text
        assert one.run(RANDOM).text != two.run(RANDOM).text


@needs_signed_loaders
@pytest.mark.boot
def test_what_one_clone_measures_another_does_not_see(clones):
    """TPM2_PCR_Extend of PCR 23 in one of them."""
    before = "cat /sys/class/tpm/tpm0/pcr-sha256/23"
    with clones("one") as one, clones("two") as two:
        assert one(EXTEND)[12:20] == "0" * 8
        assert one(before) != two(before)
        assert set(two(before)) == {"0"}
