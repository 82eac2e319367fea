"""One disk in every container: the same content, the same bytes every time, and headers as each platform wants them."""

import gzip
import hashlib
import json
import subprocess
import tarfile
import xml.etree.ElementTree as ET

import pytest

from harness.errors import BadInput, ToolFailed, UnsupportedImage
from harness.images.edits.archives import Guest, ovf_text
from harness.images.edits.convert import convert
from harness.images.edits.marks import digest_of, set_marks, uuid_of
from harness.images.edits.shapes import FORMATS, PLATFORMS, VIRTUALBOX, VMWARE, shape_of
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.harness.edited import sha256
from suites.harness.small_disk import MIB, small_disk
from suites.harness.test_cli import run_harness

KINDS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}  # as QEMU calls them
QEMU_READS = [name for name in (*FORMATS, "nutanix") if shape_of(name).container in KINDS]
OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("convert"))


@pytest.fixture(scope="module")
def converted(disk, tmp_path_factory):
    """Each format made once, with what the conversion said."""
    folder, made = tmp_path_factory.mktemp("converted"), {}

    def make(name):
        if name not in made:
            target = folder / f"disk.{name}"
            made[name] = (target, convert(disk, name, target))
        return made[name][0]

    return make


def info(path, kind):
    return json.loads(run(["qemu-img", "info", "-f", kind, "--output=json", path]))


@pytest.mark.parametrize("name", QEMU_READS)
def test_qemu_reads_the_same_disk(name, disk, converted):
    kind = KINDS[shape_of(name).container]
    run(["qemu-img", "compare", "-f", "raw", "-F", kind, disk, converted(name)])
    assert info(converted(name), kind)["virtual-size"] == 48 * MIB


@pytest.mark.parametrize("name", ["qcow2", "nutanix", "vhdx", "vmdk", "vmdk-sparse"])
def test_qemu_finds_nothing_wrong(name, converted):
    run(["qemu-img", "check", "-f", KINDS[shape_of(name).container], converted(name)])


@pytest.mark.parametrize("name", [*FORMATS, "nutanix", "virtualbox"])
def test_the_same_disk_gives_the_same_bytes_from_any_container_under_any_name(name, disk, converted, tmp_path):
    other = converted("nutanix")
    convert(other, name, tmp_path / "quite another name")
    assert sha256(tmp_path / "quite another name") == sha256(converted(name))


@pytest.mark.parametrize("name", ["vmdk", "vhd", "vhdx"])
def test_another_disk_is_told_apart(name, disk, converted, tmp_path):
    """What is made up follows from the content: two disks do not get one identifier."""
    other = tmp_path / "other.img"
    other.write_bytes(disk.read_bytes()[:-1] + b"x")
    convert(other, name, tmp_path / "made")
    kind = KINDS[name]
    mine, its = (identifier(path, kind) for path in (converted(name), tmp_path / "made"))
    assert mine != its


def identifier(path, kind):
    raw = path.read_bytes()
    if kind == "vmdk":
        return raw.split(b"\nCID=")[1][:8]
    return raw[-512:][68:84] if kind == "vpc" else raw[64 * 1024 + 16 : 64 * 1024 + 48]


def test_a_vmdk_is_as_aws_wants_it(converted):
    facts = info(converted("vmdk"), "vmdk")["format-specific"]["data"]
    text = converted("vmdk").read_bytes()[512 : 21 * 512]
    assert facts["create-type"] == "streamOptimized"
    assert facts["extents"][0]["compressed"] is True
    assert facts["parent-cid"] == 0xFFFFFFFF
    for line in (b'ddb.adapterType = "lsilogic"', b'ddb.virtualHWVersion = "6"', b'SPARSE "disk.vmdk"'):
        assert line in text
    assert converted("vmdk").stat().st_size % 512 == 0


def test_a_vhd_is_as_azure_wants_it(converted):
    path = converted("vhd")
    assert path.stat().st_size == 48 * MIB + 512
    footer = path.read_bytes()[-512:]
    assert (footer[:8], footer[24:28]) == (b"conectix", bytes(4))
    summed = ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF
    assert int.from_bytes(footer[64:68], "big") == summed


def test_a_dynamic_vhd_begins_with_its_footer(converted):
    raw = converted("vhd-dynamic").read_bytes()
    assert raw[:512] == raw[-512:]


def test_a_vhdx_has_an_empty_log_and_two_good_headers(converted):
    raw = converted("vhdx").read_bytes()
    first, second = raw[64 * 1024 :][:4096], raw[128 * 1024 :][:4096]
    assert {int.from_bytes(header[8:16], "little") for header in (first, second)} == {1, 2}
    assert not any(raw[MIB : 2 * MIB])


