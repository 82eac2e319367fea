"""Machines as values and in words: `--machine`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.machine.hardware.arches import ARCHES
from harness.machine.hardware.disks import Disk
from harness.machine.hardware.spec import FwCfg, MachineSpec, unsaveable

GIB = 2**30
CHECKOUT = Path(__file__).parents[2]
PARSED = {
    "bios": MachineSpec(),
    "uefi": MachineSpec(firmware="uefi"),
    "memory=2048,cpus=4": MachineSpec(memory=2048, cpus=4),
    "memory=2G": MachineSpec(memory=2048),
    "nvme": MachineSpec(primary=Disk(bus="nvme")),
    "cd,disk=5G": MachineSpec(primary=Disk(bus="cd"), disks=(Disk(5 * GIB),)),
    "uefi,4k": MachineSpec(firmware="uefi", primary=Disk(sectors="4k")),
    "mpath,wwn=0x10": MachineSpec(primary=Disk(bus="scsi", is_multipath=True, wwn=16)),
    "disk=5G:mpath,disk=1G": MachineSpec(disks=(Disk(5 * GIB, "scsi", is_multipath=True), Disk(GIB))),
    "nics=0": MachineSpec(nics=0),
    "disk=5G,4k,nvme,nics=2": MachineSpec(disks=(Disk(5 * GIB, "nvme", "4k"),), nics=2),
    "scsi,disk=1G:serial=a,512e": MachineSpec(primary=Disk(bus="scsi"), disks=(Disk(GIB, sectors="512e", serial="a"),)),
    "forward=80,forward=443": MachineSpec(forwards=(80, 443)),
    "fw_cfg=opt/org.example/a:b=c": MachineSpec(fw_cfg=(FwCfg("opt/org.example/a", b"b=c"),)),
    "arch=aarch64": MachineSpec(arch="aarch64", firmware="uefi"),
    "arch=s390x,scsi": MachineSpec(arch="s390x", primary=Disk(bus="scsi")),
    "uefi,nvme,memory=2048,cpus=4,disk=5G:mpath,nics=2": MachineSpec(
        memory=2048,
        cpus=4,
        firmware="uefi",
        primary=Disk(bus="nvme"),
        disks=(Disk(5 * GIB, "scsi", is_multipath=True),),
        nics=2,
    ),
}
REFUSED = {
    "": "unknown machine word ''",
    "flux": "unknown machine word 'flux'",
    "uefi,bios": "repeats or contradicts",
    "cpus=2,cpus=2": "repeats or contradicts",
    "nvme,scsi": "repeats or contradicts",
    "4k": "SeaBIOS cannot boot from sectors of 4 KiB",
    "cd,512e": "a CD has no sectors of 512e",
    "arch=aarch64,cd": "aarch64 has no disks on cd",
    "memory=16": "too small",
    "memory=99999999T": "too large",
    "memory=lots": "memory takes a number",
    "cpus=two": "cpus takes a number",
    "cpus=0": "0 cpus cannot be had",
    "nics=0,forward=80": "no port leads into a machine without a network card",
    "nics=9": "9 network cards cannot be had",
    "disk=": "cannot be a size",
    "disk=@": "is no file",
    "disk=@/nonexistent/data.qcow2:serial=data": "/nonexistent/data.qcow2: is no file",
    "disk=@/dev/zero": "is no file",
    "disk=5G:": "unknown disk option ''",
    ",".join(["disk=1G"] * 17): "17 disks are too many",
    "forward=22": "cannot be forwarded",
    "forward=0": "cannot be forwarded",
    "forward=65536": "cannot be forwarded",
    "forward=80,forward=80": "forwarded twice",
    "arch=pdp11": "unknown architecture 'pdp11'",
    "arch=aarch64,bios": "aarch64 has no firmware 'bios'",
    "arch=ppc64le,uefi": "ppc64le has no firmware 'uefi'",
    "arch=s390x,nvme": "s390x has no disks on nvme",
    "fw_cfg=etc/passwd:x": "cannot be a fw_cfg name",
    "fw_cfg=opt/com.coreos/config:x": "cannot be a fw_cfg name",
    "fw_cfg=opt/x": "has 0 bytes",
    "fw_cfg=opt/x:@/nonexistent": "'/nonexistent': cannot be read",
    "fw_cfg=opt/x:@\0": "cannot be read",
    "fw_cfg=opt/x:@/dev/zero": "has 1048577 bytes",
    "fw_cfg=opt/x:1,fw_cfg=opt/x:2": "same name",
}


@pytest.mark.parametrize("text", PARSED)
def test_a_machine_is_what_the_words_say(text):
    assert MachineSpec.parse(text) == PARSED[text]


@pytest.mark.parametrize("text", REFUSED)
def test_a_machine_that_cannot_be_had_is_refused_in_one_line(text):
    with pytest.raises(BadInput, match=REFUSED[text]) as refusal:
        MachineSpec.parse(text)
    assert len(str(refusal.value).splitlines()) == 1


@given(st.text(max_size=60) | st.lists(st.sampled_from([*PARSED, *REFUSED, "disk=1G"]), max_size=4).map(",".join))
def test_whatever_is_typed_is_a_machine_or_refused(text):
    try:
        said = MachineSpec.parse(text).describe()
    except BadInput as refusal:
        said = str(refusal)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"memory": 16},
        {"cpus": 1000},
        {"firmware": "coreboot"},
        {"arch": "pdp11"},
        {"primary": Disk(GIB)},
        {"disks": (Disk(),)},
        {"arch": "aarch64"},
    ],
    ids=str,
)
def test_a_value_that_cannot_be_had_is_refused(fields):
    with pytest.raises(BadInput):
        MachineSpec(**fields)


def test_a_spec_is_a_value_whose_key_json_can_hold():
    specs = list(PARSED.values())
    keys = [json.dumps(spec.key(), sort_keys=True) for spec in specs]
    distinct = {json.dumps(spec.key(), sort_keys=True) for spec in set(specs)}
    assert len(set(keys)) == len(distinct) == len(set(specs))


def test_the_key_follows_the_content_of_a_fw_cfg_file(tmp_path):
    file = tmp_path / "given"
    keys = []
    for content in ("one", "two"):
        file.write_text(content)
        keys.append(MachineSpec.parse(f"fw_cfg=opt/x:@{file}").key())
    assert keys[0] != keys[1]


def test_a_disk_out_of_a_file_is_known_by_what_it_holds(tmp_path):
    specs = []
    for name, content in (("one", b"x"), ("same", b"x"), ("other", b"y")):
        (tmp_path / name).write_bytes(content * 2**20)
        specs.append(MachineSpec.parse(f"disk=@{tmp_path / name}:serial=data"))
    one, same, other = specs
    assert one.disks[0].size == 2**20
    assert one.describe().endswith("1M virtio disk out of one (serial data)")
    assert one == same != other
    assert json.dumps(one.key()) == json.dumps(same.key()) != json.dumps(other.key())


def test_a_machine_tells_what_is_not_usual_about_it():
    assert MachineSpec().describe() == "x86_64 bios, 2 cpus, 1024 MiB"
    text = "uefi,nvme,disk=5G:mpath,nics=2,forward=80,fw_cfg=opt/org.example/a:b"
    assert MachineSpec.parse(text).describe() == (
        "x86_64 uefi, 2 cpus, 1024 MiB, boots from nvme disk, 5G scsi disk with two paths, 2 network cards, "
        "port 80 forwarded, fw_cfg opt/org.example/a"
    )


SAVED_OR_NOT = ("uefi", "scsi", "mpath", "nvme", "disk=1G:nvme", "arch=aarch64", "arch=aarch64,nvme")


def test_only_what_qemu_can_save_and_we_have_tried_is_restored():
    told = {text: unsaveable(MachineSpec.parse(text)) for text in SAVED_OR_NOT}
    nvme = "QEMU cannot save NVMe disks"
    assert told == dict.fromkeys(SAVED_OR_NOT, "") | {"nvme": nvme, "disk=1G:nvme": nvme, "arch=aarch64,nvme": nvme}
    untried = [name for name, arch in ARCHES.items() if not arch.is_tried]
    assert untried == ["ppc64le", "s390x"]
    assert all("never been tried" in unsaveable(MachineSpec.parse(f"arch={name}")) for name in untried)


def pytest_run(*options):
    command = [sys.executable, "-m", "pytest", "suites/harness/test_errors.py", "-q", "--collect-only", *options]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_a_machine_that_cannot_be_had_ends_the_run_in_one_line():
    done = pytest_run("--machine", "uefi,warp=9")
    said = [line for line in (done.stdout + done.stderr).splitlines() if "warp" in line]
    assert done.returncode == BadInput.exit_code
    assert len(said) == 1
    assert "--machine: unknown machine word 'warp=9'" in said[0]
    assert "Traceback" not in done.stdout + done.stderr


def test_the_header_says_what_cannot_be_restored():
    done = pytest_run("-v", "--machine", "uefi,nvme")
    assert (
        "machine: x86_64 uefi, 2 cpus, 1024 MiB, boots from nvme disk; QEMU cannot save NVMe disks: every fresh "
        "machine boots" in done.stdout
    )
