"""The working copy of a disk that an edit changes, and how it becomes the new image.

A new image appears under its name whole or not at all: everything is done in a folder beside it that goes away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import BadInput
from harness.images.edits.copy import copy_disk
from harness.images.edits.stages import Progress, silent, stage
from harness.images.partitions.layout import Layout, read_layout
from harness.images.source import Image, open_image
from harness.store import replacing
from harness.tools import run

Form = Literal["raw", "qcow2"]
FORMS: dict[str, Form] = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2"}  # by the extension of the new image
QCOW2_OPTIONS = ("-O", "qcow2", "-o", "compat=1.1")  # as CoreOS ships it (facts: osbuild's defaults); 64 KiB clusters
DISK = "disk.raw"


@dataclass(frozen=True, slots=True)
class Draft:
    """The image an edit starts from, and the raw file that the edit changes."""

    image: Image
    layout: Layout
    disk: Path


@dataclass(frozen=True, slots=True)
class Workshop:
    """A folder for what is only needed meanwhile, and the file that will be the result."""

    folder: Path
    result: Path


def form_of(target: Path) -> Form:
    """What a file's extension promises. Raises BadInput for one that promises nothing."""
    form = FORMS.get(target.suffix)
    if form is None:
        known = ", ".join(FORMS)
        raise BadInput(f"its extension is none of {known}", where=str(target), next_step="say --format raw or qcow2")
    return form


@contextmanager
def drafting(
    source: Path, target: Path, *, form: Form | None = None, progress: Progress = silent, copied: bool = True
) -> Iterator[Draft]:
    """Hand out a raw copy of `source` to be changed; when the block ends well it becomes `target`.

    Without `form` the target's extension decides. With `copied=False` the file at `disk` is left to the caller to
    make. Raises BadInput for a target that is the source, or that cannot be written.
    """
    form = form or form_of(target)
    with creating(target, source) as shop, open_image(source) as image:
        draft = Draft(image, read_layout(image.block), shop.folder / DISK)
        if copied:
            with stage(progress, "copy"):
                copy_disk(image.block, draft.disk)
        yield draft
        if form == "raw":
            draft.disk.rename(shop.result)
        else:
            with stage(progress, "write qcow2"):
                run(["qemu-img", "convert", "-f", "raw", *QCOW2_OPTIONS, draft.disk, shop.result])


@contextmanager
def creating(target: Path, *sources: Path) -> Iterator[Workshop]:
    """A place to make a file in; it takes the place of `target` only when the block ends well. Raises BadInput."""
    target = target.absolute()  # a name with a colon is a protocol to QEMU, but not behind a slash
    for source in sources:
        if target.exists() and source.exists() and target.samefile(source):
            raise BadInput(
                "is the image itself, which no edit changes", where=str(target), next_step="choose another name"
            )
    if target.is_dir():
        raise BadInput("is a folder", where=str(target), next_step="name the file to write")
    try:
        with (
            replacing(target) as aside,
            tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder,
        ):
            yield Workshop(Path(folder), aside)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror or cause}", where=str(target)) from cause
