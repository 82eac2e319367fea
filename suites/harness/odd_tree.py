"""A folder with every kind of trouble that a filesystem may hold, and how a reading of it is compared with it.

Used by the tests of the readers whose mkfs program takes a folder: btrfs, squashfs, EROFS, ISO 9660.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError
from harness.images.block import Block
from harness.images.filesystems.files import Entry, Files, Mount
from harness.images.filesystems.inodes import KINDS, Inodes

LONG_TARGET = "/".join(["a-rather-long-part", "..", "x" * 200] * 4)
OLD, LATER, FAR = 1, 1_234_567_890, 2**31 + 86_400  # seconds since the epoch; FAR is in 2038
MANY = 1200
STRANGE_NAMES = ("umläut \u2603", "  spaces  ", "-dash", "semi;colon", "quo'te\"s", "ü" * 127, "UPPER.Case")
FIELDS = ("kind", "mode", "uid", "gid", "size", "links", "mtime", "target", "device")


def tool(name: str) -> str:
    """The path of a program that only tests use; skips where it is not installed."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def plant(root: Path, *, longest: int = 255) -> Path:
    """Make the folder, with names of at most `longest` bytes. Owners, devices and the like are only there for root."""
    rng = random.Random(11)
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0\n")
    (root / "empty").touch()
    (root / "block").write_bytes(rng.randbytes(4096))
    (root / "cluster").write_bytes(rng.randbytes(131072))
    (root / "random").write_bytes(rng.randbytes(1_000_001))
    words = [rng.randbytes(rng.randrange(3, 12)) for _ in range(400)]
    (root / "words").write_bytes(b" ".join(rng.choice(words) for _ in range(90_000)))
    (root / "letters").write_bytes(b"a" * 300_000 + rng.randbytes(5000) + b"b" * 70_000)
    with (root / "sparse").open("wb") as file:
        for offset in (0, 300_000, 2_000_000):
            file.seek(offset)
            file.write(rng.randbytes(5000))
        file.truncate(3_000_000)
    for target in ("etc/passwd", "x" * 59, "x" * 60, LONG_TARGET, "/", "../..", "/etc/./passwd"):
        (root / f"link-{len(target)}").symlink_to(target)
    os.link(root / "words", root / "etc/words-again")
    for name in (*STRANGE_NAMES, "n" * longest):
        (root / name).write_text(f"under {name}")
    (root / os.fsdecode(b"not-\xff-utf8")).write_text("bytes")
    (root / "many").mkdir()
    for number in range(MANY):
        (root / "many" / f"file-with-a-name-of-some-length-{number:04}").write_bytes(
            bytes([number % 256]) * (number % 7)
        )
    deep = root
    for number in range(20):
        deep /= f"level-{number}"
        deep.mkdir()
    (deep / "ground").write_text("here")
    (root / "hollow").mkdir()
    os.setxattr(root / "etc/passwd", "user.small", b"value")
    os.setxattr(root / "words", "user.large", b"v" * 600)
    os.setxattr(root / "many", "user.of-a-folder", b"\0\1\2")
    _special(root)
    for path, mode in {"etc/passwd": 0o4641, "hollow": 0o1777, "many": 0o2750, "block": 0}.items():
        (root / path).chmod(mode)
    times = {"etc/passwd": OLD, "block": FAR, "cluster": LATER, "hollow": LATER, "link-10": LATER}
    for path in (root, *root.rglob("*")):
        seconds = times.get(str(path.relative_to(root)), 1_600_000_000)
        os.utime(path, ns=(0, seconds * 10**9 + 123_456_789), follow_symlinks=False)
    return root


def _special(root: Path) -> None:
    os.mkfifo(root / "pipe", 0o600)
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(root):
        server.bind("socket")
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "far", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
        os.chown(root / "etc/passwd", 70000, 1234567)
        os.chown(root / "pipe", 3, 4)
        os.setxattr(root / "etc/passwd", "security.selinux", b"system_u:object_r:passwd_t:s0\0")
        os.setxattr(root / "empty", "trusted.note", b"t" * 40)


def paths_below(source: Path) -> list[str]:
    return sorted(
        "/" + str((Path(folder) / name).relative_to(source))
        for folder, folders, names in os.walk(source)
        for name in (*folders, *names)
    )


def specials(files: Files) -> tuple[str, ...]:
    """The paths of devices, pipes and sockets, which not every tool extracts."""
    return tuple(entry.path for entry in files.walk() if entry.kind not in {"file", "directory", "symlink"})


