"""A process that follows a recipe, and halts in the middle where something is to happen to it there.

Usage: python -m suites.delta.decoding_child RECIPE BASE TARGET [halt | full | read-only | too large]
It says `half` where it halts, goes on after a line of input, and ends with a line of JSON: the error, what is left.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from harness.delta.bases import BaseFile
from harness.delta.decode import decode_container
from harness.delta.recipe import Identity, open_recipe
from harness.errors import HarnessError
from harness.images.block import Block
from harness.images.formats.raw import FileBlock

HALF = 2**20  # bytes: what is smaller is made without halting
OLD = b"old"


class Halting:
    """A base, or content, that is read no further than HALF before a line comes."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.name, self.size = block.name, block.size
        self._is_through = False

    def read(self, offset: int, length: int) -> bytes:
        if offset >= HALF and not self._is_through:
            self._is_through = True
            sys.stdout.write("half\n")
            sys.stdout.flush()
            sys.stdin.readline()
        return self._block.read(offset, length)


def rebuild(plan: bytes, content: Block) -> Iterator[bytes]:
    """A container of a head and the content; where the head says so, it halts."""
    source = Halting(content) if plan == b"halt" else content
    yield plan
    for offset in range(0, content.size, 2**18):
        yield source.read(offset, min(2**18, content.size - offset))


def prepare(folder: Path, what: str) -> None:
    """Make the folder one that cannot be written to, with an old file in it; in a name space of our own."""
    if what == "too large":
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, HALF))
    if what in {"full", "read-only"}:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
        (folder / "made").write_bytes(OLD)
    if what == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def main(recipe_path: Path, base_path: Path, target: Path, what: str = "") -> None:
    """Follow the recipe, and tell what came of it and what lies in the target's folder then."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))  # as harness.cli has it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    prepare(target.parent, what)
    with open_recipe(recipe_path) as recipe, FileBlock(base_path) as file:
        known = recipe.header.bases[0]
        base = BaseFile(Halting(file) if what == "halt" else file, Identity(known.size, known.sha256))
        try:
            decode_container(recipe, [base], target, rebuild)
            error = None
        except HarnessError as found:
            error = f"{type(found).__name__}: {found}"
    left = {path.name: path.stat().st_size for path in target.parent.iterdir()}
    sys.stdout.write(json.dumps({"error": error, "left": left}) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
