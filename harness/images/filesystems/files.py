"""Files inside an image, read without mounting, without root and without the host's filesystem.

`open_files` picks the reader; `Files` resolves paths over one or several filesystems. Symlinks lead only to places
inside the image: `..` stops at the root and an absolute target starts there again.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from harness.errors import DamagedImage, MissingFile, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.btrfs import Btrfs
from harness.images.filesystems.erofs import Erofs
from harness.images.filesystems.ext4 import Ext4
from harness.images.filesystems.inodes import Inode, Inodes, Kind
from harness.images.filesystems.iso9660 import Iso9660
from harness.images.filesystems.squashfs import Squashfs
from harness.images.filesystems.superblock import identify
from harness.images.filesystems.superblock_luks import unencrypted_part
from harness.images.filesystems.vfat import Vfat
from harness.images.filesystems.xfs import Xfs

READ_LIMIT = 256 * 2**20  # bytes read into memory at most
HASH_LIMIT = 64 * 2**30  # a file may claim any size; nobody waits for more than this
MOST_HOPS = 40  # as Linux
LONGEST_PATH = 4096
DEEPEST_WALK = 1024
MOST_WALKED = 5_000_000  # entries of one walk; a real root has a few hundred thousand
SHOWN_NAMES = 12
READERS: Mapping[str, Callable[[Block], Inodes]] = {
    "btrfs": Btrfs,
    "erofs": Erofs,
    "ext2": Ext4,
    "ext3": Ext4,
    "ext4": Ext4,
    "iso9660": Iso9660,
    "squashfs": Squashfs,
    "vfat": Vfat,
    "xfs": Xfs,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What `stat` says of one path. `target` is empty but for symlinks; `device` is None but for device nodes."""

    path: str
    kind: Kind
    mode: int  # the twelve permission bits
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int
    inode: int
    links: int
    target: str = ""
    immutable: bool = False
    device: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of one filesystem that shows as the root of a subtree."""

    inodes: Inodes
    root: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path led: its canonical form, and the inode there."""

    path: str
    mount: Mount
    number: int

    @property
    def inode(self) -> Inode:
        return self.mount.inodes.inode(self.number)


class Files:
    """Read-only view of a tree of files. Every method takes absolute paths and raises MissingFile for a wrong one."""

    def __init__(self, mounts: Mapping[str, Mount]) -> None:
        """`mounts` is keyed by canonical mount point; `/` must be among them."""
        self._mounts = dict(mounts)
        self._root = Place("/", self._mounts["/"], self._mounts["/"].root)

    @property
    def filesystem(self) -> str:
        """The type of the filesystem at `/`."""
        return self._root.mount.inodes.filesystem

    @property
    def name(self) -> str:
        """What error messages call the filesystem at `/`."""
        return self._root.mount.inodes.name

    @property
    def mount_points(self) -> tuple[str, ...]:
        return tuple(sorted(self._mounts))

    def mount(self, point: str) -> Mount:
        """What is mounted at a mount point."""
        return self._mounts[point]

    def exists(self, path: str) -> bool:
        """Whether a path leads to something; a dangling or looping symlink does not."""
        try:
            self._find(path, follow=True)
        except MissingFile:
            return False
        return True

    def stat(self, path: str, *, follow: bool = False) -> Entry:
        """The entry at a path; of the symlink itself unless `follow`."""
        return _entry(self._find(path, follow=follow))

    def canonical(self, path: str) -> str:
        """The path with every symlink resolved."""
        return self._find(path, follow=True).path

    def readlink(self, path: str) -> str:
        """A symlink's target as written."""
        place = self._find(path, follow=False)
        if place.inode.kind != "symlink":
            raise MissingFile(f"{shown(path)} is a {place.inode.kind}, not a symlink", where=self.name)
        return place.mount.inodes.target(place.number)

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes:
        """A whole file. Raises UnsupportedImage when it is longer than `limit` bytes."""
        place = self._file(path)
        if place.inode.size > limit:
            raise UnsupportedImage(
                f"{shown(path)} has {place.inode.size:,} bytes, more than the {limit:,} we read at once",
                where=self.name,
                next_step="read it in chunks",
            )
        return b"".join(place.mount.inodes.chunks(place.number, 2**20))

    def text(self, path: str, limit: int = 2**20) -> str:
        """A whole small file as text; undecodable bytes become replacement characters."""
        return self.read(path, limit).decode("utf-8", "replace")

    def chunks(self, path: str, size: int = 2**20) -> Iterator[bytes]:
        """A file's bytes in pieces of at most `size`; holes come as zeros."""
        place = self._file(path)
        if place.inode.size > HASH_LIMIT:
            raise UnsupportedImage(
                f"{shown(path)} claims {place.inode.size:,} bytes, more than the {HASH_LIMIT:,} we read",
                where=self.name,
            )
        return place.mount.inodes.chunks(place.number, size)

    def sha256(self, path: str) -> str:
        """The SHA-256 of a file in hex."""
        digest = hashlib.sha256()
        for piece in self.chunks(path):
            digest.update(piece)
        return digest.hexdigest()

    def xattrs(self, path: str, *, follow: bool = False) -> Mapping[str, bytes]:
        """Extended attributes by full name."""
        place = self._find(path, follow=follow)
        return place.mount.inodes.xattrs(place.number)

    def listdir(self, path: str = "/") -> tuple[str, ...]:
        """The names in a directory, sorted; mount points included."""
        place = self._find(path, follow=True)
        if place.inode.kind != "directory":
            raise MissingFile(f"{shown(path)} is a {place.inode.kind}, not a directory", where=self.name)
        return tuple(name for name, _ in self._children(place))

    def walk(self, path: str = "/", *, across_mounts: bool = True) -> Iterator[Entry]:
        """The directory at `path` and all below it, parents first, names sorted; symlinks are not followed."""
        start = self._find(path, follow=True)
        seen: set[tuple[int, int]] = set()
        todo = [start]
        walked = 0
        while todo:
            place = todo.pop()
            walked += 1
            if walked > MOST_WALKED:
                raise UnsupportedImage(f"has more than {MOST_WALKED:,} files", where=place.mount.inodes.name)
            entry = _entry(place)
            yield entry
            if entry.kind != "directory" or (place.mount is not start.mount and not across_mounts):
                continue
            mark = (id(place.mount), place.number)
            if mark in seen:
                raise DamagedImage(f"the directory {shown(place.path)} has two names", where=place.mount.inodes.name)
            seen.add(mark)
            if place.path.count("/") > DEEPEST_WALK:
                raise DamagedImage(f"directories are nested deeper than {DEEPEST_WALK}", where=place.mount.inodes.name)
            todo.extend(child for _, child in reversed(self._children(place)))

    def _children(self, place: Place) -> list[tuple[str, Place]]:
        below = {
            name: Place(_join(place.path, name), place.mount, number)
            for name, number in place.mount.inodes.entries(place.number).items()
        }
        for point, mount in self._mounts.items():
            parent, _, name = point.rpartition("/")
            if name and (parent or "/") == place.path:
                below[name] = Place(point, mount, mount.root)
        return sorted(below.items())

    def _file(self, path: str) -> Place:
        place = self._find(path, follow=True)
        if place.inode.kind != "file":
            raise MissingFile(f"{shown(path)} is a {place.inode.kind}, not a regular file", where=self.name)
        return place

    def _find(self, path: str, *, follow: bool) -> Place:
        if not path.startswith("/") or len(path) > LONGEST_PATH:
            raise MissingFile(f"{shown(path[:80])} is not an absolute path", where=self.name)
        trail, hops = [self._root], 0
        todo = path.split("/")[::-1]
        while todo:
            part = todo.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                trail = trail[: max(1, len(trail) - 1)]
                continue
            place = self._step(trail[-1], part, path)
            if place.inode.kind == "symlink" and (follow or any(todo)):
                hops += 1
                if hops > MOST_HOPS:
                    raise MissingFile(f"{shown(path)} runs through more than {MOST_HOPS} symlinks", where=self.name)
                target = place.mount.inodes.target(place.number)
                if target.startswith("/"):
                    trail = [self._root]
                todo.extend(target.split("/")[::-1])
            else:
                trail.append(place)
        return trail[-1]

    def _step(self, here: Place, name: str, wanted: str) -> Place:
        path = _join(here.path, name)
        if mount := self._mounts.get(path):
            return Place(path, mount, mount.root)
        if here.inode.kind != "directory":
            raise MissingFile(
                f"no {shown(wanted)}: {shown(here.path)} is a {here.inode.kind}, not a directory",
                where=f"{here.mount.inodes.name} ({here.mount.inodes.filesystem})",
            )
        names = here.mount.inodes.entries(here.number)
        if name not in names and here.mount.inodes.ignores_case:
            name = next((known for known in names if known.casefold() == name.casefold()), name)
        number = names.get(name)
        if number is None:
            raise _missing(here, name, wanted, names)
        return Place(_join(here.path, name), here.mount, number)


