"""A family of images made small: a folder with an index, few images stored whole, and a recipe for each other one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.delta.coding import Effort
from harness.delta.encode import encode_file
from harness.delta.family.listing import MOST_IMAGES, PACKED_SUFFIX, RECIPE_SUFFIX, Listed, is_plain, write_index
from harness.delta.family.member import Member, opened
from harness.delta.family.order import Step, arrange
from harness.delta.family.rehydrate import Wish, check_family
from harness.delta.family.whole import store
from harness.errors import BadInput
from harness.images.edits.stages import Progress, silent, stage
from harness.store import new_folder


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
    with ExitStack() as stack:
        members = []
        for path in (*given, *images):
            with stage(progress, f"look into {path.name}"):
                members.append(stack.enter_context(opened(path)))
        _check_names(members)
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


def _check_names(members: Sequence[Member]) -> None:
    names: set[str] = set()
    for member in members:
        if not is_plain(member.name) or member.name.endswith((RECIPE_SUFFIX, PACKED_SUFFIX)):
            raise BadInput("is no name for an image of a family", where=repr(member.name), next_step="rename it")
        if member.name in names:
            raise BadInput("is the name of two images", where=member.name, next_step="rename one")
        names.add(member.name)


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
        path = store(member.file, folder, member.name, step.form.sketch.density, effort)
        return _with_file(member, path, (), ())
    bases = [members[source.index].as_base(source.sight.kind) for source in step.sources]
    encoded = encode_file(step.form.block, bases, container=step.form.container, effort=effort)
    path = folder / (member.name + RECIPE_SUFFIX)
    encoded.write(path)
    names = dict.fromkeys(members[source.index].name for source in step.sources)
    return _with_file(member, path, tuple(names), member.formats if step.form.container else ())


def _with_file(member: Member, path: Path, bases: tuple[str, ...], formats: tuple[str, ...]) -> Listed:
    identity = member.identity
    return Listed(identity.size, identity.sha256, member.name, path.name, path.stat().st_size, bases, formats)
