"""One layer of a containers-storage against the tar it came from.

The layer's bytes are put together again from its tar-split record and hashed: that finds every changed byte of a
file. It cannot see changed modes and owners, lost whiteouts and opaque marks, or files too many, so each file is
compared with its tar header as well.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from harness.containers.folder import Status, View
from harness.containers.records import PIECE
from harness.containers.storage import OPAQUE_OF_ROOT, OPAQUE_OF_USERS
from harness.containers.tarsplit import Member, Segment, crc64, read_tar_split
from harness.errors import DamagedImage

AUFS = ".wh..wh."  # prefix of aufs' own bookkeeping in layers; containers/storage drops these
OPAQUE = ".wh..wh..opq"
WHITEOUT = ".wh."
MOST_FILES = 2_000_000  # in one layer
MOST_CONTENT = 64 * 2**30  # bytes in one layer
MOST_NAMED = 64 * 2**20  # bytes whose slow CRC is taken to name a changed file; about 20 s
KINDS_OF_DEVICE = {"character", "block", "fifo"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong at `path`, relative to the store."""

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Expected:
    """What a layer's folder must hold: files by path, whiteouts and opaque folders."""

    members: Mapping[str, Member]
    whiteouts: frozenset[str]
    opaque: frozenset[str]

    def folders(self) -> frozenset[str]:
        """All folders that must be there for these files to be there."""
        found: set[str] = set()
        for path in (*self.members, *self.whiteouts, *self.opaque):
            for parent in _above(path):
                if parent in found:
                    break  # and so are all above it
                found.add(parent)
        return frozenset(found)


def layer_findings(files: View, root: str, layer: str, diff_id: str) -> Iterator[Finding]:
    """Everything wrong with the content of `layer`, whose tar must have the digest `diff_id` (`sha256:<hex>`).

    Raises DamagedImage where the filesystem below cannot be read.
    """
    record, diff = f"overlay-layers/{layer}.tar-split.gz", f"overlay/{layer}/diff"
    if not files.exists(f"{root}/{diff}"):
        yield Finding(diff, "is missing: the layer has no content")
        return
    if (kind := files.stat(f"{root}/{diff}").kind) != "directory":
        yield Finding(diff, f"is a {kind}, not a directory")
        return
    found = dict(_tree(files, f"{root}/{diff}"))
    if not files.exists(f"{root}/{record}"):
        yield Finding(record, "is missing: the layer cannot be put together again")
        return
    try:
        members, digest = _replay(files, f"{root}/{record}", f"{root}/{diff}", found)
    except DamagedImage as cause:
        yield Finding(record, cause.what) if not cause.where else Finding(_relative(cause.where, root), cause.what)
        return
    expected = _expected(members)
    differences = list(_differences(files, f"{root}/{diff}", expected, found))
    yield from (Finding(posixpath.join(diff, path).rstrip("/"), what) for path, what in differences)
    if digest == diff_id:
        return
    changed, unread = _changed(files, f"{root}/{diff}", members, found)
    yield from (Finding(posixpath.join(diff, path), "its bytes were changed (CRC-64 differs)") for path in changed)
    if unread:
        yield Finding(diff, f"{unread} of its largest files were not compared one by one: any of them may be changed")
    elif digest is not None and not changed:
        yield Finding(record, f"with the layer's files it makes {digest}, not the expected {diff_id}")


def _tree(files: View, top: str) -> Iterator[tuple[str, Status]]:
    """`top` itself, as the empty path, and everything below it by relative path."""
    yield "", files.stat(top)
    waiting, seen = [""], 0
    while waiting:
        folder = waiting.pop()
        for name in files.listdir(posixpath.join(top, folder)):
            path = posixpath.join(folder, name)
            status = files.stat(f"{top}/{path}")
            yield path, status
            if status.kind == "directory":
                waiting.append(path)
            seen += 1
            if seen > MOST_FILES:
                raise DamagedImage(f"holds more than {MOST_FILES:,} files", where=top)


def _replay(files: View, record: str, diff: str, found: Mapping[str, Status]) -> tuple[tuple[Member, ...], str | None]:
    """The members of the layer's tar and its digest, or None where a file is not there in its full length."""
    digest, members, is_whole, total = hashlib.sha256(), [], True, 0
    for part in read_tar_split(files.chunks(record, PIECE)):
        if isinstance(part, Segment):
            digest.update(part.data)
            continue
        members.append(part)
        total += part.size
        if len(members) > MOST_FILES or total > MOST_CONTENT:
            raise DamagedImage(f"describes more than {MOST_FILES:,} files or {MOST_CONTENT:,} bytes")
        if part.size and is_whole:
            is_whole = _is_whole(found.get(part.path), part)
            for piece in files.chunks(f"{diff}/{part.path}", PIECE) if is_whole else ():
                digest.update(piece)
    return tuple(members), f"sha256:{digest.hexdigest()}" if is_whole else None


def _expected(members: Iterable[Member]) -> Expected:
    kept: dict[str, Member] = {}
    whiteouts, opaque = set(), set()
    for member in members:
        folder, name = posixpath.split(member.path)
        if name == OPAQUE:
            opaque.add(folder)
        elif name.startswith(WHITEOUT) and not name.startswith(AUFS):
            whiteouts.add(posixpath.join(folder, name.removeprefix(WHITEOUT)))
        elif member.path and member.kind != "global" and not name.startswith(AUFS):
            kept[member.path] = member
    return Expected(kept, frozenset(whiteouts - kept.keys()), frozenset(opaque))


