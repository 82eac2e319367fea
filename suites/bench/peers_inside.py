"""Task T ("what is in this image?") as the script that each peer's user would write; each runs in a process of its own.

T: the partitions with type, UUID, label and place, type, UUID and label of their filesystems, the text of one file, and
SHA-256 of every file of the boot partition. Printed as a Python literal, None for what a peer cannot tell. Nothing is
imported at the top that not everybody needs, because importing is part of what is measured. For the Sleuth Kit:
`pip install pytsk3 libqcow-python libvmdk-python`.
"""
# os serves here: importing pathlib would cost some peers milliseconds that they need not spend
# ruff: noqa: PTH102, PTH110, PTH114, PTH123

import hashlib
import sys

FILE = "/grub2/grub.cfg"
BOOT = 3  # its number on the reference image
NUMBERS = (1, 2, 3, 4)  # of all its partitions: guestfish cannot loop
STEP = 2**20  # bytes hashed at a time
EXT4_TYPE = 0x2000  # tsk_fs.h: TSK_FS_TYPE_EXT4; the only other type on the image is FAT


def ours(image, _folder):
    from pathlib import Path

    from harness.images.filesystems.files import open_files
    from harness.images.partitions.layout import read_layout
    from harness.images.source import open_image

    with open_image(Path(image)) as opened:
        layout = read_layout(opened.block)
        partitions = [
            (one.number, one.start, one.size, one.label, str(one.type_guid), str(one.part_guid))
            + ((one.filesystem.type, one.filesystem.uuid, one.filesystem.label) if one.filesystem else (None,) * 3)
            for one in layout.partitions
        ]
        boot = open_files(layout.part_block("boot"))
        hashes = {entry.path: boot.sha256(entry.path) for entry in boot.walk() if entry.kind == "file"}
        return partitions, boot.text(FILE), hashes


def fs_explorer(image, _folder):
    """It tells neither UUID nor label of a filesystem."""
    import fs_explorer as fx

    with fx.Source(image) as source:
        top = "/disk.vmdk" if image.endswith(".ova") else ""
        partitions = []
        for volume in source.entries(top or "/", recursive=0):
            said = volume.extra
            first = None if volume.error else next(iter(source.entries(volume.path, recursive=0))).format
            kind = {"fat": "vfat"}.get(first, first)
            facts = (said[name] for name in ("start", "size", "label", "type", "guid"))
            partitions.append((int(volume.name[1:]), *facts, kind, None, None))
        boot = f"{top}/p{BOOT}"
        hashes = {}
        for entry in source.entries(boot):
            if entry.type is fx.EntryType.FILE:
                with source.open_file(entry.path) as file:
                    hashes[entry.path.removeprefix(boot)] = _digest(lambda file=file: file.read(STEP))
        return partitions, source.read_file(boot + FILE).decode(), hashes


def sleuthkit(image, folder):
    """It tells neither type nor UUID of a partition, nor label of a filesystem."""
    import uuid

    import pytsk3

    disk = _sleuthkit_disk(pytsk3, unpacked(image, folder))
    partitions, boot = [], None
    for found in pytsk3.Volume_Info(disk):
        if found.flags == pytsk3.TSK_VS_PART_FLAG_ALLOC:
            number, start = found.slot_num + 1, found.start * 512
            try:
                filesystem = pytsk3.FS_Info(disk, offset=start)
            except OSError:
                kind, identity = None, None
            else:
                boot = filesystem if number == BOOT else boot
                kind = "ext4" if filesystem.info.ftype == EXT4_TYPE else "vfat"
                raw = bytes(filesystem.info.fs_id)
                identity = str(uuid.UUID(bytes=raw[:16])) if kind == "ext4" else raw[3::-1].hex("-", 2).upper()
            place = (number, start, found.len * 512, found.desc.decode(), None, None)
            partitions.append((*place, kind, identity, None))
    file = boot.open(FILE)
    return partitions, file.read_random(0, file.info.meta.size).decode(), dict(_sleuthkit_files(pytsk3, boot, "/"))


def _sleuthkit_disk(pytsk3, image):
    if image.endswith(".raw"):
        return pytsk3.Img_Info(image)
    if image.endswith(".vmdk"):
        import pyvmdk

        inner = pyvmdk.handle()
        inner.open(image)
        inner.open_extent_data_files()
    else:
        import pyqcow

        inner = pyqcow.file()
        inner.open(image)

    class Disk(pytsk3.Img_Info):
        def __init__(self):
            super().__init__(url="", type=pytsk3.TSK_IMG_TYPE_EXTERNAL)

        def read(self, offset, size):
            return inner.read_buffer_at_offset(size, offset)

        def get_size(self):
            return inner.get_media_size()

    return Disk()


