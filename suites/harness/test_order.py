"""Which test is run when: long ones at once and shared out, cheap ones first, tests of one machine as neighbours."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.order import LONG, dealt, remember, remembered

TESTS = """
import os, pathlib, time, pytest

@pytest.fixture(params=["bios", "uefi"], scope="session")
def machine_spec(request):
    return request.param

@pytest.fixture
def boots():
    pass

@pytest.fixture
def guest(machine_spec):
    pass

@pytest.fixture
def fresh_guest(machine_spec):
    pass

@pytest.fixture(autouse=True)
def written(request):
    with (pathlib.Path(__file__).with_name("log")).open("a") as log:
        log.write(os.environ.get("PYTEST_XDIST_WORKER", "main") + " " + request.node.name + "\\n")

def test_boots(boots): pass
def test_fresh(fresh_guest): pass
def test_shared(guest): pass
def test_offline(): pass
@pytest.mark.parametrize("n", range(8))
def test_many(n): time.sleep(0.02)
@pytest.mark.nightly
@pytest.mark.parametrize("n", range(50))
def test_by_night(n): pass
"""


@pytest.fixture
def suite(tmp_path):
    """A suite that writes down which worker runs what."""
    (tmp_path / "test_it.py").write_text(TESTS)
    ini = "[pytest]\naddopts = -m 'not nightly' --dist=worksteal -p no:cacheprovider\nmarkers =\n  boot:\n  nightly:\n"
    (tmp_path / "pytest.ini").write_text(ini)
    return tmp_path


def run(suite, *options):
    """The names of the tests that each worker ran, in order."""
    command = [sys.executable, "-m", "pytest", "-q", "--store", suite / "store", "--reports", suite / "reports"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, *options], cwd=suite, env=outside, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    order: dict[str, list[str]] = {}
    for line in (suite / "log").read_text().splitlines():
        worker, name = line.split(" ")
        order.setdefault(worker, []).append(name)
    return order


def test_alone_cheap_checks_come_first_and_tests_of_a_machine_together(suite):
    order = run(suite)["main"]
    cheap = {"test_offline", *(f"test_many[{n}]" for n in range(8))}
    assert set(order[: len(cheap)]) == cheap
    bios, uefi = ([f"test_shared[{firmware}]", f"test_fresh[{firmware}]"] for firmware in ("bios", "uefi"))
    assert order[len(cheap) :] == [*bios, "test_boots", *uefi]


def test_with_workers_each_begins_with_what_took_long(suite):
    known = {"test_it.py::test_many[7]": 100.0, "test_it.py::test_fresh[uefi]": 90.0}
    (suite / "store").mkdir()
    (suite / "store/durations.json").write_text(json.dumps(known))
    order = run(suite, "-n", "2")
    assert {names[0] for names in order.values()} == {"test_many[7]", "test_fresh[uefi]"}
    assert sum(map(len, order.values())) == 14


def test_a_whole_boot_is_long_even_if_nobody_has_seen_it(suite):
    assert "test_boots" in {names[0] for names in run(suite, "-n", "2").values()}


def test_what_is_long_is_remembered_and_forgotten_when_it_is_no_more(tmp_path):
    memory = tmp_path / "durations.json"
    remember(memory, {"a": LONG, "b": LONG - 1, "c": 60.0})
    assert remembered(memory) == {"a": LONG, "c": 60.0}
    remember(memory, {"c": 0.1, "d": 7.0})
    assert remembered(memory) == {"a": LONG, "d": 7.0}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": "b"}', b"\xff"])
def test_a_memory_that_cannot_be_read_is_no_memory(tmp_path, content):
    memory = tmp_path / "durations.json"
    memory.write_bytes(content)
    assert remembered(memory) == {}
    remember(memory, {"a": LONG})
    assert remembered(memory) == {"a": LONG}


def pieces(items, workers):
    """As worksteal cuts a list."""
    rest = list(items)
    for left in range(workers, 0, -1):
        yield rest[: len(rest) // left]
        del rest[: len(rest) // left]


@given(st.lists(st.floats(0, 100)), st.integers(1, 8))
def test_nothing_is_lost_and_each_piece_begins_with_its_long_ones(durations, workers):
    items = list(enumerate(durations))
    order = dealt(items, workers, lambda item: item[1])
    assert sorted(order) == items
    short = [item for item in order if item[1] < LONG]
    assert short == [item for item in items if item[1] < LONG]
    long = sorted((seconds for seconds in durations if seconds >= LONG), reverse=True)
    if len(items) >= workers * max(1, len(long)):
        heads = [piece[0][1] for piece in pieces(order, workers) if piece]
        assert sorted(heads, reverse=True)[: len(long)] == long[:workers]
