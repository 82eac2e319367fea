"""Packages that a system tree says are installed: dpkg's status files, and rpm's database.

dpkg: deb822 stanzas (dpkg(1), deb-control(5)). rpm: the sqlite database of rpm 4.16 and later, a table of header blobs;
a header is described in rpm's docs/manual/format_header.md. The older databases (Berkeley DB,
ndb) are recognised and refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from harness.errors import MissingFile, UnsupportedImage
from harness.images.filesystems.files import Files
from harness.images.system.rpmdb import read_headers

PackageKind = Literal["dpkg", "rpm"]

DPKG_STATUS: Final = ("/var/lib/dpkg/status", "/usr/lib/dpkg-db/status", "/usr/lib/sysimage/dpkg/status")
DPKG_FOLDERS: Final = ("/var/lib/dpkg/status.d", "/usr/share/dpkg/status.d")  # a file a package, as distroless has it
RPM_FOLDERS: Final = ("/usr/share/rpm", "/usr/lib/sysimage/rpm", "/var/lib/rpm")
RPM_SQLITE = "rpmdb.sqlite"
RPM_FOREIGN: Final[Mapping[str, str]] = {"Packages": "Berkeley DB", "Packages.db": "ndb"}
LARGEST_STATUS = 64 * 2**20  # bytes
MOST_STATUS_FILES = 20_000


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One installed package; the version is written as its own tools write it: epoch:version-release."""

    name: str
    version: str
    arch: str
    kind: PackageKind


@dataclass(frozen=True, slots=True)
class Database:
    """One file that lists packages: its canonical path and its inode on its filesystem."""

    kind: PackageKind
    path: str
    inode: int


def read_packages(tree: Files) -> tuple[Package, ...]:
    """All installed packages, sorted by name. Raises MissingFile where nothing lists any.

    Raises UnsupportedImage for an rpm database of a format that we do not read, DamagedImage for a broken one.
    """
    found: set[Package] = set()
    databases = find_databases(tree)
    for database in databases:
        found.update(packages_of(tree, database))
    if not databases:
        _refuse_foreign(tree)
        raise MissingFile("no package database of dpkg or rpm", where=tree.name)
    return tuple(sorted(found))


def find_databases(tree: Files) -> tuple[Database, ...]:
    """The files that list packages, each once however many names lead to it."""
    paths: list[tuple[PackageKind, str]] = [("dpkg", path) for path in DPKG_STATUS]
    for folder in DPKG_FOLDERS:
        if tree.exists(folder) and tree.stat(folder, follow=True).kind == "directory":
            names = [name for name in tree.listdir(folder) if not name.endswith(".md5sums")]
            paths += [("dpkg", f"{folder}/{name}") for name in names[:MOST_STATUS_FILES]]
    paths += [("rpm", f"{folder}/{RPM_SQLITE}") for folder in RPM_FOLDERS]
    found: dict[tuple[str, int], Database] = {}
    for kind, path in paths:
        if tree.exists(path):
            entry = tree.stat(path, follow=True)
            if entry.kind == "file":
                found.setdefault((entry.path, entry.inode), Database(kind, tree.canonical(path), entry.inode))
    unique = {(database.kind, database.inode): database for database in reversed(list(found.values()))}
    return tuple(sorted(unique.values(), key=lambda database: database.path))


def packages_of(tree: Files, database: Database) -> Iterator[Package]:
    """What one database lists as installed."""
    if database.kind == "rpm":
        journal = f"{database.path}-wal"
        log = tree.read(journal, LARGEST_STATUS) if tree.exists(journal) else b""
        yield from (
            Package(header.name, header.full_version, header.arch or "(none)", "rpm")
            for header in read_headers(tree.read(database.path), log, f"{tree.name}: {database.path}")
        )
        return
    for stanza in stanzas(tree, database):
        if package := installed(stanza):
            yield package


def stanzas(tree: Files, database: Database) -> Iterator[str]:
    """The paragraphs of a dpkg status file, as they stand there."""
    text = tree.text(database.path, LARGEST_STATUS).replace("\r\n", "\n")
    yield from (stanza for stanza in text.split("\n\n") if stanza.strip())


def installed(stanza: str) -> Package | None:
    r"""The package of a paragraph, unless it is only remembered: removed with its configuration kept, or half done.

    >>> installed("Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 5.2-1\n")
    Package(name='bash', version='5.2-1', arch='amd64', kind='dpkg')
    """
    fields: dict[str, str] = {}
    for line in stanza.splitlines():
        key, colon, value = line.partition(":")
        if colon and key and not key[0].isspace():
            fields.setdefault(key.lower(), value.strip())
    state = fields.get("status", "install ok installed").split()
    if "package" not in fields or state[-1:] != ["installed"]:
        return None
    return Package(fields["package"], fields.get("version", ""), fields.get("architecture", ""), "dpkg")


def _refuse_foreign(tree: Files) -> None:
    for folder in RPM_FOLDERS:
        for name, kind in RPM_FOREIGN.items():
            if tree.exists(f"{folder}/{name}"):
                raise UnsupportedImage(
                    f"{folder}/{name} is an rpm database in {kind}, and we read sqlite only",
                    where=tree.name,
                    next_step="convert a copy of it with rpmdb --rebuilddb",
                )
