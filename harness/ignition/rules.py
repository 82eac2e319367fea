"""The rules of Ignition that no schema can say, one section of a config after the other.

Works on documents whose types are right and whose nulls are gone (`schema.without_nulls`).
Facts: Ignition's documentation, and what `ignition-validate` 2.14 answers (specs 3.0 to 3.3, compared by the tests);
for 3.4, 3.5 and 2.2, which it does not know, the documentation alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

from harness.ignition import disks, units
from harness.ignition.finding import Finding, Severity
from harness.ignition.paths import mode_findings, owner_findings, path_findings, repeated
from harness.ignition.source import SCHEME, resource_findings
from harness.ignition.spec import Version

Entry = Mapping[str, Any]
NODE_KINDS = ("files", "directories", "links")
UNIT_FOLDER = "/etc/systemd/system"


def rule_findings(document: Entry, version: Version) -> Iterator[Finding]:
    """Every rule a config breaks, and every doubt about it."""
    yield from _ignition_findings(document.get("ignition", {}), version)
    yield from _storage_findings(document.get("storage", {}), version)
    yield from _each(document.get("systemd", {}), "$.systemd", "units", version, units.unit_findings)
    yield from _each(document.get("networkd", {}), "$.networkd", "units", version, units.networkd_findings)
    if version >= (3, 0):
        yield from _uniqueness_findings(document)
        yield from _node_conflicts(document, version)


def _ignition_findings(ignition: Entry, version: Version) -> Iterator[Finding]:
    replacement = ignition.get("config", {})
    needed = version >= (3, 1)
    path = "$.ignition.config"
    for key in ("merge", "append"):
        for index, reference in enumerate(replacement.get(key, [])):
            yield from resource_findings(f"{path}.{key}[{index}]", reference, version, needed=needed)
    yield from resource_findings(f"{path}.replace", replacement.get("replace", {}), version, needed=False)
    path = "$.ignition.security.tls.certificateAuthorities"
    authorities = ignition.get("security", {}).get("tls", {}).get("certificateAuthorities", [])
    for index, authority in enumerate(authorities):
        yield from resource_findings(f"{path}[{index}]", authority, version, needed=True)
    for key in ("httpProxy", "httpsProxy"):
        yield from _proxy_findings(f"$.ignition.proxy.{key}", ignition.get("proxy", {}).get(key))


def _proxy_findings(path: str, proxy: str | None) -> Iterator[Finding]:
    if proxy is None:
        return
    scheme = SCHEME.match(proxy)
    if scheme is None or scheme[1].lower() not in {"http", "https"}:
        yield Finding(path, "proxies must be http(s) URLs")
    elif path.endswith("httpsProxy") and scheme[1].lower() == "http":
        yield Finding(path, "insecure plaintext HTTP proxy specified for HTTPS resources", "warning")


def _storage_findings(storage: Entry, version: Version) -> Iterator[Finding]:
    path = "$.storage"
    yield from _each(storage, path, "disks", version, disks.disk_findings)
    yield from _each(storage, path, "raid", version, disks.raid_findings)
    yield from _each(storage, path, "luks", version, disks.luks_findings)
    for index, filesystem in enumerate(storage.get("filesystems", [])):
        where = f"{path}.filesystems[{index}]"
        if version < (3, 0):
            yield from disks.filesystem_findings_2(where, filesystem)
        else:
            yield from disks.filesystem_findings(where, filesystem, version)
    for kind in NODE_KINDS:
        yield from _each(storage, path, kind, version, _node_findings)
    yield from _each(storage, path, "files", version, _file_findings)
    for index, link in enumerate(storage.get("links", [])):
        if not link.get("target") and (version >= (3, 3) or version < (3, 0)):
            yield Finding(f"{path}.links[{index}].target", "link target is required")


def _node_findings(path: str, node: Entry, version: Version) -> Iterator[Finding]:
    yield from path_findings(f"{path}.path", node.get("path", ""))
    yield from mode_findings(f"{path}.mode", node, version)
    yield from owner_findings(path, node)
    if version < (3, 0) and not node.get("filesystem"):
        yield Finding(f"{path}.filesystem", "no filesystem specified (the root filesystem is called root)")


def _file_findings(path: str, file: Entry, version: Version) -> Iterator[Finding]:
    contents, append = file.get("contents", {}), file.get("append", [])
    yield from resource_findings(f"{path}.contents", contents, version, needed=False)
    if version < (3, 0):
        if append and file.get("overwrite"):
            yield Finding(path, "cannot set both append and overwrite to true")
        return
    if file.get("overwrite") and "source" not in contents:
        yield Finding(f"{path}.overwrite", "overwrite must be false if source is unspecified")
    for index, resource in enumerate(append):
        yield from resource_findings(f"{path}.append[{index}]", resource, version, needed=False)


def _each(
    section: Entry, path: str, key: str, version: Version, check: Callable[[str, Entry, Version], Iterator[Finding]]
) -> Iterator[Finding]:
    for index, entry in enumerate(section.get(key, [])):
        yield from check(f"{path}.{key}[{index}]", entry, version)


def _uniqueness_findings(document: Entry) -> Iterator[Finding]:
    """Lists of spec 3 that configs are merged by must not name a thing twice."""
    storage, passwd = document.get("storage", {}), document.get("passwd", {})
    ignition = document.get("ignition", {})
    proxy, replacement = ignition.get("proxy", {}), ignition.get("config", {})
    authorities = ignition.get("security", {}).get("tls", {}).get("certificateAuthorities", [])
    arguments = document.get("kernelArguments", {})
    lists: list[tuple[str, list[str]]] = [
        ("$.ignition.config.merge", _keys(replacement.get("merge", []), "source")),
        ("$.ignition.security.tls.certificateAuthorities", _keys(authorities, "source")),
        ("$.ignition.proxy.noProxy", proxy.get("noProxy", [])),
        ("$.storage.disks", _keys(storage.get("disks", []), "device")),
        ("$.storage.raid", _keys(storage.get("raid", []), "name")),
        ("$.storage.luks", _keys(storage.get("luks", []), "name")),
        ("$.storage.filesystems", _keys(storage.get("filesystems", []), "device")),
        ("$.systemd.units", _keys(document.get("systemd", {}).get("units", []), "name")),
        ("$.passwd.users", _keys(passwd.get("users", []), "name")),
        ("$.passwd.groups", _keys(passwd.get("groups", []), "name")),
    ]
    for index, user in enumerate(passwd.get("users", [])):
        lists += [(f"$.passwd.users[{index}].{key}", user.get(key, [])) for key in ("sshAuthorizedKeys", "groups")]
    for path, keys in lists:
        yield from (Finding(f"{path}[{index}]", f'duplicate entry "{keys[index][:60]}"') for index in repeated(keys))
    wanted, unwanted = arguments.get("shouldExist", []), arguments.get("shouldNotExist", [])
    for position in repeated([*wanted, *unwanted]):
        key, index = ("shouldExist", position) if position < len(wanted) else ("shouldNotExist", position - len(wanted))
        yield Finding(f"$.kernelArguments.{key}[{index}]", "duplicate kernel argument")
    for path, headers in _header_lists(document):
        for index in repeated(_keys(headers, "name")):
            yield Finding(f"{path}[{index}]", "duplicate HTTP header")


def _header_lists(value: Any, path: str = "$") -> Iterator[tuple[str, list[Entry]]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "httpHeaders":
                yield f"{path}.{key}", inner
            else:
                yield from _header_lists(inner, f"{path}.{key}")
    elif isinstance(value, list):
        yield from chain.from_iterable(_header_lists(inner, f"{path}[{index}]") for index, inner in enumerate(value))


def _keys(entries: list[Entry], key: str) -> list[str]:
    return [entry.get(key, "") for entry in entries]


def _node_conflicts(document: Entry, version: Version) -> Iterator[Finding]:
    """No two nodes at one path, none below a link, none where systemd's units are written."""
    storage = document.get("storage", {})
    nodes = [
        (f"$.storage.{kind}[{index}]", node.get("path", ""))
        for kind in NODE_KINDS
        for index, node in enumerate(storage.get(kind, []))
    ]
    for index in repeated([path for _, path in nodes]):
        yield Finding(nodes[index][0], f'duplicate entry "{nodes[index][1]}"')
    links = {link.get("path", "") for link in storage.get("links", [])} - {""}
    folders = {folder.get("path", "") for folder in storage.get("directories", [])}
    for index, link in enumerate(storage.get("links", [])):
        if link.get("hard") and link.get("target") in folders:
            yield Finding(f"$.storage.links[{index}].target", "hard link target is a directory")
    written = _unit_paths(document.get("systemd", {}).get("units", []))
    for where, path in nodes:
        if path in written:
            # Ignition 2.14 let this pass; later releases refuse it in every spec.
            severity: Severity = "error" if version >= (3, 4) else "warning"
            yield Finding(f"{where}.path", "path conflicts with systemd unit or dropin", severity)
        parents = path.split("/")
        for depth in range(2, len(parents)):
            parent = "/".join(parents[:depth])
            if parent in links:
                yield Finding(where, f'path includes link "{parent}" in config')


def _unit_paths(entries: list[Entry]) -> set[str]:
    paths = set()
    for unit in entries:
        place = f"{UNIT_FOLDER}/{unit.get('name', '')}"
        if unit.get("contents"):
            paths.add(place)
        paths |= {f"{place}.d/{dropin.get('name', '')}" for dropin in unit.get("dropins", []) if dropin.get("contents")}
    return paths
