"""Files that are disks of a machine: what they are called depends on what they hold, not on how the host stores it."""

import os
import subprocess

import pytest

from harness.machine.hardware.disk_file import PIECE, read_disk_file

SIZE = 5 * PIECE + 512
PLACES = {0: b"a" * 100, 2 * PIECE - 50: b"b" * 100, SIZE - 10: b"c" * 10}


def sparse(path):
    """Holes wherever there is nothing."""
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, content in PLACES.items():
            os.pwrite(file.fileno(), content, offset)


def dense(path):
    """The same, with zeroes that are stored."""
    content = bytearray(SIZE)
    for offset, piece in PLACES.items():
        content[offset : offset + len(piece)] = piece
    path.write_bytes(content)


def allocated(path):
    """The same, with room that was never written."""
    subprocess.run(["fallocate", "-l", str(SIZE), path], check=True)
    with path.open("r+b") as file:
        for offset, content in PLACES.items():
            os.pwrite(file.fileno(), content, offset)


@pytest.mark.parametrize("other", [dense, allocated])
def test_equal_content_has_an_equal_name_however_it_is_stored(other, tmp_path):
    sparse(tmp_path / "sparse")
    other(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == (tmp_path / "sparse").read_bytes()
    before = read_disk_file(tmp_path / "other").digest
    os.sync()
    assert read_disk_file(tmp_path / "other").digest == before == read_disk_file(tmp_path / "sparse").digest


@pytest.mark.parametrize(
    "change",
    [
        lambda file: os.pwrite(file, b"x", 0),
        lambda file: os.pwrite(file, b"x", 3 * PIECE),
        lambda file: os.truncate(file, SIZE + 512),
        lambda file: (os.pwrite(file, bytes(100), 0), os.pwrite(file, b"a" * 100, PIECE)),
    ],
    ids=["a byte", "where nothing was", "the length", "the place"],
)
def test_another_content_has_another_name(change, tmp_path):
    sparse(tmp_path / "disk")
    before = read_disk_file(tmp_path / "disk").digest
    file = os.open(tmp_path / "disk", os.O_RDWR)
    change(file)
    os.close(file)
    assert read_disk_file(tmp_path / "disk").digest != before
