"""Snapshots: never a stale one, never a damaged one, as many machines from one as are wanted."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import BootFailed, StoreError
from harness.machine import snapshot as snapshots_module
from harness.machine.accel import Accel
from harness.machine.boot import Boot
from harness.machine.hardware.firmware import FirmwareFiles, firmware_files
from harness.machine.hardware.spec import MachineSpec
from harness.machine.snapshot import EMPTY, FACTS, KIND, RAM, STATE, Snapshot, key_of, restored, snapshot_of
from harness.store import USED_MARK, Store

TCG = Accel("tcg", "tests")


@pytest.fixture
def empty_disk(tmp_path) -> Path:
    """A disk on which no machine ever comes up: what restores a snapshot of it has been deceived."""
    disk = tmp_path / "empty.raw"
    disk.write_bytes(bytes(2**20))
    return disk


@pytest.fixture
def boot(empty_disk) -> Boot:
    return Boot(empty_disk, b"", MachineSpec(memory=128), TCG)


@pytest.fixture
def own_store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def kept(boot, own_store) -> Snapshot:
    """An entry of the store that is whole, as far as its files tell."""

    def build(folder: Path) -> None:
        for name in (RAM, STATE, EMPTY, "disk.qcow2", "id_ed25519"):
            (folder / name).write_bytes(name.encode() * 1000)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
        files = {"sizes": sizes, "state": snapshots_module._sha256(folder / STATE)}
        facts = {"host_keys": "key", "cold_boot": 1.0, "saving": 1.0, "guest_clock": 1.0, "files": files}
        (folder / FACTS).write_text(json.dumps(facts))

    return Snapshot(own_store.entry(KIND, key_of(boot), build), boot, "key", 1.0, 1.0, 1.0)


def test_a_whole_snapshot_is_found_again(kept, boot, own_store, tmp_path):
    assert snapshot_of(boot, own_store, tmp_path / "logs", Deadline(60)) == kept


@pytest.mark.parametrize(
    "change",
    [
        {"ignition": b"{}"},
        {"ignition": None},
        {"spec": MachineSpec(memory=256)},
        {"spec": MachineSpec(memory=128, cpus=1)},
        {"spec": MachineSpec(memory=128, firmware="uefi")},
        {"accel": Accel("kvm", "tests")},
        {"digest": "another image"},
    ],
    ids=str,
)
def test_another_boot_has_another_key(boot, change):
    assert key_of(replace(boot, **change)) != key_of(boot)


def test_a_changed_image_has_another_key(boot, empty_disk):
    before = key_of(boot)
    empty_disk.write_bytes(bytes(2**20 - 1) + b"x")
    assert key_of(boot) != before


@pytest.mark.parametrize(
    "place, value",
    [
        ("harness.machine.boot.version_of", lambda _: "QEMU emulator version 7.2.23"),
        ("harness.machine.snapshot.command_line", lambda *_: ["qemu-system-x86_64", "-device", "new"]),
        ("harness.machine.snapshot.with_access", lambda *_, **__: b"another channel"),
        ("harness.machine.snapshot.SLEEPER", "sleeps otherwise"),
        ("harness.machine.snapshot.LAYOUT", -1),
    ],
    ids=lambda place: place.rpartition(".")[2] if isinstance(place, str) else "",
)
def test_whatever_of_ours_decides_what_is_saved_is_part_of_the_key(boot, monkeypatch, place, value):
    before = key_of(boot)
    monkeypatch.setattr(place, value)
    assert key_of(boot) != before


def test_another_firmware_file_has_another_key(boot, monkeypatch, tmp_path):
    uefi = replace(boot, spec=MachineSpec(memory=128, firmware="uefi"))
    before = key_of(uefi)
    newer = FirmwareFiles(tmp_path / "code.fd", firmware_files("x86_64", "uefi").variables)
    newer.code.write_bytes(b"newer")
    monkeypatch.setattr("harness.machine.boot.firmware_files", lambda _arch, _firmware: newer)
    assert key_of(uefi) != before


def truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def garbled(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


FILES = (RAM, STATE, EMPTY, "disk.qcow2", FACTS)
DAMAGE = [
    *((name, damage) for name in FILES for damage in (truncated, emptied, Path.unlink)),
    (STATE, garbled),
    (FACTS, garbled),
    (FACTS, lambda path: path.write_text("[]")),
    (FACTS, lambda path: path.write_text('{"files": {"sizes": 3}}')),
]


@pytest.mark.parametrize("name, damage", DAMAGE)
def test_a_damaged_snapshot_is_refused_before_anything_starts(kept, own_store, tmp_path, name, damage):
    damage(kept.folder / name)
    with (
        pytest.raises(StoreError, match=r"snapshot is damaged: .*run it again: it is made anew"),
        restored(kept, own_store, tmp_path / "logs", Deadline(60)),
    ):
        pytest.fail("it came up")
    assert not (kept.folder / RAM).exists() or name != RAM or (kept.folder / RAM).stat().st_size < 3000


@pytest.mark.parametrize("name, damage", [(RAM, truncated), (STATE, garbled), (FACTS, Path.unlink)])
def test_a_damaged_snapshot_is_made_anew(kept, boot, own_store, tmp_path, name, damage):
    """The boot that this takes fails on a disk without a system: so it was tried."""
    damage(kept.folder / name)
    with pytest.raises(BootFailed, match="no-bootable-device"):
        snapshot_of(boot, own_store, tmp_path / "logs", Deadline(60))
    assert not kept.folder.exists()


def test_what_another_process_has_made_anew_is_not_thrown_away(kept, boot, own_store):
    own_store.discard(KIND, kept.folder.name, lambda folder: snapshots_module._is_damaged(folder, boot))
    assert kept.folder.exists()


def test_a_snapshot_that_was_removed_is_told_in_words(kept, own_store, tmp_path):
    shutil.rmtree(kept.folder)
    with (
        pytest.raises(StoreError, match=r"snapshot is damaged: .*No such file"),
        restored(kept, own_store, tmp_path / "logs", Deadline(60)),
    ):
        pytest.fail("it came up")


def test_the_store_prunes_snapshots_that_nobody_restores(kept, boot, own_store):
    other = own_store.entry(KIND, "other", lambda folder: (folder / RAM).write_bytes(b"x" * 2**20))
    for entry, age in ((kept.folder, 200), (other, 100)):
        os.utime(entry / USED_MARK, (age, age))
    own_store.find(KIND, kept.folder.name)
    own_store.limit = 2**19
    assert own_store.prune() == [other]


@pytest.mark.boot
def test_many_machines_run_from_one_snapshot_which_stays_as_it_was(snapshot, restores):
    """Two at once, each writing to its memory and disk what the other must not see."""

    def files() -> dict[str, tuple[int, int]]:
        found = (path for path in snapshot.folder.iterdir() if path.name != USED_MARK)
        return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = files()
    with restores(snapshot, "first") as first, restores(snapshot, "second") as second:
        assert first.run("echo first >/var/whose; echo first >/run/whose; sync").rc == 0
        assert second.run("cat /var/whose /run/whose").out == b""
        mapped = [Path(f"/proc/{machine.process.pid}/maps").read_text() for machine in (first, second)]
        assert all(str(snapshot.folder / RAM) in lines for lines in mapped)
    assert files() == before


@pytest.mark.boot
def test_a_truncated_snapshot_of_a_real_guest_is_refused(snapshot, store, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(snapshot.folder, copy, copy_function=os.symlink)
    (copy / RAM).unlink()
    (copy / RAM).touch()
    os.truncate(copy / RAM, snapshot.boot.spec.memory * 2**20 - 1)
    with (
        pytest.raises(StoreError, match=f"{RAM} has {snapshot.boot.spec.memory * 2**20 - 1} bytes instead of"),
        restored(replace(snapshot, folder=copy), store, tmp_path / "logs", Deadline(60)),
    ):
        pytest.fail("it came up")
