"""Working copies of an image: one per process, broken by a mutant and put back to what it was.

Copying 600 MB for every mutant costs half a second and dirties the page cache. Undoing what was done costs hundredths:
each change leaves a function that takes it back; debugfs records what it overwrites, and e2undo puts it back.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ToolFailed
from harness.images.block import Part
from harness.images.difference.differing import differing
from harness.images.filesystems.files import Files, open_files
from harness.images.formats.raw import FileBlock
from harness.images.partitions.layout import Layout, read_layout
from harness.images.system.tree import SystemTree, open_system
from harness.tools import find_tool, run

BLOCK = 4096  # bytes, of our ext4 filesystems
FIXED_TIME = "1793491200"  # 2026-11-01, as the reference image has it: time is not what a mutant changes


class Copy:
    """A file like `base` that may be changed at will; `restore` undoes it all, last change first."""

    def __init__(self, base: Path, path: Path) -> None:
        self.base = base
        self.path = path
        self._undo: list[Callable[[], None]] = []
        self._copy()

    def read(self, offset: int, length: int) -> bytes:
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), length, offset)

    def write(self, offset: int, data: bytes) -> None:
        old = self.read(offset, len(data))
        self.undo_by(lambda: self.put(offset, old))
        self.put(offset, data)

    def flip(self, offset: int, bits: int = 0xFF) -> None:
        """Invert bits of one byte."""
        self.write(offset, bytes([self.read(offset, 1)[0] ^ bits]))

    def resize(self, size: int) -> None:
        old = self.path.stat().st_size
        self.undo_by(lambda: self._refill(size, old))
        os.truncate(self.path, size)

    def will_change(self, start: int, size: int) -> None:
        """A tool is about to write somewhere in this range."""
        self.undo_by(lambda: self._refill(start, start + size))

    def replaced(self) -> Path:
        """The path, for a tool that may write anywhere."""
        self.undo_by(self._copy)
        return self.path

    def undo_by(self, step: Callable[[], None]) -> None:
        """What `restore` has to do about a change that is about to be made."""
        self._undo.append(step)

    def restore(self) -> None:
        try:
            while self._undo:
                self._undo.pop()()
        except BaseException:  # half of it is undone: the next mutant must not pay for this one
            self._undo.clear()
            self._copy()
            raise

    def put(self, offset: int, data: bytes) -> None:
        """Write, leaving it to the caller to undo it."""
        with self.path.open("r+b") as file:
            os.pwrite(file.fileno(), data, offset)

    def _copy(self) -> None:
        self.path.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", self.base, self.path], check=True)

    def _refill(self, start: int, end: int) -> None:
        """Make a range what it was, the file's end included."""
        os.truncate(self.path, max(end, self.path.stat().st_size) if start < end else end)
        with FileBlock(self.base) as base, FileBlock(self.path) as path:
            size = max(0, end - start)
            found = differing(Part(base, start, size, base.name), Part(path, start, size, path.name))
            pieces = [(start + piece.offset, len(piece.changed)) for piece in found]
            for offset, length in pieces:
                self.put(offset, base.read(offset, length))


class PartitionedDisk(Copy):
    """A raw copy of a disk with a GPT, with hands for that; `layout` is that of the unbroken disk."""

    def __init__(self, base: Path, path: Path) -> None:
        super().__init__(base, path)
        self._original = FileBlock(base)
        self.layout: Layout = read_layout(self._original)

    def start_of(self, label: str) -> int:
        return self.layout.partition(label).start

    def gpt(self, copy: str) -> Gpt:
        """One copy of the partition table: `primary` or `backup`."""
        sector = self.layout.gpt.sector_size
        lba = 1 if copy == "primary" else self.layout.gpt.alternate_lba
        header = bytearray(self.read(lba * sector, sector))
        (entries_lba, count, size) = struct.unpack_from("<QII", header, 72)
        return Gpt(self, lba, header, entries_lba, bytearray(self.read(entries_lba * sector, count * size)), size)

    @contextmanager
    def both_gpts(self) -> Iterator[tuple[Gpt, Gpt]]:
        """Both copies of the partition table, written back with right checksums."""
        tables = (self.gpt("primary"), self.gpt("backup"))
        yield tables
        for table in tables:
            table.write()


class Disk(PartitionedDisk):
    """A raw copy of the reference disk, with hands for its filesystems; `system` shows the unbroken one."""

    def __init__(self, base: Path, path: Path) -> None:
        super().__init__(base, path)
        self.system: SystemTree = open_system(self.layout)
        self.boot = Ext4(self, "boot")
        self.root = Ext4(self, "root")

    @property
    def metal_size(self) -> int:
        """Bytes of the disk as it was laid out, before it was enlarged for clouds."""
        return (self.layout.gpt.alternate_lba + 1) * self.layout.gpt.sector_size

    @contextmanager
    def esp(self) -> Iterator[list[str]]:
        """Arguments of mtools that name the EFI system partition."""
        partition = self.layout.partition("EFI-SYSTEM")
        self.will_change(partition.start, partition.size)
        yield ["-i", f"{self.path}@@{partition.start}"]

    def mtools(self, program: str, *arguments: str) -> None:
        """Run one of mtools on the EFI system partition."""
        with self.esp() as named:
            run([program, *named, *arguments], env={"SOURCE_DATE_EPOCH": FIXED_TIME, "MTOOLS_SKIP_CHECK": "1"})


