"""Sets of files in container registries, as OCI artifacts: pushed and pulled by skopeo.

skopeo knows registries, mirrors, proxies, certificates (`/etc/containers/certs.d`) and credentials (`skopeo login`, or
the file that REGISTRY_AUTH_FILE names) as podman does. What a registry sends is bounded by its own manifest: that is
read first, checked, pinned by its digest, and no file may grow larger than it says.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.containers.artifact import TYPE_OF_SET, is_layout, pack, read_artifact, unpack
from harness.containers.manifest import LARGEST_MANIFEST, Artifact, blamed, read_manifest
from harness.containers.skopeo import SLACK, complaint
from harness.deadline import Deadline
from harness.errors import BadInput, StoreError, ToolFailed
from harness.tools import find_tool, run

PATIENCE = 6 * 3600.0  # seconds for a whole set
ASKING = 120.0  # seconds for a manifest
TRIES = 2  # more than one, where skopeo thinks that it may help
LONGEST_REFERENCE = 512

# The grammar of references (distribution, reference.go), with a registry that is named: `images:1` alone would
# quietly be docker.io/library/images:1.
_HOST = r"(?P<host>(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+(?::\d+)?|[A-Za-z0-9-]+:\d+|localhost|\[[0-9A-Fa-f:]+\](?::\d+)?)"
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
REFERENCE = re.compile(
    rf"(?P<name>{_HOST}(?:/{_PART})+)(?::(?P<tag>\w[\w.-]{{0,127}}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?", re.ASCII
)


def push(
    source: Path,
    reference: str,
    *,
    artifact_type: str = TYPE_OF_SET,
    authfile: Path | None = None,
    tls_verify: bool = True,
    deadline: Deadline | None = None,
) -> Artifact:
    """Push the files of a folder, or the artifact of an OCI layout, to `reference` (`quay.io/me/images:4.21`).

    Files that the registry has already are not sent again. Without `tls_verify` plain HTTP and unknown certificates
    will do. Raises BadInput, DamagedArtifact for a layout that contradicts itself, RegistryFailed.
    """
    wanted, _ = checked_reference(reference)
    deadline = deadline or Deadline(PATIENCE)
    options = [*_credentials(authfile), f"--dest-tls-verify={str(tls_verify).lower()}"]
    with _scratch_beside(source) as scratch:
        if is_layout(source):
            layout, artifact = source, read_artifact(source)
        else:
            layout = scratch / "layout"
            artifact = pack(source, layout, artifact_type=artifact_type)
        # No policy: it is about whom to believe, and these are our own files.
        copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", f"--retry-times={TRIES}"]
        _skopeo([*copy, *options, "oci:.", f"docker://{wanted}"], wanted, deadline, cwd=layout)
    return artifact


def pull(
    reference: str,
    folder: Path,
    *,
    artifact_type: str = TYPE_OF_SET,
    authfile: Path | None = None,
    tls_verify: bool = True,
    deadline: Deadline | None = None,
) -> Artifact:
    """Pull the files of an artifact into the new folder `folder`: all of them, each as its digest says, or nothing.

    Raises BadInput where `folder` holds something or `reference` is no artifact of `artifact_type`, DamagedArtifact for
    one that is not what it says, RegistryFailed, and StoreError where there is no room.
    """
    wanted, name = checked_reference(reference)
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise BadInput("is there already", where=str(folder), next_step="choose another name, or remove it")
    deadline = deadline or Deadline(PATIENCE)
    credentials, verify = _credentials(authfile), str(tls_verify).lower()
    asked = ["skopeo", "inspect", "--raw", *credentials, f"--tls-verify={verify}", f"docker://{wanted}"]
    manifest = _skopeo(asked, wanted, deadline.at_most(ASKING))
    artifact = read_manifest(manifest, wanted, artifact_type=artifact_type)
    if "@" in wanted and artifact.digest != wanted.rpartition("@")[2]:
        raise blamed(wanted, f"the registry gave {artifact.digest} instead")
    with _scratch_beside(folder) as scratch:
        if (free := shutil.disk_usage(scratch).free) < artifact.size:
            raise StoreError(f"{artifact.size:,} bytes do not fit, {free:,} are free", where=str(folder.parent))
        largest = max((file.size for file in artifact.files), default=0)
        bounded = ["prlimit", f"--fsize={max(largest, LARGEST_MANIFEST) + SLACK}", "--", find_tool("skopeo")]
        copy = [*bounded, "copy", "--quiet", "--preserve-digests", f"--retry-times={TRIES}", *credentials]
        pinned = f"docker://{name}@{artifact.digest}"
        _skopeo([*copy, f"--src-tls-verify={verify}", pinned, "oci:layout"], wanted, deadline, cwd=scratch)
        if read_artifact(scratch / "layout") != artifact:
            raise blamed(wanted, f"changed on the way: {artifact.digest} did not arrive")
        return unpack(scratch / "layout", folder, moving=True)


def checked_reference(reference: str) -> tuple[str, str]:
    """A reference as skopeo takes it behind `docker://`, and its name without tag and digest. Raises BadInput."""
    plain = reference.removeprefix("docker://")
    match = REFERENCE.fullmatch(plain) if len(plain) <= LONGEST_REFERENCE else None
    if match is None:
        raise BadInput(
            "is not a name in a registry", where=repr(plain[:LONGEST_REFERENCE]), next_step="as quay.io/me/images:4.21"
        )
    name = match["name"]
    if match["digest"]:  # skopeo refuses tag and digest together; the digest says more
        return f"{name}@{match['digest']}", name
    return plain, name


def _credentials(authfile: Path | None) -> list[str]:
    """Options for skopeo; it takes an authfile that is not there for one without credentials."""
    if authfile is None:
        return []
    if not authfile.is_file():
        raise BadInput("is not there", where=str(authfile), next_step="skopeo login --authfile FILE HOST writes one")
    return ["--authfile", str(authfile.absolute())]


@contextlib.contextmanager
def _scratch_beside(place: Path) -> Iterator[Path]:
    """A folder that is removed at the end: on the file system of `place`, where files need not be copied, if it can."""
    parent = next(each for each in place.absolute().parents if each.is_dir())
    chosen = parent if os.access(parent, os.W_OK) else None
    try:
        scratch = tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=chosen)
    except OSError as cause:
        raise StoreError(f"no room to work: {cause.strerror}", where=str(parent)) from cause
    with scratch as name:
        yield Path(name)


def _skopeo(argv: Sequence[str], reference: str, deadline: Deadline, *, cwd: Path | None = None) -> bytes:
    """Run skopeo, and say in words what it complains of."""
    try:
        return run(argv, cwd=cwd, timeout=deadline.left)
    except ToolFailed as failed:
        raise complaint(failed, reference) from failed
