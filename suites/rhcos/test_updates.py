"""An upgrade from one build to the next, and the way back: each boots what it says, and /etc and /var stay."""

import pytest

from suites.rhcos.second_build import NEW_FILE, build_update, served


@pytest.fixture
def update(subject, store):
    """A second build of the image under test."""
    if subject.built is None:
        pytest.skip("only the image built here has a second build")
    return build_update(store)


def booted_version(guest):
    """What the running deployment calls itself, and whether it has the second build's file."""
    release = dict(line.split("=", 1) for line in guest.file("/etc/os-release").content_string.splitlines())
    return release["OSTREE_VERSION"].strip("'"), guest.file(NEW_FILE).exists


@pytest.mark.nightly
@pytest.mark.needs("ostree")
def test_an_upgrade_can_be_rolled_back(fresh_guest, update, system):
    first = booted_version(fresh_guest)
    fresh_guest.check_output("echo mine >/etc/kept; echo mine >/var/kept")
    with served(update.repo) as url:
        remote = "ostree admin set-origin --set=gpg-verify=false second %s %s"
        fresh_guest.check_output(remote, url, update.ref)
        fresh_guest.check_output("ostree admin upgrade")
    fresh_guest.reboot()
    assert booted_version(fresh_guest) == (update.version, True)
    assert f"* reference {update.commit}.0" in fresh_guest.check_output("ostree admin status")
    assert fresh_guest.file("/etc/kept").content_string == fresh_guest.file("/var/kept").content_string == "mine\n"

    fresh_guest.check_output("ostree admin deploy %s", system.deployment.checksum)
    fresh_guest.reboot()
    assert booted_version(fresh_guest) == first == (first[0], False)
    assert fresh_guest.file("/etc/kept").content_string == fresh_guest.file("/var/kept").content_string == "mine\n"
