"""What a build costs: from an empty store, again, and after one overlay file changed. Packages are fetched before."""

import shutil
import time

import pytest

from harness.build.reference import DEFINITION, build_reference
from harness.build.reproduction import copy_packages
from harness.store import Store

CHANGED = "overlay/usr/etc/ssh/sshd_config.d/40-reference.conf"
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


def timed(*arguments, **options):
    started = time.monotonic()
    built = build_reference(*arguments, **options)
    return built, time.monotonic() - started


def test_one_changed_overlay_file_costs_a_fraction_of_a_cold_build(reference, store, tmp_path, told):
    own, definition = Store(tmp_path / "store"), tmp_path / "definition"
    shutil.copytree(DEFINITION, definition)
    shutil.copyfile(reference.path.with_name("packages.lock"), definition / "packages.lock")
    copy_packages(store, reference, own)
    cold_image, cold = timed(own, definition=definition)
    _, warm = timed(own, definition=definition)
    with (definition / CHANGED).open("a") as config:
        config.write("# changed\n")
    changed_image, changed = timed(own, definition=definition)
    told("", "seconds", "ratio")
    told("cold", f"{cold:.1f}", "1.00")
    told("one overlay file changed", f"{changed:.1f}", f"{changed / cold:.2f}")
    told("nothing changed", f"{warm:.1f}", f"{warm / cold:.2f}")
    for stage, seconds in cold_image.seconds.items():
        told(f"cold: {stage}", f"{seconds:.1f}", f"{changed_image.seconds[stage]:.1f} after the change")
    assert cold_image.sha256_qcow2 == reference.sha256_qcow2
    assert changed_image.sha256_qcow2 != reference.sha256_qcow2
    assert changed < cold / 2
    assert warm < cold / 10
