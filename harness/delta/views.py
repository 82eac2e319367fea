"""What lies in a base and is better to copy from than the file as it is: the guest's disk, the files of a squashfs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.delta.recipe import ViewKind
from harness.errors import BadInput
from harness.images.block import Block
from harness.images.formats.raw import FileBlock
from harness.images.source import open_image


@contextmanager
def viewed(file: Block, kind: ViewKind) -> Iterator[Block]:
    """The bytes of a view, in the order that docs/recipe.md gives. Raises what reading the file raises."""
    if not isinstance(file, FileBlock):
        raise BadInput("is no file, so that nothing can be seen in it", where=file.name)
    if kind == "disk":
        with open_image(file.path) as image:
            yield image.block
        return
    raise BadInput(f"cannot be seen as {kind}", where=file.name)
