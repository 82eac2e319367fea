"""A program that runs on a guest's behalf ends with the guest; who broke ssh follows from what the guest says."""

from __future__ import annotations

import threading
import time

import pytest

from harness.deadline import Deadline
from harness.errors import DeadlinePassed, GuestLost, MachineFailed
from harness.machine.guest.channel import Completed
from harness.machine.guest.errand import Lifeline, run_errand
from harness.machine.guest.reach import Reach
from harness.pulse import Pulse

SOON = 5.0


def test_an_errand_gives_exit_code_and_output():
    done = run_errand(["sh", "-c", "echo out; echo err >&2; exit 7"], Lifeline(), Deadline(SOON), "sh")
    assert done == Completed(7, b"out\n", b"err\n")


def test_an_errand_ends_as_soon_as_the_guest_is_known_to_be_lost_though_its_pipes_stay_open():
    """As with ssh, which hands its pipes to the process that holds the shared connection."""
    pulse, news = Pulse(), []

    def check():
        if news:
            raise GuestLost("the kernel stopped")

    def bring_news():
        with pulse.beat():
            news.append("bad")

    threading.Timer(0.3, bring_news).start()
    started = time.monotonic()
    with pytest.raises(GuestLost):
        run_errand(["sh", "-c", "sleep 7 & sleep 60"], Lifeline(pulse, check), None, "sleep")
    assert time.monotonic() - started < 2


def test_an_errand_that_takes_long_is_doubted_and_goes_on(monkeypatch):
    monkeypatch.setattr("harness.machine.guest.errand.FIRST_DOUBT", 0.1)
    doubts = []
    lifeline = Lifeline(doubt=lambda: doubts.append(time.monotonic()))
    assert run_errand(["sleep", "1"], lifeline, Deadline(SOON), "sleep").rc == 0
    assert len(doubts) in {2, 3}, "after 0.1, 0.3 and 0.7 seconds"


def test_an_errand_that_is_doubted_with_reason_ends(monkeypatch):
    monkeypatch.setattr("harness.machine.guest.errand.FIRST_DOUBT", 0.1)

    def doubt():
        raise MachineFailed("the network is cut")

    with pytest.raises(MachineFailed, match="network is cut"):
        run_errand(["sleep", "60"], Lifeline(doubt=doubt), None, "sleep")


def test_an_errand_ends_at_its_deadline():
    with pytest.raises(DeadlinePassed, match="for a nap"):
        run_errand(["sleep", "60"], Lifeline(), Deadline(0.2), "a nap")


def test_endless_output_is_not_kept(monkeypatch):
    monkeypatch.setattr("harness.machine.guest.errand.MOST_OUTPUT", 10**6)
    with pytest.raises(MachineFailed, match="write into a file"):
        run_errand(["yes"], Lifeline(), Deadline(60), "yes")


UP, DOWN, OFF = "is up", "has no carrier", "is switched off"


@pytest.mark.parametrize(
    "reach, ssh_said, error, words",
    [
        (Reach({"ens3": DOWN}), "timed out", MachineFailed, "the network is cut (ens3 has no carrier)"),
        (Reach({"a": DOWN, "b": UP}, is_open=True, banner="SSH-2.0-x"), "gone", MachineFailed, "ssh is lost (gone)"),
        (Reach({"ens3": OFF}), "timed out", GuestLost, "its network is down (ens3 is switched off)"),
        (Reach({"ens3": UP}), "refused", GuestLost, "nobody listens at its port 22"),
        (Reach({"ens3": UP}, is_open=True), "reset", GuestLost, "open but silent"),
        (Reach({"ens3": UP}, is_open=True, banner="HTTP/1.1"), "what", GuestLost, "says 'HTTP/1.1'"),
        (Reach({"ens3": UP}, is_open=True, banner="SSH-2.0-x"), "Permission denied", GuestLost, "lets us in no more"),
        (Reach({"ens3": UP}, is_open=True, banner="SSH-2.0-x"), "closed", MachineFailed, "sshd answers there"),
        (Reach({}), "refused", GuestLost, "nobody listens"),
    ],
)  # fmt: skip
def test_the_blame_follows_from_what_the_guest_sees_of_itself(reach, ssh_said, error, words):
    blamed = reach.blame(ssh_said)
    assert (type(blamed), words in str(blamed)) == (error, True), blamed
