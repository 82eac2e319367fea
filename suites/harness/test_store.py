"""The store under races, exceptions and kill -9: real processes, a real filesystem."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import StoreError
from harness.store import ENVIRONMENT_VARIABLE, USED_MARK, Store, content_key, replacing

values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


@pytest.fixture
def own(tmp_path):
    return Store(tmp_path / "a store")


def fill(text="built", size=0):
    def build(folder):
        (folder / "file").write_text(text)
        (folder / "ballast").write_bytes(os.urandom(size))

    return build


def start(own, code):
    """Another process with `store` in it; it says `ready` when it is where the test wants it."""
    program = f"from pathlib import Path\nfrom harness.store import *\nstore = Store(Path({str(own.root)!r}))\n"
    program += "import sys, time\ndef say(word): print(word, flush=True)\n" + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


BUILD_SLOWLY = """
def build(folder):
    say("ready")
    with (Path({marks!r}) / "builds").open("a") as log:
        log.write("x")
    (folder / "half").write_text("half")
    time.sleep({seconds})
    (folder / "file").write_text("built")
say(store.entry("kind", "key", build))
"""


@given(st.dictionaries(st.text(), values, max_size=5))
def test_a_key_does_not_depend_on_order(inputs):
    backwards = dict(reversed(list(inputs.items())))
    assert content_key(inputs) == content_key(backwards)
    assert len(content_key(inputs)) == 64


def test_keys_of_different_inputs_differ():
    assert content_key({"a": [1, 2]}) != content_key({"a": [2, 1]})
    assert content_key({"a": "1"}) != content_key({"a": 1})


def test_an_entry_is_built_once_and_then_found(own):
    entry = own.entry("kind", "key", fill())
    assert own.entry("kind", "key", fill("twice")) == entry == own.find("kind", "key")
    assert (entry / "file").read_text() == "built"


def test_two_processes_that_race_for_one_key_build_once(own, tmp_path):
    racers = [start(own, BUILD_SLOWLY.format(marks=str(tmp_path), seconds=0.5)) for _ in range(4)]
    said = [racer.communicate(timeout=30)[0].split("\n")[-2] for racer in racers]
    assert set(said) == {str(own.find("kind", "key"))}
    assert (tmp_path / "builds").read_text() == "x"


def test_an_exception_while_building_leaves_nothing(own):
    def fail(folder):
        (folder / "file").write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        own.entry("kind", "key", fail)
    assert own.find("kind", "key") is None
    assert list((own.root / "kind").iterdir()) == []


def test_after_kill_9_of_the_builder_the_next_one_builds(own, tmp_path):
    builder = start(own, BUILD_SLOWLY.format(marks=str(tmp_path), seconds=60))
    assert builder.stdout.readline() == "ready\n"
    waiter = start(own, BUILD_SLOWLY.format(marks=str(tmp_path), seconds=0))
    time.sleep(0.3)
    assert own.find("kind", "key") is None, "half an entry must not be found"
    builder.send_signal(signal.SIGKILL)
    waiter.communicate(timeout=30)
    entry = own.find("kind", "key")
    assert entry is not None
    assert {path.name for path in entry.iterdir()} == {"half", "file", USED_MARK}
    assert (tmp_path / "builds").read_text() == "xx"
    assert [path.name for path in (own.root / "kind").iterdir()] == ["key"]


def test_scratch_is_removed_at_the_end_whatever_happens(own):
    with own.scratch("work") as folder:
        (folder / "file").write_text("x")
    with pytest.raises(ZeroDivisionError), own.scratch("work"):
        raise ZeroDivisionError
    assert list((own.root / "scratch").iterdir()) == []


def test_scratch_of_a_killed_process_is_swept_by_the_next_caller(own):
    holder = start(own, "with store.scratch('work') as folder:\n    say(folder)\n    time.sleep(60)")
    folder = holder.stdout.readline().strip()
    with own.scratch("other"):
        assert Path(folder).is_dir(), "its owner lives"
    holder.kill()
    holder.wait()
    with own.scratch("other") as mine:
        assert not Path(folder).exists()
        assert mine.is_dir()
    assert list((own.root / "scratch").iterdir()) == []


def test_scratch_of_a_killed_process_is_swept_on_demand(own):
    holder = start(own, "with store.scratch('work') as folder:\n    say(folder)\n    time.sleep(60)")
    folder = Path(holder.stdout.readline().strip())
    own.sweep()
    assert folder.exists(), "its owner lives"
    holder.kill()
    holder.wait(10)
    own.sweep()
    assert list((own.root / "scratch").iterdir()) == []


def test_processes_that_open_scratch_at_once_do_not_sweep_each_other(own):
    code = "for _ in range(40):\n    with store.scratch('work') as folder:\n        (folder / 'x').write_text('x')"
    racers = [start(own, code) for _ in range(4)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0, 0]
    assert list((own.root / "scratch").iterdir()) == []


def use(own, key, seconds_ago):
    own.entry("kind", key, fill(size=400_000))
    stamp = time.time() - seconds_ago
    os.utime(own.root / "kind" / key / USED_MARK, (stamp, stamp))


def test_pruning_drops_the_least_recently_used_until_it_fits(own):
    for key, age in (("old", 300), ("older", 400), ("new", 100)):
        use(own, key, age)
    own.limit = 900_000
    assert [path.name for path in own.prune()] == ["older"]
    assert own.prune() == []
    own.find("kind", "old")  # a use
    own.limit = 500_000
    assert [path.name for path in own.prune()] == ["new"]
    assert own.find("kind", "old")


def test_an_entry_in_use_by_a_builder_is_not_pruned(own):
    use(own, "busy", 100)
    own.limit = 0
    holder = start(own, "with store.lock('kind-busy'):\n    say('ready')\n    time.sleep(60)")
    assert holder.stdout.readline() == "ready\n"
    assert own.prune() == []
    holder.kill()
    holder.wait()
    assert [path.name for path in own.prune()] == ["busy"]


def test_pruning_removes_what_killed_processes_left(own):
    for left in ("kind/.key.building", "kind/.key.77.doomed", "scratch/.work-1.77.doomed", "scratch/work-2"):
        (own.root / left / "deep").mkdir(parents=True)
        (own.root / left / USED_MARK).touch()
    own.prune()
    with own.scratch("work"):
        pass
    assert list((own.root / "kind").iterdir()) == list((own.root / "scratch").iterdir()) == []


def test_pruning_spares_an_entry_that_is_being_built(own, tmp_path):
    builder = start(own, BUILD_SLOWLY.format(marks=str(tmp_path), seconds=1))
    assert builder.stdout.readline() == "ready\n"
    own.limit = 0
    assert own.prune() == []
    builder.communicate(timeout=30)
    assert own.find("kind", "key")


def test_a_discarded_entry_is_built_again(own):
    own.entry("kind", "key", fill("wrong"))
    own.discard("kind", "key")
    assert own.find("kind", "key") is None
    assert (own.entry("kind", "key", fill("right")) / "file").read_text() == "right"


def test_replacing_puts_the_new_file_in_place_at_the_end(tmp_path):
    target = tmp_path / "folder/file"
    with replacing(target) as aside:
        aside.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o644


def test_replacing_keeps_the_old_file_on_failure(tmp_path):
    target = tmp_path / "file"
    target.write_text("old")

    def fail():
        with replacing(target) as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_store_that_cannot_be_made_is_one_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=f"cannot be created: .*{ENVIRONMENT_VARIABLE}"):
        Store(tmp_path / "file")


def test_the_default_store_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "there"))
    assert Store.default().root == tmp_path / "there"
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Store.default().root == tmp_path / "cache/image-harness"
