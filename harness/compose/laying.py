"""An overlay laid over a folder on this host: a tree that umoci unpacked, or an empty one that ostree shall commit."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from harness.compose.imagetree import above
from harness.compose.overlay import Overlay, OverlayFile, order
from harness.errors import BadInput


def lay_over(root: Path, overlay: Overlay, epoch: int) -> None:
    """Make an overlay's changes to the tree at `root`, without following any symlink in it. Raises BadInput."""
    times = _times_of_folders(root, overlay)
    for path in overlay.removed:
        _check_way(root, path)
        place = root / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    for file in sorted(overlay.files.values(), key=lambda file: order(file.header.name)):
        _check_way(root, file.header.name)
        _lay(root, file)
    for file in reversed(overlay.entries):  # folders last: what is put into them changes their times
        place = root / file.header.name
        os.utime(place, (epoch, epoch), follow_symlinks=False)
        times.pop(place, None)
    for place, when in times.items():  # or umoci would take them for changed, and tell of them in the layer
        os.utime(place, ns=(when, when))


def _times_of_folders(root: Path, overlay: Overlay) -> dict[Path, int]:
    """When the folders changed, in nanoseconds, that are in the image and in which something will change."""
    paths = {folder for path in (*overlay.removed, *overlay.files) for folder in (*above(path), "")}
    places = (root / path for path in sorted(paths))
    return {place: place.lstat().st_mtime_ns for place in places if place.is_dir() and not place.is_symlink()}


def _lay(root: Path, file: OverlayFile) -> None:
    header, place = file.header, root / file.header.name
    is_new = not place.is_dir() or place.is_symlink()
    if header.kind == "directory":
        if is_new:
            place.mkdir()
        if file.is_folder_with_more and not is_new:
            return
    else:
        place.unlink(missing_ok=True)  # first: what else has this inode must not change
    if header.kind == "file":
        with place.open("xb") as out:
            out.writelines(file.content())
    elif header.kind == "symlink":
        place.symlink_to(header.target)
    elif header.kind == "hardlink":
        place.hardlink_to(root / header.target)
        return
    if not os.geteuid():
        os.chown(place, header.uid, header.gid, follow_symlinks=False)
    if header.kind != "symlink":
        place.chmod(header.mode)
    for name, value in header.xattrs:
        os.setxattr(place, name, value, follow_symlinks=False)


def _check_way(root: Path, path: str) -> None:
    for folder in above(path):
        place = root / folder
        if os.path.lexists(place) and not stat.S_ISDIR(place.lstat().st_mode):
            raise BadInput(f"{folder!a} is not a folder in the image", where=path)
