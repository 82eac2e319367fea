"""Absolute paths, file modes, owners and names: the rules that files, directories, links and devices share."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from harness.ignition.finding import Finding
from harness.ignition.spec import Version

MODE_LIMIT = 0o7777
PLAIN_MODES = 0o777


def path_findings(where: str, path: str, *, what: str = "path") -> Iterator[Finding]:
    """A path must be given, absolute and free of `.`, `..`, doubled and trailing slashes."""
    if not path:
        yield Finding(where, f"{what} not specified")
    elif not path.startswith("/"):
        yield Finding(where, f'{what} "{path}" is not absolute')
    elif path.startswith("//") or posixpath.normpath(path) != path:
        yield Finding(where, f'{what} "{path}" is not fully simplified')


def mode_findings(where: str, node: Mapping[str, Any], version: Version) -> Iterator[Finding]:
    """A mode is a decimal number up to 0o7777, of which specs before 3.6 use only the last nine bits.

    A mode such as 755 (written by someone thinking octal) is legal, but shows by its special bits.
    """
    mode = node.get("mode")
    if mode is None:
        return
    if not 0 <= mode <= MODE_LIMIT:
        yield Finding(where, f"illegal file mode {mode}: must be 0 to {MODE_LIMIT} (0o7777), in decimal")
    elif mode > PLAIN_MODES and version[0] > 2:
        meant = f"; was 0{mode} = {int(str(mode), 8)} meant?" if set(str(mode)) <= set("01234567") else ""
        words = "setuid/setgid/sticky bits are not supported in spec versions older than 3.6.0"
        yield Finding(where, f"{words} ({mode} is 0o{mode:o}{meant})", "warning")


def owner_findings(path: str, node: Mapping[str, Any]) -> Iterator[Finding]:
    """User and group are each given by id or by name."""
    for key in ("user", "group"):
        owner = node.get(key, {})
        if "id" in owner and owner.get("name"):
            yield Finding(f"{path}.{key}", "cannot set both id and name")


def size_of(text: str) -> int:
    """Bytes, as the limits of labels are counted."""
    return len(text.encode(errors="surrogatepass"))


def repeated(keys: list[str]) -> Iterator[int]:
    """The indexes of keys that were there before.

    >>> list(repeated(["a", "b", "a"]))
    [2]
    """
    seen: set[str] = set()
    for index, key in enumerate(keys):
        if key in seen:
            yield index
        seen.add(key)
