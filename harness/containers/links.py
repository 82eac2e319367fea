"""Short links of the overlay driver: `overlay/<layer>/link` holds an id, `overlay/l/<id>` points back to the layer,
and `overlay/<layer>/lower` lists the links of all layers below, nearest first (containers/storage, drivers/overlay).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from harness.containers.folder import View
from harness.containers.layercheck import Finding
from harness.containers.records import MOST_LAYERS, read_bounded
from harness.errors import DamagedImage

LINK = re.compile(r"[A-Z0-9]{26}")
MOST_LINKS = 1_000_000
LONGEST_LOWER = 2**20  # bytes; a page of memory is what the kernel's mount options allow


def link_findings(
    files: View, root: str, parents: Mapping[str, str], elsewhere: Mapping[str, tuple[str, str]] | None = None
) -> Iterator[tuple[str, Finding]]:
    """(layer, finding) for every link, `l` entry and `lower` that does not fit; `parents` maps layers to parents.

    `elsewhere` maps layers that are not checked here to the root of their store and to their parents: a layer may lie
    on them.
    A link that is gone is told once: what can be known from elsewhere is not reported as wrong.
    """
    targets = _targets(files, root)
    by_layer = {target.removeprefix("../").removesuffix("/diff"): link for link, target in targets.items()}
    links: dict[str, str] = {}
    for layer in parents:
        if not files.exists(f"{root}/overlay/{layer}"):
            continue  # told as a layer without content
        path = f"overlay/{layer}/link"
        try:
            link = read_bounded(files, f"{root}/{path}", LONGEST_LOWER).decode("ascii", "replace")
        except DamagedImage as cause:
            yield layer, Finding(path, f"{cause.what}; overlay/l has {by_layer.get(layer, 'none')} for this layer")
            link = by_layer.get(layer, "")
        else:
            yield from ((layer, finding) for finding in _link(path, link, layer, targets))
        links[layer] = by_layer.get(layer, link)
    further = elsewhere or {}
    for link in sorted(targets.keys() - set(links.values())):
        target = targets[link].removeprefix("../").removesuffix("/diff")
        if target not in parents and target not in further:
            yield "", Finding(f"overlay/l/{link}", f"points to {targets[link]!r}, which is no layer of this store")
    for layer in links:
        below = _below(layer, parents, further)
        known = [links[step] if step in links else _link_of(files, further, step) for step in below]
        yield from ((layer, finding) for finding in _lower(files, root, layer, known))


def _link(path: str, link: str, layer: str, targets: Mapping[str, str]) -> Iterator[Finding]:
    expected = f"../{layer}/diff"
    if not LINK.fullmatch(link):
        yield Finding(path, f"holds {link[:40]!r}, not the 26 characters of a link id")
    elif link not in targets:
        yield Finding(f"overlay/l/{link}", f"is missing: it should point to {expected!r}")
    elif targets[link] != expected:
        yield Finding(f"overlay/l/{link}", f"points to {targets[link]!r}, not to {expected!r}")


def _below(layer: str, parents: Mapping[str, str], elsewhere: Mapping[str, tuple[str, str]]) -> list[str]:
    """The layers below one, nearest first, as far as they are known; a circle ends where it closes."""
    below: list[str] = []
    step = parents[layer]
    while (step in parents or step in elsewhere) and step not in below and len(below) < MOST_LAYERS:
        below.append(step)
        step = parents[step] if step in parents else elsewhere[step][1]
    return below


def _link_of(files: View, elsewhere: Mapping[str, tuple[str, str]], layer: str) -> str:
    """The link of a layer of another store, empty if it is not known: that is told where that store is checked."""
    if layer not in elsewhere:
        return ""
    try:
        link = read_bounded(files, f"{elsewhere[layer][0]}/overlay/{layer}/link", LONGEST_LOWER)
    except DamagedImage:
        return ""
    return link.decode("ascii", "replace")


def _lower(files: View, root: str, layer: str, below: Sequence[str]) -> Iterator[Finding]:
    """Findings for a layer's `lower`; `below` are the links of the layers under it, nearest first."""
    path = f"overlay/{layer}/lower"
    if not below:
        if files.exists(f"{root}/{path}"):
            yield Finding(path, "is there, but the layer has no parent")
        return
    try:
        lower = read_bounded(files, f"{root}/{path}", LONGEST_LOWER).decode("ascii", "replace")
    except DamagedImage as cause:
        yield Finding(path, cause.what)
        return
    expected = ":".join(f"l/{link}" for link in below)
    if all(below) and lower != expected:
        yield Finding(path, f"lists {lower[:200]!r}, not the layers below: {expected!r}")


def _targets(files: View, root: str) -> dict[str, str]:
    """Where each entry of overlay/l points; what is no symlink counts as pointing nowhere."""
    folder = f"{root}/overlay/l"
    if not files.exists(folder) or files.stat(folder).kind != "directory":
        return {}
    names = files.listdir(folder)
    if len(names) > MOST_LINKS:
        raise DamagedImage(f"holds more than {MOST_LINKS:,} links", where=folder)
    places = {name: f"{folder}/{name}" for name in names}
    return {
        name: files.readlink(place) if files.stat(place).kind == "symlink" else "" for name, place in places.items()
    }
