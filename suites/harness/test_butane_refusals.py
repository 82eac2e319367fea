"""What the Butane translator refuses: one cause, at an exact line and column."""

import pytest

from harness.errors import BadInput, InvalidIgnition
from harness.ignition.butane import document
from harness.ignition.butane.translate import Options, translate

HEAD = "variant: fcos\nversion: 1.4.0\n"
LAYOUT_HEAD = HEAD.replace("4", "6")


def refusal(text, **options):
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(InvalidIgnition) as refused:
        translate(raw, "host.bu", Options(**options))
    message = str(refused.value)
    assert "\n" not in message
    return message


UGLY = [
    (b"", "host.bu:1:1: is empty (a Butane config begins with variant: and version:)"),
    (b"# nothing\n", "host.bu:1:1: is empty (a Butane config begins with variant: and version:)"),
    (b"variant: f\n  \xff", "host.bu:2:3: is not UTF-8"),
    (b"\xff\xfe\x00v", "host.bu:1:1: is not UTF-8"),
    (b"a: \x07", "host.bu:1:1: is not YAML: "),
    (b"a: [", "host.bu:2:1: is not YAML: did not find expected node content"),
    (b"a: 'x", "host.bu:1:6: is not YAML: found unexpected end of stream"),
    (b"\tvariant: fcos", "host.bu:1:1: is not YAML: found character that cannot start any token"),
    (b"a: b: c", "host.bu:1:5: is not YAML: mapping values are not allowed in this context"),
    (b"- 1\n", "host.bu:1:1: is not a mapping"),
    (b"fcos\n", "host.bu:1:1: is not a mapping"),
    (b"{}", "host.bu:1:1: variant is missing"),
    (b"version: 1.4.0", "host.bu:1:1: variant is missing"),
    (b'{"ignition": {"version": "3.3.0"}}', "host.bu:1:1: variant is missing (is this Ignition JSON? it needs no"),
    (b"variant: fcos", "host.bu:1:1: version is missing"),
    (b"variant: [fcos]", "host.bu:1:10: variant must be a string, found a list"),
    (b"variant: fcos\nversion: null", "host.bu:2:10: version must be a string, found nothing"),
    (b"variant: coreos\nversion: 1.0.0", 'host.bu:1:10: unknown variant "coreos"; known: fcos, openshift, rhcos'),
    (
        b"variant: flatcar\nversion: 1.0.0",
        'host.bu:1:10: unknown variant "flatcar" (butane itself knows it: --by butane)',
    ),
    (b"variant: fcos\nversion: 1.4", 'host.bu:2:10: "1.4" is not a version such as 1.6.0'),
    (b"variant: fcos\nversion: 1.7.0", "host.bu:2:10: fcos 1.7.0 is not known; known: 1.0.0 to 1.6.0"),
    (b"variant: fcos\nversion: 1.4.1", "host.bu:2:10: fcos 1.4.1 is not known"),
    (b"variant: fcos\nversion: 1.5.0-experimental", "host.bu:2:10: 1.5.0-experimental is experimental"),
    (b"variant: openshift\nversion: 4.7.0", "host.bu:2:10: openshift 4.7.0 is not known; known: 4.8.0 to 4.22.0"),
    (HEAD + "---\na: 1\n", "host.bu:3:1: a second document begins (a Butane config is one YAML document)"),
    (HEAD + "version: 1.5.0\n", 'host.bu:3:1: "version" is written twice, first at 2:1'),
    (HEAD + "? [a]\n: b\n", "host.bu:3:3: a key must be a word"),
    (HEAD + "storage: *x\n", 'host.bu:3:10: alias "*x" names nothing that was written before'),
    (HEAD + "storage: &x\n  files: *x\n", 'host.bu:4:10: alias "*x" names nothing that was written before'),
    (HEAD + "<<: 7\n", "host.bu:3:5: << merges mappings only"),
    (HEAD + "storage: !!python/object:os.system {}\n", "host.bu:3:10: the tag "),
    (HEAD + "passwd: {users: [{name: !!binary YQ==}]}\n", "host.bu:3:25: the tag "),
    (HEAD + "storage: []\n", "host.bu:3:10: storage must be a mapping, found a list"),
    (HEAD + "storage:\n  files: x\n", "host.bu:4:10: files must be a list, found x"),
    (HEAD + "storage:\n  files:\n    - /etc/a\n", "host.bu:5:7: an entry of files must be a mapping, found /etc/a"),
    (HEAD + "storage:\n  file: []\n", 'host.bu:4:3: unknown key "file" (known here: directories, disks, files,'),
    (
        HEAD + "storage:\n  disks:\n    - wipeTable: x\n",
        'host.bu:5:7: unknown key "wipeTable" (Butane spells it "wipe_table")',
    ),
    (
        HEAD + "kernel-arguments: {}\n",
        'host.bu:3:1: unknown key "kernel-arguments" (Butane spells it "kernel_arguments")',
    ),
    (HEAD + "Storage: {}\n", 'host.bu:3:1: unknown key "Storage" (Butane spells it "storage")'),
    (HEAD + "ignition: {version: 3.3.0}\n", 'host.bu:3:12: unknown key "version"'),
    (
        HEAD + "grub: {users: []}\n",
        'host.bu:3:1: "grub" came with fcos 1.5.0; this config is fcos 1.4.0 (raise its version)',
    ),
    (HEAD + "passwd: {users: [{uid: x}]}\n", "host.bu:3:24: uid must be an integer, found x"),
    (HEAD + "passwd: {users: [{uid: '7'}]}\n", 'host.bu:3:24: uid must be an integer, found "7" (remove the quotes)'),
    (HEAD + "passwd: {users: [{uid: 7.0}]}\n", "host.bu:3:24: uid must be an integer, found 7.0"),
    (HEAD + "passwd: {users: [{uid: 0888}]}\n", "host.bu:3:24: uid must be an integer, found 0888"),
    (HEAD + f"passwd: {{users: [{{uid: {2**63}}}]}}\n", "host.bu:3:24: uid does not fit into 64 bits"),
    (HEAD + f"passwd: {{users: [{{uid: {'9' * 5000}}}]}}\n", "host.bu:3:24: uid must be an integer, found 9999"),
    (HEAD + "passwd: {users: [{system: maybe}]}\n", "host.bu:3:27: system must be true or false, found maybe"),
    (HEAD + "passwd: {users: [{system: 'true'}]}\n", 'host.bu:3:27: system must be true or false, found "true"'),
    (HEAD + "passwd: {users: [{name: [x]}]}\n", "host.bu:3:25: name must be a string, found a list"),
    (
        HEAD + "passwd: {users: [{groups: [a, ~]}]}\n",
        "host.bu:3:31: an entry of groups must be a string, found nothing",
    ),
    (HEAD + 'passwd: {users: [{name: "\\uD800"}]}\n', "host.bu:3:"),
    (
        HEAD + "storage:\n  files:\n    - path: /a\n      contents:\n        inline: x\n        source: data:,x\n",
        "host.bu:8:17: only one of inline, local, source can be set",
    ),
    (
        HEAD + "storage: {files: [{path: /a, contents: {local: a}}]}\n",
        "host.bu:3:48: local files cannot be read (give the folder that local paths are relative to: --files-dir)",
    ),
    (HEAD + "storage:\n  trees:\n    - path: /x\n", "host.bu:5:7: local is required"),
    (
        HEAD + "storage: {filesystems: [{device: /dev/x, with_mount_unit: true}]}\n",
        "host.bu:3:59: format is required if with_mount_unit is true",
    ),
    (
        HEAD + "storage: {filesystems: [{device: /dev/x, format: xfs, with_mount_unit: true}]}\n",
        "host.bu:3:72: path is required if with_mount_unit is true and format is not swap",
    ),
    (
        LAYOUT_HEAD + "storage: {filesystems: [{device: /dev/x, format: xfs, path: /srv, with_mount_unit: true}]}\n",
        "host.bu:3:61: path must be below /etc or /var if with_mount_unit is true",
    ),
    (
        HEAD.replace("4", "3") + "storage: {filesystems: [{device: /dev/x, format: swap, with_mount_unit: true}]}\n",
        "host.bu:3:73: units for swap came with fcos 1.4.0; this config is fcos 1.3.0",
    ),
    (HEAD + "boot_device: {mirror: {devices: [/dev/a]}}\n", "host.bu:3:33: mirroring needs at least 2 devices"),
    (HEAD + "boot_device: {layout: sparc}\n", 'host.bu:3:23: unknown layout "sparc" (known: x86_64, aarch64, ppc64le)'),
    (HEAD + "boot_device: {layout: s390x-virt}\n", 'host.bu:3:23: unknown layout "s390x-virt"'),
    (LAYOUT_HEAD + "boot_device: {layout: s390x-zfcp}\n", "host.bu:3:23: s390x-zfcp needs luks.device"),
    (LAYOUT_HEAD + "grub: {users: [{name: root}]}\n", "host.bu:3:16: password_hash of a GRUB user is required"),
]
RESULTS = [  # what our validator says of the result, blamed on the config
    ("storage:\n  files:\n    - path: etc/a\n", 'host.bu:5:13: path "etc/a" is not absolute ($.storage.files[0].path)'),
    ("storage:\n  files:\n    - mode: 0644\n", 'host.bu:5:7: "path" is required ($.storage.files[0])'),
    ("storage:\n  files:\n    - path: /a\n    - path: /a\n", 'host.bu:6:7: duplicate entry "/a" ($.storage.files[1])'),
    ("storage:\n  files:\n    - path: /a\n      mode: 07777777\n", "host.bu:6:13: illegal file mode 2097151"),
    (
        "storage:\n  files:\n    - path: /a\n      contents:\n        source: ftp://h\n",
        'host.bu:7:17: URL scheme "ftp" is not one of',
    ),
    (
        "systemd:\n  units:\n    - name: a.service\n      contents: |\n        [X\n",
        "host.bu:6:17: invalid unit content",
    ),
    (
        "boot_device:\n  luks:\n    tang:\n      - url: http://t\n",
        "host.bu:6:9: thumbprint is required ($.storage.luks[0].clevis.tang[0].thumbprint)",
    ),
    (
        "storage:\n  files:\n    - path: a\n    - path: b\n",
        'host.bu:5:13: path "a" is not absolute ($.storage.files[0].path) (and 1 more error)',
    ),
]


