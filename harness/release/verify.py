"""Files against what was published about them, in every dialect, with one finding for each.

A compressed file is held against its own digest and against that of what is inside, in one pass. fast-vm's checksums
give a finding for each GiB, as `fast-vm-image verify` has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.compression import LONGEST_MAGIC, detect, unpacked
from harness.images.formats.raw import FileBlock
from harness.images.source import open_image
from harness.release.checksums import META, PART_NAME, SHA256SUM, part_name, read_parts
from harness.release.digests import ZIP_MAGIC, FileDigest, Progress, digest_file, sha512_parts
from harness.release.metadata import parse_metadata, read_text, unpacked_name
from harness.release.oddities import oddities
from harness.release.published import Published, find_published, read_all_published

State = Literal["OK", "FAIL", "MISSING"]
FAST_VM_FILE = re.compile(r"\d+g__(?P<image>.+)\.img(?:\.(?:xz|zst|gz))?")
SHA512 = re.compile(r"[0-9a-f]{128}")
# Files beside an image that may speak of it, where the user names none.
BESIDE = (META, SHA256SUM, "SHA256SUMS", "sha256sums.txt", "stream.json", "release.json")
BESIDE_ENDINGS = (".sha256", ".sha256sum", "-CHECKSUM")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about one file, or one part of it; `detail` says what was expected and found."""

    state: State
    name: str
    detail: str = ""

    def __str__(self) -> str:
        shown = self.name if self.name.isprintable() else ascii(self.name)
        return f"{self.state:8}{shown}" + (f": {self.detail}" if self.detail else "")


def verify(
    files: Sequence[Path], against: Path | None = None, progress: Callable[[Path], Progress] | None = None
) -> Iterator[Finding]:
    """Hold files against `against`, or each against what lies beside it; no files mean all that `against` names.

    `progress(file)` gives what is told how many more bytes of this file are done. Raises BadInput where nothing is
    published about a file, or what is published cannot be read.
    """
    if not files:
        if against is None:
            raise BadInput("nothing to verify", next_step="name files, or checksums by --against")
        files = _named_by(against)
    known: dict[Path, Sequence[Published]] = {}
    for file in files:
        meter = progress(file) if progress and file.is_file() else None
        source = against or _beside(file)
        image = _fast_vm_image(source, file)
        if image:
            yield from _verify_parts(file, source if source.is_dir() else source.parent, image, meter)
        else:
            known[source] = known.get(source) or read_all_published(source)
            yield _verify_file(file, find_published(known[source], file.name, source), meter)


def summary(findings: Iterable[Finding]) -> str:
    """The last line, in fast-vm's words."""
    states = [finding.state for finding in findings]
    return "CHECK SUMMARY: " + " ".join(f"{state}: {states.count(state)}" for state in ("OK", "FAIL", "MISSING"))


def warnings(against: Path) -> tuple[str, ...]:
    """What is odd about metadata; nothing where it is a list of checksums."""
    if against.is_dir():
        return ()
    text = read_text(against)
    return oddities(parse_metadata(text, str(against))) if text.lstrip().startswith("{") else ()


def complaint(digest: FileDigest, published: Published, *, is_packed: bool, name: str) -> str:
    """What is wrong with a file of these digests; empty where nothing is.

    A file that is published packed may lie here unpacked: then it is held against the uncompressed digest. Its name
    tells, or where that never told (RHCOS 4.1), its content.
    """
    has_packed_name = unpacked_name(name) != name
    if not is_packed and not has_packed_name and published.uncompressed_sha256:
        pairs = [
            ("uncompressed size", published.uncompressed_size, digest.file.size),
            ("uncompressed SHA-256", published.uncompressed_sha256, digest.file.sha256),
        ]
    elif not is_packed and not has_packed_name and unpacked_name(published.name) != published.name:
        return f"is {published.name} unpacked, and no uncompressed SHA-256 is published"
    else:
        pairs = [("size", published.size, digest.file.size), ("SHA-256", published.sha256, digest.file.sha256)]
        if digest.inside:
            pairs += [
                ("uncompressed size", published.uncompressed_size, digest.inside.size),
                ("uncompressed SHA-256", published.uncompressed_sha256, digest.inside.sha256),
            ]
    for what, expected, found in pairs:
        if expected is not None and expected != found:
            return f"{what}: expected {expected}, found {found}" + (f"; {digest.fault}" if digest.fault else "")
    return digest.fault if published.uncompressed_sha256 else ""


