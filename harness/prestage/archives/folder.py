"""The prestage folder: what `harness prestage pull` writes, a pre-staged disk carries, and its scripts read.

Flat, with the names that factory-precaching-cli has: an archive an image (`<stem>.tgz`), a list of pull specs a stage,
`mapping.txt` (`<pull spec>=<name:tag>` for by-digest images that get a tag as well), and `SHA256SUMS`, which
`sha256sum -c` takes. `digests.txt` is ours: what a by-tag image was when it was pulled (`<pull spec>=sha256:<hex>`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.containers.folder import View
from harness.errors import BadInput
from harness.prestage.archives.archive import SUFFIX
from harness.prestage.lists.lists import ImageList, Listed, Stage
from harness.prestage.lists.reference import Reference
from harness.store import replacing

LIST_NAMES: Final[Mapping[Stage, str]] = {Stage.DISCOVERY: "ai-images.txt", Stage.INSTALL: "ocp-images.txt"}
MAPPING: Final = "mapping.txt"
SUMS: Final = "SHA256SUMS"
DIGESTS: Final = "digests.txt"
SCRIPT: Final = "extract-images.sh"  # brings the images into container storage, in a guest
SCRIPT_FILE: Final = Path(__file__).with_name(SCRIPT)
SCRATCH: Final = "scratch-"  # prefix of folders that die with their run
LARGEST_TEXT: Final = 4 * 2**20  # bytes of any of the text files
MOST_IMAGES: Final = 20_000
SUM_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *]([^/\0]+)")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PrestageFolder:
    """What the text files of a folder say.

    `sums` is the name of each archive to its SHA-256 (hex); `digests` is what each by-tag image was when it was pulled.
    """

    images: ImageList
    sums: Mapping[str, str]
    digests: Mapping[Reference, str] = field(default_factory=dict)

    @property
    def archives(self) -> tuple[str, ...]:
        """File names of all archives, sorted."""
        return tuple(sorted(archive_name(each.reference) for each in self.images.images))

    @property
    def members(self) -> tuple[str, ...]:
        """Names of all files that belong to the folder, sorted; whatever else lies there does not."""
        return tuple(sorted((*self.archives, *LIST_NAMES.values(), MAPPING, SUMS, DIGESTS, SCRIPT)))


def archive_name(reference: Reference) -> str:
    """The file name of an image's archive."""
    return f"{reference.archive}{SUFFIX}"


def read_folder(files: View, root: str = "/") -> PrestageFolder:
    """Read the text files of a folder. Raises BadInput naming file and line, and what the view raises."""
    stages: dict[Reference, set[Stage]] = {}
    lines: dict[Reference, int] = {}
    for stage, name in LIST_NAMES.items():
        for number, line in _lines(files, root, name):
            reference = _parsed(line, name, number)
            stages.setdefault(reference, set()).add(stage)
            lines.setdefault(reference, number)
            if len(stages) > MOST_IMAGES:
                raise BadInput(f"lists more than {MOST_IMAGES:,} images", where=name)
    tags = {reference: tag.rpartition(":")[2] for reference, tag in _pairs(files, root, MAPPING).items()}
    if stray := sorted(str(each) for each in tags.keys() - stages.keys()):
        raise BadInput(f"gives a tag to {stray[0]}, which no list names", where=MAPPING)
    images = tuple(
        Listed(reference, frozenset(found), tag=tags.get(reference, ""), line=lines[reference])
        for reference, found in stages.items()
    )
    _check_names(images)
    digests = _pairs(files, root, DIGESTS) if files.exists(_path(root, DIGESTS)) else {}
    for reference, digest in digests.items():
        if not DIGEST.fullmatch(digest):
            raise BadInput(f"says {reference} was {digest[:100]!r}, which is no digest", where=DIGESTS)
    return PrestageFolder(ImageList(images), read_sums(files, root), digests)


def read_sums(files: View, root: str = "/") -> dict[str, str]:
    """SHA256SUMS: file name to SHA-256 (hex). Raises BadInput naming the line."""
    found: dict[str, str] = {}
    for number, line in _lines(files, root, SUMS):
        match = SUM_LINE.fullmatch(line)
        if match is None:
            raise BadInput("is no line of sha256sum", where=f"{SUMS}:{number}")
        if found.setdefault(match[2], match[1]) != match[1]:
            raise BadInput(f"names {match[2]!a} twice", where=f"{SUMS}:{number}")
    return found


def write_texts(folder: Path, content: PrestageFolder) -> None:
    """Write all text files and the script into `folder`, each whole or not at all; SHA256SUMS comes last."""
    for stage, name in LIST_NAMES.items():
        _write(folder / name, "".join(f"{each.reference}\n" for each in content.images.of(stage)))
    tagged = [each for each in content.images.images if each.tag]
    _write(folder / MAPPING, "".join(f"{each.reference}={each.reference.name}:{each.tag}\n" for each in tagged))
    _write(folder / DIGESTS, "".join(sorted(f"{each}={digest}\n" for each, digest in content.digests.items())))
    _write(folder / SCRIPT, SCRIPT_FILE.read_text(encoding="utf-8"), mode=0o755)
    _write(folder / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(content.sums.items())))


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    if path.is_file() and path.read_bytes() == text.encode():
        return
    with replacing(path) as aside:
        aside.write_text(text)
    path.chmod(mode)


def _check_names(images: tuple[Listed, ...]) -> None:
    taken: dict[str, Reference] = {}
    for each in images:
        name = archive_name(each.reference)
        if taken.setdefault(name, each.reference) != each.reference:
            raise BadInput(f"is the archive of both {taken[name]} and {each.reference}", where=name)


def _pairs(files: View, root: str, name: str) -> dict[Reference, str]:
    """Lines of `<pull spec>=<something>`."""
    found: dict[Reference, str] = {}
    for number, line in _lines(files, root, name):
        spec, equals, value = line.partition("=")
        if not equals or not value:
            raise BadInput("is no line of the form PULL-SPEC=VALUE", where=f"{name}:{number}")
        reference = _parsed(spec, name, number)
        if found.setdefault(reference, value) != value:
            raise BadInput(f"names {reference} twice", where=f"{name}:{number}")
    return found


def _parsed(spec: str, name: str, number: int) -> Reference:
    try:
        return Reference.parse(spec)
    except BadInput as cause:
        raise BadInput(f"{cause.where}: {cause.what}", where=f"{name}:{number}", next_step=cause.next_step) from cause


def _lines(files: View, root: str, name: str) -> list[tuple[int, str]]:
    """The lines of a text file that say something, each with its number from 1."""
    read, size = [], 0
    for piece in files.chunks(_path(root, name), 2**16):
        read.append(piece)
        size += len(piece)
        if size > LARGEST_TEXT:
            raise BadInput(f"has more than {LARGEST_TEXT:,} bytes", where=name)
    try:
        text = b"".join(read).decode()
    except UnicodeDecodeError as cause:
        raise BadInput("is no text", where=name) from cause
    numbered = ((number, line.strip()) for number, line in enumerate(text.split("\n"), 1))
    return [(number, line) for number, line in numbered if line and not line.startswith("#")]


def _path(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"
