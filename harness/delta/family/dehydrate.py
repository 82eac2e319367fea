"""A family of images made small: a folder with an index, few images stored whole, and a recipe for each other one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.delta.coding import Effort
from harness.delta.encode import encode_file
from harness.delta.family.listing import (
    INDEX,
    LONGEST_NAME,
    MOST_IMAGES,
    PACKED_SUFFIX,
    RECIPE_SUFFIX,
    Listed,
    is_plain,
    write_index,
)
from harness.delta.family.member import Member, opened
from harness.delta.family.order import Step, arrange
from harness.delta.family.rehydrate import Wish, check_family
from harness.delta.family.whole import store
from harness.delta.family.wrapping import image_name
from harness.errors import BadInput
from harness.images.edits.stages import Progress, silent, stage
from harness.store import check_new, new_folder

BASE_PREFIX = "base-"


@dataclass(frozen=True, slots=True)
class Dehydrated:
    """A family on disk: what its index lists, and how many bytes its files have together."""

    folder: Path
    images: tuple[Listed, ...]

    @property
    def size(self) -> int:
        return sum(image.stored for image in self.images)


def dehydrate(
    images: Sequence[Path],
    folder: Path,
    *,
    given: Sequence[Path] = (),
    effort: Effort = "normal",
    verify: bool = True,
    progress: Progress = silent,
) -> Dehydrated:
    """Write `images` into the new folder. `given` may be copied from and are not stored: who rehydrates has them.

    Nothing of the folder is there before all of it is, and unless `verify` is off, before every image was made from it
    again and compared. The same images give the same bytes. Raises BadInput, DamagedImage and StoreError.
    """
    if not images:
        raise BadInput("no image to dehydrate", next_step="name one or more")
    if len(images) + len(given) > MOST_IMAGES:
        raise BadInput(f"{len(images) + len(given):,} images are more than a family has")
    names = _names(given, images)
    check_new(folder)
    with ExitStack() as stack:
        members = []
        for number, (name, path) in enumerate(zip(names, (*given, *images), strict=True)):
            with stage(progress, f"look into {name}"):
                members.append(stack.enter_context(opened(path, name, is_given=number < len(given))))
        with stage(progress, "choose the bases"):
            steps = arrange(members, len(given))
        with new_folder(folder) as aside:
            listed = [_listed(member) for member in members[: len(given)]]
            for step in steps:
                with stage(progress, _told(members, step)):
                    listed.append(_stored(members, step, aside, effort))
            write_index(aside, listed)
            if verify:
                with stage(progress, "rehydrate all to compare"):
                    check_family(aside, Wish(given=tuple(given)))
    return Dehydrated(folder, tuple(listed))


def _names(given: Sequence[Path], images: Sequence[Path]) -> list[str]:
    """What each is called; a base that is called like an image gets another name, as versions are called alike."""
    taken: dict[str, Path] = {}
    for path in images:
        _take_name(image_name(path), path, taken)
    for path in given:
        name = image_name(path)
        _take_name(f"{BASE_PREFIX}{name}" if name in taken else name, path, taken)
    names = {path: name for name, path in taken.items()}
    return [names[path] for path in (*given, *images)]


def _take_name(name: str, path: Path, taken: dict[str, Path]) -> None:
    if name == INDEX or name.endswith((RECIPE_SUFFIX, PACKED_SUFFIX)) or not is_plain(name):
        raise BadInput(
            f"{name!r} is no name for an image of a family: it must be printable, of at most {LONGEST_NAME} bytes, not "
            f"begin with a dot or dash, hold no colon or slash, and not be {INDEX} or end in {RECIPE_SUFFIX} or "
            f"{PACKED_SUFFIX}",
            next_step="rename it",
        )
    if name in taken:
        raise BadInput(f"and {taken[name]} are both called {name}", where=str(path), next_step="rename one")
    taken[name] = path


def _told(members: Sequence[Member], step: Step) -> str:
    name = members[step.index].name
    if not step.sources:
        return f"store {name}"
    sources = dict.fromkeys(members[source.index].name for source in step.sources)
    return f"{name} from {', '.join(sources)}"


def _listed(member: Member) -> Listed:
    return Listed(member.identity.size, member.identity.sha256, member.name)


def _stored(members: Sequence[Member], step: Step, folder: Path, effort: Effort) -> Listed:
    member = members[step.index]
    if not step.sources and not step.form.container:
        path = store(member.file, folder, member.name, effort)
        return _with_file(member, path, (), ())
    bases = [members[source.index].as_base(source.sight.kind) for source in step.sources]
    encoded = encode_file(step.form.block, bases, container=step.form.container, effort=effort)
    if (encoded.header.wrapped or encoded.header.target) != member.identity:
        raise BadInput("changed while it was read", where=member.name, next_step="try again when nobody writes to it")
    path = folder / (member.name + RECIPE_SUFFIX)
    encoded.write(path)
    names = dict.fromkeys(members[source.index].name for source in step.sources)
    return _with_file(member, path, tuple(names), member.formats if step.form.container else ())


def _with_file(member: Member, path: Path, bases: tuple[str, ...], formats: tuple[str, ...]) -> Listed:
    identity = member.identity
    return Listed(identity.size, identity.sha256, member.name, path.name, path.stat().st_size, bases, formats)
