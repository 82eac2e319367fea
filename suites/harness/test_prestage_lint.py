"""What is known to go wrong in pre-staging configs: a clean one, each of its mutants, and the real ones."""

import base64
import copy
import json
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HarnessError, MissingTool
from harness.prestage.lint.lint import lint
from harness.prestage.lint.of_configs import spec_for
from harness.prestage.lint.rules import RULES
from harness.prestage.lint.subject import Place, read_subjects
from harness.prestage.lint.unitfile import Option, mount_unit_of, read_options
from harness.prestage.lists.lists import Stage
from harness.tools import find_tool
from suites.harness.test_cli import run_harness

RELEASE = (4, 10)
REASON = {rule.id: rule.reason for rule in RULES}
IMAGE = f"quay.io/openshift-release-dev/ocp-v4.0-art-dev@sha256:{'0' * 64}"
MOUNT = """[Unit]
Description=Images of the release
Before=extract.service

[Mount]
What=/dev/disk/by-partlabel/data
Where=/run/prestage
Type=xfs
Options=ro

[Install]
WantedBy=multi-user.target
"""
SERVICE = """[Unit]
Description=Bring the images in
Requires=run-prestage.mount
After=run-prestage.mount
Before=agent.service

[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory=/run/prestage
ExecStart=/usr/local/bin/extract \\
    --all

[Install]
WantedBy=multi-user.target agent.service
"""
SCRIPT = """#!/bin/bash
# rm -f ${name}.gz would be wrong
failed=()
for uri in $(cat /usr/local/share/ai-images.txt); do
    name=$(basename "${uri/:/_}")
    tar xzf "${name}.tgz" && skopeo copy "dir:${name}" "containers-storage:${uri}" || failed+=("${uri}")
    rm -rf "${name}"
done
rc=0
for image in "${failed[@]}"; do
    skopeo copy "dir:$(basename "${image/:/_}")" "containers-storage:${image}" || rc=1
done
exit "${rc}"
"""


def data(text):
    return f"data:;base64,{base64.b64encode(text.encode()).decode()}"


def file(path, mode, text):
    return {"path": path, "mode": mode, "contents": {"source": data(text)}}


CLEAN = {
    "ignition": {"version": "3.1.0"},
    "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": ["ssh-ed25519 AAAA lab", "ssh-rsa AAAA ssh-rsa"]}]},
    "storage": {
        "files": [
            file("/usr/local/bin/extract", 0o755, SCRIPT),
            file("/usr/local/share/ai-images.txt", 0o644, f"{IMAGE}\n"),
        ]
    },
    "systemd": {
        "units": [
            {"name": "run-prestage.mount", "enabled": True, "contents": MOUNT},
            {"name": "extract.service", "enabled": True, "contents": SERVICE},
            {"name": "chronyd.service", "enabled": False, "dropins": [{"name": "a.conf", "contents": "[Unit]\n"}]},
        ]
    },
}


def patch_of(config, key="ignition_config_override"):
    return {key: json.dumps(config, separators=(",", ":"))}


def found(tmp_path, *documents, release=RELEASE):
    """Rule, path and line of every finding in JSON documents."""
    paths = [tmp_path / f"{number}.json" for number, _ in enumerate(documents)]
    for path, document in zip(paths, documents, strict=True):
        path.write_text(json.dumps(document))
    return [(each.rule, each.place.path, each.line) for each in lint(read_subjects(paths), RULES, release)]


def changed(*steps, to=None, old=None, new=None):
    """The clean config with one value set, or one text of it replaced (inside its data URL, if it has one)."""
    config = copy.deepcopy(CLEAN)
    value = config
    for step in steps[:-1]:
        value = value[step]
    if old is not None:
        before = value[steps[-1]]
        plain = before if not before.startswith("data:") else base64.b64decode(before.partition(",")[2]).decode()
        assert plain.count(old) == 1
        after = plain.replace(old, new)
        value[steps[-1]] = after if plain is before else data(after)
    else:
        value[steps[-1]] = to
    return config


