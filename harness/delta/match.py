"""Which bytes of a target can be copied from bases, from the target itself, or are zeroes.

Two passes. The first compares the target with each base at the same offset, which needs no index and finds nearly all
of a patched image. The second looks up what is left in an index of the bases, at every 512 bytes, and extends each hit
in both directions, byte by byte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from harness.delta.index import BLOCK, ZERO_BLOCK, Digest, Index, Place
from harness.delta.ops import BASE, LITERAL, SELF, ZERO, Op
from harness.delta.sparse import STEP, ZEROES, Content, common_prefix, common_suffix
from harness.images.ranges import Range

PROBE = 512  # bytes: files of an ISO lie on 2 KiB, of a FAT on 512 bytes
WORTH_AN_INDEX = 2**16  # bytes left over by the first pass
NEAR = 16 * PROBE  # how far behind the end of a run its continuation is looked for


class Script:
    """Operations in packed columns, in the order of the target; neighbours that continue each other are made one."""

    def __init__(self) -> None:
        self.kinds, self.lengths, self.sources = array("B"), array("Q"), array("Q")

    def add(self, kind: int, length: int, source: int = 0) -> None:
        """Append an operation of any length, 0 included."""
        if not length:
            return
        if self.kinds and self.kinds[-1] == kind:
            follows = self.sources[-1] + self.lengths[-1] == source
            if kind < SELF or (kind >= BASE and follows):
                self.lengths[-1] += length
                return
        self.kinds.append(kind)
        self.lengths.append(length)
        self.sources.append(source)

    def __iter__(self) -> Iterator[Op]:
        return map(Op, self.kinds, self.lengths, self.sources)


def script_of(target: Content, bases: Sequence[Content], *, digest: Digest = hash) -> Script:
    """What makes the target, from bases, itself, zeroes and literals; the same for the same bytes."""
    script = Script()
    runs = list(_aligned(target, bases))
    left = target.size - sum(length for _, _, length in runs)
    finder = _Finder(target, bases, script, indexed=left > WORTH_AN_INDEX, digest=digest)
    position = 0
    for start, kind, length in runs:
        finder.fill(Range(position, start))
        script.add(kind, length, start)
        position = start + length
    finder.fill(Range(position, target.size))
    return script


def _aligned(target: Content, bases: Sequence[Content]) -> Iterator[tuple[int, int, int]]:
    """Runs of at least a block that a base has at the same offset: start, kind, length, extended to the byte."""
    end = 0
    start, number = 0, -1
    for at, upto, found in _aligned_blocks(target, bases):
        if found == number and at == end:
            end = upto
            continue
        if number >= 0:
            yield start, BASE + number, end - start
        start, end, number = at, upto, found
    if number >= 0:
        yield start, BASE + number, end - start


def _aligned_blocks(target: Content, bases: Sequence[Content]) -> Iterator[tuple[int, int, int]]:
    """Pieces in order that are equal: start, end, number of the base; edges are moved to the first differing byte."""
    last_end = 0
    preferred = 0
    for at in range(0, target.size, STEP):
        length = min(STEP, target.size - at)
        piece = target.read(at, length)
        order = sorted(range(len(bases)), key=lambda each: each != preferred)
        others = {
            each: bases[each].read(at, min(length, bases[each].size - at)) for each in order if bases[each].size > at
        }
        whole = next((each for each in order if others.get(each) == piece), None)
        if whole is not None:
            preferred, last_end = whole, at + length
            yield at, at + length, whole
            continue
        for start, end, found in _equal_blocks(piece, others, preferred):
            preferred = found
            begin = max(at + start, last_end)  # the run before may have reached into this block
            if begin == at + start:
                before = min(BLOCK, begin - last_end, start)
                begin -= common_suffix(piece[start - before : start], others[found][start - before : start])
            upto = end
            if end < len(piece):
                after = min(BLOCK, len(others[found]) - end, len(piece) - end)
                upto += common_prefix(piece[end : end + after], others[found][end : end + after])
            last_end = at + upto
            yield begin, at + upto, found


def _equal_blocks(piece: bytes, others: dict[int, bytes], preferred: int) -> Iterator[tuple[int, int, int]]:
    """Runs of blocks that a base's piece shares: start, end, number of the base."""
    start, number = 0, -1
    size = len(piece)
    if piece == ZEROES[:size]:
        return
    order = sorted(others, key=lambda each: each != preferred)
    same = {each: _same_blocks(piece, others[each]) for each in order}
    for at, index in zip(range(0, size, BLOCK), range(size), strict=False):
        found = -1
        if number >= 0 and same[number][index]:
            found = number
        elif size - at >= BLOCK or at == 0:
            found = next((each for each in order if same[each][index]), -1)
        if found != number:
            if number >= 0:
                yield start, at, number
            start, number = at, found
    if number >= 0:
        yield start, size, number


def _same_blocks(piece: bytes, other: bytes) -> list[bool]:
    """Which blocks of a piece, the short last one included, are those of another."""
    return [piece[at : at + BLOCK] == other[at : at + BLOCK] for at in range(0, len(piece), BLOCK)]