def _verify_file(file: Path, published: Published, progress: Progress | None) -> Finding:
    if not file.exists():
        return Finding("MISSING", str(file), f"expected {published.sha256}")
    if not file.is_file():
        raise BadInput("is not a file", where=str(file))
    wrong = complaint(digest_file(file, progress=progress), published, is_packed=_is_packed(file), name=file.name)
    return Finding("FAIL", str(file), wrong) if wrong else Finding("OK", str(file))


def _verify_parts(file: Path, folder: Path, image: str, progress: Progress | None) -> Iterator[Finding]:
    """fast-vm's rule: as many parts as GiB, and one of nothing; what is published beyond the disk's end fails too."""
    published = read_parts(folder, image)
    if not file.exists():
        yield Finding("MISSING", str(file), f"the disk of {len(published)} parts")
        return
    with _disk(file) as disk:
        found = sha512_parts(disk, progress)
    last = max([len(found) - 1, *published])
    for number in range(last + 1):
        name, expected = part_name(image, number, len(found) - 1), published.get(number)
        if expected is None:
            yield Finding("MISSING", name, "no such file of checksums")
        elif number >= len(found):
            yield Finding("FAIL", name, f"expected {expected[:140]}, found the end of the disk")
        elif expected != found[number]:
            shown = expected if SHA512.fullmatch(expected) else f"no SHA-512 ({expected[:40]!r})"
            yield Finding("FAIL", name, f"expected {shown}, found {found[number]}")
        else:
            yield Finding("OK", name)


@contextmanager
def _disk(path: Path) -> Iterator[Block]:
    """The virtual disk of an image. One that is no image any more is taken as raw: its parts shall tell where."""
    with ExitStack() as stack:
        try:
            disk: Block = stack.enter_context(open_image(path)).block
        except (DamagedImage, UnsupportedImage):
            kind = detect(_head(path))
            plain = stack.enter_context(unpacked(path, kind)).path if kind else path
            disk = stack.enter_context(FileBlock(plain, str(path)))
        yield disk


def _head(path: Path) -> bytes:
    with FileBlock(path) as file:
        return file.read(0, min(LONGEST_MAGIC, file.size))


def _is_packed(path: Path) -> bool:
    head = _head(path)
    return detect(head) is not None or head.startswith(ZIP_MAGIC)


def _fast_vm_image(source: Path, file: Path) -> str:
    """The image that fast-vm's checksums at `source` speak of, empty where they are none."""
    if named := PART_NAME.fullmatch(source.name):
        return named["image"]
    if not source.is_dir():
        return ""
    images = sorted({name["image"] for path in source.iterdir() if (name := PART_NAME.fullmatch(path.name))})
    own = _image_name(file)
    if own in images:
        return own
    if len(images) == 1:
        return images[0]
    raise BadInput(
        f"has fast-vm's checksums of {', '.join(images[:4]) or 'no image'}, not of {own}",
        where=str(source),
        next_step="name a file of checksums in it",
    )


def _image_name(file: Path) -> str:
    exported = FAST_VM_FILE.fullmatch(file.name)
    return exported["image"] if exported else unpacked_name(file.name).removesuffix(".img")


def _named_by(against: Path) -> list[Path]:
    if against.is_dir() or PART_NAME.fullmatch(against.name):
        raise BadInput("does not say the image's file name", where=str(against), next_step="name the file to verify")
    files = []
    for entry in read_all_published(against):
        packed = against.parent / Path(entry.name).name
        plain = against.parent / Path(entry.plain_name).name
        files.append(plain if plain.is_file() and not packed.exists() else packed)
    if not files:
        raise BadInput("names no files", where=str(against))
    return files


def _beside(file: Path) -> Path:
    """What is published beside a file: the first that speaks of it."""
    folder = file.parent
    candidates = [folder / f"{file.name}{ending}" for ending in BESIDE_ENDINGS]
    candidates += [folder / name for name in BESIDE]
    for candidate in candidates:
        if candidate.is_file() and any(entry.concerns(file.name) for entry in read_all_published(candidate)):
            return candidate
    parts = folder / part_name(_image_name(file), 0, 0)
    if parts.is_file():
        return parts
    raise BadInput(
        "nothing beside it says what it should be", where=str(file), next_step="name its checksums by --against"
    )
