"""`harness build extend`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.build.artifacts import PLATFORMS, build_artifacts
from harness.build.flavour import Flavour
from harness.commands.stages import StageDisplay
from harness.compose.base import REF
from harness.compose.builds import Builds
from harness.compose.ociarchive import opened_layout
from harness.compose.ociimage import open_image
from harness.compose.unencapsulate import unencapsulate
from harness.places import REFERENCE
from harness.store import Store


@click.command("extend", short_help="Disk images and the live ISO of a build's commit.")
@click.argument("platforms", metavar="PLATFORM...", type=click.Choice(PLATFORMS), nargs=-1, required=True)
@click.option(
    "-w", "--workdir", metavar="FOLDER", type=click.Path(path_type=Path), default=".", show_default=True,
    help="As cosa has one.",
)  # fmt: skip
@click.option("--build", "build_id", metavar="ID", default="", help="Which build (default: the newest).")
@click.option("--arch", default="x86_64", show_default=True, help="As RPM calls it.")
@click.option("--unlocked", is_flag=True, help="Where the archive lost locked packages, resolve them anew.")
@click.option("--force", is_flag=True, help="Build what is there already.")
def extend(platforms: tuple[str, ...], *, workdir: Path, build_id: str, arch: str, unlocked: bool, force: bool) -> None:
    """Add images to a build, as `cosa osbuild` and `cosa buildextend-live` do: the reference system's disk or live ISO
    with the build's commit as its deployment.

    \b
    PLATFORM:
      qemu   a qcow2
      metal  a raw disk
      live   the live ISO, and kernel, initrd and root filesystem for PXE
    \b
    Example:
      harness build ostree reference.qcow2 -w fcos && harness build extend qemu live -w fcos
    """
    builds, store = Builds(workdir / "builds"), Store.default()
    build = build_id or builds.newest()
    archive, meta = builds.commit(build, arch)
    wanted = list(dict.fromkeys(platforms))
    for platform in [each for each in wanted if not force and _is_there(meta, each)]:
        click.echo(f"{platform} image already exists")
        wanted.remove(platform)
    if not wanted:
        return
    with store.scratch("extend") as scratch, StageDisplay() as display:
        with opened_layout(archive, scratch) as layout:
            done = unencapsulate(open_image(layout), scratch / "repo", ref=REF, where=str(archive))
        flavour = Flavour(scratch / "repo", done.commit, str(meta.get("ref", "")) or REF, build)
        for platform in wanted:
            (scratch / platform).mkdir()
            with builds.extending(build, arch, platform) as give:
                give(build_artifacts(
                    platform, flavour, scratch / platform,
                    store=store, definition=REFERENCE, unlocked=unlocked, progress=display,
                ))  # fmt: skip
    for name, image in builds.meta(build, arch)["images"].items():
        click.echo(f"{name:<15} {builds.root / build / arch / image['path']}")


def _is_there(meta: dict[str, object], platform: str) -> bool:
    images = meta.get("images")
    return isinstance(images, dict) and ("live-iso" if platform == "live" else platform) in images
