"""How one file is made from others: our commands, and the programs that others do it with, each as its user calls it.

A method writes what has to be kept into a folder (`kept` says how many bytes that is) and makes the file from it again.
Peers that know one base get several as one file. Ours is all in `ours` and `OURS`: the commands that the user has.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from suites.bench.measuring import Step, piped, step

HARNESS = (sys.executable, "-c", "from harness.cli import main; main()")
MOST_XDELTA = 2**31 - 2**20  # bytes of source window: beyond, it refuses
KEPT = "kept"


class Job(NamedTuple):
    """Make `target` from `bases` in a folder of its own; `base` is all bases in one file."""

    bases: Sequence[Path]
    base: Path
    target: Path
    folder: Path

    @property
    def kept(self) -> Path:
        return self.folder / KEPT

    @property
    def made(self) -> Path:
        return self.folder / self.target.name


class Method(NamedTuple):
    """How to make, to count, and to follow what is kept. `prepare` is not measured."""

    name: str
    programs: tuple[str, ...]
    encode: Callable[[Job], list[Step]]
    decode: Callable[[Job], list[Step]]
    size: Callable[[Job], int] = lambda job: job.kept.stat().st_size
    prepare: Callable[[Job], None] = lambda _: None

    @property
    def missing(self) -> list[str]:
        return [program for program in self.programs if shutil.which(program) is None]


def ours(name: str, *options: str) -> Method:
    """`harness dehydrate` and `harness rehydrate`; what counts is the recipe."""

    def encode(job: Job) -> list[Step]:
        given = [word for base in job.bases for word in ("--base", base)]
        return [step(*HARNESS, "dehydrate", job.target, *given, "-o", job.kept, "--no-verify", *options)]

    def decode(job: Job) -> list[Step]:
        given = [word for base in job.bases for word in ("--base", base)]
        return [step(*HARNESS, "rehydrate", job.kept, job.target.name, *given, "-o", job.folder, "-j", "1")]

    return Method(name, (), encode, decode, lambda job: recipe_of(job).stat().st_size)


def recipe_of(job: Job) -> Path:
    """The recipe that `ours` made."""
    return job.kept / f"{job.target.name}.recipe"


OURS, OURS_FAST, OURS_BEST = "ours", "ours, fast", "ours, best"
RSYNC, RDIFF, XDELTA, ZSTD, BSDIFF, CASYNC = (
    "rsync batch + zstd -7", "rdiff + zstd -19", "xdelta3 -9", "zstd -3 --patch-from", "bsdiff", "casync",
)  # fmt: skip


def _rsync_prepare(job: Job) -> None:
    (job.folder / "old").mkdir()
    _linked(job.base, job.folder / "old" / job.target.name)


def _linked(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _rsync_encode(job: Job) -> list[Step]:
    batch = ["rsync", "--ignore-times", "--no-whole-file", "--only-write-batch", job.folder / "batch", job.target]
    return [step(*batch, job.folder / "old" / job.target.name), step(
        "zstd", "-q", "-7", job.folder / "batch", "-o", job.kept
    )]  # fmt: skip


def _rsync_decode(job: Job) -> list[Step]:
    old = job.folder / "old" / job.target.name
    return [
        step("zstd", "-q", "-d", "-f", job.kept, "-o", job.folder / "batch"),
        step("rsync", "--sparse", "--read-batch", job.folder / "batch", old),
        step("mv", old, job.made),
    ]


def _rdiff_encode(job: Job) -> list[Step]:
    signature = job.folder / "signature"
    delta = ["rdiff", "delta", signature, job.target]
    return [step("rdiff", "signature", job.base, signature), piped(delta, ["zstd", "-q", "-19"], output=job.kept)]


def _rdiff_decode(job: Job) -> list[Step]:
    return [piped(["zstd", "-q", "-d", "-c", job.kept], ["rdiff", "patch", job.base, "-", job.made])]


def _xdelta_encode(job: Job) -> list[Step]:
    window = min(MOST_XDELTA, max(2**26, 1 << (job.base.stat().st_size - 1).bit_length()))
    return [step("xdelta3", "-9", "-B", window, "-e", "-f", "-s", job.base, job.target, job.kept)]


def _xdelta_decode(job: Job) -> list[Step]:
    window = min(MOST_XDELTA, max(2**26, 1 << (job.base.stat().st_size - 1).bit_length()))
    return [step("xdelta3", "-B", window, "-d", "-f", "-s", job.base, job.kept, job.made)]


def _zstd_encode(job: Job) -> list[Step]:
    return [step("zstd", "-q", "-3", "--long=31", f"--patch-from={job.base}", job.target, "-o", job.kept)]


def _zstd_decode(job: Job) -> list[Step]:
    options = ["-q", "-d", "--long=31", "--memory=2048MB", f"--patch-from={job.base}"]
    return [step("zstd", *options, job.kept, "-o", job.made)]


def _bsdiff_encode(job: Job) -> list[Step]:
    return [step("bsdiff", job.base, job.target, job.kept)]


def _bsdiff_decode(job: Job) -> list[Step]:
    return [step("bspatch", job.base, job.made, job.kept)]


def _casync_prepare(job: Job) -> None:
    _casync("make", f"--store={job.folder / 'old'}", job.folder / "old.caibx", job.base)


def _casync(*arguments: object) -> None:
    import subprocess

    subprocess.run(["casync", *map(str, arguments)], check=True, capture_output=True)


def _casync_encode(job: Job) -> list[Step]:
    return [step("casync", "make", f"--store={job.folder / 'new'}", job.folder / "new.caibx", job.target)]


def _casync_size(job: Job) -> int:
    """The index, and the chunks that the base does not have."""
    old = {path.name for path in (job.folder / "old").rglob("*.cacnk")}
    new = (path for path in (job.folder / "new").rglob("*.cacnk") if path.name not in old)
    return (job.folder / "new.caibx").stat().st_size + sum(path.stat().st_size for path in new)


def _casync_decode(job: Job) -> list[Step]:
    stores = [f"--store={job.folder / 'new'}", f"--extra-store={job.folder / 'old'}"]
    return [step("casync", "extract", *stores, f"--seed={job.base}", job.folder / "new.caibx", job.made)]


METHODS = (
    ours(OURS),
    ours(OURS_FAST, "--effort", "fast"),
    ours(OURS_BEST, "--effort", "best"),
    Method(RSYNC, ("rsync", "zstd"), _rsync_encode, _rsync_decode, prepare=_rsync_prepare),
    Method(RDIFF, ("rdiff", "zstd"), _rdiff_encode, _rdiff_decode),
    Method(XDELTA, ("xdelta3",), _xdelta_encode, _xdelta_decode),
    Method(ZSTD, ("zstd",), _zstd_encode, _zstd_decode),
    Method(BSDIFF, ("bsdiff", "bspatch"), _bsdiff_encode, _bsdiff_decode),
    Method(CASYNC, ("casync",), _casync_encode, _casync_decode, _casync_size, _casync_prepare),
)
