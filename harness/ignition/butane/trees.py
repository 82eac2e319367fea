"""`storage.trees`: folders whose files and symlinks are embedded.

Entries of `files` and `links` with the same path give them their attributes, as Butane documents it. Folders are not
mentioned in the result: Ignition makes the parents of what it writes. A symlink is recorded, never followed; one that
climbs out of the folder of local files is refused, because nothing in the guest stands where it leads.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from harness.ignition.butane.convert import Converter
from harness.ignition.butane.fault import Fault, Mark
from harness.ignition.butane.reader import Node

ENTRY_LIMIT: Final = 10_000  # files and folders of all trees
KINDS: Final = ("files", "directories", "links")


def with_trees(ignition: Node, config: Node, converter: Converter) -> Node:
    """The Ignition tree with everything that lies below the config's trees. Raises Fault."""
    trees = list(config.each("storage", "trees"))
    if not trees:
        return ignition
    nodes = _Nodes(ignition, converter)
    for tree in trees:
        nodes.add_tree(tree)
    return nodes.result()


class _Nodes:
    """The files, directories and links of a config, by path, while trees are added to them."""

    def __init__(self, ignition: Node, converter: Converter) -> None:
        self.ignition, self.converter = ignition, converter
        storage = ignition.get("storage") or Node({}, ignition.at)
        self.storage: dict[str, Node] = dict(storage.value)
        self.at = storage.at
        self.lists: dict[str, list[Node]] = {kind: list(storage.each(kind)) for kind in KINDS}
        self.kind_of = {node.plain("path"): kind for kind in KINDS for node in self.lists[kind]}
        self.index = {node.plain("path"): place for kind in KINDS for place, node in enumerate(self.lists[kind])}
        self.entries = 0

    def result(self) -> Node:
        found = {kind: Node(nodes, self.at) for kind, nodes in self.lists.items() if nodes}
        return Node(self.ignition.value | {"storage": Node(self.storage | found, self.at)}, self.ignition.at)

    def add_tree(self, tree: Node) -> None:
        local = tree.get("local")
        if local is None or not local.value:
            raise Fault("local is required", tree.at)
        base = self.converter.files.find(local.value, local.at)
        if not base.is_dir():
            raise Fault(f'"{local.value}" is not a folder', local.at)
        target = tree.plain("path") or "/"
        for path, status in _walk(base, local.at):
            self.entries += 1
            if self.entries > ENTRY_LIMIT:
                raise Fault(f"trees hold more than {ENTRY_LIMIT:,} files and folders", local.at)
            inside = path.relative_to(base).as_posix()
            if not _is_utf8(inside):
                raise Fault(f"{inside!r} has a name that is not UTF-8", local.at)
            self._add(path, status, posixpath.normpath(f"{target.rstrip('/')}/{inside}"), local)

    def _add(self, path: Path, status: os.stat_result, place: str, local: Node) -> None:
        shown = f"{local.value}/{path.name}"
        if stat.S_ISREG(status.st_mode):
            self._add_file(path, status, place, local.at)
        elif stat.S_ISLNK(status.st_mode):
            self._add_link(path, place, local.at)
        elif not stat.S_ISDIR(status.st_mode):
            raise Fault(f'"{shown}": trees may only hold files, folders and symlinks', local.at)

    def _add_file(self, path: Path, status: os.stat_result, place: str, at: Mark) -> None:
        known = self._existing("files", place, at)
        if known.plain("contents", "source"):
            raise Fault(f"{place} has contents already", at, "leave contents out where a tree brings them")
        contents = known.get("contents") or Node({}, at)
        is_compressed = bool(contents.plain("compression"))
        content = self.converter.files.read_found(path, path.name, at)
        resource = self.converter.resource(content, at, is_compressed=is_compressed)
        mode = known.get("mode") or Node(0o755 if status.st_mode & 0o111 else 0o644, at)
        self._put("files", known, place, {"contents": Node(contents.value | resource, at), "mode": mode})

    def _add_link(self, path: Path, place: str, at: Mark) -> None:
        target = os.readlink(path)  # noqa: PTH115 - Path.readlink tidies what it reads
        if not _is_utf8(target):
            raise Fault(f"{path.name!r} points to a name that is not UTF-8", at)
        if not self.converter.files.holds_target(path, target):
            raise Fault(f'symlink "{path.name}" -> "{target}" leads out of the folder of local files', at)
        if self.converter.dialect.is_openshift:
            raise Fault(f'the tree holds a symlink ("{path.name}"), which openshift does not support', at)
        known = self._existing("links", place, at)
        if known.plain("target"):
            raise Fault(f"{place} has a target already", at, "leave target out where a tree brings it")
        self._put("links", known, place, {"target": Node(target, at)})

    def _existing(self, kind: str, place: str, at: Mark) -> Node:
        if place not in self.kind_of:
            return Node({"path": Node(place, at)}, at)
        if self.kind_of[place] != kind:
            raise Fault(f"{place} is already among {self.kind_of[place]}", at)
        return self.lists[kind][self.index[place]]

    def _put(self, kind: str, known: Node, place: str, more: dict[str, Any]) -> None:
        node = Node(known.value | more, known.at)
        if place in self.kind_of:
            self.lists[kind][self.index[place]] = node
        else:
            self.kind_of[place], self.index[place] = kind, len(self.lists[kind])
            self.lists[kind].append(node)


def _walk(folder: Path, at: Mark) -> Iterator[tuple[Path, os.stat_result]]:
    """What lies below, folders before their contents, names in order; symlinks are not followed."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            status = here.lstat()
            yield here, status
            if stat.S_ISDIR(status.st_mode):
                waiting += sorted(here.iterdir(), key=lambda path: path.name.encode(errors="surrogateescape"))[::-1]
        except OSError as cause:
            raise Fault(f'"{here.name}" cannot be read: {cause.strerror}', at) from cause


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
