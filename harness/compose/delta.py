"""What one layer more has changed in an image: exactly that, or what else differs.

Facts B3: in the index the digest and size of one manifest; in the manifest one layer at the end and the config's
digest; in the config one diff_id and one history entry. Everything before is untouched, and every blob is what its
name says.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.compose.imagetree import layer_members
from harness.compose.ociimage import OciImage, open_image
from harness.compose.tarstream import Member
from harness.containers.folder import FolderFiles
from harness.containers.imagefolder import verify_folder
from harness.containers.layout import TYPE_OF_LAYER
from harness.errors import DamagedArtifact

CHANGED = ("digest", "size")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two images differ though they should not, and how: values shortened."""

    where: str
    base: str
    new: str

    def __str__(self) -> str:
        return f"{self.where}: {self.base} became {self.new}"


@dataclass(frozen=True, slots=True)
class Delta:
    """The new layer, what is in it by path, and what else differs: nothing, if one layer was added as it should be."""

    tag: str
    layer: str
    diff_id: str
    size: int  # bytes of the packed layer
    members: Mapping[str, Member]
    differences: tuple[Difference, ...]


def layered(base: Path, new: Path, *, tag: str = "") -> Delta:
    """Compare two OCI layouts of which `new` should be `base` with one layer more on its image `tag`.

    Raises BadInput, DamagedArtifact where one of them cannot be read so far; what it holds of damage is a difference.
    """
    before, after = open_image(base, tag), open_image(new, tag)
    differences = [
        *_in_index(before, after),
        *_in_manifest(before, after),
        *_in_config(before, after),
        *_in_blobs(before, after),
    ]
    members: dict[str, Member] = {}
    layer = diff_id = ""
    size = 0
    if len(after.layers) > len(before.layers):
        layer, diff_id, size = after.layers[-1].digest, after.diff_ids[-1], after.layers[-1].size
        differences += _in_layer(after, members)
    return Delta(after.tag, layer, diff_id, size, members, tuple(differences))


def _in_index(before: OciImage, after: OciImage) -> Iterator[Difference]:
    yield from _differing("index", _without(before.index, "manifests"), _without(after.index, "manifests"))
    old, new = list(before.index["manifests"]), list(after.index["manifests"])
    if len(old) != len(new):
        yield Difference("index: manifests", f"{len(old)}", f"{len(new)}")
        return
    if before.position != after.position:
        yield Difference("index: place of the image", str(before.position), str(after.position))
        return
    yield from _differing("index: the image's entry", _without(before.named, *CHANGED), _without(after.named, *CHANGED))
    old.pop(before.position)
    new.pop(after.position)
    yield from _differing("index: other images", {"manifests": old}, {"manifests": new})


def _in_manifest(before: OciImage, after: OciImage) -> Iterator[Difference]:
    old, new = before.manifest, after.manifest
    if "mediaType" not in new:
        old = _without(old, "mediaType")  # umoci 0.4.7 as its authors build it writes none, and OCI wants none
    yield from _differing("manifest", _without(old, "config", "layers"), _without(new, "config", "layers"))
    yield from _differing("manifest: config", _without(old["config"], *CHANGED), _without(new["config"], *CHANGED))
    yield from _one_more("manifest: layers", old["layers"], new["layers"])
    top = new["layers"][-1] if new["layers"] else {}
    if len(new["layers"]) > len(old["layers"]) and top.get("mediaType") != TYPE_OF_LAYER:
        yield Difference("manifest: type of the new layer", TYPE_OF_LAYER, _short(top.get("mediaType")))


def _in_config(before: OciImage, after: OciImage) -> Iterator[Difference]:
    old, new = before.config, after.config
    yield from _differing("config", _without(old, "rootfs", "history"), _without(new, "rootfs", "history"))
    yield from _differing("config: rootfs", _without(old["rootfs"], "diff_ids"), _without(new["rootfs"], "diff_ids"))
    yield from _one_more("config: diff_ids", before.diff_ids, after.diff_ids)
    had, has = old.get("history") or [], new.get("history") or []
    if had or has:
        yield from _one_more("config: history", had, has)
        filled = [entry for entry in has if not (isinstance(entry, dict) and entry.get("empty_layer"))]
        if had and len(filled) != len(after.diff_ids):
            yield Difference("config: history that is not empty", f"{len(after.diff_ids)} layers", f"{len(filled)}")
        if has[len(had) :] and isinstance(has[-1], dict) and "empty_layer" in has[-1]:
            yield Difference("config: the new history entry", "a layer", _short(has[-1]))


def _in_blobs(before: OciImage, after: OciImage) -> Iterator[Difference]:
    """Every blob of the new layout is sound and needed, but that the old manifest and config may stay."""
    stale = {before.named["digest"], before.manifest["config"]["digest"]}
    report = verify_folder(FolderFiles(after.layout.parent), f"/{after.layout.name}")
    for problem in report.problems:
        if f"sha256:{problem.path.rpartition('/')[2]}" not in stale or problem.what != "belongs to no image here":
            yield Difference(f"blobs: {problem.path}", "sound", problem.what)
    for layer in before.layers:
        place = after.layout / "blobs" / "sha256" / layer.hex
        if not place.is_file():
            yield Difference(f"blobs: {layer.digest}", "there", "missing")


def _in_layer(after: OciImage, members: dict[str, Member]) -> Iterator[Difference]:
    """What the new layer holds goes into `members`; a name that is there twice is a difference."""
    seen: Counter[str] = Counter()
    try:
        for path, member in layer_members(after, len(after.layers) - 1):
            members[path] = member
            seen[path] += 1
    except DamagedArtifact as cause:
        yield Difference("the new layer", "sound", cause.what)
    for path, times in seen.items():
        if times > 1:
            yield Difference(f"the new layer: {path!a}", "once", f"{times} times")


def _one_more(where: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[Difference]:
    """One thing more at the end, and nothing else."""
    if len(new) != len(old) + 1:
        yield Difference(f"{where}: how many", f"{len(old)} and one more", str(len(new)))
    for number, (was, now) in enumerate(zip(old, new, strict=False), 1):
        if was != now:
            yield Difference(f"{where}: number {number}", _short(was), _short(now))


def _differing(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for key in sorted({*old, *new}):
        if key not in old or key not in new or old[key] != new[key]:
            was, now = (_short(side[key]) if key in side else "nothing" for side in (old, new))
            yield Difference(f"{where}: {key}", was, now)


def _without(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in keys}


def _short(value: object) -> str:
    text = ascii(value)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return text if len(text) <= 200 else f"{text[:180]}... ({digest})"
