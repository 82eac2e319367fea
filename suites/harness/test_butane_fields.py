"""Every field of every version of Butane's fcos language: what it becomes, and since when it is known.

The table is written out, so that it does not repeat what the grammar says of itself.
"""

import json
import subprocess
import textwrap

import pytest

from harness.errors import InvalidIgnition
from harness.ignition.butane.dialect import DIALECTS
from harness.ignition.butane.grammar import fields_of
from harness.ignition.butane.translate import Options, translate
from harness.tools import find_tool

SPECS = ["3.0.0", "3.1.0", "3.2.0", "3.2.0", "3.3.0", "3.4.0", "3.5.0"]
DIGEST = "sha512-" + "0" * 128
GUID = "01234567-89AB-CDEF-EDCB-A98765432101"
EMPTY = {"compression": ""}


def resource(since, text, becomes):
    """A field of a resource, in all places where one may stand."""
    since_31 = max(since, 1)  # before, what is merged and authorities know source and verification alone
    return [
        (since, f"storage: {{files: [{{path: /a, contents: {text}}}]}}", storage(files=[path(contents=becomes)])),
        (since, f"storage: {{files: [{{path: /a, append: [{text}]}}]}}", storage(files=[path(append=[becomes])])),
        (since_31, f"ignition: {{config: {{merge: [{text}]}}}}", {"ignition": {"config": {"merge": [becomes]}}}),
        (since_31, f"ignition: {{config: {{replace: {text}}}}}", {"ignition": {"config": {"replace": becomes}}}),
        (
            since_31,
            f"ignition: {{security: {{tls: {{certificate_authorities: [{text}]}}}}}}",
            {"ignition": {"security": {"tls": {"certificateAuthorities": [becomes]}}}},
        ),
        (
            max(since, 2),
            f"storage: {{luks: [{{name: x, device: /dev/x, key_file: {text}}}]}}",
            storage(luks=[{"name": "x", "device": "/dev/x", "keyFile": becomes}]),
        ),
    ]


def storage(**lists):
    return {"storage": lists}


def path(**more):
    return {"path": "/a", **more}


def disk(since, text, **becomes):
    body = f"storage: {{disks: [{{device: /dev/vda, {text}}}]}}"
    return since, body, storage(disks=[{"device": "/dev/vda", **becomes}])


def partition(since, text, **becomes):
    return disk(since, f"partitions: [{{number: 5, {text}}}]", partitions=[{"number": 5, **becomes}])


def raid(since, text, **becomes):
    known = {"name": "md", "level": "raid1", "devices": ["/dev/a", "/dev/b"]}
    body = f"storage: {{raid: [{{name: md, level: raid1, devices: [/dev/a, /dev/b]{text}}}]}}"
    return since, body, storage(raid=[known | becomes])


def luks(since, text, **becomes):
    body = f"storage: {{luks: [{{name: x, device: /dev/x, {text}}}]}}"
    return since, body, storage(luks=[{"name": "x", "device": "/dev/x", **becomes}])


def filesystem(since, text, **becomes):
    body = f"storage: {{filesystems: [{{device: /dev/x, format: ext4, {text}}}]}}"
    return since, body, storage(filesystems=[{"device": "/dev/x", "format": "ext4", **becomes}])


def node(kind, text, **becomes):
    return 0, f"storage: {{{kind}: [{{path: /a, {text}}}]}}", storage(**{kind: [path(**becomes)]})


def unit(since, text, **becomes):
    return (
        since,
        f"systemd: {{units: [{{name: a.service, {text}}}]}}",
        {"systemd": {"units": [{"name": "a.service", **becomes}]}},
    )


def user(since, text, **becomes):
    return since, f"passwd: {{users: [{{name: core, {text}}}]}}", {"passwd": {"users": [{"name": "core", **becomes}]}}


def group(since, text, **becomes):
    return since, f"passwd: {{groups: [{{name: g, {text}}}]}}", {"passwd": {"groups": [{"name": "g", **becomes}]}}


