"""The reference image's Debian packages: resolved once into a lock, fetched exactly as locked.

The lock names no host. Mirrors come from the host's apt configuration, or from an option; apt itself resolves,
downloads and checks signatures, so proxies and mirror methods work as they do for the host.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from harness.errors import BuildFailed
from harness.store import Store, replacing
from harness.tools import find_tool, run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
RELEASE = "bookworm"
ARCHITECTURE = "amd64"
APT_HELPER = "/usr/lib/apt/apt-helper"
LOCK_ROW = re.compile(r"\S+ \S+ \S+ \S+ \d{1,12} [0-9a-f]{64} (?P<path>[^/\s]\S*)")
# What apt's methods say of a file that an archive does not have: http and https, file, copy.
GONE = re.compile(r"404 |410 |File not found|Failed to stat - stat \(2:")
FAILED_FETCH = re.compile(r"^E: Failed to fetch (\S+)  (.*)$", re.MULTILINE)
PRINTED_URI = re.compile(r"^'(.+)' (\S+) \d+ ", re.MULTILINE)  # of `apt-get install --print-uris`
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
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise BuildFailed(f"cannot be read: {cause}", where=str(path), next_step="run `harness build lock`") from cause
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split()
        row = LOCK_ROW.fullmatch(" ".join(fields))
        if row is None or ".." in row["path"].split("/"):
            raise BuildFailed("is not a package row", where=f"{path}:{number}", next_step="run `harness build lock`")
        name, version, architecture, archive, size, sha256, place = fields
        packages.append(Package(name, version, architecture, archive, int(size), sha256, place))
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
    for url, file_name in PRINTED_URI.findall(plan):
        name, version, _ = file_name.split("_")
        wanted[f"{name}={unquote(version)}"] = _plain(url)
    records = run(["apt-cache", "show", *sorted(wanted)], env=environment).decode()
    packages = {}
    for record in _stanzas(records):
        url = wanted.get(f"{record['Package']}={record['Version']}", "")
        mirror = next((mirror for mirror in mirrors if url == _plain(mirror.url) + record["Filename"]), None)
        if mirror is None:
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


def _plain(url: str) -> str:
    """Apt percent-encodes some characters that the index has as they are, and drops the empty host of a local URL."""
    return re.sub(r"^(file|copy):///", r"\1:/", unquote(url))


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
            complaints = _download(missing, mirrors, scratch)
            bad = [package for package in missing if not is_intact(scratch / package.sha256, package)]
            for package in (package for package in missing if package not in bad):
                have[package] = _keep(package, scratch / package.sha256, store)
        if bad:
            raise _refusal(bad, missing, complaints)
    return {package: entry / "package.deb" for package, entry in have.items() if entry is not None}


def _keep(package: Package, downloaded: Path, store: Store) -> Path:
    return store.entry("deb", package.sha256, lambda folder: _move(downloaded, folder / "package.deb"))


def _move(source: Path, target: Path) -> None:
    if source.is_symlink():  # apt's method for file: URLs copies nothing
        shutil.copyfile(source, target)
    else:
        source.rename(target)


def _download(packages: Sequence[Package], mirrors: Sequence[Mirror], scratch: Path) -> str:
    """Have apt fetch each package into `<scratch>/<sha256>`; returns what it complained of."""
    bases = {mirror.archive: mirror.url for mirror in mirrors}
    if unknown := {package.archive for package in packages} - set(bases):
        raise BuildFailed(
            f"no mirror is known for the archive {', '.join(sorted(unknown))}", next_step="name one with --mirror URL"
        )
    for url in bases.values():
        if url.startswith(("file:", "copy:")) and not Path(unquote(urlsplit(url).path)).is_dir():
            raise BuildFailed("there is no such folder", where=url, next_step="name another mirror with --mirror URL")
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
    return done.stderr.decode(errors="replace")


def _refusal(bad: Sequence[Package], wanted: Sequence[Package], complaints: str) -> BuildFailed:
    """Tell an archive that dropped packages from one that cannot be reached or serves something else."""
    rows = FAILED_FETCH.findall(complaints)
    reasons = {package: reason for package in bad for url, reason in rows if unquote(url).endswith(f"/{package.path}")}
    others = [package for package in bad if not GONE.match(reasons.get(package, ""))]
    if not others:
        return StaleLock(bad)
    reason = reasons.get(others[0]) or complaints.strip().partition("\n")[0] or "apt did not say why"
    return BuildFailed(
        f"{len(others)} of {len(wanted)} packages could not be fetched: {reason}",
        where=others[0].path,
        next_step="is the mirror reachable? `apt-get update` must work; another mirror: --mirror URL",
    )


def is_intact(path: Path, package: Package) -> bool:
    """Whether a file is this package, byte by byte."""
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
