"""What a terminal would show of a serial line: the picture that menus draw, and where their cursor stands.

The emulation is pyte's. It costs far more than reading lines, so it runs only while somebody drives a menu.
"""

from __future__ import annotations

from contextlib import suppress

import pyte

COLUMNS, ROWS = 80, 100  # GRUB's serial terminal is 80 x 24, UEFI's console up to 80 x 100


class Screen:
    """A terminal that is fed what the guest sends. Rows and columns count from 0."""

    def __init__(self) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, chunk: bytes) -> None:
        """Draw `chunk`. Escape sequences that pyte cannot digest are passed over: a guest may send anything."""
        with suppress(Exception):
            self._stream.feed(chunk)

    @property
    def row(self) -> int:
        """The row in which the cursor stands."""
        return int(self._screen.cursor.y)

    @property
    def rows(self) -> list[str]:
        """The text of all rows, without blanks at their ends."""
        return [row.rstrip() for row in self._screen.display]
