"""A Debian archive of a few tiny packages in a folder, signed with a key of its own: apt needs no network for it."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from harness.build.packages import Package
from harness.tools import run

PACKAGES = {"base": "Essential: yes\n", "tool": "Depends: library (>= 1)\n", "library": ""}


@dataclass
class Archive:
    """`url` is what --mirror takes; `keyring` is what its signatures are checked with."""

    folder: Path
    home: Path

    @property
    def url(self) -> str:
        return f"file://{quote(str(self.folder))}"

    @property
    def keyring(self) -> Path:
        return self.home / "keyring.gpg"

    def publish(self, version: str) -> dict[str, Package]:
        """Replace all packages by ones of this version, as a mirror does; returns them by name."""
        for old in self.folder.rglob("*.deb"):
            old.unlink()
        made = {name: self._package(name, version, extra) for name, extra in PACKAGES.items()}
        stanzas = "".join(f"{control}\n" for _, control in made.values())
        self._index(self.folder, "bookworm", stanzas)
        self._index(self.folder, "bookworm-updates", "")
        self._index(Path(f"{self.folder}-security"), "bookworm-security", "")
        return {name: package for name, (package, _) in made.items()}

    def withdraw(self, package: Package) -> None:
        (self.folder / package.path).unlink()

    def _package(self, name: str, version: str, extra: str) -> tuple[Package, str]:
        tree = self.home / f"{name}_{version}"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: us <us@localhost>\n{extra}"
        (tree / "DEBIAN/control").write_text(f"{control}Description: tiny\n")
        path = f"pool/main/{name}_{version.rpartition(':')[2]}_all.deb"
        deb = self.folder / path
        deb.parent.mkdir(parents=True, exist_ok=True)
        run(["dpkg-deb", "--build", "--root-owner-group", tree, deb])
        digest, size = hashlib.sha256(deb.read_bytes()).hexdigest(), deb.stat().st_size
        control += f"Description: tiny\nFilename: {path}\nSize: {size}\nSHA256: {digest}\n"
        return Package(name, version, "all", "Debian", size, digest, path), control

    def _index(self, base: Path, codename: str, packages: str) -> None:
        top = base / "dists" / codename
        index = top / "main/binary-amd64/Packages"
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(packages)
        digest = hashlib.sha256(packages.encode()).hexdigest()
        release = (
            f"Origin: Debian\nLabel: Debian\nCodename: {codename}\nDate: Sat, 01 Jan 2022 00:00:00 UTC\n"
            f"Architectures: all amd64\nComponents: main\n"
            f"SHA256:\n {digest} {len(packages)} main/binary-amd64/Packages\n"
        )
        (top / "InRelease").unlink(missing_ok=True)
        self._gpg("--clearsign", "--output", str(top / "InRelease"), stdin=release)

    def make_key(self) -> None:
        self.home.mkdir(mode=0o700, parents=True)
        who = "Small archive <small@localhost>"
        self._gpg("--passphrase", "", "--quick-generate-key", who, "ed25519", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export")

    def _gpg(self, *arguments: str, stdin: str = "") -> None:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", *arguments]
        subprocess.run(command, input=stdin.encode(), check=True, capture_output=True)

    def close(self) -> None:
        """End the agent that gpg leaves behind."""
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False, capture_output=True)