@pytest.mark.parametrize("name", ["qemu", "openstack", "nutanix"])
def test_a_qcow2_has_the_properties_coreos_ships(name, disk, tmp_path):
    convert(disk, name, tmp_path / "made")
    facts = info(tmp_path / "made", "qcow2")
    data = facts["format-specific"]["data"]
    assert (facts["cluster-size"], data["compat"], data["refcount-bits"]) == (65536, "1.1", 16)
    assert (tmp_path / "made").read_bytes()[100:104] == (112).to_bytes(4, "big")


def test_a_gcp_archive_is_one_sparse_old_gnu_member(disk, converted, tmp_path):
    path = converted("tar.gz")
    assert path.read_bytes()[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03", "no name, no time, best compression"
    head = gzip.decompress(path.read_bytes())[:512]
    assert (head[:8], head[156:157], head[257:265]) == (b"disk.raw", b"S", b"ustar  \0")
    with tarfile.open(path) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.size, member.mtime, member.uid) == ("disk.raw", 48 * MIB, 0, 0)
    run(["tar", "-xzf", path, "-C", tmp_path])
    assert sha256(tmp_path / "disk.raw") == sha256(disk)


def test_holes_do_not_show_in_a_gcp_archive(disk, converted, tmp_path):
    full = tmp_path / "full.img"
    full.write_bytes(disk.read_bytes())
    convert(full, "gcp", tmp_path / "made.tar.gz")
    assert sha256(tmp_path / "made.tar.gz") == sha256(converted("tar.gz"))


@pytest.mark.parametrize(
    "platform,system,controller", [("vmware", "vmx-17", "6"), ("virtualbox", "virtualbox-2.0", "5")]
)
def test_an_ova_is_a_description_and_a_disk(platform, system, controller, disk, tmp_path):
    made = tmp_path / "made.ova"
    convert(disk, platform, made)
    with tarfile.open(made) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == ["coreos.ovf", "disk.vmdk"]
        assert {(member.uid, member.gid, member.uname, member.mtime, member.mode) for member in members} == {
            (0, 0, "", 0, 0o644)
        }
        ovf, vmdk = (archive.extractfile(member).read() for member in members)
    assert made.read_bytes()[257:265] == b"ustar\x0000"
    assert made.stat().st_size % 10240 == 0
    (tmp_path / "disk.vmdk").write_bytes(vmdk)
    run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, tmp_path / "disk.vmdk"])
    root = ET.fromstring(ovf)
    assert root.find(f".//{OVF}File").get(f"{OVF}size") == str(len(vmdk))
    assert root.find(f".//{OVF}Disk").get(f"{OVF}capacity") == str(48 * MIB)
    assert root.find(f".//{OVF}VirtualHardwareSection").get(f"{OVF}transport") == "com.vmware.guestInfo"
    texts = [element.text for element in root.iter()]
    assert system in texts
    assert controller in texts
    assert "Small OS 1" in texts


def test_what_an_image_says_of_itself_cannot_break_the_description():
    text = ovf_text(1, 2, VMWARE, Guest("x", '<evil attribute="&">$name'))
    assert '<evil attribute="&">$name' in [element.text for element in ET.fromstring(text).iter()]
    assert "ResourceSubType>PIIX4" in ovf_text(1, 2, VIRTUALBOX, Guest())


@pytest.fixture
def chain(disk, tmp_path):
    """A base, a layer on it and a layer on that, each with writes of its own."""
    base, middle, top = (tmp_path / name for name in ("test1-base", "middle.qcow2", "test1-master-0"))
    run(["qemu-img", "convert", "-O", "qcow2", "-o", "compat=0.10", disk, base])
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", middle])
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", "-b", middle, "-F", "qcow2", top, "50M"])
    for path, orders in ((middle, "write -P 7 20M 1M"), (top, "write -P 9 20500k 100k"), (top, "write -P 3 49M 64k")):
        run(["qemu-io", "-f", "qcow2", "-c", orders, path])
    return base, middle, top


def test_a_chain_is_flattened_over_the_bases_that_are_named(chain, tmp_path):
    base, middle, top = chain
    convert(top, "qcow2", tmp_path / "flat.qcow2", bases=[middle, base])
    facts = info(tmp_path / "flat.qcow2", "qcow2")
    assert "backing-filename" not in facts
    assert facts["format-specific"]["data"]["compat"] == "1.1"
    run(["qemu-img", "compare", top, tmp_path / "flat.qcow2"])


