"""Recipes and plans of containers as things to damage: how one is followed, and how strange ones are made.

Most damage to a recipe ends at a checksum, and most to a plan at its compression. So each piece of noise is also read
as what an attacker would send: with right checksums and sizes, or as operations and literals that were never written.
"""

from __future__ import annotations

import contextlib
import json
import random
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from harness.delta.bases import BaseFile
from harness.delta.containers import plan as plans
from harness.delta.containers.dissection import dissect, outline, rebuild
from harness.delta.decode import decode_into
from harness.delta.encode import encode_file
from harness.delta.ops import BASE, LITERAL, Op, Packer
from harness.delta.recipe import MAGIC, PREFIX, PREFIX_SIZE, VERSION, Identity, Recipe, check_of
from harness.errors import HarnessError
from harness.images.block import Block, Memory
from suites.delta.made_containers import made, made_squashfs
from suites.delta.made_recipes import Counted

ORIGINALS = (
    random.Random(3).randbytes(20_000) + bytes(9000) + b"a line of text\n" * 900,
    b"another base, that is text\n" * 500,
)
MOST_MADE = 2**22  # bytes: what claims to make more is opened, and not followed
MOST_STORED = 2**16
FORMS = ("qcow2", "qcow2 packed", "qcow2 packed by zstd", "vmdk stream", "vmdk sparse", "vhd fixed")
PLANNED = 2**18  # bytes of disk in the containers that plans are of
OF_LAYER = 100  # bytes of a body that have the name of its layer
PIECES = 64  # of a rebuilt container

Follow = Callable[[bytes], object]


def bases() -> list[Memory]:
    """The bases of all recipes here."""
    return [Memory(original, f"base{number}") for number, original in enumerate(ORIGINALS)]


@cache
def sound_recipe() -> bytes:
    """A recipe with operations of all kinds, and literals behind a dictionary."""
    first, second = ORIGINALS
    target = second[:5000] + first[3000:30_000] + b"new, and a line of text\n" * 40 + bytes(7000) + second[:4500]
    return b"".join(encode_file(Memory(target + first[:4096] * 2, "target"), bases()).bytes())


def follow_recipe(data: bytes) -> int:
    """Read a recipe and make its target, of bases of which nothing but the size is known. Raises HarnessError."""
    recipe = Recipe(Memory(data, "recipe"))
    if recipe.header.target.size > MOST_MADE:
        return 0
    known = recipe.header.bases
    given = [
        BaseFile(base, Identity(base.size, wanted.sha256) if base.size == wanted.size else None)
        for base, wanted in zip(bases(), known, strict=False)
    ]
    return decode_into(recipe, given[: len(known)], Counted()).size


def signed(data: bytes) -> bytes:
    """What a recipe with these bytes would be if sizes and checksums were right."""
    if len(data) < PREFIX_SIZE:
        return data
    length = min(PREFIX.unpack_from(data)[3], len(data) - PREFIX_SIZE)
    text, body = data[PREFIX_SIZE : PREFIX_SIZE + length], data[PREFIX_SIZE + length :]
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return _sealed(text, body)
    try:
        sections = [*header["ops"], *header["literals"], *([header["plan"]] if header.get("plan") else [])]
        stored = []
        for section in sections:
            size = min(int(section["stored"]), MOST_STORED)
            piece, body = body[:size].ljust(size, b"\0"), body[size:]
            section |= {"stored": size, "check": check_of(piece).hex()}
            stored.append(piece)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return _sealed(text, body)
    return _sealed(json.dumps(header).encode(), b"".join(stored))


def _sealed(text: bytes, body: bytes) -> bytes:
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(text))
    return prefix + check_of(prefix, text) + text + body


