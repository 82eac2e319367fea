"""What a look inside an image costs: task T of `peers_inside`, ours against the tools and libraries that can do it.

Every run is a whole fresh process, with byte code compiled and the page cache warm. Peers take turns, so that what else
the host does meets all of them. CPU seconds are those of the process and all its children. A peer that is not
installed, fails or answers otherwise says so in its row.
"""

import ast
import importlib.util
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.errors import UnsupportedImage
from harness.images.source import open_image

ROOT = Path(__file__).parents[2]
RUNS, SLOW_RUNS, SLOW = 15, 3, 5  # runs of each peer, of one that takes more than SLOW seconds
APPLIANCE_TIME = 90  # seconds that guestfish may take to start its appliance; some hosts' KVM hangs
GUESTFISH_TARGET = 30  # times that ours must be faster than guestfish under TCG, wall time
LIBRARY_TARGET = 1.5  # times that ours may be slower than the fastest library, CPU seconds: each is one process
SCRIPT = "from suites.bench.peers_inside import main; main()"
FACTS = ("number", "start", "size", "label", "type", "UUID", "filesystem type", "filesystem UUID", "filesystem label")
OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="disk.vmdk" ovf:id="file1"/></References>
<DiskSection><Info>Disks</Info><Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="10"
 ovf:capacityAllocationUnits="byte * 2^30"
 ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
