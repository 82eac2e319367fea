"""Image files as layers of a disk, spelled out one by one: the backing file that an image names is never opened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import BadInput, UnsupportedImage

QCOW2_MAGIC = b"QFI\xfb"
QCOW2_EXTERNAL_DATA = 1 << 2  # incompatible feature bit: the data is in another file

ImageFormat = Literal["raw", "qcow2"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a disk."""

    path: Path
    format: ImageFormat


def layer_of(path: Path) -> Layer:
    """An image file as the bottom layer of a disk. Raises BadInput or UnsupportedImage."""
    try:
        with path.open("rb") as image:
            head = image.read(104)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path), next_step="give an image file") from cause
    if not head:
        raise BadInput("is empty", where=str(path), next_step="give an image file")
    if not head.startswith(QCOW2_MAGIC):
        return Layer(path.absolute(), "raw")
    version, features = int.from_bytes(head[4:8], "big"), int.from_bytes(head[72:80], "big")
    if version >= 3 and features & QCOW2_EXTERNAL_DATA:  # qcow2 version 3 brought feature bits
        raise UnsupportedImage("keeps its data in another file", where=str(path), next_step="convert it with qemu-img")
    return Layer(path.absolute(), "qcow2")


def blockdev(**options: Any) -> list[str]:
    """A node of QEMU's block layer."""
    return ["-blockdev", json.dumps(options)]


def stack(name: str, layers: Sequence[Layer]) -> tuple[list[str], str]:
    """Arguments for the nodes of a disk, whose layers are named from the top down, and the name of the top node.

    Only the top layer is opened for writing, and never flushed to the platter.
    """
    argv: list[str] = []
    below: str | None = None
    for number, layer in enumerate(reversed(layers)):
        is_top = number == len(layers) - 1
        cache = {"direct": False, "no-flush": True}
        options: dict[str, Any] = {
            "driver": layer.format,
            "node-name": f"{name}-{number}",
            "read-only": not is_top,
            "cache": cache,
            "discard": "unmap",
            "file": {"driver": "file", "filename": str(layer.path), "cache": cache, "discard": "unmap"},
        }
        if layer.format == "qcow2":
            options["backing"] = below
        argv += blockdev(**options)
        below = f"{name}-{number}"
    return argv, below or ""
