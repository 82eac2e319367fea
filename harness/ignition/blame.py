"""Which part of a config Ignition's words are about: it names paths, users and units of the guest, never JSON paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from harness.errors import HarnessError
from harness.ignition.config import read_config

SHORTEST = 2  # characters; a shorter value is found in any sentence
TARGET_ROOT = "/sysroot"  # where Ignition writes while the initramfs runs


def place_of(config: bytes, words: str) -> str:
    """The JSON path of the longest value of `config` that `words` name, or an empty string.

    >>> config = b'{"ignition": {"version": "3.0.0"}, "storage": {"files": [{"path": "/etc/a"}]}}'
    >>> place_of(config, "error creating /sysroot/etc/a: not a directory")
    '$.storage.files[0].path'
    """
    try:
        document = read_config(config).document
    except HarnessError:
        return ""
    quoted = [found for found in _values(document, "$") if _is_in(words, found[1])]
    return max(quoted, key=lambda found: len(found[1]))[0] if quoted else ""


def _is_in(words: str, value: str) -> bool:
    """Quoted by Ignition ("...") or by the programs it runs ('...'); a path needs no quotes."""
    if len(value) < SHORTEST:
        return False
    if value.startswith("/"):
        return re.search(rf"(?<![\w./-])(?:{TARGET_ROOT})?{re.escape(value)}(?![\w/-]|\.\w)", words) is not None
    return any(f"{quote}{value}{quote}" in words for quote in "\"'")


def _values(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Texts and their JSON paths."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _values(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _values(value, f"{path}[{index}]")
