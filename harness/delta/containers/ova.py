"""tar around a disk: OVA, and the archive inside Google's tar.gz. Headers and small members are literal.

The disk is the member that the OVF names, or the only one that is a disk; one that GNU tar stored sparsely is whole
in the content, and the parts that the archive holds are taken from it.
"""

from __future__ import annotations

from itertools import accumulate

from harness.delta.containers.plan import Splice
from harness.delta.containers.splice import spliced
from harness.images.block import Block
from harness.images.formats.archived import MemberBlock, the_disk
from harness.images.formats.ova import SUFFIX
from harness.images.formats.tar import is_tar, read_members


def recognises(head: bytes) -> bool:
    """Whether a file that begins like this is a tar archive."""
    return is_tar(head)


def dissect(file: Block) -> tuple[Splice, MemberBlock] | None:
    """The plan of an archive and the disk's file inside. Raises as the reader of archives does."""
    members = [member for member in read_members(file) if not member.name.lower().endswith(SUFFIX)]
    member = the_disk(members, file.name)
    parts = member.sparse.parts if member.sparse else ((0, member.size),)
    starts = accumulate((length for _, length in parts), initial=member.start)
    placed = [(start, offset, length) for start, (offset, length) in zip(starts, parts, strict=False) if length]
    plan = spliced(file, placed)
    return (plan, MemberBlock(file, member, file.name)) if plan else None
