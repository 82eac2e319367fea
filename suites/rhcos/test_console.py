"""What an operator can do with nothing but the serial console: no fw_cfg, no network, no channel of ours."""

from harness.deadline import Deadline

MENU_TIME = 120.0
LOGIN_TIME = 120.0


def test_console_alone_boots_and_configures_the_image(boots, injected_disk, console_password):
    """Edit the kernel arguments in GRUB's menu, let Ignition take its config from /boot, log in, look around.

    One boot for all of it: under TCG a second one costs a minute.
    """

    def edit(console):
        console.add_kernel_arguments("image.harness=edited", Deadline(MENU_TIME))

    with boots("console-only", disk=injected_disk, at_power_on=edit) as machine:
        deadline = Deadline(LOGIN_TIME)
        machine.console.login("console", console_password[0], deadline)
        said = {
            command: machine.console.run(command, deadline)
            for command in (
                "cat /etc/hostname",
                "sudo cat /etc/image-harness/secret",
                "grep -o image.harness=edited /proc/cmdline",
            )
        }
    assert said == {
        "cat /etc/hostname": (0, "harness-guest\n"),
        "sudo cat /etc/image-harness/secret": (0, "only for root\n"),
        "grep -o image.harness=edited /proc/cmdline": (0, "image.harness=edited\n"),
    }