def woven(data: bytes) -> bytes:
    """A recipe whose operations are read from noise, six bytes each, as far as a byte in front says; then literals."""
    count = data[0] if data else 0
    rows, rest = data[1 : 1 + 6 * count], data[1 + 6 * count :]
    ops, position = [], 0
    for at in range(0, len(rows) - 5, 6):
        kind = rows[at] % (BASE + len(ORIGINALS) + 1)
        length = int.from_bytes(rows[at + 1 : at + 3], "little")
        source = int.from_bytes(rows[at + 3 : at + 6], "little", signed=True)
        ops.append(Op(kind, length, source if kind > LITERAL else 0))
        position += length
    packed = Packer().pack(ops)
    sections, body = {"ops": [], "literals": []}, b""
    for name, content in (("ops", packed), ("literals", rest)):
        if content:
            section = {"codec": "store", "stored": len(content), "raw": len(content), "check": check_of(content).hex()}
            sections[name].append(section)
            body += content
    named = [{"size": len(original), "sha256": "0" * 64} for original in ORIGINALS]
    header = {"target": {"size": position, "sha256": "0" * 64}, "bases": named, **sections}
    return _sealed(json.dumps(header).encode(), body)


@cache
def sound_plans() -> dict[str, tuple[bytes, Block]]:
    """Plans by the container they are of, each with the content it wants."""
    found = {}
    for form in FORMS:
        with TemporaryDirectory() as folder, dissect(made(Path(folder), form, PLANNED, 9)) as taken:
            found[form] = taken.plan, Memory(taken.content.read(0, taken.content.size), "content")
    with TemporaryDirectory() as folder, dissect(made_squashfs(Path(folder))) as taken:
        found["squashfs"] = taken.plan, Memory(taken.content.read(0, taken.content.size), "content")
    return found


def follow_plan(data: bytes) -> int:
    """Tell what a plan says and rebuild its container, of a content of the right size. Raises HarnessError."""
    size = outline(data).content_size
    contents = [content for _, content in sound_plans().values()]
    content = next((each for each in contents if each.size == size), contents[0])
    return sum(len(piece) for piece in islice(rebuild(data, content), PIECES))


def wrapped_plan(body: bytes) -> bytes:
    """A plan with a body of these bytes."""
    version = plans.VERSION_OF_FRAMES if b"Frames" in body[:OF_LAYER] else plans.VERSION
    return plans.MAGIC + bytes([version]) + len(body).to_bytes(4, "little") + zlib.compress(body, 1)


def body_of(data: bytes) -> bytes:
    """The body of a plan, as far as it can be unpacked."""
    inner = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        return inner.decompress(data[plans.HEADER_SIZE :], 2**20)
    return data


def rewritten(data: bytes) -> bytes:
    """A sound plan with other numbers: a byte says which plan, then each six bytes which number and what it becomes.

    A decoder in C says no to most noise before any code of ours is reached; this is never ill-typed.
    """
    known = list(sound_plans().values())
    plan = msgspec.msgpack.decode(body_of(known[data[0] % len(known)][0])) if data else []
    for at in range(1, len(data) - 5, 6):
        places = list(_numbers(plan))
        if not places:
            break
        row, index = places[int.from_bytes(data[at : at + 2], "little") % len(places)]
        number, how = int.from_bytes(data[at + 2 : at + 5], "little", signed=True), data[at + 5]
        if how < 128:  # so far left that 2^44 is reached, and more than fits
            row[index] = number << how % 24
        elif how < 192:
            row[index] += number
        elif how < 224:
            row.insert(index, row[index])
        else:
            del row[index]
    return wrapped_plan(msgspec.msgpack.encode(plan))


def _numbers(value: object) -> Iterator[tuple[list[int], int]]:
    """Where the numbers in nested lists are: list and index."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            if type(each) is int:
                yield value, index
            else:
                yield from _numbers(each)


def try_recipe(data: bytes) -> None:
    """Read noise as a recipe in each way: there is a target, or one typed error of one line."""
    for strange in (data, signed(data), woven(data)):
        _tried(follow_recipe, strange)


def try_plan(data: bytes) -> None:
    """Read noise as a plan in each way."""
    for strange in (data, wrapped_plan(data), rewritten(data)):
        _tried(follow_plan, strange)


def _tried(follow: Follow, data: bytes) -> None:
    try:
        follow(data)
    except HarnessError as error:
        check_words(error)


def check_words(error: HarnessError) -> None:
    """An error is one line of plain text, however strange what it quotes."""
    if not str(error).isprintable() or len(str(error)) > 1000:
        raise AssertionError(f"not what a user can read: {error!r}")
