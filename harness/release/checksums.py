"""Checksums as others publish them: a sha256sum file, an image's entry in CoreOS' meta.json, fast-vm's parts.

The entry: coreos-assembler's schema v1.json. fast-vm: one file for each GiB of the raw disk, and one for the nothing
after it, named `<image>.part_NN.sha512.txt` and holding the digest alone; NN is as wide as `seq -w 00 N` makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.release.digests import Digest
from harness.release.metadata import read_text
from harness.store import replacing

SHA256SUM = "sha256sum.txt"
META = "meta.json"
PART_NAME = re.compile(r"(?P<image>.+)\.part_(?P<number>\d{2,4})\.sha512\.txt")
LONGEST_PART = 1024  # bytes of a part's file that are read; a digest and a newline are 129


def sha256sum_line(name: str, sha256: str) -> str:
    """A line that `sha256sum -c` takes, as coreutils writes it also for names with a newline."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{sha256}  {escaped}\n"


def write_sha256sum(folder: Path, digests: Mapping[str, str]) -> Path:
    """Say the digests of these files in the folder's sha256sum.txt, which keeps what it says of others."""
    target = folder / SHA256SUM
    ours = {sha256sum_line(name, sha256) for name, sha256 in digests.items()}
    names = tuple(line[line.index(" ") + 2 : -1] for line in ours)
    kept = read_text(target).splitlines() if target.exists() else []
    lines = ours | {f"{line}\n" for line in kept if line[line.find(" ") + 2 :] not in names}
    _write(target, "".join(sorted(lines, key=lambda line: (line[line.find(" ") + 2 :], line))))
    return target


def meta_entry(path: str, packed: Digest, plain: Digest | None) -> dict[str, Any]:
    """An image's entry in meta.json; `plain` is what `packed` holds, None for what is published as it is."""
    entry: dict[str, Any] = {"path": path, "sha256": packed.sha256, "size": packed.size}
    if plain:
        entry |= {"uncompressed-sha256": plain.sha256, "uncompressed-size": plain.size}
    return entry


def write_meta(folder: Path, platform: str, entry: Mapping[str, Any]) -> Path:
    """Put an entry into the folder's meta.json, which keeps all else; a new one holds nothing but entries."""
    target = folder / META
    document: Any = {}
    if target.exists():
        try:
            document = json.loads(read_text(target))
        except (ValueError, RecursionError) as cause:
            raise BadInput(f"is not JSON: {str(cause)[:100]}", where=str(target)) from cause
    images = document.get("images", {}) if isinstance(document, dict) else None
    if not isinstance(images, dict):
        raise BadInput("is no meta.json of a build", where=str(target), next_step="choose another folder")
    document["images"] = images | {platform: dict(entry)}
    _write(target, json.dumps(document, indent=4, sort_keys=True) + "\n")
    return target


def part_name(image: str, number: int, last: int) -> str:
    """The name of a part's file.

    >>> part_name("rhcos-4.4.3", 3, 16)
    'rhcos-4.4.3.part_03.sha512.txt'
    """
    return f"{image}.part_{number:0{max(2, len(str(last)))}}.sha512.txt"


def write_parts(folder: Path, image: str, parts: Sequence[str]) -> list[Path]:
    """Write fast-vm's checksums, one file for each of `parts` (see harness.release.digests)."""
    targets = [folder / part_name(image, number, len(parts) - 1) for number in range(len(parts))]
    for target, digest in zip(targets, parts, strict=True):
        _write(target, f"{digest}\n")
    return targets


def read_parts(folder: Path, image: str) -> dict[int, str]:
    """What the parts of an image say, by number. Raises BadInput where one cannot be read."""
    found = {}
    for path in folder.iterdir():
        name = PART_NAME.fullmatch(path.name)
        if name and name["image"] == image:
            try:
                with path.open("rb") as file:
                    found[int(name["number"])] = file.read(LONGEST_PART).decode(errors="replace").strip()
            except OSError as cause:
                raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    return found


def _write(target: Path, text: str) -> None:
    try:
        with replacing(target) as aside:
            aside.write_text(text)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(target)) from cause
