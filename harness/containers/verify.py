"""Is a preloaded containers-storage whole? Decided offline from its files, without running a container tool.

From each image's config (whose SHA-256 is the image's id) follow the diff_ids, from these the layers' ids, and from
these every folder, link and record that must be there. Damage never raises: it is told in words, with the image, the
layer and the path where it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import TypeVar

from harness.containers.folder import View
from harness.containers.imagecheck import image_findings, read_diff_ids
from harness.containers.layercheck import Finding, layer_findings
from harness.containers.links import link_findings
from harness.containers.records import (
    DEFAULT_ROOT,
    IDENTIFIER,
    LAYERS,
    ImageRecord,
    LayerRecord,
    StoredImage,
    StoredLayer,
    layer_ids,
    parent_chain,
    read_images,
    read_layers,
)
from harness.errors import HarnessError

MOST_PROBLEMS = 1000
MOST_FINDINGS = 50  # told of one image or layer; the rest adds nothing
MOST_USERS = 4  # images named with one layer
LOCKS = ("overlay-images/images.lock", "overlay-layers/layers.lock")

Record = TypeVar("Record", ImageRecord, LayerRecord)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a store; `path` is relative to the store, image and layer are empty where none is meant."""

    image: str  # names of all images concerned
    layer: str  # id
    path: str
    what: str

    def __str__(self) -> str:
        about = [f"image {self.image}"] if self.image else []
        about += [f"layer {self.layer[:12]}"] if self.layer else []
        return f"{', '.join(about)}: {self.path} {self.what}" if about else f"{self.path} {self.what}"


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What a store holds and what is wrong with it."""

    images: tuple[StoredImage, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a layer must be, on top of what, and for which images."""

    diff_id: str
    parent: str
    users: tuple[str, ...] = ()

    @property
    def names(self) -> str:
        more = len(self.users) - MOST_USERS
        return ", ".join(self.users[:MOST_USERS]) + (f" and {more} more" if more > 0 else "")


def verify_storage(files: View, root: str = DEFAULT_ROOT) -> StorageReport:
    """Check every image and layer of the store at `root` to the last byte. Never raises for a damaged store."""
    root, problems = root.rstrip("/"), list[Problem]()
    images = _listed(read_images, files, root, problems)
    listed = _listed(read_layers, files, root, problems)
    if problems:
        return StorageReport((), tuple(problems))
    records = {layer.id: layer for layer in listed}
    layers = {layer.id: _Layer(layer.diff_digest, layer.parent) for layer in listed}
    stored = []
    for image in images:
        diff_ids = read_diff_ids(files, root, image)
        findings = _bounded(image_findings(files, root, image, diff_ids), root)
        problems += [Problem(image.title, "", finding.path, finding.what) for finding in findings]
        chain = _chain(image, diff_ids, records)
        for layer, place in chain.items():
            users = (*layers[layer].users, image.title) if layer in layers else (image.title,)
            layers[layer] = replace(place, users=users)
        sizes = {layer: records[layer].diff_size if layer in records else 0 for layer in chain}
        held = tuple(StoredLayer(layer, place.diff_id, sizes[layer]) for layer, place in chain.items())
        stored.append(StoredImage(image.id, image.names or (), image.digest, held))
    for layer, finding in islice(_everything_else(files, root, layers, records), MOST_PROBLEMS):
        names = layers[layer].names if layer in layers else ""
        problems.append(Problem(names, layer, finding.path, finding.what))
    return StorageReport(tuple(stored), tuple(problems))


def _listed(
    read: Callable[[View, str], tuple[Record, ...]], files: View, root: str, problems: list[Problem]
) -> tuple[Record, ...]:
    try:
        return read(files, root)
    except HarnessError as cause:
        problems.append(Problem("", "", cause.where.removeprefix(f"{root}/"), cause.what))
        return ()


def _chain(
    image: ImageRecord, diff_ids: tuple[str, ...] | None, records: Mapping[str, LayerRecord]
) -> dict[str, _Layer]:
    """An image's layers from the bottom up: by its config, or by the lists where the config is damaged."""
    if diff_ids is None:
        return {layer.id: _Layer(layer.diff_digest, layer.parent) for layer in parent_chain(image.layer, records)}
    ids = layer_ids(diff_ids)
    parents = dict(pairwise(reversed(ids)))
    return {layer: _Layer(diff_id, parents.get(layer, "")) for layer, diff_id in zip(ids, diff_ids, strict=True)}


def _everything_else(
    files: View, root: str, layers: Mapping[str, _Layer], records: Mapping[str, LayerRecord]
) -> Iterator[tuple[str, Finding]]:
    """(layer, finding) for layers, their records and links, and what belongs to none."""
    for layer, place in layers.items():
        yield from ((layer, finding) for finding in _record(layer, place, records))
        content = layer_findings(files, root, layer, place.diff_id)
        yield from ((layer, finding) for finding in _bounded(content, root))
    parents = {layer: place.parent for layer, place in layers.items()}
    try:
        yield from islice(link_findings(files, root, parents), MOST_FINDINGS)
        yield from _strays(files, root, layers)
    except HarnessError as cause:
        yield "", Finding(cause.where.removeprefix(f"{root}/"), cause.what)


def _record(layer: str, place: _Layer, records: Mapping[str, LayerRecord]) -> Iterator[Finding]:
    if layer not in records:
        yield Finding(LAYERS, "does not list this layer")
    elif records[layer].parent != place.parent:
        yield Finding(LAYERS, f"says the parent is {records[layer].parent!r}, not {place.parent!r}")
    elif records[layer].diff_digest != place.diff_id:
        yield Finding(LAYERS, f"says the diff digest is {records[layer].diff_digest}, not {place.diff_id}")


def _strays(files: View, root: str, layers: Mapping[str, _Layer]) -> Iterator[tuple[str, Finding]]:
    """Layer folders that no list knows, and lock files that are gone."""
    for name in files.listdir(f"{root}/overlay") if files.exists(f"{root}/overlay") else ():
        if IDENTIFIER.fullmatch(name) and name not in layers:
            yield name, Finding(f"overlay/{name}", "is a layer that layers.json does not list")
    for lock in LOCKS:
        if not files.exists(f"{root}/{lock}"):
            yield "", Finding(lock, "is missing: podman cannot open a read-only store without it")


def _bounded(findings: Iterable[Finding], root: str) -> Iterator[Finding]:
    """At most MOST_FINDINGS, and an unreadable filesystem as one more finding."""
    try:
        for number, finding in enumerate(findings):
            if number == MOST_FINDINGS:
                yield Finding(finding.path, f"{finding.what} (and more: only the first {MOST_FINDINGS} are told)")
                return
            yield finding
    except HarnessError as cause:
        yield Finding(cause.where.removeprefix(f"{root}/"), cause.what)
