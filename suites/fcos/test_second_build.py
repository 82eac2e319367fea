"""The live ISO built again from the same image, in another store: the squashfs included."""

import shutil
import subprocess

import pytest

from harness.build.live.live import build_live
from harness.places import REFERENCE
from harness.store import Store

NEEDED = ("deb", "rootfs", "initramfs", "reference")  # what it is built from


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_second_build_is_the_same_iso(live_iso, flavoured, store, tmp_path):
    if live_iso.built is None:
        pytest.skip("only the ISO built here can be built again")
    own = tmp_path / "store"
    own.mkdir()
    for kind in NEEDED:
        copied = subprocess.run(["cp", "-al", store.root / kind, own / kind], check=False, capture_output=True)
        if copied.returncode:  # on another filesystem
            shutil.rmtree(own / kind, ignore_errors=True)
            shutil.copytree(store.root / kind, own / kind)
    unlocked = live_iso.built.reference.unlocked
    second = build_live(Store(own), definition=REFERENCE, unlocked=unlocked, flavour=flavoured.flavour)
    assert second.path != live_iso.path
    assert second.sha256 == live_iso.digest
