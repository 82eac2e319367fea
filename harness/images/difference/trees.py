"""Two trees of files side by side: what each has that the other has not, and which bytes of the disk that explains.

What follows from something reported is not reported: the bytes of a directory whose names differ, other blocks where
a file of another size came before, a link count where a name is missing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from harness.images.difference.accounts import Account
from harness.images.difference.causes import Cause, Difference, knob, moment
from harness.images.difference.differing import Changes
from harness.images.filesystems.files import Entry, Files, shown

DIGEST = re.compile(r"[0-9a-f]{64}|(?<=/)[0-9a-f]{2}/[0-9a-f]{62}")  # in names: another content, another name
END = ["\U0010ffff"]  # sorts after every path
SHOWN_VALUE = 40  # bytes of an attribute's value
FILE_KNOBS: Mapping[Cause, str] = {"mode": "file mode", "owner": "file owner"}
MOVES: frozenset[Cause] = frozenset({"content", "missing", "kind", "xattr", "hard link", "directory order", "size"})


@dataclass(slots=True)
class Findings:
    """What a comparison of trees leaves for the bytes: explained ranges, and whether blocks may lie elsewhere."""

    explained: list[tuple[int, int]] = field(default_factory=list)
    reported: int = 0
    may_move: bool = False  # something reported changes where things lie
    moved: list[str] = field(default_factory=list)  # the same file at other blocks, or under another inode number


class TreeComparison:
    """One comparison of two trees; `known` are inodes of the first whose content is explained elsewhere."""

    def __init__(
        self, files: tuple[Files, Files], label: str, changes: Changes, account: Account, known: Container[int] = ()
    ) -> None:
        self.one, self.other = files
        self.label, self.changes, self.account, self.known = label, changes, account, known
        self.findings = Findings()
        self._compared: set[tuple[int, int]] = set()  # inodes with several names, seen under one of them
        self._folders: dict[str, tuple[int, int]] = {}
        self._twins: tuple[dict[int, tuple[int, str]], dict[int, tuple[int, str]]] = ({}, {})
        self._split: tuple[set[int], set[int]] = (set(), set())  # inodes with a name that the other side lacks
        self._links: list[tuple[Entry, Entry]] = []

    def differences(self) -> Iterator[Difference]:
        """All differences of the trees, by path."""
        yield from self._trees("/", "/")
        yield from self._link_counts()

    def _told(self, path: str, cause: Cause, detail: str, key: str = "") -> Difference:
        self.findings.reported += 1
        self.findings.may_move |= cause in MOVES
        return Difference("file", self.label, path, cause, detail, knob(key))

    def _explain(self, mine: int | None, theirs: int | None) -> None:
        self.findings.explained += self.account.footprints(mine, theirs)

    def _trees(self, top: str, other_top: str) -> Iterator[Difference]:
        """Two walks side by side: each gives parents first, then names sorted."""
        left, right = self.one.walk(top), self.other.walk(other_top)
        mine, theirs = next(left, None), next(right, None)
        alone: tuple[list[Entry], list[Entry]] = [], []
        while mine or theirs:
            here, there = _order(mine, top), _order(theirs, other_top)
            if mine and theirs and here == there:
                yield from self._entry(mine, theirs)
            elif mine and here < there:
                self._lonely(0, mine, alone[0])
            elif theirs:
                self._lonely(1, theirs, alone[1])
            if here <= there:
                mine = next(left, None)
            if there <= here:
                theirs = next(right, None)
        yield from self._alone(*alone)

    # -- names that only one side has ---------------------------------------------------------------------------

    def _lonely(self, side: int, entry: Entry, alone: list[Entry]) -> None:
        """Keep the topmost: what lies below something missing is missing, too."""
        self._split[side].add(entry.inode)
        self._explain(*((entry.inode, None) if side == 0 else (None, entry.inode)))
        if not alone or not entry.path.startswith(f"{alone[-1].path}/"):
            alone.append(entry)
        parent = self._folders.get(entry.path.rpartition("/")[0] or "/")
        if parent:
            self._explain(*parent)

    def _alone(self, mine: list[Entry], theirs: list[Entry]) -> Iterator[Difference]:
        pairs = self._renamed(mine, theirs) if mine and theirs else []
        ours = {id(first) for first, _ in pairs} | {id(second) for _, second in pairs}
        for side, entries in (("first", mine), ("second", theirs)):
            for entry in entries:
                if id(entry) not in ours:
                    yield self._told(entry.path, "missing", f"only in the {side}{_also(entry)}")
        for first, second in pairs:
            yield self._told(first.path, "name", f"is called {shown(second.path)} in the second")
            if first.kind == "directory":
                yield from self._trees(first.path, second.path)
            else:
                yield from self._entry(first, second)

    def _renamed(self, mine: list[Entry], theirs: list[Entry]) -> list[tuple[Entry, Entry]]:
        """Pairs that are one file under two names: alike but for a digest in the name, or the same content."""
        pairs: list[tuple[Entry, Entry]] = []
        for key in (self._by_digest, self._by_inode, self._by_content):
            taken = {id(entry) for pair in pairs for entry in pair}
            sizes = {entry.size for entry in mine} & {entry.size for entry in theirs}
            groups: dict[object, tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
            for side, entries in enumerate((mine, theirs)):
                for entry in entries:
                    is_open = id(entry) not in taken and (entry.kind != "file" or entry.size in sizes)
                    if is_open and (name := key(side, entry)) is not None:
                        groups[name][side].append(entry)
            pairs += [(here[0], there[0]) for here, there in groups.values() if len(here) == len(there) == 1]
        return pairs

    def _by_digest(self, _side: int, entry: Entry) -> object:
        name = DIGEST.sub("...", entry.path)
        return (name, entry.kind) if name != entry.path and entry.kind != "symlink" else None

    def _by_inode(self, side: int, entry: Entry) -> object:
        if entry.kind == "directory":
            names = (self.one, self.other)[side].listdir(entry.path)
            return (entry.kind, entry.inode, names) if names else None
        content = self._by_content(side, entry) if entry.kind == "file" and entry.size else entry.target
        return (entry.kind, entry.inode, entry.links, entry.device, content)

    def _by_content(self, side: int, entry: Entry) -> object:
        if entry.kind != "file" or not entry.size:
            return None
        return (entry.size, (self.one, self.other)[side].sha256(entry.path))

    # -- names that both sides have -----------------------------------------------------------------------------

    def _entry(self, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        if mine.kind == "directory":
            self._folders[mine.path] = (mine.inode, theirs.inode)
            yield from self._folder_order(mine, theirs)
        elif mine.links > 1 or theirs.links > 1:
            yield from self._twin(mine, theirs)
            if (mine.inode, theirs.inode) in self._compared:
                return
            self._compared.add((mine.inode, theirs.inode))
        if self.account.seeded:
            self.findings.explained += self.account.checksums(mine.inode, theirs.inode)
        if self._is_untouched(mine, theirs):
            return
        before = self.findings.reported
        yield from self._reasons(mine, theirs)
        is_moved = self.account.is_moved(mine.inode, theirs.inode)
        if is_moved:
            self.findings.moved.append(mine.path)
            if mine.inode != theirs.inode and (parent := self._folders.get(mine.path.rpartition("/")[0] or "/")):
                self._explain(*parent)
        if is_moved or self.findings.reported > before:
            self._explain(mine.inode, theirs.inode)

    def _is_untouched(self, mine: Entry, theirs: Entry) -> bool:
        """Whether no byte of a file differs, so that nobody needs to read it."""
        if not self.account.is_exact or self.account.is_moved(mine.inode, theirs.inode):
            return False
        return not self.changes.touch(self.account.footprints(mine.inode, None))

    def _folder_order(self, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        if theirs.kind != "directory":
            return
        if not self.account.keeps_order(mine.inode, theirs.inode):
            self._explain(mine.inode, theirs.inode)
            self.findings.may_move = True
            return
        ours, others = (self.account.names(side, entry.inode) for side, entry in enumerate((mine, theirs)))
        if ours == others or sorted(ours) != sorted(others):
            return
        first = next(pair for pair in zip(ours, others, strict=True) if pair[0] != pair[1])
        detail = f"the same {len(ours)} names, {shown(first[0])} / {shown(first[1])} is the first in another place"
        yield self._told(mine.path, "directory order", detail, "file order")
        self._explain(mine.inode, theirs.inode)

    def _reasons(self, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        for cause, detail in _stat(mine, theirs):
            yield self._told(mine.path, cause, detail, FILE_KNOBS.get(cause, ""))
        if mine.kind != theirs.kind:
            return
        times = [("mtime", (mine.mtime, mine.mtime_ns), (theirs.mtime, theirs.mtime_ns))]
        times = [each for each in times if each[1] != each[2]] + list(self.account.times(mine.inode, theirs.inode))
        if real := [each for each in times if not self.account.follows(mine.path, *each)]:
            detail = ", ".join(f"{name} {moment(*first)} / {moment(*second)}" for name, first, second in real)
            is_mtime = any(name == "mtime" for name, _, _ in real)
            yield self._told(mine.path, "timestamp", detail, "file time" if is_mtime else self.account.time_knob)
        elif times:
            self._explain(mine.inode, theirs.inode)
        for detail, key in self.account.oddities(mine.inode, theirs.inode):
            yield self._told(mine.path, "metadata", detail, key)
        if detail := _xattrs(self.one.xattrs(mine.path), self.other.xattrs(theirs.path)):
            yield self._told(mine.path, "xattr", detail)
        yield from self._content(mine, theirs)

    def _content(self, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        if mine.target != theirs.target:
            yield self._told(mine.path, "content", f"leads to {shown(mine.target)} / {shown(theirs.target)}")
        if mine.kind != "file":
            return
        at = _first_difference(self.one.chunks(mine.path), self.other.chunks(theirs.path))
        if at is None:
            return
        if mine.inode in self.known:
            self.findings.may_move = True
            self._explain(mine.inode, theirs.inode)
            return
        sizes = "" if mine.size == theirs.size else f"{mine.size:,} / {theirs.size:,} bytes, "
        yield self._told(mine.path, "content", f"{sizes}the first difference is at byte {at:,}")

    # -- hard links ---------------------------------------------------------------------------------------------

    def _twin(self, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        """Names that are one file on one side only."""
        if mine.links != theirs.links:
            self._links.append((mine, theirs))
        numbers = mine.inode, theirs.inode
        for side, (here, there) in enumerate((numbers, numbers[::-1])):
            known, path = self._twins[side].setdefault(here, (there, mine.path))
            if known != there:
                self._split[0].update({mine.inode} if side == 0 else {mine.inode, known})
                self._split[1].update({theirs.inode} if side else {theirs.inode, known})
                detail = f"one file with {shown(path)} only in the {('first', 'second')[side]}"
                yield self._told(mine.path, "hard link", detail)
                self._explain(mine.inode, theirs.inode)

    def _link_counts(self) -> Iterator[Difference]:
        """Counts that differ although all names are there."""
        for mine, theirs in self._links:
            self._explain(mine.inode, theirs.inode)
            if mine.inode not in self._split[0] and theirs.inode not in self._split[1]:
                self._split[0].add(mine.inode)
                yield self._told(mine.path, "hard link", f"{mine.links} / {theirs.links} links")


def _order(entry: Entry | None, top: str) -> list[str]:
    return END if entry is None else entry.path.removeprefix(top.rstrip("/")).split("/")


def _also(entry: Entry) -> str:
    return f", one of {entry.links} names" if entry.links > 1 and entry.kind != "directory" else ""


def _stat(mine: Entry, theirs: Entry) -> Iterator[tuple[Cause, str]]:
    if mine.kind != theirs.kind:
        yield "kind", f"{mine.kind} / {theirs.kind}"
        return
    if mine.mode != theirs.mode:
        yield "mode", f"{mine.mode:04o} / {theirs.mode:04o}"
    if mine.immutable != theirs.immutable:
        yield "mode", f"immutable only in the {'first' if mine.immutable else 'second'}"
    if (mine.uid, mine.gid) != (theirs.uid, theirs.gid):
        yield "owner", f"{mine.uid}:{mine.gid} / {theirs.uid}:{theirs.gid}"
    if mine.device != theirs.device:
        yield "content", f"device {mine.device} / {theirs.device}"


def _xattrs(mine: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> str:
    names = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    return ", ".join(f"{shown(name)} {_value(mine, name)} / {_value(theirs, name)}" for name in names)


def _value(attributes: Mapping[str, bytes], name: str) -> str:
    return repr(attributes[name][:SHOWN_VALUE]) if name in attributes else "absent"


def _first_difference(mine: Iterable[bytes], theirs: Iterable[bytes]) -> int | None:
    position = 0
    for left, right in zip_longest(mine, theirs, fillvalue=b""):
        if left != right:
            pairs = enumerate(zip(left, right, strict=False))
            return position + next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))
        position += len(left)
    return None
