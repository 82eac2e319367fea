"""Small container images in OCI layouts to add layers to, and trees of files to compare with what others make."""

import json
import os
import stat
from pathlib import Path

from harness.compose.ociarchive import pack
from harness.compose.ociimage import blob_path, open_image
from harness.containers.layout import Image, LayerFile, write_layout

EPOCH = 1_700_000_000
LAYERS = (
    (
        LayerFile("var", kind="directory", mode=0o755),
        LayerFile("var/old", content=b"old\n"),
        LayerFile("usr", kind="directory", mode=0o755),
        LayerFile("usr/bin", kind="directory", mode=0o755),
        LayerFile("usr/bin/tool", mode=0o755, content=b"#!/bin/true\n" * 400),
        LayerFile("bin", kind="symlink", target="usr/bin"),
    ),
    (LayerFile("etc", kind="directory", mode=0o755), LayerFile("etc/motd", content=b"hello\n")),
)


def small_layout(folder, *names, layers=LAYERS):
    """A layout in `folder` of one image for each name, the first of them if none is given: `latest`."""
    images = [Image(name, layers, cmd=("/usr/bin/tool",)) for name in names or ("latest",)]
    write_layout(folder, images, EPOCH)
    return folder


def small_archive(folder, layers=LAYERS):
    """The same as an ociarchive."""
    pack(small_layout(folder / "packed", layers=layers), folder / "base.ociarchive", EPOCH)
    return folder / "base.ociarchive"


def overlay(folder, files):
    """Files by path below `folder`; bytes are content, text is where a symlink points, None is a folder."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.mkdir()
        elif isinstance(content, bytes):
            place.write_bytes(content)
        else:
            place.symlink_to(content)
    return folder


def document(layout, digest):
    return json.loads(blob_path(layout, digest).read_bytes())


def documents(layout):
    """Index, manifest and config of the layout's only image."""
    image = open_image(layout)
    return image.index, image.manifest, image.config


def tree(folder):
    """Everything below `folder` by path: kind, mode, owner, what is in it or where it leads, extended attributes.

    Hard links are told by the first path of their inode.
    """
    found, inodes = {}, {}
    for inside, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            place = Path(inside) / name
            path, status = str(place.relative_to(folder)), place.lstat()
            kind = stat.S_IFMT(status.st_mode)
            content = place.readlink() if place.is_symlink() else place.read_bytes() if place.is_file() else None
            names = [key for key in os.listxattr(place, follow_symlinks=False) if key.startswith("user.")]
            xattrs = {key: os.getxattr(place, key, follow_symlinks=False) for key in names}
            if not stat.S_ISDIR(kind):
                inodes.setdefault(status.st_ino, set()).add(path)
            found[path] = (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content, xattrs)
    return found, sorted(sorted(paths) for paths in inodes.values() if len(paths) > 1)
