"""Five inputs that are no images: each gives one clear line and exit code 2, from the command line and from pytest."""

import os
import struct
import subprocess
import sys

import pytest


def text_file(path):
    path.write_text("this is a letter to my aunt\n" * 100)


def empty_file(path):
    path.touch()


def directory(path):
    path.mkdir()


def truncated_qcow2(path):
    whole = path.with_suffix(".whole")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", whole, "64M"], check=True)
    with whole.open("r+b") as stream:
        for offset in range(0, 64 * 2**20, 2**20):
            stream.seek(offset)
            stream.write(b"data")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", whole, path], check=True)
    os.truncate(path, path.stat().st_size // 2)


def hostile_backing_file(path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    name = b"/etc/passwd"
    with path.open("r+b") as stream:
        stream.seek(8)
        stream.write(struct.pack(">QI", 1024, len(name)))
        stream.seek(1024)
        stream.write(name)


WORDS = {
    text_file: "is not a disk image",
    empty_file: "is empty",
    directory: "directory",
    truncated_qcow2: "truncated",
    hostile_backing_file: "backing file",
}


@pytest.fixture(params=WORDS, ids=lambda make: make.__name__)
def ugly(request, tmp_path):
    path = tmp_path / "ugly.qcow2"
    request.param(path)
    return path, WORDS[request.param]


COMMANDS = {
    "harness inspect": ["-m", "harness.cli", "inspect"],
    "pytest": ["-m", "pytest", "suites/rhcos", "-q", "-p", "no:cacheprovider", "--image"],
    "pytest -n 2": ["-m", "pytest", "suites/rhcos", "-q", "-p", "no:cacheprovider", "-n", "2", "--image"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_ugly_input_is_one_clear_line(ugly, command, tmp_path):
    path, words = ugly
    done = subprocess.run(
        [sys.executable, *command, path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "IMAGE_HARNESS_STORE": str(tmp_path / "store")},
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert done.returncode == 2, said
    assert len(said) == 1, said
    assert str(path) in said[0]
    assert words in said[0]