@dataclass(slots=True)
class Gpt:
    """One copy of the partition table, to be changed and written back (UEFI 2.10, 5.3)."""

    disk: PartitionedDisk
    lba: int
    header: bytearray
    entries_lba: int
    entries: bytearray
    entry_size: int
    sector_size: int = 512

    def entry(self, number: int) -> memoryview:
        """The bytes of one entry, counted from 1; writing to it changes the table."""
        return memoryview(self.entries)[(number - 1) * self.entry_size : number * self.entry_size]

    def number(self, label: str) -> int:
        return self.disk.layout.partition(label).number

    def move(self, label: str, first: int = 0, last: int = 0) -> None:
        """Shift a partition's first and last sector."""
        entry = self.entry(self.number(label))
        old = struct.unpack_from("<QQ", entry, 32)
        struct.pack_into("<QQ", entry, 32, old[0] + first, old[1] + last)

    def write(self) -> None:
        """Write entries and header, both checksums made right."""
        struct.pack_into("<I", self.header, 88, zlib.crc32(self.entries))
        (length,) = struct.unpack_from("<I", self.header, 12)
        struct.pack_into("<I", self.header, 16, 0)
        struct.pack_into("<I", self.header, 16, zlib.crc32(self.header[:length]))
        self.disk.write(self.lba * self.sector_size, bytes(self.header))
        self.disk.write(self.entries_lba * self.sector_size, bytes(self.entries))


class Ext4:
    """The ext4 filesystem of one partition, changed by debugfs, which keeps all of its checksums right."""

    def __init__(self, disk: PartitionedDisk, label: str) -> None:
        self.disk = disk
        self.label = label
        self.start = disk.start_of(label)
        self._records = 0
        self.files: Files = open_files(disk.layout.part_block(label))  # of the unbroken image

    def debugfs(self, *commands: str) -> None:
        """Run commands that change the filesystem."""
        self._debugfs(["-w", "-z", str(self._recorded())], commands)

    def block_of(self, path: str, offset: int) -> int:
        """Where a byte of a file lies, in blocks from the start of the partition."""
        said = self._debugfs([], [f"bmap {path} {offset // BLOCK}"])
        return int(re.findall(r"^\d+$", said, re.MULTILINE)[-1])

    def _debugfs(self, options: Sequence[str], commands: Sequence[str]) -> str:
        """debugfs exits 0 whatever happens: anything it says on its error output is a failure."""
        done = subprocess.run(
            [find_tool("debugfs"), *options, "-f", "/dev/stdin", f"{self.disk.path}?offset={self.start}"],
            input="\n".join(commands),
            capture_output=True,
            text=True,
            env={**os.environ, "E2FSPROGS_FAKE_TIME": FIXED_TIME},
            check=False,
        )
        complaints = [line for line in done.stderr.splitlines() if not line.startswith("debugfs 1.")]
        if complaints or done.returncode:
            raise ToolFailed(f"debugfs: {' | '.join(complaints)}")
        return done.stdout

    def _recorded(self) -> Path:
        """Where debugfs shall record what it overwrites; the superblock, which e2undo itself writes to, we keep."""
        superblock = self.disk.read(self.start, BLOCK)
        self._records += 1
        record = self.disk.path.with_name(f"{self.label}-{self._records}.e2undo")

        def undo() -> None:
            if record.exists():
                run(["e2undo", "-f", "-o", str(self.start), record, self.disk.path])
                record.unlink()
            self.disk.put(self.start, superblock)

        self.disk.undo_by(undo)
        return record

    def add(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A new file that belongs to root; missing folders are made."""
        parents = [str(parent) for parent in reversed(Path(path).parents)]
        staged = self.disk.path.with_name("staged")
        staged.write_bytes(content)
        self.debugfs(
            *(f"mkdir {parent}" for parent in parents if not self.files.exists(parent)),
            f'write "{staged}" {path}',
            f"sif {path} mode 010{mode:04o}",
            f"sif {path} uid 0",
            f"sif {path} gid 0",
        )
        staged.unlink()

    def remove(self, path: str) -> None:
        self.debugfs(f"rm {path}")

    def replace(self, path: str, content: bytes) -> None:
        """Other content, with the owner and mode that the file had."""
        mode = self.files.stat(path).mode
        self.remove(path)
        self.add(path, content, mode)

    def edit(self, path: str, changes: Mapping[str, str]) -> None:
        """Replace words of a text file; each must be there."""
        text = self.files.text(path)
        for old, new in changes.items():
            assert old in text, f"{path} has no {old!r} to replace"
            text = text.replace(old, new)
        self.replace(path, text.encode())

    def flip(self, path: str, offset: int = 0) -> None:
        """Invert one byte of a file in place; ext4 has no checksums over data."""
        block = self.block_of(path, offset)
        self.disk.flip(self.start + block * BLOCK + offset % BLOCK)
