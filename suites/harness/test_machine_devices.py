"""What QEMU makes of the disks and network cards of a spec."""

from __future__ import annotations

import platform
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import BadInput, MachineFailed, MissingTool
from harness.machine.accel import Accel, for_machine
from harness.machine.extras import hand_over_disks, new_extras, prepare_overlays, restored_extras
from harness.machine.hardware.arches import ARCHES
from harness.machine.hardware.spec import MachineSpec, unsaveable
from harness.machine.power import powered
from harness.machine.qemu.command_line import Memory, Wiring, command_line
from harness.machine.qemu.layers import Layer
from harness.store import Store

EXTRAS = (
    "disk=64M,disk=65M:4k,disk=66M:512e,serial=emulated,disk=67M:scsi,wwn=0x5000c50000000001,disk=68M:scsi,4k,"
    "disk=69M:mpath,disk=70M:mpath,wwn=0x5000c50000000002,serial=paths"
)
NVME = "disk=71M:nvme,disk=72M:nvme,4k,serial=express"


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def image(tmp_path) -> Path:
    disk = tmp_path / "disk, with a comma.raw"
    disk.write_bytes(bytes(2**20))
    return disk


@pytest.fixture
def started(image, store, tmp_path):
    """QEMUs with nothing to boot; each runs as long as its `with`."""

    def start(spec, config=None):
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        extras = new_extras(spec, scratch)
        flash = image if spec.firmware == "uefi" else None

        def argv(ends):
            wiring = Wiring(*ends, [Layer(image, "raw")], config, None, flash)
            wiring = replace(wiring, disks=extras.disks, fw_cfg=extras.fw_cfg)
            return without_flash(command_line(spec, "tcg", wiring))

        return powered(argv, scratch, tmp_path / "log", allowed=["no-bootable-device"])

    return start


def without_flash(argv):
    """The firmware of other architectures need not be installed to see what QEMU says to the rest."""
    return [word.replace(",pflash0=code,pflash1=variables", "") for word in argv]


def tree_of(parts):
    """The devices as QEMU has them: one mapping of properties each, with `kind`."""
    devices = []
    for line in parts.qmp.hmp("info qtree").splitlines():
        words = line.strip()
        if words.startswith("dev: "):
            devices.append({"kind": words[5:].partition(",")[0]})
        elif devices and " = " in words and not words.startswith("bus"):
            name, _, value = words.partition(" = ")
            devices[-1].setdefault(name, value.partition(" (")[0].strip('"'))
    return devices


def test_qemu_takes_every_kind_of_disk_and_card(started):
    spec = MachineSpec.parse(f"mpath,memory=128,{EXTRAS},{NVME},nics=3,forward=80,fw_cfg=opt/org.example/a:b")
    with started(spec) as parts:
        tree = tree_of(parts)
        ports = parts.qmp.forwarded()
    disks = [device for device in tree if device["kind"] in {"virtio-blk-device", "scsi-hd", "nvme"}]
    facts = ("kind", "serial", "logical_block_size", "physical_block_size", "wwn")
    found = [tuple(disk.get(name, "0") for name in facts) for disk in disks]
    assert sorted(found) == sorted(
        [
            *[("scsi-hd", "primary-disk", "512", "512", str(0x3 << 60))] * 2,
            ("virtio-blk-device", "disk-1", "512", "512", "0"),
            ("virtio-blk-device", "disk-2", "4096", "4096", "0"),
            ("virtio-blk-device", "emulated", "512", "4096", "0"),
            ("scsi-hd", "disk-4", "512", "512", str(0x5000C50000000001)),
            ("scsi-hd", "disk-5", "4096", "4096", "0"),
            *[("scsi-hd", "disk-6", "512", "512", str((0x3 << 60) + 6))] * 2,
            *[("scsi-hd", "paths", "512", "512", str(0x5000C50000000002))] * 2,
            ("nvme", "disk-8", "512", "512", "0"),
            ("nvme", "express", "4096", "4096", "0"),
        ]
    )
    cards = [device["mac"] for device in tree if device["kind"] == "virtio-net-device"]
    assert sorted(cards) == [f"52:54:00:12:34:{last}" for last in ("56", "57", "58")]
    assert sorted(ports) == [22, 80]
    assert len(set(ports.values())) == 2


def test_a_spec_that_says_nothing_is_the_machine_it_always_was(image):
    argv = command_line(MachineSpec(), "tcg", Wiring(3, 4, 5, 9, [Layer(image, "raw")]))
    devices = [word.partition(",")[0] for option, word in pairwise(argv) if option == "-device"]
    assert devices == ["virtio-blk-pci", "virtio-serial-pci", *3 * ["virtserialport"], "virtio-net-pci",
                       "virtio-rng-pci", "vmgenid"]  # fmt: skip