FILES, UNITS = ("storage", "files"), ("systemd", "units")
IN_SCRIPT = (*FILES, 0, "contents", "source")
IN_MOUNT, IN_SERVICE = (*UNITS, 0, "contents"), (*UNITS, 1, "contents")
SCRIPT_PATH = "$.storage.files[0].contents.source"

# One mutant of the clean config for each rule: where it fires.
MUTANTS = {
    "invalid": (
        changed(*FILES, 1, "path", to="/usr/local//ai-images.txt"),
        ("$.storage.files[1].path", 0),
    ),
    "mode-decimal": (changed(*FILES, 1, "mode", to=644), ("$.storage.files[1].mode", 0)),
    "special-bits": (changed(*FILES, 1, "mode", to=0o1644), ("$.storage.files[1].mode", 0)),
    "not-executable": (changed(*FILES, 0, "mode", to=0o644), ("$.storage.files[0].mode", 0)),
    "key-twice": (
        changed("passwd", "users", 0, "sshAuthorizedKeys", 1, to="ssh-rsa ssh-rsa AAAA lab"),
        ("$.passwd.users[0].sshAuthorizedKeys[1]", 0),
    ),
    "spec-release": (changed("ignition", "version", to="3.2.0"), ("$.ignition.version", 0)),
    "bad-list": (
        changed(*FILES, 1, "contents", "source", old="@sha256:" + "0" * 64, new="@sha256_" + "0" * 64 + ".tgz"),
        ("$.storage.files[1].contents.source", 0),
    ),
    "mount-name": (
        changed(*IN_MOUNT, old="Where=/run/prestage", new="Where=/run/pre-stage"),
        ("$.systemd.units[0].contents", 7),
    ),
    "absent-unit": (
        changed(*IN_MOUNT, old="Before=extract.service", new="Before=precache.service"),
        ("$.systemd.units[0].contents", 3),
    ),
    "bound-cycle": (
        changed(*IN_MOUNT, old="\n[Mount]", new="BindsTo=extract.service\nStopWhenUnneeded=yes\n[Mount]"),
        ("$.systemd.units[0].contents", 4),
    ),
    "not-enabled": (changed(*UNITS, 1, "enabled", to=False), ("$.systemd.units[1].enabled", 0)),
    "no-install": (
        changed(*IN_SERVICE, old="[Install]\nWantedBy=multi-user.target agent.service\n", new=""),
        ("$.systemd.units[1].contents", 0),
    ),
    "wrong-section": (
        changed(*IN_SERVICE, old="Before=agent.service\n", new="Before=agent.service\nExecStart=/usr/bin/true\n"),
        ("$.systemd.units[1].contents", 6),
    ),
    "not-delivered": (
        changed(*IN_SERVICE, old="ExecStart=", new="ExecStartPre=-/bin/bash -e /usr/local/bin/other\nExecStart="),
        ("$.systemd.units[1].contents", 11),
    ),
    "disables-itself": (
        changed(*IN_SERVICE, old="ExecStart=", new="ExecStopPost=systemctl disable extract.service\nExecStart="),
        ("$.systemd.units[1].contents", 11),
    ),
    "wrong-archive": (changed(*IN_SCRIPT, old='rm -rf "${name}"', new="rm -rf $name.gz"), (SCRIPT_PATH, 7)),
    "always-succeeds": (changed(*IN_SCRIPT, old='exit "${rc}"', new="exit 0"), (SCRIPT_PATH, 13)),
    "wrong-item": (
        changed(*IN_SCRIPT, old='storage:${image}" || rc=1', new='storage:${uri}" || rc=1'),
        (SCRIPT_PATH, 11),
    ),
    "last-status": (changed(*IN_SCRIPT, old=" || rc=1", new="\n    rc=$?"), (SCRIPT_PATH, 12)),
}


def test_clean_config_and_its_patch_have_no_finding(tmp_path):
    assert found(tmp_path, CLEAN, patch_of(CLEAN)) == []


