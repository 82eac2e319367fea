"""Defects of Ignition configs and of the patches that carry them to assisted-service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from harness.errors import BadInput
from harness.ignition.spec import Version, text_of
from harness.ignition.validate import validate
from harness.prestage.lint.lint import Context, Release, Spot
from harness.prestage.lint.subject import Subject
from harness.prestage.lists.listchecks import problems_of
from harness.prestage.lists.listfile import read_text
from harness.prestage.lists.lists import Stage
from harness.prestage.lists.problem import summed_up

USUAL = frozenset((0o400, 0o440, 0o444, 0o500, 0o550, 0o555, 0o600, 0o640, 0o644, 0o660, 0o664, 0o666)) | frozenset(
    (0o700, 0o710, 0o711, 0o740, 0o744, 0o750, 0o755, 0o770, 0o775, 0o777)
)
SPECIAL = 0o7000  # setuid, setgid, sticky
SPECIAL_KEPT_SINCE = (3, 6)  # older specifications ignore these bits
DISCOVERY_SPEC: Version = (3, 1)
POINTER_SPECS: tuple[tuple[Release, Version], ...] = (((4, 7), (3, 2)), ((4, 6), (3, 1)))  # from this release on
TWICE = re.compile(r"\s*(\S+)\s+\1(?:\s|$)")
DIFFERENCES = 5  # told of a patch; the rest is counted


def invalid(subject: Subject, _: Context) -> Iterator[Spot]:
    """What Ignition itself would refuse."""
    if subject.config is not None:
        for error in validate(subject.config).errors:
            yield Spot(subject.root.at(error.path.removeprefix("$")), error.message)


def mode_in_octal_digits(subject: Subject, _: Context) -> Iterator[Spot]:
    """Modes whose decimal digits are those of an octal one: 755, which is 0o1363."""
    for path, mode in _modes(subject):
        if (meant := _meant(mode)) is not None:
            what = f"mode {mode} is decimal and means 0o{mode:o} ({_letters(mode)})"
            yield Spot(subject.root.at(f"{path}.mode"), what, 0, f"write {meant} (0o{meant:o})")


def special_bits(subject: Subject, _: Context) -> Iterator[Spot]:
    """Modes with setuid, setgid or sticky, in specifications that ignore them."""
    if subject.config is None or subject.config.version >= SPECIAL_KEPT_SINCE:
        return
    for path, mode in _modes(subject):
        if 0 <= mode <= 0o7777 and mode & SPECIAL and _meant(mode) is None:
            what = f"mode {mode} is 0o{mode:o}: spec {subject.config.spec} has no setuid, setgid and sticky bits"
            yield Spot(subject.root.at(f"{path}.mode"), what, 0, f"write {mode & 0o777} (0o{mode & 0o777:o})")


def key_type_twice(subject: Subject, _: Context) -> Iterator[Spot]:
    """SSH keys that begin with their type twice."""
    for path, user in subject.entries("passwd", "users"):
        keys = user.get("sshAuthorizedKeys")
        for index, key in enumerate(keys if isinstance(keys, list) else ()):
            if isinstance(key, str) and (match := TWICE.match(key)):
                what = f"the key of {user.get('name')} begins with `{match[1][:40]} {match[1][:40]}`"
                yield Spot(subject.root.at(f"{path}.sshAuthorizedKeys[{index}]"), what)


def spec_of_another_release(subject: Subject, context: Context) -> Iterator[Spot]:
    """Configs of another specification than the release wants for their stage."""
    if subject.config is None or subject.stage is None or context.release is None:
        return
    wanted = spec_for(subject.stage, context.release)
    if wanted is not None and subject.config.version != wanted:
        kind = "a discovery config" if subject.stage is Stage.DISCOVERY else "a pointer config"
        what = f"spec {subject.config.spec} is not what {kind} of {'.'.join(map(str, context.release))} has"
        yield Spot(subject.root.at(".ignition.version"), what, 0, f"write {text_of(wanted)}")


def patch_of_another_config(subject: Subject, context: Context) -> Iterator[Spot]:
    """A patch is compared with the configs beside it that are for its stage; one of them must be what it carries."""
    if not subject.patch_key or subject.config is None:
        return
    beside = [
        other for other in context.subjects if other.config and not other.patch_key and other.stage is subject.stage
    ]
    mine = subject.config.document
    found = [(other, list(_differences(mine, other.config.document))) for other in beside if other.config]
    if not found or any(not differences for _, differences in found):
        return
    other, differences = min(found, key=lambda each: len(each[1]))
    more = len(differences) - DIFFERENCES
    rest = f" and {more} more" if more > 0 else ""
    what = f"differs from {other.root.file} at {', '.join(differences[:DIFFERENCES])}{rest}"
    yield Spot(subject.root, what)


def patch_is_no_string(subject: Subject, _: Context) -> Iterator[Spot]:
    """Patches that hold their config as an object."""
    if not subject.is_string:
        yield Spot(subject.root, f"{subject.patch_key} is an object")


def bad_list(subject: Subject, _: Context) -> Iterator[Spot]:
    """Lists of images that the config delivers and that have errors."""
    for file in subject.files:
        if subject.config is None or file.content is None or not re.search(r"images[^/]*\.txt[^/]*$", file.path):
            continue
        try:
            found = read_text(file.content.decode(), file.path)
        except UnicodeDecodeError:
            continue
        except BadInput as wrong:
            yield Spot(file.place.at(".contents.source"), str(wrong))
            continue
        problems = (*found.problems, *problems_of(found, mixed=True))
        errors = [replace(problem, file=file.path) for problem in problems if problem.severity == "error"]
        errors.sort(key=lambda each: each.kind)
        for line in summed_up(errors):
            yield Spot(file.place.at(".contents.source"), line)


def spec_for(stage: Stage, release: Release) -> Version | None:
    """The specification of Ignition that assisted-service wants; None for a release of which we do not know.

    Discovery is always of 3.1.0; the pointer config is merged into a template of 3.2.0, of 3.1.0 before 4.7.
    """
    if stage is Stage.DISCOVERY:
        return DISCOVERY_SPEC
    return next((spec for since, spec in POINTER_SPECS if release >= since), None)


def _modes(subject: Subject) -> Iterator[tuple[str, int]]:
    for kind in ("files", "directories"):
        for path, entry in subject.entries("storage", kind):
            mode = entry.get("mode")
            if isinstance(mode, int) and not isinstance(mode, bool):
                yield path, mode


def _meant(mode: int) -> int | None:
    """The mode of which somebody wrote the octal digits as a decimal number; None where a mode makes sense."""
    digits = str(mode)
    if mode in USUAL or not re.fullmatch(r"[0-7]{3,4}", digits) or digits == "0000":
        return None
    meant = int(digits, 8)
    return meant if meant & 0o777 in USUAL else None


def _letters(mode: int) -> str:
    """`-wxrw--wx sticky` of 0o1363."""
    letters = "".join(letter if mode >> 8 - place & 1 else "-" for place, letter in enumerate("rwxrwxrwx"))
    names = ("setuid", 0o4000), ("setgid", 0o2000), ("sticky", 0o1000)
    return " ".join([letters, *(name for name, bit in names if mode & bit)])


def _differences(one: Any, other: Any, path: str = "$") -> Iterator[str]:
    """The paths where two documents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if key in one and key in other:
                yield from _differences(one[key], other[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif isinstance(one, list) and isinstance(other, list):
        for index in range(max(len(one), len(other))):
            if index < min(len(one), len(other)):
                yield from _differences(one[index], other[index], f"{path}[{index}]")
            else:
                yield f"{path}[{index}]"
    elif one != other or type(one) is not type(other):
        yield path
