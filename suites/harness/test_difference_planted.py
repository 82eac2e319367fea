"""Every planted difference is reported as exactly its cause and place, and nothing else is."""

import pytest

from harness.images.difference.explain import explain_difference
from harness.images.source import open_image
from suites.harness.planted import PLANTED
from suites.harness.workbench import Bench, filesystem, make_disk, make_esp, make_tree


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    top = tmp_path_factory.mktemp("parts")
    (top / "tree").mkdir()
    tree, esp = make_tree(top / "tree"), make_esp(top)
    root = filesystem(tree, top / "root.img")
    return tree, root, esp, make_disk(top / "disk.img", root, esp)


@pytest.fixture
def bench(parts, tmp_path):
    (tmp_path / "again").mkdir()
    (tmp_path / "tree").mkdir()
    return Bench(*parts, tmp_path)


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_a_planted_difference_is_reported_as_that_and_nothing_else(bench, planted):
    paths = planted.plant(bench)
    with open_image(paths[0]) as one, open_image(paths[1]) as other:
        found = explain_difference(one, other)
        assert explain_difference(one, one) == explain_difference(other, other) == ()
    told = [(each.area, each.partition, each.path, each.cause) for each in found]
    expected = (planted.area, planted.partition, planted.path, planted.cause)
    assert told == [expected], "\n".join(map(str, found))
