"""Rules for disks, partitions, RAID arrays, LUKS volumes and filesystems of an Ignition config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from harness.ignition.finding import Finding
from harness.ignition.paths import path_findings, repeated, size_of
from harness.ignition.source import SCHEME, resource_findings, url_problem
from harness.ignition.spec import Version

Entry = Mapping[str, Any]

GUID = re.compile(r"(?:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12})?")
PARTITION_LABEL_LIMIT = 36
SECTORS_PER_MIB = 2048  # spec 2 counts in sectors and wants starts on MiB boundaries
FILESYSTEM_LABEL_LIMITS = {"ext4": 16, "btrfs": 256, "xfs": 12, "swap": 15, "vfat": 11}  # bytes
LUKS_LABEL_LIMIT = 47  # bytes: 48 in the LUKS2 header with the final zero
LEVELS_WITHOUT_SPARES = {"linear", "raid0", "0", "stripe"}
LEVELS_WITH_SPARES = {"raid1", "1", "mirror", "raid4", "4", "raid5", "5", "raid6", "6", "raid10", "10"}
CLEVIS_PINS = {"tpm2", "tang", "sss"}


def disk_findings(path: str, disk: Entry, version: Version) -> Iterator[Finding]:
    """A disk's device and the partitions it shall have."""
    yield from path_findings(f"{path}.device", disk.get("device", ""), what="disk device")
    partitions = disk.get("partitions", [])
    for index, partition in enumerate(partitions):
        yield from _partition_findings(f"{path}.partitions[{index}]", partition, version)
    where = f"{path}.partitions"
    numbers = [str(partition.get("number", 0)) for partition in partitions]
    for index in repeated(numbers):
        if numbers[index] != "0" or version < (3, 0):
            yield Finding(f"{where}[{index}]", f"partition number {numbers[index]} is used twice")
    yield from _overlap_findings(where, partitions, version)
    if version[0] > 2:
        yield from _disk_findings_3(where, partitions)


def _disk_findings_3(where: str, partitions: list[Entry]) -> Iterator[Finding]:
    labelled = [(index, partition["label"]) for index, partition in enumerate(partitions) if "label" in partition]
    for position in repeated([label for _, label in labelled]):
        index, label = labelled[position]
        yield Finding(f"{where}[{index}].label", f'partition label "{label}" is used twice')
    vanishing = any(partition.get("shouldExist") is False for partition in partitions)
    if vanishing and any(not partition.get("number") for partition in partitions):
        yield Finding(where, "a partition that should not exist cannot be mixed with partitions without a number")


def _partition_findings(path: str, partition: Entry, version: Version) -> Iterator[Finding]:
    label = partition.get("label", "")
    if size_of(label) > PARTITION_LABEL_LIMIT:
        yield Finding(f"{path}.label", f"partition labels may not exceed {PARTITION_LABEL_LIMIT} characters")
    if ":" in label:
        yield Finding(f"{path}.label", "partition label would be truncated to the text before the colon")
    for key in ("typeGuid", "guid"):
        if not GUID.fullmatch(partition.get(key, "")):
            words = f'"{partition[key][:40]}" is not a GUID like 01234567-89AB-CDEF-EDCB-A98765432101'
            yield Finding(f"{path}.{key}", words)
    if version < (3, 0):
        if partition.get("start", 0) % SECTORS_PER_MIB:
            yield Finding(f"{path}.start", f"partition misaligned: not a multiple of {SECTORS_PER_MIB} sectors (1 MiB)")
        return
    if not partition.get("number") and "label" not in partition:
        yield Finding(path, "a partition number >= 1 or a label must be specified")
    others = [key for key in ("label", "startMiB", "sizeMiB", "typeGuid", "guid") if key in partition]
    others = [key for key in others if partition[key] != "" or key == "label"]
    if partition.get("shouldExist") is False and others:
        yield Finding(path, f"shouldExist is false, but {', '.join(others)} is given too")


