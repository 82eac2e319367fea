"""The real butane, as a program on this machine or in a container that the user names.

It gets the config on standard input and, of files, only the folder that the user gives. Its words are passed on: it
reports places as "line 5, column 3".
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Final

from harness.errors import BadInput, InvalidIgnition, MissingTool, ToolFailed
from harness.ignition.butane.translate import Options
from harness.tools import find_tool, run

PROGRAM: Final = "butane"
TIMEOUT: Final = 60.0  # seconds; a container that must be pulled first takes most of it
MOUNT: Final = "/files"
VERDICT: Final = re.compile(r"butane exited with \d+: (?P<words>.*)", re.DOTALL)
PLACE: Final = re.compile(r"line (\d+),? col(?:umn)? (\d+)")


def is_installed() -> bool:
    """Whether this machine has butane."""
    return shutil.which(PROGRAM) is not None


def version() -> str:
    """What butane calls itself: `Butane 0.23.0`. Raises MissingTool and ToolFailed."""
    return run([_program(), "--version"], timeout=TIMEOUT).decode(errors="replace").strip()[:80]


def translate_by_butane(raw: bytes, name: str, options: Options) -> bytes:
    """What butane on this machine makes of a config. Raises InvalidIgnition with its words, and MissingTool."""
    return _run([_program(), *_arguments(options, options.files_dir)], raw, name)


def translate_by_container(raw: bytes, name: str, options: Options, image: str) -> bytes:
    """The same by podman and an image that the user names; it has no network, and sees local files read-only.

    Raises BadInput for a name that would be an option, MissingTool without podman, InvalidIgnition as above.
    """
    if not image or image.startswith("-"):
        raise BadInput("is no container image", where=f'"{image}"', next_step="give one by --container")
    argv = [find_tool("podman"), "run", "--rm", "--interactive", "--network=none", "--security-opt=label=disable"]
    inside = None
    if options.files_dir is not None:
        folder = os.path.realpath(options.files_dir)
        if ":" in folder or "," in folder:
            raise BadInput("cannot be shown to a container: its name has a colon or comma", where=folder)
        argv.append(f"--volume={folder}:{MOUNT}:ro")
        inside = Path(MOUNT)
    return _run([*argv, image, *_arguments(options, inside)], raw, name)


def _program() -> str:
    found = shutil.which(PROGRAM)
    if found is None:
        raise MissingTool("butane is not installed", next_step="use --by built-in, or --container IMAGE with podman")
    return found


def _arguments(options: Options, files_dir: Path | None) -> list[str]:
    flags = {"--strict": options.strict, "--pretty": options.pretty, "--raw": options.raw}
    chosen = [flag for flag, is_wanted in flags.items() if is_wanted]
    return chosen + ([] if files_dir is None else ["--files-dir", os.fspath(files_dir)])


def _run(argv: list[str], raw: bytes, name: str) -> bytes:
    try:
        return run(argv, stdin=raw, timeout=TIMEOUT)
    except ToolFailed as failed:
        words = VERDICT.match(failed.what)
        if words is None:  # podman's own failure, or a time-out
            raise
        place = PLACE.search(words["words"])
        where = f"{name}:{place[1]}:{place[2]}" if place else name
        raise InvalidIgnition(f"butane refuses it: {words['words'][:300]}", where=where) from failed
