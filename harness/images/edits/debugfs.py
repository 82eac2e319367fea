"""Files written into an ext4 filesystem of a raw disk, without mounting it, the same bytes every time (e2fsprogs 1.47).

debugfs exits 0 whatever happens, leaves half a file when space runs out, overwrites nothing, and writes in front of a
journal that would undo it. So everything is checked before, read back after, and e2fsck has the first and last word.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.errors import BadInput, DamagedImage, MissingFile, ToolFailed, UnsupportedImage
from harness.images.filesystems.files import Files, open_files, shown
from harness.images.formats.raw import FileBlock
from harness.images.partitions.layout import LayoutPartition, part_of
from harness.tools import find_tool

DEFAULT_MODE = 0o644
SPARE_BLOCKS = 8  # for the extent trees and directory blocks that new files may need
SELINUX_LABEL = "security.selinux"
KEPT_ATTRIBUTES = ("security.", "trusted.", "user.")  # debugfs would convert the others
E2FSCK_SOUND: Final = 0


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be: its absolute path in the filesystem, its content, and its mode (0644, or that of the old file)."""

    path: str
    content: bytes = field(repr=False)
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """One file as it will be written: parents resolved, owner and attributes decided."""

    folder: str
    name: str
    content: bytes
    mode: int
    uid: int
    gid: int
    attributes: Mapping[str, bytes]
    new_folders: tuple[str, ...]
    replaced: int  # bytes of the file in its place; -1 where there is none

    @property
    def path(self) -> str:
        return f"{self.folder.rstrip('/')}/{self.name}"


def write_files(disk: Path, partition: LayoutPartition, files: Sequence[NewFile], *, replace: bool = False) -> None:
    """Write files to the ext4 filesystem in a partition of a raw disk; missing folders are made.

    A new file gets its folder's SELinux label, as a kernel would give it; a replaced one keeps owner, mode and
    attributes. Raises BadInput for a path that is taken or impossible and for lack of space, UnsupportedImage for
    another filesystem, DamagedImage for one that is unsound or has a journal to replay, ToolFailed with debugfs's
    words.
    """
    with FileBlock(disk) as block:
        part = part_of(block, partition)
        _check_filesystem(partition, part.name)
        _refuse_unsound(disk, partition, part.name)
        plans = _plans(open_files(part), files, replace=replace)
        _check_space(partition, plans, part.name)
        time = _last_write(part.read(1024, 1024))
    _run(disk, partition, plans, time, part.name)
    problem = unsoundness(disk, partition.start)
    if problem:
        raise ToolFailed(f"debugfs left a filesystem that e2fsck objects to: {problem}", where=part.name)
    with FileBlock(disk) as block:
        _check_written(open_files(part_of(block, partition)), plans)


def unsoundness(disk: Path, offset: int) -> str:
    """What `e2fsck -fn` objects to in the filesystem at an offset of a raw disk, or nothing."""
    argv = [find_tool("e2fsck"), "-f", "-n", f"{disk.name}?offset={offset}"]
    done = subprocess.run(
        argv, cwd=disk.parent, capture_output=True, env={**os.environ, "LC_ALL": "C.UTF-8"}, check=False
    )
    if done.returncode == E2FSCK_SOUND:
        return ""
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    told = [line.strip() for line in lines if line.strip() and not line.startswith(("e2fsck ", "Pass "))]
    return shown(" | ".join(told[:4])[:300]) or f"exit code {done.returncode}"


def _check_filesystem(partition: LayoutPartition, where: str) -> None:
    found = partition.filesystem
    if found is None or found.type != "ext4":
        raise UnsupportedImage(f"holds {found.type if found else 'no filesystem'}; we write to ext4 only", where=where)
    if found.details.get("needs_recovery"):
        raise DamagedImage(
            "has a journal to replay; a later boot could undo the change",
            where=where,
            next_step="boot and shut down the image once, or run e2fsck on it",
        )


def _refuse_unsound(disk: Path, partition: LayoutPartition, where: str) -> None:
    problem = unsoundness(disk, partition.start)
    if problem:
        raise DamagedImage(f"e2fsck objects to it before anything was written: {problem}", where=where)


def _plans(tree: Files, files: Sequence[NewFile], *, replace: bool) -> list[_Plan]:
    """One a file, sorted by path. A folder is made by the first plan that needs it."""
    plans: list[_Plan] = []
    made: dict[str, bytes | None] = {}  # folders that will be there, with their label
    for file in sorted(files, key=lambda file: file.path):
        _check_path(file.path, tree.name)
        parts = file.path.strip("/").split("/")
        folder, missing = _resolved(tree, parts[:-1], made)
        label = made[folder] if folder in made else _label(tree, folder)
        new_folders = []
        for part in missing:
            folder = f"{folder.rstrip('/')}/{part}"
            new_folders.append(folder)
            made[folder] = label
        plan = _plan(tree, file, folder, tuple(new_folders), label, replace=replace)
        if any(other.path == plan.path for other in plans):
            raise BadInput("is to be written twice", where=f"{tree.name}: {shown(plan.path)}")
        plans.append(plan)
    return plans


