"""Offline verification of a container storage against sha256sum of the same files, in the same run."""

import os
import random
import subprocess
import sys

import pytest

from harness.containers.layout import Image, LayerFile, write_layout
from harness.containers.storage import store_images
from harness.tools import run
from suites.bench.measuring import measure, piped, step
from suites.harness.stored_images import needs_store

pytestmark = [needs_store, pytest.mark.nightly, pytest.mark.timeout(900)]
SMALL = "localhost/bench/small:1"  # 40,000 files of about 6 KB, as a system's layers are
LARGE = "localhost/bench/large:1"  # 4 files of 16 MiB in each of 4 layers, as Go programs are
ROUNDS = 3
MOST_SLOWER = {SMALL: 4.0, LARGE: 2.0}  # times the CPU seconds of sha256sum; measured: 1.7 and 0.7
MOST_MEMORY = 256 * 2**20  # bytes


def small_files(chance, noise, layer):
    folders = [LayerFile(f"l{layer}/d{number}", "directory", mode=0o755) for number in range(200)]
    files = []
    for folder in folders:
        for number in range(50):
            size, at = int(min(chance.paretovariate(1.1) * 1000, 2_000_000)), chance.randrange(2**20)
            files.append(LayerFile(f"{folder.path}/f{number}", content=(noise[at:] + noise * 2)[:size]))
    return (LayerFile(f"l{layer}", "directory", mode=0o755), *folders, *files)


@pytest.fixture(scope="module")
def storages(tmp_path_factory):
    """A store of small files and one of large files, as folders."""
    chance = random.Random(1)
    noise = chance.randbytes(2**20)
    large = tuple(LayerFile(f"bin/{number}", mode=0o755, content=noise * 16 + bytes([number])) for number in range(4))
    contents = {
        SMALL: tuple(small_files(chance, noise, layer) for layer in range(4)),
        LARGE: tuple((*large, LayerFile(f"layer-{layer}")) for layer in range(4)),
    }
    found = {}
    for name, layers in contents.items():
        folder = tmp_path_factory.mktemp("bench")
        write_layout(folder / "layout", [Image(name, layers)], 1)
        store_images(folder / "layout", [name], folder / "storage", 1)
        run(["rm", "-r", str(folder / "layout")])
        found[name] = folder / "storage"
    return found


@pytest.mark.parametrize("name", [SMALL, LARGE])
def test_a_store_is_verified_at_a_speed_that_sha256sum_knows(storages, told, name):
    storage = storages[name]
    listing = subprocess.run(["find", storage / "overlay", "-type", "f", "-printf", "%s\n"], capture_output=True,
                             check=True).stdout.split()  # fmt: skip
    total = sum(map(int, listing))
    ours = [step(sys.executable, "-m", "harness.cli", "containers", "verify", storage)]
    theirs = [piped(["/usr/bin/find", storage, "-type", "f", "-print0"], ["/usr/bin/xargs", "-0", "sha256sum"])]
    os.sync()
    costs = [(measure(ours, 300), measure(theirs, 300)) for _ in range(ROUNDS)]
    assert not [cost.failure for pair in costs for cost in pair if cost.failure]
    best = [min((pair[which] for pair in costs), key=lambda cost: cost.cpu) for which in (0, 1)]
    told(f"{len(listing):,} files, {total / 1e6:,.0f} MB", "CPU", "wall", "MB/CPU s", "memory")
    for title, cost in zip(("harness containers verify", "sha256sum"), best, strict=True):
        speed, memory = f"{total / 1e6 / cost.cpu:,.0f}", f"{cost.memory / 1e6:,.0f} MB"
        told(title, f"{cost.cpu:.2f} s", f"{cost.wall:.2f} s", speed, memory)
    assert best[0].cpu < MOST_SLOWER[name] * best[1].cpu
    assert best[0].memory < MOST_MEMORY
