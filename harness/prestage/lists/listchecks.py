"""What is wrong with lists of images though each of their lines can be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from harness.prestage.lists.listfile import ListFile, Row
from harness.prestage.lists.problem import Problem
from harness.prestage.lists.stages import ASSISTED, INSTALL, is_release_image

PUBLISHER = "quay.io/openshift-release-dev"  # of releases and of what they are made of, nothing else


def problems_of(found: ListFile, *, mixed: bool) -> Iterator[Problem]:
    """What one list has wrong; `mixed` says that images of several repositories are meant."""
    yield from _repeated(found)
    yield from _unpublished(found)
    if found.kind in {"release", "json"}:
        home = home_of(found)
        for row in found.rows:
            if not _is_of_release(row):
                continue
            if row.reference.name != home and not mixed:
                what = f"{row.reference.name} is another repository than {home}"
                remedy = "a release has one; say --mixed if this is meant"
                yield Problem("mixed", what, row.entry.line, remedy, row.entry.path)
            elif row.reference.tag:
                yield Problem("by-tag", f"{row.reference} may become another image", row.entry.line, "", row.entry.path)


def strangers(lists: Sequence[ListFile]) -> Iterator[tuple[ListFile, Problem]]:
    """Images of discovery that are of a release's repository, but that the release beside them does not list."""
    releases = [each for each in lists if each.kind in {"release", "json", "mapping"}]
    known = {str(row.reference) for each in releases for row in each.rows}
    homes = {home_of(each) for each in releases} - {""}
    for found in lists:
        if found.kind != "discovery":
            continue
        for row in found.rows:
            if row.reference.name in homes and str(row.reference) not in known:
                what = f"{row.reference} is not in the release"
                yield found, Problem("not-in-release", what, row.entry.line, "are these lists of one version?")


def collisions(rows: Sequence[tuple[ListFile, Row]]) -> Iterator[tuple[ListFile, Problem]]:
    """Images that want an archive which another has: its name has lost registry and namespace."""
    taken: dict[str, tuple[ListFile, Row]] = {}
    for found, row in rows:
        other, first = taken.setdefault(row.reference.archive, (found, row))
        if first.reference != row.reference:
            what = f"{row.reference} wants the archive of {first.reference} ({other.file}:{first.entry.line})"
            yield found, Problem("collision", what, row.entry.line, "give one of them another tag", row.entry.path)


def home_of(found: ListFile) -> str:
    """The repository that most images of a release have; empty where there is none."""
    names = Counter(row.reference.name for row in found.rows if _is_of_release(row))
    return names.most_common(1)[0][0] if names else ""


def _repeated(found: ListFile) -> Iterator[Problem]:
    seen: dict[str, Row] = {}
    for row in found.rows:
        first = seen.setdefault(str(row.reference), row)
        if first is row:
            continue
        entry, line = row.entry, row.entry.line
        if (first.entry.name, first.entry.tag) == (entry.name, entry.tag):
            yield Problem("duplicate", f"{row.reference} is in line {first.entry.line} already", line, "", entry.path)
        elif found.kind == "mapping":
            what = f"{row.reference} shall have the tag {first.entry.tag} already"
            yield Problem("two-tags", what, line, "the first is taken", entry.path)
        else:
            what = f"{row.reference} is both {first.entry.name} and {entry.name}"
            yield Problem("two-names", what, line, "", entry.path)


def _unpublished(found: ListFile) -> Iterator[Problem]:
    for row in found.rows:
        where, _, name = row.reference.name.rpartition("/")
        if where == PUBLISHER and name.startswith(ASSISTED):
            what = f"{name} is not published in {PUBLISHER}"
            remedy = "take it from registry.redhat.io/multicluster-engine"
            yield Problem("unpublished", what, row.entry.line, remedy, row.entry.path)


def _is_of_release(row: Row) -> bool:
    """Whether an image is one of those that a release consists of."""
    is_special = row.entry.is_release or is_release_image(row.reference)
    return not is_special and not row.reference.basename.startswith(ASSISTED) and bool(row.stages & INSTALL)
