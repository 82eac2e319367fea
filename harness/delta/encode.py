"""Making the recipe of a file from bases.

The recipe follows from the bytes alone: holes, the number of threads and the load of the host do not show in it.
Memory: the index (about 100 bytes a block of the bases, bounded), 17 bytes an operation, and for each thread a group
of literals with its dictionary and what zstd needs to compress it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from backports import zstd

from harness.delta.bases import BaseFile, GivenBase, base_file, describe, open_base
from harness.delta.coding import GROUP, MOST_DICTIONARY, Effort, encode
from harness.delta.identity import identify
from harness.delta.match import Script, script_of
from harness.delta.ops import LITERAL, MOST_BASES, MOST_OPS, Packer, chunked
from harness.delta.recipe import MOST_PLAN, MOST_SIZE, Header, Identity, Section, check_of, packed
from harness.delta.residue import BLOCK, Residue
from harness.delta.sparse import STEP, Content
from harness.errors import BadInput
from harness.images.block import Block
from harness.images.edits.stages import Progress, silent, stage
from harness.store import replacing

Coded = tuple[Section, bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A recipe in memory: small, as it holds only what the bases do not."""

    header: Header
    sections: list[bytes]

    def bytes(self) -> Iterator[bytes]:
        """The recipe file."""
        return packed(self.header, self.sections)

    def write(self, path: Path) -> int:
        """Write the recipe file, replacing what was there, and return its size. Raises BadInput."""
        try:
            with replacing(path) as aside:
                size = sum(map(len, self.bytes()))
                with aside.open("wb") as file:
                    file.writelines(self.bytes())
        except OSError as cause:
            raise BadInput(f"cannot be written: {cause.strerror}", where=str(path)) from cause
        return size


@dataclass(frozen=True, slots=True)
class Container:
    """A plan that rebuilds a container from the target of a recipe (harness.delta.containers), and what comes out."""

    plan: bytes
    wrapped: Identity


def encode_file(
    target: Block,
    bases: Sequence[GivenBase],
    *,
    container: Container | None = None,
    effort: Effort = "normal",
    threads: int | None = None,
    progress: Progress = silent,
) -> Encoded:
    """The recipe that makes `target` from `bases`. Raises BadInput, and what reading the blocks raises."""
    files = [base_file(given) for given in bases]
    _check(target, files, container)
    with ExitStack() as stack:
        content = Content(target)
        stack.callback(content.close)
        opened = [open_base(file, file.view, stack) for file in files]
        threads = threads or os.cpu_count() or 1
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        with stage(progress, "compare"):
            identity = pool.submit(identify, content)
            named = pool.map(describe, files, opened)
            seen = [each.seen for each in opened]
            script = script_of(content, seen)
            _check_script(script, target.name)
            described = list(named)
        with stage(progress, "compress"):
            ops = _coded_ops(script)
            literals = _coded_literals(content, seen, script, effort, pool, threads)
            plan = _section(container.plan, effort=effort) if container else None
    header = Header(
        identity.result(),
        described,
        [section for section, _ in ops],
        [section for section, _ in literals],
        _codecs([*ops, *literals, *([plan] if plan else [])]),
        plan[0] if plan else None,
        container.wrapped if container else None,
    )
    return Encoded(header, [stored for _, stored in (*ops, *literals, *([plan] if plan else []))])


def _check(target: Block, bases: Sequence[BaseFile], container: Container | None) -> None:
    if container and len(container.plan) > MOST_PLAN:
        raise BadInput(f"its container needs a plan of {len(container.plan):,} bytes, too much", where=target.name)
    if len(bases) > MOST_BASES:
        raise BadInput(f"a recipe has at most {MOST_BASES} bases, not {len(bases)}")
    for block in (target, *(base.block for base in bases)):
        if block.size > MOST_SIZE:
            raise BadInput(f"is {block.size:,} bytes long, and at most {MOST_SIZE:,} can be made", where=block.name)


def _check_script(script: Script, target: str) -> None:
    if len(script.kinds) > MOST_OPS:
        raise BadInput(
            f"takes {len(script.kinds):,} operations, and a recipe has at most {MOST_OPS:,}",
            where=target,
            next_step="choose a base that it is more like",
        )


def _codecs(coded: Iterable[Coded]) -> dict[str, str]:
    versions = {"zstd": zstd.zstd_version}
    return {name: versions[name] for name in sorted({section.codec for section, _ in coded}) if name in versions}


def _section(content: bytes, dictionary: bytearray | None = None, where: int = 0, effort: Effort = "normal") -> Coded:
    codec, needs_dictionary, stored = encode(content, dictionary, effort)
    place = (where, len(dictionary)) if dictionary and needs_dictionary else None
    return Section(codec, len(stored), len(content), check_of(stored).hex(), place), stored


def _coded_ops(script: Script) -> list[Coded]:
    packer = Packer()
    return [_section(packer.pack(rows)) for rows in chunked(script)]


def _coded_literals(
    target: Content, bases: Sequence[Content], script: Script, effort: Effort, pool: ThreadPoolExecutor, threads: int
) -> list[Coded]:
    """Groups of literals, each compressed by its own thread; at most as many in memory as threads run."""
    total = sum(length for kind, length, _ in script if kind == LITERAL)
    if not total:
        return []
    residue = Residue(bases, script)

    def coded(group: bytes, start: int) -> Coded:
        where, length = _window(residue.size, start + len(group) // 2, total)
        return _section(group, residue.read(where, length), where, effort)

    return list(_in_order(pool, coded, _groups(target, script), threads))


def _in_order(
    pool: ThreadPoolExecutor,
    make: Callable[[bytes, int], Coded],
    groups: Iterator[tuple[bytes, int]],
    ahead: int,
) -> Iterator[Coded]:
    waiting: list[Future[Coded]] = []
    try:
        for group, start in groups:
            waiting.append(pool.submit(make, group, start))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()  # stopped: what runs cannot be, the rest need not begin


def _window(size: int, middle: int, total: int) -> tuple[int, int]:
    """The part of the residue that serves a group: all, or what lies as far in it as the group in the literals."""
    length = min(size, MOST_DICTIONARY)
    centre = size * middle // total
    start = max(0, min(size - length, centre - length // 2))
    return start // BLOCK * BLOCK, length


def _groups(target: Content, script: Script) -> Iterator[tuple[bytes, int]]:
    """All literals in order, in groups of GROUP bytes, each with its offset among them."""
    group, start, position = bytearray(), 0, 0
    for kind, length, _ in script:
        end = position + length
        while kind == LITERAL and position < end:
            step = min(STEP, end - position, GROUP - len(group))
            group += target.read(position, step)
            position += step
            if len(group) == GROUP:
                yield bytes(group), start
                start += GROUP
                group.clear()
        position = end
    if group:
        yield bytes(group), start