</Envelope>
"""
CONVERSIONS = {
    "raw": ("raw.raw", "-O", "raw"),
    "qcow2 with zstd clusters": ("zstd.qcow2", "-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    "VMDK streamOptimized": ("disk.vmdk", "-O", "vmdk", "-o", "subformat=streamOptimized"),
}
CONTAINERS = ("raw", "qcow2", "qcow2 with zstd clusters", "VMDK streamOptimized", "OVA")
WITH_TARGETS = ("raw", "qcow2")
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Peer:
    """Who does the task: the function of `peers_inside`, and the programs and modules it needs."""

    function: str
    programs: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()

    @property
    def missing(self):
        search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        absent = [program for program in self.programs if shutil.which(program, path=search) is None]
        return absent + [module for module in self.modules if importlib.util.find_spec(module) is None]


OURS, GUESTFISH = "ours", "guestfish"
LIBRARIES = {
    "fs-explorer": Peer("fs_explorer", modules=("fs_explorer",)),
    "pytsk3 + libyal": Peer("sleuthkit", modules=("pytsk3", "pyqcow", "pyvmdk")),
}
PEERS = {
    OURS: Peer("ours"),
    **LIBRARIES,
    "qemu-nbd + nbdfuse": Peer(
        "nbd", programs=("qemu-nbd", "nbdfuse", "fusermount3", "sfdisk", "blkid", "debugfs", "sha256sum")
    ),
    GUESTFISH: Peer("guestfish", programs=("guestfish",)),
}


class Run(NamedTuple):
    """One run: seconds, CPU seconds with children, and what it printed: its answer, or why it has none."""

    wall: float
    cpu: float
    answer: tuple | None
    failure: str


class Cost(NamedTuple):
    """What one peer's runs on one image came to, and whether it read the bytes that we read.

    Without runs, `remark` says why.
    """

    runs: tuple[Run, ...]
    remark: str
    agrees: bool

    @property
    def wall(self):
        return min(run.wall for run in self.runs)

    @property
    def cpu(self):
        return min(run.cpu for run in self.runs)


@pytest.fixture(scope="session")
def containers(reference, tmp_path_factory):
    """`containers(name)`: the reference image in this container."""
    folder = tmp_path_factory.mktemp("containers")

    @cache
    def make(name):
        if name == "qcow2":
            return reference.path
        if name == "OVA":
            (folder / "disk.ovf").write_text(OVF)
            disk = make("VMDK streamOptimized")
            with tarfile.open(folder / "disk.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
                archive.add(folder / "disk.ovf", "disk.ovf")
                archive.add(disk, "disk.vmdk")
            return folder / "disk.ova"
        target, *options = CONVERSIONS[name]
        subprocess.run(["qemu-img", "convert", *options, reference.path, folder / target], check=True)
        return folder / target

    return make


@pytest.fixture(scope="session")
def appliance():
    """Which accelerator guestfish's appliance starts with here, by trying, and the environment for that; or None."""
    if PEERS[GUESTFISH].missing:
        return None
    tried = (("kvm", ""), ("tcg", "force_tcg"))
    for accel, settings in tried if os.access("/dev/kvm", os.R_OK | os.W_OK) else tried[1:]:
        environment = {"LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": settings}
        try:
            subprocess.run(
                ["guestfish", "-a", "/dev/null", "run"],
                env={**os.environ, **environment},
                timeout=APPLIANCE_TIME,
                capture_output=True,
                check=True,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            continue
        return accel, environment
    return None


@pytest.fixture(scope="session")
def costs(containers, appliance, tmp_path_factory):
    """`costs(container)`: what each peer's runs came to, measured once. Skips where we do not read the container."""
    environment = {**os.environ, **(appliance[1] if appliance else {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    @cache
    def measure(container):
        image = containers(container)
        try:
            with open_image(image):
                pass
        except UnsupportedImage as reason:
            pytest.skip(f"{container}: {reason}")
        scratch = tmp_path_factory.mktemp("runs")
        runs = {name: [] for name, peer in PEERS.items() if not peer.missing}
        if appliance is None:
            runs.pop(GUESTFISH, None)
        for number in range(RUNS + 1):  # the first warms up
            for name, done in runs.items():
                if not any(run.failure or (run.wall > SLOW and number >= SLOW_RUNS) for run in done):
                    run = run_once(PEERS[name], image, scratch, environment)
                    if number or run.failure or run.wall > SLOW:
                        done.append(run)
        assert not runs[OURS][-1].failure, runs[OURS][-1].failure
        return {name: cost_of(name, runs.get(name), runs[OURS][-1].answer) for name in PEERS}

    return measure


def run_once(peer, image, scratch, environment):
    """One fresh process in an empty folder of its own."""
    folder = scratch / "folder"
    folder.mkdir()
    command = [sys.executable, "-c", SCRIPT, peer.function, image, folder]
    with (scratch / "out").open("w+") as out, (scratch / "err").open("w+") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            process.send_signal(signal.SIGINT)  # so that it unmounts what it has mounted
            raise
        wall = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        answer, *complaints = Path(out.name).read_text(), *Path(err.name).read_text().splitlines()
    shutil.rmtree(folder)
    failure = (complaints or ["said nothing"])[-1] if process.returncode else ""
    return Run(wall, used.ru_utime + used.ru_stime, None if failure else ast.literal_eval(answer), failure)


def cost_of(name, runs, answer):
    if not runs:
        return Cost((), f"not installed: {', '.join(PEERS[name].missing) or 'an appliance that starts'}", agrees=False)
    if runs[-1].failure:
        return Cost((), f"failed: {runs[-1].failure[:60]}", agrees=False)
    lacking, other = compared(runs[-1].answer, answer)
    sorts = (("does not tell", lacking), ("DIFFERS", other))
    remarks = (f"{sort}: {', '.join(facts)}" for sort, facts in sorts if facts)
    return Cost(tuple(runs), "; ".join(remarks), agrees=not {"the file", "hashes"}.intersection(other))


def compared(found, ours):
    """The facts that an answer lacks, and those in which it differs from ours."""
    columns = list(zip(FACTS, zip(*found[0], strict=True), zip(*ours[0], strict=True), strict=True))
    lacking = [fact for fact, theirs, own in columns if theirs != own and not any(theirs)]
    other = [fact for fact, theirs, own in columns if theirs != own and any(theirs)]
    wholes = zip(("the file", "hashes"), found[1:], ours[1:], strict=True)
    return lacking, other + [what for what, theirs, own in wholes if theirs != own]


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_peer_reads_the_bytes_that_we_read(container, costs, appliance, told):
    measured = costs(container)
    ours = measured[OURS]
    told(container, "wall min", "median", "CPU min", "wall", "CPU", "remark")
    for name, cost in measured.items():
        label = f"{name} ({appliance[0]})" if name == GUESTFISH and appliance else name
        if not cost.runs:
            told(label, "", "", "", "", "", cost.remark)
            continue
        median = statistics.median(run.wall for run in cost.runs)
        ratios = f"{cost.wall / ours.wall:.2f} x", f"{cost.cpu / ours.cpu:.2f} x"
        told(label, f"{cost.wall:.3f} s", f"{median:.3f} s", f"{cost.cpu:.3f} s", *ratios, cost.remark)
    assert [name for name, cost in measured.items() if cost.runs and not cost.agrees] == []


@pytest.mark.parametrize("container", WITH_TARGETS)
def test_we_take_a_thirtieth_of_guestfish(container, costs, appliance):
    if appliance is None or not costs(container)[GUESTFISH].runs:
        pytest.skip("guestfish is not installed, or does not run here")
    if appliance[0] != "tcg":
        pytest.skip(f"the target holds against guestfish under TCG, here it has {appliance[0]}")
    assert costs(container)[GUESTFISH].wall / costs(container)[OURS].wall >= GUESTFISH_TARGET


@pytest.mark.parametrize("container", WITH_TARGETS)
def test_no_library_is_much_faster(container, costs):
    measured = costs(container)
    rivals = [measured[name].cpu for name in LIBRARIES if measured[name].agrees]
    if not rivals:
        pytest.skip(f"no library to compare with: {'; '.join(measured[name].remark for name in LIBRARIES)}")
    assert measured[OURS].cpu <= LIBRARY_TARGET * min(rivals)
