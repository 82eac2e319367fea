"""The one time that everything composed here bears: given, or SOURCE_DATE_EPOCH, or 0 (reproducible-builds.org)."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Final

from harness.errors import BadInput

LAST: Final = 253_402_300_799  # the last second of the year 9999


def chosen_epoch(given: int | None = None) -> int:
    """Unix seconds. Raises BadInput for what is no time."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "0") if given is None else str(given)
    if not (said.isascii() and said.isdecimal() and len(said) <= len(str(LAST)) and int(said) <= LAST):
        raise BadInput("is not a time in Unix seconds", where=f"SOURCE_DATE_EPOCH={said[:40]}")
    return int(said)


def rfc3339(epoch: int) -> str:
    """A time as OCI's documents have it.

    >>> rfc3339(1_700_000_000)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