@pytest.mark.parametrize("rule", MUTANTS)
def test_each_mutant_is_caught_by_its_rule_alone(tmp_path, rule):
    mutant, (path, line) = MUTANTS[rule]
    assert found(tmp_path, mutant) == [(rule, path, line)]


@pytest.mark.parametrize("rule", MUTANTS)
def test_patch_of_a_mutant_is_caught_inside_its_string(tmp_path, rule):
    mutant, (path, line) = MUTANTS[rule]
    assert found(tmp_path, patch_of(mutant)) == [(rule, f"$.ignition_config_override > {path}", line)]


LOOP = 'storage:${image}" || rc=1'
# What looks like a defect and is none.
INNOCENT = {
    "command of a shell": changed(
        *IN_SERVICE, old="ExecStart=", new='ExecStartPre=/bin/sh -c "/usr/local/bin/x || true"\nExecStart='
    ),
    "file of the mounted partition": changed(*IN_SERVICE, old="=/usr/local/bin/extract", new="=bash /run/prestage/x"),
    "program of the system": changed(*IN_SERVICE, old="=/usr/local/bin/extract", new="=/usr/bin/podman load"),
    "variable that is set again": changed(*IN_SCRIPT, old=LOOP, new='x"; uri=$image; skopeo ${uri} || rc=1'),
    "status that is looked at": changed(*IN_SCRIPT, old=LOOP, new='${image}"\n    rc=$?; [ $rc = 0 ] || break'),
    "archive itself is removed": changed(*IN_SCRIPT, old='rm -rf "${name}"', new='rm -rf "${name}" "${name}.tgz"'),
    "bound without a stop": changed(*IN_MOUNT, old="\n[Mount]", new="BindsTo=extract.service\n[Mount]"),
}


@pytest.mark.parametrize("reason", INNOCENT)
def test_innocent_config_has_no_finding(tmp_path, reason):
    assert found(tmp_path, INNOCENT[reason]) == []


def test_mount_that_a_path_needs_is_started_by_it(tmp_path):
    config = changed(*IN_SERVICE, old="Requires=run-prestage.mount\n", new="")
    config["systemd"]["units"][0]["enabled"] = False
    assert found(tmp_path, config) == []


def test_unit_does_not_start_itself(tmp_path):
    config = changed(*IN_SERVICE, old="Requires=", new="Wants=extract.service\nRequires=")
    config["systemd"]["units"][1]["enabled"] = False
    assert found(tmp_path, config) == [("not-enabled", "$.systemd.units[1].enabled", 0)]


def test_script_that_may_fail_does_not_always_succeed(tmp_path):
    ends = changed(*IN_SCRIPT, old='exit "${rc}"', new="exit 0")
    assert [rule for rule, _, _ in found(tmp_path, ends)] == ["always-succeeds"]
    text = SCRIPT.replace('exit "${rc}"', "[ $rc = 0 ] || exit 1\nexit 0")
    ends["storage"]["files"][0]["contents"]["source"] = data(text)
    assert found(tmp_path, ends) == []
    ends["storage"]["files"][0]["contents"]["source"] = data(SCRIPT.replace('exit "${rc}"', "set -e\nexit 0"))
    assert found(tmp_path, ends) == []


def test_loop_may_use_the_variable_of_the_loop_around_it(tmp_path):
    nested = "for n in 1 2 3; do\n    for image in a b; do\n        skopeo copy $image $n\n    done\ndone\n"
    config = changed(*IN_SCRIPT, old="rc=0\n", new=f"rc=0\n{nested}")
    assert found(tmp_path, config) == []


def test_patch_of_another_config_is_caught_beside_that_config(tmp_path):
    other = changed(*FILES, 0, "mode", to=0o555)
    assert found(tmp_path, CLEAN, patch_of(other)) == [("patch-differs", "$.ignition_config_override > $", 0)]
    assert found(tmp_path, CLEAN, other, patch_of(other)) == []
    assert found(tmp_path, patch_of(other)) == []


