"""One layer more on an image, by umoci: unpacked, changed and repacked as a person would do it (umoci 0.4.7).

The files of the overlay get the same owners, modes and times as in a layer written here; the rest is umoci's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from harness.compose.epoch import rfc3339
from harness.compose.layering import AddedLayer, check_fits
from harness.compose.laying import lay_over
from harness.compose.ociimage import open_image
from harness.compose.overlay import Overlay
from harness.errors import BadInput
from harness.tools import run

PATIENCE: Final = 3600.0  # seconds for one run of umoci: an image of an operating system takes minutes


def add_layer_by_umoci(
    layout: Path, overlay: Overlay, epoch: int, scratch: Path, *, tag: str = "", where: str = ""
) -> AddedLayer:
    """As `layering.add_layer`, by umoci; `scratch` is a folder for the image's files. Needs root's rights to be exact.

    Raises BadInput also for an image without a tag, and ToolFailed.
    """
    where = where or str(layout)
    image = open_image(layout, tag, where=where)
    if not image.tag:
        raise BadInput("has no tag, and umoci goes by tags", where=where, next_step="do it without --by umoci")
    check_fits(image, overlay, where)
    bundle, named = scratch / "bundle", f"{layout}:{image.tag}"
    rootless = ["--rootless"] if os.geteuid() else []
    try:
        run(["umoci", "unpack", *rootless, "--image", named, bundle], timeout=PATIENCE)
        lay_over(bundle / "rootfs", overlay, epoch)
        run(["umoci", "repack", f"--history.created={rfc3339(epoch)}", "--image", named, bundle], timeout=PATIENCE)
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
    run(["umoci", "gc", "--layout", layout], timeout=PATIENCE)
    new = open_image(layout, image.tag, where=where)
    top = new.layers[-1]
    if len(new.layers) != len(image.layers) + 1:
        raise BadInput("changes nothing: all files are in the image already", where=where)
    paths = (*overlay.removed, *(file.header.name for file in overlay.entries))
    manifest, config = str(new.named["digest"]), str(new.manifest["config"]["digest"])
    return AddedLayer(image.tag, manifest, config, top.digest, new.diff_ids[-1], top.size, paths)
