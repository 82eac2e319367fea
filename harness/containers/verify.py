"""Is a preloaded containers-storage whole? Decided offline from its files, without running a container tool.

From each image's config (whose SHA-256 is the image's id) follow the diff_ids, from these the layers' ids, and from
these every folder, link and record that must be there. Damage never raises: it is told in words, with the image, the
layer and the path where it was found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise

from harness.containers.folder import View
from harness.containers.imagecheck import image_findings, read_diff_ids
from harness.containers.layercheck import Finding, layer_findings
from harness.containers.leftovers import leftover_findings
from harness.containers.links import link_findings
from harness.containers.records import (
    DEFAULT_ROOT,
    LAYERS,
    ImageRecord,
    LayerRecord,
    StoredImage,
    StoredLayer,
    layer_ids,
    parent_chain,
)
from harness.containers.splitrecords import SplitRecords
from harness.containers.stores import Lists, read_lists
from harness.errors import HarnessError

MOST_PROBLEMS = 1000  # told in full; beyond, one of each layer, so that no damaged image is taken for a whole one
MOST_FINDINGS = 50  # told of one image or layer; the rest adds nothing
MOST_USERS = 4  # images named with one layer
LOCKS = ("overlay-images/images.lock", "overlay-layers/layers.lock")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a store; `path` is relative to the store, image and layer are empty where none is meant."""

    image: str  # names of all images concerned
    layer: str  # id
    path: str
    what: str
    ids: frozenset[str] = field(default=frozenset(), repr=False)  # of all images concerned
    store: str = ""  # root, of an additional store

    def __str__(self) -> str:
        about = [f"image {self.image}"] if self.image else []
        about += [f"layer {self.layer[:12]}"] if self.layer else []
        path = f"{self.store}/{self.path}".rstrip("/") if self.store else self.path
        return f"{', '.join(about)}: {path} {self.what}" if about else f"{path} {self.what}"


@dataclass(frozen=True, slots=True)
class StorageReport:
    """What a store holds, what is wrong with it, and what in it is of no use (which harms nothing but takes room)."""

    images: tuple[StoredImage, ...]
    problems: tuple[Problem, ...]
    leftovers: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Layer:
    """What a layer must be, on top of what, and for which images. Its users are added as they are found."""

    diff_id: str
    parent: str
    users: list[ImageRecord] = field(default_factory=list)

    @property
    def names(self) -> str:
        more = len(self.users) - MOST_USERS
        shown = ", ".join(image.title for image in self.users[:MOST_USERS])
        return shown + (f" and {more} more" if more > 0 else "")

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(image.id for image in self.users)


def verify_storage(files: View, root: str = DEFAULT_ROOT, additional: Sequence[str] = ()) -> StorageReport:
    """Check every image and layer of the store at `root` to the last byte. Never raises for a damaged store.

    `additional` are the roots of read-only stores that go with it (`stores.read_settings`): their images count too,
    and layers of one store may lie on those of another.
    """
    problems: list[Problem] = []
    stores: list[Lists] = []
    for place in dict.fromkeys(path.rstrip("/") for path in (root, *additional)):
        try:
            stores.append(read_lists(files, place, is_additional=place != root.rstrip("/")))
        except HarnessError as cause:
            problems.append(_told(_as_finding(cause, place), "", None, place, root.rstrip("/")))
    check = _Check(files, root.rstrip("/"), tuple(stores), problems)
    images = tuple(check.image(store, image) for store in stores for image in store.images)
    for store in stores:
        check.store(store)
    return StorageReport(images, tuple(check.problems), tuple(check.leftovers))