def ignition(since, text, **becomes):
    return since, f"ignition: {text}", {"ignition": becomes}


TANG = '{url: "http://t", thumbprint: x}'
TANG_BECOMES = {"url": "http://t", "thumbprint": "x"}
CASES = [
    (0, "", {}),
    *resource(0, "{source: 'https://h/p'}", {"source": "https://h/p"})[:2],
    (
        0,
        "ignition: {security: {tls: {certificate_authorities: [{source: 'https://h'}]}}}",
        {"ignition": {"security": {"tls": {"certificateAuthorities": [{"source": "https://h"}]}}}},
    ),
    *resource(
        0,
        f"{{source: 'https://h', verification: {{hash: {DIGEST}}}}}",
        {"source": "https://h", "verification": {"hash": DIGEST}},
    )[:2],
    *resource(0, "{source: 'https://h', compression: gzip}", {"source": "https://h", "compression": "gzip"}),
    *resource(
        1,
        "{source: 'https://h', http_headers: [{name: A, value: b}]}",
        {"source": "https://h", "httpHeaders": [{"name": "A", "value": "b"}]},
    ),
    *resource(1, "{inline: a b}", {"source": "data:,a%20b", **EMPTY})[2:],
    *resource(1, "{local: file}", {"source": "data:,local%0A", **EMPTY}),
    (
        0,
        "ignition: {config: {merge: [{source: 'https://h'}]}}",
        {"ignition": {"config": {"merge": [{"source": "https://h"}]}}},
    ),
    (
        0,
        "ignition: {config: {replace: {source: 'https://h'}}}",
        {"ignition": {"config": {"replace": {"source": "https://h"}}}},
    ),
    ignition(
        0, "{timeouts: {http_response_headers: 5, http_total: 7}}", timeouts={"httpResponseHeaders": 5, "httpTotal": 7}
    ),
    ignition(
        1,
        "{proxy: {http_proxy: 'https://p', https_proxy: 'https://q', no_proxy: [a, b]}}",
        proxy={"httpProxy": "https://p", "httpsProxy": "https://q", "noProxy": ["a", "b"]},
    ),
    disk(0, "wipe_table: true", wipeTable=True),
    partition(0, "label: x", label="x"),
    partition(0, "size_mib: 10", sizeMiB=10),
    partition(0, "start_mib: 20", startMiB=20),
    partition(0, f"type_guid: {GUID}", typeGuid=GUID),
    partition(0, f"guid: {GUID}", guid=GUID),
    partition(0, "wipe_partition_entry: yes", wipePartitionEntry=True),
    partition(0, "should_exist: false", shouldExist=False),
    partition(2, "resize: true", resize=True),
    raid(0, ""),
    raid(0, ", spares: 1", spares=1),
    raid(0, ", options: [--a, --b]", options=["--a", "--b"]),
    luks(2, "label: l", label="l"),
    luks(2, "uuid: u", uuid="u"),
    luks(2, "wipe_volume: true", wipeVolume=True),
    luks(2, "options: [-x]", options=["-x"]),
    luks(2, "clevis: {tpm2: true}", clevis={"tpm2": True}),
    luks(2, f"clevis: {{tang: [{TANG}], threshold: 1}}", clevis={"tang": [TANG_BECOMES], "threshold": 1}),
    luks(
        2,
        "clevis: {custom: {pin: tpm2, config: '{}', needs_network: true}}",
        clevis={"custom": {"pin": "tpm2", "config": "{}", "needsNetwork": True}},
    ),
    luks(5, "discard: true", discard=True),
    luks(5, "open_options: [--x]", openOptions=["--x"]),
    luks(
        5,
        "clevis: {tang: [{url: 'http://t', thumbprint: x, advertisement: '{}'}]}",
        clevis={"tang": [TANG_BECOMES | {"advertisement": "{}"}]},
    ),
    luks(6, "cex: {enabled: true}", cex={"enabled": True}),
    filesystem(0, "path: /var", path="/var"),
    filesystem(0, "wipe_filesystem: true", wipeFilesystem=True),
    filesystem(0, "label: l", label="l"),
    filesystem(0, "uuid: u", uuid="u"),
    filesystem(0, "options: [-a, -a]", options=["-a", "-a"]),
    filesystem(1, "mount_options: [ro]", mountOptions=["ro"]),
    filesystem(1, "with_mount_unit: false"),
    *(node(kind, "overwrite: false", overwrite=False) for kind in ("files", "directories")),
    *(node(kind, "mode: 0600", mode=0o600) for kind in ("files",)),
    *(
        node("directories", f"mode: {text}", mode=0o755)
        for text in ("0755", "0o755", "493", "0x1ed", "0b111101101", "4_93")
    ),
    *(node(kind, "user: {id: 0}", user={"id": 0}) for kind in ("files", "directories")),
    *(
        node(kind, "user: {name: u}, group: {name: g}", user={"name": "u"}, group={"name": "g"})
        for kind in ("files", "directories")
    ),
    *(node(kind, "group: {id: 7}", group={"id": 7}) for kind in ("files", "directories")),
    node(
        "links",
        "target: /b, hard: true, overwrite: true, user: {id: 1}",
        target="/b",
        hard=True,
        overwrite=True,
        user={"id": 1},
    ),
    unit(0, 'enabled: true, contents: "[Install]\\nWantedBy=x"', enabled=True, contents="[Install]\nWantedBy=x"),
    unit(0, "mask: true", mask=True),
    unit(0, 'dropins: [{name: a.conf, contents: "[Unit]"}]', dropins=[{"name": "a.conf", "contents": "[Unit]"}]),
    unit(5, "contents_local: unit", contents="[Unit]\nDescription=x\n"),
    unit(
        5,
        "dropins: [{name: a.conf, contents_local: unit}]",
        dropins=[{"name": "a.conf", "contents": "[Unit]\nDescription=x\n"}],
    ),
    user(0, "password_hash: $y$x", passwordHash="$y$x"),
    user(0, "ssh_authorized_keys: [ssh-rsa A, ssh-rsa B]", sshAuthorizedKeys=["ssh-rsa A", "ssh-rsa B"]),
    user(
        5, "ssh_authorized_keys: [k], ssh_authorized_keys_local: [keys]", sshAuthorizedKeys=["k", "ssh-a A", "ssh-b B"]
    ),
    user(0, "uid: 7, gecos: g, home_dir: /h", uid=7, gecos="g", homeDir="/h"),
    user(
        0,
        "no_create_home: true, no_user_group: true, no_log_init: true",
        noCreateHome=True,
        noUserGroup=True,
        noLogInit=True,
    ),
    user(
        0,
        "primary_group: p, groups: [a, b], system: true, shell: /s",
        primaryGroup="p",
        groups=["a", "b"],
        system=True,
        shell="/s",
    ),
    user(2, "should_exist: false", shouldExist=False),
    group(0, "gid: 7, password_hash: h, system: false", gid=7, passwordHash="h", system=False),
    group(2, "should_exist: false", shouldExist=False),
    (
        4,
        "kernel_arguments: {should_exist: [a, b c], should_not_exist: [d]}",
        {"kernelArguments": {"shouldExist": ["a", "b c"], "shouldNotExist": ["d"]}},
    ),
]
NAMES = [f"{since}-{body[:60]}" for since, body, _ in CASES]


