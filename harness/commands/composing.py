"""`harness build ostree`."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from harness.compose.base import REF, read_base
from harness.compose.builds import Build, Builds
from harness.compose.derive import derive
from harness.compose.encapsulate import encapsulate
from harness.compose.epoch import chosen_epoch
from harness.compose.layering import write_layer
from harness.compose.ociarchive import pack
from harness.compose.ostreerepo import OstreeRepo
from harness.compose.overlay import Overlay, overlays_of, read_overlays
from harness.compose.tarwriter import GzipSink
from harness.containers.folder import FolderFiles
from harness.errors import BadInput
from harness.store import Store, content_key

PATH = click.Path(path_type=Path)
OVERLAYS, OVERRIDES = "src/config/overlay.d", "overrides/rootfs"


@click.command("ostree", short_help="A commit with overlays, in a folder of builds.")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("-w", "--workdir", metavar="FOLDER", type=PATH, default=".", show_default=True, help="As cosa has one.")
@click.option("--name", default="reference", show_default=True, help="How the artifacts are called.")
@click.option("--arch", default="x86_64", show_default=True, help="As RPM calls it.")
@click.option("--ref", default="reference/x86_64/coreos", show_default=True, help="The branch of the new commit.")
@click.option("--image", "images", metavar="PLATFORM=FILE", multiple=True, help="An image to be listed; repeatable.")
@click.option("--epoch", metavar="SECONDS", type=int, help="Time of the commit (default: $SOURCE_DATE_EPOCH, else 0).")
@click.option("--force", is_flag=True, help="Build even if nothing changed.")
def build_ostree(
    source: Path,
    *,
    workdir: Path,
    name: str,
    arch: str,
    ref: str,
    images: tuple[str, ...],
    epoch: int | None,
    force: bool,
) -> None:
    """Lay overlays over the ostree commit of SOURCE and keep the new one as a build, as `cosa build ostree` does.

    SOURCE is an ostree repository, a disk image, or an ociarchive; layers above the commit in it become part of the new
    one. In the workdir, the overlays are the folders of src/config/overlay.d
    in the order of their names, then overrides/rootfs. The build lies in builds/ID/ARCH: meta.json and the commit as
    ociarchive. Says so and does nothing when nothing has changed since the newest build.

    \b
    Example:
      harness build ostree reference.qcow2 --workdir fcos
    """
    when = chosen_epoch(epoch)
    listed = dict(_named(each) for each in images)
    builds = Builds(workdir / "builds")
    folders = overlays_of(workdir / OVERLAYS) if (workdir / OVERLAYS).is_dir() else ()
    overrides = (workdir / OVERRIDES,) if (workdir / OVERRIDES).is_dir() else ()
    overlay = read_overlays([*folders, *overrides])
    with Store.default().scratch("build") as scratch:
        base = read_base(source, scratch)
        inputs = content_key({
            "base": [base.commit, *base.diff_ids],
            "overlay": _digest(overlay, scratch),
            "epoch": when,
            "names": [name, arch, ref],
            "images": {platform: _file_digest(path) for platform, path in listed.items()},
        })  # fmt: skip
        if (newest := builds.unchanged(inputs, arch)) and not force:
            click.echo(f"nothing changed since {newest}")
            return
        version = builds.next_id(base.version)
        commit = derive(base.repo, REF, overlay, scratch, ref=ref, version=version, epoch=when, layers=base.layers)
        encapsulate(OstreeRepo(FolderFiles(base.repo), "/"), commit, scratch / "layout")
        pack(scratch / "layout", scratch / "new.ociarchive", when)
        build = Build(version, name, arch, ref, commit, when, inputs, bool(overrides), listed)
        place = builds.add(build, scratch / "new.ociarchive", when)
    click.echo(f"build     {version}\ncommit    {commit}\nfolder    {place}")


def _named(text: str) -> tuple[str, Path]:
    platform, equals, path = text.partition("=")
    if not equals or not platform.replace("-", "").isalnum() or not Path(path).is_file():
        raise BadInput("is not PLATFORM=FILE", where=repr(text), next_step="as qemu=reference.qcow2")
    return platform, Path(path)


def _digest(overlay: Overlay, scratch: Path) -> str:
    """One digest for all that the overlays say: that of their layer."""
    with (scratch / "digest").open("wb") as out:
        sink = GzipSink(out)
        write_layer(sink, overlay, 0)
        sink.close()
    return sink.diff_id


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
