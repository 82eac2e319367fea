"""An ext4 filesystem with files, made on its place of a raw disk without mounting it; the same files, the same bytes.

mke2fs makes it, debugfs puts the files in by name order, e2fsck has the last word (e2fsprogs 1.46 and later). Features
are named one by one: what newer mke2fs switch on by themselves Linux 4.18 may not know.
"""

from __future__ import annotations

import os
import struct
import subprocess

from harness.errors import ToolFailed
from harness.images.edits.debugfs import unsoundness
from harness.images.filesystems.files import shown
from harness.images.formats.raw import FileBlock
from harness.prestage.disk.contents import NAMESPACE, TIME, Contents, Digests
from harness.prestage.disk.filesystem import Counting, Made, Site, does_not_fit
from harness.tools import find_tool, run

BLOCK = 4096
BYTES_PER_INODE = 2**20  # a few large files: the tables of the usual 16 KiB would take gigabytes
SPARE_INODES = 64
FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,"
    "dir_nlink,extra_isize,metadata_csum"
)
FILES = "files"  # a link to the folder, for debugfs's script
FREE_LOW, FREE_HIGH, SUPERBLOCK = 0x0C, 0x158, 1024
SPARE_BLOCKS = 16  # for directory blocks
RUN = 340 * 32768  # blocks that one block of a file's map can name


def make_ext4(site: Site, contents: Contents, digests: Digests, counting: Counting) -> Made:
    """Write an ext4 filesystem with these files to a place of a raw disk.

    Raises BadInput where they do not fit, ToolFailed with the words of mke2fs, debugfs or e2fsck.
    """
    for item in contents.items:  # its identifier follows from them, and goes into every checksum
        for _ in digests.passing(item, lambda _: None):
            pass
    uuid = digests.identifier(f"ext4:{site.size}:{site.label}")
    inodes = max(site.size // BYTES_PER_INODE, len(contents.items) + SPARE_INODES)
    run(
        ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK), "-I", "256", "-N", str(inodes), "-m", "0", "-O",
         FEATURES, "-L", site.label, "-U", str(uuid), "-M", "", "-E",
         f"offset={site.start},hash_seed={NAMESPACE},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
         site.disk.name, str(site.size // BLOCK)],
        cwd=site.disk.parent,
        env={"E2FSPROGS_FAKE_TIME": str(TIME), "MKE2FS_CONFIG": os.devnull},
    )  # fmt: skip
    free = _free(site)
    wanted = sum(-(-item.size // BLOCK) + item.size // BLOCK // RUN + 1 for item in contents.items) + SPARE_BLOCKS
    if wanted > free:
        raise does_not_fit(wanted * BLOCK, free * BLOCK)
    _write(site, contents)
    counting(contents.size)
    if problem := unsoundness(site.disk, site.start):
        raise ToolFailed(f"debugfs left a filesystem that e2fsck objects to: {problem}", where=str(site.disk))
    return Made(uuid, max(0, free - wanted - 1) * BLOCK)


def _write(site: Site, contents: Contents) -> None:
    """Have debugfs do it; names are such that its script needs no quotes."""
    link = site.disk.parent / FILES
    link.symlink_to(contents.folder.absolute(), target_is_directory=True)
    lines = []
    for item in contents.items:
        lines.append(f"write {FILES}/{item.name} {item.name}")
        lines += [f"sif {item.name} {field} @{TIME}" for field in ("atime", "mtime", "ctime", "crtime")]
        lines += [f"sif {item.name} {field}_extra 0" for field in ("atime", "mtime", "ctime", "crtime")]
        lines += [f"sif {item.name} uid 0", f"sif {item.name} gid 0", f"sif {item.name} mode 0{0o100000 | item.mode:o}"]
    lines.append("ssv kbytes_written 0")
    try:
        done = subprocess.run(
            [find_tool("debugfs"), "-w", "-f", "/dev/stdin", f"{site.disk.name}?offset={site.start}"],
            input="\n".join(lines).encode(),
            cwd=site.disk.parent,
            capture_output=True,
            env={**os.environ, "LC_ALL": "C.UTF-8", "E2FSPROGS_FAKE_TIME": str(TIME)},
            check=False,
        )
    finally:
        link.unlink()
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if not line.startswith("debugfs ")]
    if complaints or done.returncode:
        raise ToolFailed(f"debugfs: {shown(' | '.join(complaints)[:300])}", where=str(site.disk))


def _free(site: Site) -> int:
    """Free blocks, as the superblock counts them."""
    with FileBlock(site.disk) as block:
        raw = block.read(site.start + SUPERBLOCK, 1024)
    low, high = struct.unpack_from("<I", raw, FREE_LOW)[0], struct.unpack_from("<I", raw, FREE_HIGH)[0]
    return int(high << 32 | low)
