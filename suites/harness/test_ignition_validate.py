"""The verdict on Ignition configs: a table of cases, real configs, and the real `ignition-validate` as referee."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InvalidIgnition, MissingTool
from harness.ignition.config import read_config
from harness.ignition.spec import KNOWN, grammar, text_of
from harness.ignition.validate import check, validate
from harness.tools import find_tool

GUID = "01234567-89AB-CDEF-EDCB-A98765432101"
UNIT = "[Unit]\nDescription=x\n"


def report(version="3.3.0", **sections):
    return validate(read_config(json.dumps({"ignition": {"version": version}, **sections}).encode()))


def files(*entries, version="3.3.0"):
    return version, {"storage": {"files": list(entries)}}


def contents(version="3.3.0", **resource):
    return files({"path": "/a", "contents": resource}, version=version)


def partitions(*entries, version="3.3.0"):
    return version, {"storage": {"disks": [{"device": "/dev/vda", "partitions": list(entries)}]}}


def filesystem(version="3.3.0", **entry):
    return version, {"storage": {"filesystems": [{"device": "/dev/vda4", **entry}]}}


def luks(version="3.5.0", **entry):
    return version, {"storage": {"luks": [{"name": "root", "device": "/dev/vda4", **entry}]}}


def unit(version="3.3.0", **entry):
    return version, {"systemd": {"units": [{"name": "a.service", **entry}]}}


def files_2(**entry):
    return files({"filesystem": "root", "path": "/a", **entry}, version="2.2.0")


FILE, PARTITION = "$.storage.files[0]", "$.storage.disks[0].partitions[0]"
LUKS, FILESYSTEM = "$.storage.luks[0]", "$.storage.filesystems[0]"

ERRORS = [
    (files({"path": "/a", "mode": 4096}), f"{FILE}.mode", "illegal file mode"),
    (files({"path": "/a", "mode": -1}), f"{FILE}.mode", "illegal file mode"),
    (files({"path": "/a", "mode": "0644"}), f"{FILE}.mode", 'must be an integer or null, found "0644"'),
    (files({"path": "/a", "mode": 420.0}), f"{FILE}.mode", "must be an integer"),
    (files({"path": "/a", "mode": True}), f"{FILE}.mode", "found true"),
    (files({"path": "etc/a"}), f"{FILE}.path", "is not absolute"),
    (files({"path": "/etc//a"}), f"{FILE}.path", "not fully simplified"),
    (files({}), FILE, '"path" is required'),
    (files({"path": "/a"}, {"path": "/a"}), "$.storage.files[1]", "duplicate entry"),
    (files({"path": "/a", "overwrite": True}), f"{FILE}.overwrite", "source is unspecified"),
    (files({"path": "/a", "user": {"id": 1, "name": "x"}}), f"{FILE}.user", "both id and name"),
    (contents(source="ftp://x"), f"{FILE}.contents.source", 'URL scheme "ftp"'),
    (contents(source="gs://a/b", version="3.1.0"), f"{FILE}.contents.source", 'URL scheme "gs"'),
    (contents(source="arn:aws:s3:::b/k"), f"{FILE}.contents.source", 'URL scheme "arn"'),
    (contents(source="arn:aws:s3:::bucket", version="3.4.0"), f"{FILE}.contents.source", "not the ARN"),
    (contents(source="s3://b/k?versionId="), f"{FILE}.contents.source", "versionId"),
    (contents(source="data:,a b"), f"{FILE}.contents.source", "percent-encoded"),
    (contents(source="data:,x", compression="xz"), f"{FILE}.contents.compression", "not gzip"),
    (contents(source="data:,x", verification={"hash": "md5-1"}), f"{FILE}.contents.verification.hash", "unrecognized"),
    (
        contents(source="data:,x", verification={"hash": "sha256-" + "0" * 64}, version="3.0.0"),
        f"{FILE}.contents.verification.hash",
        "unrecognized hash function",
    ),
    (contents(source="data:,x", verification={"hash": "sha512-12"}), f"{FILE}.contents.verification.hash", "found 2"),
    (contents(source="data:,x", httpHeaders=[{"name": "a"}]), f"{FILE}.contents.httpHeaders", "http or https"),
    (partitions({"number": 0}), PARTITION, "number >= 1 or a label"),
    (partitions({"number": 1, "label": "x" * 37}), f"{PARTITION}.label", "36 characters"),
    (partitions({"number": 1, "label": "a:b"}), f"{PARTITION}.label", "colon"),
    (partitions({"number": 1, "guid": "x"}), f"{PARTITION}.guid", "not a GUID"),
    (partitions({"number": 1, "shouldExist": False, "sizeMiB": 0}), PARTITION, "shouldExist is false"),
    (partitions({"number": 1}, {"number": 1}), "$.storage.disks[0].partitions[1]", "used twice"),
    (
        partitions({"number": 1, "label": "a"}, {"number": 2, "label": "a"}),
        "$.storage.disks[0].partitions[1].label",
        "used twice",
    ),
    (
        partitions({"number": 1, "startMiB": 1, "sizeMiB": 10}, {"number": 2, "startMiB": 10, "sizeMiB": 1}),
        "$.storage.disks[0].partitions[1]",
        "overlap",
    ),
    (partitions({"number": 1, "start": 1000}, version="2.2.0"), f"{PARTITION}.start", "misaligned"),
    (filesystem(format="ext3"), f"{FILESYSTEM}.format", "is not one of"),
    (filesystem(format="none", version="3.2.0"), f"{FILESYSTEM}.format", "is not one of"),
    (filesystem(path="/var"), f"{FILESYSTEM}.format", "format cannot be empty when path"),
    *(
        (filesystem(format=kind, label="x" * (limit + 1)), f"{FILESYSTEM}.label", f"longer than {limit}")
        for kind, limit in [("ext4", 16), ("btrfs", 256), ("xfs", 12), ("swap", 15), ("vfat", 11)]
    ),
    (luks(label="x" * 48), f"{LUKS}.label", "longer than 47"),
    (luks(name="a/b"), f"{LUKS}.name", "slashes"),
    (luks(clevis={"tang": [{"url": "http://t"}]}), f"{LUKS}.clevis.tang[0].thumbprint", "required"),
    (
        luks(clevis={"tang": [{"url": "http://t", "thumbprint": "x", "advertisement": "{{"}]}),
        f"{LUKS}.clevis.tang[0].advertisement",
        "not valid JSON",
    ),
    (luks(clevis={"custom": {"pin": "x", "config": "y"}}), f"{LUKS}.clevis.custom.pin", "unsupported clevis pin"),
    (luks(clevis={"tpm2": True}, cex={"enabled": True}), f"{LUKS}.cex", "cannot be used with clevis"),
    (unit(name="a.network"), "$.systemd.units[0].name", "invalid systemd unit extension"),
    (unit(dropins=[{"name": "a"}]), "$.systemd.units[0].dropins[0].name", "drop-in extension"),
    (unit(contents="[Service\n"), "$.systemd.units[0].contents", "no closing bracket"),
    (unit(contents="[Service]\nExecStart\n"), "$.systemd.units[0].contents", "neither a section nor an option"),
    (("3.3.0", {"kernelArguments": {"shouldExist": ["a", "a"]}}), "$.kernelArguments.shouldExist[1]", "duplicate"),
    (("3.3.0", {"passwd": {"users": [{}]}}), "$.passwd.users[0]", '"name" is required'),
    (("3.3.0", {"storage": []}), "$.storage", "must be an object, found a list"),
    (
        ("3.4.0", unit(contents=UNIT)[1] | files({"path": "/etc/systemd/system/a.service"})[1]),
        f"{FILE}.path",
        "conflicts with systemd unit",
    ),
    (files_2(overwrite=True, append=True), FILE, "both append and overwrite"),
    (files({"path": "/a"}, version="2.2.0"), FILE, '"filesystem" is required'),
    (
        files_2(contents={"source": "data:,x", "verification": {"hash": "sha256-" + "0" * 64}}),
        f"{FILE}.contents.verification.hash",
        "unrecognized",
    ),
    (("2.2.0", {"storage": {"filesystems": [{"name": "x"}]}}), FILESYSTEM, "missing mount or path"),
    (("2.2.0", {"networkd": {"units": [{"name": "a.service"}]}}), "$.networkd.units[0].name", "networkd"),
]

WARNINGS = [
    (files({"path": "/a", "mode": 755}), f"{FILE}.mode", "755 is 0o1363; was 0755 = 493 meant?"),
    (files({"path": "/a", "colour": 1}), f"{FILE}.colour", "unknown key"),
    (files({"Path": "/a", "path": "/a"}), f"{FILE}.Path", 'must be spelled "path"'),
    (("3.2.0", {"kernelArguments": {}}), "$.kernelArguments", "came with spec 3.3.0, this config declares 3.2.0"),
    (("3.1.0", {"storage": {"luks": []}}), "$.storage.luks", "came with spec 3.2.0"),
    (luks(discard=True, version="3.3.0"), f"{LUKS}.discard", "came with spec 3.4.0"),
    (unit(enabled=True, contents=UNIT), "$.systemd.units[0].contents", "enable does nothing"),
    (("3.3.0", {"storage": None}), "$.storage", "is null"),
    (("2.2.0", {"systemd": {"units": [{"name": "a.service", "enable": True}]}}), "$.systemd.units[0].enable", "deprec"),
]

VALID = [
    files({"path": "/a", "mode": 511, "contents": {"source": "data:text/plain;charset=utf-8;base64,YQ=="}}),
    files({"path": "/", "mode": 0}),
    contents(source=""),
    contents(source="arn:aws:s3:::bucket/key?versionId=x", version="3.4.0"),
    contents(source="data:,x", verification={"hash": "sha256-" + "0" * 64}),
    partitions({"label": "a"}, {"label": "b"}, {"number": 3, "guid": GUID}),
    partitions({"number": 1, "startMiB": 1, "sizeMiB": 10}, {"number": 2, "startMiB": 11, "sizeMiB": 0}),
    partitions({"number": 3, "start": 2048, "size": 4096}, version="2.2.0"),
    filesystem(format="none"),
    luks(clevis={"tpm2": True}, discard=True, openOptions=["--x"], version="3.4.0"),
    luks(cex={"enabled": True}),
    unit(enabled=True, contents="[Unit]\n#\\\nno=\nA=b\\\n c\n[Install]\nWantedBy=multi-user.target\n"),
    unit(enabled=True),
    files_2(mode=420, contents={"source": "data:,x"}),
    ("2.2.0", {"networkd": {"units": [{"name": "a.network", "contents": "x"}]}}),
    ("2.2.0", {"storage": {"filesystems": [{"mount": {"device": "/dev/a", "format": "xfs"}}]}}),
]


def named(case):
    return case if isinstance(case, str) and not case.startswith("$") else None


@pytest.mark.parametrize("config, path, words", ERRORS, ids=named)
def test_an_error_is_found_at_its_path(config, path, words):
    found = report(config[0], **config[1]).errors
    assert [(error.path, words in error.message) for error in found if error.path == path] == [(path, True)], found


@pytest.mark.parametrize("config, path, words", WARNINGS, ids=named)
def test_a_doubt_is_a_warning_at_its_path(config, path, words):
    judged = report(config[0], **config[1])
    assert judged.errors == ()
    assert [warning.path for warning in judged.warnings] == [path]
    assert words in judged.warnings[0].message


@pytest.mark.parametrize("config", VALID, ids=lambda config: json.dumps(config[1])[:60])
def test_a_valid_config_has_no_finding(config):
    judged = report(config[0], **config[1])
    assert (judged.errors, judged.warnings) == ((), ())


def test_findings_carry_the_line_of_their_value():
    raw = b'{\n "ignition": {"version": "3.0.0"},\n "storage": {"files": [\n  {"path": "/a",\n   "mode": 9999}]}}'
    assert [(error.path, error.line) for error in validate(read_config(raw)).errors] == [(f"{FILE}.mode", 5)]


def test_a_key_written_twice_is_a_warning():
    judged = validate(read_config(b'{"ignition": {"version": "3.0.0"}, "storage": {}, "storage": {}}'))
    assert [(warning.path, warning.message) for warning in judged.warnings] == [
        ("$.storage", "key is written twice in one object")
    ]


def test_check_names_the_first_error_and_counts_the_rest():
    entries = {"storage": {"files": [{"path": "a"}, {"path": "b"}]}}
    with pytest.raises(InvalidIgnition) as refusal:
        check(read_config(json.dumps({"ignition": {"version": "3.0.0"}, **entries}).encode(), "u.ign"))
    assert str(refusal.value) == (
        'u.ign: $.storage.files[0].path (line 1): path "a" is not absolute (and 1 more error)'
    )


def test_many_partitions_are_judged_in_time():
    many = [{"number": n, "startMiB": n, "sizeMiB": 1, "label": f"p{n}"} for n in range(1, 15_000)]
    assert report("3.3.0", **partitions(*many)[1]).errors == ()


CORPUS_FINDINGS = {
    "fast-vm": (0, 0),
    "fcos-config": (0, 0),
    "prestage/discovery-extract-list.ign": (0, 1),
    "prestage/discovery-extract.ign": (0, 2),
    "prestage/pointer-extract-list.ign": (0, 1),
    "prestage/pointer-extract.ign": (0, 1),
    "factory-precaching-cli/boot-beauty.ign": (0, 0),
    "factory-precaching-cli/discovery-beauty.ign": (0, 0),
    "factory-precaching-cli/root-test-discovery-beauty.ign": (3, 2),
    "factory-precaching-cli/test-boot-beauty.ign": (1, 1),
    "factory-precaching-cli/test-discovery-beauty.ign": (1, 1),
}


@pytest.mark.parametrize("name", CORPUS_FINDINGS)
def test_real_configs_have_the_findings_that_are_known_of_them(request, name):
    corpus = request.config.getoption("--corpus", default=None)
    if corpus is None:
        pytest.skip("no corpus of real configs given (--corpus DIR)")
    place = Path(corpus) / name
    for path in sorted(place.glob("*.ign")) if place.is_dir() else [place]:
        config = read_config(path)
        judged = validate(config)
        assert (len(judged.errors), len(judged.warnings)) == CORPUS_FINDINGS[name], path
        assert all(entry.content is not None for entry in config.files()) or judged.errors


# The referee: configs made from our own tables, mostly sound values with a bad one here and there.
STRINGS = {
    "path": ["/a", "/b", "/c/d", "/a/e", "/", "a", "/x/", ""],
    "device": ["/dev/a", "/dev/b", "/dev/a/", "dev"],
    "devices": ["/dev/a", "/dev/b", "x"],
    "source": [
        "data:,x",
        "data:;base64,YQ==",
        "http://h/p",
        "https://h",
        "",
        "s3://b/k",
        "gs://b/k",
        "tftp://h",
        "x",
        "data:,%",
        "arn:x",
        "http://h/%zz",
        "data:text/plain,x",
        "data:x/y,z",
    ],
    "compression": ["", "gzip", "xz"],
    "hash": ["sha512-" + "0" * 128, "sha256-" + "0" * 64, "sha512-0", "x"],
    "format": ["ext4", "xfs", "vfat", "none", "", "ext3"],
    "label": ["a", "b", "c:d", "x" * 12, "x" * 37, ""],
    "guid": [GUID, "", "x"],
    "typeGuid": [GUID, "", "x"],
    "level": ["raid1", "raid0", "linear", "", "x"],
    "name": ["a.service", "b.socket", "x.conf", "y.conf", "core", "a/b", "", "c.mount"],
    "contents": [UNIT, UNIT + "[Install]\nA=b", "", "[X", "[A]\nb", "junk"],
    "target": ["/b", "/z", ""],
    "url": ["http://t", "https://u", "x", ""],
    "thumbprint": ["x", ""],
    "pin": ["tpm2", "x", ""],
    "config": ["{}", ""],
    "httpProxy": ["http://p", "https://p", "p"],
    "httpsProxy": ["http://p", "https://p", "p"],
}
INTEGERS = {
    "mode": [420, 493, 755, 0, 4095, 4096, -1],
    "number": [1, 2, 3, 0],
    "sizeMiB": [1, 10, 0],
    "startMiB": [1, 5, 11, 0],
    "spares": [0, 1],
    "id": [0, 1000],
}
ODD = st.sampled_from([None, None, 1, "x", True, [], {}, 1.5])


def values(kind, key):
    if kind == "str":
        return st.sampled_from(STRINGS.get(key, ["x", "y", ""]))
    if kind == "int":
        return st.sampled_from(INTEGERS.get(key, [0, 1, 7]))
    return st.booleans()


@st.composite
def documents(draw, version, kind="config"):
    document = {}
    for field in grammar(version)[kind].values():
        likely = field.is_required or field.kind in {"storage", "resource"}
        if kind == "ignition" and field.name == "version":
            document["version"] = text_of(version)
        elif draw(st.integers(0, 99)) < (97 if likely else 35):
            inner = documents(version, field.kind) if field.kind in grammar(version) else values(field.kind, field.name)
            value = st.lists(inner, min_size=1, max_size=2) if field.is_list else inner
            odd = kind not in {"config", "ignition"} and draw(st.integers(0, 399)) == 0
            document[field.name] = draw(ODD if odd else value)
    if draw(st.integers(0, 49)) == 0:
        document["unheardOf"] = 1
    return document


@st.composite
def configs(draw):
    """A config of a spec that the referee knows, with one or two sections."""
    version = draw(st.sampled_from([known for known in KNOWN if (3, 0) <= known <= (3, 3)]))
    document = draw(documents(version))
    storage = document.get("storage")
    if isinstance(storage, dict):  # one or two lists at a time: with all of them hardly any config would be valid
        kept = draw(st.sets(st.sampled_from(sorted(grammar(version)["storage"])), min_size=1, max_size=2))
        document["storage"] = {key: value for key, value in storage.items() if key in kept}
    document.setdefault("ignition", {"version": text_of(version)})
    return json.dumps(document).encode()


def referee(raw):
    try:
        tool = find_tool("ignition-validate")
    except MissingTool as missing:
        pytest.skip(str(missing))
    done = subprocess.run([tool, "-"], input=raw, capture_output=True, check=False)
    return done.returncode == 0, (done.stdout + done.stderr).decode()


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(configs())
def test_the_verdict_is_that_of_ignition_validate(raw):
    """Ours may be stricter in one point: keys that the published schema requires and Ignition's parser does not."""
    accepted, words = referee(raw)
    judged = validate(read_config(raw))
    objections = [error for error in judged.errors if error.origin != "schema"]
    assert accepted == (not objections), f"{words}\n{[*map(str, judged.errors)]}"


@pytest.mark.parametrize(
    "config",
    [*(case[0] for case in ERRORS), *(case[0] for case in WARNINGS), *VALID],
    ids=lambda config: json.dumps(config[1])[:60],
)
def test_the_table_of_cases_agrees_with_ignition_validate(config):
    version, sections = config
    if version not in {"3.0.0", "3.1.0", "3.2.0", "3.3.0"}:
        pytest.skip(f"Debian's ignition-validate does not know spec {version}")
    raw = json.dumps({"ignition": {"version": version}, **sections}).encode()
    accepted, words = referee(raw)
    judged = validate(read_config(raw))
    assert accepted == (not [error for error in judged.errors if error.origin != "schema"]), words
    counted = [line for line in words.splitlines() if line.startswith("warning") and "context tree" not in line]
    if accepted:
        assert len(counted) == len([warning for warning in judged.warnings if warning.origin != "schema"]), words
