"""A small pre-staged disk of three images, and hands to break it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.images.filesystems.files import Files, open_files
from harness.prestage.archives.archive import write_archive
from harness.prestage.archives.folder import SUMS, PrestageFolder, archive_name, write_texts
from harness.prestage.disk.filesystem import Kind
from harness.prestage.disk.staging import Wanted, stage_disk
from harness.prestage.lists.lists import ImageList, Listed
from harness.prestage.lists.reference import Reference
from harness.prestage.lists.stages import Stage
from harness.tools import run
from suites.harness.mutants.copies import Ext4, PartitionedDisk
from suites.harness.small_prestage import digest_of, image, members_of, packed, reference_of, written

MIB = 2**20
SECTOR = 512
START = 64 * MIB  # of the data partition: the small image fits in front of it
SIZES: Mapping[Kind, int] = {"ext4": 128 * MIB, "xfs": 400 * MIB}  # of the disks; XFS has at least 300 MiB

FilesOfImage = dict[str, bytes]
OF_POD: FilesOfImage = image((b"pod " * 1000,))  # of both stages
OF_ETCD: FilesOfImage = image((b"etcd " * 1000, b"more"))  # of the installation; gets a tag as well
OF_TOOL: FilesOfImage = image((b"tool " * 1000,))  # of both stages, by tag
POD, ETCD = reference_of(OF_POD), reference_of(OF_ETCD)
TOOL = Reference.parse("quay.io/me/tool:1")
BOTH = frozenset(Stage)


def prestaged_disk(folder: Path, filesystem: Kind) -> Path:
    """Build one in `folder` and return the raw image; all that discovery needs the installation needs too."""
    made = folder / "images"
    made.mkdir()
    sums = {}
    for reference, files in {POD: OF_POD, ETCD: OF_ETCD, TOOL: OF_TOOL}.items():
        with (made / archive_name(reference)).open("wb") as out:
            archived = write_archive(written(folder / reference.archive, files), reference.archive, out)
        sums[archive_name(reference)] = archived.sha256
    listed = (
        Listed(POD, BOTH),
        Listed(ETCD, frozenset({Stage.INSTALL}), tag="4.10.3-etcd"),
        Listed(TOOL, BOTH),
    )
    write_texts(made, PrestageFolder(ImageList(listed), sums, {TOOL: digest_of(OF_TOOL["manifest.json"])}))
    disk = folder / f"{filesystem}.raw"
    stage_disk(made, disk, Wanted(start=START // SECTOR, size=SIZES[filesystem], filesystem=filesystem))
    return disk


class DataFiles(Ext4):
    """The files of the data partition. Undone by copying: debugfs cannot record the last blocks of a small disk."""

    def debugfs(self, *commands: str) -> None:
        self.disk.replaced()
        self._debugfs(["-w"], commands)


class DataDisk(PartitionedDisk):
    """A raw copy of a disk with a data partition; `files` shows the unbroken one's, `data` changes those of ext4."""

    def __init__(self, base: Path, path: Path) -> None:
        super().__init__(base, path)
        self.files: Files = open_files(self.layout.part_block("data"))
        if self.layout.partition("data").filesystem.type == "ext4":
            self.data = DataFiles(self, "data")

    @property
    def start(self) -> int:
        return self.start_of("data")

    def sgdisk(self, *arguments: str) -> None:
        run(["sgdisk", *arguments, self.replaced()])

    def archive(self, reference: Reference) -> bytes:
        return self.files.read(f"/{archive_name(reference)}")

    def put_archive(self, reference: Reference, content: bytes) -> None:
        """Another archive of an image, of which SHA256SUMS knows."""
        name = archive_name(reference)
        self.data.replace(f"/{name}", content)
        old, new = (hashlib.sha256(each).hexdigest() for each in (self.archive(reference), content))
        self.data.edit(f"/{SUMS}", {f"{old}  {name}": f"{new}  {name}"})

    def pack(self, reference: Reference, change: Callable[[FilesOfImage], None]) -> None:
        """The archive of an image whose files were changed, of which SHA256SUMS knows."""
        files = dict({POD: OF_POD, ETCD: OF_ETCD, TOOL: OF_TOOL}[reference])
        change(files)
        aside = self.path.with_name("changed.tgz")
        self.put_archive(reference, packed(aside, members_of(reference.archive, files)).read_bytes())
        aside.unlink()
