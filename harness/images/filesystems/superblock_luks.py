"""LUKS1 and LUKS2 headers: recognised and explained, never unlocked (LUKS2 On-Disk Format Specification 1.1).

RHCOS 4.3 to 4.6 shipped their root in LUKS2 with `cipher_null`: the header is there so that first boot can encrypt, the
data behind it is not encrypted at all and can be read.
"""

from __future__ import annotations

import hashlib
import json
import struct

from harness.errors import DamagedImage
from harness.images.block import Block, Part
from harness.images.filesystems.superblock_parts import Details, Facts, text

NO_CIPHER = "cipher_null"
MAGIC = b"LUKS\xba\xbe"
BINARY_HEADER = 4096  # bytes, before the JSON area
LARGEST_HEADER = 4 * 2**20  # bytes, the specification's limit
VERSION_1, VERSION_2 = 1, 2


def luks_facts(head: bytes, block: Block) -> Facts | None:
    """What the header says, and for LUKS2 its JSON area; or None."""
    if head[:6] != MAGIC:
        return None
    (version,) = struct.unpack_from(">H", head, 6)
    uuid = text(head[168:208])
    if version == VERSION_1:
        offset, key_bytes = struct.unpack_from(">II", head, 104)
        cipher = f"{text(head[8:40]) or ''}-{text(head[40:72]) or ''}"
        details = {"version": 1, "cipher": cipher, "payload_offset": offset * 512, "key_bits": key_bytes * 8}
        return "crypto_LUKS", None, uuid, 0, details
    if version == VERSION_2:
        return "crypto_LUKS", text(head[24:72]), uuid, 0, _luks2_details(head, block)
    return None


def _luks2_details(head: bytes, block: Block) -> dict[str, str | int | bool | tuple[str, ...]]:
    details: dict[str, str | int | bool | tuple[str, ...]] = {
        "version": 2,
        "subsystem": text(head[208:256]) or "",
        "cipher": "",
        "token_types": (),
        "checksum_ok": False,
    }
    (size,) = struct.unpack_from(">Q", head, 8)
    if not BINARY_HEADER < size <= min(LARGEST_HEADER, block.size):
        return details
    header = block.read(0, size)
    if text(header[72:104]) == "sha256":
        zeroed = header[:448] + bytes(64) + header[512:]
        details["checksum_ok"] = hashlib.sha256(zeroed).digest() == header[448:480]
    try:
        metadata = json.loads(header[BINARY_HEADER:].split(b"\0", 1)[0])
        segments, tokens = metadata["segments"], metadata["tokens"]
        details["cipher"] = ", ".join(sorted({str(segment.get("encryption", "")) for segment in segments.values()}))
        details["token_types"] = tuple(sorted(str(token.get("type", "")) for token in tokens.values()))
        if starts := [int(segment["offset"]) for segment in segments.values() if "offset" in segment]:
            details["payload_offset"] = min(starts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        details["checksum_ok"] = False
    return details


def unencrypted_part(details: Details, block: Block) -> Part | None:
    """What lies behind a LUKS header with these details if nothing there is encrypted (cipher_null).

    Raises DamagedImage for a payload beyond the end of the block.
    """
    offset = details.get("payload_offset")
    if not str(details.get("cipher", "")).startswith(NO_CIPHER) or not isinstance(offset, int):
        return None
    if not 0 < offset < block.size:
        raise DamagedImage(f"its LUKS payload starts at {offset:,}, beyond its end", where=block.name)
    return Part(block, offset, block.size - offset, f"{block.name}, behind LUKS without encryption")