def _plan(
    tree: Files, file: NewFile, folder: str, new_folders: tuple[str, ...], label: bytes | None, *, replace: bool
) -> _Plan:
    name = file.path.rpartition("/")[2]
    path = f"{folder.rstrip('/')}/{name}"
    where = f"{tree.name}: {shown(path)}"
    try:
        old = None if new_folders else tree.stat(path)
    except MissingFile:
        old = None
    if old is None:
        labels = {SELINUX_LABEL: label} if label else {}
        mode = DEFAULT_MODE if file.mode is None else file.mode
        return _Plan(folder, name, file.content, mode, 0, 0, labels, new_folders, -1)
    if old.kind != "file":
        raise BadInput(f"is a {old.kind}, which is not replaced", where=where)
    if not replace:
        raise BadInput("is there already", where=where, next_step="say --replace, or start from an image without it")
    kept = {key: value for key, value in tree.xattrs(path).items() if key.startswith(KEPT_ATTRIBUTES)}
    mode = old.mode if file.mode is None else file.mode
    return _Plan(folder, name, file.content, mode, old.uid, old.gid, kept, (), old.size)


def _check_path(path: str, where: str) -> None:
    parts = path.split("/")[1:]
    clean = path.startswith("/") and parts and all(part not in {"", ".", ".."} for part in parts)
    if not clean or not path.isprintable() or '"' in path:
        raise BadInput(
            f"{shown(path)} is no path that we write to",
            where=where,
            next_step="name it absolutely, as seen from the top of that filesystem, without quotes",
        )
    if any(len(part.encode()) > 255 for part in parts):
        raise BadInput(f"{shown(path[:60])}... has a name longer than 255 bytes", where=where)


def _resolved(tree: Files, parts: list[str], made: Mapping[str, bytes | None]) -> tuple[str, list[str]]:
    """The folder that is there, symlinks followed, and the names still to be made below it."""
    here = "/"
    for index, part in enumerate(parts):
        step = f"{here.rstrip('/')}/{part}"
        if step in made:
            here = step
            continue
        if not tree.exists(step):
            return here, parts[index:]
        here = tree.canonical(step)
        kind = tree.stat(here).kind
        if kind != "directory":
            raise BadInput(f"is a {kind}, not a folder", where=f"{tree.name}: {shown(here)}")
    return here, []


def _label(tree: Files, folder: str) -> bytes | None:
    return tree.xattrs(folder).get(SELINUX_LABEL)


def _check_space(partition: LayoutPartition, plans: Sequence[_Plan], where: str) -> None:
    details = partition.filesystem.details if partition.filesystem else {}
    size, free = int(str(details["block_size"])), int(str(details["free_blocks"]))
    needed = SPARE_BLOCKS + sum(-(-len(plan.content) // size) + len(plan.new_folders) for plan in plans)
    freed = sum(-(-plan.replaced // size) for plan in plans if plan.replaced > 0)
    if needed > free + freed:
        raise BadInput(
            f"has {(free + freed) * size:,} bytes free, and {needed * size:,} are needed",
            where=where,
            next_step="leave something out",
        )


def _last_write(superblock: bytes) -> int:
    """When the filesystem was last written: the time of all that an edit adds, so that it repeats."""
    (written,), (made,) = struct.unpack_from("<I", superblock, 0x30), struct.unpack_from("<I", superblock, 0x108)
    return int(max(written, made, 1))


def _run(disk: Path, partition: LayoutPartition, plans: Sequence[_Plan], time: int, where: str) -> None:
    """Have debugfs do it; it is shown only names that we chose, in a folder of ours."""
    staged: dict[str, bytes] = {}
    script = "\n".join(line for plan in plans for line in _commands(plan, staged))
    for name, content in staged.items():
        (disk.parent / name).write_bytes(content)
    done = subprocess.run(
        [find_tool("debugfs"), "-w", "-f", "/dev/stdin", f"{disk.name}?offset={partition.start}"],
        input=script.encode(),
        cwd=disk.parent,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C.UTF-8", "E2FSPROGS_FAKE_TIME": str(time)},
        check=False,
    )
    for name in staged:
        (disk.parent / name).unlink()
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("debugfs ")]
    if complaints or done.returncode:
        raise ToolFailed(f"debugfs: {shown(' | '.join(complaints)[:300])}", where=where)


def _commands(plan: _Plan, staged: dict[str, bytes]) -> Iterator[str]:
    def stage(content: bytes) -> str:
        name = f"content.{len(staged)}"
        staged[name] = content
        return name

    label = plan.attributes.get(SELINUX_LABEL)
    for folder in plan.new_folders:
        parent, _, name = folder.rpartition("/")
        yield f'cd "{parent or "/"}"'
        yield f'mkdir "{name}"'
        if label:
            yield f'ea_set -f {stage(label)} "{folder}" {SELINUX_LABEL}'
    yield f'cd "{plan.folder}"'
    if plan.replaced >= 0:
        yield f'rm "{plan.name}"'
    yield f'write {stage(plan.content)} "{plan.name}"'
    yield f'sif "{plan.path}" mode 0{0o100000 | plan.mode:o}'
    yield f'sif "{plan.path}" uid {plan.uid}'
    yield f'sif "{plan.path}" gid {plan.gid}'
    for name, value in sorted(plan.attributes.items()):
        yield f'ea_set -f {stage(value)} "{plan.path}" {name}'


def _check_written(tree: Files, plans: Sequence[_Plan]) -> None:
    for plan in plans:
        where = f"{tree.name}: {shown(plan.path)}"
        found = tree.stat(plan.path)
        if (found.kind, found.mode, found.uid, found.gid) != ("file", plan.mode, plan.uid, plan.gid):
            raise ToolFailed("debugfs did not give it the owner and mode it was told to", where=where)
        if found.size != len(plan.content) or tree.read(plan.path, len(plan.content)) != plan.content:
            raise ToolFailed("debugfs did not write what it was told to", where=where, next_step="is there space?")
        if any(tree.xattrs(plan.path).get(name) != value for name, value in plan.attributes.items()):
            raise ToolFailed("debugfs did not give it its attributes", where=where)
