"""An image of a family while the family is dehydrated: what can be made of it, and what can be copied from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.delta.bases import BaseFile
from harness.delta.containers.dissection import Dissection, dissect, outline
from harness.delta.containers.streams import METHODS
from harness.delta.encode import Container
from harness.delta.family.sketch import Sketch, sketch
from harness.delta.family.wrapping import plain_image
from harness.delta.identity import identity_of
from harness.delta.recipe import Identity, ViewKind
from harness.delta.views import kinds_of, viewed
from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.raw import FileBlock

# Bytes a CPU second on the way in: gzip -9 or xz around all of it; grains and clusters; plain bytes.
STREAMING, PACKING, COPYING = 7_000_000, 30_000_000, 1_000_000_000
SEEING = 100_000_000  # bytes a CPU second: inflate on the way out


@dataclass(frozen=True, slots=True)
class Form:
    """What a recipe may make: the file as it is, or its content, which a plan then makes the file of.

    `seconds` is about what making the file of it costs beyond copying, in CPU seconds.
    """

    block: Block
    sketch: Sketch
    container: Container | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What may be copied from an image: its bytes (no kind), or a view of them; `seconds` is what seeing it costs."""

    kind: ViewKind | None
    sketch: Sketch
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Member:
    """One image. `formats` are its containers from the outermost, as far as they can be made again."""

    name: str
    file: FileBlock
    identity: Identity
    formats: tuple[str, ...]
    forms: tuple[Form, ...]
    sights: tuple[Sight, ...]

    def as_base(self, kind: ViewKind | None) -> BaseFile:
        """The image as a base that need not be hashed again."""
        return BaseFile(self.file, self.identity, kind)


@contextmanager
def opened(path: Path, name: str, *, is_given: bool = False) -> Iterator[Member]:
    """Look into an image that is called `name`, for as long as it is needed.

    One that is given is only copied from, so it is not found out how its containers could be made again.
    A compressed image is the one inside: that is what is signed and compared (`uncompressed-sha256`).
    Raises BadInput for what cannot be read, DamagedImage for a broken compression, StoreError where there is no room.
    """
    with ExitStack() as stack:
        path = plain_image(path, stack)
        block = stack.enter_context(FileBlock(path, name))
        dissection = None if is_given else dissect(path)
        if dissection:
            stack.enter_context(dissection)
        plain = sketch(block)
        forms = [Form(block, plain)]
        if dissection:
            forms.append(_content(dissection))
        yield Member(
            name,
            block,
            Identity(dissection.size, dissection.sha256) if dissection else identity_of(path),
            dissection.formats if dissection else (),
            tuple(forms),
            (Sight(None, plain), *_sights(block, forms)),
        )


def _content(dissection: Dissection) -> Form:
    found = sketch(dissection.content)
    is_packed = bool(outline(dissection.plan).codecs)
    rate = STREAMING if METHODS.keys() & set(dissection.formats) else PACKING if is_packed else COPYING
    container = Container(dissection.plan, Identity(dissection.size, dissection.sha256))
    return Form(dissection.content, found, container, found.stored / rate)


def _sights(block: FileBlock, forms: list[Form]) -> Iterator[Sight]:
    for kind in kinds_of(block.path):
        if kind == "disk" and len(forms) > 1:  # what a container holds was looked at already
            found = forms[1].sketch
        else:
            try:
                with viewed(block, kind) as seen:
                    found = sketch(seen)
            except (DamagedImage, UnsupportedImage):  # then it is a file like any other
                continue
        yield Sight(kind, found, found.stored / SEEING)
