"""QEMU itself: what its command line opens, and what a machine with nothing to boot says."""

from __future__ import annotations

import struct
import subprocess
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import BadInput, BootFailed, MachineFailed, UnsupportedImage
from harness.machine.accel import Accel
from harness.machine.boot import Boot
from harness.machine.hardware.spec import MachineSpec
from harness.machine.machine import booted
from harness.machine.power import Powered, powered
from harness.machine.qemu.command_line import Wiring, command_line
from harness.machine.qemu.layers import Layer, layer_of
from harness.store import Store

TCG = Accel("tcg", "tests")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def empty_disk(tmp_path) -> Path:
    disk = tmp_path / "disk, with a comma.raw"
    disk.write_bytes(bytes(2**20))
    return disk


def test_a_disk_without_a_boot_loader_fails_within_seconds(store, empty_disk, tmp_path):
    image = empty_disk.read_bytes()
    with (
        pytest.raises(BootFailed, match=r"\[no-bootable-device\]"),
        booted(Boot(empty_disk, None, MachineSpec(memory=128), TCG), store, tmp_path / "logs", Deadline(60)),
    ):
        pytest.fail("it came up")
    assert empty_disk.read_bytes() == image
    assert "SeaBIOS" in (tmp_path / "logs/console.log").read_text()
    assert list((store.root / "scratch").iterdir()) == []


def test_a_backing_file_an_image_names_is_never_opened(empty_disk, tmp_path, store):
    image = tmp_path / "hostile.qcow2"
    backed = ["-u", "-b", "/nonexistent/secret", "-F", "raw"]
    subprocess.run(["qemu-img", "create", "-q", *backed, "-f", "qcow2", image, "1M"], check=True)
    layers = [layer_of(image)]
    spec = MachineSpec(memory=128)
    with (
        store.scratch("t") as scratch,
        powered(lambda ends: command_line(spec, "tcg", Wiring(*ends, layers)), scratch, tmp_path / "log") as machine,
    ):
        listing = machine.qmp.execute("query-named-block-nodes")
    assert "secret" not in str([node["file"] for node in listing])
    assert len(listing) == len(["the qcow2 layer", "its file"])


def listeners() -> dict[int, str]:
    """TCP ports that somebody listens on, and the address in hex (proc(5), /proc/net/tcp)."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    places = (row[1].partition(":") for row in rows if row[3] == "0A")
    return {int(port, 16): address for address, _, port in places}


def argv_of(spec: MachineSpec, layer: Layer, ends: tuple[int, int, int]) -> list[str]:
    return command_line(spec, "tcg", Wiring(*ends, [layer]))


def test_eight_machines_at_once_have_ports_of_their_own(tmp_path, store):
    """QEMU binds port 0 itself and tells us what the kernel chose: there is no port to be lost in between."""
    spec = MachineSpec(memory=128)
    with ExitStack() as stack:

        def start(number: int) -> Powered:
            disk = tmp_path / f"disk-{number}"
            disk.write_bytes(bytes(2**20))
            scratch = stack.enter_context(store.scratch("port"))
            argv = partial(argv_of, spec, Layer(disk, "raw"))
            return stack.enter_context(powered(argv, scratch, tmp_path / f"{number}.log"))

        ports = [machine.qmp.ssh_port() for machine in [start(number) for number in range(8)]]
        assert len(set(ports)) == 8
        here = "0100007F"
        assert [listeners()[port] for port in ports] == [here] * 8


def test_a_qemu_that_does_not_start_quotes_its_last_words(empty_disk, tmp_path, store):
    def argv(ends):
        wiring = Wiring(*ends, [Layer(empty_disk, "raw")])
        return [*command_line(MachineSpec(memory=128), "tcg", wiring), "-device", "flux"]

    with (
        store.scratch("t") as scratch,
        pytest.raises(MachineFailed, match=r"exited with 1: .*flux"),
        powered(argv, scratch, tmp_path / "log"),
    ):
        pytest.fail("it came up")


def test_a_qemu_that_is_killed_is_noticed_at_once(empty_disk, tmp_path, store):
    def argv(ends):
        return command_line(MachineSpec(memory=128), "tcg", Wiring(*ends, [Layer(empty_disk, "raw")]))

    log = tmp_path / "log"
    with store.scratch("t") as scratch, powered(argv, scratch, log, allowed=["no-bootable-device"]) as parts:
        parts.process.kill()
        with pytest.raises(MachineFailed, match="killed by signal 9"):
            parts.console.wait_for("login", Deadline(60))
        with pytest.raises(MachineFailed, match="killed by signal 9"):
            parts.qmp.execute("query-status")


def qcow2_header(version: int, features: int) -> bytes:
    return struct.pack(">4sI64xQ24x", b"QFI\xfb", version, features).ljust(512, b"\0")


@pytest.mark.parametrize(
    "content, error, words",
    [
        (b"", BadInput, "is empty"),
        (qcow2_header(3, 1 << 2), UnsupportedImage, "keeps its data in another file"),
    ],
)
def test_an_image_that_cannot_be_a_disk_is_refused(tmp_path, content, error, words):
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(error, match=words):
        layer_of(path)


@pytest.mark.parametrize("path", ["gone", "."])
def test_what_is_no_file_is_refused(tmp_path, path):
    with pytest.raises(BadInput, match="cannot be read"):
        layer_of(tmp_path / path)
