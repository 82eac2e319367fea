"""Which stores of container images a system has (containers-storage.conf(5)), and what the lists of each say.

`/etc/containers/storage.conf` takes the place of `/usr/share/containers/storage.conf`, nothing is inherited. Drop-ins
(`storage.conf.d/*.conf` beside either, by newer versions) are laid over it in the order of their names, a name in /etc
hiding that in /usr. podman looks for an image in `graphroot`, in `imagestore` where that is set, and in each of the
read-only `additionalimagestores`.
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.containers.folder import View
from harness.containers.records import (
    DEFAULT_ROOT,
    IMAGES,
    LAYERS,
    ImageRecord,
    LayerRecord,
    read_bounded,
    read_containers,
    read_images,
    read_layers,
)
from harness.errors import DamagedImage, UnsupportedImage

FOLDERS = ("/usr/share/containers", "/etc/containers")  # the later one wins
FILE = "storage.conf"
LARGEST_FILE = 2**20  # bytes
MOST_STORES = 32
OVERLAY = ("", "overlay", "overlay2")  # the names of the one driver that we read


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Where a system's podman keeps and finds images; all are absolute paths."""

    root: str = DEFAULT_ROOT
    driver: str = "overlay"
    additional: tuple[str, ...] = ()  # read-only stores, and the `imagestore` of a split one


@dataclass(frozen=True, slots=True)
class Lists:
    """What the lists of one store say."""

    root: str
    images: tuple[ImageRecord, ...]
    layers: Mapping[str, LayerRecord]
    working: frozenset[str] = field(default=frozenset())  # layers that change hands: containers', and mapped copies


def read_settings(files: View) -> StorageSettings:
    """What storage.conf and its drop-ins say; the defaults where there is none.

    Raises DamagedImage where podman itself would give up, and UnsupportedImage for another driver than overlay.
    """
    merged: dict[str, Any] = {}
    for path in _paths(files):
        storage = _table(files, path).get("storage", {})
        options = storage.get("options", {}) if isinstance(storage, dict) else None
        if not isinstance(options, dict):
            raise DamagedImage("[storage] and [storage.options] are not tables", where=path)
        merged |= {key: storage[key] for key in ("driver", "graphroot", "imagestore") if key in storage}
        merged |= {key: options[key] for key in ("additionalimagestores", "imagestore") if key in options}
    root = _folder(merged.get("graphroot") or DEFAULT_ROOT, "graphroot")
    driver = merged.get("driver", "")
    if driver not in OVERLAY:
        raise UnsupportedImage(f"keeps container images by the driver {driver!r:.40}; we read overlay", where=FILE)
    stores = merged.get("additionalimagestores", [])
    if not isinstance(stores, list) or len(stores) > MOST_STORES:
        raise DamagedImage(f"additionalimagestores is no list of at most {MOST_STORES} folders", where=FILE)
    split = [_folder(merged["imagestore"], "imagestore")] if merged.get("imagestore") else []
    additional = [*split, *(_folder(store, "additionalimagestores") for store in stores)]
    return StorageSettings(root, "overlay", tuple(store for store in dict.fromkeys(additional) if store != root))


def read_lists(files: View, root: str, *, is_additional: bool = False) -> Lists:
    """The lists of the store at `root`. Raises DamagedImage where podman could not read them either.

    A store that is additional may lack them: then it holds nothing. It must itself be there all the same.
    """
    if is_additional and not files.exists(root):
        raise DamagedImage("is missing, but storage.conf names it: every podman command fails", where=root)
    has_images, has_layers = (not is_additional or files.exists(f"{root}/{path}") for path in (IMAGES, LAYERS))
    images = read_images(files, root) if has_images else ()
    layers = {layer.id: layer for layer in (read_layers(files, root) if has_layers else ())}
    written = {container.layer for container in read_containers(files, root)}
    mapped = {layer for image in images for layer in image.mapped_layers or ()}
    return Lists(root, images, layers, frozenset(written | mapped))


def _paths(files: View) -> tuple[str, ...]:
    """The files that apply, in their order."""
    main = [path for path in (f"{folder}/{FILE}" for folder in FOLDERS) if files.exists(path)]
    dropped: dict[str, str] = {}
    for folder in (f"{folder}/{FILE}.d" for folder in FOLDERS):
        if files.exists(folder) and files.stat(folder).kind == "directory":
            dropped |= {name: f"{folder}/{name}" for name in files.listdir(folder) if name.endswith(".conf")}
    return (*main[-1:], *(dropped[name] for name in sorted(dropped)))


def _table(files: View, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bounded(files, path, LARGEST_FILE).decode())
    except (ValueError, RecursionError) as cause:  # TOMLDecodeError and UnicodeDecodeError are such
        raise DamagedImage(f"is not TOML: {cause}", where=path) from cause


def _folder(given: object, option: str) -> str:
    """An absolute path, without `..`. Anything else podman refuses as well."""
    if not isinstance(given, str) or not given.startswith("/") or "\0" in given:
        raise DamagedImage(f"{option} is {given!r:.80}, not an absolute path", where=FILE)
    return posixpath.normpath(given)
