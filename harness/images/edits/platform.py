"""The platform an image is for, changed: Ignition's platform id, its kernel arguments, GRUB's console settings.

Facts: coreos-assembler's gf-set-platform (2019 to 2023: the id goes to the end of the options line, the platform's
arguments behind it) and osbuild's stage org.osbuild.coreos.platform; both take a platform's arguments and console
settings from /boot/coreos/platforms.json, and a platform that is not in there gets nothing but its id. The settings
lie between two markers, in grub2/console.cfg or, before that existed, in grub2/grub.cfg.

Only the boot filesystem changes. s390x keeps its arguments in zipl's boot map, where no edit of files reaches them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import BadInput, DamagedImage, MissingFile, UnsupportedImage
from harness.images.edits.debugfs import NewFile, write_files
from harness.images.edits.draft import Form, drafting
from harness.images.edits.inject import boot_partition
from harness.images.edits.stages import Progress, silent, stage
from harness.images.filesystems.files import Files, open_files
from harness.images.partitions.layout import Layout, part_of
from harness.images.system.bls import read_entries
from harness.images.system.stamps import CONSOLE_END, CONSOLE_PATHS, CONSOLE_START, LARGEST, Platform, read_platforms

KARG = "ignition.platform.id"
PLATFORM_ID: Final = re.compile(r"[a-zA-Z0-9]+")
OLD_KARG: Final = re.compile(r" ignition\.platform\.id=[a-zA-Z0-9]*")
OPTIONS: Final = re.compile(r"^options[ \t].*$", re.MULTILINE)
GRUB_FOLDER = "/grub2"
NOTHING = Platform((), ())


@dataclass(frozen=True, slots=True)
class PlatformSet:
    """What was changed; `before` is None where no platform was named."""

    before: str | None
    after: str
    removed: tuple[str, ...]  # kernel arguments
    added: tuple[str, ...]
    changed_files: tuple[str, ...]  # paths within the boot filesystem


def set_platform(
    source: Path, platform: str, target: Path, *, form: Form | None = None, progress: Progress = silent
) -> PlatformSet:
    """Write `target`, a disk like `source` for another platform.

    Raises BadInput for an impossible id, UnsupportedImage for an image that does not boot by GRUB or has no place for
    console settings that are needed, DamagedImage for a boot configuration that cannot be edited.
    """
    if not PLATFORM_ID.fullmatch(platform):
        raise BadInput(f"{platform!r} is no platform id", next_step="letters and digits, such as aws or openstack")
    with drafting(source, target, form=form, progress=progress) as draft:
        boot = boot_partition(draft.layout)
        tree = open_files(part_of(draft.image.block, boot))
        change, texts = planned(tree, platform)
        with stage(progress, "set platform"):
            files = [NewFile(path, text.encode("utf-8", "surrogateescape")) for path, text in texts.items()]
            write_files(draft.disk, boot, files, replace=True)
    return change


def platform_of(layout: Layout) -> str | None:
    """The platform id on the default boot entry's command line."""
    tree = open_files(part_of(layout.block, boot_partition(layout)))
    return next(iter(read_entries(tree).default.karg(KARG)[::-1]), None)


def planned(boot: Files, platform: str) -> tuple[PlatformSet, Mapping[str, str]]:
    """What setting a platform changes: the summary, and the new text of each file that becomes another one."""
    if not boot.exists(GRUB_FOLDER):
        raise UnsupportedImage(
            f"has no {GRUB_FOLDER}: it does not boot by GRUB",
            where=boot.name,
            next_step="on s390x the kernel arguments lie in zipl's boot map; build the image for that platform",
        )
    entry = read_entries(boot).default
    old_id = next(iter(entry.karg(KARG)[::-1]), None)
    known = _platforms(boot)
    old, new = known.get(old_id or "", NOTHING), known.get(platform, NOTHING)
    texts = {entry.path: _text(boot, entry.path)}
    edited = {entry.path: with_platform(texts[entry.path], platform, old.kernel_arguments, new.kernel_arguments)}
    if edited[entry.path] == "":
        raise DamagedImage("has no options line", where=f"{boot.name}: {entry.path}")
    if known:
        console = _console_path(boot)
        if console:
            texts[console] = _text(boot, console)
            edited[console] = with_console(texts[console], new.grub_commands, blank=console == CONSOLE_PATHS[0])
        elif new.grub_commands:
            raise UnsupportedImage(
                f"{platform} wants console settings; {' and '.join(CONSOLE_PATHS)} have no markers for them",
                where=boot.name,
            )
    changed = {path: text for path, text in edited.items() if text != texts[path]}
    removed = tuple(karg for karg in old.kernel_arguments if karg in entry.options)
    return PlatformSet(old_id, platform, removed, new.kernel_arguments, tuple(changed)), changed


def with_platform(entry: str, platform: str, old: Sequence[str], new: Sequence[str]) -> str:
    r"""A boot entry's text with another platform id and arguments; empty where it has no options line.

    Of an argument that is there more than once the last goes: the platform's stand at the end.

    >>> with_platform("title x\noptions rw ignition.platform.id=qemu console=tty0\n", "aws", ["console=tty0"], ["a=b"])
    'title x\noptions rw ignition.platform.id=aws a=b\n'
    """
    lines = list(OPTIONS.finditer(entry))
    if not lines:
        return ""
    edited = [OLD_KARG.sub("", line[0]) for line in lines]
    for karg in reversed(old):
        for index in reversed(range(len(edited))):
            found = list(re.finditer(rf"[ \t]+{re.escape(karg)}(?=[ \t]|$)", edited[index]))
            if found:
                edited[index] = edited[index][: found[-1].start()] + edited[index][found[-1].end() :]
                break
    edited[-1] = " ".join([edited[-1].rstrip(), f"{KARG}={platform}", *new])
    for line, text in zip(reversed(lines), reversed(edited), strict=True):
        entry = entry[: line.start()] + text + entry[line.end() :]
    return entry


def with_console(text: str, commands: Sequence[str], *, blank: bool) -> str:
    r"""A GRUB configuration with other lines between its markers; `blank` leaves an empty one for none, as osbuild.

    >>> with_console("a\n# CONSOLE-SETTINGS-START\nold\n# CONSOLE-SETTINGS-END\nb\n", [], blank=True)
    'a\n# CONSOLE-SETTINGS-START\n\n# CONSOLE-SETTINGS-END\nb\n'
    """
    lines = text.split("\n")
    start, end = _markers(lines) or (0, 0)
    between = list(commands) or ([""] if blank else [])
    return "\n".join([*lines[: start + 1], *between, *lines[end:]])


def _markers(lines: Sequence[str]) -> tuple[int, int] | None:
    bare = [line.strip() for line in lines]
    if CONSOLE_START not in bare:
        return None
    start = bare.index(CONSOLE_START)
    return (start, bare.index(CONSOLE_END, start)) if CONSOLE_END in bare[start:] else None


def _console_path(boot: Files) -> str | None:
    """The configuration that has the markers."""
    there = (path for path in CONSOLE_PATHS if boot.exists(path))
    return next((path for path in there if _markers(_text(boot, path).split("\n"))), None)


def _platforms(boot: Files) -> Mapping[str, Platform]:
    """The table of platforms; images before 2022 have none, and nothing but the id is changed there."""
    try:
        return read_platforms(boot)
    except MissingFile:
        return {}


def _text(boot: Files, path: str) -> str:
    return boot.read(path, LARGEST).decode("utf-8", "surrogateescape")
