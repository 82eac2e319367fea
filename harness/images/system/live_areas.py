"""What stands in the places of a live ISO that `coreos-installer iso customize` writes to, for the manifest."""

from __future__ import annotations

import hashlib

from harness.images.filesystems.files import shown
from harness.images.manifest import EmbedArea, KargsArea, KargsFacts
from harness.images.system.live_archives import read_archives
from harness.images.system.live_places import EmbedPlace, KargsPlaces

MOST_SHOWN = 64  # members
CONFIG = "config.ign"


def embed_area(place: EmbedPlace) -> EmbedArea:
    """Whether a config is embedded, and what else."""
    state, config, names = "empty", None, []
    content = place.area.read(0, place.area.size)
    if content.strip(b"\0"):
        state = "other"
        if (members := read_archives(content, place.area.name)) is not None:
            names = [shown(name) for name in dict.fromkeys(member.name for member in members)]
            configs = [member.content for member in members if member.name == CONFIG]
            state = "config" if configs else "initrd"
            config = hashlib.sha256(configs[-1]).hexdigest() if configs else None
    area = place.area
    return EmbedArea(shown(place.path), area.start, area.size, place.announced_by, state, config, names[:MOST_SHOWN])


def kargs_facts(found: KargsPlaces) -> KargsFacts:
    """The kernel arguments as shipped, and as they stand in every place."""
    areas = [KargsArea(place.path, place.area.start, place.text()) for place in found.places]
    return KargsFacts(found.default, found.size, found.announced_by, areas)
