"""What an Ignition config does, as a person reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from harness.ignition.config import Config, File, Unit

INDENT = "  "
PRINTABLE_LIMIT = 120  # characters of a value from outside


def lines_of(config: Config) -> Iterator[str]:
    """A paragraph a section, in the order Ignition works through them; sections that do nothing are left out.

    Raises InvalidIgnition for contents that cannot be decoded.
    """
    yield f"{_clean(config.name)}: Ignition {config.spec}"
    sections = (
        ("configs from elsewhere", _sources(config)),
        ("kernel arguments", _kernel_arguments(config)),
        ("disks", _disks(config)),
        ("users and groups", _accounts(config)),
        ("files", map(_file, config.files())),
        ("directories", _nodes(config, "directories")),
        ("links", _nodes(config, "links")),
        ("units", map(_unit, config.units())),
    )
    is_empty = True
    for title, lines in sections:
        found = list(lines)
        if found:
            is_empty = False
            yield f"{title}:"
            yield from (INDENT + line for line in found)
    if is_empty:
        yield "does nothing"


def _sources(config: Config) -> Iterator[str]:
    ignition = _dict(config.document, "ignition")
    replacement = _dict(ignition, "config")
    for how in ("merge", "append"):
        for resource in _list(replacement, how):
            yield f"{how}: {_source(resource)}"
    if replacement.get("replace"):
        yield f"replaced by: {_source(_dict(replacement, 'replace'))}"
    for authority in _list(_dict(_dict(ignition, "security"), "tls"), "certificateAuthorities"):
        yield f"certificate authority: {_source(authority)}"
    for key, value in _dict(ignition, "proxy").items():
        yield f"{_clean(key)}: {_clean(value)}"


def _kernel_arguments(config: Config) -> Iterator[str]:
    arguments = config.kernel_arguments()
    yield from (f"must have: {_clean(argument)}" for argument in arguments.should_exist)
    yield from (f"must not have: {_clean(argument)}" for argument in arguments.should_not_exist)


def _disks(config: Config) -> Iterator[str]:
    storage = _dict(config.document, "storage")
    for disk in _list(storage, "disks"):
        yield _clean(disk.get("device")) + (" (partition table wiped)" if disk.get("wipeTable") else "")
        for partition in _list(disk, "partitions"):
            yield INDENT + _partition(partition)
    for raid in _list(storage, "raid"):
        devices = ", ".join(map(_clean, raid.get("devices") or ()))
        yield f"{_clean(raid.get('level'))} {_clean(raid.get('name'))} of {devices}"
    for luks in _list(storage, "luks"):
        yield f"LUKS {_clean(luks.get('name'))} on {_clean(luks.get('device'))}, unlocked by {_unlocked_by(luks)}"
    for filesystem in _list(storage, "filesystems"):
        mount = _dict(filesystem, "mount") or filesystem  # spec 2
        path = f" at {_clean(filesystem['path'])}" if filesystem.get("path") else ""
        wiped = " (wiped)" if mount.get("wipeFilesystem") else ""
        yield f"{_clean(mount.get('format') or 'filesystem')} on {_clean(mount.get('device'))}{path}{wiped}"


def _partition(partition: dict[str, Any]) -> str:
    name = partition.get("number") or "next free"
    size = partition.get("sizeMiB", partition.get("size"))
    label = f' "{_clean(partition["label"])}"' if partition.get("label") else ""
    gone = ", must not exist" if partition.get("shouldExist") is False else ""
    return f"partition {_clean(name)}{label}, {f'{size} MiB' if size else 'all that is left'}{gone}"


def _unlocked_by(luks: dict[str, Any]) -> str:
    clevis = _dict(luks, "clevis")
    found = [f"Tang {_clean(server.get('url'))}" for server in _list(clevis, "tang")]
    found += ["TPM 2"] * bool(clevis.get("tpm2")) + ["a custom pin"] * bool(clevis.get("custom"))
    found += ["Crypto Express"] * bool(_dict(luks, "cex").get("enabled"))
    found += ["a key file"] * bool(luks.get("keyFile"))
    threshold = clevis.get("threshold")
    needed = f" ({_clean(threshold)} of them needed)" if threshold else ""
    return (", ".join(found) or "a key that is thrown away") + needed


def _accounts(config: Config) -> Iterator[str]:
    for user in config.users():
        parts = [f"{len(user.ssh_keys)} SSH {'key' if len(user.ssh_keys) == 1 else 'keys'}"] * bool(user.ssh_keys)
        parts += ["a password"] * bool(user.password_hash)
        parts += [f"in {', '.join(map(_clean, user.groups))}"] * bool(user.groups)
        yield f"user {_clean(user.name)}: {', '.join(parts) or 'as it is'}"
    for group in _list(_dict(config.document, "passwd"), "groups"):
        yield f"group {_clean(group.get('name'))}"


def _file(file: File) -> str:
    if file.content is not None:
        digest = hashlib.sha256(file.content).hexdigest()
        what = f"{len(file.content):,} bytes, sha256 {digest[:16]}"
    else:
        what = f"from {_clean(file.source)}" if file.source else "as it is, or empty"
    mode = "default" if file.mode is None else f"{file.mode:04o}"
    return f"{mode} {_owner(file.user)}:{_owner(file.group)} {_clean(file.path)}  {what}"


def _nodes(config: Config, kind: str) -> Iterator[str]:
    for node in _list(_dict(config.document, "storage"), kind):
        mode, target = node.get("mode"), node.get("target")
        attributes = f"{mode:04o} " if isinstance(mode, int) else ""
        owner = ":".join(_owner(_name_of(_dict(node, key))) for key in ("user", "group"))
        arrow = f" -> {_clean(target)}{' (hard)' if node.get('hard') else ''}" if target else ""
        yield f"{attributes}{owner} {_clean(node.get('path'))}{arrow}"


def _unit(unit: Unit) -> str:
    states = {True: ["enabled"], False: ["disabled"], None: []}[unit.enabled] + ["masked"] * bool(unit.mask)
    if unit.contents:
        states.append(f"{len(unit.contents.encode(errors='replace')):,} bytes")
    states += [f"drop-in {_clean(name)}" for name, _ in unit.dropins]
    return f"{_clean(unit.name)}: {', '.join(states) or 'as it is'}"


def _source(resource: dict[str, Any]) -> str:
    source = str(resource.get("source") or "nothing")
    if source.startswith("data:"):
        return f"embedded, {len(source):,} characters"
    digest = _dict(resource, "verification").get("hash")
    return _clean(source) + (f" ({_clean(digest)[:24]}...)" if digest else " (not verified)")


def _owner(owner: str | int | None) -> str:
    return "root" if owner is None else _clean(owner)


def _name_of(owner: dict[str, Any]) -> str | int | None:
    found = owner.get("name") or owner.get("id")
    return found if isinstance(found, str | int) else None


def _clean(value: object) -> str:
    """A value from outside, safe for a terminal."""
    text = "".join(character if character.isprintable() else "?" for character in str(value))
    return text if len(text) <= PRINTABLE_LIMIT else text[: PRINTABLE_LIMIT - 3] + "..."


def _dict(parent: dict[str, Any], key: str) -> dict[str, Any]:
    found = parent.get(key)
    return found if isinstance(found, dict) else {}


def _list(parent: dict[str, Any], key: str) -> list[dict[str, Any]]:
    found = parent.get(key)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
