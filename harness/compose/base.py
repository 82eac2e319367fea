"""What a build starts from: a commit out of a repository, a disk image or a container image, taken over whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.compose.encapsulate import encapsulate
from harness.compose.layers_above import layer_tars
from harness.compose.ociarchive import opened_layout
from harness.compose.ociimage import open_image
from harness.compose.ostreerepo import OstreeRepo
from harness.compose.unencapsulate import unencapsulate
from harness.containers.folder import FolderFiles
from harness.containers.imagefolder import LAYOUT
from harness.errors import BadInput
from harness.images.partitions.layout import read_layout
from harness.images.source import open_chain
from harness.images.system.tree import open_system

REPOS: Final = ("/sysroot/ostree/repo", "/ostree/repo")
REF: Final = "base"
TAR_MAGIC: Final = slice(257, 262)


@dataclass(frozen=True, slots=True)
class Base:
    """A commit, called REF in the repository `repo`, and tars of the layers that an image has above it."""

    repo: Path
    commit: str
    version: str
    layers: tuple[Path, ...] = ()
    diff_ids: tuple[str, ...] = ()  # of these layers


def read_base(source: Path, scratch: Path) -> Base:
    """Take the commit of `source` over into a repository below `scratch`; its own is only read.

    Raises BadInput for what has no commit or several refs, DamagedArtifact and DamagedImage for what is broken.
    """
    if is_container_image(source):
        with opened_layout(source, scratch) as layout:
            image = open_image(layout, where=str(source))
            done = unencapsulate(image, scratch / "repo", ref=REF, where=str(source))
            tars = layer_tars(image, done.layers_above, scratch, str(source))
        return Base(scratch / "repo", done.commit, done.version or "0", tars, done.layers_above)
    with opened_repo(source) as repo:
        commit = repo.commit(repo.resolve(repo.only_ref()))
        encapsulate(repo, commit.checksum, scratch / "base")
    unencapsulate(open_image(scratch / "base"), scratch / "repo", ref=REF)
    return Base(scratch / "repo", commit.checksum, str(commit.metadata.get("version") or "0"))


def is_container_image(source: Path) -> bool:
    """Whether it is an OCI layout or a tar, which then must be an ociarchive. Raises BadInput where it is not there."""
    if source.is_dir():
        return (source / LAYOUT).is_file()
    try:
        with source.open("rb") as file:
            return file.read(TAR_MAGIC.stop)[TAR_MAGIC] == b"ustar"
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(source)) from cause


@contextmanager
def opened_repo(source: Path) -> Iterator[OstreeRepo]:
    """The repository in a folder, or in the system of a disk image."""
    if source.is_dir():
        if not (source / "config").is_file():
            next_step = "name a repository, or an image of an ostree system"
            raise BadInput(
                "is a folder, but no ostree repository: it has no config", where=str(source), next_step=next_step
            )
        yield OstreeRepo(FolderFiles(source), "/")
        return
    with open_chain(source, ()) as image:
        files = open_system(read_layout(image.block))
        found = next((path for path in REPOS if files.exists(f"{path}/config")), None)
        if found is None:
            raise BadInput("has no ostree repository", where=str(source), next_step="name an image of an ostree system")
        yield OstreeRepo(files, found)
