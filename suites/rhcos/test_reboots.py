"""The guest after a reboot and after a power cut: the same system, whole, and the test goes on where it was."""


def test_ignition_ran_once(fresh_guest):
    """First boot leaves Ignition's result; a reboot must not run it again."""
    first = fresh_guest.file("/etc/.ignition-result.json").content
    boot = fresh_guest.file("/proc/sys/kernel/random/boot_id").content
    fresh_guest.reboot()
    assert fresh_guest.file("/proc/sys/kernel/random/boot_id").content != boot, "the guest did not reboot"
    assert fresh_guest.file("/etc/.ignition-result.json").content == first
    assert not fresh_guest.kernel_argument("ignition.firstboot")


def test_a_power_cut_damages_no_filesystem(fresh_machine):
    """What was flushed is there; the root filesystem was in use, so its journal had to be replayed."""
    guest, port = fresh_machine.guest, fresh_machine.qmp.ssh_port()
    guest.check_output("echo kept >/var/kept && sync /var/kept && echo 'in memory' >/var/perhaps")
    guest.cut_power()
    after = {filesystem.label: filesystem for filesystem in guest.filesystems()}
    assert {label: filesystem.damage for label, filesystem in after.items()} == {"boot": "", "root": ""}
    assert after["root"].was_recovered, "the journal was clean: that was no power cut"
    assert guest.file("/var/kept").content_string == "kept\n"
    assert fresh_machine.qmp.ssh_port() == port
