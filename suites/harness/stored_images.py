"""A small containers-storage to check and to damage: the two busybox images, filled by skopeo as root."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.containers.folder import FolderFiles
from harness.containers.images import LAYERED_NAME, STATIC_NAME, busybox_images
from harness.containers.layout import write_layout
from harness.containers.records import layer_ids
from harness.containers.storage import store_images
from harness.containers.verify import verify_storage
from harness.errors import HarnessError
from harness.tools import known_tools, run

EPOCH = 1_700_000_000
PROGRAM = b"\x7fELF\x02" + bytes(range(256)) * 400


def obstacle(*programs):
    """Why no store can be filled here by these programs, or nothing."""
    for name in programs:
        if known_tools()[name].find() is None:
            return f"{name} is not installed"
    if os.geteuid():
        return "only root can write whiteouts and owners as the guest needs them"
    try:
        run(["unshare", "--mount", "true"])
    except HarnessError as cause:
        return f"no mount namespace: {cause}"
    return ""


def needs(*programs):
    """The mark of tests that fill a store by these programs."""
    why = obstacle(*programs)
    return pytest.mark.skipif(bool(why), reason=why or "never")


needs_store = needs("skopeo")


@dataclass
class Store:
    """A store to damage, and the names of what is in it."""

    root: Path
    base: str  # layer ids, from the bottom up
    added: str
    hidden: str
    top: str
    image: str  # id of the layered image
    digest: str  # of its manifest

    def diff(self, layer, path):
        return self.root / "overlay" / layer / "diff" / path

    def rewrite(self, path, change):
        place = self.root / path
        place.write_bytes(change(place.read_bytes()))

    def edit(self, path, change):
        place = self.root / path
        content = json.loads(place.read_bytes())
        place.write_text(json.dumps(change(content)))

    def verified(self, additional=()):
        return verify_storage(FolderFiles(self.root.parent), f"/{self.root.name}", additional)

    def problems(self):
        report = self.verified()
        told = (*report.problems, *report.leftovers)
        return [(problem.image, problem.layer, problem.path, problem.what) for problem in told]


def small_store(folder):
    """A store of both images in `folder`/storage."""
    _, layered = write_layout(folder / "layout", busybox_images(PROGRAM), EPOCH)
    store_images(folder / "layout", [STATIC_NAME, LAYERED_NAME], folder / "storage", EPOCH)
    ids = layer_ids(layered.diff_ids)
    return Store(folder / "storage", *ids, layered.config.removeprefix("sha256:"), layered.manifest)
