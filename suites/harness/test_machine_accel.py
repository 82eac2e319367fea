"""The accelerator is chosen by trying; the reason is always said and the answer remembered."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.machine import accel
from harness.machine.accel import Accel, choose
from harness.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def no_kernel(tmp_path) -> Path:
    """A file that no machine can run."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"not a kernel" * 1000)
    return path


@pytest.mark.parametrize("name", ["kvm", "tcg"])
def test_an_override_is_believed(store, name):
    assert choose(store, override=name) == Accel(name, f"{name}: asked for")


def test_an_unknown_override_is_refused(store):
    with pytest.raises(BadInput, match="choose kvm or tcg"):
        choose(store, override="hvf")


def test_without_a_device_the_answer_comes_at_once(store, monkeypatch, tmp_path):
    monkeypatch.setattr(accel, "KVM_DEVICE", tmp_path / "kvm")
    assert choose(store) == Accel("tcg", "kvm: there is no /dev/kvm")


def test_a_device_that_cannot_be_opened_is_no_accelerator(store, monkeypatch, tmp_path):
    monkeypatch.setattr(accel, "KVM_DEVICE", tmp_path)
    assert choose(store) == Accel("tcg", "kvm: /dev/kvm does not open (Is a directory)")


@pytest.fixture
def a_device(monkeypatch):
    """Something that opens, as the device node of a broken KVM does."""
    if not accel.KVM_DEVICE.exists():
        monkeypatch.setattr(accel, "KVM_DEVICE", Path("/dev/null"))


@pytest.mark.usefixtures("a_device")
def test_a_kernel_that_does_not_speak_means_tcg_and_is_remembered(store, no_kernel):
    first = choose(store, no_kernel)
    assert first.name == "tcg"
    assert first.reason.startswith("kvm: /dev/kvm opens but ")
    started = time.monotonic()
    assert choose(store, no_kernel) == first
    assert time.monotonic() - started < 2
    assert list((store.root / "scratch").iterdir()) == []


@pytest.mark.usefixtures("a_device")
def test_a_missing_kernel_is_named(store, tmp_path):
    with pytest.raises(BadInput, match="gone: cannot be read"):
        choose(store, tmp_path / "gone")


@pytest.mark.usefixtures("a_device")
def test_without_a_kernel_there_is_nothing_to_try(store):
    assert choose(store).name == "tcg"
