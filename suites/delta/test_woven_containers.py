"""Transform and inverse are the identity, on containers of mixed, wrong and foreign codecs in any order.

A container is drawn unit by unit (`woven`), so that a failure shrinks to the one unit that matters.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suites.delta import made_containers, woven
from suites.delta.woven import CONTENTS, KNOWN, PARAMETERS, Unit

MOST = 24  # units of a disk


@st.composite
def units(draw, packs: tuple[str, ...], contents: tuple[str, ...] = tuple(CONTENTS)) -> list[Unit]:
    """Units in the file's order: mostly rising, as programs write, at times not at all."""
    guests = draw(st.lists(st.integers(0, MOST - 1), unique=True, max_size=MOST))
    if draw(st.booleans()):
        guests.sort()
    kinds, codecs = st.sampled_from(contents), st.sampled_from(packs)
    gaps = st.sampled_from([0, 0, 0, 1, 3, 700])
    return [Unit(guest, draw(kinds), draw(codecs), draw(gaps)) for guest in guests]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("woven") / "container"


def comes_back(place, content: bytes) -> bool:
    place.write_bytes(content)
    return made_containers.comes_back(place)


@given(units=units(("stored", "of other memory", *KNOWN)), bits=st.integers(9, 12), seed=st.integers(0, 99))
def test_a_qcow2_of_known_codecs_comes_back(place, units, bits, seed):
    assert comes_back(place, woven.qcow2(units, MOST, bits, seed))


@given(units=units(("stored", *PARAMETERS)), bits=st.integers(9, 12), seed=st.integers(0, 99))
def test_a_qcow2_of_any_codecs_comes_back_or_is_left_alone(place, units, bits, seed):
    comes_back(place, woven.qcow2(units, MOST, bits, seed))


@given(units=units(("stored", "zstd")), bits=st.integers(9, 12), seed=st.integers(0, 99))
def test_a_qcow2_of_zstd_comes_back(place, units, bits, seed):
    assert comes_back(place, woven.qcow2(units, MOST, bits, seed))


@given(units=units(KNOWN), bits=st.integers(9, 12), seed=st.integers(0, 99))
def test_a_stream_of_known_codecs_comes_back(place, units, bits, seed):
    assert comes_back(place, woven.vmdk(units, MOST, bits, seed))


@given(units=units(tuple(PARAMETERS)), bits=st.integers(9, 12), seed=st.integers(0, 99))
def test_a_stream_of_any_codecs_comes_back_unless_most_are_foreign(place, units, bits, seed):
    came_back = comes_back(place, woven.vmdk(units, MOST, bits, seed))
    assert came_back or 2 * sum(unit.pack in KNOWN for unit in units) < len(units)


@given(units=units(("stored",)), bits=st.integers(9, 12), seed=st.integers(0, 99))
def test_a_sparse_vmdk_comes_back(place, units, bits, seed):
    assert comes_back(place, woven.vmdk(units, MOST, bits, seed, is_stream=False))


@given(units=units(("stored",)), seed=st.integers(0, 99))
def test_a_dynamic_vhd_comes_back(place, units, seed):
    assert comes_back(place, woven.vhd(units[:6], MOST, seed))


@given(units=units(tuple(PARAMETERS)), seed=st.integers(0, 10**9), changes=st.integers(1, 4), form=st.integers(0, 3))
def test_a_patched_container_comes_back_or_is_left_alone(place, units, seed, changes, form):
    """Bytes changed anywhere after it was made, also in what the reader believes; cut short at times."""
    make = (
        lambda: woven.qcow2(units, MOST, 9, 1),
        lambda: woven.vmdk(units, MOST, 9, 1),
        lambda: woven.vmdk(units, MOST, 9, 1, is_stream=False),
        lambda: woven.vhd(units[:2], MOST, 1),
    )[form]
    dice, content = random.Random(seed), bytearray(make())
    for _ in range(changes):
        at = dice.choice([dice.randrange(len(content)), dice.randrange(min(len(content), 3000))])
        content[at] = dice.choice([0, 1, 0x80, 0xFF, dice.randrange(256)])
    comes_back(place, bytes(content[: dice.choice([len(content)] * 4 + [dice.randrange(len(content))])]))
