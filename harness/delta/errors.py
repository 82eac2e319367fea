"""What can go wrong with a recipe, as one type each."""

from __future__ import annotations

from harness.errors import BadInput, HarnessError


class DamagedRecipe(HarnessError):
    """A recipe contradicts its own format: truncated, corrupt, hostile or of a version we do not read."""


class WrongBase(BadInput):
    """A file handed over as a base is not the one that the recipe was made for; tells both SHA-256."""
