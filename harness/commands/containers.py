"""`harness containers`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from harness.commands.stages import StageDisplay
from harness.containers.completeness import completeness
from harness.containers.folder import FolderFiles, View
from harness.containers.imagefolder import INDEX, MANIFEST, FolderReport, verify_folder
from harness.containers.records import IMAGES
from harness.containers.stores import read_settings
from harness.containers.verify import StorageReport, verify_storage
from harness.errors import BadInput
from harness.images.filesystems.files import shown
from harness.images.partitions.layout import read_layout
from harness.images.source import open_chain
from harness.images.system.tree import open_system

LARGEST_LIST = 2**22  # bytes
COMMENT = "#"


@click.group()
def containers() -> None:
    """Look into container storage and image folders, without running a container tool."""


@containers.command(short_help="Is every image there, whole?")
@click.argument("target", type=click.Path(path_type=Path, exists=True))
@click.option("--at", metavar="PATH", help="Where in TARGET the store or folder is (default: as storage.conf says).")
@click.option(
    "--list",
    "listed",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Pull specs that must be there, one a line.",
)
@click.option("--base", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="An image's backing file.")
def verify(target: Path, *, at: str | None, listed: Path | None, base: tuple[Path, ...]) -> int:
    """Check every byte, mode, owner and whiteout of the container images in TARGET.

    TARGET is a disk image, a container storage, the root of a system, a folder of skopeo's `dir:`, or an OCI layout. In
    a system all stores count that its storage.conf names. Reading a folder needs its owner's rights, usually root's.

    Prints a line for each problem, and a summary. Exits with 1 when an image is damaged, or one of the list is not
    there; leftovers and images that the list lacks are told, but harm nothing.

    \b
    Examples:
      harness containers verify rhcos.qcow2
      harness containers verify rhcos.qcow2 --list ocp-images.txt
      harness containers verify /var/lib/containers/storage
      harness containers verify disk.raw --at /var/images/etcd_latest
    """
    references = _references(listed) if listed else None
    with _opened(target, base) as (files, is_system), StageDisplay() as display:
        display("verifying", None)
        started = time.monotonic()
        root = "/" + (at or "").strip("/")
        found: StorageReport | FolderReport
        if any(files.exists(f"{root}/{name}") for name in (INDEX, MANIFEST)):
            found = verify_folder(files, root)
        elif at or not is_system:
            found = verify_storage(files, root)
        else:
            settings = read_settings(files)
            found = verify_storage(files, settings.root, settings.additional)
        display("verified", time.monotonic() - started)
    if isinstance(found, StorageReport):
        return _tell_store(found, references)
    if references is not None:
        raise BadInput("is a folder of images, which have no pull specs", where=str(target), next_step="leave --list")
    return _tell_folder(found)


def _tell_store(report: StorageReport, references: list[str] | None) -> int:
    against = completeness(report, references or ())
    if references is None:
        lines = [f"{'problem':8} {each}" for each in report.problems]
        lines += [f"{'leftover':8} {each}" for each in report.leftovers]
        layers = {layer.id: layer.size for image in report.images for layer in image.layers}
        counts = f"{len(report.images)} images, {len(layers)} layers, {sum(layers.values()):,} bytes"
        lines.append(f"{counts}: {len(report.problems) or 'no'} problems, {len(report.leftovers) or 'no'} leftovers")
    else:
        lines = list(against.lines())
    click.echo("\n".join(map(shown, lines)))
    is_sound = not report.problems if references is None else against.is_complete
    return 0 if is_sound else 1


def _tell_folder(report: FolderReport) -> int:
    lines = [f"{'problem':8} {each.path} {each.what}" for each in report.problems]
    lines += [" ".join(filter(None, ("image", each.digest, each.machine, each.name))) for each in report.images]
    lines.append(f"{len(report.images)} images, {report.size:,} bytes: {len(report.problems) or 'no'} problems")
    click.echo("\n".join(map(shown, lines)))
    return 1 if report.problems else 0


@contextmanager
def _opened(target: Path, bases: tuple[Path, ...]) -> Iterator[tuple[View, bool]]:
    """The files of an image or folder, and whether they are those of a system."""
    if target.is_dir():
        view = FolderFiles(target)
        yield view, not any(view.exists(f"/{path}") for path in (IMAGES, INDEX, MANIFEST))
    else:
        with open_chain(target, bases) as image:
            yield open_system(read_layout(image.block)), True


def _references(path: Path) -> list[str]:
    """The first word of each line; what follows `#` is a comment."""
    try:
        data = path.read_bytes()[: LARGEST_LIST + 1]
        text = data.decode()
    except (OSError, UnicodeDecodeError) as cause:
        raise BadInput("is no list of pull specs", where=str(path)) from cause
    if len(data) > LARGEST_LIST:
        raise BadInput(f"has more than {LARGEST_LIST:,} bytes", where=str(path))
    words = [line.partition(COMMENT)[0].split() for line in text.splitlines()]
    return list(dict.fromkeys(word[0] for word in words if word))
