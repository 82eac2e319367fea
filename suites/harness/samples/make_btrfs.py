"""Makes btrfs.img.zst and btrfs.json beside this file: what only Linux itself can write, and what it says of it.

Run it as root on a machine that may mount btrfs: `python suites/harness/samples/make_btrfs.py`. Tests only read what
it made: compressed extents of every kind, subvolumes, snapshots, a default subvolume, devices, reflinks, attributes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SIZE = 128 * 2**20
SHOWN = "default"  # the subvolume that is shown as the root
WORDS = [f"word-{number * 7919 % 1000}" for number in range(8)]


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def text(seed: int, length: int) -> bytes:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(length // 6)).encode()[:length]


def fill(root: Path, codec: str) -> None:
    """Files that this codec packs: inline, one extent, several, with bytes overwritten and holes punched."""
    folder = root / codec
    folder.mkdir()
    (folder / "inline").write_bytes(b"a" * 1500)
    (folder / "one").write_bytes(text(1, 40_000))
    (folder / "several").write_bytes(text(2, 300_000))
    os.sync()
    with (folder / "several").open("r+b") as file:
        file.seek(150_000)
        file.write(text(3, 5000))
    run("fallocate", "-p", "-o", "200704", "-l", "65536", folder / "several")
    run("cp", "--reflink=always", folder / "one", folder / "clone")
    os.sync()


def plant(root: Path) -> None:
    for codec in ("zlib", "lzo", "zstd"):
        run("mount", "-o", f"remount,compress-force={codec}", root)
        fill(root / SHOWN, codec)
    run("mount", "-o", "remount,compress=no", root)
    top = root / SHOWN
    (top / "plain").write_bytes(text(4, 60_000))
    run("fallocate", "-l", "100000", top / "preallocated")
    os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(top / "far", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    os.link(top / "plain", top / "zlib/plain-again")
    (top / "link").symlink_to("x/" * 200)
    (top / "fixed").write_bytes(b"fixed")
    run("chattr", "+i", top / "fixed")
    for number in range(9):
        os.setxattr(top / "plain", f"user.attribute-{number}", b"v" * (number * 40))
    os.utime(top / "plain", ns=(0, -(10**18) - 1))
    os.utime(top / "link", ns=(0, 2**33 * 10**9 + 5), follow_symlinks=False)
    run("btrfs", "subvolume", "create", top / "inner")
    (top / "inner/folder").mkdir()
    (top / "inner/folder/file").write_bytes(b"in a subvolume of a subvolume")
    run("btrfs", "subvolume", "snapshot", "-r", top, top / "snapshot")
    (root / "outside").write_bytes(b"not in the default subvolume")


def told(root: Path) -> dict[str, object]:
    """What Linux says of every path."""
    found = {}
    for path in sorted((root, *root.rglob("*"))):
        seen = os.lstat(path)
        kind = stat.S_IFMT(seen.st_mode)
        found["/" + str(path.relative_to(root)) if path != root else "/"] = {
            "mode": seen.st_mode,
            "size": seen.st_size,
            "links": seen.st_nlink,
            "inode": seen.st_ino,
            "mtime_ns": seen.st_mtime_ns,
            "device": [os.major(seen.st_rdev), os.minor(seen.st_rdev)],
            "target": os.readlink(path) if kind == stat.S_IFLNK else "",  # noqa: PTH115 - as written
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if kind == stat.S_IFREG else "",
            "attributes": {
                name: os.getxattr(path, name, follow_symlinks=False).hex()
                for name in os.listxattr(path, follow_symlinks=False)
            },
        }
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        image, root = Path(scratch) / "btrfs.img", Path(scratch) / "root"
        root.mkdir()
        with image.open("wb") as file:
            file.truncate(SIZE)
        run("mkfs.btrfs", "-q", "-m", "dup", "-L", "from-linux", image)
        run("mount", "-o", "loop", image, root)
        try:
            run("btrfs", "subvolume", "create", root / SHOWN)
            plant(root)
            run("btrfs", "subvolume", "set-default", root / SHOWN)
        finally:
            run("umount", root)
        run("mount", "-o", "loop,ro", image, root)
        try:
            facts = told(root)
        finally:
            run("umount", root)
        run("zstd", "-q", "-f", "-19", "--long=27", image, "-o", HERE / "btrfs.img.zst")
    (HERE / "btrfs.json").write_text(
        "{\n" + ",\n".join(f"{json.dumps(path)}: {json.dumps(facts[path])}" for path in facts) + "\n}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
