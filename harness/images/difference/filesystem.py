"""Why two filesystems differ: superblock, files, and the bytes that neither explains.

In ext4 and FAT every byte can be attributed. Elsewhere, where files differ, the rest is not looked at.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from harness.errors import HarnessError
from harness.images.difference.accounts import Account
from harness.images.difference.causes import Cause, Difference, knob, knob_of, moment
from harness.images.difference.differing import Changes, Differing
from harness.images.difference.ext4_account import Ext4Account
from harness.images.difference.superblocks import Superblock, Told, ranges, superblock_of, told
from harness.images.difference.trees import Findings, TreeComparison
from harness.images.difference.vfat_account import VfatAccount
from harness.images.filesystems.ext4 import Ext4
from harness.images.filesystems.files import Files, open_files
from harness.images.filesystems.superblock import Filesystem, identify
from harness.images.filesystems.vfat import Vfat

MOVING: frozenset[Cause] = frozenset({"size", "format"})  # other geometry, other places
# What a superblock says that is compared by its fields, or that follows from the files.
CONSEQUENCES = frozenset({"free_blocks", "volume_id", "boot_label", "checksum_ok", "generation"})


def explain_filesystem(changes: Changes, label: str, known: Container[int] = ()) -> Iterator[Difference]:
    """The differences of two partitions whose bytes are not the same.

    `known` are inodes of the first whose content is explained elsewhere (package databases).
    """
    one, other = changes.one, changes.other
    first, second = identify(one), identify(other)
    if first and second and first.type == second.type:
        yield from _Comparison(changes, label, known).differences(first, second)
    elif first or second:
        kinds = (found.type if found else "no filesystem" for found in (first, second))
        yield Difference("filesystem", label, "", "kind", " / ".join(kinds))
    else:
        yield Difference("bytes", label, "", "content", changes.told(changes.left()))


class _Comparison:
    """One comparison of two filesystems of one type."""

    def __init__(self, changes: Changes, label: str, known: Container[int]) -> None:
        self.changes, self.label, self.known = changes, label, known
        self.one, self.other = changes.one, changes.other
        self.fields: list[Told] = []
        self.findings = Findings()

    def differences(self, first: Filesystem, second: Filesystem) -> Iterator[Difference]:
        """All of them: superblock, files, bytes."""
        shape = superblock_of(first.type, self.one)
        yield from self._superblock(first, second, shape)
        try:
            files = open_files(self.one), open_files(self.other)
            account = self._account(files)
            yield from self._files(files, account)
            yield from self._bytes(account, shape)
        except HarnessError as cause:
            rest = self.changes.told(self.changes.left(self._superblock_ranges(shape)))
            if rest:
                yield self._unexplained(f"{rest}; files cannot be compared: {cause}")

    def _superblock(self, first: Filesystem, second: Filesystem, shape: Superblock | None) -> Iterator[Difference]:
        if shape is not None:
            raws = (part.read(shape.start, min(shape.size, part.size - shape.start)) for part in (self.one, self.other))
            self.fields = list(told(shape, *raws))
            for each in self.fields:
                yield self._told(each.cause, each.detail, knob_of(first.type, each.knob))
        elif first.uuid != second.uuid:
            yield self._told("UUID", f"UUID {first.uuid} / {second.uuid}", knob_of(first.type, "uuid"))
        is_told = any(each.cause == "label" for each in self.fields)
        if first.label != second.label and not is_told:
            yield self._told("label", f"label {first.label!r} / {second.label!r}", knob_of(first.type, "label"))
        if not self.findings.reported:
            for key in sorted({*first.details, *second.details} - CONSEQUENCES):
                if first.details.get(key) != second.details.get(key):
                    yield self._told("metadata", f"{key} {first.details.get(key)} / {second.details.get(key)}")
        self.findings.may_move |= any(each.cause in MOVING for each in self.fields)

    def _account(self, files: tuple[Files, Files]) -> Account:
        one, other = (each.mount("/").inodes for each in files)
        if isinstance(one, Ext4) and isinstance(other, Ext4):
            return Ext4Account(self.one, self.other, (one, other), self.fields)
        if isinstance(one, Vfat) and isinstance(other, Vfat):
            return VfatAccount(self.one, self.other, (one, other), self.fields)
        return Account((one, other))

    def _files(self, files: tuple[Files, Files], account: Account) -> Iterator[Difference]:
        if isinstance(account, VfatAccount) and (times := account.label_times()):
            yield self._told("timestamp", f"label made {moment(times[0])} / {moment(times[1])}", knob("vfat time"))
        trees = TreeComparison(files, self.label, self.changes, account, self.known)
        trees.findings.may_move = self.findings.may_move
        trees.findings.reported = self.findings.reported
        self.findings = trees.findings
        yield from trees.differences()
        if self.findings.moved and not self.findings.may_move:
            number = len(self.findings.moved)
            are = "file lies" if number == 1 else "files lie"
            detail = f"{number:,} {are} in other blocks or under other inode numbers, the first is"
            yield self._told("allocation", f"{detail} {self.findings.moved[0]}", knob("allocation"))
            self.findings.may_move = True

    def _bytes(self, account: Account, shape: Superblock | None) -> Iterator[Difference]:
        findings = self.findings
        if not account.is_exact and findings.reported and not self._is_shallow():
            return
        follows = account.consequences(found=bool(findings.reported), may_move=findings.may_move)
        explained = [*findings.explained, *follows]
        if not account.is_exact and findings.reported:
            explained += self._superblock_ranges(shape)
        left = self.changes.left(explained, account.mask)
        places: dict[tuple[str, str], list[Differing]] = {}
        for piece in left:
            for part in _cut(piece):
                at = part.offset + len(part.changed) - len(part.changed.lstrip(b"\0"))
                places.setdefault(account.place_of(at), []).append(part)
        for (where, key), pieces in places.items():
            text = self.changes.told(pieces)
            yield self._unexplained(f"{text}, {where}" if where else text, knob(key))

    def _is_shallow(self) -> bool:
        """Whether all that was found are fields of a superblock that nothing else repeats."""
        return self.findings.reported == len(self.fields) and all(each.cause == "timestamp" for each in self.fields)

    def _superblock_ranges(self, shape: Superblock | None) -> list[tuple[int, int]]:
        return list(ranges(shape, shape.start)) if shape and self.fields else []

    def _told(self, cause: Cause, detail: str, key: str = "") -> Difference:
        self.findings.reported += 1
        return Difference("filesystem", self.label, "", cause, detail, key)

    def _unexplained(self, detail: str, key: str = "") -> Difference:
        return Difference("bytes", self.label, "", "unexplained", detail, key)


def _cut(piece: Differing) -> Iterator[Differing]:
    """A piece in the smallest blocks that filesystems have, those that differ."""
    for at in range(0, len(piece.changed), 1024):
        part = piece.changed[at : at + 1024]
        if any(part):
            yield Differing(piece.offset + at, part)
