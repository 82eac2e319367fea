"""Lists of the images of a release: which there are, and in which stage of an installation each is needed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.prestage.reference import Reference


class Stage(StrEnum):
    """When an image is needed: by the live system that registers the host, or by the installed system."""

    DISCOVERY = "discovery"
    INSTALL = "install"


@dataclass(frozen=True, slots=True)
class Listed:
    """One image of a list.

    `name` is the operator's in its release (`must-gather`), where the list says it. `tag` is one that a by-digest
    image shall have as well (`4.11.0-x86_64-must-gather`, of mapping.txt). `line` is 1-based, in its list.
    """

    reference: Reference
    stages: frozenset[Stage]
    name: str = ""
    tag: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class ImageList:
    """Images in the order of their lists, each pull spec once, no two with one archive."""

    images: tuple[Listed, ...]

    def of(self, stage: Stage) -> tuple[Listed, ...]:
        """The images that a stage needs."""
        return tuple(each for each in self.images if stage in each.stages)
