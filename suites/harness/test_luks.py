"""LUKS: recognised; what encrypts nothing (cipher_null, as RHCOS 4.4 shipped its root) is read through."""

import hashlib
import os
import shutil
import subprocess

import pytest

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.inspection import inspect
from harness.images.source import open_image
from harness.tools import run
from suites.harness.small_disk import MIB, small_disk, write

HEADER = 16 * MIB  # where cryptsetup puts the payload


def with_cipher(header, cipher, offset=None):
    """cryptsetup's own header with another cipher in its JSON: it cannot make cipher_null without device mapper."""
    data = bytearray(header)
    for copy in (0, 16 * 1024):
        size = int.from_bytes(data[copy + 8 : copy + 16], "big")
        area = bytes(data[copy + 4096 : copy + size]).split(b"\0", 1)[0]
        changed = area.replace(b'"encryption":"aes-xts-plain64","sector', f'"encryption":"{cipher}","sector'.encode())
        changed = changed.replace(b'"offset":"16777216"', f'"offset":"{offset or HEADER}"'.encode())
        data[copy + 4096 : copy + size] = changed.ljust(size - 4096, b"\0")
        data[copy + 448 : copy + 512] = bytes(64)
        digest = hashlib.sha256(bytes(data[copy : copy + size])).digest()
        data[copy + 448 : copy + 480] = digest
    return bytes(data)


@pytest.fixture(scope="module")
def header(tmp_path_factory):
    if shutil.which("cryptsetup") is None:
        pytest.skip("cryptsetup is not installed")
    path = tmp_path_factory.mktemp("luks") / "container"
    path.touch()
    os.truncate(path, HEADER + MIB)
    cheap = ["--pbkdf", "argon2i", "--pbkdf-memory", "64", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "1"]
    command = ["cryptsetup", "luksFormat", "-q", "--type", "luks2", "--cipher", "aes-xts-plain64", *cheap]
    subprocess.run([*command, "--label", "crypt_rootfs", path, "-"], input=b"a passphrase", check=True)
    return path.read_bytes()[:HEADER]


@pytest.fixture
def container(header, tmp_path):
    """`container(cipher)`: a LUKS header with an ext4 behind it, encrypted or not."""

    def make(cipher, offset=None):
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "hello").write_text("behind LUKS")
        inner, path = tmp_path / "inner", tmp_path / "container"
        run(["mke2fs", "-q", "-t", "ext4", "-d", str(tmp_path / "tree"), str(inner), "4M"])
        path.write_bytes(with_cipher(header, cipher, offset) + inner.read_bytes())
        return path

    return make


def test_files_behind_a_cipher_that_encrypts_nothing_are_read(container):
    with FileBlock(container("cipher_null-ecb")) as block:
        assert open_files(block).text("/hello") == "behind LUKS"


def test_what_is_encrypted_is_not_read(container):
    with FileBlock(container("aes-xts-plain64")) as block, pytest.raises(UnsupportedImage, match="crypto_LUKS"):
        open_files(block)


def test_a_payload_beyond_the_end_is_damage(container):
    with FileBlock(container("cipher_null-ecb", 10**15)) as block, pytest.raises(DamagedImage, match="beyond its end"):
        open_files(block)


def test_the_manifest_says_that_nothing_is_encrypted(header, tmp_path):
    disk = small_disk(tmp_path)
    write(disk, 15 * MIB, with_cipher(header, "cipher_null-ecb"))
    with open_image(disk) as image:
        notes = inspect(image, ["layout"]).notes
    assert any("cipher_null: nothing is encrypted" in note for note in notes)