def open_files(block: Block) -> Files:
    """The files of one filesystem, by what its superblock says it is.

    Raises UnsupportedImage for a filesystem without a reader or none at all, DamagedImage for a broken one.
    """
    return Files({"/": open_mount(block)})


def open_mount(block: Block) -> Mount:
    """The whole of one filesystem as a mount; errors as `open_files`. A LUKS header that encrypts nothing is passed."""
    found = identify(block)
    if found and found.type == "crypto_LUKS" and (behind := unencrypted_part(found.details, block)):
        block, found = behind, identify(behind)
    if found is None:
        raise UnsupportedImage("no filesystem that we know is here", where=block.name)
    reader = READERS.get(found.type)
    if reader is None:
        readable = ", ".join(sorted(READERS))
        raise UnsupportedImage(f"cannot read files in {found.type} (only in {readable})", where=block.name)
    inodes = reader(block)
    return Mount(inodes, inodes.root)


def shown(path: str) -> str:
    r"""A path from an image as it may go to a terminal: control and undecodable characters as escapes.

    >>> shown("/boot/\x1b[2J")
    '/boot/\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in path)


def _missing(here: Place, name: str, wanted: str, names: Mapping[str, int]) -> MissingFile:
    close = difflib.get_close_matches(name, list(names)[:2000], n=3)
    listing = ", ".join(map(shown, sorted(names)[:SHOWN_NAMES])) or "nothing"
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    hint = f"did you mean {' or '.join(shown(_join(here.path, c)) for c in close)}? " if close else ""
    return MissingFile(
        f"no {shown(wanted)}",
        where=f"{here.mount.inodes.name} ({here.mount.inodes.filesystem})",
        next_step=f"{hint}{shown(here.path)} holds {listing}{more}",
    )


def _join(folder: str, name: str) -> str:
    return f"/{name}" if folder == "/" else f"{folder}/{name}"


def _entry(place: Place) -> Entry:
    inode = place.inode
    return Entry(
        place.path,
        inode.kind,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.size,
        inode.mtime,
        inode.mtime_ns,
        inode.number,
        inode.links,
        place.mount.inodes.target(place.number) if inode.kind == "symlink" else "",
        inode.immutable,
        inode.device,
    )
