"""OVAs as CoreOS' tools lay them out, with a VMDK of qemu-img inside; then wrong and hostile descriptors."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.formats.ova import Descriptor, read_descriptor
from harness.images.inspection import inspect
from harness.images.manifest import from_json, to_json
from harness.images.manifest_text import render
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image

MIB = 2**20
SIZE = 16 * MIB
FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
OVF = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References><File ovf:href="{href}" ovf:id="file1" ovf:size="{bytes}"/></References>
  <DiskSection><Info>disks</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="{unit}" ovf:diskId="vmdisk1" ovf:fileRef="file1"
      ovf:format="{format}"/></DiskSection>
  <VirtualSystem ovf:id="some-os"><Info>A machine</Info><Name>Some OS</Name>
    <OperatingSystemSection ovf:id="80" vmw:osType="rhel8_64Guest"><Info>os</Info></OperatingSystemSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo"><Info>hardware</Info>
      <System><vssd:ElementName>Family</vssd:ElementName>
        <vssd:VirtualSystemType>vmx-15</vssd:VirtualSystemType></System>
    </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""


def descriptor(**changes) -> str:
    return OVF.format(**{"href": "disk.vmdk", "bytes": 1, "capacity": 1, "unit": "byte", "format": FORMAT, **changes})


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A folder with a disk, and its VMDK as CoreOS ships it."""
    folder = tmp_path_factory.mktemp("ova")
    disk = folder / "disk.raw"
    disk.touch()
    os.truncate(disk, SIZE)
    subprocess.run(["/usr/sbin/sfdisk", "-q", disk], input=b"label: gpt\nsize=4MiB, name=boot\n", check=True)
    with disk.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(random.Random(1).randbytes(300_000))
    subprocess.run(
        ["qemu-img", "convert", "-O", "vmdk", "-o", "adapter_type=lsilogic,compat6,subformat=streamOptimized",
         disk, folder / "disk.vmdk"], check=True, capture_output=True,
    )  # fmt: skip
    return folder


def pack(parts: Path, made: Path, ovf: str, *names: str) -> Path:
    (parts / "some.ovf").write_text(ovf)
    argv = ["tar", "-C", parts, "--format=ustar", "--owner=0", "--group=0", "-cf", made]
    subprocess.run([*argv, "some.ovf", *(names or ("disk.vmdk",))], check=True)
    return made


def right(parts: Path) -> str:
    return descriptor(bytes=(parts / "disk.vmdk").stat().st_size, capacity=SIZE)


def test_the_disk_of_an_ova_is_the_disk_that_was_converted(parts, tmp_path):
    with open_image(pack(parts, tmp_path / "a.ova", right(parts))) as image:
        assert image.container == "ova"
        assert image.block.size == SIZE
        assert image.disk_sha256() == hashlib.sha256((parts / "disk.raw").read_bytes()).hexdigest()
        assert read_layout(image.block).partition("boot").size == 4 * MIB
        assert any(extent.kind != "data" for extent in image.block.extents())


def test_what_the_descriptor_says_is_told_and_agrees(parts, tmp_path):
    with open_image(pack(parts, tmp_path / "a.ova", right(parts))) as image:
        facts = image.block.facts()
        told = {key: value for key, value in facts.items() if not key.startswith("vmdk_")}
        manifest = inspect(image, only=["container", "layout"])
    vmdk_bytes = (parts / "disk.vmdk").stat().st_size
    assert told == {
        "members": "some.ovf, disk.vmdk",
        "dialect": "ustar",
        "owner": "0/0",
        "disk": "disk.vmdk",
        "disk_format": "vmdk",
        "disk_bytes": vmdk_bytes,
        "sparse": False,
        "ovf_name": "Some OS",
        "ovf_disk": "disk.vmdk",
        "ovf_disk_bytes": vmdk_bytes,
        "ovf_capacity": SIZE,
        "ovf_disk_format": FORMAT,
        "ovf_hardware": "vmx-15",
        "ovf_os_type": "rhel8_64Guest",
        "disagreements": None,
    }
    assert facts["vmdk_createType"] == "streamOptimized"
    assert from_json(to_json(manifest)) == manifest
    assert "ovf_hardware vmx-15" in render(manifest)


def test_a_disagreement_is_told_and_no_failure(parts, tmp_path):
    wrong = descriptor(href="../../etc/passwd", bytes=5, capacity=8, unit="byte * 2^30")
    with open_image(pack(parts, tmp_path / "a.ova", wrong)) as image:
        said = image.block.facts()["disagreements"]
        assert image.block.size == SIZE
    vmdk_bytes = (parts / "disk.vmdk").stat().st_size
    assert said == (
        "the descriptor names '../../etc/passwd', the disk is 'disk.vmdk'; "
        f"the descriptor says 5 bytes, the member has {vmdk_bytes:,}; "
        "the descriptor says a capacity of 8,589,934,592 bytes, the disk has 16,777,216"
    )


