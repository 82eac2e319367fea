"""One limit shared by nested waits."""

import os
import time

import pytest

from harness.deadline import Deadline, overdue
from harness.errors import DeadlinePassed


def test_time_left_shrinks_and_is_never_negative():
    deadline = Deadline(0.05)
    assert 0 < deadline.left <= 0.05
    time.sleep(0.06)
    assert deadline.left == 0
    assert deadline.expired
    assert deadline.elapsed >= 0.06


def test_a_shorter_deadline_cannot_outlive_the_one_it_is_in():
    outer = Deadline(0.5)
    assert outer.at_most(60).left <= 0.5
    assert outer.at_most(0.1).left <= 0.1


def test_checking_raises_only_when_time_is_over_and_says_what_was_awaited(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 0.0, 0.0))  # of a busy host it would say that as well
    Deadline(10).check("a prompt")
    with pytest.raises(DeadlinePassed, match=r"waited 0 s for a prompt; last seen: GRUB"):
        Deadline(0).check("a prompt", seen="GRUB")
    with pytest.raises(DeadlinePassed, match=r"for a prompt$"):
        Deadline(0).check("a prompt")


@pytest.mark.parametrize("load,verdict", [(0.5, "boot"), (400.0, "infra")])
def test_what_is_late_on_a_busy_host_is_not_blamed_on_the_image(monkeypatch, load, verdict):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    error = overdue("waited 5 s for a prompt")
    assert isinstance(error, DeadlinePassed)
    assert (error.verdict_class, "load of 400" in str(error)) == (verdict, verdict == "infra")
