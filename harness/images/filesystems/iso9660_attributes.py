"""Extended attributes in ISO 9660 as libisofs writes them: AAIP 2.0 (libisofs, doc/susp_aaip_2_0.txt).

A record's AL fields together hold components, names and values in turn; a component cut in pieces says so. A name
begins with a byte for its namespace. What libisofs keeps there for itself is left out, so are ACLs.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import DamagedImage

CONTINUES = 0x01
NAMESPACES = {1: "", 2: "system.", 3: "user.", 5: "trusted.", 6: "security."}
LONGEST_NAME = 255 + 16


def attributes(fields: list[bytes], where: str) -> Mapping[str, bytes]:
    """All attributes but ACLs, which have a form of their own there, by full name."""
    parts = _components(b"".join(fields))
    if len(parts) % 2:
        raise DamagedImage("has an attribute without a value", where=where)
    found = {}
    for name, value in zip(parts[::2], parts[1::2], strict=True):
        if len(name) > LONGEST_NAME:
            raise DamagedImage(f"an attribute has a name of {len(name):,} bytes", where=where)
        space = NAMESPACES.get(name[0]) if name else None
        if space is not None:
            found[space + name[1:].decode("utf-8", "surrogateescape")] = value
    return found


def _components(raw: bytes) -> list[bytes]:
    found: list[bytes] = []
    pending: list[bytes] = []
    at = 0
    while at + 2 <= len(raw):
        flags, length = raw[at], raw[at + 1]
        pending.append(raw[at + 2 : at + 2 + length])
        at += 2 + length
        if not flags & CONTINUES:
            found.append(b"".join(pending))
            pending = []
    return found
