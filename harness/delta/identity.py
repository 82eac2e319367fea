"""What some content is: its size and its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.delta.recipe import Identity
from harness.delta.sparse import STEP, ZEROES, Content
from harness.images.formats.raw import FileBlock


def identify(content: Content) -> Identity:
    """Size and SHA-256; holes cost hashing, but no reading."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(STEP))
    for offset, length, is_hole in content.pieces(0, content.size):
        for start in range(offset, offset + length, STEP):
            step = min(STEP, offset + length - start)
            if not is_hole:
                content.read_into(buffer[:step], start)
            digest.update((memoryview(ZEROES) if is_hole else buffer)[:step])
    return Identity(content.size, digest.hexdigest())


def identity_of(path: Path) -> Identity:
    """What a file is. Raises BadInput where it cannot be read."""
    with FileBlock(path) as block:
        content = Content(block)
        try:
            return identify(content)
        finally:
            content.close()
