"""The reference image's Debian packages: resolved once into a lock, fetched exactly as locked.

The lock names no host. Mirrors come from the host's apt configuration, or from an option; apt itself resolves,
downloads and checks signatures, so proxies and mirror methods work as they do for the host.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BuildFailed
from harness.store import Store, replacing
from harness.tools import find_tool, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
RELEASE = "bookworm"
ARCHITECTURE = "amd64"
APT_HELPER = "/usr/lib/apt/apt-helper"
LOCK_HEADER = (
    "# The reference image's packages. Written by `harness build lock`; do not edit.\n"
    "# name version architecture archive size sha256 path-in-archive\n"
)


class StaleLock(BuildFailed):
    """The archive no longer has some of the locked versions."""

    def __init__(self, gone: Sequence[Package]) -> None:
        self.gone = tuple(gone)
        names = ", ".join(f"{package.name} {package.version}" for package in self.gone[:5])
        more = f" and {len(self.gone) - 5} more" if len(self.gone) > 5 else ""
        super().__init__(
            f"the archive no longer has {names}{more}",
            where="package lock",
            next_step="resolve anew with `harness build lock`, or build with --unlocked",
        )


@dataclass(frozen=True, slots=True, order=True)
class Package:
    """One exact package. `archive` is the release label ("Debian", "Debian-Security"); `size` is in bytes."""

    name: str
    version: str
    architecture: str
    archive: str
    size: int
    sha256: str
    path: str


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where one archive is served: `url` ends in a slash."""

    archive: str
    codename: str
    url: str


def read_lock(path: Path) -> tuple[Package, ...]:
    """The packages of a lock file, sorted by name. Raises BuildFailed naming the line that is not one."""
    packages = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        if len(fields) != len(Package.__slots__) or not fields[4].isdecimal() or len(fields[5]) != 64:
            raise BuildFailed("is not a package row", where=f"{path}:{number}", next_step="run `harness build lock`")
        packages.append(Package(*fields[:4], int(fields[4]), *fields[5:]))
    return tuple(sorted(packages))


def write_lock(path: Path, packages: Iterable[Package]) -> None:
    """Write a lock file, replacing the old one only when complete."""
    rows = (
        f"{p.name} {p.version} {p.architecture} {p.archive} {p.size} {p.sha256} {p.path}\n" for p in sorted(packages)
    )
    with replacing(path) as aside:
        aside.write_text(LOCK_HEADER + "".join(rows))


def host_mirrors(option: str | None = None) -> tuple[Mirror, ...]:
    """Mirrors of the reference image's release: `option` (a Debian mirror's URL), else what the host's apt uses.

    Raises BuildFailed where the host's apt knows no such release.
    """
    if option:
        base = option.rstrip("/")
        return (
            Mirror("Debian", RELEASE, f"{base}/"),
            Mirror("Debian", f"{RELEASE}-updates", f"{base}/"),
            Mirror("Debian-Security", f"{RELEASE}-security", f"{base}-security/"),
        )
    listing = run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"]
    )
    rows = sorted({tuple(line.split("|")) for line in listing.decode().splitlines() if line.count("|") == 3})
    found = tuple(
        Mirror(label, codename, url)
        for origin, label, codename, url in rows
        if origin == "Debian" and codename.partition("-")[0] == RELEASE
    )
    if not found:
        raise BuildFailed(
            f"this host's apt has no index of Debian {RELEASE}",
            next_step="run `apt-get update`, or name a mirror with --mirror URL",
        )
    return found


def resolve(names: Sequence[str], mirrors: Sequence[Mirror], scratch: Path) -> tuple[Package, ...]:
    """All packages that a system of the essential packages and `names` needs, in their newest versions."""
    environment = _private_apt(scratch, mirrors)
    run(["apt-get", "-qq", "update"], env=environment, timeout=600)
    plan = run(["apt-get", "install", "-qq", "--print-uris", "?essential", *names], env=environment).decode()
    wanted = {}
    for line in plan.splitlines():
        url, file_name = line.split()[:2]
        name, version, _ = file_name.split("_")
        wanted[f"{name}={version.replace('%3a', ':')}"] = url.strip("'")
    records = run(["apt-cache", "show", *sorted(wanted)], env=environment).decode()
    packages = {}
    for record in _stanzas(records):
        url = wanted.get(f"{record['Package']}={record['Version']}", "")
        mirror = next((mirror for mirror in mirrors if url.startswith(mirror.url)), None)
        if mirror is None or not _same_path(url.removeprefix(mirror.url), record["Filename"]):
            continue
        packages[record["Package"]] = Package(
            record["Package"],
            record["Version"],
            record["Architecture"],
            mirror.archive,
            int(record["Size"]),
            record["SHA256"],
            record["Filename"],
        )
    if missing := {key.partition("=")[0] for key in wanted} - set(packages):
        raise BuildFailed(f"apt gave no record of {', '.join(sorted(missing))}", where="package resolution")
    return tuple(sorted(packages.values()))


