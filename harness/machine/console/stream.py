"""A serial console's bytes as text: escape sequences removed, cut into lines, kernel messages taken out of prompts.

Kernel messages are recognised by their time stamp, `[   12.345678] `, which every CoreOS-like image prints. printk
writes a whole line at once, wherever user space has left the cursor, so a prompt may arrive as
`Please enter pas[   12.345678] random: crng init done` and, a line later, `sphrase:`; taking the kernel's line out
joins the prompt again. Everything here is bounded: a guest may send anything.
"""

from __future__ import annotations

import codecs
import re

LONGEST_LINE = 16 * 1024  # characters; a longer line is cut, so that no guest can fill our memory
LONGEST_ESCAPE = 64

# CSI, OSC (title setting, ended by BEL or ST), and the two-byte escapes that firmware, GRUB and systemd use.
ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,256}(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-Z\\^-~])")
CURSOR_MOVE = re.compile(r"\x1b\[\d{0,3}(?:;\d{0,3})?[Hf]")  # menus draw line by line: keep the lines apart
UNFINISHED_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[ -/]*)\Z")
LINE_END = re.compile(r"\r+\n")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
STAMP = re.compile(r"\[ {0,5}\d{1,12}\.\d{4,6}\] ?(?:\[ *[TC]\d+\] ?)?")
KERNEL_LINE = re.compile(STAMP.pattern + r"[^\n]*\n")
LONGEST_STAMP = 40
UNFINISHED_STAMP = re.compile(r"\[(?: {0,5}(?:\d{1,12}(?:\.(?:\d{0,6}\]?)?)?)?)?\Z")


class TextCleaner:
    """Decodes UTF-8 and removes escape sequences and control characters, across the borders of chunks."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, chunk: bytes) -> str:
        """The text of `chunk`, with an unfinished escape sequence kept for the next call."""
        text = self._held + self._decoder.decode(chunk)
        self._held = ""
        if "\x1b" in text:
            text = ESCAPE.sub("", CURSOR_MOVE.sub("\n", text))
            if (unfinished := UNFINISHED_ESCAPE.search(text, max(0, len(text) - LONGEST_ESCAPE))) is not None:
                self._held = unfinished[0]
                text = text[: unfinished.start()]
        if text.endswith("\r"):
            text, self._held = text[:-1], "\r" + self._held
        return LINE_END.sub("\n", UNPRINTABLE.sub("", text))


class LineCutter:
    """Cuts text into lines. `rest` is the line that has no end yet."""

    def __init__(self) -> None:
        self.rest = ""

    def feed(self, text: str) -> list[str]:
        """The lines that are complete now, without their line ends."""
        *lines, self.rest = (self.rest + text).replace("\r", "\n").split("\n")
        while len(self.rest) > LONGEST_LINE:
            lines.append(self.rest[:LONGEST_LINE])
            self.rest = self.rest[LONGEST_LINE:]
        if lines and max(map(len, lines)) > LONGEST_LINE:
            lines = [line[i : i + LONGEST_LINE] for line in lines for i in range(0, max(1, len(line)), LONGEST_LINE)]
        return lines

    def finish(self) -> list[str]:
        """The unfinished line as if it had ended."""
        last, self.rest = self.rest, ""
        return [last] if last else []


class KernelLineFilter:
    """Takes kernel messages out of a stream of text, even from the middle of a line."""

    def __init__(self) -> None:
        self._held = ""

    @property
    def is_holding(self) -> bool:
        """True while the end of the stream could become a kernel message."""
        return bool(self._held)

    def feed(self, text: str) -> str:
        """What user space said in `text`, without what could still turn out to be the kernel's."""
        text = KERNEL_LINE.sub("", self._held + text)
        self._held = ""
        last_line = text.rfind("\n") + 1
        start = STAMP.search(text, last_line) or UNFINISHED_STAMP.search(
            text, max(last_line, len(text) - LONGEST_STAMP)
        )
        if start is None:
            return text
        self._held = text[start.start() :][:LONGEST_LINE]  # of a line longer than any real one, only the beginning
        return text[: start.start()]

    def flush(self) -> str:
        """Give up waiting for the end of a line: what was held back may be followed by a prompt."""
        held, self._held = self._held, ""
        return held