def _overlap_findings(where: str, partitions: list[Entry], version: Version) -> Iterator[Finding]:
    """Partitions with an explicit start must not share a MiB (a sector in spec 2).

    A size of 0 means "what is left" and counts as one unit here, as in Ignition.
    """
    start_key, size_key = ("start", "size") if version < (3, 0) else ("startMiB", "sizeMiB")
    spans = []
    for index, partition in enumerate(partitions):
        start, size = partition.get(start_key, 0), partition.get(size_key, 0 if version < (3, 0) else None)
        if start and size is not None:
            spans.append((start, start + size - 1 if size else start, index))
    spans.sort()
    for (_, end, first), (start, _, second) in pairwise(spans):
        if start <= end:
            later, earlier = max(first, second), min(first, second)
            yield Finding(f"{where}[{later}]", f"partitions overlap: this one and {where}[{earlier}]")


def raid_findings(path: str, raid: Entry, version: Version) -> Iterator[Finding]:
    """A RAID array's level and devices."""
    level = raid.get("level", "")
    if not level and version >= (3, 3):
        yield Finding(f"{path}.level", "raid level is required")
    elif level in LEVELS_WITHOUT_SPARES:
        if raid.get("spares", 0):
            yield Finding(f"{path}.level", f"a {level} array cannot have spares")
    elif level not in LEVELS_WITH_SPARES:
        yield Finding(f"{path}.level", f'unrecognized raid level "{level}"')
    devices = raid.get("devices", [])
    if not devices and (version >= (3, 3) or "devices" in raid):
        yield Finding(f"{path}.devices", "raid devices required")
    for index, device in enumerate(devices):
        yield from path_findings(f"{path}.devices[{index}]", device, what="device")
    if version[0] > 2:
        for index in repeated(devices):
            yield Finding(f"{path}.devices[{index}]", f'duplicate device "{devices[index]}"')


def luks_findings(path: str, luks: Entry, version: Version) -> Iterator[Finding]:
    """A LUKS volume (spec 3.2 and later)."""
    if "/" in luks.get("name", ""):
        yield Finding(f"{path}.name", "device names cannot contain slashes")
    if size_of(luks.get("label", "")) > LUKS_LABEL_LIMIT:
        yield Finding(f"{path}.label", f"luks device labels cannot be longer than {LUKS_LABEL_LIMIT} characters")
    yield from path_findings(f"{path}.device", luks.get("device", ""), what="disk device")
    yield from resource_findings(f"{path}.keyFile", luks.get("keyFile", {}), version, needed=False)
    clevis = luks.get("clevis", {})
    if "clevis" in luks:
        yield from _clevis_findings(f"{path}.clevis", clevis, version)
    if luks.get("cex", {}).get("enabled"):
        if any(clevis.get(key) for key in ("custom", "tang", "tpm2", "threshold")):
            yield Finding(f"{path}.cex", "cex cannot be used with clevis")
        if luks.get("keyFile", {}).get("source"):
            yield Finding(f"{path}.cex", "cex cannot be used with a key file")


def _clevis_findings(path: str, clevis: Entry, version: Version) -> Iterator[Finding]:
    custom = clevis.get("custom", {})
    # A custom pin that says nothing is treated as absent from 3.3 on; in 3.2 its mere presence counts.
    is_custom = "custom" in clevis if version < (3, 3) else bool(custom.get("pin") or custom.get("config"))
    is_custom = is_custom or (version >= (3, 3) and custom.get("needsNetwork") is True)
    if is_custom and (clevis.get("tang") or clevis.get("tpm2") or clevis.get("threshold")):
        yield Finding(path, "cannot use custom clevis config with tpm2, tang, or threshold")
    speaks = custom.get("pin") or custom.get("config") or (version >= (3, 3) and custom.get("needsNetwork"))
    if speaks:
        if not custom.get("pin"):
            yield Finding(f"{path}.custom.pin", "missing required custom clevis pin")
        elif custom["pin"] not in CLEVIS_PINS:
            yield Finding(f"{path}.custom.pin", f'unsupported clevis pin "{custom["pin"]}"')
        if not custom.get("config"):
            yield Finding(f"{path}.custom.config", "missing required custom clevis config")
    servers = clevis.get("tang", [])
    for index, tang in enumerate(servers):
        yield from _tang_findings(f"{path}.tang[{index}]", tang, version)
    for index in repeated([tang.get("url", "") for tang in servers]):
        yield Finding(f"{path}.tang[{index}]", "duplicate tang server")


