"""Streams by name: `fcos-stable`, `rhcos-4.8`, and an image in one: `fcos-stable:qemu`, `fcos-stable:metal:raw.xz`.

Names are `<distribution>-<stream>`; where each one's metadata is published stands in streams.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import BadInput

TABLE = Path(__file__).with_name("streams.toml")
PLATFORM = re.compile(r"[a-z0-9][a-z0-9-]*")
FORMAT = re.compile(r"[a-z0-9][a-z0-9.]*")
EXAMPLES = "fcos-stable, fcos-testing, fcos-next, or rhcos-4.8 and the like"


@dataclass(frozen=True, slots=True)
class Source:
    """A row of the table; `stream` is a regular expression, `url` a template."""

    distribution: str
    stream: str
    url: str


@dataclass(frozen=True, slots=True)
class StreamImage:
    """An image as a user names it by its stream; `format` is empty where the platform has only one."""

    stream: str  # fcos-stable
    platform: str
    format: str = ""

    def __str__(self) -> str:
        return ":".join(part for part in (self.stream, self.platform, self.format) if part)


def is_stream_image(text: str) -> bool:
    """Whether this can only mean an image in a stream: `fcos-...:...`."""
    distributions = "|".join(sorted({source.distribution for source in sources()}))
    return re.match(rf"({distributions})-[^/]*:", text) is not None


def parse_stream_image(text: str) -> StreamImage:
    """Take `STREAM:PLATFORM[:FORMAT]` apart. Raises BadInput; whether the stream is one is `stream_url`'s to say."""
    stream, *more = text.split(":")
    if len(more) not in {1, 2} or not PLATFORM.fullmatch(more[0]) or (more[1:] and not FORMAT.fullmatch(more[1])):
        raise BadInput("does not name an image in a stream", where=repr(text), next_step="as fcos-stable:qemu")
    return StreamImage(stream, *more)


def stream_url(stream: str) -> str:
    """Where the metadata of a stream is. Raises BadInput for what is no stream."""
    distribution, dash, name = stream.partition("-")
    known = [source for source in sources() if source.distribution == distribution]
    if not dash or not known:
        raise BadInput("is not the name of a stream", where=repr(stream), next_step=f"expected {EXAMPLES}")
    for source in known:
        if re.fullmatch(source.stream, name):
            return source.url.format(stream=name)
    raise BadInput(f"{distribution} has no such stream", where=repr(stream), next_step=f"expected {EXAMPLES}")


@cache
def sources() -> Sequence[Source]:
    """The table."""
    return tuple(Source(**row) for row in tomllib.loads(TABLE.read_text())["source"])
