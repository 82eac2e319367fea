"""The system once it runs: state, mounts, console, and the ways to boot it."""

import time

import pytest

from harness.deadline import Deadline
from harness.machine.console.badness import findings_in
from harness.machine.guest.units import unit_states
from harness.machine.hardware.spec import unsaveable
from harness.machine.machine import CONSOLE_LOG, JOURNAL


def test_no_unit_has_failed(guest):
    failed = guest.check_output("systemctl list-units --failed --plain --no-legend").splitlines()
    assert not failed, f"failed units: {', '.join(line.split()[0] for line in failed)}"


def test_system_is_running(guest):
    assert guest.run("systemctl is-system-running").stdout.strip() == "running"


def test_units_are_in_their_promised_state(guest, profile):
    if not profile.units:
        pytest.skip(f"profile {profile.name} promises no states of units")
    wanted = {each.name: f"{each.enabled}, {each.active}" for each in profile.units}
    assert unit_states(guest, list(wanted)) == wanted


def test_console_of_the_first_boot_is_clean(snapshot):
    findings = findings_in(snapshot.first_boot / CONSOLE_LOG, "console")
    assert not findings, findings[0].describe()


def test_journal_of_the_first_boot_is_clean(snapshot):
    findings = findings_in(snapshot.first_boot / JOURNAL, "journal")
    assert not findings, findings[0].describe()


@pytest.mark.needs("ostree")
@pytest.mark.parametrize("path", ["/usr", "/sysroot", "/boot"])
def test_system_folders_are_read_only(guest, path):
    done = guest.run("touch %s/.written", path)
    assert (done.rc, "Read-only file system" in done.stderr) == (1, True), f"{path} can be written"


@pytest.mark.needs("ostree")
def test_etc_and_var_can_be_written(fresh_guest):
    assert fresh_guest.run("touch /etc/.written /var/.written").rc == 0


@pytest.mark.needs("ostree")
def test_booted_deployment_is_the_images(guest, system):
    assert system.deployment.checksum in guest.check_output("ostree admin status")


@pytest.mark.needs("identity.aleph")
def test_aleph_is_readable_below_sysroot(guest):
    assert '"ref"' in guest.check_output("cat /sysroot/.coreos-aleph-version.json")


def test_network_is_up(guest):
    assert guest.check_output("ip -4 -o addr show scope global")


def test_clock_is_right_after_a_restore(fresh_machine):
    guest_time = float(fresh_machine.run("date +%s.%N").text)
    assert abs(guest_time - time.time()) < 2.0


def test_two_fresh_machines_do_not_share_random_numbers(fresh_machine, snapshot, restores):
    read = "head -c 32 /dev/urandom | base64 -w0"
    first = fresh_machine.run(read).text
    with restores(snapshot, "fresh-sibling") as sibling:
        assert sibling.run(read).text != first


def test_fresh_guest_keeps_its_ssh_identity(fresh_machine, snapshot):
    """The host key was pinned when the snapshot was made: ssh would refuse any other."""
    if not snapshot.is_saved:
        pytest.skip(f"{unsaveable(snapshot.boot.spec)}: a guest that boots anew makes new keys")
    assert fresh_machine.shell.run("cat /etc/ssh/ssh_host_*_key.pub", Deadline(60)).text.strip() in snapshot.host_keys


def test_image_boots_by_uefi(snapshots, profile):
    if "uefi" not in profile.boot.firmware:
        pytest.skip(f"{profile.name} does not boot by UEFI")
    assert snapshots("uefi").cold_boot > 0
