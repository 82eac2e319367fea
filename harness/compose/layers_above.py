"""Layers of an image above the ostree commit in it, as tars that ostree lays over the commit's tree.

ostree knows no whiteouts: a layer that removes something is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from harness.compose.ociimage import OF_US, OciImage, unpacked_layer
from harness.compose.tarstream import Member, TarStream, inside
from harness.errors import BadInput, DamagedArtifact

WHITEOUT: Final = ".wh."
CAN_BE: Final = {"file", "hardlink", "symlink", "directory"}


def layer_tars(image: OciImage, diff_ids: tuple[str, ...], scratch: Path, where: str) -> tuple[Path, ...]:
    """Unpack the layers with these diff_ids into tars below `scratch`, lowest first, each proven by its diff_id.

    Raises BadInput for what no commit can have, DamagedArtifact.
    """
    tars = tuple(scratch / f"layer-{number}.tar" for number in range(len(diff_ids)))
    for diff_id, tar in zip(diff_ids, tars, strict=True):
        try:
            with tar.open("wb") as out:
                for member in TarStream(_written(unpacked_layer(image, image.diff_ids.index(diff_id)), out)).members():
                    _check(member, where)
        except DamagedArtifact as cause:
            raise DamagedArtifact(cause.what, where=where, next_step=OF_US) from cause
    return tars


def _written(pieces: Iterator[bytes], out: IO[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        out.write(piece)
        yield piece


def _check(member: Member, where: str) -> None:
    path = inside(member.name)
    if path is None:
        raise DamagedArtifact(f"a layer has a member called {member.name[:100]!a}", where=where)
    if path.rpartition("/")[2].startswith(WHITEOUT):
        raise BadInput(
            f"a layer removes {path.replace(WHITEOUT, '')!a}",
            where=where,
            next_step="removing files makes no ostree commit yet; mask units, or build without the package",
        )
    if member.kind not in CAN_BE:
        raise BadInput(
            f"a layer has {path!a}, a {member.kind}", where=where, next_step="ostree keeps files, folders and links"
        )
