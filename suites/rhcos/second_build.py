"""A second build of the reference image: the same packages, a later version and one file more, to upgrade to."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from harness.build.initramfs import make_initramfs
from harness.build.reference import DEFINITION, os_release, read_definition, usable_packages
from harness.build.rootfs import install
from harness.build.tree import digest_of_folder, shape, unpack
from harness.store import Store, content_key
from harness.tools import run

LATER_VERSION = "12.20261102.0"
NEW_FILE = "/usr/lib/second-build"
LATER = 86400  # seconds: ostree takes a commit for an upgrade only when it is newer
HOST_SEEN_BY_GUEST = "10.0.2.2"  # QEMU's user network leads it to the loopback of the host


@dataclass(frozen=True)
class Update:
    """An ostree repository that can be served as it is, and what is in it."""

    repo: Path
    ref: str
    commit: str
    version: str = LATER_VERSION


def build_update(store: Store) -> Update:
    """The second build's commit, from the store; its packages are those of the first, so there is nothing to fetch."""
    settings = read_definition(DEFINITION)
    packages, _ = usable_packages(settings, DEFINITION, store, None, unlocked=True)
    rootfs = install(packages, settings["epoch"], store)
    module, drivers = DEFINITION / "initramfs", settings["initramfs"]["drivers"]
    initramfs = make_initramfs(rootfs, module, drivers, settings["epoch"], store)
    inputs = {
        "rootfs": rootfs.parent.name,
        "initramfs": initramfs.name,
        "definition": digest_of_folder(DEFINITION),
        "recipe": digest_of_folder(Path(__file__)),
    }

    def build(folder: Path) -> None:
        with store.scratch("update") as scratch:
            root, overlay, repo = scratch / "root", scratch / "overlay", folder / "repo"
            unpack(rootfs, root)
            shutil.copytree(DEFINITION / "overlay", overlay)
            (overlay / NEW_FILE[1:]).write_text("second\n")
            shape(root, overlay, os_release(LATER_VERSION), (initramfs / "version").read_text(), initramfs)
            run(["ostree", "init", f"--repo={repo}", "--mode=archive"])
            run(["ostree", "config", f"--repo={repo}", "set", "archive.zlib-level", "1"])
            commit = run([
                "ostree", "commit", f"--repo={repo}", f"--branch={settings['ref']}", f"--tree=dir={root}", "--bootable",
                "--subject=Second build", f"--timestamp=@{settings['epoch'] + LATER}", "--fsync=false",
                f"--add-metadata-string=version={LATER_VERSION}",
            ])  # fmt: skip
            (folder / "commit").write_bytes(commit.strip())

    entry = store.entry("update", content_key(inputs), build)
    return Update(entry / "repo", settings["ref"], (entry / "commit").read_text())


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The URL under which a guest finds this folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://{HOST_SEEN_BY_GUEST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
