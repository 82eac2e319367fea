"""What the Ignition config asks for is there after the first boot; and before it, where it was injected."""

from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image

DEFAULT_MODE = 0o644


def test_injected_files_have_their_content(guest, ignition):
    expected = {file.path: file.content for file in ignition.files() if file.content is not None}
    found = {path: guest.file(path).content if guest.file(path).exists else None for path in expected}
    assert found == expected


def test_injected_files_have_their_mode(guest, ignition):
    expected = {file.path: oct(file.mode if file.mode is not None else DEFAULT_MODE) for file in ignition.files()}
    assert {path: oct(guest.file(path).mode) for path in expected} == expected


def test_injected_files_have_their_owner(guest, ignition):
    expected = {file.path: (str(file.user or "root"), str(file.group or "root")) for file in ignition.files()}
    assert {path: (guest.file(path).user, guest.file(path).group) for path in expected} == expected


def test_injected_units_are_enabled(guest, ignition):
    wanted = [unit.name for unit in ignition.units() if unit.enabled]
    assert [unit for unit in wanted if guest.service(unit).is_enabled] == wanted


def test_injected_users_exist(guest, ignition):
    wanted = [user.name for user in ignition.users()]
    assert [name for name in wanted if guest.user(name).exists] == wanted


def test_config_injected_into_boot_is_there_before_the_first_boot(injected_disk, ignition):
    with open_image(injected_disk) as image:
        boot = open_files(read_layout(image.block).part_block("boot"))
        entry = boot.stat("/ignition/config.ign")
        assert boot.read("/ignition/config.ign") == ignition.raw
        assert (oct(entry.mode), entry.uid, entry.gid) == (oct(0o600), 0, 0)
