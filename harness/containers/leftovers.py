"""What a containers-storage holds that nothing needs: it harms no image, but takes room and tells of a run cut off."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from harness.containers.folder import View
from harness.containers.layercheck import Finding
from harness.containers.records import IDENTIFIER, LAYERS
from harness.containers.stores import Lists

# Where containers/storage keeps what is in the making; empty when nobody is at work.
SCRATCH = ("tmp", "overlay/staging", "overlay/tempdirs", "overlay-layers/tmp", "overlay-images/tmp")
HALF_WRITTEN = re.compile(r"\.tmp-.+")  # containers/storage, ioutils: a list before it is renamed to its name
RECORD = re.compile(r"([0-9a-f]{64})\.tar-split\.gz")


def leftover_findings(
    files: View, store: Lists, layers: Collection[str], used: Collection[str]
) -> Iterator[tuple[str, Finding]]:
    """(layer, finding) for everything in a store that no image and no container needs.

    `layers` are all that its lists or images name, `used` those that an image or a container lies on.
    """
    known = {*layers, *store.layers}
    for layer, record in store.layers.items():
        if layer in used:
            continue
        if record.is_incomplete:
            yield layer, Finding(LAYERS, "flags this layer as incomplete: its writing was cut off; podman removes it")
        else:
            yield layer, Finding(LAYERS, f"lists this layer of {record.diff_size:,} bytes, but no image lies on it")
    yield from _folders(files, store, known)
    for folder in SCRATCH:
        for name in _names(files, f"{store.root}/{folder}"):
            yield "", Finding(f"{folder}/{name}", "was left by a run that was cut off")


def _folders(files: View, store: Lists, known: Collection[str]) -> Iterator[tuple[str, Finding]]:
    """What lies beside the layers and images of the lists."""
    for name in _names(files, f"{store.root}/overlay"):
        if IDENTIFIER.fullmatch(name) and name not in known:
            yield name, Finding(f"overlay/{name}", "is a layer that layers.json does not list")
    for name in _names(files, f"{store.root}/overlay-layers"):
        found = RECORD.fullmatch(name)
        if HALF_WRITTEN.fullmatch(name) or (found and found[1] not in known):
            yield found[1] if found else "", Finding(f"overlay-layers/{name}", "is of no layer in layers.json")
    images = {image.id for image in store.images}
    for name in _names(files, f"{store.root}/overlay-images"):
        if HALF_WRITTEN.fullmatch(name) or (IDENTIFIER.fullmatch(name) and name not in images):
            yield "", Finding(f"overlay-images/{name}", "is of no image in images.json")


def _names(files: View, folder: str) -> Iterator[str]:
    if files.exists(folder) and files.stat(folder).kind == "directory":
        yield from files.listdir(folder)