@pytest.fixture(scope="module")
def files_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    (folder / "file").write_text("local\n")
    (folder / "unit").write_text("[Unit]\nDescription=x\n")
    (folder / "keys").write_text("ssh-a A\r\n\nssh-b B\n")
    return folder


def config(minor, body):
    return f"variant: fcos\nversion: 1.{minor}.0\n{body}\n".encode()


@pytest.mark.parametrize("since, body, sections", CASES, ids=NAMES)
def test_a_field_becomes_its_ignition_key_in_every_version_that_has_it(files_dir, since, body, sections):
    versions = range(since, len(SPECS))
    found = [json.loads(translate(config(minor, body), options=Options(files_dir)).output) for minor in versions]
    assert found == [
        sections | {"ignition": sections.get("ignition", {}) | {"version": SPECS[minor]}} for minor in versions
    ]


@pytest.mark.parametrize(
    "since, body, sections", [case for case in CASES if case[0]], ids=[n for n in NAMES if n[0] != "0"]
)
def test_a_field_is_refused_by_every_version_before_it(files_dir, since, body, sections):
    messages = []
    for minor in range(since):
        with pytest.raises(InvalidIgnition, match=r"^x:3:\d+: .* \(raise its version\)$") as refused:
            translate(config(minor, body), "x", Options(files_dir))
        messages.append(refused.value.what)
    assert all(f"this config is fcos 1.{minor}.0" in found for minor, found in enumerate(messages))
    assert f"came with fcos 1.{since}.0" in messages[-1]


