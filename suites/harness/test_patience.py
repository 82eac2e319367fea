"""What a test waits for until it has a machine is not the test's time."""

import signal
import threading
import time

import pytest

from fixtures.patience import untimed


def left():
    """Seconds until pytest-timeout ends this test."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


@pytest.mark.timeout(60)
def test_the_clock_stands_still_while_a_machine_is_awaited():
    before = left()
    with untimed():
        assert left() == 0
        time.sleep(0.5)
    assert 0 < before - left() < 0.4


@pytest.mark.timeout(60)
def test_the_clock_goes_on_after_a_machine_could_not_be_had():
    with pytest.raises(ValueError, match="no machine"), untimed():
        raise ValueError("no machine")
    assert left() > 0


@pytest.mark.timeout(0)
def test_where_no_clock_runs_none_is_started():
    with untimed():
        pass
    assert left() == 0


@pytest.mark.timeout(60)
def test_another_thread_does_not_touch_the_clock():
    thread = threading.Thread(target=lambda: untimed().__enter__())
    thread.start()
    thread.join()
    assert left() > 0
