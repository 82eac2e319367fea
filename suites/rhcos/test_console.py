"""What an operator can do with nothing but the serial console: no fw_cfg, no network, no channel of ours."""

import pytest

from harness.deadline import Deadline

LOGIN_TIME = 120.0
MENU_TIME = 120.0
REBOOT_TIME = 600.0


def test_config_in_the_boot_filesystem_lets_an_operator_log_in(snapshots, restores, console_password, pytestconfig):
    """Ignition takes its config from /boot; then log in with its password and look around."""
    if pytestconfig.getoption("ignition"):
        pytest.skip("the config given by --ignition has no user whose password is known")
    with restores(snapshots(injected=True), "console-only") as machine:
        deadline = Deadline(LOGIN_TIME)
        machine.console.login("console", console_password[0], deadline)
        said = {
            command: machine.console.run(command, deadline)
            for command in ("cat /etc/hostname", "sudo cat /etc/image-harness/secret")
        }
    assert said == {
        "cat /etc/hostname": (0, "harness-guest\n"),
        "sudo cat /etc/image-harness/secret": (0, "only for root\n"),
    }


def test_a_reboot_through_grubs_menu_takes_arguments_and_runs_ignition_no_more(fresh_machine):
    """One reboot for both: under TCG a second one costs a minute."""
    look = "cat /etc/.ignition-result.json /proc/sys/kernel/random/boot_id"
    before = fresh_machine.run(look).text.splitlines()
    fresh_machine.reboot(
        Deadline(REBOOT_TIME),
        at_menu=lambda console: console.add_kernel_arguments("image.harness=edited", Deadline(MENU_TIME)),
    )
    after = fresh_machine.run(look).text.splitlines()
    arguments = fresh_machine.run("cat /proc/cmdline").text.split()
    assert before[-1] != after[-1], "the guest did not reboot"
    assert arguments[-1] == "image.harness=edited"
    assert after[:-1] == before[:-1]
    assert "ignition.firstboot" not in arguments
    assert fresh_machine.run("journalctl -b -t ignition -o cat --no-pager").text.strip() in {"", "-- No entries --"}