def test_the_disk_is_the_one_that_the_descriptor_names(parts, tmp_path):
    (parts / "other.vmdk").write_bytes((parts / "disk.vmdk").read_bytes())
    path = pack(parts, tmp_path / "a.ova", descriptor(href="other.vmdk"), "disk.vmdk", "other.vmdk")
    with open_image(path) as image:
        assert image.block.facts()["disk"] == "other.vmdk"
    path = pack(parts, tmp_path / "a.ova", descriptor(href="gone.vmdk"), "disk.vmdk", "other.vmdk")
    with pytest.raises(UnsupportedImage, match="with 2 disks"), open_image(path):
        pass


def test_an_archive_whose_descriptor_comes_last_is_a_plain_tar(parts, tmp_path):
    (parts / "some.ovf").write_text(right(parts))
    path = tmp_path / "a.ova"
    subprocess.run(["tar", "-C", parts, "-cf", path, "disk.vmdk", "some.ovf"], check=True)
    with open_image(path) as image:
        assert (image.container, image.block.size) == ("tar", SIZE)


@pytest.mark.parametrize(
    "capacity, unit, found",
    [
        ("16", "byte * 2^20", 16 * MIB), ("16", "byte*2^30", 2**34), ("512", "byte", 512), ("16", "GigaBytes", None),
        ("-1", "byte", None), ("x", "byte", None), ("9" * 50, "byte", None), ("1", "byte * 2^999", None),
    ],
)  # fmt: skip
def test_a_capacity_is_read_with_its_unit(capacity, unit, found):
    assert read_descriptor(descriptor(capacity=capacity, unit=unit).encode(), "x").capacity == found


def test_a_descriptor_that_says_nothing_gives_nothing():
    assert read_descriptor(b"<Envelope/>", "x") == Descriptor(None, None, None, None, None, None, None)


BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>
<Envelope>&c;</Envelope>"""
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><Envelope><Name>&a;</Name></Envelope>'
HOSTILE = {
    "nothing": (b"", "no OVF descriptor"),
    "no XML": (b"plain text", "no OVF descriptor"),
    "cut": (OVF[:500].encode(), "no OVF descriptor"),
    "a bomb of entities": (BOMB.encode(), "document type"),
    "a bomb in UTF-16": (BOMB.encode("utf-16"), "document type"),
    "an entity from a file": (OUTSIDE.encode(), "document type"),
    "a strange encoding": (b'<?xml version="1.0" encoding="klingon"?><Envelope/>', "no OVF descriptor"),
    "an encoding Python has": (b'<?xml version="1.0" encoding="utf-7"?><Envelope/>', "no OVF descriptor"),
    "too many elements": (b"<a>" + b"<b/>" * 100_001 + b"</a>", "more elements"),
    "too deep": (b"<a>" * 200_000, "more elements"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_descriptor_is_refused_soon(what):
    raw, words = HOSTILE[what]
    started = time.process_time()
    with pytest.raises(DamagedImage, match=words):
        read_descriptor(raw, "some.ovf")
    assert time.process_time() - started < 20


def test_a_descriptor_as_large_as_a_disk_is_refused(parts, tmp_path):
    with (
        pytest.raises(DamagedImage, match="too many for a descriptor"),
        open_image(pack(parts, tmp_path / "a.ova", "<a>" + " " * 2**20)),
    ):
        pass


def test_mutants_of_a_descriptor_raise_only_our_errors():
    dice = random.Random(20261121)
    raw = descriptor().encode()
    for _ in range(3000):
        mutant = bytearray(raw)
        for _ in range(dice.randint(1, 8)):
            mutant[dice.randrange(len(mutant))] = dice.choice([0, 0x3C, 0x26, 0xFF, dice.randint(0, 255)])
        with contextlib.suppress(HarnessError):
            read_descriptor(bytes(mutant), "mutant")


def test_mutants_of_an_ova_raise_only_our_errors_and_soon(parts, tmp_path):
    raw = pack(parts, tmp_path / "a.ova", right(parts)).read_bytes()
    path = tmp_path / "mutant.ova"
    dice = random.Random(1)
    started = time.process_time()
    for _ in range(150):
        mutant = bytearray(raw)
        for _ in range(dice.randint(1, 4)):
            mutant[dice.randrange(0, min(len(mutant), 30_000))] = dice.randint(0, 255)
        path.write_bytes(mutant)
        try:
            with open_image(path) as image:
                image.block.facts()
                if image.block.size <= 2 * SIZE:
                    image.disk_sha256()
        except HarnessError:
            pass
    assert time.process_time() - started < 60
