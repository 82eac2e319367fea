"""Published digests: three dialects, and what is wrong with them said in one line."""

import json

import pytest

from harness.errors import BadInput
from harness.release.published import read_published

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


def test_checksum_files_are_read(tmp_path):
    path = tmp_path / "sha256sum.txt"
    path.write_text(f"{B}  other.iso\n{A} *{NAME}\n")
    assert read_published(path, NAME).sha256 == A


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "says nothing about"),
        ("{", "is not JSON"),
        ("{}", "says nothing about"),
        ('{"images": 7, "architectures": [1]}', "says nothing about"),
        ('{"images": {"qemu": {"path": 3, "sha256": []}}}', "says nothing about"),
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
