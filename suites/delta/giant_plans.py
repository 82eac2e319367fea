"""Plans as large as they may be, each worst in its way: `python -m suites.delta.giant_plans NAME` tells what it costs.

Run as a program, so that the memory told is that of this plan alone.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from harness.delta.containers.codecs import STORED, grain_codecs
from harness.delta.containers.dissection import rebuild
from harness.delta.containers.plan import LARGEST_PLAN, Frames, Layer, Mapped, Plan, Series, Splice, Tables, to_bytes
from harness.errors import HarnessError
from harness.images.block import Memory

MIB = 2**20
CONTENT = MIB
MANY = LARGEST_PLAN // 3 - 200  # pairs of small numbers
FEW = LARGEST_PLAN // 6 - 200
PLAIN = Mapped(
    entries="qcow2", size=2 * MIB, disk=CONTENT, unit=512, last=512, per_table=2**18, flips=[], order=[],
    codecs=[STORED], uses=[], lengths=[], jumps=[], tables=[], counts=[], series=[], patches=[], literals=b"",
)  # fmt: skip
GIB = 2**30
BYTES = LARGEST_PLAN // 5  # pieces of a byte that follow each other
CLOSELY = Frames(
    size=BYTES, codecs=[STORED, *grain_codecs()[1:2]], uses=[], headed=[], counts=[],
    gaps=[-(-at % 4096) for at in range(BYTES)], lengths=[1] * BYTES,
)  # fmt: skip
GIANTS: Mapping[str, Mapping[str, object]] = {
    "flips": {"flips": [0] * (3 * MANY)},
    "an order of nothing": {"order": [(0, 0)] * MANY},
    "uses of nothing": {"uses": [(9, 0)] * MANY},
    "jumps of nothing": {"jumps": [(0, 0)] * MANY},
    "lengths of nothing": {"lengths": [0] * (3 * MANY)},
    "patches of nothing": {"patches": [(0, 0)] * MANY, "size": GIB},
    "patches of a byte": {"patches": [(1, 1)] * (MANY // 2), "literals": bytes(MANY // 2), "size": GIB},
    "codecs": {"codecs": [STORED] * (LARGEST_PLAN // 15)},
    "codecs that take long": {"codecs": grain_codecs() * 30},
    "tables": {"tables": [Tables(0, 1, 0, 0)] * FEW},
    "tables apart": {"tables": [Tables(0, 2**19, 0, 1024)], "per_table": 1, "size": GIB},
    "tables that are large": {"tables": [Tables(0, 400, 2 * MIB, 2 * MIB)], "size": GIB},
    "units within a table": {  # each gap between two units asks for the table
        "tables": [Tables(0, 500, 0, 2 * MIB)], "size": GIB, "flips": [0, 2048],
        "order": [(0, 2048)], "uses": [(0, 2048)], "jumps": [(1, 512)] * 2047,
    },
    "tables between which one is long": {
        "tables": [Tables(0, 1, GIB - 2 * MIB, 0)], "counts": [Tables(0, 2**19 - 1, 0, 512)], "size": GIB,
    },
    "directories": {"series": [Series(0, 0, 0, 0)] * FEW},
    "a log": {"entries": "vhdx", "log": (0, 2**44)},
}  # fmt: skip


FRAMED: Mapping[str, Mapping[str, object]] = {
    "frames of a byte": {"uses": [(0, BYTES)], "counts": [(1, BYTES)]},
    "packed frames of a byte": {"uses": [(1, BYTES)], "counts": [(1, BYTES)], "size": 16 * BYTES},
    "frames of many pieces": {"uses": [(0, 4)], "counts": [(BYTES // 4, 4)]},
    "uses and flags of nothing": {"uses": [(0, 0)] * (MANY // 2), "headed": [0] * MANY, "gaps": [], "lengths": []},
}
NAMES = (*GIANTS, *FRAMED, "pieces of nothing")


def giant(name: str) -> bytes:
    """The plan's bytes."""
    layer: Layer
    if name == "pieces of nothing":
        layer = Splice(MIB, [b""] * (FEW + 1), [(0, 0)] * FEW)
    elif name in FRAMED:
        layer = msgspec.structs.replace(CLOSELY, **FRAMED[name])
    else:
        layer = msgspec.structs.replace(PLAIN, **GIANTS[name])
    return to_bytes(Plan(layer.size, bytes(32), CONTENT, [layer]))


def peak() -> int:
    """Bytes of memory at the most, by the kernel's VmHWM: ru_maxrss also counts whoever started this program."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main(name: str) -> None:
    raw = giant(name)
    before = resource.getrusage(resource.RUSAGE_SELF)
    error, size = "", 0
    try:
        pieces = rebuild(raw, Memory(bytes(CONTENT), "content"))
        with contextlib.suppress(HarnessError):
            for piece in pieces:
                size += len(piece)
    except HarnessError as cause:
        error = type(cause).__name__
    after = resource.getrusage(resource.RUSAGE_SELF)
    told = {"error": error, "size": size, "seconds": after.ru_utime - before.ru_utime, "peak": peak()}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
