"""Does a prestage folder, on this host or on the data partition of a disk image, have every image, each whole?"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.containers.folder import FolderFiles, View
from harness.errors import BadInput, HarnessError, MissingFile
from harness.images.filesystems.files import open_files, shown
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.prestage.archives.archive import SUFFIX
from harness.prestage.archives.archive_check import Finding, check_archive
from harness.prestage.archives.folder import SCRATCH, SUMS, PrestageFolder, archive_name, read_folder
from harness.prestage.lists.lists import Listed

LABEL: Final = "data"  # PARTLABEL of the partition with the archives
JOBS: Final = 4


@dataclass(frozen=True, slots=True)
class Verified:
    """An archive of the lists, or something that is there without being listed: `size` in bytes, and what is wrong."""

    name: str
    size: int
    findings: tuple[Finding, ...]

    @property
    def is_whole(self) -> bool:
        return not self.findings


def verify_files(files: View, root: str = "/", *, jobs: int = 1) -> Iterator[Verified]:
    """Each archive of the folder at `root`, in the order of the lists, then what is there without being listed.

    Raises BadInput and what the view raises where the lists themselves cannot be read; `jobs` more than 1 only for a
    view that several threads may use.
    """
    content = read_folder(files, root)
    names = frozenset(files.listdir(root))
    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(lambda each: _archive(files, root, each, content, names), content.images.images)
        finally:
            pool.shutdown(cancel_futures=True)
    archives = set(content.archives)
    for name in sorted(names - archives):
        if name.endswith(SUFFIX):
            yield Verified(name, 0, (Finding(shown(name), "", "is of no listed image"),))
        elif name.startswith(SCRATCH):
            yield Verified(name, 0, (Finding(shown(name), "", "was left by a pull that was killed"),))
    for name in sorted(content.sums.keys() - archives):
        yield Verified(name, 0, (Finding(SUMS, shown(name), "is of no listed image"),))


def _archive(files: View, root: str, image: Listed, content: PrestageFolder, names: frozenset[str]) -> Verified:
    name = archive_name(image.reference)
    if name not in names:
        return Verified(name, 0, (Finding(name, "", "is missing"),))
    digest = content.digests.get(image.reference, "")
    check = check_archive(files, f"{root.rstrip('/')}/{name}", image.reference, digest=digest)
    expected = content.sums.get(name)
    findings = check.findings
    if expected is None:
        findings += (Finding(name, "", f"is not in {SUMS}"),)
    elif check.sha256 and check.sha256 != expected and not findings:
        findings = (Finding(name, "", f"has the SHA-256 {check.sha256} instead of {expected} of {SUMS}"),)
    return Verified(name, check.size, findings)


@contextmanager
def opened(place: Path, label: str = LABEL) -> Iterator[tuple[View, int]]:
    """A folder of this host, or the files of the partition `label` in a disk image; and how many threads may read it.

    Raises BadInput for what is neither, MissingFile for an image without such a partition.
    """
    if place.is_dir():
        yield FolderFiles(place), JOBS
        return
    with open_image(place) as image:
        layout = read_layout(image.block)
        labels = [partition.label for partition in layout.partitions]
        if labels.count(label) != 1:
            there = ", ".join(shown(each) for each in labels if each) or "none with a label"
            what = f"has {labels.count(label) or 'no'} partition{'s' * (label in labels)} {label!r}"
            raise MissingFile(what, where=str(place), next_step=f"it has {there}; --label names another")
        yield open_files(layout.part_block(label)), 1


def verify(place: Path, label: str = LABEL) -> Iterator[Verified]:
    """As `verify_files`, for a folder or a disk image."""
    if not place.exists():
        raise BadInput("is not there", where=str(place), next_step="name a prestage folder or a disk image")
    with opened(place, label) as (files, jobs):
        try:
            yield from verify_files(files, jobs=jobs)
        except HarnessError as cause:
            if not cause.where or cause.where.startswith(str(place)):
                raise
            raise type(cause)(cause.what, where=f"{place}: {cause.where}", next_step=cause.next_step) from cause
