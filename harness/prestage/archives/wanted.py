"""What has to be pulled for an image, asked of its registry before a byte of it is: digest, sizes, platforms.

By that the disk can be looked at first, a registry that sends more than it said is cut off, and a tag that moves while
we pull does no harm: what is pulled is the digest that it meant when we asked.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from harness.containers.manifest import LARGEST_MANIFEST, blamed
from harness.containers.skopeo import Skopeo, Stopped, complaint, may_pass
from harness.errors import BadInput, ToolFailed
from harness.prestage.archives.image_manifest import VERSION, ImageManifest, read_image_manifest
from harness.prestage.lists.reference import Reference

MOST_PAUSE: Final = 60.0  # seconds
OF_MEMBER: Final = 1024  # bytes of an archive beside each file: its tar header, and what fills its last block
GO_NAMES: Final = {"x86_64": "amd64", "aarch64": "arm64"}  # of architectures; the others have Go's name

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image to pull: `digest` is its manifest's, `size` the bytes of its archive, `largest` of its largest file."""

    reference: Reference
    digest: str
    size: int
    largest: int
    with_all: bool

    @property
    def pinned(self) -> str:
        """What to ask the registry for."""
        return f"{self.reference.name}@{self.digest}"


@dataclass(frozen=True, slots=True)
class Retries:
    """How often something is tried again that may pass, and after how many seconds first; each pause is twice as long.

    `tell` hears of each: the reference, why, and the pause.
    """

    times: int = 5
    first: float = 1.0
    tell: Callable[[Reference, str, float], None] = lambda *_: None

    def __call__(self, skopeo: Skopeo, reference: Reference, attempt: Callable[[], T]) -> T:
        """What `attempt` returns. Raises in words what skopeo complains of, Stopped when told to end."""
        for number in range(self.times + 1):
            try:
                return attempt()
            except ToolFailed as failed:
                why = complaint(failed, str(reference))
                if number == self.times or not may_pass(failed):
                    raise why from failed
                pause = min(self.first * 2**number, MOST_PAUSE)
                self.tell(reference, why.what, pause)
                if skopeo.stopping.wait(pause):
                    raise Stopped from failed
        raise AssertionError  # the last round returns or raises


def ask(skopeo: Skopeo, reference: Reference, retries: Retries, *, with_all: bool, architecture: str) -> Wanted:
    """Ask the registry what an image is. Of a by-tag list only the image for `architecture` (Go's name) is wanted.

    Raises RegistryFailed and its like in words, DamagedArtifact for a manifest that is not what it is called by,
    BadInput for a by-digest list without `with_all`: nothing could be verified by that digest.
    """

    def manifest(digest: str) -> ImageManifest:
        name = f"{reference.name}@{digest}" if digest else str(reference)
        data = retries(skopeo, reference, lambda: skopeo.manifest(name))
        found = read_image_manifest(data, name)
        if digest and found.digest != digest:
            raise blamed(name, f"the registry gave {found.digest} instead")
        return found

    found = manifest(reference.digest)
    if not found.is_list:
        return _wanted(reference, found, (found,), with_all=with_all)
    if with_all:
        images = tuple(manifest(each.digest) for each in found.instances)
        if any(image.is_list for image in images):
            raise blamed(str(reference), "is a list of lists")
        return _wanted(reference, found, (found, *images), with_all=True)
    if reference.digest:
        raise BadInput(
            f"is a list of {len(found.instances)} images, of which one alone cannot be verified by the list's digest",
            where=str(reference),
            next_step="pull with --all, or list the digest of the one image",
        )
    instance = found.instance(architecture)
    if instance is None:
        there = ", ".join(sorted({each.architecture[:40] for each in found.instances}))
        raise BadInput(f"has no image for {architecture}, only for {there!a}", where=str(reference))
    image = manifest(instance.digest)
    if image.is_list:
        raise blamed(str(reference), "is a list of lists")
    return _wanted(reference, image, (image,), with_all=False)


def host_architecture() -> str:
    """This host's, as Go calls it."""
    machine = platform.machine()
    return GO_NAMES.get(machine, machine)


def _wanted(
    reference: Reference, named: ImageManifest, manifests: tuple[ImageManifest, ...], *, with_all: bool
) -> Wanted:
    blobs = {digest: size for manifest in manifests for digest, size in manifest.blobs.items()}
    files = [len(VERSION), *(manifest.length for manifest in manifests), *blobs.values()]
    size = sum(files) + OF_MEMBER * (len(files) + 2)
    return Wanted(reference, named.digest, size + size // 8192, max(LARGEST_MANIFEST, *files), with_all)