class _Finder:
    """The second pass: fills gaps of the script."""

    def __init__(
        self, target: Content, bases: Sequence[Content], script: Script, *, indexed: bool, digest: Digest
    ) -> None:
        self._target, self._bases, self._script = target, bases, script
        self._index = Index([*bases, target], digest=digest)
        if indexed:
            self._index.add_all(len(bases))
        self._last: tuple[int, int] | None = None  # kind and shift (source - position) of the last copy
        self._window = Range(0, 0)
        self._bytes = b""

    def fill(self, gap: Range) -> None:
        """Append operations for a range of the target."""
        done = position = gap.start
        while position < gap.end:
            block = self._block(position, gap.end)
            if len(block) < BLOCK:
                break
            if block == ZERO_BLOCK:
                run = self._zeroes(position, Range(done, gap.end))
                self._script.add(LITERAL, run.start - done)
                self._script.add(ZERO, run.size)
                done = position = run.end
                continue
            found = self._find(block, position, near=position - done <= NEAR)
            if found is None:
                position = self._next(position // PROBE * PROBE + PROBE, done, gap.end)
                continue
            kind, source = found
            run = self._extended(kind, source - position, position, Range(done, gap.end))
            self._script.add(LITERAL, run.start - done)
            self._script.add(kind, run.size, run.start + source - position)
            self._last = kind, source - position
            done = position = run.end
        self._tail(Range(done, gap.end))

    def _tail(self, rest: Range) -> None:
        """What is left of a gap: zeroes where it ends in them, or literals."""
        if 0 < rest.size <= BLOCK:
            tail = self._target.read(rest.start, rest.size)
            if not tail.strip(b"\0"):
                self._script.add(ZERO, rest.size)
                return
        self._script.add(LITERAL, rest.size)

    def _block(self, position: int, end: int) -> bytes:
        """The block at a position, or what is left of the gap."""
        if not self._window.start <= position <= self._window.end - BLOCK:
            self._window = Range(position, min(end, position + STEP))
            self._bytes = self._target.read(position, self._window.size)
        at = position - self._window.start
        return self._bytes[at : at + min(BLOCK, end - position)]

    def _next(self, position: int, done: int, end: int) -> int:
        """Where to look next: on block bounds, near the last run, and where the index may know the block."""
        if position - done <= NEAR or position % BLOCK == 0:
            return position
        start, stop = self._window
        bound = min(-(-position // BLOCK) * BLOCK, stop - BLOCK, end)
        if not start <= position < bound:
            return position
        return start + self._index.next_known(self._bytes, position - start, PROBE, bound - start)

    def _find(self, block: bytes, position: int, *, near: bool) -> tuple[int, int] | None:
        """Kind and source of a copy of the block: behind the last run, else by the index."""
        if self._last and near:
            kind, shift = self._last
            content = self._target if kind == SELF else self._bases[kind - BASE]
            source = position + shift
            limit = position if kind == SELF else content.size
            if 0 <= source <= limit - BLOCK and content.read(source, BLOCK) == block:
                return kind, source
        key = self._index.key(block)
        if place := self._index.find(key, block):
            if place.content < len(self._bases):
                return BASE + place.content, place.offset
            if place.offset <= position - BLOCK:
                return SELF, place.offset
        elif position % BLOCK == 0:
            self._index.add(key, block, Place(len(self._bases), position))
        return None

    def _extended(self, kind: int, shift: int, position: int, gap: Range) -> Range:
        """The whole run around a hit, within the gap; a copy of the target ends before it begins to overlap."""
        content = self._target if kind == SELF else self._bases[kind - BASE]
        start, step = position, BLOCK
        while start > gap.start and start + shift > 0:
            length = min(step, start - gap.start, start + shift)
            same = common_suffix(
                self._target.read(start - length, length), content.read(start + shift - length, length)
            )
            start -= same
            if same < length:
                break
            step = min(STEP, 4 * step)
        limit = min(gap.end, (start if kind == SELF else content.size) - shift)
        end, step = position + BLOCK, BLOCK
        if end > limit:  # a copy of the target that grew backwards until it would overlap
            return Range(position, end)
        while end < limit:
            step = min(STEP, 4 * step)
            length = min(step, limit - end)
            same = common_prefix(self._target.read(end, length), content.read(end + shift, length))
            end += same
            if same < length:
                break
        return Range(start, end)

    def _zeroes(self, position: int, gap: Range) -> Range:
        start = position
        before = self._target.read(max(gap.start, position - BLOCK), position - max(gap.start, position - BLOCK))
        start -= len(before) - len(before.rstrip(b"\0"))
        end = position + BLOCK
        while end < gap.end:
            length = min(STEP, gap.end - end)
            piece = self._target.read(end, length)
            if piece == ZEROES[:length]:
                end += length
                continue
            end += length - len(piece.lstrip(b"\0"))
            break
        return Range(start, end)
