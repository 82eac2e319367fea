"""`harness diff`: what it prints, in text and JSON, and its exit codes."""

import json
import shutil

import pytest
from click.testing import CliRunner

from harness.cli import harness, main
from suites.harness.workbench import edit, filesystem, make_tree


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    (top := tmp_path_factory.mktemp("part") / "tree").mkdir()
    return filesystem(make_tree(top), top.parent / "one.img")


@pytest.fixture
def other(part, tmp_path):
    image = tmp_path / "other.img"
    shutil.copyfile(part, image)
    edit(image, "sif big mtime @1700000001", "sif etc/hostname mtime @1700000001", "sif link uid 7")
    return image


def diff(*arguments):
    return CliRunner().invoke(harness, ["diff", *map(str, arguments)], standalone_mode=False)


def test_equal_images_exit_with_0(part):
    done = diff(part, part)
    assert (done.return_value, done.stdout) == (0, "one.img / one.img: equal, byte by byte\n")


def test_the_sum_comes_first_then_places_then_knobs(part, other):
    done = diff(part, other)
    assert done.return_value == 1
    lines = done.stdout.splitlines()
    assert lines[0] == "one.img / other.img: 3 differences: 2 timestamp, 1 owner"
    assert lines[2] == "files"
    assert lines[3] == "  timestamp  /big: mtime 2023-11-14T22:13:20Z / 2023-11-14T22:13:21Z"
    assert lines[5] == "  owner      /link: 0:0 / 7:0"
    assert lines[7] == "what removes them"
    assert "2 x  touch -hd @SOURCE_DATE_EPOCH" in lines[8]


def test_no_more_than_asked_for_is_shown_and_the_rest_counted(part, other):
    lines = diff("--most", 1, part, other).stdout.splitlines()
    assert lines[0].startswith("one.img / other.img: 3 differences")
    assert "... and 2 more: --most 3 shows them" in lines


def test_json_has_sums_over_everything_and_the_first_differences(part, other):
    done = diff("--json", "--most", 1, part, other)
    document = json.loads(done.stdout)
    (only,) = document.pop("differences")
    assert done.return_value == 1
    assert document == {
        "schema": "1",
        "first": {"name": "one.img", "container": "raw", "compression": None, "virtual_size": 8 * 2**20},
        "second": {"name": "other.img", "container": "raw", "compression": None, "virtual_size": 8 * 2**20},
        "equal": False,
        "total": 3,
        "by_cause": {"timestamp": 2, "owner": 1},
    }
    assert (only["area"], only["partition"], only["path"], only["cause"]) == ("file", None, "/big", "timestamp")
    assert only["detail"] == "mtime 2023-11-14T22:13:20Z / 2023-11-14T22:13:21Z"
    assert only["knob"].startswith("touch -hd")


def test_json_of_equal_images_is_equal(part):
    document = json.loads(diff("--json", part, part).stdout)
    assert (document["equal"], document["total"], document["differences"]) == (True, 0, [])


def test_what_cannot_be_read_exits_with_2(part, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["diff", str(part), str(tmp_path / "nothing.img")])
    assert left.value.code == 2
    assert "nothing.img: cannot be opened" in capsys.readouterr().err