def saved_and_restored(spec, image, tmp_path):
    """Save a machine that has nothing to boot, restore it as snapshots are, and return how it then is."""
    first, folder, second = (tmp_path / name for name in ("first", "folder", "second"))
    for each in (first, folder, second):
        each.mkdir()
    bottom = Layer(image, "raw")
    extras = new_extras(spec, first)

    def argv(ends):
        memory = Memory(folder / "ram", is_shared=True)
        wiring = Wiring(*ends, [bottom], None, memory, disks=extras.disks, fw_cfg=extras.fw_cfg)
        return command_line(spec, "tcg", wiring)

    with powered(argv, first, tmp_path / "first.log", allowed=["no-bootable-device"]) as parts:
        parts.qmp.allow_shared_memory()
        parts.qmp.migrate("migrate", f"exec:cat > {folder / 'state'}", Deadline(60))
        parts.qmp.execute("quit")
        parts.process.wait(Deadline(30))
    hand_over_disks(first, folder)
    prepare_overlays(spec, folder)
    (folder / "disk-6.raw").open("r+b").write(b"first boot")
    kept = restored_extras(spec, folder, second)

    def restoring(ends):
        memory = Memory(folder / "ram", is_shared=False)
        wiring = Wiring(*ends, [bottom], None, memory, is_incoming=True)
        wiring = replace(wiring, disks=kept.disks, fw_cfg=kept.fw_cfg)
        return command_line(spec, "tcg", wiring)

    with (
        (folder / "state").open("rb") as state,
        powered(
            restoring, second, tmp_path / "second.log", allowed=["no-bootable-device"], keep_open=[state.fileno()]
        ) as parts,
    ):
        parts.qmp.allow_shared_memory()
        parts.qmp.migrate("migrate-incoming", f"fd:{state.fileno()}", Deadline(60))
        # Two paths share their disk with other writers, so that we may be a third.
        parts.qmp.hmp('qemu-io disk6-1 "write -P 0x78 0 512"')
        return parts.qmp.execute("query-status")["status"], folder


def test_qemu_restores_all_these_disks_and_leaves_what_was_kept_alone(image, tmp_path):
    """What one restored machine writes goes to its own overlay."""
    spec = MachineSpec.parse(f"mpath,memory=128,{EXTRAS},nics=3,fw_cfg=opt/org.example/a:b")
    assert unsaveable(spec) == ""
    status, folder = saved_and_restored(spec, image, tmp_path)
    assert status == "running"
    assert (folder / "disk-6.raw").open("rb").read(10) == b"first boot"
    assert (tmp_path / "second/disk-6.qcow2").stat().st_size > (folder / "disk-6.qcow2").stat().st_size


@pytest.mark.parametrize("words", ["nvme", "disk=64M:nvme"])
def test_qemu_refuses_to_save_exactly_what_we_call_unsaveable(words, image, tmp_path):
    spec = MachineSpec.parse(f"memory=128,{words}")
    assert unsaveable(spec)
    with pytest.raises(MachineFailed, match="non-migratable device"):
        saved_and_restored(spec, image, tmp_path)


@pytest.mark.parametrize("arch", [name for name in ARCHES if name != "x86_64"])
def test_qemu_takes_the_command_line_of_other_architectures(arch, started, tmp_path):
    """The disks it can have, its own console, and Ignition delivered the way its CoreOS looks for it."""
    row = ARCHES[arch]
    if not shutil.which(row.program):
        pytest.skip(f"{row.program} is not installed")
    config = tmp_path / "config.ign"
    config.write_text("{}")
    others = "".join(f",disk=64M:{bus}" for bus in row.buses)
    try:
        machine = started(MachineSpec.parse(f"arch={arch},memory=256,mpath{others},nics=2,forward=80"), config)
        with machine as parts:
            tree, status = tree_of(parts), parts.qmp.execute("query-status")["status"]
            ports = parts.qmp.forwarded()
    except (BadInput, MissingTool) as missing:
        pytest.skip(str(missing))
    kinds = {device["kind"] for device in tree}
    serials = {device.get("serial") for device in tree}
    assert status == "running"
    assert {f"virtio-{kind}-{row.devices}" for kind in ("blk", "scsi", "net", "serial", "rng")} <= kinds
    assert ("ignition" in serials) == (row.ignition_by == "disk")
    assert sorted(ports) == [22, 80]


@pytest.mark.parametrize("arch, by", [("x86_64", "fw_cfg"), ("ppc64le", "disk"), ("s390x", "disk")])
def test_ignition_gets_its_config_where_it_looks(arch, by, image, tmp_path):
    config = tmp_path / "config, with a comma.ign"
    argv = command_line(MachineSpec.parse(f"arch={arch}"), "tcg", Wiring(3, 4, 5, 9, [Layer(image, "raw")], config))
    ways = {
        "fw_cfg": [word for word in argv if word.startswith("name=opt/com.coreos/config,")],
        "disk": [word for word in argv if word.endswith("drive=config,serial=ignition")],
    }
    assert [way for way, words in ways.items() if words] == [by]


def test_a_foreign_machine_is_never_given_kvm():
    kvm = Accel("kvm", "kvm: asked for")
    names = {arch: for_machine(MachineSpec.parse(f"arch={arch}"), kvm).name for arch in ARCHES}
    assert names == dict.fromkeys(ARCHES, "tcg") | {platform.machine(): "kvm"}
