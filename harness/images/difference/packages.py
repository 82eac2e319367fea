"""Which packages two systems have, and whether that explains why their package databases differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from harness.errors import HarnessError
from harness.images.difference.causes import Difference, knob
from harness.images.filesystems.files import Files
from harness.images.partitions.layout import Layout
from harness.images.system.packages import Database, Package, find_databases, installed, packages_of, stanzas
from harness.images.system.tree import find_root, open_system

Key = tuple[str, str, str]  # kind, name, architecture


@dataclass(frozen=True, slots=True)
class Installed:
    """What two systems have installed: the differences, and the inodes whose other content they explain."""

    differences: tuple[Difference, ...] = ()
    partition: int = 0  # number of the root partition of the first; 0 for a disk without a table
    explained: frozenset[int] = frozenset()


def compare_packages(mine: Layout, theirs: Layout) -> Installed:
    """Package by package; nothing where one of the two has no system or no database that can be read."""
    try:
        trees = open_system(mine), open_system(theirs)
        databases = [find_databases(tree) for tree in trees]
        lists = [
            [package for database in found for package in packages_of(tree, database)]
            for tree, found in zip(trees, databases, strict=True)
        ]
        if not all(databases):
            return Installed()
        versions = [_versions(packages) for packages in lists]
        differences = tuple(_differences(*versions))
        changed = {key[1] for key in {*versions[0], *versions[1]} if versions[0].get(key) != versions[1].get(key)}
        explained = frozenset(_explained(trees, databases, changed))
        partition = find_root(mine).number if mine.table else 0
    except HarnessError:
        return Installed()
    return Installed(differences, partition, explained)


def _versions(packages: Iterable[Package]) -> Mapping[Key, tuple[str, ...]]:
    """Several versions may be installed side by side: kernels, keys."""
    found: dict[Key, set[str]] = defaultdict(set)
    for package in packages:
        found[package.kind, package.name, package.arch].add(package.version)
    return {key: tuple(sorted(versions)) for key, versions in found.items()}


def _differences(mine: Mapping[Key, tuple[str, ...]], theirs: Mapping[Key, tuple[str, ...]]) -> Iterator[Difference]:
    for key in sorted({*mine, *theirs}, key=lambda key: (key[1], key)):
        first, second = mine.get(key, ()), theirs.get(key, ())
        if first == second:
            continue
        if first and second:
            detail = f"version {', '.join(first)} / {', '.join(second)}"
        else:
            detail = f"{', '.join(first or second)} is only in the {'first' if first else 'second'}"
        kind, name, arch = key
        yield Difference("package", "", name, "package", f"{detail} ({kind}, {arch})", knob("package"))


def _explained(trees: tuple[Files, Files], databases: list[tuple[Database, ...]], changed: set[str]) -> Iterator[int]:
    """Inodes of databases in the first that differ in the changed packages only."""
    others = {database.path: database for database in databases[1]}
    for database in databases[0]:
        other = others.get(database.path)
        if other is None or not changed:
            continue
        is_rpm = database.kind == "rpm"  # whose pages move with any row
        if is_rpm or list(_unchanged(trees[0], database, changed)) == list(_unchanged(trees[1], other, changed)):
            yield database.inode


def _unchanged(tree: Files, database: Database, changed: set[str]) -> Iterator[str]:
    for stanza in stanzas(tree, database):
        package = installed(stanza)
        if package is None or package.name not in changed:
            yield stanza.strip("\n")
