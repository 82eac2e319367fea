"""External tests as found on disk: headers, names, what belongs to them, who may share a machine."""

import pytest

from harness.errors import BadInput
from harness.external.discovery import ExternalTest, read_test, readable_tests, root_of
from harness.external.metadata import Metadata, Scope, read_header, read_kola_json
from harness.external.sharing import shares_of
from suites.harness.small_project import external_project, header


def script(tmp_path, text):
    path = tmp_path / "script"
    path.write_text(text)
    return path


def test_a_header_in_yaml_says_all_that_kola_knows(tmp_path):
    path = script(
        tmp_path,
        """#!/bin/bash
# This comment is none of it.
## kola:
##   # Nor is this.
##   exclusive: false
##   conflicts:
##     - ext.proj.other
##     - ext.proj.third   # because of the port
##   tags: "needs-internet reprovision"
##   requiredTag: special
##   timeoutMin: 8
##   minMemory: 4096
##   architectures: "!s390x ppc64le"
##   platforms: qemu
##   distros: fcos
##   description: Looks at something.
##   creationDate: 2026-11-21
##   additionalDisks: ["5G"]
##   numaNodes: false
set -euo pipefail
""",
    )
    assert read_header(path) == Metadata(
        exclusive=False,
        conflicts=("ext.proj.other", "ext.proj.third"),
        tags=("needs-internet", "reprovision"),
        required_tag="special",
        minutes=8,
        memory=4096,
        architectures=Scope(("s390x", "ppc64le"), is_exclusion=True),
        platforms=Scope(("qemu",)),
        distros=Scope(("fcos",)),
        description="Looks at something.",
        unsupported=("additionalDisks",),
    )


def test_the_older_header_is_one_line_of_json(tmp_path):
    path = script(tmp_path, '#!/bin/bash\n# kola: { "platforms": "aws gcp", "tags": "a b" }\n')
    assert read_header(path) == Metadata(platforms=Scope(("aws", "gcp")), tags=("a", "b"))


def test_a_test_without_header_has_a_machine_of_its_own(tmp_path):
    assert read_header(script(tmp_path, "#!/bin/bash\ntrue\n")) is None
    assert Metadata().exclusive


@pytest.mark.parametrize(
    "text, line, words",
    [
        ("#!/bin/bash\n\n## kola:\n##   exclusive: false\n##   exclusiv: true\n", 5, "'exclusiv', which is no key"),
        ("## kola:\n##   exclusive: maybe\n", 2, "exclusive 'maybe', not true or false"),
        ("## kola:\n##   timeoutMin: 0\n", 2, "timeoutMin 0, not 1 to"),
        ("## kola:\n##   timeoutMin: soon\n", 2, "timeoutMin 'soon', not a whole number"),
        ("## kola:\n##   tags: a\n##   tags: b\n", 3, "'tags' twice"),
        ("## kola:\n##   tags: {a: b}\n", 2, "not words"),
        ("## kola:\n##   tags: [unclosed\n", 2, "no YAML"),
        ("## kola:\n##   tags: a\n##  exclusive: true\n", 3, "no YAML"),
        ("## kola:\n## - tags\n", 2, "no list of keys and values"),
        ("## kola: tags\n", 1, "keys belong on the next lines"),
        ("\n## kola:\n##   creationDate: 2026-13-41\n", 2, "no YAML"),
        ("## kola:\n## a: " + "[" * 5000 + "\n", 1, "no YAML"),
        ('# kola: { "tags": }\n', 1, "no JSON"),
        ("# kola: [1]\n", 1, "no JSON object"),
    ],
)
def test_a_broken_header_is_one_error_with_file_and_line(tmp_path, text, line, words):
    path = script(tmp_path, text)
    with pytest.raises(BadInput) as wrong:
        read_header(path)
    assert str(wrong.value).startswith(f"{path}:{line}: ")
    assert words in str(wrong.value)
    assert "\n" not in str(wrong.value)


def test_kola_json_stands_for_headers_that_are_not_there(tmp_path):
    project = external_project(tmp_path, {"some/one": "true", "some/two": header(timeoutMin=3)})
    (project / "tests/kola/some/kola.json").write_text('{\n\t"timeoutMin": 8\n}\n')
    assert [test.metadata.minutes for test in readable_tests(root_of(project))] == [8, 3]