class _Check:
    """One run over stores that belong together."""

    def __init__(self, files: View, root: str, stores: tuple[Lists, ...], problems: list[Problem]) -> None:
        self.files, self.root, self.stores, self.problems = files, root, stores, problems
        self.leftovers: list[Problem] = []
        self.layers: dict[str, dict[str, _Layer]] = {
            store.root: {layer.id: _Layer(layer.diff_digest, layer.parent) for layer in store.layers.values()}
            for store in stores
        }
        self.known = {layer.id: layer for store in reversed(stores) for layer in store.layers.values()}

    def image(self, store: Lists, image: ImageRecord) -> StoredImage:
        """Check one image but for its layers, which are noted as wanted."""
        diff_ids = read_diff_ids(self.files, store.root, image)
        findings = _bounded(image_findings(self.files, store.root, image, diff_ids), store.root)
        user = _Layer("", "", [image])
        self.problems += [_told(finding, "", user, store.root, self.root) for finding in findings]
        chain = _chain(image, diff_ids, self.known)
        for layer, place in chain.items():
            wanted = self.layers[self._home(store, layer)].setdefault(layer, place)
            wanted.diff_id, wanted.parent = place.diff_id, place.parent
            wanted.users.append(image)
        sizes = {layer: self.known[layer].diff_size if layer in self.known else 0 for layer in chain}
        held = tuple(StoredLayer(layer, place.diff_id, sizes[layer]) for layer, place in chain.items())
        return StoredImage(image.id, image.names or (), image.digest, held, image.digests, store.root)

    def _home(self, store: Lists, layer: str) -> str:
        """The root of the store where a layer of an image in `store` is looked for."""
        homes = (each.root for each in (store, *self.stores) if layer in each.layers)
        return next(homes, store.root)

    def store(self, store: Lists) -> None:
        """Check the layers of one store, their records and links, and say what belongs to none."""
        layers, used = self.layers[store.root], self._used(store)
        for layer, record in store.layers.items():
            if record.is_incomplete and layer not in used:
                del layers[layer]  # podman removes it before it does anything else
        for layer, finding in self._damage(store, used):
            self.problems.append(_told(finding, layer, layers.get(layer), store.root, self.root))
        try:
            for layer, finding in islice(leftover_findings(self.files, store, layers.keys(), used), MOST_PROBLEMS):
                self.leftovers.append(_told(finding, layer, None, store.root, self.root))
        except HarnessError as cause:
            self.problems.append(_told(_as_finding(cause, store.root), "", None, store.root, self.root))

    def _damage(self, store: Lists, used: Collection[str]) -> Iterator[tuple[str, Finding]]:
        layers = self.layers[store.root]
        splits = SplitRecords(self.files, store.root, {layer: place.diff_id for layer, place in layers.items()})
        for layer, place in layers.items():
            if layer in store.working or (layer not in used and not place.diff_id):
                continue  # a container writes to it: nothing says what it should hold
            most = 1 if len(self.problems) > MOST_PROBLEMS else None
            yield from ((layer, finding) for finding in islice(self._layer(store, layer, place, splits), most))
        parents = {layer: place.parent for layer, place in layers.items()}
        elsewhere = {
            layer: (each.root, record.parent)
            for each in reversed(self.stores)
            for layer, record in each.layers.items()
            if layer not in layers
        }
        try:
            yield from islice(link_findings(self.files, store.root, parents, elsewhere), MOST_FINDINGS)
            for lock in LOCKS:
                if not self.files.exists(f"{store.root}/{lock}"):
                    yield "", Finding(lock, "is missing: podman cannot open a read-only store without it")
        except HarnessError as cause:
            yield "", _as_finding(cause, store.root)

    def _layer(self, store: Lists, layer: str, place: _Layer, splits: SplitRecords) -> Iterator[Finding]:
        record = store.layers.get(layer)
        if record and record.is_incomplete:
            yield Finding(LAYERS, "flags this layer as incomplete: its writing was cut off, and podman will remove it")
            return
        yield from _record(record, place)
        content = list(_bounded(layer_findings(self.files, store.root, layer, place.diff_id), store.root))
        foreign = splits.foreign(layer) if content else None
        yield from [foreign] if foreign else content

    def _used(self, store: Lists) -> frozenset[str]:
        """The layers of a store on which an image or a container lies, of whichever store."""
        used: set[str] = set()
        tops = {layer for each in self.stores for layer in each.working}
        tops |= {layer for each in self.stores for image in each.images for layer in image.mapped_layers or ()}
        tops |= {layer for layer, place in self.layers[store.root].items() if place.users}
        for top in tops:
            step = top
            while step not in used and step in self.known:
                used.add(step)
                step = self.known[step].parent
        return frozenset(used | tops)


def _told(finding: Finding, layer: str, place: _Layer | None, store: str, root: str) -> Problem:
    names, ids = (place.names, place.ids) if place else ("", frozenset[str]())
    return Problem(names, layer, finding.path, finding.what, ids, "" if store == root else store)


def _chain(
    image: ImageRecord, diff_ids: tuple[str, ...] | None, records: Mapping[str, LayerRecord]
) -> dict[str, _Layer]:
    """An image's layers from the bottom up: by its config, or by the lists where the config is damaged.

    Also by the lists where they have the image on other layers, and not those of its config: skopeo 1.9.3 makes such an
    image of zstd:chunked layers, which lack the end of their tar. That is one problem, not one of every layer.
    """
    ids = layer_ids(diff_ids or ())
    if diff_ids is None or (image.layer in records and ids[-1:] and ids[-1] not in records):
        return {layer.id: _Layer(layer.diff_digest, layer.parent) for layer in parent_chain(image.layer, records)}
    parents = dict(pairwise(reversed(ids)))
    return {layer: _Layer(diff_id, parents.get(layer, "")) for layer, diff_id in zip(ids, diff_ids, strict=True)}


def _record(record: LayerRecord | None, place: _Layer) -> Iterator[Finding]:
    if record is None:
        yield Finding(LAYERS, "does not list this layer")
    elif record.parent != place.parent:
        yield Finding(LAYERS, f"says the parent is {record.parent!r}, not {place.parent!r}")
    elif record.diff_digest != place.diff_id:
        yield Finding(LAYERS, f"says the diff digest is {record.diff_digest}, not {place.diff_id}")


def _bounded(findings: Iterable[Finding], root: str) -> Iterator[Finding]:
    """At most MOST_FINDINGS, and an unreadable filesystem as one more finding."""
    try:
        for number, finding in enumerate(findings):
            if number == MOST_FINDINGS:
                yield Finding(finding.path, f"{finding.what} (and more: only the first {MOST_FINDINGS} are told)")
                return
            yield finding
    except HarnessError as cause:
        yield _as_finding(cause, root)


def _as_finding(cause: HarnessError, root: str) -> Finding:
    return Finding(f"{cause.where}/".removeprefix(f"{root}/").rstrip("/"), cause.what)