@pytest.mark.parametrize("text, words", UGLY)
def test_an_ugly_config_is_refused_in_words_with_its_place(text, words):
    assert refusal(text).startswith(words)


@pytest.mark.parametrize("body, words", RESULTS)
def test_what_is_wrong_with_the_result_is_blamed_on_the_line_that_was_written(body, words):
    assert refusal(HEAD + body).startswith(words)


def test_a_billion_laughs_are_counted_before_they_are_unfolded():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 40)]
    assert refusal(HEAD + "\n".join(lines)).startswith("host.bu:7:5: aliases unfold to more than 100,000 values")


def test_long_texts_used_many_times_are_counted_too():
    body = f"x: &x {'y' * 2**20}\nstorage: [{'*x, ' * 20}]"
    assert refusal(HEAD + body).startswith("host.bu:4:10: aliases unfold to more than 16,777,216 characters")


def test_local_files_are_bounded_together(tmp_path):
    (tmp_path / "big").write_bytes(bytes(2**23 + 1))
    entries = ", ".join(f"{{path: /{name}, contents: {{local: big}}}}" for name in "ab")
    message = refusal(HEAD + f"storage: {{files: [{entries}]}}\n", files_dir=tmp_path)
    assert message.startswith('host.bu:3:84: local files hold more than 16,777,216 bytes with "big"')


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_is_bounded(opening):
    message = refusal(HEAD + "storage: " + opening * 5000 if opening != "- " else opening * 5000)
    assert "is nested too deeply" in message or "is not YAML" in message