def test_a_broken_kola_json_names_its_line(tmp_path):
    path = tmp_path / "kola.json"
    path.write_text('{\n\t"timeoutMin": 8,\n\t"tag": "x"\n}\n')
    with pytest.raises(BadInput, match=r"kola.json:3: the metadata says 'tag', which is no key"):
        read_kola_json(path)


def test_names_are_those_that_kola_gives(tmp_path):
    tests = {"basic": "", "ignition/test.sh": "", "two/test.sh": "", "two/other": "", "deep/er/one": ""}
    project = external_project(tmp_path, tests)
    assert [test.name for test in readable_tests(root_of(project))] == [
        "ext.proj.basic",
        "ext.proj.deep.er.one",
        "ext.proj.ignition",
        "ext.proj.two.other",
        "ext.proj.two.test.sh",
    ]
    assert root_of(project / "tests/kola").prefix == "ext.proj"
    assert root_of(project / "tests/kola/two").prefix == "ext.two"


def test_data_and_configs_belong_to_a_test_and_are_none(tmp_path):
    project = external_project(tmp_path, {"some/one": "", "common/data/lib.sh": "", "some/notes": ""})
    folder = project / "tests/kola/some"
    (folder / "notes").chmod(0o644)
    (folder / "data").symlink_to("../common/data")
    (folder / "config.ign").write_text("{}")
    (test,) = readable_tests(root_of(project))
    assert test == ExternalTest(
        "ext.proj.some.one",
        folder / "one",
        data=(project / "tests/kola/common/data").resolve(),
        config=folder / "config.ign",
    )
    assert root_of(folder).forgotten == (folder / "notes",)


def test_a_butane_config_is_translated_with_files_of_its_folder(tmp_path):
    folder = external_project(tmp_path, {"some/one": ""}) / "tests/kola/some"
    files = "storage:\n  files:\n    - path: /etc/one\n      contents:\n        local: one.txt\n"
    (folder / "config.bu").write_text(f"variant: fcos\nversion: 1.4.0\n{files}")
    (folder / "one.txt").write_text("local")
    (test,) = readable_tests(root_of(folder))
    config = test.ignition()
    assert {file.path: file.content for file in config.files()} == {"/etc/one": b"local"}


def test_both_configs_beside_a_test_are_refused(tmp_path):
    folder = external_project(tmp_path, {"some/one": ""}) / "tests/kola/some"
    for name in ("config.bu", "config.ign"):
        (folder / name).write_text("{}")
    found = root_of(folder)
    with pytest.raises(BadInput, match=r"has config\.ign and config\.bu"):
        read_test(found, found.executables[0])


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is not a folder"):
        root_of(tmp_path / "nowhere")


def shared(name, *conflicts):
    return ExternalTest(name, path=None, metadata=Metadata(exclusive=False, conflicts=conflicts))


def test_conflicting_tests_never_share_a_machine():
    """The conflict is named by one of the two only; exclusive tests share with nobody."""
    tests = [shared("a", "c"), shared("b"), shared("c"), shared("d", "c", "a"), ExternalTest("e", path=None)]
    shares = shares_of(tests)
    assert shares == {"a": 0, "b": 0, "c": 1, "d": 2}
    assert shares_of(reversed(tests)) == shares


@pytest.mark.parametrize(
    "metadata, reason",
    [
        (Metadata(), ""),
        (Metadata(platforms=Scope(("aws", "gcp"))), "meant for platforms aws gcp, and this is qemu"),
        (Metadata(architectures=Scope(("x86_64",), is_exclusion=True)), "meant for architectures !x86_64, and"),
        (Metadata(distros=Scope(("rhcos",))), "meant for distros rhcos, and this is fcos"),
        (Metadata(unsupported=("primaryDisk", "bootFrom")), "cannot give yet: primaryDisk, bootFrom"),
        (Metadata(required_tag="slow"), "runs only when asked for: --tag slow"),
    ],
)
def test_what_cannot_run_here_says_why(metadata, reason):
    test = ExternalTest("ext.proj.some", path=None, metadata=metadata)
    obstacle = test.obstacle(architecture="x86_64", distro="fcos")
    assert reason in obstacle
    assert bool(reason) == bool(obstacle)


def test_a_required_tag_is_enough_when_asked_for():
    test = ExternalTest("ext.proj.some", path=None, metadata=Metadata(required_tag="slow"))
    assert test.obstacle(architecture="x86_64", distro="fcos", tags=frozenset({"slow"})) == ""
