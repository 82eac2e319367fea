"""`--image` by URL or stream: fetched once into the store, judged like a file, with what was published about it."""

import gzip
import hashlib
import json
import os
import platform
import subprocess
import sys

import pytest

from suites.harness.small_disk import small_disk
from suites.harness.small_server import small_server

NAME = "small-44.1-qemu.x86_64.raw.gz"
CHECKS = ["suites/rhcos/test_checksums.py", "-q", "-p", "no:cacheprovider", "-k", "published", "--profile", "reference"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("disk")).read_bytes()


@pytest.fixture
def server(disk):
    """A stream whose qemu image is a small disk."""
    packed = gzip.compress(disk, 1, mtime=0)
    with small_server() as served:
        entry = {
            "location": f"{served.url}/{NAME}",
            "sha256": hashlib.sha256(packed).hexdigest(),
            "uncompressed-sha256": hashlib.sha256(disk).hexdigest(),
        }
        artifacts = {"qemu": {"release": "44.1", "formats": {"raw.gz": {"disk": entry}}}}
        architectures = {platform.machine(): {"artifacts": artifacts}}
        served.stream = {"stream": "stable", "metadata": {}, "architectures": architectures}
        served.sha256 = entry["sha256"]
        served.files = {f"/{NAME}": packed, "/stable.json": json.dumps(served.stream).encode()}
        yield served


def run_pytest(tmp_path, *arguments):
    command = [
        sys.executable,
        "-m",
        "pytest",
        *CHECKS,
        "--reports",
        tmp_path / "reports",
        "--store",
        tmp_path / "store",
    ]
    environment = {**os.environ, "HOME": str(tmp_path)}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_an_image_of_a_stream_is_fetched_once_and_held_against_what_was_published(server, tmp_path, workers):
    arguments = ["-v", "--image", "fcos-stable:qemu", "--stream-url", f"{server.url}/stable.json", *workers]
    done = run_pytest(tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"image: fcos-stable:qemu is {NAME}, release 44.1" in done.stdout
    assert "2 passed, 1 skipped" in done.stdout  # streams publish no sizes
    assert [path for path, _ in server.asked] == ["/stable.json", f"/{NAME}"]


def test_an_image_by_url_needs_its_checksum(server, tmp_path):
    good = run_pytest(tmp_path, "--image", f"{server.url}/{NAME}#sha256={server.sha256}")
    assert good.returncode == 0, good.stdout + good.stderr
    bad = run_pytest(tmp_path, "--image", f"{server.url}/{NAME}")
    said = [line for line in (bad.stdout + bad.stderr).splitlines() if line.strip()]
    assert (bad.returncode, len(said)) == (2, 1)
    assert "nobody said its SHA-256" in said[0]


def test_an_image_that_is_not_what_was_published_is_one_line(server, tmp_path):
    server.files[f"/{NAME}"] = b"something else"
    done = run_pytest(tmp_path, "--image", "fcos-stable:qemu", "--stream-url", f"{server.url}/stable.json")
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert (done.returncode, len(said)) == (2, 1)
    assert f"SHA-256: expected {server.sha256}, found" in said[0]
    assert not list((tmp_path / "store" / "downloads").glob("[!.]*"))
