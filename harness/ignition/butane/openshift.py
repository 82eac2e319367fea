"""The openshift variant: what the Machine Config Operator refuses, FIPS ciphers, and the MachineConfig around it all.

Facts: Butane's specifications openshift 4.8 to 4.22 and its release notes 0.11 to 0.19.
"""

from __future__ import annotations

from typing import Any, Final

from harness.ignition.butane.dialect import Dialect
from harness.ignition.butane.fault import Fault, Remark
from harness.ignition.butane.reader import Node
from harness.ignition.source import SCHEME

API_VERSION: Final = "machineconfiguration.openshift.io/v1"
ROLE: Final = "machineconfiguration.openshift.io/role"
KERNELS: Final = ("", "default", "realtime")
USER_FIELDS: Final = frozenset({"name", "ssh_authorized_keys", "ssh_authorized_keys_local", "password_hash"})
PASSWORD_SINCE: Final = (4, 13)
COMPRESSION_SINCE: Final = (4, 10)
CIPHER_UNTIL: Final = (4, 19)
CIPHER: Final = ("--cipher", "aes-cbc-essiv:sha256")  # FIPS 140-2 does not allow the default XTS mode
PLAIN_MODES: Final = 0o777
OPTIONS: Final = {
    "extensions": "extensions",
    "fips": "fips",
    "kernel_arguments": "kernelArguments",
    "kernel_type": "kernelType",
}


def check_openshift(config: Node, dialect: Dialect) -> None:
    """Raise Fault for the first thing that a MachineConfig cannot have."""
    _check_metadata(config)
    kernel = config.get("openshift", "kernel_type")
    if kernel is not None and kernel.value not in KERNELS:
        raise Fault(f'kernel_type "{kernel.value[:40]}" must be default or realtime', kernel.at)
    _refuse("kernel_arguments", config.get("kernel_arguments"), "use openshift.kernel_arguments")
    _refuse("passwd.groups", config.get("passwd", "groups"))
    _refuse("storage.directories", config.get("storage", "directories"))
    _refuse("storage.links", config.get("storage", "links"))
    for filesystem in config.each("storage", "filesystems"):
        kind = filesystem.get("format")
        if kind is not None and kind.value in {"btrfs", "none"}:
            raise Fault(f"filesystem format {kind.value} is not supported on openshift", kind.at)
    for file in config.each("storage", "files"):
        _check_file(file, dialect)
    for user in config.each("passwd", "users"):
        _check_user(user, dialect)


def cipher_added(ignition: Node, config: Node, dialect: Dialect) -> Node:
    """With FIPS, LUKS volumes get a cipher that it allows, unless they name one."""
    fips = config.get("openshift", "fips")
    volumes = list(ignition.each("storage", "luks"))
    if fips is None or not fips.value or dialect.version > CIPHER_UNTIL or not volumes:
        return ignition
    storage = ignition.value["storage"]
    done = []
    for volume in volumes:
        options = list(volume.each("options"))
        named = any(option.value in {"--cipher", "-c"} or option.value.startswith("--cipher=") for option in options)
        added = [] if named else [Node(word, fips.at) for word in CIPHER]
        done.append(Node(volume.value | {"options": Node([*options, *added], fips.at)}, volume.at))
    luks = Node(done, storage.value["luks"].at)
    return Node(ignition.value | {"storage": Node(storage.value | {"luks": luks}, storage.at)}, ignition.at)


def machine_config(config: Node, ignition: dict[str, Any]) -> dict[str, Any]:
    """The MachineConfig that carries an Ignition document."""
    spec: dict[str, Any] = {"config": ignition}
    for key, name in OPTIONS.items():
        found = config.get("openshift", key)
        if found is not None and found.value != []:
            is_list = isinstance(found.value, list)
            spec[name] = [entry.value for entry in found.value] if is_list else found.value
    labels = {key: node.value for key, node in config.value["metadata"].value["labels"].value.items()}
    metadata = {"labels": labels, "name": config.plain("metadata", "name")}
    return {"apiVersion": API_VERSION, "kind": "MachineConfig", "metadata": metadata, "spec": spec}


def left_out(config: Node) -> list[Remark]:
    """What an Ignition config cannot say and a MachineConfig could (--raw)."""
    options = [config.get("openshift", key) for key in OPTIONS]
    words = "is left out of an Ignition config (--raw)"
    return [Remark(found.at, words) for found in options if found is not None and found.value not in ([], "")]


def _check_metadata(config: Node) -> None:
    metadata = config.get("metadata")
    if metadata is None:
        raise Fault("metadata is required", config.at, f"with name and the label {ROLE}")
    if not metadata.plain("name"):
        raise Fault("metadata.name is required", metadata.at)
    labels = metadata.get("labels")
    if labels is None or not labels.plain(ROLE):
        raise Fault(f"the label {ROLE} is required", labels.at if labels else metadata.at)


def _check_file(file: Node, dialect: Dialect) -> None:
    _refuse("append", file.get("append"))
    _refuse("http_headers of a file", file.get("contents", "http_headers"))
    source, mode = file.get("contents", "source"), file.get("mode")
    scheme = SCHEME.match(source.value) if source is not None else None
    if source is not None and (scheme is None or scheme[1].lower() != "data") and source.value:
        raise Fault("openshift supports only data: URLs as the source of a file", source.at)
    if mode is not None and mode.value & ~PLAIN_MODES and dialect.version >= COMPRESSION_SINCE:
        raise Fault("openshift does not support setuid, setgid and sticky bits", mode.at)
    compression = file.get("contents", "compression")
    if compression is not None and compression.value and dialect.version < COMPRESSION_SINCE:
        raise Fault("compression of files came with openshift 4.10.0", compression.at)


def _check_user(user: Node, dialect: Dialect) -> None:
    if user.plain("name") != "core":
        name = user.get("name")
        raise Fault("the only user that openshift supports is core", name.at if name else user.at)
    for key, node in user.value.items():
        if key not in USER_FIELDS:
            raise Fault(f"{key} of a user is not supported on openshift", node.at)
        if key == "password_hash" and dialect.version < PASSWORD_SINCE:
            raise Fault("password_hash came with openshift 4.13.0", node.at)


def _refuse(what: str, node: Node | None, instead: str = "") -> None:
    if node is not None and node.value not in ([], {}):
        raise Fault(f"{what} is not supported on openshift", node.at, instead)
