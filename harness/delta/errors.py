"""What can go wrong with a recipe, as one type each."""

from __future__ import annotations

from harness.errors import BadInput, HarnessError


class DamagedRecipe(HarnessError):
    """A recipe contradicts its own format: truncated, corrupt, hostile or of a version we do not read."""


class WrongBase(BadInput):
    """A file handed over as a base is not the one that the recipe was made for; tells both SHA-256."""


def one_line(cause: Exception) -> str:
    r"""What a parser says, which may quote what a stranger wrote: short, and nothing that moves a terminal's cursor.

    >>> one_line(ValueError("Invalid value 'a\nb'"))
    "Invalid value 'a?b'"
    """
    return "".join(each if each.isprintable() else "?" for each in str(cause)[:200])
