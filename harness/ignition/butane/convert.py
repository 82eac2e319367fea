"""Typed Butane fields as the Ignition tree they stand for, less the sugar that has modules of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.ignition.butane.dialect import Dialect
from harness.ignition.butane.embed import embedded, escaped
from harness.ignition.butane.fault import Fault, Mark
from harness.ignition.butane.files import FilesDir
from harness.ignition.butane.grammar import ROOT, fields_of
from harness.ignition.butane.reader import Node
from harness.ignition.spec import text_of

EMBEDDING = ("inline", "local", "source")


@dataclass(frozen=True, slots=True)
class Converter:
    """Turns typed fields of one dialect into Ignition's; local files come from `files`."""

    dialect: Dialect
    files: FilesDir

    def config(self, config: Node) -> Node:
        """The Ignition config, with its version. Raises Fault."""
        converted = self._object(config, ROOT)
        version = Node(text_of(self.dialect.spec), config.value["version"].at)
        ignition = converted.value.get("ignition") or Node({}, version.at)
        converted.value["ignition"] = Node(ignition.value | {"version": version}, ignition.at)
        return converted

    def resource(self, content: bytes, at: Mark, *, is_compressed: bool = False) -> dict[str, Node]:
        """The fields of a resource that holds `content`; what the user compressed is not compressed again."""
        if self.dialect.base == 0:
            return {"source": Node(escaped(content), at)}
        source, compression = embedded(content, may_compress=self.dialect.compresses and not is_compressed)
        found = {"source": Node(source, at)}
        return found if is_compressed else found | {"compression": Node(compression, at)}

    def _object(self, node: Node, kind: str) -> Node:
        fields = fields_of(self.dialect)[kind]
        converted = {
            fields[key].becomes: self._value(value, fields[key].kind, is_list=fields[key].is_list)
            for key, value in node.value.items()
            if fields[key].becomes
        }
        if kind == "resource":
            converted |= self._embedding(node)
        elif kind in {"unit", "dropin"}:
            converted |= self._unit_contents(node)
        elif kind == "user":
            converted |= self._keys(node)
        return Node(converted, node.at)

    def _value(self, node: Node, kind: str, *, is_list: bool) -> Node:
        if is_list:
            return Node([self._value(entry, kind, is_list=False) for entry in node.value], node.at)
        return self._object(node, kind) if isinstance(node.value, dict) else node

    def _embedding(self, node: Node) -> dict[str, Node]:
        given = [key for key in EMBEDDING if key in node.value]
        if len(given) > 1:
            raise Fault(f"only one of {', '.join(EMBEDDING)} can be set", node.value[given[-1]].at)
        is_compressed = bool(node.plain("compression"))
        if (inline := node.get("inline")) is not None:
            return self.resource(inline.value.encode(), inline.at, is_compressed=is_compressed)
        if (local := node.get("local")) is not None:
            content = self.files.read(local.value, local.at)
            return self.resource(content, local.at, is_compressed=is_compressed)
        return {}

    def _unit_contents(self, node: Node) -> dict[str, Node]:
        local = node.get("contents_local")
        if local is None:
            return {}
        if "contents" in node.value:
            raise Fault("only one of contents, contents_local can be set", local.at)
        if not local.value:
            return {}
        return {"contents": Node(self._text(local), local.at)}

    def _keys(self, node: Node) -> dict[str, Node]:
        """Keys of files come after those that are written out; a file has one a line."""
        if "ssh_authorized_keys_local" not in node.value:
            return {}
        keys: list[Any] = list(node.each("ssh_authorized_keys"))
        for local in node.each("ssh_authorized_keys_local"):
            keys += [Node(line, local.at) for line in re.split(r"\r?\n", self._text(local)) if line]
        return {"sshAuthorizedKeys": Node(keys, node.value["ssh_authorized_keys_local"].at)}

    def _text(self, local: Node) -> str:
        try:
            return self.files.read(local.value, local.at).decode()
        except UnicodeDecodeError as cause:
            raise Fault(f'"{local.value}" is not UTF-8', local.at) from cause