def _tang_findings(path: str, tang: Entry, version: Version) -> Iterator[Finding]:
    url = tang.get("url", "")
    scheme = SCHEME.match(url)
    if scheme is None or scheme[1].lower() not in {"http", "https"} or url_problem(url, version):
        yield Finding(f"{path}.url", "a tang server needs an http or https URL")
    if not tang.get("thumbprint"):
        yield Finding(f"{path}.thumbprint", "thumbprint is required")
    if advertisement := tang.get("advertisement"):
        try:
            json.loads(advertisement)
        except (ValueError, RecursionError):
            yield Finding(f"{path}.advertisement", "advertisement is not valid JSON")


def filesystem_findings(path: str, filesystem: Entry, version: Version) -> Iterator[Finding]:
    """A filesystem of spec 3."""
    yield from path_findings(f"{path}.device", filesystem.get("device", ""), what="device")
    if filesystem.get("path"):
        yield from path_findings(f"{path}.path", filesystem["path"])
    kind = filesystem.get("format", "")
    formats = set(FILESYSTEM_LABEL_LIMITS) | ({"none"} if version >= (3, 3) else set())
    if kind:
        if kind not in formats:
            yield Finding(f"{path}.format", f'filesystem format "{kind}" is not one of {", ".join(sorted(formats))}')
        yield from _label_findings(path, filesystem)
        return
    needing = ["path", "label", "uuid", "options", "mountOptions", "wipeFilesystem"]
    found = [key for key in needing if filesystem.get(key)]
    if found:
        yield Finding(f"{path}.format", f"format cannot be empty when {', '.join(found)} is specified")


def filesystem_findings_2(path: str, filesystem: Entry) -> Iterator[Finding]:
    """A filesystem of spec 2.2: either mounted by Ignition or there already."""
    mount = filesystem.get("mount")
    if mount is None and "path" not in filesystem:
        yield Finding(path, "filesystem is missing mount or path")
    if mount is not None and "path" in filesystem:
        yield Finding(path, "filesystem has both mount and path defined")
    if "path" in filesystem:
        yield from path_findings(f"{path}.path", filesystem["path"])
    if mount is None:
        return
    yield from path_findings(f"{path}.mount.device", mount.get("device", ""), what="device")
    if mount.get("format") not in FILESYSTEM_LABEL_LIMITS:
        yield Finding(f"{path}.mount.format", f"filesystem format must be one of {', '.join(FILESYSTEM_LABEL_LIMITS)}")
    yield from _label_findings(f"{path}.mount", mount)
    if "create" in mount:
        if mount.get("wipeFilesystem") or mount.get("options"):
            yield Finding(f"{path}.mount", "create cannot be used with wipeFilesystem or options")
        yield Finding(f"{path}.mount.create", "create is deprecated: use the options of mount", "warning")


def _label_findings(path: str, filesystem: Entry) -> Iterator[Finding]:
    limit = FILESYSTEM_LABEL_LIMITS.get(filesystem.get("format", ""))
    if limit and size_of(filesystem.get("label", "")) > limit:
        kind = filesystem["format"]
        yield Finding(f"{path}.label", f"filesystem labels cannot be longer than {limit} characters when using {kind}")