def _same_path(quoted: str, plain: str) -> bool:
    """Apt percent-encodes some characters of a URL's path (+ and ~) that the index has as they are."""
    return quoted.replace("%2b", "+").replace("%7e", "~").replace("%3a", ":") == plain


def _stanzas(records: str) -> Iterator[Mapping[str, str]]:
    for block in records.split("\n\n"):
        pairs = (line.partition(": ") for line in block.splitlines() if not line.startswith(" "))
        fields = {key: value for key, _, value in pairs}
        if "SHA256" in fields and "Filename" in fields:
            yield fields


def _private_apt(scratch: Path, mirrors: Sequence[Mirror]) -> Mapping[str, str]:
    """Environment for an apt that knows only our mirrors and believes that nothing is installed."""
    for folder in ("state/lists/partial", "cache/archives/partial", "etc/preferences.d"):
        (scratch / folder).mkdir(parents=True, exist_ok=True)
    sources = scratch / "sources.list"
    sources.write_text(
        "".join(
            f"deb [arch={ARCHITECTURE} signed-by={find_tool(KEYRING)}] {mirror.url} {mirror.codename} main\n"
            for mirror in mirrors
        )
    )
    (scratch / "status").touch()
    settings = {
        "Dir::State": scratch / "state",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": scratch / "none",
        "Dir::Etc::preferencesparts": scratch / "etc/preferences.d",
        "APT::Architecture": ARCHITECTURE,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    config = scratch / "apt.conf"
    config.write_text(
        "".join(f'{key} "{value}";\n' for key, value in settings.items())
        + f'#clear APT::Architectures;\nAPT::Architectures {{"{ARCHITECTURE}";}};\n'
    )
    return {"APT_CONFIG": os.fspath(config)}


def fetch(packages: Sequence[Package], mirrors: Sequence[Mirror], store: Store) -> Mapping[Package, Path]:
    """Every package's .deb from the store, downloading what is not there yet; each file's SHA-256 is checked.

    Raises StaleLock naming the versions that the archive no longer has.
    """
    have = {package: store.find("deb", package.sha256) for package in packages}
    missing = [package for package, entry in have.items() if entry is None]
    if missing:
        with store.scratch("debs") as scratch:
            _download(missing, mirrors, scratch)
            for package in missing:
                have[package] = _keep(package, scratch / package.sha256, store)
    return {package: entry / "package.deb" for package, entry in have.items() if entry is not None}


def _keep(package: Package, downloaded: Path, store: Store) -> Path:
    return store.entry("deb", package.sha256, lambda folder: _move(downloaded, folder / "package.deb"))


def _move(source: Path, target: Path) -> None:
    source.rename(target)


def _download(packages: Sequence[Package], mirrors: Sequence[Mirror], scratch: Path) -> None:
    bases = {mirror.archive: mirror.url for mirror in mirrors}
    if unknown := {package.archive for package in packages} - set(bases):
        raise BuildFailed(
            f"no mirror is known for the archive {', '.join(sorted(unknown))}", next_step="name one with --mirror URL"
        )
    orders = [
        word
        for package in packages
        for word in (bases[package.archive] + package.path, str(scratch / package.sha256), f"SHA256:{package.sha256}")
    ]
    config = scratch / "apt.conf"
    config.write_text('APT::Sandbox::User "root";\nAcquire::Retries "3";\n')
    done = subprocess.run(
        [APT_HELPER, "download-file", *orders],
        env={**os.environ, "LC_ALL": "C.UTF-8", "APT_CONFIG": str(config)},
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(errors="replace")
    bad = [package for package in packages if not _is_intact(scratch / package.sha256, package)]
    if bad and "404" in said:
        raise StaleLock([package for package in bad if package.path.rsplit("/", 1)[-1].split("_")[0] in said] or bad)
    if bad:
        reason = next((line for line in said.splitlines() if line.startswith("E:")), f"exit {done.returncode}")
        raise BuildFailed(
            f"{len(bad)} of {len(packages)} packages could not be fetched: {reason}",
            where=bad[0].path,
            next_step="is the mirror reachable? `apt-get update` must work; another mirror: --mirror URL",
        )


def _is_intact(path: Path, package: Package) -> bool:
    if not path.is_file() or path.stat().st_size != package.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == package.sha256


__all__ = [
    "Mirror",
    "Package",
    "StaleLock",
    "fetch",
    "host_mirrors",
    "read_lock",
    "resolve",
    "write_lock",
]