def test_a_base_that_nobody_named_is_not_opened(chain, tmp_path):
    _, middle, top = chain
    with pytest.raises(UnsupportedImage, match="backing file"):
        convert(top, "qcow2", tmp_path / "flat.qcow2")
    with pytest.raises(UnsupportedImage, match="backing file"):
        convert(top, "qcow2", tmp_path / "flat.qcow2", bases=[middle])
    assert not (tmp_path / "flat.qcow2").exists()


def test_a_base_for_an_image_that_is_whole_is_a_mistake(disk, chain, tmp_path):
    with pytest.raises(BadInput, match="needs no base"):
        convert(disk, "qcow2", tmp_path / "flat.qcow2", bases=[chain[0]])


def test_sources_are_never_written_to(disk, chain, tmp_path):
    before = [sha256(path) for path in (disk, *chain)]
    convert(disk, "vmdk", tmp_path / "a")
    convert(chain[2], "vhdx", tmp_path / "b", bases=chain[1::-1])
    assert [sha256(path) for path in (disk, *chain)] == before
    with pytest.raises(BadInput, match="is the image itself"):
        convert(chain[2], "raw", chain[0], bases=chain[1::-1])


@pytest.mark.parametrize("name", ["json:{}", "nbd:x", "a,b=c", "-o", "x?y"])
def test_names_that_mean_something_to_the_tools_are_only_names(name, disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source, target = tmp_path / f"{name}.img", tmp_path / name
    source.write_bytes(disk.read_bytes())
    for to in ("vmdk", "gcp", "vmware"):
        convert(source.relative_to(tmp_path), to, target.relative_to(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.img"}


def test_every_platform_of_coreos_has_its_container():
    assert {name: shape.container for name, shape in PLATFORMS.items() if shape.container != "qcow2"} == {
        "aws": "vmdk", "azure": "vhd", "azurestack": "vhd", "hyperv": "vhdx", "gcp": "tar.gz", "vmware": "ova",
        "virtualbox": "ova", "metal": "raw", "vultr": "raw", "hetzner": "raw", "applehv": "raw",
    }  # fmt: skip


def test_help_names_every_platform_and_format():
    said = run_harness("convert", "--help").stdout.split()
    assert set(PLATFORMS) | set(FORMATS) <= set(said)


def test_an_unknown_platform_is_answered_with_the_known_ones(disk, tmp_path):
    with pytest.raises(BadInput, match=r"'azur' is neither .*azure"):
        convert(disk, "azur", tmp_path / "x")


@pytest.mark.parametrize("container", ["vmdk", "vhd", "vhdx"])
def test_a_file_qemu_did_not_write_is_not_rewritten(container, tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(4 * MIB))
    with pytest.raises(ToolFailed, match="that we do not understand"):
        set_marks(path, container, bytes(32))
    assert path.read_bytes() == bytes(4 * MIB)


def test_holes_and_zeroes_count_the_same(tmp_path):
    content = bytes(MIB) + b"x" * 70_000 + bytes(MIB)
    full, holes = tmp_path / "full", tmp_path / "holes"
    full.write_bytes(content)
    run(["cp", "--sparse=always", full, holes])
    with FileBlock(full) as one, FileBlock(holes) as other:
        assert digest_of(one) == digest_of(other)


def test_identifiers_are_uuids():
    made = uuid_of(hashlib.sha256(b"").digest())
    assert (made.version, made.variant) == (8, "specified in RFC 4122")


def test_the_command_converts_and_warns_of_another_platform(disk, tmp_path):
    done = run_harness("convert", disk, "--to", "azure", "-o", tmp_path / "made.vhd")
    assert done.returncode == 0, done.stderr
    assert "is for qemu; first: harness edit platform" in done.stderr
    assert f"file      {48 * MIB + 512:,} bytes" in done.stdout
    again = run_harness("convert", disk, "--to", "azure", "-o", tmp_path / "made.vhd")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)


def test_the_command_flattens(chain, tmp_path):
    base, middle, top = chain
    done = run_harness("convert", top, "--to", "raw", "-o", tmp_path / "flat", "--base", middle, "--base", base)
    assert done.returncode == 0, done.stderr
    subprocess.run(["qemu-img", "compare", "-F", "raw", top, tmp_path / "flat"], check=True, capture_output=True)


def test_the_reference_image_is_what_its_conversion_to_qcow2_gives(reference, tmp_path):
    convert(reference.path, "qcow2", tmp_path / "again.qcow2")
    assert sha256(tmp_path / "again.qcow2") == reference.sha256_qcow2
