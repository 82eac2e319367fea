"""From locked packages to an installed root filesystem, as one tar file."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from harness.build.packages import ARCHITECTURE, RELEASE, Package
from harness.build.sandbox import check_root
from harness.build.tree import digest_of_folder
from harness.errors import BuildFailed
from harness.store import Store, content_key
from harness.tools import find_tool, run

TAR = "rootfs.tar"
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*", "/usr/share/lintian/*")


def rootfs_key(packages: Mapping[Package, Path], epoch: int) -> str:
    """Key of the installed root filesystem: the packages' digests, what is left out, and mmdebstrap's version."""
    version = run(["mmdebstrap", "--version"]).decode().split()[-1]
    recipe = digest_of_folder(Path(__file__))
    inputs = {
        "debs": sorted(p.sha256 for p in packages),
        "left out": LEFT_OUT,
        "epoch": epoch,
        "mmdebstrap": version,
        "recipe": recipe,
    }
    return content_key(inputs)


def install(packages: Mapping[Package, Path], epoch: int, store: Store) -> Path:
    """The tar of a root filesystem with exactly these packages (name -> .deb) installed, from the store."""
    key = rootfs_key(packages, epoch)
    return store.entry("rootfs", key, lambda folder: _bootstrap(packages, epoch, folder / TAR, store)) / TAR


def _bootstrap(packages: Mapping[Package, Path], epoch: int, target: Path, store: Store) -> None:
    check_root()
    with store.scratch("archive") as archive:
        _flat_archive(packages, archive)
        names = ",".join(sorted(package.name for package in packages))
        command = [
            find_tool("mmdebstrap"),
            "--mode=root",
            "--variant=essential",
            "--quiet",
            f"--architectures={ARCHITECTURE}",
            f"--include={names}",
            '--aptopt=APT::Install-Recommends "false"',
            '--aptopt=APT::Sandbox::User "root"',
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
            "--format=tar",
            RELEASE,
            os.fspath(target),
            f"deb [trusted=yes] copy://{quote(os.fspath(archive))} ./",
        ]
        environment = {**os.environ, "INITRD": "No", "SOURCE_DATE_EPOCH": str(epoch), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
        done = subprocess.run(command, env=environment, capture_output=True, check=False, umask=0o022)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        cause = [line for line in lines if line.startswith(("E:", "dpkg: error"))] or lines
        raise BuildFailed(f"mmdebstrap failed: {' | '.join(cause[-4:])[:600]}", where="root filesystem")


def _flat_archive(packages: Mapping[Package, Path], folder: Path) -> None:
    """A Debian archive of just these packages; apt trusts it because every file's digest was checked on the way."""
    folder.chmod(0o755)
    stanzas = []
    for package, deb in sorted(packages.items()):
        name = f"{package.name}_{package.architecture}.deb"
        (folder / name).symlink_to(deb)
        control = run(["dpkg-deb", "--field", deb]).decode().rstrip()
        stanzas.append(f"{control}\nFilename: ./{name}\nSize: {package.size}\nSHA256: {package.sha256}\n\n")
    index = "".join(stanzas).encode()
    (folder / "Packages").write_bytes(index)
    (folder / "Release").write_text(
        f"Origin: Debian\nLabel: Debian\nSuite: stable\nCodename: {RELEASE}\n"
        f"Date: Thu, 01 Jan 1970 00:00:00 UTC\nArchitectures: {ARCHITECTURE}\nComponents: main\n"
        f"SHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )
