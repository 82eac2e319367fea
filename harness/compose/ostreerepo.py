"""ostree repositories: objects read from one in bare or archive mode, and written as one in archive mode.

Formats: libostree's ostree-core.h and its documentation of repositories. A commit, dirtree or dirmeta is named by the
SHA-256 of its bytes; a file by that of its header, framed by its length, and its content. What is read is proven.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.compose.gvariant import decode, offset_size, raw_members
from harness.containers.folder import View
from harness.errors import BadInput, DamagedArtifact

COMMIT: Final = "(a{sv}aya(say)sstayay)"
DIRTREE: Final = "(a(say)a(sayay))"
DIRMETA: Final = "(uuua(ayay))"
FILEZ: Final = "(tuuuusa(ayay))"
CHECKSUM: Final = re.compile(r"[0-9a-f]{64}")
LARGEST_METADATA: Final = 128 * 2**20  # bytes; OSTREE_MAX_METADATA_SIZE
PIECE: Final = 2**20
MOST_REFS: Final = 10_000
DEEPEST_REF: Final = 32  # folders in folders
LEVEL: Final = 1  # of zlib, in a repository written here: it is for use on this host
CONFIG: Final = "[core]\nrepo_version=1\nmode=archive-z2\n"
FOLDERS: Final = ("extensions", "objects", "refs/heads", "refs/mirrors", "refs/remotes", "state", "tmp/cache")


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What ostree keeps of a file; `mode` with its type, `xattrs` as serialised (`a(ayay)`), `size` of its content."""

    uid: int
    gid: int
    mode: int
    target: str
    xattrs: bytes
    size: int

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symlink; else it is a plain file."""
        return stat.S_ISLNK(self.mode)

    def hashed(self) -> bytes:
        """The beginning of what a file's name is the digest of."""
        return _framed(self._numbers(), self.target, self.xattrs)

    def stored(self) -> bytes:
        """The beginning of the object in a repository in archive mode."""
        return _framed(self.size.to_bytes(8, "big") + self._numbers(), self.target, self.xattrs)

    def _numbers(self) -> bytes:
        return b"".join(number.to_bytes(4, "big") for number in (self.uid, self.gid, self.mode, 0))


@dataclass(frozen=True, slots=True)
class Commit:
    """What a commit says; `timestamp` in Unix seconds, checksums in hex."""

    checksum: str
    metadata: dict[str, Any]
    subject: str
    timestamp: int
    tree: str
    meta: str


class OstreeRepo:
    """A repository at `root` of a folder or an image, in the modes bare and archive. Raises BadInput for others."""

    def __init__(self, files: View, root: str) -> None:
        self._files, self._root = files, root.rstrip("/")
        where = f"{self._root}/config"
        if not files.exists(where):
            raise BadInput("is no ostree repository: it has no config", where=root)
        config = b"".join(files.chunks(where, PIECE))[:65536].decode(errors="replace")
        mode = re.search(r"^mode *= *(\S+)", config, re.MULTILINE)
        self.mode = mode[1] if mode else "bare"
        if self.mode not in {"bare", "archive", "archive-z2"}:
            raise BadInput(f"is a repository in mode {self.mode[:40]!a}; we read bare and archive", where=root)

    def resolve(self, rev: str) -> str:
        """The checksum of a commit by its ref, or itself."""
        if CHECKSUM.fullmatch(rev):
            return rev
        path = f"{self._root}/refs/heads/{rev}"
        if {"", ".", ".."} & set(rev.split("/")) or not self._files.exists(path):
            raise BadInput(f"has no ref {rev!a}", where=self._root, next_step="look with ostree refs")
        found = b"".join(self._files.chunks(path, 100))[:100].decode(errors="replace").strip()
        if not CHECKSUM.fullmatch(found):
            raise DamagedArtifact(f"its ref {rev!a} is no checksum", where=self._root)
        return found

    def only_ref(self) -> str:
        """The one ref of the repository. Raises BadInput where there are several, or none."""
        found: list[str] = []
        waiting = [""]
        while waiting and len(found) < MOST_REFS:
            inside = waiting.pop()
            for name in self._files.listdir(f"{self._root}/refs/heads/{inside}".rstrip("/")):
                path = posixpath.join(inside, name)
                is_folder = self._files.stat(f"{self._root}/refs/heads/{path}").kind == "directory"
                (waiting if is_folder and path.count("/") < DEEPEST_REF else found).append(path)
        refs = [ref for ref in found if not ref.startswith("ostree/")]  # those of deployments
        if len(refs) != 1:
            shown = ", ".join(sorted(ascii(ref)[1:-1] for ref in refs)[:10])
            raise BadInput(f"has {len(refs)} refs", where=self._root or "/", next_step=f"name one: {shown}")
        return refs[0]

    def metadata(self, kind: str, checksum: str) -> bytes:
        """The bytes of a commit, dirtree or dirmeta, proven. Raises DamagedArtifact."""
        path = self._path(checksum, kind)
        data = b"".join(_bounded(self._files.chunks(path, PIECE), path))
        if hashlib.sha256(data).hexdigest() != checksum:
            raise DamagedArtifact("has another digest", where=path, next_step="ostree fsck says more")
        return data

    def commit(self, checksum: str) -> Commit:
        """A commit, proven."""
        return parse_commit(checksum, self.metadata("commit", checksum))

    def file(self, checksum: str) -> tuple[FileHeader, Iterator[bytes]]:
        """A file's header and its content in pieces, proven once the last piece was taken. Raises DamagedArtifact."""
        is_bare = self.mode == "bare"
        path = self._path(checksum, "file" if is_bare else "filez")
        header, content = self._bare(path) if is_bare else self._packed(path)
        return header, proven(checksum, header, content, path)

    def _path(self, checksum: str, kind: str) -> str:
        return f"{self._root}/objects/{checksum[:2]}/{checksum[2:]}.{kind}"

    def _bare(self, path: str) -> tuple[FileHeader, Iterator[bytes]]:
        status = self._files.stat(path)
        if status.kind not in {"file", "symlink"}:
            raise DamagedArtifact(f"is a {status.kind}", where=path)
        is_symlink = status.kind == "symlink"
        header = FileHeader(
            uid=status.uid,
            gid=status.gid,
            mode=(stat.S_IFLNK | 0o777) if is_symlink else (stat.S_IFREG | status.mode),
            target=self._files.readlink(path) if is_symlink else "",
            xattrs=pack_xattrs(self._files.xattrs(path)),
            size=0 if is_symlink else status.size,
        )
        return header, iter(()) if is_symlink else self._files.chunks(path, PIECE)

    def _packed(self, path: str) -> tuple[FileHeader, Iterator[bytes]]:
        pieces = self._files.chunks(path, PIECE)
        head = b""
        while len(head) < 8 and (piece := next(pieces, b"")):
            head += piece
        length = int.from_bytes(head[:4], "big")
        if length > LARGEST_METADATA:
            raise DamagedArtifact(f"has a header of {length:,} bytes", where=path)
        while len(head) < 8 + length and (piece := next(pieces, b"")):
            head += piece
        size, uid, gid, mode, device, target, _ = decode(FILEZ, head[8 : 8 + length])
        if device:
            raise DamagedArtifact("says that it is a device", where=path)
        xattrs = raw_members(FILEZ, head[8 : 8 + length])[-1]
        header = FileHeader(uid, gid, mode, target, xattrs, size)
        return header, _inflated(head[8 + length :], pieces, size, path) if not header.is_symlink else iter(())


def parse_commit(checksum: str, data: bytes) -> Commit:
    """What the bytes of a commit say. Raises DamagedArtifact."""
    metadata, _, _, subject, _, timestamp, tree, meta = decode(COMMIT, data)
    if len(tree) != 32 or len(meta) != 32:
        raise DamagedArtifact("a commit names no tree", where=checksum)
    return Commit(checksum, metadata, subject, timestamp, tree.hex(), meta.hex())


def parse_dirtree(data: bytes) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """A folder's files (name, checksum) and folders (name, dirtree, dirmeta). Raises DamagedArtifact."""
    files, folders = decode(DIRTREE, data)
    for name, *checksums in (*files, *folders):
        if name in {"", ".", ".."} or "/" in name or "\0" in name or any(len(each) != 32 for each in checksums):
            raise DamagedArtifact(f"a dirtree has the entry {name[:100]!a}")
    return (
        [(name, checksum.hex()) for name, checksum in files],
        [(name, tree.hex(), meta.hex()) for name, tree, meta in folders],
    )


