"""skopeo as a program that we start: several at a time, all of which end with us, and what its complaints mean.

skopeo 1.9 does not read CONTAINERS_REGISTRIES_CONF, so mirrors are given as an option. It knows no time limit for a
registry that says nothing more: we look whether bytes still arrive.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import BadInput, DamagedArtifact, HarnessError, RegistryFailed, StoreError, ToolFailed
from harness.tools import find_tool

STALLED: Final = 300.0  # seconds without a byte, after which nothing will come
TICK: Final = 0.5  # seconds between looks
SLACK: Final = 64 * 2**20  # bytes that skopeo may write beyond the largest file: its cache
EVIDENCE: Final = 2000  # characters
LOG_LINE: Final = re.compile(r'time="[^"]*" level=\w+ msg="(?P<message>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Cause:
    """What skopeo says (in lower case), and how we say it."""

    mark: str
    kind: type[HarnessError]
    what: str
    next_step: str


CAUSES: Final = (
    Cause("digest did not match", DamagedArtifact, "a file is not what its manifest says", "push it again"),
    Cause("file too large", DamagedArtifact, "a file is larger than its manifest says", "push it again"),
    Cause("no space left on device", StoreError, "does not fit on this disk", "make room"),
    Cause("policy.json", RegistryFailed, "may not be copied by this host's /etc/containers/policy.json", "look there"),
    Cause("no such host", RegistryFailed, "there is no such host", "check the name"),
    Cause("connection refused", RegistryFailed, "nobody listens there", "check host and port"),
    Cause(
        "http response to https client",
        RegistryFailed,
        "speaks plain HTTP",
        "say --insecure (or --tls-verify=false) if so meant",
    ),
    Cause(
        "x509:",
        RegistryFailed,
        "has a certificate that this host does not trust",
        "put its authority into /etc/containers/certs.d/HOST:PORT/ca.crt",
    ),
    Cause("unauthorized", RegistryFailed, "does not know us", "skopeo login, or give a file with --authfile"),
    Cause("authentication required", RegistryFailed, "does not know us", "skopeo login, or --authfile"),
    Cause(
        "resource is denied",
        RegistryFailed,
        "does not let us do this",
        "skopeo login as somebody who may, or --authfile",
    ),
    Cause("toomanyrequests", RegistryFailed, "has had too many requests from us", "try again later"),
    Cause("manifest unknown", RegistryFailed, "is not there", "check name and tag: skopeo list-tags"),
    Cause("name unknown", RegistryFailed, "is not there", "check the name"),
    Cause("404 (not found)", RegistryFailed, "is not all there", "check host and name; push it again"),
    Cause("ran longer than", RegistryFailed, "does not answer in time", "try again later"),
    Cause("i/o timeout", RegistryFailed, "does not answer", "check host, port and proxy"),
)
# What the same question may not meet again: the network's and the registry's moods (RFC 9110, 15.6), in lower case.
PASSING: Final = re.compile(
    r"http status: 5\d\d|status code from registry 5\d\d|internal server error|bad gateway|service unavailable"
    r"|gateway timeout|connection (?:refused|reset|timed out)|broken pipe|i/o timeout|handshake timeout"
    r"|client\.timeout|deadline exceeded|unexpected eof|\beof\b|too ?many ?requests"
    r"|temporary failure|server misbehaving|no route to host|network is unreachable|no byte came"
)
LASTING: Final = re.compile(r"digest did not match|file too large|no space left")


class Stopped(Exception):
    """Everything was told to end."""


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached, as skopeo takes it; what is not given is what this host's configuration says.

    `cert_dir` holds ca.crt (and client.cert, client.key); `registries_conf` names mirrors (containers-registries.conf).
    """

    authfile: Path | None = None
    tls_verify: bool = True
    cert_dir: Path | None = None
    registries_conf: Path | None = None

    def check(self) -> None:
        """Raise BadInput for a file or folder that is not there: skopeo would go on without it."""
        for file, next_step in (
            (self.authfile, "skopeo login --authfile FILE HOST writes one"),
            (self.registries_conf, ""),
        ):
            if file and not file.is_file():
                raise BadInput("is not there", where=str(file), next_step=next_step)
        if self.cert_dir and not self.cert_dir.is_dir():
            raise BadInput("is no folder", where=str(self.cert_dir), next_step="it has to hold ca.crt")

    def before(self) -> list[str]:
        """Options in front of skopeo's command."""
        return ["--registries-conf", str(self.registries_conf.absolute())] if self.registries_conf else []

    def of_source(self, prefix: str = "") -> list[str]:
        """Options of the command; `prefix` is `src-` where there is a destination as well."""
        options = ["--authfile", str(self.authfile.absolute())] if self.authfile else []
        if not self.tls_verify:
            options.append(f"--{prefix}tls-verify=false")
        if self.cert_dir:
            options += [f"--{prefix}cert-dir", str(self.cert_dir.absolute())]
        return options