def test_patch_is_not_compared_with_a_config_of_the_other_stage(tmp_path):
    pointer = json.loads(
        json.dumps(CLEAN).replace("agent.service", "machine-config-daemon-pull.service").replace("3.1.0", "3.2.0")
    )
    assert found(tmp_path, CLEAN, patch_of(pointer, "config")) == []
    assert found(tmp_path, pointer, patch_of(CLEAN)) == []


def test_patch_that_holds_an_object_is_caught(tmp_path):
    assert found(tmp_path, {"ignition_config_override": CLEAN}) == [
        ("patch-not-string", "$.ignition_config_override", 0)
    ]


def test_every_rule_has_its_mutant():
    assert {*MUTANTS, "patch-differs", "patch-not-string"} == {rule.id for rule in RULES}
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o400, 0o440, 0o555, 0o700, 0o750, 0o777, 0o660, 0])
def test_modes_that_are_meant_have_no_finding(tmp_path, mode):
    assert found(tmp_path, changed(*FILES, 1, "mode", to=mode)) == []


@pytest.mark.parametrize("mode, meant", [(755, 493), (644, 420), (600, 384), (777, 511), (1777, 1023), (444, 292)])
def test_remedy_for_a_decimal_mode_is_the_one_meant(tmp_path, mode, meant):
    path = tmp_path / "a.ign"
    path.write_text(json.dumps(changed(*FILES, 1, "mode", to=mode)))
    assert [each.remedy for each in lint(read_subjects([path]), RULES)] == [f"write {meant} (0o{meant:o})"]


@pytest.mark.parametrize(
    "stage, release, spec",
    [
        (Stage.DISCOVERY, (4, 6), (3, 1)),
        (Stage.DISCOVERY, (4, 12), (3, 1)),
        (Stage.INSTALL, (4, 5), None),
        (Stage.INSTALL, (4, 6), (3, 1)),
        (Stage.INSTALL, (4, 7), (3, 2)),
        (Stage.INSTALL, (4, 10), (3, 2)),
    ],
)
def test_spec_is_that_of_the_release(stage, release, spec):
    assert spec_for(stage, release) == spec


def test_bare_files_are_judged_together(tmp_path):
    for name, text in [("run-prestage.mount", MOUNT), ("extract.service", SERVICE), ("extract", SCRIPT)]:
        (tmp_path / name).write_text(text)
    assert lint(read_subjects(sorted(tmp_path.iterdir())), RULES, RELEASE) == ()
    (tmp_path / "run-prestage.mount").write_text(MOUNT.replace("Before=", "StopWhenUnneeded=1\nBindsTo="))
    (tmp_path / "extract").write_text(SCRIPT.replace('exit "${rc}"', "exit 0"))
    findings = lint(read_subjects(sorted(tmp_path.iterdir())), RULES, RELEASE)
    assert [(each.rule, each.where.replace(str(tmp_path), "")) for each in findings] == [
        ("bound-cycle", "/run-prestage.mount, line 4"),
        ("always-succeeds", "/extract, line 13"),
    ]


def test_options_of_a_unit_are_read_as_systemd_does():
    text = "[Unit]\n# no\nA=1 \\\n; no\n  2\n\n[S]\nB = x=y\nnot an option\nC="
    assert read_options(text) == (
        Option("Unit", "A", "1 2", 3),
        Option("S", "B", "x=y", 8),
        Option("S", "C", "", 10),
    )


def test_mount_units_are_called_as_systemd_calls_them():
    paths = ["/var/mnt", "/", "/a-b/c", "/.hidden/x", "/x/.y", "/größe", "/a b", "//var//mnt/", "/a_b:c.d", "/~"]
    try:
        tool = find_tool("systemd-escape")
    except MissingTool:
        pytest.skip("systemd-escape is not installed")
    command = [tool, "--path", "--suffix=mount", "--", *paths]
    expected = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert [mount_unit_of(path) for path in paths] == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "path", "mode", "contents", "source", "enabled", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@given(values, values, values, values, st.text(max_size=80))
