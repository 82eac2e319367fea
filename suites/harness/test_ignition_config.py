"""Reading Ignition configs: what is recognised, what is refused and how, and what a config says it will write."""

import base64
import gzip
import json

import pytest

from harness.errors import BadInput, InvalidIgnition
from harness.ignition import config as config_module
from harness.ignition.config import File, KernelArguments, Unit, User, read_config


def written(version="3.3.0", **sections):
    return json.dumps({"ignition": {"version": version}, **sections}).encode()


@pytest.mark.parametrize("version", ["2.2.0", "3.0.0", "3.1.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0"])
def test_every_known_spec_is_recognised(version):
    assert read_config(written(version)).spec == version


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"variant: fcos\nversion: 1.3.0\n", "is not JSON: Expecting value (line 1 column 1)"),
        (b'{\n  "ignition": {,\n}', "(line 2 column 16)"),
        (b'{"ignition": {"version": "3.0.0"}} x', "Extra data"),
        (b'{"a": NaN}', "NaN is no JSON value"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[" * 200_000, "is nested too deeply"),
        (b"[" * 900 + b"]" * 900, "is nested too deeply"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "is nested too deeply"),
        (b"[" + b"{}," * 200_000 + b"{}]", "has more than 100,000 values"),
        (b"\x1f\x8b\x08", "is not UTF-8"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"[]", "is JSON but not an object"),
        (b"{}", "$.ignition.version: is missing"),
        (b'{"ignition": []}', "$.ignition.version: is missing"),
        (b'{"ignition": {"version": 3}}', "$.ignition.version: is missing or not a string"),
        (b'{"ignitionVersion": 1}', "spec 1 (ignitionVersion) is not supported"),
        (written("three"), '"three" is not a version'),
        (written("3.0"), '"3.0" is not a version'),
        (written("3.0.1"), "spec 3.0.1 is not supported"),
        (written("2.3.0"), "of spec 2 only 2.2.0 is"),
        (written("3.6.0"), "newer than this harness"),
        (written("4.0.0"), "newer than this harness"),
        (written("3.6.0-experimental"), "is experimental"),
    ],
)
def test_what_is_no_config_is_refused_in_one_line(raw, words):
    with pytest.raises(InvalidIgnition) as refusal:
        read_config(raw, "user.ign")
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("user.ign: ")
    assert "\n" not in str(refusal.value)


def test_a_config_beyond_the_size_limit_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(config_module, "SIZE_LIMIT", 1000)
    big = tmp_path / "big.ign"
    big.write_bytes(written() + b" " * 2000)
    with pytest.raises(InvalidIgnition, match="larger than 1,000 bytes"):
        read_config(big)


@pytest.mark.parametrize("name, words", [("missing.ign", "does not exist"), (".", "is not a regular file")])
def test_a_path_that_cannot_be_read_is_bad_input(tmp_path, name, words):
    with pytest.raises(BadInput, match=words):
        read_config(tmp_path / name)


def test_files_are_decoded_from_their_data_urls():
    packed = base64.b64encode(gzip.compress(b"packed")).decode()
    storage = {
        "files": [
            {"path": "/a", "mode": 420, "contents": {"source": "data:,hello%20world"}, "user": {"name": "core"}},
            {"path": "/b", "contents": {"source": f"data:;base64,{packed}", "compression": "gzip"}, "group": {"id": 0}},
            {"path": "/c", "contents": {"source": "https://example.com/c"}, "overwrite": True},
            {"path": "/d"},
        ]
    }
    assert read_config(written(storage=storage)).files() == (
        File("/a", 420, b"hello world", "data:,hello%20world", "core", None, None),
        File("/b", None, b"packed", f"data:;base64,{packed}", None, 0, None),
        File("/c", None, None, "https://example.com/c", None, None, True),
        File("/d", None, None, "", None, None, None),
    )


@pytest.mark.parametrize(
    "contents, words",
    [
        ({"source": "data:,%zz"}, "must be percent-encoded"),
        ({"source": "data:;base64,YQ"}, "invalid base64"),
        ({"source": "data:,plain%20text", "compression": "gzip"}, "not gzip"),
        ({"source": "data:,x", "compression": "xz"}, 'unknown compression "xz"'),
    ],
)
def test_contents_that_cannot_be_decoded_are_named_by_path(contents, words):
    config = read_config(written(storage={"files": [{"path": "/a", "contents": contents}]}), "u.ign")
    with pytest.raises(InvalidIgnition) as refusal:
        config.files()
    assert "u.ign: $.storage.files[0].contents.source" in str(refusal.value)
    assert words in str(refusal.value)


def test_a_gzip_bomb_is_not_unfolded(monkeypatch):
    monkeypatch.setattr("harness.ignition.source.CONTENT_LIMIT", 1000)
    bomb = base64.b64encode(gzip.compress(bytes(10_000))).decode()
    contents = {"source": f"data:;base64,{bomb}", "compression": "gzip"}
    with pytest.raises(InvalidIgnition, match="more than 1,000 bytes"):
        read_config(written(storage={"files": [{"path": "/a", "contents": contents}]})).files()


def test_units_users_and_kernel_arguments_are_listed():
    config = read_config(
        written(
            systemd={"units": [{"name": "a.service", "enabled": True, "dropins": [{"name": "x.conf"}]}]},
            passwd={"users": [{"name": "core", "sshAuthorizedKeys": ["k"], "groups": ["wheel"]}]},
            kernelArguments={"shouldExist": ["quiet"], "shouldNotExist": ["splash"]},
        )
    )
    assert config.units() == (Unit("a.service", None, True, None, (("x.conf", ""),)),)
    assert config.users() == (User("core", ("k",), None, ("wheel",)),)
    assert config.kernel_arguments() == KernelArguments(("quiet",), ("splash",))


@pytest.mark.parametrize("section", [None, [], "x", {"files": 3, "units": [None], "users": [[]]}])
def test_the_lists_of_a_broken_document_are_empty_rather_than_a_traceback(section):
    config = read_config(written(storage=section, systemd=section, passwd=section, kernelArguments=section))
    assert (config.files(), config.units(), config.users()) == ((), (), ())
    assert config.kernel_arguments() == KernelArguments()
