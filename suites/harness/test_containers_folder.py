"""The view of a folder on this host, through which a store outside an image is read."""

import pytest

from harness.containers.folder import FolderFiles
from harness.errors import DamagedImage


def test_a_folder_view_does_not_leave_its_folder(tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "inside/out").symlink_to("..")
    files = FolderFiles(tmp_path / "inside")
    assert files.exists("/out")
    assert not files.exists("/out/secret")
    assert not files.exists("/../secret")
    with pytest.raises(DamagedImage):
        list(files.chunks("/out", 10))
