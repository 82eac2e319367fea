"""Folders as skopeo's `dir:` writes them, and archives of them with anything wrong that a test likes."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from harness.prestage.archives.image_manifest import VERSION
from harness.prestage.lists.reference import Reference

NAME = "quay.io/openshift-release-dev/ocp-v4.0-art-dev"
CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYERS = (b"the first layer " * 2000, b"the second layer " * 500)


def digest_of(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def descriptor(data, **more):
    return {"mediaType": "application/octet-stream", "digest": digest_of(data), "size": len(data), **more}


def image(layers=LAYERS, config=CONFIG):
    """The files of a folder with one image, by name."""
    manifest = {"schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(each) for each in layers]}
    blobs = {hashlib.sha256(each).hexdigest(): each for each in (config, *layers)}
    return {"version": VERSION, "manifest.json": json.dumps(manifest).encode(), **blobs}


def image_list(*architectures):
    """The files of a folder with an image for several architectures."""
    files = {"version": VERSION}
    manifests = []
    for each in architectures:
        one = image((each.encode() * 1000, LAYERS[0]))
        data = one.pop("manifest.json")
        files |= one | {f"{hashlib.sha256(data).hexdigest()}.manifest.json": data}
        manifests.append(descriptor(data, platform={"architecture": each, "os": "linux"}))
    files["manifest.json"] = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
    return files


def written(folder: Path, files):
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def reference_of(files):
    return Reference.parse(f"{NAME}@{digest_of(files['manifest.json'])}")


def member(name, data=b"", kind=tarfile.REGTYPE, target=""):
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, len(data), target
    return made, data


def members_of(stem, files):
    return [member(stem, kind=tarfile.DIRTYPE), *(member(f"{stem}/{name}", data) for name, data in files.items())]


def packed(path: Path, members, tar_format=tarfile.GNU_FORMAT):
    """An archive as `tar czf` writes it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tar_format) as tar:
        for head, data in members:
            tar.addfile(head, io.BytesIO(data))
    path.write_bytes(gzip.compress(raw.getvalue(), 6))
    return path