def _sleuthkit_files(pytsk3, filesystem, folder):
    for entry in filesystem.open_dir(folder):
        name = entry.info.name.name.decode()
        if name in {".", "..", "$OrphanFiles"}:
            continue
        path, meta = folder + name, entry.info.meta
        if meta.type == pytsk3.TSK_FS_META_TYPE_DIR:
            yield from _sleuthkit_files(pytsk3, filesystem, path + "/")
        elif meta.type == pytsk3.TSK_FS_META_TYPE_REG:
            places = iter(range(0, meta.size, STEP))
            read = entry.read_random
            yield path, _digest(lambda: read(at, STEP) if (at := next(places, None)) is not None else b"")  # noqa: B023


def guestfish(image, folder):
    import subprocess

    container = unpacked(image, folder)
    asked = [("start", "part-list /dev/sda")]
    for number in NUMBERS:
        device = f"/dev/sda{number}"
        asked += [(f"label{number}", f"part-get-name /dev/sda {number}")]
        asked += [(f"guid{number}", f"part-get-gpt-{what} /dev/sda {number}") for what in ("type", "guid")]
        asked += [(f"fs{number}", f"-vfs-{what} {device}") for what in ("type", "uuid", "label")]
    asked += [("mount", f"mount-ro /dev/sda{BOOT} /"), ("file", f"cat {FILE}"), ("hashes", "checksums-out sha256 / -")]
    script = "run\n" + "".join(f"echo {MARK}{name}\n{command}\n" for name, command in asked)
    arguments = ["guestfish", "--ro", f"--format={_qemu_format(container)}", "-a", container]
    told = subprocess.run(arguments, input=script, check=True, stdout=subprocess.PIPE, text=True).stdout
    answers = {}
    for answer in told.split(MARK)[1:]:
        name, _, lines = answer.partition("\n")
        answers.setdefault(name, []).append(lines)
    places = [int(line.split()[1]) for line in answers["start"][0].splitlines() if "part_s" in line]  # start, size, ...
    partitions = [
        (
            number,
            *places[2 * number - 2 : 2 * number],
            answers[f"label{number}"][0].strip(),
            *(guid.strip().lower() for guid in answers[f"guid{number}"]),
            *(fact.strip() or None for fact in answers[f"fs{number}"]),
        )
        for number in NUMBERS
    ]
    return partitions, answers["file"][0].removesuffix("\n"), _sums(answers["hashes"][0], ".")


MARK = "== task T: "


def nbd(image, folder):
    """`qemu-nbd` behind a Unix socket, shown as a file by nbdfuse, so that sfdisk, blkid and debugfs can read it."""
    import json
    import os
    import subprocess
    import time

    container, point = unpacked(image, folder), f"{folder}/point"
    os.mkdir(point)
    disk = f"{point}/disk"

    def say(*argv):
        return subprocess.run(argv, check=False, capture_output=True, text=True).stdout

    server = ["qemu-nbd", "--read-only", f"--format={_qemu_format(container)}", container]
    mount = subprocess.Popen(["nbdfuse", "--readonly", disk, "[", *server, "]"])
    try:
        while not os.path.exists(disk):
            if mount.poll() is not None:
                sys.exit("nbdfuse did not start")
            time.sleep(0.002)
        partitions, dump = [], f"{folder}/boot"
        for number, found in enumerate(json.loads(say("sfdisk", "--json", disk))["partitiontable"]["partitions"], 1):
            start, size = found["start"] * 512, found["size"] * 512
            lines = say("blkid", "-p", "-o", "export", "-O", str(start), "-S", str(size), disk).splitlines()
            facts = dict(line.split("=", 1) for line in lines)
            guids = found["type"].lower(), found["uuid"].lower()
            inside = (facts.get(name) for name in ("TYPE", "UUID", "LABEL"))
            partitions.append((number, start, size, found["name"], *guids, *inside))
            if number == BOOT:
                os.mkdir(dump)
                say("debugfs", "-R", f"rdump / {dump}", f"{disk}?offset={start}")
        files = [f"{top}/{name}" for top, _, names in os.walk(dump) for name in names]
        sums = say("sha256sum", *(path for path in files if not os.path.islink(path)))
        with open(dump + FILE) as file:
            return partitions, file.read(), _sums(sums, dump)
    finally:
        subprocess.run(["fusermount3", "-u", point], check=False)
        mount.wait()


def unpacked(image, folder):
    """The disk that a reader of virtual disks can open: for an OVA the one inside, unpacked to `folder`."""
    if not image.endswith(".ova"):
        return image
    import subprocess

    subprocess.run(["tar", "-xf", image, "-C", folder], check=True)
    return f"{folder}/disk.vmdk"


def _qemu_format(path):
    return path.rpartition(".")[2]


def _sums(lines, top):
    rows = (line.split("  ", 1) for line in lines.splitlines() if line)
    return {path.removeprefix(top): digest for digest, path in rows}


def _digest(read):
    digest = hashlib.sha256()
    while piece := read():
        digest.update(piece)
    return digest.hexdigest()


def main():
    """`name image folder`: run one peer; `folder` is empty and its own."""
    name, image, folder = sys.argv[1:]
    print(globals()[name](image, folder))  # noqa: T201 - the answer
