"""The tree that an image's layers come to: what lies at each path, by the headers of their tars alone.

image-spec 1.1, layer.md: layers from the bottom up, each entry replaces what was there, `.wh.NAME` hides NAME of the
layers below and `.wh..wh..opq` all that was in its folder.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from harness.compose.ociimage import OciImage, unpacked_layer
from harness.compose.tarstream import MOST_MEMBERS, Member, TarStream
from harness.containers.layout import OPAQUE, WHITEOUT
from harness.errors import DamagedArtifact

REMEMBERED: Final = MOST_MEMBERS  # paths of all layers together


@dataclass(frozen=True, slots=True)
class Placed:
    """What lies at a path: its member, and the number of the layer (from 0) it came from."""

    member: Member
    layer: int


def read_tree(image: OciImage) -> dict[str, Placed]:
    """What an image holds, by path without a leading slash; each layer is proven to have its diff_id on the way.

    Raises DamagedArtifact, without saying where.
    """
    tree: dict[str, Placed] = {}
    for number in range(len(image.layers)):
        apply_layer(tree, layer_members(image, number), number)
        if len(tree) > REMEMBERED:
            raise DamagedArtifact(f"holds more than {REMEMBERED:,} files")
    return tree


def layer_members(image: OciImage, number: int) -> Iterator[tuple[str, Member]]:
    """The members of a layer with their paths below the root. Raises DamagedArtifact, without saying where."""
    for member in TarStream(unpacked_layer(image, number)).members():
        path = layer_path(member.name)
        if path is None:
            raise DamagedArtifact(f"layer {number + 1} holds {member.name[:100]!a}, which leads out of the image")
        yield path, member


def layer_path(name: str) -> str | None:
    """A member's path below the root of an image. An absolute one is meant so, as all tools take it.

    >>> layer_path("./etc/motd"), layer_path("/etc/motd"), layer_path("../etc")
    ('etc/motd', 'etc/motd', None)
    """
    parts = [part for part in name.split("/") if part not in {"", "."}]
    return None if ".." in parts or "\0" in name else "/".join(parts)


def apply_layer(tree: dict[str, Placed], members: Iterable[tuple[str, Member]], number: int) -> None:
    """Lay the members of one layer over `tree`; whiteouts count for the layers below only, wherever they stand."""
    added: dict[str, Placed] = {}
    hidden: set[str] = set()  # with all below
    opaque: set[str] = set()  # all below, not themselves
    for path, member in members:
        folder, name = posixpath.split(path)
        if name == OPAQUE:
            opaque.add(folder)
        elif name.startswith(WHITEOUT):
            hidden.add(posixpath.join(folder, name.removeprefix(WHITEOUT)))
        elif path:
            added[path] = Placed(member, number)
    replaced = {path for path, placed in added.items() if placed.member.kind != "directory"}
    if hidden or opaque or replaced:
        for path in [path for path in tree if _is_gone(path, hidden, opaque, replaced, tree)]:
            del tree[path]
    tree.update(added)


def above(path: str) -> Iterator[str]:
    """All folders above a path, without the root."""
    while path := posixpath.dirname(path):
        yield path


def _is_gone(path: str, hidden: set[str], opaque: set[str], replaced: set[str], tree: dict[str, Placed]) -> bool:
    if path in hidden or "" in opaque:
        return True
    for folder in above(path):
        if folder in hidden or folder in opaque or folder in replaced:
            return True
    return path in replaced and tree[path].member.kind == "directory"