def test_any_document_is_judged_or_refused(tmp_path_factory, files, units, users, version, text):
    path = tmp_path_factory.getbasetemp() / "any.ign"
    document = {
        "ignition": {"version": "3.1.0"} if version is None else version,
        "storage": {"files": files, "directories": [{"mode": version}]},
        "systemd": {"units": units if text else [{"name": "a.mount", "contents": f"[Unit]\n{text}"}]},
        "passwd": {"users": users},
    }
    said = ""
    for shape in (document, {**document, "ignition": {"version": "3.1.0"}}, {"config": json.dumps(document)}):
        path.write_text(json.dumps(shape))
        try:
            lint(read_subjects([path]), RULES, RELEASE)
        except HarnessError as refused:
            said += str(refused)
    assert "\n" not in said


@given(
    st.lists(st.sampled_from([*"$uri{}()=?'\"#\n ;|", "for ", "in ", "do ", "done", "rc", "f()", "tar ", ".gz"])).map(
        "".join
    )
)
def test_any_script_is_judged(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.sh"
    path.write_text(f"#!/bin/sh\nfor uri in a; do skopeo copy; done\n{text}", encoding="utf-8")
    assert isinstance(lint(read_subjects([path]), RULES), tuple)


TELCO_SCRIPT = [("wrong-archive", SCRIPT_PATH, 25), ("always-succeeds", SCRIPT_PATH, 31)]
PRECACHING_SCRIPT = [("wrong-item", SCRIPT_PATH, 188), ("last-status", SCRIPT_PATH, 190)]
DECIMAL = ("mode-decimal", "$.storage.files[0].mode", 0)
CYCLE = ("bound-cycle", "$.systemd.units[0].contents", 4)
LIST = ("bad-list", "$.storage.files[1].contents.source", 0)
NO_URL = [("invalid", f"$.storage.files[{index}].contents.source", 0) for index in range(3)]
NO_SECTION = [("no-install", "$.systemd.units[0].contents", 0), ("wrong-section", "$.systemd.units[0].contents", 3)]

# What each real config has, and nothing else. Those called test-* are broken on purpose.
REAL = {
    "prestage/discovery-extract-list.ign": [DECIMAL, CYCLE, *TELCO_SCRIPT],
    "prestage/discovery-extract.ign": [
        DECIMAL,
        ("mode-decimal", "$.storage.files[1].mode", 0),
        CYCLE,
        TELCO_SCRIPT[0],
        ("always-succeeds", SCRIPT_PATH, 34),
    ],
    "prestage/pointer-extract-list.ign": [
        DECIMAL,
        LIST,  # names of archives,
        LIST,  # a last line that is cut off,
        LIST,  # and images that are not published there
        ("absent-unit", "$.systemd.units[0].contents", 3),
        *TELCO_SCRIPT,
    ],
    "prestage/pointer-extract.ign": [DECIMAL, CYCLE, *TELCO_SCRIPT],
    "prestage/discovery.patch": [],
    "prestage/pointer.patch": [
        ("key-twice", "$.config > $.passwd.users[0].sshAuthorizedKeys[0]", 0),
        ("absent-unit", "$.config > $.systemd.units[0].contents", 3),
    ],
    "prestage/precache-images.service": [],
    "prestage/var-mnt.mount": [("bound-cycle", "", 5)],
    "factory-precaching-cli/boot-beauty.ign": [
        ("disables-itself", "$.systemd.units[0].contents", 11),
        *PRECACHING_SCRIPT,
    ],
    "factory-precaching-cli/discovery-beauty.ign": [
        ("disables-itself", "$.systemd.units[0].contents", 12),
        *PRECACHING_SCRIPT,
    ],
    "factory-precaching-cli/root-test-discovery-beauty.ign": [
        *NO_URL,
        ("no-install", "$.systemd.units[1].contents", 0),
        NO_SECTION[1],
    ],
    "factory-precaching-cli/test-boot-beauty.ign": [
        NO_URL[0],
        *NO_SECTION,
        ("wrong-section", "$.systemd.units[0].contents", 4),
    ],
    "factory-precaching-cli/test-discovery-beauty.ign": [NO_URL[0], *NO_SECTION],
}


@pytest.mark.parametrize("name", REAL)
def test_real_configs_have_their_known_defects(corpus, name):
    findings = lint(read_subjects([corpus / name]), RULES)
    assert [(each.rule, each.place.path, each.line) for each in findings] == REAL[name]


@pytest.mark.parametrize(
    "name, key, differences",
    [
        (
            "discovery",
            "$.ignition_config_override",
            "$.storage, $.systemd.units[0].contents, $.systemd.units[1].contents",
        ),
        (
            "pointer",
            "$.config",
            "$.passwd, $.storage, $.systemd.units[0].contents, $.systemd.units[1].contents",
        ),
    ],
)
def test_real_patches_are_not_what_lies_beside_them(corpus, name, key, differences):
    patch, config = corpus / "prestage" / f"{name}.patch", corpus / "prestage" / f"{name}-extract.ign"
    findings = [each for each in lint(read_subjects([patch, config]), RULES) if each.rule == "patch-differs"]
    assert [(each.place, each.what) for each in findings] == [
        (Place(str(patch), f"{key} > $"), f"differs from {config} at {differences}")
    ]


def test_real_pointer_configs_are_of_another_spec_than_their_release(corpus):
    files = [corpus / "prestage" / name for name in ("pointer.patch", "pointer-extract.ign", "discovery.patch")]
    findings = [each for each in lint(read_subjects(files), RULES, RELEASE) if each.rule == "spec-release"]
    assert [(each.place.file, each.remedy) for each in findings] == [(str(path), "write 3.2.0") for path in files[:2]]


def test_command_tells_place_reason_and_remedy(tmp_path):
    path = tmp_path / "a.ign"
    path.write_text(json.dumps(MUTANTS["mode-decimal"][0]))
    done = run_harness("prestage", "lint", path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        f"mode-decimal  {path}: $.storage.files[1].mode",
        f"    mode 644 is decimal and means 0o1204 (-w----r-- sticky): {REASON['mode-decimal']}",
        "    -> write 420 (0o644)",
        "1 finding in 1 file: mode-decimal",
    ]
    document = json.loads(run_harness("prestage", "lint", "--json", path).stdout)
    assert [(each["rule"], each["path"]) for each in document] == [("mode-decimal", "$.storage.files[1].mode")]


def test_command_is_content_with_a_clean_config(tmp_path):
    path = tmp_path / "a.ign"
    path.write_text(json.dumps(CLEAN))
    done = run_harness("prestage", "lint", path, "--release", "4.10.3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no finding in 1 file\n", "")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is nothing that we can judge"),
        (b"hello\n", "is nothing that we can judge"),
        (b"\xff\xfe", "is not text"),
        (b"{", "is not JSON"),
        (b'{"config": 1}', "holds no config"),
        (b'{"config": "{"}', "is not JSON"),
        (b'{"config": "\\ud800"}', "is not UTF-8"),
        (b'{"ignition": {"version": "9.0.0"}}', "spec 9.0.0 is not supported"),
        (b'{"a":' * 100_000, "is not JSON"),
        (
            json.dumps({**CLEAN, "systemd": {"units": [{"name": "a", "contents": "[U]"}] * 1001}}).encode(),
            "1,000 units",
        ),
    ],
)
def test_command_refuses_what_it_cannot_judge_in_one_line(tmp_path, content, words):
    path = tmp_path / "a.ign"
    path.write_bytes(content)
    with pytest.raises(HarnessError) as refused:
        read_subjects([path])
    assert words in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("arguments", [["missing.ign"], ["--release", "4.5", "a.ign"], ["--release", "x", "a.ign"]])
def test_command_exits_with_2_for_bad_input(tmp_path, arguments):
    (tmp_path / "a.ign").write_text(json.dumps(CLEAN))
    done = run_harness("prestage", "lint", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