def _differences(files: View, diff: str, expected: Expected, found: Mapping[str, Status]) -> Iterator[tuple[str, str]]:
    """(path, what) for everything that is not as the tar's headers say; of a lost or foreign folder only its top."""
    lost: set[str] = set()
    for path in sorted({*expected.members, *expected.whiteouts}):
        status = found.get(path)
        if status is None:
            if lost.isdisjoint(_above(path)):
                yield path, _loss(expected, path, found)
            lost.add(path)
        elif path in expected.whiteouts:
            if status.kind != "character" or status.device not in {None, (0, 0)}:
                yield path, f"is a {status.kind}, not the whiteout (device 0:0) that hides the file of a lower layer"
        elif what := _difference(files, posixpath.join(diff, path), expected.members[path], status):
            yield path, what
    aufs = {_of_aufs(path) for path in expected.whiteouts} | {posixpath.join(path, OPAQUE) for path in expected.opaque}
    foreign = found.keys() - expected.members.keys() - expected.whiteouts - expected.folders() - aufs - {""}
    for path in sorted(foreign):
        if foreign.isdisjoint(_above(path)):
            yield path, "is not part of the layer: its tar has no such entry"
    if found[""].mode & 0o022:  # no header sets it: containers/storage always makes it 0555
        yield "", f"has mode {found[''].mode:04o}: others than its owner may write in the container's root"
    folders = {path for path, status in found.items() if status.kind == "directory"}
    yield from _marks(files, diff, expected.opaque, folders - foreign)


def _marks(files: View, diff: str, opaque: frozenset[str], folders: Iterable[str]) -> Iterator[tuple[str, str]]:
    for path in sorted(folders):
        found = files.xattrs(posixpath.join(diff, path))
        is_opaque = found.get(OPAQUE_OF_ROOT) == b"y"
        if is_opaque and path not in opaque:
            yield path, f"is marked {OPAQUE_OF_ROOT} without need: files of lower layers are hidden"
        elif path in opaque and not is_opaque:
            yield path, f"has lost its mark {OPAQUE_OF_ROOT}: files of lower layers show through{_instead(found)}"


def _instead(found: Mapping[str, bytes]) -> str:
    """The mark that only mounts in a user namespace respect, if it is there instead."""
    return f" ({OPAQUE_OF_USERS} counts in user namespaces only)" if found.get(OPAQUE_OF_USERS) == b"y" else ""


def _of_aufs(path: str) -> str:
    """Where the whiteout of `path` lies in a tar, and in stores of drivers that leave it so (aufs, fuse-overlayfs)."""
    folder, name = posixpath.split(path)
    return posixpath.join(folder, f"{WHITEOUT}{name}")


def _loss(expected: Expected, path: str, found: Mapping[str, Status]) -> str:
    if path not in expected.whiteouts:
        return "is missing: the layer's tar has it"
    instead = f"a file {WHITEOUT}* is none for overlayfs" if _of_aufs(path) in found else "the whiteout is lost"
    return f"is missing: {instead}, so the file of a lower layer shows again"


def _difference(files: View, place: str, member: Member, status: Status) -> str:
    """How one file differs from its header, in words; empty if it does not."""
    kind = "file" if member.kind == "hardlink" else member.kind
    if status.kind != kind and not (kind == "device" and status.kind in KINDS_OF_DEVICE):
        return f"is a {status.kind}, not a {kind}"
    if kind == "symlink" and (target := files.readlink(place)) != member.target:
        return f"points to {target!r}, not to {member.target!r}"
    differences = []
    if member.kind == "file" and status.size != member.size:
        differences.append(f"has {status.size:,} bytes instead of {member.size:,}")
    if kind != "symlink" and status.mode != member.mode:
        differences.append(f"has mode {status.mode:04o} instead of {member.mode:04o}")
    if (status.uid, status.gid) != (member.uid, member.gid):
        differences.append(f"belongs to {status.uid}:{status.gid} instead of {member.uid}:{member.gid}")
    if member.xattrs:
        found = files.xattrs(place)
        lost = [name for name, _ in member.xattrs if name not in found]
        other = [name for name, value in member.xattrs if found.get(name, value) != value]
        differences += [f"has lost its {name}" for name in lost] + [f"has another {name}" for name in other]
    return ", ".join(differences)


def _changed(
    files: View, diff: str, members: Iterable[Member], found: Mapping[str, Status]
) -> tuple[tuple[str, ...], int]:
    """Which files of full length have other bytes than the tar had, and how many were too large to find out."""
    whole = [member for member in members if member.size and _is_whole(found.get(member.path), member)]
    total, named, unread = 0, [], 0
    for member in sorted(whole, key=lambda member: (member.size, member.path)):
        total += member.size
        if total > MOST_NAMED:
            unread += 1
        elif crc64(files.chunks(f"{diff}/{member.path}", PIECE)) != member.checksum:
            named.append(member.path)
    return tuple(sorted(named)), unread


def _is_whole(status: Status | None, member: Member) -> bool:
    return status is not None and status.kind == "file" and status.size == member.size


def _above(path: str) -> Iterator[str]:
    """All folders above a path, without the root.

    >>> list(_above("a/b/c"))
    ['a/b', 'a']
    """
    while path := posixpath.dirname(path):
        yield path


def _relative(path: str, root: str) -> str:
    return path.removeprefix(f"{root}/")
