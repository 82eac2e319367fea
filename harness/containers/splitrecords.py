"""Has a layer been given the tar-split record of another? Asked only of a layer that cannot be put together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from harness.containers.folder import View
from harness.containers.layercheck import Finding
from harness.containers.records import PIECE
from harness.errors import HarnessError


class SplitRecords:
    """The tar-split records of a store, each read at most once."""

    def __init__(self, files: View, root: str, diff_ids: Mapping[str, str]) -> None:
        """`diff_ids` are those of all its layers."""
        self._files, self._root, self._diff_ids = files, root, diff_ids
        self._owners: dict[str, list[str]] | None = None  # by digest

    def foreign(self, layer: str) -> Finding | None:
        """The finding for a layer whose record is also that of a layer with another content, and not its own."""
        if self._owners is None:
            self._owners = {}
            for each in self._diff_ids:
                self._owners.setdefault(self._digest(each), []).append(each)
        digest = self._digest(layer)
        owners = self._owners.get(digest, []) if digest else []
        others = [each for each in owners if self._diff_ids[each] != self._diff_ids[layer]]
        if not others:
            return None
        path = f"overlay-layers/{layer}.tar-split.gz"
        return Finding(path, f"is that of layer {others[0][:12]}: this layer cannot be put together again")

    def _digest(self, layer: str) -> str:
        """SHA-256 of a layer's record; empty where there is none."""
        place = f"{self._root}/overlay-layers/{layer}.tar-split.gz"
        digest = hashlib.sha256()
        try:
            for piece in self._files.chunks(place, PIECE):
                digest.update(piece)
        except HarnessError:
            return ""
        return digest.hexdigest()
