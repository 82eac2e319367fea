"""Published digests: three dialects, and what is wrong with them said in one line."""

import json

import pytest

from harness.errors import BadInput
from harness.release.published import read_all_published, read_published

A, B = "a" * 64, "b" * 64
NAME = "rhcos-qemu.x86_64.qcow2"


def meta(**entry):
    return json.dumps({"images": {"qemu": {"path": f"{NAME}.gz", "sha256": A, **entry}}})


STREAM = json.dumps(
    {
        "architectures": {
            "x86_64": {
                "artifacts": {
                    "qemu": {
                        "formats": {
                            "qcow2.gz": {
                                "disk": {"location": f"{{base}}/{NAME}.gz", "sha256": A, "uncompressed-sha256": B}
                            }
                        }
                    }
                }
            }
        }
    }
)


@pytest.mark.parametrize(
    "text",
    [meta(size=5, **{"uncompressed-sha256": B}), meta(size="5", **{"uncompressed-sha256": B}), STREAM],
    ids=["meta.json", "legacy with sizes as strings", "stream"],
)
@pytest.mark.parametrize("name", [NAME, f"{NAME}.gz"])
def test_digests_are_found_by_either_name(tmp_path, text, name):
    path = tmp_path / "metadata"
    path.write_text(text)
    found = read_published(path, name)
    assert (found.name, found.sha256, found.uncompressed_sha256) == (f"{NAME}.gz", A, B)


@pytest.mark.parametrize(
    "line",
    [f"{A}  {NAME}", f"{A} *{NAME}", f"{A.upper()}  {NAME}", f"{A}  ./{NAME}", f"SHA256 ({NAME}) = {A}"],
    ids=["text", "binary", "capitals", "with folder", "BSD"],
)
def test_checksum_files_are_read(tmp_path, line):
    path = tmp_path / "sha256sum.txt"
    path.write_text(f"{B}  other.iso\n{line}\n")
    assert read_published(path, NAME).sha256 == A


def test_an_entry_of_the_very_name_comes_before_one_of_its_packed_form(tmp_path):
    path = tmp_path / "sha256sum.txt"
    path.write_text(f"{A}  {NAME}.gz\n{B}  {NAME}\n")
    assert (read_published(path, NAME).sha256, read_published(path, f"{NAME}.gz").sha256) == (B, A)


@pytest.mark.parametrize("file", ["sha256sum.txt", "sha256sum_correct_4.13.0.txt.sig"])
def test_real_checksum_files_are_read_also_clearsigned(corpus, file):
    found = read_all_published(corpus / "crc" / file)
    assert [entry.name for entry in found][:2] == [
        "crc_hyperv_4.13.0_amd64.crcbundle", "crc_libvirt_4.13.0_amd64.crcbundle"
    ]  # fmt: skip
    assert len(found) == 4


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "says nothing about"),
        ("{", "is not JSON"),
        ("{}", "publishes no images"),
        ("[]", "the document is not an object"),
        ('{"images": 7}', "images is not an object"),
        ('{"images": {"qemu": {"path": 3, "sha256": []}}}', "images.qemu.path is not a short printable text"),
        ('{"images": {"qemu": {"path": "a", "sha256": "b"}}}', "images.qemu.sha256 is not a SHA-256"),
        ('{"images": {}}', "says nothing about"),
    ],
)
def test_useless_metadata_is_one_clear_error(tmp_path, text, words):
    path = tmp_path / "metadata"
    path.write_text(text)
    with pytest.raises(BadInput, match=words):
        read_published(path, NAME)


@pytest.mark.parametrize(
    "file,image",
    [
        ("stream-metadata/fcos-stable-20260721.json", "fedora-coreos-44.20260707.3.1-qemu.x86_64.qcow2"),
        ("cosa/meta-fcos-31.json", None),
        ("cosa/meta-rhcos-44devel.json", None),
    ],
)
def test_real_metadata_is_read(corpus, file, image):
    if image is None:
        image = json.loads((corpus / file).read_text())["images"]["qemu"]["path"]
    found = read_published(corpus / file, image)
    assert len(found.sha256) == len(found.uncompressed_sha256) == 64
