"""Rock Ridge: POSIX names, modes, owners and symlinks in the system use area of a record (SUSP 1.12, RRIP 1.12).

Also AAIP 2.0, in which xorriso keeps extended attributes (libisofs, doc/susp_aaip_2_0.txt).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import KINDS, MOST_LINK_BYTES, Kind, linux_device
from harness.images.filesystems.iso9660_attributes import attributes
from harness.images.filesystems.iso9660_record import long_seconds, seconds

MOST_CONTINUATIONS = 64
LONGEST_CONTINUATION = 65536
MOST_BYTES = 2**20  # of one record's system use
LONGEST_NAME = 255
LEAST = {"NM": 1, "SL": 1, "AL": 1, "PX": 32, "PN": 16, "CL": 8, "CE": 24, "TF": 1}  # bytes of a field's body
CONTINUES, CURRENT, PARENT, ROOT = 0x1, 0x2, 0x4, 0x8  # flags of names and components
MODIFIED, LONG_FORM = 0x02, 0x80  # flags of times; creation (0x01) comes before


@dataclass(frozen=True, slots=True)
class RockRidge:
    """What Rock Ridge says of one record. `kind` is None where it says nothing of its mode."""

    name: bytes = b""
    kind: Kind | None = None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    links: int = 1
    mtime: int | None = None
    target: bytes = b""
    device: tuple[int, int] | None = None
    child: int | None = None  # the block of a directory that lies elsewhere because it was too deep
    is_moved: bool = False  # such a directory, which is to be seen only where it belongs
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    is_packed: bool = False  # by zisofs


def prefix_length(root_area: bytes) -> int | None:
    """How many bytes to skip in every other system use area, by that of the root; None without Rock Ridge."""
    if root_area[:2] != b"SP" or len(root_area) < 7 or root_area[4:6] != b"\xbe\xef":
        return None
    return root_area[6]


def rock_ridge(raw: bytes, read: Callable[[int, int, int], bytes], where: str) -> RockRidge:
    """Read a system use area; `read(block, offset, length)` gives a continuation.

    Raises DamagedImage for names or targets longer than Linux allows, and for continuations without end.
    """
    fields: dict[str, bytes] = {}
    names, components, stored = [], [], []
    for signature, body in _fields(raw, read, where):
        if signature == "NM":
            names.append(body)
        elif signature == "SL":
            components.append(body[1:])
        elif signature == "AL":
            stored.append(body[1:])
        else:
            fields.setdefault(signature, body)
    name, target = b"".join(part[1:] for part in names if not part[0] & (CURRENT | PARENT)), _target(components, where)
    if len(name) > LONGEST_NAME:
        raise DamagedImage(f"has a name of {len(name):,} bytes", where=where)
    mode, links, uid, gid = struct.unpack("<I4xI4xI4xI4x", fields["PX"][:32]) if "PX" in fields else (0, 1, 0, 0)
    kind = KINDS.get(mode & 0xF000)
    if mode and kind is None:
        raise DamagedImage(f"has an impossible mode {mode:o}", where=where)
    return RockRidge(
        name,
        kind,
        mode & 0o7777,
        uid,
        gid,
        links,
        _modified(fields.get("TF", b"\0")),
        target,
        _device(fields["PN"]) if kind in {"character", "block"} and "PN" in fields else None,
        struct.unpack_from("<I", fields["CL"])[0] if "CL" in fields else None,
        "RE" in fields,
        attributes(stored, where),
        "ZF" in fields,
    )


def _fields(raw: bytes, read: Callable[[int, int, int], bytes], where: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    for _ in range(MOST_CONTINUATIONS * 16):
        following: bytes | None = None
        while len(raw) >= 4 and raw[:2] != b"ST":
            length = raw[2]
            if length < 4 or length > len(raw):
                break  # as Linux: what is no field ends the area
            signature, body = raw[:2].decode("latin-1"), raw[4:length]
            if len(body) < LEAST.get(signature, 0):
                raise DamagedImage(f"its {signature} field is too short", where=where)
            if signature == "CE":
                block, offset, size = struct.unpack_from("<I4xI4xI", body)
                total += size
                if size > LONGEST_CONTINUATION or total > MOST_BYTES:
                    raise DamagedImage("its system use area is impossibly long", where=where)
                following = read(block, offset, size)
            else:
                yield signature, body
            raw = raw[length:]
        if following is None:
            return
        raw = following
    raise DamagedImage("its system use area never ends", where=where)


def _modified(raw: bytes) -> int | None:
    flags = raw[0]
    if not flags & MODIFIED:
        return None
    width = 17 if flags & LONG_FORM else 7
    at = 1 + width * (flags & 1)
    stamp = raw[at : at + width]
    if len(stamp) < width:
        return None
    return long_seconds(stamp) if flags & LONG_FORM else seconds(stamp)


def _device(raw: bytes) -> tuple[int, int]:
    """Some write major and minor apart, others Linux' packed form into the lower half."""
    high, low = struct.unpack_from("<I4xI", raw)
    return (high, low) if high else linux_device(low)


def _target(fields: list[bytes], where: str) -> bytes:
    """A symlink's target from its components, which may themselves be cut in pieces."""
    parts: list[bytes] = []
    pending, has_pending = b"", False
    for raw in fields:
        while len(raw) >= 2:
            flags, length = raw[0], raw[1]
            content = raw[2 : 2 + length]
            raw = raw[2 + length :]  # noqa: PLW2901 - what is left of it
            if flags & ROOT:
                parts.append(b"")
                continue
            part = b"." if flags & CURRENT else b".." if flags & PARENT else content
            pending, has_pending = pending + part, True
            if not flags & CONTINUES:
                parts.append(pending)
                pending, has_pending = b"", False
        if sum(map(len, parts)) + len(parts) + len(pending) > MOST_LINK_BYTES + 1:
            raise DamagedImage("claims an impossibly long target", where=where)
    if has_pending:
        parts.append(pending)
    return b"/" if parts == [b""] else b"/".join(parts)