def told(entry: Entry) -> dict[str, object]:
    """What a reading says of one entry, without what no two filesystems agree on."""
    fields = {field: getattr(entry, field) for field in FIELDS}
    if entry.kind == "directory":
        fields |= {"size": 0, "links": 0}
    elif entry.kind not in {"file", "symlink"}:
        fields["size"] = 0
    return fields


def truth(path: Path) -> dict[str, object]:
    """The same of a path on the host."""
    found = os.lstat(path)
    kind = KINDS[stat.S_IFMT(found.st_mode)]
    is_folder, has_size = kind == "directory", kind in {"file", "symlink"}
    return {
        "kind": kind,
        "mode": stat.S_IMODE(found.st_mode),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "size": found.st_size if has_size else 0,
        "links": 0 if is_folder else found.st_nlink,
        "mtime": found.st_mtime_ns // 10**9,
        "target": os.readlink(path) if kind == "symlink" else "",  # noqa: PTH115 - a Path would be tidied
        "device": ((os.major(found.st_rdev), os.minor(found.st_rdev)) if kind in {"character", "block"} else None),
    }


def assert_same(files: Files, source: Path, *, without: tuple[str, ...] = (), left_out: tuple[str, ...] = ()) -> None:
    """All names, what `stat` says, and all content are as in a folder; `without` names fields, `left_out` paths."""
    found = {entry.path: entry for entry in files.walk()}
    expected = [path for path in paths_below(source) if path not in left_out]
    assert sorted(set(found) - {"/", *left_out}) == expected
    for path in expected:
        said, wanted = told(found[path]), truth(source / path[1:])
        assert {k: said[k] for k in FIELDS if k not in without} == {k: wanted[k] for k in FIELDS if k not in without}, (
            path
        )
    for path in expected:
        if found[path].kind == "file":
            content = (source / path[1:]).read_bytes()
            assert files.sha256(path) == hashlib.sha256(content).hexdigest(), path
            assert found[path].size == len(content), path


def assert_same_attributes(files: Files, source: Path, *, spaces: tuple[str, ...]) -> None:
    """All extended attributes in these namespaces are those of a folder."""
    for path in ["/", *paths_below(source)]:
        real = source / path[1:]
        names = [name for name in os.listxattr(real, follow_symlinks=False) if name.startswith(spaces)]
        expected = {name: os.getxattr(real, name, follow_symlinks=False) for name in names}
        assert {name: value for name, value in files.xattrs(path).items() if name.startswith(spaces)} == expected, path


class Mutated:
    """A block with some bytes changed, or with its end missing."""

    name = "mutated"

    def __init__(self, raw: bytes, changes: dict[int, int], size: int | None = None) -> None:
        self._raw, self._changes = raw, changes
        self.size = len(raw) if size is None else size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedImage("beyond the end", where=self.name)
        found = bytearray(self._raw[offset : offset + length])
        for at, value in self._changes.items():
            if offset <= at < offset + length:
                found[at - offset] = value
        return bytes(found)


def visit(inodes: Inodes) -> None:
    """Touch everything there is, but no file that claims to be long."""
    files = Files({"/": Mount(inodes, inodes.root)})
    for entry in files.walk():
        if entry.kind == "file" and entry.size < 2**24:
            for _piece in files.chunks(entry.path, 65536):
                pass
        files.xattrs(entry.path)


def small_tree(root: Path) -> Path:
    """Little of everything, for mutations."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_bytes(bytes(range(256)) * 100)
    (root / "a/words").write_bytes(b"some words " * 3000)
    (root / "a/b/tiny").write_text("tiny")
    (root / "a/link").symlink_to("file")
    (root / "a/long").symlink_to("y" * 200 + "/" + "z" * 90)
    for number in range(40):
        (root / "a/b" / f"name-{number}").touch()
    os.link(root / "a/file", root / "a/again")
    os.setxattr(root / "a/file", "user.x", b"y" * 200)
    return root


def fuzz(raw: bytes, reader: Callable[[Block], Inodes], *, seed: str, rounds: int, slowest: float = 20) -> None:
    """Change a few used bytes, read all, again and again: only errors of ours, each round in bounded time."""
    rng = random.Random(seed)
    pages = [page for page in range(0, len(raw), 4096) if raw[page : page + 4096].strip(b"\0")]
    used = [at for page in pages for at in range(page, min(page + 4096, len(raw))) if raw[at]]
    for number in range(rounds):
        changes = {
            rng.choice(used) + rng.choice((0, 0, 0, 1)): rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            for _ in range(rng.choice((1, 3, 10)))
        }
        size = rng.randrange(len(raw)) if not number % 10 else None
        started = time.monotonic()
        with contextlib.suppress(HarnessError):
            visit(reader(Mutated(raw, changes, size)))
        assert time.monotonic() - started < slowest, (seed, number)
