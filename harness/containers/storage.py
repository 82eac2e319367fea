"""Preloaded containers-storage: images of an OCI layout put where podman finds them, the same bytes every time.

skopeo fills the store with the native overlay driver, so that whiteouts and opaque folders are what the guest's
kernel wants (character device 0:0, `trusted.overlay.opaque`); `normalise` then removes what differs between runs.
Needs root for images with more than one owner or with opaque folders; others can be stored without, in a user
namespace, and then belong to the calling user on disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.containers.tarsplit import Member, read_tar_split
from harness.errors import BadInput, BuildFailed, ToolFailed
from harness.tools import find_tool, run

LINK_LENGTH = 26  # characters of a short link id; containers/storage, drivers/overlay: idLength
OPAQUE_OF_ROOT = "trusted.overlay.opaque"
OPAQUE_OF_USERS = "user.overlay.opaque"
FLAG_OF_THIS_HOST = ".has-mount-program"  # what skopeo found out about our kernel; podman asks its own

# A store of its own keeps the host's storage.conf (mount programs, further stores) out of the result.
CONFIGURATION = '[storage]\ndriver = "overlay"\nrunroot = "{0}/run"\ngraphroot = "{0}/root"\n'
# The bind mount gives any graphroot a name without the characters that containers-storage: and overlay reserve;
# the mount namespace takes along the mounts that skopeo leaves behind.
FILL = """set -eu
umask 022
graphroot=$1 point=$2 skopeo=$3; shift 3
mount --bind "$graphroot" "$point/root"
for name; do
  "$skopeo" --insecure-policy copy --quiet "oci:.:$name" "containers-storage:[overlay@$point/root+$point/run]$name"
done
"""


def store_images(
    layout: Path, names: Sequence[str], graphroot: Path, epoch: int, *, timeout: float | None = None
) -> None:
    """Copy the named images of an OCI layout into a new containers-storage at `graphroot`, then normalise it.

    Raises BadInput when `graphroot` already holds something, MissingTool, and BuildFailed with skopeo's last words.
    """
    if not names:
        raise BadInput("no image was named", where=str(layout))
    for folder in (*reversed(graphroot.parents), graphroot):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)  # whatever the umask
    if any(graphroot.iterdir()):
        raise BadInput("is not empty", where=str(graphroot), next_step="give a new folder for the container storage")
    graphroot.chmod(0o700)
    point = Path(tempfile.mkdtemp(prefix="containers-storage-"))
    try:
        (point / "root").mkdir()
        (point / "run").mkdir()
        settings = point / "storage.conf"
        settings.write_text(CONFIGURATION.format(point))
        namespace = ["--mount"] if os.geteuid() == 0 else ["--map-root-user", "--mount"]
        run(
            ["unshare", *namespace, "sh", "-c", FILL, "sh", graphroot.absolute(), point, find_tool("skopeo"), *names],
            cwd=layout,
            env={"CONTAINERS_STORAGE_CONF": str(settings)},
            timeout=timeout,
        )
    except ToolFailed as cause:
        raise BuildFailed(f"cannot be filled: {cause.what}", where=str(graphroot), next_step=_advice()) from cause
    finally:
        shutil.rmtree(point, ignore_errors=True)
    normalise(graphroot, epoch)


def _advice() -> str:
    if os.geteuid():
        return "build as root: only root can give files to other owners and mark folders opaque for the guest"
    return "root needs the rights to mount and the folder a filesystem that overlayfs accepts: see harness doctor"


def normalise(graphroot: Path, epoch: int) -> None:
    """Remove from a freshly filled store all that depends on the run: ids, order, times, locks, leftovers."""
    layers = _read_json(graphroot / "overlay-layers/layers.json")
    _rename_links(graphroot / "overlay", [layer["id"] for layer in layers])
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for layer in layers:
        layer["created"] = created
    _write_json(graphroot / "overlay-layers/layers.json", _parents_first(layers))
    images = _read_json(graphroot / "overlay-images/images.json")
    _write_json(graphroot / "overlay-images/images.json", sorted(images, key=lambda image: str(image["id"])))
    (graphroot / "overlay" / FLAG_OF_THIS_HOST).unlink(missing_ok=True)
    for leftover in (graphroot / "tmp").glob("*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for lock in graphroot.rglob("*.lock"):
        if "diff" not in lock.relative_to(graphroot).parts:
            os.truncate(lock, 0)  # kept: a read-only store cannot be opened without them
    _set_opaque_for_root(graphroot)
    _set_times(graphroot, [layer["id"] for layer in layers], epoch)


def _rename_links(overlay: Path, layers: Sequence[str]) -> None:
    """Replace the random short ids by ones that follow from the layers' ids, in all three places."""
    renamed = {}
    for layer in layers:
        link = overlay / layer / "link"
        digest = hashlib.sha256(f"link of {layer}".encode()).digest()
        renamed[f"l/{link.read_text()}"] = f"l/{base64.b32encode(digest).decode()[:LINK_LENGTH]}"
        link.write_text(renamed[f"l/{link.read_text()}"].removeprefix("l/"))
    for old, new in renamed.items():
        (overlay / old).rename(overlay / new)
    for layer in layers:
        lower = overlay / layer / "lower"
        if lower.exists():
            lower.write_text(":".join(renamed[old] for old in lower.read_text().split(":")))


def _parents_first(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    parents = {layer["id"]: layer.get("parent") for layer in layers}

    def depth(layer: str | None) -> int:
        steps = 0
        while layer := parents.get(layer):
            steps += 1
        return steps

    return sorted(layers, key=lambda layer: (depth(layer["id"]), layer["id"]))


def _set_opaque_for_root(graphroot: Path) -> None:
    """In a user namespace newer skopeos mark opaque folders for that namespace only; the guest's root needs its own."""
    for folder, _, _ in os.walk(graphroot / "overlay"):
        if OPAQUE_OF_USERS not in os.listxattr(folder):
            continue
        try:
            os.setxattr(folder, OPAQUE_OF_ROOT, b"y")
        except OSError as cause:
            raise BuildFailed(
                f"cannot be marked opaque for the guest: {cause.strerror}",
                where=folder,
                next_step="build as root: only root may write trusted.* attributes",
            ) from cause
        os.removexattr(folder, OPAQUE_OF_USERS)


def _set_times(graphroot: Path, layers: Sequence[str], epoch: int) -> None:
    """Layers' files get the times of their tar headers; what no header describes gets the epoch."""
    times: dict[Path, int] = {}
    for layer in layers:
        record = graphroot / f"overlay-layers/{layer}.tar-split.gz"
        diff = graphroot / "overlay" / layer / "diff"
        members = (part for part in read_tar_split([record.read_bytes()]) if isinstance(part, Member))
        times.update((diff / member.path, int(member.mtime * 10**9)) for member in members)
    for path in (graphroot, *_everything(graphroot)):
        stamp = times.get(path, epoch * 10**9)
        os.utime(path, ns=(stamp, stamp), follow_symlinks=False)


def _everything(folder: Path) -> Iterator[Path]:
    for inside, folders, files in os.walk(folder):
        yield from (Path(inside, name) for name in (*folders, *files))


def _read_json(path: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(path.read_bytes())
    return content


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False))
