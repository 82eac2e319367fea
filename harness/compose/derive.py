"""An ostree commit on top of another: its tree with layers and overlays laid over it, committed by ostree itself.

/etc of a layer or an overlay becomes /usr/etc, where ostree keeps it. The same base, layers, overlays, version and time
give the same commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from harness.compose.laying import lay_over
from harness.compose.overlay import Overlay, OverlayFile
from harness.errors import BadInput
from harness.tools import run

LAYERED: Final = "layered"  # the ref of the work's own commit
ETC: Final = r"^(\./)?etc(?=/|$),usr/etc"  # where a commit has it


def derive(
    repo: Path, base: str, overlay: Overlay, scratch: Path, *, ref: str, version: str, epoch: int,
    layers: Sequence[Path] = (),
) -> str:  # fmt: skip
    """Commit `base` of the repository `repo` with the tars `layers` and then `overlay` over it as `ref`.

    Returns the new commit's checksum. Owners are those of the layers; what overlays bring belongs to root.
    Raises BadInput for an overlay that cannot be, ToolFailed in ostree's words.
    """
    if overlay.removed:
        raise BadInput("removing files makes no ostree commit yet", where=overlay.removed[0])
    if layers:
        trees = [f"--tree=tar={tar}" for tar in layers]
        _commit(repo, base, [*trees, "--tar-autocreate-parents", f"--tar-pathname-filter={ETC}"], LAYERED, LAYERED, 0)
        base = LAYERED
    tree = scratch / "overlay"
    tree.mkdir()
    lay_over(tree, in_commit(overlay), epoch)
    return _commit(repo, base, [f"--tree=dir={tree}", "--owner-uid=0", "--owner-gid=0"], ref, version, epoch)


def _commit(repo: Path, base: str, trees: Sequence[str], ref: str, version: str, epoch: int) -> str:
    done = run([
        "ostree", "commit", f"--repo={repo}", f"--branch={ref}", f"--tree=ref={base}", *trees, "--bootable",
        f"--subject={version}", f"--timestamp=@{epoch}", f"--add-metadata-string=version={version}", "--fsync=false",
    ])  # fmt: skip
    return done.decode().strip()


def in_commit(overlay: Overlay) -> Overlay:
    """The overlay with what is in /etc below /usr/etc. Raises BadInput where it has both."""
    files: dict[str, OverlayFile] = {}
    for path, file in overlay.files.items():
        moved = f"usr/{path}" if f"{path}/".startswith("etc/") else path
        if moved in files and not file.is_folder_with_more:
            raise BadInput("is in /etc and in /usr/etc of the overlays", where=str(file.source))
        files[moved] = replace(file, header=replace(file.header, name=moved))
    if "usr/etc" in files and "usr" not in files:
        parent = files["usr/etc"]
        above = replace(parent, header=replace(parent.header, name="usr"), is_folder_with_more=True)
        files = {"usr": above, **files}
    return replace(overlay, files=files)
