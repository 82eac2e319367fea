"""Two trees of an Ignition config put together as Ignition merges a child into its parent.

Facts: Ignition's documentation of config merging (operator notes). Objects are merged key by key; entries of lists
are the same entry when their key is (a file's path, a disk's device), the child's values win, and new entries come
last; a few lists are only ever appended to.
"""

from __future__ import annotations

from typing import Any, Final

from harness.ignition.butane.reader import Node

KEYS: Final = {
    "disks": "device",
    "filesystems": "device",
    "files": "path",
    "directories": "path",
    "links": "path",
    "raid": "name",
    "luks": "name",
    "units": "name",
    "dropins": "name",
    "tang": "url",
}
APPENDED: Final = frozenset({"options", "mountOptions", "openOptions", "append"})


def merged(parent: Node, child: Node, key: str = "") -> Node:
    """What Ignition would make of both."""
    if isinstance(parent.value, dict) and isinstance(child.value, dict):
        both = dict(parent.value)
        for name, node in child.value.items():
            both[name] = merged(both[name], node, name) if name in both else node
        return Node(both, child.at)
    if isinstance(parent.value, list) and isinstance(child.value, list):
        return Node(_lists(parent.value, child.value, key), child.at)
    return child


def _lists(parent: list[Node], child: list[Node], key: str) -> list[Node]:
    if key in APPENDED:
        return [*parent, *child]
    by_key = {_identity(node, key): node for node in child}
    known = {_identity(node, key) for node in parent}
    kept = [merged(node, by_key[_identity(node, key)]) if _identity(node, key) in by_key else node for node in parent]
    return kept + [node for node in child if _identity(node, key) not in known]


def _identity(node: Node, key: str) -> Any:
    """What makes an entry of a list the same as another: a partition is known by number, else by label."""
    if not isinstance(node.value, dict):
        return node.value
    if key == "partitions":
        return node.plain("number", default=0) or node.plain("label", default="")
    return node.plain(KEYS.get(key, "name"), default="")