class Skopeo:
    """Runs skopeo in as many threads as like to call; `stop` ends them all and lets none begin.

    `patience` is how many seconds may pass without a byte.
    """

    def __init__(self, access: Access, patience: float = STALLED) -> None:
        self.stopping = threading.Event()
        self._access, self._patience = access, patience
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def manifest(self, reference: str) -> bytes:
        """The manifest of `host/name:tag` or `host/name@digest` as the registry has it. Raises ToolFailed."""
        argv = [*self._access.before(), "inspect", "--raw", *self._access.of_source(), f"docker://{reference}"]
        return self._run(argv, limit=SLACK)

    def copy(
        self, reference: str, folder: Path, *, with_all: bool, largest: int, look: Callable[[], int] = lambda: 0
    ) -> None:
        """Copy an image into a `dir:` folder, none of whose files may grow beyond `largest` bytes. Raises ToolFailed.

        `look` is called now and then and says how many bytes have come.
        """
        options = ["copy", "--quiet", "--preserve-digests", *(["--all"] if with_all else [])]
        argv = [
            *self._access.before(),
            *options,
            *self._access.of_source("src-"),
            f"docker://{reference}",
            f"dir:{folder}",
        ]
        self._run(argv, limit=largest + SLACK, look=look)

    def stop(self) -> None:
        """End what runs; nothing begins after this."""
        with self._lock:
            self.stopping.set()
            for process in self._running:
                process.kill()

    def check(self) -> None:
        """Raise Stopped once everything was told to end."""
        if self.stopping.is_set():
            raise Stopped

    def _run(self, argv: Sequence[str], *, limit: int, look: Callable[[], int] = lambda: 0) -> bytes:
        bounded = [find_tool("prlimit"), f"--fsize={limit}", "--", find_tool("skopeo"), *argv]
        with self._lock:
            self.check()
            process = subprocess.Popen(
                [find_tool("setpriv"), "--pdeathsig", "KILL", "--", *bounded],  # whatever kills us
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # Ctrl-C is for us
            )
            self._running.add(process)
        try:
            out, words = self._waited(process, look)
        finally:
            with self._lock:
                self._running.discard(process)
            process.kill()
            process.wait()
        self.check()
        if process.returncode:
            said = words.decode(errors="replace").strip()[-EVIDENCE:] or f"skopeo ended with {process.returncode}"
            raise ToolFailed(" | ".join(said.splitlines()))
        return out

    def _waited(self, process: subprocess.Popen[bytes], look: Callable[[], int]) -> tuple[bytes, bytes]:
        seen, since = -1, time.monotonic()
        while True:
            try:
                return process.communicate(timeout=TICK)
            except subprocess.TimeoutExpired:
                if (now := look()) != seen:
                    seen, since = now, time.monotonic()
                if time.monotonic() - since > self._patience:
                    process.kill()
                    process.communicate()
                    raise ToolFailed(f"i/o timeout: no byte came for {self._patience:.0f} s") from None


def complaint(failed: ToolFailed, reference: str) -> HarnessError:
    """What skopeo complains of, in words."""
    said = failed.what.lower()
    for cause in CAUSES:
        if cause.mark in said:
            return cause.kind(cause.what, where=reference, next_step=cause.next_step)
    lines = [match["message"] for match in LOG_LINE.finditer(failed.what)] or [failed.what]
    return RegistryFailed(f"skopeo gave up: {lines[-1][:1000]}", where=reference)


def may_pass(failed: ToolFailed) -> bool:
    """Whether the same may go well a little later."""
    said = failed.what.lower()
    return PASSING.search(said) is not None and LASTING.search(said) is None