def test_the_table_has_every_field_of_the_grammar():
    """Except variant and version, and the sections that have tests of their own."""
    elsewhere = {"variant", "version", "trees", "boot_device", "grub", "layout", "mirror", "path", "local"}
    text = " ".join(body for _, body, _ in CASES)
    known = {
        key
        for kind, fields in fields_of(DIALECTS[6]).items()
        if kind not in {"tree", "boot_luks", "mirror", "grub", "grub_user", "boot_device"}
        for key in fields
    }
    assert {key for key in known - elsewhere if f"{key}:" not in text} == set()


@pytest.mark.parametrize("minor", range(5))
def test_the_real_ignition_validate_accepts_what_comes_out(files_dir, tmp_path, minor):
    referee = find_tool("ignition-validate")
    refused = {}
    for since, body, _ in CASES:
        if since <= minor:
            made = tmp_path / "made.ign"
            made.write_bytes(translate(config(minor, body), options=Options(files_dir)).output)
            done = subprocess.run([referee, made], capture_output=True, check=False)
            if done.returncode:
                refused[body] = done.stderr.decode()
    assert refused == {}


def test_inline_contents_of_1_0_are_escaped_and_never_compressed():
    body = "storage:\n  files:\n    - path: /a\n      contents:\n        inline: " + "a b " * 300
    made = json.loads(translate(config(0, body)).output)
    assert made["storage"]["files"][0]["contents"] == {"source": "data:," + ("a%20b%20" * 300).removesuffix("%20")}


@pytest.mark.parametrize("text", ["~", "null", "", "Null"])
def test_null_is_the_same_as_not_given(text):
    body = textwrap.dedent(f"""\
        storage:
          files:
            - path: /a
              mode: {text}
              contents: {text}""")
    assert json.loads(translate(config(4, body)).output)["storage"] == {"files": [{"path": "/a"}]}


@pytest.mark.parametrize(
    "text, value", [("0644", "0644"), ("true", "true"), ("1.5", "1.5"), ("'null'", "null"), ("!!str 7", "7")]
)
def test_a_string_is_what_was_written(text, value):
    body = f"passwd: {{users: [{{name: {text}}}]}}"
    assert json.loads(translate(config(4, body)).output)["passwd"] == {"users": [{"name": value}]}


def test_aliases_and_merge_keys_are_followed():
    body = textwrap.dedent("""\
        storage:
          files:
            - &first
              path: /a
              mode: 0600
              user: {id: 1}
            - <<: *first
              path: /b
            - <<: [{path: /c}, *first]
              mode: 0644""")
    files = json.loads(translate(config(4, body)).output)["storage"]["files"]
    assert files == [
        {"path": "/a", "user": {"id": 1}, "mode": 0o600},
        {"path": "/b", "user": {"id": 1}, "mode": 0o600},
        {"path": "/c", "user": {"id": 1}, "mode": 0o644},
    ]
