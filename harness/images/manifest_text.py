"""A manifest as plain text for a terminal: what a person wants to know first comes first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.images.formats.disk import Fact
from harness.images.manifest import (
    BootFacts,
    FilesystemFacts,
    LayoutFacts,
    LiveFacts,
    Manifest,
    PartitionFacts,
    SystemFacts,
)

MIB = 2**20
WIDTH = 14  # of the left column
TYPE_NAMES = {
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PReP boot",
    "8da63339-0007-60c0-c436-083ac8230908": "reserved",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "extended boot",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux data",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "root x86-64",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "root arm64",
    "c31c45e6-3f39-412e-80fb-4809c4980599": "root ppc64le",
    "5eead9a9-fe09-4a1e-a1d7-520d00531306": "root s390x",
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224": "root riscv64",
}


def render(manifest: Manifest) -> str:
    """The whole manifest as text, one paragraph a section."""
    paragraphs: list[list[str]] = [list(_file(manifest))]
    if manifest.layout:
        paragraphs.append(list(_layout(manifest.layout)))
    if manifest.system:
        paragraphs.append(list(_system(manifest.system)))
    if manifest.boot:
        paragraphs.append(list(_boot(manifest.boot)))
    if manifest.ignition:
        state = manifest.ignition
        paragraphs.append([_line("first boot", "over: no stamp" if state.stamp == "absent" else "pending")])
        if state.network_kargs:
            paragraphs[-1].append(_line("  network", state.network_kargs))
        paragraphs[-1].append(_line("user config", state.user_config_sha256 or "none on the boot filesystem"))
    if manifest.containers:
        rows = [(", ".join(each.names) or each.id[:12], each.digest, each.store) for each in manifest.containers]
        paragraphs.append(["container images", *_table([("NAME", "DIGEST", "STORE"), *rows])])
    if manifest.packages:
        counts = Counter(each.kind for each in manifest.packages)
        paragraphs.append([_line("packages", ", ".join(f"{number:,} ({kind})" for kind, number in counts.items()))])
    if manifest.live:
        paragraphs.append(list(_live(manifest.live)))
    if manifest.notes:
        paragraphs.append(["notes", *(f"  - {note}" for note in manifest.notes)])
    return "\n\n".join("\n".join(map(_printable, lines)) for lines in paragraphs) + "\n"


def _file(manifest: Manifest) -> Iterator[str]:
    file = manifest.file
    wrapped = f", {file.compression}-compressed" if file.compression else ""
    yield f"{file.name}: {file.container}{wrapped}, {file.size:,} bytes, disk of {file.virtual_size:,} bytes"
    if manifest.container:
        yield _line(file.container, ", ".join(f"{name} {_fact(value)}" for name, value in manifest.container.items()))
    if manifest.hashes:
        yield _line("file", f"sha256 {manifest.hashes.file_sha256}")
        yield _line("uncompressed", f"sha256 {manifest.hashes.uncompressed_sha256}")
        yield _line("disk", f"sha256 {manifest.hashes.disk_sha256}")


def _fact(value: Fact) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else value


def _layout(disk: LayoutFacts) -> Iterator[str]:
    if disk.filesystem:
        yield _line("whole disk", " ".join(filter(None, _described(disk.filesystem))))
    if disk.table == "none":
        yield _line("partitions", "no table")
        return
    if disk.table == "gpt":
        yield _line("disk GUID", f"{disk.disk_guid}, sectors of {disk.sector_size}")
        at_end = "the end of the disk" if disk.backup_is_at_end else f"not at the disk's end (LBA {disk.last_lba:,})"
        yield _line("primary GPT", disk.primary_problem or "sound")
        yield _line("backup GPT", disk.backup_problem or f"sound, at LBA {disk.alternate_lba:,}: {at_end}")
    else:
        yield _line("MBR", f"disk id {disk.mbr_disk_id}, {disk.primary_problem or 'sound'}")
    yield ""
    rows = [
        (
            str(p.number),
            p.label,
            _type(p),
            f"{p.start // disk.sector_size:,}",
            _size(p.size),
            *_described(p.filesystem),
        )
        for p in disk.partitions
    ]
    yield from _table([("#", "LABEL", "TYPE", "SECTOR", "SIZE", "HOLDS", "LABELLED", "UUID"), *rows], right={0, 3, 4})


def _type(partition: PartitionFacts) -> str:
    if partition.type_guid is None:
        return f"{partition.mbr_type or 0:02x}"
    return TYPE_NAMES.get(partition.type_guid, partition.type_guid)


def _described(filesystem: FilesystemFacts | None) -> tuple[str, str, str]:
    if filesystem is None:
        return "-", "", ""
    return filesystem.type, filesystem.label or "", filesystem.uuid or ""


def _system(system: SystemFacts) -> Iterator[str]:
    names = system.os_release or {}
    yield _line("system", names.get("PRETTY_NAME") or names.get("NAME") or "unknown: no os-release")
    if "OSTREE_VERSION" in names:
        yield _line("version", names["OSTREE_VERSION"])
    yield _line("kernel", ", ".join(system.kernels) or "none in /usr/lib/modules")
    if system.deployment:
        booted = system.deployment
        yield _line("deployment", f"{booted.stateroot} {booted.checksum}.{booted.serial}")
    if system.aleph:
        fields = system.aleph.fields
        built = fields.get("version") or fields.get("build") or "?"
        yield _line("aleph", f"{system.aleph.format} format, build {built}, ref {fields.get('ref', '?')}")


def _boot(boot: BootFacts) -> Iterator[str]:
    for entry in boot.entries:
        chosen = " (default)" if entry.path == boot.default and len(boot.entries) > 1 else ""
        yield _line("boot entry", f"{entry.title}{chosen}")
        yield _line("  file", entry.path)
        yield _line("  linux", entry.linux)
        yield _line("  options", " ".join(entry.options))
    if boot.console_commands:
        yield _line("GRUB console", "; ".join(boot.console_commands))
    if boot.platforms is not None:
        yield _line("platforms", ", ".join(boot.platforms))


def _live(live: LiveFacts) -> Iterator[str]:
    yield _line("live ISO", live.volume_id)
    if area := live.ignition:
        held = f"{area.state}: {', '.join(area.members)}" if area.members else area.state
        yield _line("  Ignition", f"{area.size:,} bytes at {area.offset:,}, {held}")
    if live.kargs:
        yield _line("  kargs", live.kargs.default)
        changed = {area.kargs for area in live.kargs.areas} - {live.kargs.default}
        for kargs in sorted(each or "garbled" for each in changed):
            yield _line("  changed to", kargs)
    for name, size in live.pxe.items():
        yield _line("  PXE", f"{name}, {size:,} bytes")
    if live.rootfs:
        yield _line("  root", f"{live.rootfs.filesystem} at {live.rootfs.offset}, build {live.rootfs.build or '?'}")
        for osmet in live.rootfs.osmet:
            yield _line("  osmet", f"{osmet.os_description} {osmet.architecture}, sectors of {osmet.sector_size}")
    made = f"can be made (coreos-installer {live.minimal_iso})" if live.minimal_iso else "cannot be made"
    yield _line("  minimal ISO", made)


def _line(name: str, value: str) -> str:
    return f"{name:<{WIDTH}}{value}"


def _size(size: int) -> str:
    return f"{size // MIB:,} MiB" if size % MIB == 0 else f"{size / MIB:,.1f} MiB"


def _table(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  " + "  ".join(cells).rstrip()


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