def test_the_number_of_values_is_bounded():
    assert refusal(HEAD + "storage: [" + "1," * 100_001 + "]").startswith("host.bu:3:")


def test_the_size_of_a_config_is_bounded():
    assert "is larger than 4,194,304 bytes" in refusal(b"#" * (document.SIZE_LIMIT + 1))


def test_a_config_that_is_too_large_when_translated_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(bytes(range(256)) * 2**15)
    entries = ", ".join(f"{{path: /{name}, contents: {{local: {name}, compression: gzip}}}}" for name in "ab")
    message = refusal(HEAD + f"storage: {{files: [{entries}]}}\n", files_dir=tmp_path)
    assert message == "host.bu:1:1: the result is larger than 16,777,216 bytes (fetch large contents by source)"


@pytest.mark.parametrize(
    "body, words",
    [
        (
            "storage: {files: [{path: /a, mode: 644}]}",
            "host.bu:3:36: mode 644 would be reasonable in octal: write 0644",
        ),
        ("storage: {directories: [{path: /a, mode: 755}]}", "host.bu:3:42: mode 755 would be reasonable in octal"),
        (
            "storage: {disks: [{device: /dev/a, partitions: [{label: root, number: 5}]}]}",
            'host.bu:3:57: partition "root" of the OS has number 4, not 5',
        ),
        (
            "systemd: {units: [{name: a.service, enabled: true, contents: '[Unit]'}]}",
            'host.bu:3:62: unit "a.service" is',
        ),
    ],
)
def test_a_doubt_is_a_refusal_only_with_strict(body, words):
    made = translate((HEAD + body).encode(), "host.bu")
    message = refusal(HEAD + body, strict=True)
    assert (
        f"host.bu:{made.remarks[0].at}: {made.remarks[0].message}".startswith(words),
        message.startswith(words),
    ) == (
        True,
        True,
    )


@pytest.mark.parametrize("mode", ["0644", "0755", "0600", "0", "04755", "0444", "01777"])
def test_usual_modes_are_not_doubted(mode):
    made = translate((HEAD + f"storage: {{directories: [{{path: /a, mode: {mode}}}]}}").encode())
    assert [remark for remark in made.remarks if "octal" in remark.message] == []


def test_a_partition_found_by_label_is_doubted_since_1_6():
    body = "storage: {disks: [{device: /dev/vdb, partitions: [{label: data}]}]}"
    made = {minor: translate(f"variant: fcos\nversion: 1.{minor}.0\n{body}".encode()).remarks for minor in (5, 6)}
    assert [len(remarks) for remarks in made.values()] == [0, 1]


@pytest.mark.parametrize("name, words", [("absent.bu", "does not exist"), ("folder", "is not a regular file")])
def test_a_path_that_is_no_file_is_refused(tmp_path, name, words):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadInput, match=words):
        translate(tmp_path / name)
