"""containers-storage on disk (containers/storage 1.4x, overlay driver): its lists of images and layers, and its names.

Everything is read through a `View` and bounded; what the lists say is not checked here, see `verify`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from harness.containers.folder import View
from harness.errors import DamagedImage

DEFAULT_ROOT = "/var/lib/containers/storage"
IMAGES = "overlay-images/images.json"
LAYERS = "overlay-layers/layers.json"
VOLATILE_LAYERS = "overlay-layers/volatile-layers.json"  # since containers/storage 1.45: of containers run by --rm
CONTAINERS = ("overlay-containers/containers.json", "overlay-containers/volatile-containers.json")
LARGEST_LIST = 32 * 2**20  # bytes; 160 images need 0.5 MiB
MOST_ENTRIES = 20_000  # in one list
MOST_LAYERS = 500  # of one image; the overlay driver itself gives up at 128
PIECE = 2**20  # bytes read at a time
OF_MANIFEST = "manifest-"  # prefix of the keys that carry a manifest's digest
IDENTIFIER = re.compile(r"[0-9a-f]{64}")
PLAIN_KEY = re.compile(r"[.0-9a-z]+")  # containers/storage, images.go: makeBigDataBaseName


class ImageRecord(msgspec.Struct, rename="kebab", frozen=True):
    """One entry of images.json; keys of the big data are `manifest`, `manifest-<digest>`, `<config digest>`, ..."""

    id: str  # config digest, hex
    digest: str = ""  # of the manifest, or of the list it was chosen from
    names: tuple[str, ...] | None = None
    layer: str = ""  # topmost
    big_data_names: tuple[str, ...] | None = None
    big_data_sizes: dict[str, int] | None = None
    big_data_digests: dict[str, str] | None = None
    mapped_layers: tuple[str, ...] | None = None  # copies of the topmost one with other owners, for user namespaces

    @property
    def digests(self) -> tuple[str, ...]:
        """What it may be asked for by: the digests of its manifest and of the lists that it was chosen from."""
        kept = (key for key in self.big_data_names or () if key.startswith(OF_MANIFEST))
        return tuple(dict.fromkeys((self.digest, *(key.removeprefix(OF_MANIFEST) for key in kept))))

    @property
    def title(self) -> str:
        """What messages call it."""
        return ", ".join(self.names or ()) or self.id[:12]


class LayerRecord(msgspec.Struct, rename="kebab", frozen=True):
    """One entry of layers.json; `diff_digest` is `sha256:<hex>` of the uncompressed tar, sizes are bytes."""

    id: str
    parent: str = ""
    diff_digest: str = ""
    diff_size: int = 0
    compressed_diff_digest: str = ""
    flags: dict[str, Any] | None = None

    @property
    def is_incomplete(self) -> bool:
        """Whether its writing was begun and not ended; containers/storage removes such a layer when it meets it."""
        return bool((self.flags or {}).get("incomplete"))


class ContainerRecord(msgspec.Struct, rename="kebab", frozen=True):
    """One entry of containers.json; `layer` is the one that the container writes to."""

    id: str
    layer: str = ""


Record = TypeVar("Record", ImageRecord, LayerRecord, ContainerRecord)


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A layer of a stored image."""

    id: str
    diff_id: str  # sha256:<hex>
    size: int  # bytes of its uncompressed tar


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image in a store, as its lists say; layers from the bottom up."""

    id: str
    names: tuple[str, ...]
    digest: str
    layers: tuple[StoredLayer, ...]
    digests: tuple[str, ...] = ()  # all that it may be asked for by
    store: str = field(default="", compare=False)  # root of the store that lists it


def list_images(files: View, root: str = DEFAULT_ROOT) -> tuple[StoredImage, ...]:
    """The images a store claims to hold, sorted by name; none where there is no store.

    Raises DamagedImage where its lists cannot be read. Proves nothing: see `verify_storage`.
    """
    root = root.rstrip("/")
    if not files.exists(f"{root}/{IMAGES}"):
        return ()
    known = {layer.id: layer for layer in read_layers(files, root)}
    images = []
    for image in read_images(files, root):
        chain = parent_chain(image.layer, known)
        layers = tuple(StoredLayer(layer.id, layer.diff_digest, layer.diff_size) for layer in chain)
        images.append(StoredImage(image.id, image.names or (), image.digest, layers, image.digests, root))
    return tuple(images)


def read_images(files: View, root: str) -> tuple[ImageRecord, ...]:
    """images.json, sorted by name. Raises DamagedImage."""
    images = _read_list(files, f"{root}/{IMAGES}", ImageRecord)
    return tuple(sorted(images, key=lambda image: (image.names or (), image.id)))


def read_layers(files: View, root: str) -> tuple[LayerRecord, ...]:
    """layers.json as it is, and the layers of containers run by --rm. Raises DamagedImage."""
    volatile = f"{root}/{VOLATILE_LAYERS}"
    others = _read_list(files, volatile, LayerRecord) if files.exists(volatile) else ()
    return _read_list(files, f"{root}/{LAYERS}", LayerRecord) + others


def read_containers(files: View, root: str) -> tuple[ContainerRecord, ...]:
    """The containers of a store, those run by --rm included; a preloaded one has none. Raises DamagedImage."""
    paths = [f"{root}/{path}" for path in CONTAINERS]
    return tuple(record for path in paths if files.exists(path) for record in _read_list(files, path, ContainerRecord))


def parent_chain(top: str, layers: Mapping[str, LayerRecord]) -> tuple[LayerRecord, ...]:
    """From the bottom up to `top`, as far as parents are known; a circle ends where it closes."""
    chain: dict[str, LayerRecord] = {}
    while top in layers and top not in chain and len(chain) < MOST_LAYERS:
        chain[top] = layers[top]
        top = layers[top].parent
    return tuple(reversed(chain.values()))


def layer_ids(diff_ids: Sequence[str]) -> tuple[str, ...]:
    """The ids containers/storage gives to layers pulled with these diff_ids, from the bottom up.

    >>> layer_ids(["sha256:" + "0" * 64]) == ("0" * 64,)
    True
    """
    ids: list[str] = []
    for diff_id in diff_ids:
        name = diff_id.removeprefix("sha256:")
        ids.append(hashlib.sha256(f"{ids[-1]}+{name}".encode()).hexdigest() if ids else name)
    return tuple(ids)


def big_data_path(image: str, key: str) -> str:
    """Where a piece of an image's big data lies, relative to the store.

    >>> big_data_path("0a", "manifest-sha256:1")
    'overlay-images/0a/=bWFuaWZlc3Qtc2hhMjU2OjE='
    """
    is_plain = PLAIN_KEY.fullmatch(key) and key.strip(".")
    name = key if is_plain else "=" + base64.b64encode(key.encode()).decode()
    return f"overlay-images/{image}/{name}"


def read_bounded(files: View, path: str, limit: int) -> bytes:
    """A whole file. Raises DamagedImage when it is no file, missing, or larger than `limit` bytes."""
    if not files.exists(path):
        raise DamagedImage("is missing", where=path)
    status = files.stat(path)
    if status.kind != "file":
        raise DamagedImage(f"is a {status.kind}, not a file", where=path)
    if status.size > limit:
        raise DamagedImage(f"has {status.size:,} bytes; more than {limit:,} are not believable", where=path)
    return b"".join(files.chunks(path, PIECE))


def _read_list(files: View, path: str, record: type[Record]) -> tuple[Record, ...]:
    try:
        records: tuple[Record, ...] = msgspec.json.decode(
            read_bounded(files, path, LARGEST_LIST),
            type=tuple[record, ...],  # type: ignore[valid-type]
        )
    except (msgspec.MsgspecError, RecursionError, ValueError) as cause:
        raise DamagedImage(f"is not the list it should be: {cause}", where=path) from cause
    if len(records) > MOST_ENTRIES:
        raise DamagedImage(f"has more than {MOST_ENTRIES:,} entries", where=path)
    for entry in records:
        if not IDENTIFIER.fullmatch(entry.id):
            raise DamagedImage(f"has an entry with the impossible id {entry.id[:80]!r}", where=path)
    return records
