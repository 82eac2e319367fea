"""Look into an image and write down what is there. What cannot be read becomes a note, never a gap without a word."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from harness.errors import BadInput, DamagedImage, HarnessError, MissingFile
from harness.images import manifest as facts
from harness.images.filesystems.files import Files, Mount, open_mount, shown
from harness.images.filesystems.superblock import Filesystem
from harness.images.filesystems.superblock_luks import NO_CIPHER
from harness.images.formats.disk import Fact
from harness.images.manifest import SECTIONS, SLOW_SECTIONS, Manifest, Section
from harness.images.partitions.gpt import Table
from harness.images.partitions.layout import Layout, LayoutPartition, part_of, read_layout
from harness.images.system.bls import read_entries
from harness.images.system.live import read_live
from harness.images.system.packages import read_packages
from harness.images.system.stamps import read_aleph, read_console, read_ignition_state, read_os_release, read_platforms
from harness.images.system.tree import SystemTree, find_boot, open_system

if TYPE_CHECKING:
    from harness.images.source import Image

T = TypeVar("T")
UNENCRYPTED = "its LUKS header has cipher_null: nothing is encrypted, and its files are read (RHCOS 4.3 to 4.6)"
ENCRYPTED = "is encrypted by LUKS: nobody looks inside without its key"
STORES = ("/var/lib/containers/storage", "/usr/lib/containers/storage")
NOT_IN_AN_ISO: frozenset[Section] = frozenset({"boot", "ignition", "system", "containers", "packages"})
ONLY_IN_AN_ISO: frozenset[Section] = frozenset({"live"})
LARGEST_IMAGE_LIST = 64 * 2**20  # bytes


def inspect(image: Image, only: Collection[str] | None = None) -> Manifest:
    """The manifest of an opened image.

    `only` names the sections wanted; None means all but the hashes, which read the whole image. Raises BadInput for
    an unknown section; everything wrong with the image itself becomes a note.
    """
    if unknown := set(only or ()) - set(SECTIONS):
        raise BadInput(f"no section {', '.join(sorted(unknown))}", next_step=f"sections are {', '.join(SECTIONS)}")
    chosen = set(SECTIONS) - SLOW_SECTIONS if only is None else set(only)
    wanted = [section for section in SECTIONS if section in chosen]
    return _Inspection(image).manifest(wanted)


class _Inspection:
    """One look at one image: opens each thing once, and collects notes."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.notes: list[str] = []
        self._layout: Layout | None = None

    def manifest(self, wanted: Collection[Section]) -> Manifest:
        image = self.image
        file = facts.FileFacts(
            image.path.name, image.path.stat().st_size, image.container, image.compression, image.block.size
        )
        makers: dict[Section, Callable[[], Any]] = {
            "hashes": self._hashes,
            "container": self._container,
            "layout": lambda: _layout(self._known_layout()),
            "boot": self._boot,
            "ignition": self._ignition,
            "system": self._system_facts,
            "containers": lambda: list(_stored_images(self._system())),
            "packages": lambda: list(_packages(self._system())),
            "live": self._live,
        }
        missing = NOT_IN_AN_ISO if image.container == "iso" else ONLY_IN_AN_ISO
        found = {
            section: self._try(section, makers[section])
            for section in SECTIONS
            if section in wanted and section not in missing
        }
        return Manifest(schema=facts.SCHEMA, file=file, **found, notes=list(dict.fromkeys(self.notes)))

    def _try(self, what: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except HarnessError as error:
            self.notes.append(f"{what}: {error}")
            return None

    def _known_layout(self) -> Layout:
        if self._layout is None:
            self._layout = read_layout(self.image.block)
            self.notes += _luks_notes(self._layout)
        return self._layout

    def _system(self) -> SystemTree:
        return open_system(self._known_layout())

    def _boot_files(self) -> Files:
        """The boot filesystem, or the `/boot` of a system that has none of its own."""
        partition = find_boot(self._known_layout())
        if partition:
            return Files({"/": open_mount(part_of(self.image.block, partition))})
        system = self._system()
        root = system.mount("/")
        return Files({"/": Mount(root.inodes, system.stat("/boot", follow=True).inode)})

    def _hashes(self) -> facts.Hashes:
        image = self.image
        return facts.Hashes(image.file_sha256(), image.uncompressed_sha256(), image.disk_sha256())

    def _container(self) -> dict[str, Fact] | None:
        facts_of_header = self.image.block.facts()
        return {
            name: shown(value) if isinstance(value, str) else value for name, value in facts_of_header.items()
        } or None

    def _live(self) -> facts.LiveFacts | None:
        return read_live(self.image.block, lambda error: self.notes.append(f"live: {error}"))

    def _boot(self) -> facts.BootFacts:
        boot = self._boot_files()
        entries = read_entries(boot)
        console = self._try("boot", lambda: read_console(boot))
        platforms = self._try("boot", lambda: read_platforms(boot))
        return facts.BootFacts(
            [
                facts.BootEntryFacts(shown(e.path), e.title, e.version, e.linux, e.initrd, list(e.options))
                for e in entries.entries
            ],
            shown(entries.default.path),
            entries.default.linux.rpartition("/")[2].removeprefix("vmlinuz").lstrip("-"),
            console.path if console else None,
            list(console.commands) if console else None,
            {
                name: facts.PlatformFacts(list(each.kernel_arguments), list(each.grub_commands))
                for name, each in platforms.items()
            }
            if platforms is not None
            else None,
        )

    def _ignition(self) -> facts.IgnitionFacts:
        state = read_ignition_state(self._boot_files())
        return facts.IgnitionFacts(state.stamp, state.network_kargs, state.user_config_sha256)

    def _system_facts(self) -> facts.SystemFacts:
        system = self._system()
        deployment = system.deployment
        physical = Files({"/": system.mount("/sysroot" if deployment else "/")})
        aleph = self._try("system", lambda: read_aleph(physical))
        return facts.SystemFacts(
            self._try("system", lambda: read_os_release(system)),
            [shown(name) for name in self._try("system", lambda: system.listdir("/usr/lib/modules")) or ()],
            facts.DeploymentFacts(
                shown(deployment.stateroot), deployment.checksum, deployment.serial, deployment.boot_checksum
            )
            if deployment
            else None,
            facts.AlephFacts(
                aleph.path, aleph.format, dict(aleph.fields), {k: shown(v) for k, v in aleph.links.items()}
            )
            if aleph
            else None,
        )


def _layout(layout: Layout) -> facts.LayoutFacts:
    partitions = [_partition(partition) for partition in layout.partitions]
    whole = _filesystem(layout.filesystem) if layout.filesystem else None
    if isinstance(layout.table, Table):
        table = layout.table
        return facts.LayoutFacts(
            table.sector_size,
            str(table.disk_guid),
            table.alternate_lba,
            table.last_lba,
            table.backup_is_at_end,
            table.primary.problem,
            table.backup.problem,
            partitions,
            layout.label,
            filesystem=whole,
        )
    return facts.LayoutFacts(
        sector_size=layout.sector_size,
        disk_guid=None,
        alternate_lba=None,
        last_lba=layout.block.size // layout.sector_size - 1,
        backup_is_at_end=None,
        primary_problem=layout.table.problem if layout.table else "",
        backup_problem=None,
        partitions=partitions,
        table=layout.label,
        mbr_disk_id=f"{layout.table.disk_id:08x}" if layout.table else None,
        filesystem=whole,
    )


def _partition(partition: LayoutPartition) -> facts.PartitionFacts:
    return facts.PartitionFacts(
        partition.number,
        shown(partition.label),
        str(partition.type_guid) if partition.type_guid else None,
        str(partition.part_guid) if partition.part_guid else None,
        partition.start,
        partition.size,
        partition.attributes,
        partition.missing,
        _filesystem(partition.filesystem) if partition.filesystem else None,
        partition.mbr_type,
    )


def _filesystem(found: Filesystem) -> facts.FilesystemFacts:
    details = {key: list(value) if isinstance(value, tuple) else value for key, value in found.details.items()}
    label = None if found.label is None else shown(found.label)
    return facts.FilesystemFacts(found.type, label, found.uuid, found.size, details)


def _stored_images(system: SystemTree) -> Iterator[facts.StoredImage]:
    """The container images of every store in a system; none is a legitimate answer."""
    for store in STORES:
        path = f"{store}/overlay-images/images.json"
        if not system.exists(path):
            continue
        for entry in _image_list(system, path):
            names = entry.get("names") or []
            yield facts.StoredImage(store, str(entry.get("id", "")), str(entry.get("digest", "")), [*map(str, names)])


def _packages(system: SystemTree) -> Iterator[facts.PackageFacts]:
    """The installed packages; a system without a package database has none."""
    with suppress(MissingFile):
        for each in read_packages(system):
            yield facts.PackageFacts(shown(each.name), shown(each.version), shown(each.arch), each.kind)


def _image_list(system: SystemTree, path: str) -> list[dict[str, Any]]:
    try:
        entries = msgspec.json.decode(system.read(path, LARGEST_IMAGE_LIST))
    except (ValueError, RecursionError) as cause:
        raise DamagedImage(f"{path} is not JSON: {str(cause)[:120]}", where=system.name) from cause
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("names") or [], list) for e in entries
    ):
        raise DamagedImage(f"{path} is not a list of images", where=system.name)
    return entries


def _luks_notes(layout: Layout) -> Iterator[str]:
    for partition in layout.partitions:
        found = partition.filesystem
        if found and found.type == "crypto_LUKS":
            is_open = str(found.details.get("cipher", "")).startswith(NO_CIPHER)
            yield f"{partition.title}: {UNENCRYPTED if is_open else ENCRYPTED}"
