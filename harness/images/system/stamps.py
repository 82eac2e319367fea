"""What an image says of itself: os-release, aleph, platforms.json, Ignition's first-boot stamp, console settings.

Facts: os-release(5); osbuild's stages org.osbuild.ostree.aleph, org.osbuild.ignition and org.osbuild.coreos.platform;
ignition's grub2 snippet.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from harness.errors import DamagedImage, MissingFile
from harness.images.filesystems.files import Files, shown

LARGEST = 2**20  # bytes of any of these files
OS_RELEASE_PATHS = ("/etc/os-release", "/usr/lib/os-release")
STAMP = "/ignition.firstboot"
USER_CONFIG = "/ignition/config.ign"
PLATFORMS = "/coreos/platforms.json"
CONSOLE_PATHS = ("/grub2/console.cfg", "/grub2/grub.cfg")
CONSOLE_START, CONSOLE_END = "# CONSOLE-SETTINGS-START", "# CONSOLE-SETTINGS-END"
NETWORK_KARGS: Final = re.compile(r"""\s*set ignition_network_kcmdline=(['"])(.*)\1\s*""")

AlephFormat = Literal["cosa", "osbuild", "bootc"]
ALEPHS: Final[Mapping[str, AlephFormat]] = {  # newest first: a newer format leaves symlinks under the older names
    "/.bootc-aleph.json": "bootc",
    "/.aleph-version.json": "osbuild",
    "/.coreos-aleph-version.json": "cosa",
}


@dataclass(frozen=True, slots=True)
class Aleph:
    """The record of the build that a disk was first made from."""

    path: str
    format: AlephFormat
    fields: Mapping[str, Any]
    links: Mapping[str, str]  # older names and where they point


@dataclass(frozen=True, slots=True)
class IgnitionState:
    """Whether Ignition will run at the next boot, and with what."""

    stamp: Literal["absent", "empty", "network", "other"]
    network_kargs: str  # what the stamp sets, or its whole content where it is nothing we know
    user_config_sha256: str | None  # of /boot/ignition/config.ign


@dataclass(frozen=True, slots=True)
class Platform:
    """What one platform adds to the boot configuration."""

    kernel_arguments: tuple[str, ...]
    grub_commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Console:
    """GRUB's console settings, the lines between the two markers."""

    path: str
    commands: tuple[str, ...]


def parse_os_release(text: str, where: str) -> dict[str, str]:
    r"""The variables in their order. Raises DamagedImage naming the line that no shell would read as an assignment.

    >>> parse_os_release('NAME="Some OS"\nID=some\n', "x")
    {'NAME': 'Some OS', 'ID': 'some'}
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        key, equals, value = line.strip().partition("=")
        try:
            words = shlex.split(value)
        except ValueError:
            words = ["", ""]
        if not equals or len(words) > 1:
            raise DamagedImage(f"line {number} is not an assignment: {shown(line[:60])}", where=where)
        found[key] = words[0] if words else ""
    return found


def read_os_release(tree: Files) -> dict[str, str]:
    """os-release of a system tree, keys in their order."""
    path = next((path for path in OS_RELEASE_PATHS if tree.exists(path)), OS_RELEASE_PATHS[0])
    return parse_os_release(tree.text(path, LARGEST), f"{tree.name}: {path}")


def read_aleph(physical: Files) -> Aleph:
    """The aleph file of a physical root. Raises MissingFile without one, DamagedImage where it is not JSON."""
    present = [path for path in ALEPHS if _is_there(physical, path)]
    real = [path for path in present if physical.stat(path).kind == "file"]
    if not real:
        raise MissingFile(f"no aleph file ({', '.join(ALEPHS)})", where=physical.name)
    links = {path: physical.readlink(path) for path in present if physical.stat(path).kind == "symlink"}
    return Aleph(real[0], ALEPHS[real[0]], _json_object(physical, real[0]), links)


def read_ignition_state(boot: Files) -> IgnitionState:
    """The first-boot stamp and the user's config on a boot filesystem."""
    config = boot.sha256(USER_CONFIG) if boot.exists(USER_CONFIG) else None
    if not boot.exists(STAMP):
        return IgnitionState("absent", "", config)
    content = boot.text(STAMP, LARGEST)
    if not content:
        return IgnitionState("empty", "", config)
    match = NETWORK_KARGS.fullmatch(content)
    return IgnitionState("network", match[2], config) if match else IgnitionState("other", content, config)


def read_platforms(boot: Files) -> dict[str, Platform]:
    """platforms.json by platform id; an image without the file (s390x) raises MissingFile."""
    found = {}
    for name, entry in _json_object(boot, PLATFORMS).items():
        known = entry if isinstance(entry, dict) else {"kernel_arguments": None}
        lists = [known.get(key, []) for key in ("kernel_arguments", "grub_commands")]
        if not all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in lists):
            raise DamagedImage(f"platform {shown(name)} is not two lists of words", where=f"{boot.name}: {PLATFORMS}")
        found[name] = Platform(*(tuple(each or ()) for each in lists))
    return found


def read_console(boot: Files) -> Console:
    """The console settings of a boot filesystem. Raises MissingFile where no file has both markers in order."""
    for path in CONSOLE_PATHS:
        if not boot.exists(path):
            continue
        lines = [line.strip() for line in boot.text(path, LARGEST).splitlines()]
        if CONSOLE_START in lines and CONSOLE_END in lines[lines.index(CONSOLE_START) :]:
            start = lines.index(CONSOLE_START)
            return Console(path, tuple(filter(None, lines[start + 1 : lines.index(CONSOLE_END, start)])))
    raise MissingFile(f"no console markers in {' or '.join(CONSOLE_PATHS)}", where=boot.name)


def _is_there(files: Files, path: str) -> bool:
    return path.rpartition("/")[2] in files.listdir("/")


def _json_object(files: Files, path: str) -> dict[str, Any]:
    try:
        parsed = msgspec.json.decode(files.read(path, LARGEST))
    except (ValueError, RecursionError) as cause:
        raise DamagedImage(f"is not JSON: {str(cause)[:120]}", where=f"{files.name}: {path}") from cause
    if not isinstance(parsed, dict):
        raise DamagedImage("is JSON but not an object", where=f"{files.name}: {path}")
    return parsed
