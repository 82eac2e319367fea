"""The index of a family: which images there are, and the files of its folder that they come from.

A folder of recipes is handed about, so nothing in it is believed: names stay within the folder, and every image comes
after those that it is made from.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Annotated

import msgspec

from harness.delta.errors import DamagedRecipe, one_line
from harness.delta.ops import MOST_BASES
from harness.delta.recipe import Identity, Size
from harness.errors import BadInput

INDEX = "index.json"
VERSION = 1
MOST_IMAGES = 1000
MOST_BYTES = 4 * 2**20  # of the index
LONGEST_NAME = 200  # bytes: file systems take 255, suffixes and names for the time of writing among them
RECIPE_SUFFIX = ".recipe"
PACKED_SUFFIX = ".zst"


class Listed(Identity, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An image and the file it comes from: a recipe, or the image itself, packed by zstd if the name says so.

    `file` is empty where the image is not in the folder and has to be given. `bases` are names of images.
    """

    name: str
    file: str = ""
    stored: Size = 0  # bytes of the file
    bases: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_BASES)] = ()
    formats: tuple[str, ...] = ()  # containers that the recipe's plan makes, from the outermost: to be told

    @property
    def identity(self) -> Identity:
        """What the image is."""
        return Identity(self.size, self.sha256)

    @property
    def is_recipe(self) -> bool:
        return self.file.endswith(RECIPE_SUFFIX)


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All images of a family, each after its bases."""

    version: int
    images: Annotated[list[Listed], msgspec.Meta(max_length=MOST_IMAGES)]

    def image(self, name: str) -> Listed:
        """The image of a name. Raises BadInput, naming those there are."""
        found = next((image for image in self.images if image.name == name), None)
        if found is None:
            known = ", ".join(image.name for image in self.images)
            raise BadInput(f"there is no image {name!r} in this family", next_step=f"there are: {known}")
        return found

    def needed(self, names: list[str]) -> list[Listed]:
        """The images of these names and all that they are made from, bases first. Raises BadInput."""
        wanted = {self.image(name).name for name in names}
        for image in reversed(self.images):
            if image.name in wanted:
                wanted.update(image.bases)
        return [image for image in self.images if image.name in wanted]


def write_index(folder: Path, images: list[Listed]) -> None:
    """Write the index, the same bytes for the same images."""
    text = msgspec.json.format(msgspec.json.encode(Index(VERSION, images)), indent=1)
    with (folder / INDEX).open("xb") as file:
        file.write(text + b"\n")


def read_index(folder: Path) -> Index:
    """Read and check the index of a folder. Raises BadInput for a folder without one, DamagedRecipe for a wrong one."""
    path = folder / INDEX
    try:
        with family_file(folder, INDEX).open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, DamagedRecipe) as cause:
        why = cause.strerror if isinstance(cause, OSError) else cause.what
        raise BadInput(
            f"is no folder of recipes: {INDEX} cannot be read ({why})",
            where=str(folder),
            next_step="name the folder that `harness dehydrate` wrote",
        ) from cause
    try:
        index = msgspec.json.decode(text, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise _damaged(path, f"is not of this format: {one_line(cause)}") from cause
    if index.version != VERSION:
        raise _damaged(path, f"is of version {index.version}, and we read {VERSION}", "use a newer harness")
    _check(path, index)
    return index


def _check(path: Path, index: Index) -> None:
    names: set[str] = set()
    files = {INDEX}
    for image in index.images:
        for name in (image.name, image.file or INDEX):
            if not is_plain(name):
                raise _damaged(path, f"names a file {name[:80]!r}, which is no plain name")
        if image.name in names or image.file in files:
            raise _damaged(path, f"lists {image.name!r} or its file twice")
        if unknown := next((base for base in image.bases if base not in names), None):
            raise _damaged(path, f"lists {image.name!r} before its base {unknown[:80]!r}")
        if len(set(image.bases)) < len(image.bases):
            raise _damaged(path, f"names a base of {image.name!r} twice")
        if image.bases and not image.is_recipe:
            raise _damaged(path, f"names bases of {image.name!r}, which is no recipe")
        names.add(image.name)
        if image.file:
            files.add(image.file)


def family_file(folder: Path, name: str) -> Path:
    """A file of a family's folder. Raises DamagedRecipe for what is none: a pipe, or a link to somewhere else."""
    path = folder / name
    try:
        is_file = stat.S_ISREG(path.lstat().st_mode)
    except OSError as cause:
        raise _damaged(path, f"cannot be read: {cause.strerror}") from cause
    if not is_file:
        raise _damaged(path, "is no plain file")
    return path


def is_plain(name: str) -> bool:
    """Whether a name stays in its folder on any system, and shows on a terminal as what it is."""
    return (
        0 < len(name.encode(errors="replace")) <= LONGEST_NAME
        and not name.startswith((".", "-"))
        and name.isprintable()
        and not set(name) & set("/\\:")
    )


def _damaged(path: Path, what: str, next_step: str = "get the folder again") -> DamagedRecipe:
    return DamagedRecipe(what, where=str(path), next_step=next_step)
