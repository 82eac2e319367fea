"""Lists of images: every kind, real ones, and what is wrong with them; by function and as users run the command."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.prestage.lists.listfile import read_text
from harness.prestage.lists.lists import Stage, check_lists, read_list
from harness.prestage.lists.problem import KINDS
from harness.prestage.lists.stages import BOOTSTRAP
from suites.harness.test_cli import run_harness

ART = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
RELEASE = "quay.io/openshift-release-dev/ocp-release:4.11.0-x86_64"
AGENT = "registry.redhat.io/multicluster-engine/assisted-installer-agent-rhel8"
REPORTER = AGENT.replace("agent", "reporter")


def digest(number):
    return f"sha256:{number:064x}"


def art(number):
    return f"{ART}@{digest(number)}"


def written(tmp_path, name, *lines):
    path = tmp_path / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def tag(number, name):
    return {"name": name, "from": {"kind": "DockerImage", "name": art(number)}}


def stream(*tags):
    return {"kind": "ImageStream", "apiVersion": "image.openshift.io/v1", "spec": {"tags": list(tags)}}


def stages(images):
    return {str(each.reference): "+".join(sorted(each.stages)) for each in images.images}


def told(checked):
    """Problems without their files: kind, line."""
    return [(each.kind, each.line) for each in checked.problems]


def test_plain_list_of_a_release_is_for_the_installation(tmp_path):
    checked = check_lists([written(tmp_path, "ocp", art(1), "# a comment", "", f"  {art(2)} \t# why", f"{art(3)}#why")])
    assert stages(checked.images) == {art(1): "install", art(2): "install", art(3): "install"}
    assert [each.line for each in checked.images.images] == [1, 4, 5]
    assert told(checked) == [("no-discovery", 0)]


def test_list_that_names_an_agent_is_of_discovery(tmp_path):
    checked = check_lists([written(tmp_path, "ai", art(1), RELEASE, f"{AGENT}:1", f"{REPORTER}:1")])
    assert checked.problems == ()
    assert checked.kinds[0][1] == "discovery"
    assert stages(checked.images) == {
        art(1): "discovery",
        RELEASE: "discovery+install",
        f"{AGENT}:1": "discovery",
        f"{REPORTER}:1": "discovery+install",
    }


def test_list_of_a_whole_release_is_none_of_discovery_though_it_names_an_agent(tmp_path):
    checked = check_lists([written(tmp_path, "all", *map(art, range(160)), f"{AGENT}:1")])
    assert checked.kinds[0][1] == "release"
    assert Counter(stages(checked.images).values()) == {"install": 160, "discovery": 1}


def test_list_given_for_discovery_tells_the_stages_of_a_release(tmp_path):
    release, discovery = written(tmp_path, "ocp", art(1), art(2)), written(tmp_path, "some", art(2), "quay.io/a/t:1")
    checked = check_lists([release], discovery=[discovery])
    assert checked.problems == ()
    assert stages(checked.images) == {art(1): "install", art(2): "discovery+install", "quay.io/a/t:1": "discovery"}


@pytest.mark.parametrize("wrapped", [False, True], ids=["image-references", "oc adm release info"])
def test_json_of_a_release_names_operators_and_so_tells_the_stages(tmp_path, wrapped):
    tags = [tag(number, name) for number, name in enumerate(sorted(BOOTSTRAP))] + [tag(99, "console")]
    document = {"image": RELEASE, "references": stream(*tags)} if wrapped else stream(*tags)
    path = tmp_path / "release"
    path.write_text(json.dumps(document, indent=1))
    images = read_list(path)
    assert {each.name for each in images.of(Stage.DISCOVERY)} == BOOTSTRAP | ({""} if wrapped else set())
    assert [each.name for each in images.images if Stage.DISCOVERY not in each.stages] == ["console"]
    assert len(images.of(Stage.INSTALL)) == len(images.images) == 15 + wrapped
    console = images.images[-1]
    assert str(console.reference) in path.read_text().splitlines()[console.line - 1]


def test_mapping_tells_operators_and_tags(tmp_path):
    target = "openshift/release:4.12.0-rc.1-x86_64-must-gather"
    path = written(
        tmp_path,
        "mapping.txt",
        f"{art(1)}={target}",
        f"{art(2)}=mirror.example:8443/openshift/release:4.11.0-x86_64-console",
        f"{RELEASE}=openshift/release-images:4.11.0-x86_64",
        f"{AGENT}@{digest(3)}=multicluster-engine/assisted-installer-agent-rhel8:8ba1",
        "registry.redhat.io/openshift4/ptp:v4=openshift4/ptp:v4",
    )
    images = read_list(path)
    assert [(each.name, each.tag, sorted(each.stages)) for each in images.images] == [
        ("must-gather", "4.12.0-rc.1-x86_64-must-gather", ["discovery", "install"]),
        ("console", "4.11.0-x86_64-console", ["install"]),
        ("", "", ["discovery", "install"]),
        ("", "8ba1", ["discovery"]),
        ("", "", ["install"]),
    ]


# One list a kind of problem: what it has wrong, and nothing else.
WRONG = {
    "archive-name": ([art(1), f"{ART}@sha256_{'0' * 64}.tgz"], [2]),
    "bad-reference": ([art(1), f"{ART}@sha256:12", "openshift/pod:1"], [2, 3]),
    "bad-mapping": ([f"{art(1)}=a/b:1", art(2), f"{art(3)}=b", f"{art(4)}=:1"], [2, 3, 4]),
    "collision": ([f"{ART}:1", "quay.io/b/ocp-v4.0-art-dev:1"], [2]),
    "duplicate": ([art(1), art(2), f"{art(1)} "], [3]),
    "empty": (["# nothing"], [0]),
    "mixed": ([art(1), "quay.io/b/x@" + digest(2), art(3)], [2]),
    "too-long": ([art(1), "#" * 5000], [2]),
    "unpublished": ([art(1), f"quay.io/openshift-release-dev/assisted-installer-rhel8@{digest(2)}"], [2]),
    "by-tag": ([art(1), f"{ART}:4.11"], [2]),
    "carriage-return": ([f"{art(1)}\r"], [1]),
    "extra-words": ([f"{art(1)} {art(2)}"], [1]),
    "no-discovery": ([art(1)], [0]),
    "two-tags": ([f"{art(1)}=a/b:1", f"{art(1)}=a/b:2"], [2]),
}
ALSO = {"collision": {"mixed", "by-tag"}, "unpublished": {"no-discovery"}}


@pytest.mark.parametrize("kind", WRONG)
def test_each_kind_of_problem_is_found_with_its_lines(tmp_path, kind):
    lines, expected = WRONG[kind]
    checked = check_lists([written(tmp_path, "list", *lines)])
    expected_kinds = {kind, "no-discovery"} | ALSO.get(kind, set()) if checked.images.images else {kind}
    assert {each.kind for each in checked.problems} - {"no-discovery"} <= expected_kinds
    assert [each.line for each in checked.problems if each.kind == kind] == expected


def test_kinds_that_need_more_than_a_plain_list_are_found(tmp_path):
    release = written(tmp_path, "ocp", art(1))
    others = written(tmp_path, "ai", art(1), art(2), f"{AGENT}:1")
    assert told(check_lists([release, others])) == [("not-in-release", 2)]
    path = tmp_path / "release.json"
    path.write_text(json.dumps(stream(tag(1, "pod"), tag(1, "console"), {"name": "x"}, "y"), indent=0))
    assert Counter(each.kind for each in check_lists([path]).problems) == {"two-names": 1, "bad-json": 2}


def test_every_kind_of_problem_has_a_test():
    assert set(WRONG) | {"not-in-release", "two-names", "bad-json"} == set(KINDS)


def test_mixed_repositories_can_be_meant(tmp_path):
    path = written(tmp_path, "ocp", art(1), "registry.redhat.io/openshift4/ptp@" + digest(2))
    assert [each.kind for each in check_lists([path]).errors] == ["mixed"]
    assert len(read_list(path, mixed=True).images) == 2


def test_images_with_an_error_are_left_out_and_the_others_told(tmp_path):
    checked = check_lists([written(tmp_path, "list", art(1), f"{ART}@sha256:1", art(1), art(2))])
    assert list(stages(checked.images)) == [art(1), art(2)]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "names no image"),
        (b"\x1f\x8b\x08\x00", "is compressed"),
        (b"quay.io/\xff", "is not text (line 1)"),
        (b"a\0b", "is not text"),
        (b"{", "is not JSON"),
        (b"[]", "is JSON but no object"),
        (b"{}", "is JSON without $.spec.tags"),
        (b'{"references": 1}', "is JSON without $.references.spec.tags"),
        (b'{"a": ' * 50_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": [' + b"0," * 300_000 + b"0]}", "has more than 200,000 values"),
        (f"{ART}:x\n".encode() * 5_001, "has more than 5,000 entries"),
        (b"\n" * 100_001, "has more than 100,000 lines"),
        (b'{"a": "' + b"x" * 65_537 + b'"}', "has a value of more than 65,536 characters"),
        (b"\n" * (4 * 2**20 + 1), "is larger than 4,194,304 bytes"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        read_list(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("make", [Path.mkdir, str], ids=["folder", "missing"])
def test_path_without_a_list_is_refused(tmp_path, make):
    make(tmp_path / "list")
    with pytest.raises(BadInput):
        check_lists([tmp_path / "list"])


@given(st.text(max_size=200) | st.lists(st.sampled_from([art(1), "=", "{", '"', "x:1", "#", "\r", "@"])).map("\n".join))
def test_any_text_is_judged_or_refused(text):
    said = ""
    try:
        read_text(text, "list")
    except BadInput as refused:
        said = str(refused)
    assert "\n" not in said


# What the corpus is known to hold: images for discovery, for the installation, errors by kind.
REAL = {
    "ocp_images.txt.4.10.3": (0, 162, {}),
    "ocp_images.txt.4.10.4": (0, 163, {}),
    "ocp_images.txt.4.10.20": (0, 0, {"archive-name": 164, "unpublished": 2}),
    "initial-images-4.10.3.txt": (20, 1, {}),
    "initial-images-4.10.20.txt": (20, 1, {}),
    "initial-images-4.11.0.txt": (18, 1, {}),
    "acm-2.5.1.txt": (2, 0, {}),
    "acm-2.6.2.txt": (3, 1, {}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_lists_give_their_known_result(corpus, name):
    checked = check_lists([corpus / "prestage" / name])
    found = [len(checked.images.of(stage)) for stage in Stage]
    assert (*found, Counter(each.kind for each in checked.errors)) == REAL[name]


def test_real_release_with_its_assisted_installer_list(corpus):
    prestage = corpus / "prestage"
    images = read_list(prestage / "ocp_images.txt.4.10.3", discovery=[prestage / "initial-images-4.10.3.txt"])
    both = [each for each in images.images if len(each.stages) == 2]
    assert (len(images.images), len(images.of(Stage.DISCOVERY)), len(images.of(Stage.INSTALL))) == (168, 20, 163)
    assert Counter(each.reference.basename for each in both) == {"ocp-v4.0-art-dev": 14, "ocp-release": 1}


def test_real_lists_of_two_versions_share_no_image(corpus):
    older, newer = (corpus / "prestage" / f"ocp_images.txt.4.10.{minor}" for minor in (3, 4))
    assert len(check_lists([older, newer]).images.images) == 162 + 163
    mistaken = check_lists([newer, corpus / "prestage" / "initial-images-4.10.3.txt"])
    assert told(mistaken) == [("not-in-release", line) for line in range(4, 18)]


def test_command_shows_a_table_and_one_last_line(tmp_path):
    release = written(tmp_path, "ocp", art(1))
    done = run_harness("prestage", "list", release, "--discovery", written(tmp_path, "ai", art(1), f"{AGENT}:1"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"both       {art(1)}",
        f"discovery  {AGENT}:1",
        "2 images (2 for discovery, 1 for install), no error in list of a release, list of the discovery stage",
    ]


def test_command_tells_every_error_and_exits_with_1(tmp_path):
    archive = f"{ART}@sha256_{'0' * 64}.tgz"
    done = run_harness("prestage", "list", written(tmp_path, "ocp", archive, archive, art(1), "pod:1"))
    assert (done.returncode, done.stderr) == (1, "")
    table, *errors, last = [line for line in done.stdout.splitlines() if not line.startswith("warning")]
    assert table == f"install    {art(1)}"
    assert [line.replace(str(tmp_path), "") for line in errors] == [
        (
            f"error    /ocp:1-2: 2 names of archives instead of pull specs; the first {archive!r} names an archive, "
            f"not an image (write {ART}@sha256:{'0' * 64})"
        ),
        "error    /ocp:4: 'pod:1' names no registry (as quay.io/me/image@sha256:<64 hex digits> or :tag)",
        f"error    /ocp:2: {ART}@sha256:{'0' * 64} is in line 1 already",
    ]
    assert last == "1 image (0 for discovery, 1 for install), 4 errors in list of a release"


def test_command_gives_json(tmp_path):
    path = written(tmp_path, "ocp", art(1), f"{AGENT}:1")
    done = run_harness("prestage", "list", "--json", "--stage", "install", path, written(tmp_path, "more", art(2)))
    document = json.loads(done.stdout)
    assert [image["pull_spec"] for image in document["images"]] == [art(2)]
    assert document["count"] == {"all": 3, "discovery": 2, "install": 1}
    assert document["lists"][0] == {"file": str(path), "kind": "discovery"}


def test_command_refuses_what_is_no_list(tmp_path):
    done = run_harness("prestage", "list", tmp_path / "nothing")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
