"""Overlay folders: files to be laid over an image, as cosa's `overlay.d` and `overrides/rootfs` have them.

Like cosa, and unless they are to be taken as they are, files belong to root and have mode 0644, or 0755 where their
owner may execute them: umask and owner of a checkout must not get into an image. A file `statoverride` in the overlay
sets other modes as `ostree commit --statoverride` reads it: lines `=MODE PATH` or `+MODE PATH`, decimal, `#` a comment.
Folders are only told where something is said of them, or nothing is in them.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from harness.compose.tarwriter import Header
from harness.containers.layout import WHITEOUT
from harness.errors import BadInput

STATOVERRIDE: Final = "statoverride"
OVERRIDE: Final = re.compile(r"([=+]?)([0-9]{1,5})\s+(/\S.*)")
MOST_FILES: Final = 500_000
LARGEST_STATOVERRIDE: Final = 2**20
HOST_XATTRS: Final = (
    "security.selinux",
    "system.",
    "trusted.overlay.",
    "user.overlay.",
)  # of this host, not of the file
PIECE: Final = 2**20


@dataclass(frozen=True, slots=True)
class OverlayFile:
    """One thing to be laid over an image; `header.name` is its path, `source` is where its content is read."""

    header: Header
    source: Path
    is_folder_with_more: bool = False  # of which nothing is said: others made it, or will
    inode: tuple[int, int] | None = None  # of a file that has other names

    def content(self) -> Iterator[bytes]:
        """A file's bytes. Raises BadInput where they cannot be read, or changed since its size was taken."""
        seen = 0
        try:
            descriptor = os.open(self.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                while piece := file.read(PIECE):
                    seen += len(piece)
                    yield piece
        except OSError as cause:
            raise BadInput(f"cannot be read: {cause.strerror}", where=_shown(self.source)) from cause
        if seen != self.header.size:
            raise BadInput("changed while it was read", where=_shown(self.source), next_step="try again")


@dataclass(frozen=True, slots=True)
class Overlay:
    """What shall be laid over an image: files by path, and paths that shall be gone."""

    files: dict[str, OverlayFile]
    removed: tuple[str, ...] = field(default=())

    @property
    def entries(self) -> tuple[OverlayFile, ...]:
        """What a layer has to say, folders before what is in them; in an order that no folder and no locale changes."""
        told = (file for file in self.files.values() if not file.is_folder_with_more)
        return tuple(sorted(told, key=lambda file: order(file.header.name)))


def in_name_order(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Overlays by their names, as cosa applies them: 05core before 40grub."""
    return tuple(sorted(folders, key=lambda folder: (os.fsencode(folder.name), os.fsencode(folder))))


def overlays_of(folder: Path) -> tuple[Path, ...]:
    """The overlays of an `overlay.d`, in name order; hidden folders and files beside them are none."""
    try:
        found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=_shown(folder), next_step="give a folder") from cause
    return in_name_order(found)


def read_overlays(folders: Sequence[Path], *, removed: Sequence[str] = (), as_is: bool = False) -> Overlay:
    """What the overlays `folders` come to, each over the ones before it; `removed` are paths that shall be gone.

    With `as_is`, owners, modes, hard links and extended attributes are those of the folders. Raises BadInput for what
    cannot be read or has no place in a layer, for a folder where an earlier overlay has a file or the other way round,
    and for what is both removed and there.
    """
    files: dict[str, OverlayFile] = {}
    for folder in folders:
        for path, file in _read(folder, as_is=as_is).items():
            before = files.get(path)
            if before and (before.header.kind == "directory") != (file.header.kind == "directory"):
                what = f"is a {file.header.kind}, but an overlay before it has a {before.header.kind} there"
                raise BadInput(what, where=_shown(file.source))
            if not (before and file.is_folder_with_more):
                files[path] = file
        if len(files) > MOST_FILES:
            raise BadInput(f"holds more than {MOST_FILES:,} files", where=_shown(folder))
    gone = tuple(sorted({_removed(path) for path in removed}))
    for path in gone:
        if both := next((name for name in files if f"{name}/".startswith(f"{path}/")), None):
            raise BadInput("shall be removed, but an overlay has it", where=_shown(files[both].source))
    return Overlay(_linked(files), gone)


def order(path: str) -> list[bytes]:
    """Folders before what is in them, whatever the locale."""
    return os.fsencode(path).split(b"/")


def _linked(files: dict[str, OverlayFile]) -> dict[str, OverlayFile]:
    """With hard links for all names of a file but its first."""
    found: dict[str, OverlayFile] = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted(files, key=order):
        file = found[path] = files[path]
        if file.inode and (target := first.setdefault(file.inode, path)) != path:
            found[path] = replace(file, header=replace(file.header, kind="hardlink", size=0, target=target, xattrs=()))
    return found


def _read(folder: Path, *, as_is: bool) -> dict[str, OverlayFile]:
    if not folder.is_dir():
        raise BadInput("is no folder", where=_shown(folder), next_step="give the folder that stands for /")
    modes = {} if as_is else _overrides(folder / STATOVERRIDE)
    found: dict[str, OverlayFile] = {}
    for path, status in _walk(folder):
        if path == STATOVERRIDE and not as_is:
            continue
        file = _file(folder, path, status, as_is=as_is)
        if path in modes:
            sign, bits = modes.pop(path)
            mode = bits if sign == "=" else file.header.mode | bits
            file = replace(file, header=replace(file.header, mode=mode & 0o7777), is_folder_with_more=False)
        if as_is and file.header.kind != "directory" and status.st_nlink > 1:
            file = replace(file, inode=(status.st_dev, status.st_ino))
        found[path] = file
    if modes:
        raise BadInput(f"names {next(iter(modes))!a}, which is not in the overlay", where=_shown(folder / STATOVERRIDE))
    return found


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    waiting = [""]
    try:
        while waiting:
            inside = waiting.pop()
            with os.scandir(folder / inside) as entries:
                names = sorted((entry.name for entry in entries), key=os.fsencode)
            for name in names:
                path = posixpath.join(inside, name)
                status = os.lstat(folder / path)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    waiting.append(path)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=_shown(folder)) from cause


def _file(folder: Path, path: str, status: os.stat_result, *, as_is: bool) -> OverlayFile:
    source, mode = folder / path, status.st_mode
    if posixpath.basename(path).startswith(WHITEOUT):
        raise BadInput("has a name that hides files in layers", where=_shown(source), next_step="rename it, or remove")
    kind = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}.get(stat.S_IFMT(mode))
    if kind is None:
        raise BadInput("is neither file, folder nor symlink", where=_shown(source), next_step="take it out")
    try:
        header = Header(
            name=path,
            kind=kind,
            mode=0o777 if kind == "symlink" else stat.S_IMODE(mode) if as_is else _canonical(mode),
            uid=status.st_uid if as_is else 0,
            gid=status.st_gid if as_is else 0,
            size=status.st_size if kind == "file" else 0,
            target=os.readlink(source) if kind == "symlink" else "",  # noqa: PTH115 - as written
            xattrs=_xattrs(source) if as_is else (),
        )
        is_empty = kind != "directory" or next(source.iterdir(), None) is None
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=_shown(source)) from cause
    return OverlayFile(header, source, is_folder_with_more=not (as_is or is_empty))


def _canonical(mode: int) -> int:
    return 0o755 if stat.S_ISDIR(mode) or mode & stat.S_IXUSR else 0o644


def _xattrs(source: Path) -> tuple[tuple[str, bytes], ...]:
    names = [name for name in os.listxattr(source, follow_symlinks=False) if not name.startswith(HOST_XATTRS)]
    return tuple((name, os.getxattr(source, name, follow_symlinks=False)) for name in sorted(names))


def _overrides(file: Path) -> dict[str, tuple[str, int]]:
    """Path without its leading slash -> the sign and the bits that a statoverride gives it."""
    if not file.is_file():
        return {}
    if file.stat().st_size > LARGEST_STATOVERRIDE:
        raise BadInput(f"has more than {LARGEST_STATOVERRIDE:,} bytes", where=_shown(file))
    found = {}
    for number, line in enumerate(file.read_text(errors="surrogateescape").splitlines(), 1):
        text = line.partition("#")[0].strip() if line.lstrip().startswith("#") else line.strip()
        if not text:
            continue
        match = OVERRIDE.fullmatch(text)
        if match is None:
            where = f"{_shown(file)}:{number}"
            raise BadInput("is no line of a statoverride", where=where, next_step="as: =384 /etc/secret (decimal)")
        found[match[3].strip("/")] = (match[1], int(match[2]))
    return found


def _removed(path: str) -> str:
    parts = [part for part in path.split("/") if part]
    if not parts or {".", ".."} & set(parts) or "\0" in path:
        raise BadInput("is not a path inside an image", where=repr(path), next_step="write it as usr/share/doc")
    return "/".join(parts)


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else ascii(text)