def proven(checksum: str, header: FileHeader, content: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The content of a file as it comes. Raises DamagedArtifact at its end where it is not the file `checksum`."""
    digest, size = hashlib.sha256(header.hashed()), 0
    for piece in content:
        digest.update(piece)
        size += len(piece)
        yield piece
    if digest.hexdigest() != checksum or size != header.size:
        raise DamagedArtifact(f"is not the file {checksum}: its digest is {digest.hexdigest()}", where=where)


class NewRepo:
    """A repository in archive mode that is being written into the empty folder `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
        for number in range(256):
            (folder / "objects" / f"{number:02x}").mkdir()
        (folder / "config").write_text(CONFIG)

    def has(self, checksum: str, kind: str) -> bool:
        """Whether an object is there; files are of kind `filez`."""
        return self.path(checksum, kind).is_file()

    def path(self, checksum: str, kind: str) -> Path:
        """Where an object lies."""
        return self.folder / "objects" / checksum[:2] / f"{checksum[2:]}.{kind}"

    def add_metadata(self, kind: str, checksum: str, data: bytes) -> None:
        """Write a commit, dirtree or dirmeta, or a commit's commitmeta. Raises DamagedArtifact for a wrong digest."""
        if kind != "commitmeta" and hashlib.sha256(data).hexdigest() != checksum:
            raise DamagedArtifact(f"the {kind} {checksum} has the digest {hashlib.sha256(data).hexdigest()}")
        self.path(checksum, kind).write_bytes(data)

    def add_file(self, checksum: str, header: FileHeader, content: Iterator[bytes]) -> None:
        """Write a file. Raises DamagedArtifact where it is not the file `checksum`."""
        aside = self.folder / "tmp" / checksum
        deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        with aside.open("wb") as out:
            out.write(header.stored())
            for piece in proven(checksum, header, content, checksum):
                out.write(deflate.compress(piece))
            if not header.is_symlink:
                out.write(deflate.flush())
        aside.rename(self.path(checksum, "filez"))

    def add_ref(self, ref: str, checksum: str) -> None:
        """Name a commit. Raises BadInput for what is no ref."""
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", ref, re.ASCII):
            raise BadInput("is no ostree ref", where=repr(ref), next_step="as fedora/x86_64/coreos/stable")
        place = self.folder / "refs/heads" / ref
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{checksum}\n")


def pack_xattrs(xattrs: object) -> bytes:
    """Extended attributes by name as ostree serialises them: `a(ayay)`, names with a final zero, in their order.

    >>> pack_xattrs({"user.a": b"x"}).hex()
    '757365722e6100780709'
    """
    packed, ends = b"", []
    for name, value in sorted(dict(xattrs).items()):  # type: ignore[call-overload]
        first = name.encode("utf-8", "surrogateescape") + b"\0"
        size = offset_size(len(first) + len(value), 1)
        packed += first + value + len(first).to_bytes(size, "little")
        ends.append(len(packed))
    size = offset_size(len(packed), len(ends))
    return packed + b"".join(end.to_bytes(size, "little") for end in ends)


def _framed(numbers: bytes, target: str, xattrs: bytes) -> bytes:
    head = numbers + target.encode("utf-8", "surrogateescape") + b"\0"
    size = offset_size(len(head) + len(xattrs), 1)
    data = head + xattrs + len(head).to_bytes(size, "little")
    return len(data).to_bytes(4, "big") + bytes(4) + data


def _inflated(first: bytes, pieces: Iterator[bytes], size: int, where: str) -> Iterator[bytes]:
    inflate, seen, given = zlib.decompressobj(-zlib.MAX_WBITS), 0, first
    while not inflate.eof:
        try:
            piece = inflate.decompress(given, PIECE)
        except zlib.error as cause:
            raise DamagedArtifact(f"its compression is corrupt: {cause}", where=where) from cause
        given = inflate.unconsumed_tail or (b"" if piece else next(pieces, b""))
        seen += len(piece)
        if seen > size:
            raise DamagedArtifact(f"unpacks to more than its {size:,} bytes", where=where)
        if piece:
            yield piece
        elif not given and not inflate.eof:
            raise DamagedArtifact("is truncated", where=where)


def _bounded(pieces: Iterator[bytes], where: str) -> Iterator[bytes]:
    seen = 0
    for piece in pieces:
        seen += len(piece)
        if seen > LARGEST_METADATA:
            raise DamagedArtifact(f"has more than {LARGEST_METADATA:,} bytes", where=where)
        yield piece
