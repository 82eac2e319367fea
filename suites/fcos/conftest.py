"""What a live system fetches, and how an ISO is customised for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fixtures.live import is_iso
from fixtures.sources import sources_of
from harness.build.reference import Built
from harness.store import Store, content_key
from harness.tools import run

OURS = Path(__file__).parent
DISKS = OURS.with_name("rhcos")
METAL = 2048 * 2**20  # bytes: where the reference image's backup GPT lies


def pytest_configure(config: pytest.Config) -> None:
    """A disk is a disk: one that `--image` names is judged by the checks of suites/rhcos and its profile."""
    asked = [Path(os.path.abspath(argument)) for argument in config.args]  # noqa: PTH100 - not through links
    if OURS in asked and DISKS not in asked and any(not is_iso(source.path) for source in sources_of(config)):
        config.args.append(str(DISKS))


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """`served(folder)`: the URL below which a guest finds its files; QEMU's user network has the host at 10.0.2.2."""
    with ExitStack() as stack:

        def serve(folder: Path) -> str:
            handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return f"http://10.0.2.2:{server.server_address[1]}"

        yield serve


@pytest.fixture(scope="session")
def metal(reference: Built, store: Store) -> Path:
    """The reference image as for bare metal: raw, without the room after its backup GPT, packed by zstd."""

    def make(folder: Path) -> None:
        with store.scratch("metal") as scratch:
            raw = scratch / "metal.raw"
            run(["qemu-img", "convert", "-O", "raw", reference.path, raw])
            with raw.open("r+b") as file:
                file.truncate(METAL)
            run(["zstd", "-q", "-1", "-T1", raw, "-o", folder / "metal.raw.zst"])

    return store.entry("metal", content_key({"image": reference.sha256_qcow2, "edit": 1}), make) / "metal.raw.zst"
