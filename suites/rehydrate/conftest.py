"""The images of a family, each made again from its recipe: those of `--family`, or of the reference family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.rehydration import EVERY_DAY, rehydrated
from harness.delta.family.listing import Listed, read_index
from harness.images.edits.platform import set_platform
from harness.images.edits.shapes import shape_of
from harness.images.source import Image, open_image
from harness.store import Store, content_key
from suites.bench import recipe_work

AT_NIGHT = ("azure", "metal", "vmware", "gcp", "hyperv", "nutanix")
METAL4K = "metal4k.raw"


def _name(platform: str) -> str:
    return f"reference-{platform}.{shape_of(platform).suffix}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of tests for each image of the family; those of the reference family that take long at night."""
    if "listed" not in metafunc.fixturenames:
        return
    named: Path | None = metafunc.config.getoption("family")
    if named:
        names = [image.name for image in read_index(named).images if image.file]
        metafunc.parametrize("listed", names, indirect=True, scope="session")
        return
    night = [*map(_name, AT_NIGHT), METAL4K]
    marked = [pytest.param(name, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)]) for name in night]
    metafunc.parametrize("listed", [*map(_name, EVERY_DAY), *marked], indirect=True, scope="session")


@dataclass(frozen=True, slots=True)
class Sibling:
    """An image of a family: what the index says, the folder, and for the reference family what it was made from."""

    listed: Listed
    folder: Path
    original: Path | None


@pytest.fixture(scope="session")
def whole_family(platform_image: Callable[[str], Path], family_of: Callable[..., Path], metal4k: Path) -> Path:
    """The reference image as every platform has it, and as metal4k, dehydrated as well as we can."""
    return family_of([*map(platform_image, (*EVERY_DAY, *AT_NIGHT)), metal4k], "best")


@pytest.fixture(scope="session")
def metal4k(reference, store: Store) -> Path:
    """The trees of the reference image in other file systems, on a disk of 4 KiB sectors, as bare metal gets it."""
    disk = recipe_work.family(store, reference).metal4k

    def make(folder: Path) -> None:
        set_platform(disk, "metal", folder / METAL4K, form="raw")

    return store.entry("platform", content_key({"image": disk.parent.name, "platform": "metal4k"}), make) / METAL4K


@pytest.fixture(scope="session")
def listed(request: pytest.FixtureRequest) -> Sibling:
    """What the family under test says of one image."""
    name = request.param
    if request.config.getoption("family"):
        folder = request.getfixturevalue("family")
        return Sibling(read_index(folder).image(name), folder, None)
    is_everyday = name in map(_name, EVERY_DAY)
    folder = request.getfixturevalue("family" if is_everyday else "whole_family")
    return Sibling(read_index(folder).image(name), folder, _original(request, name))


def _original(request: pytest.FixtureRequest, name: str) -> Path:
    if name == METAL4K:
        return request.getfixturevalue("metal4k")
    platform = name.removeprefix("reference-").split(".")[0]
    return request.getfixturevalue("platform_image")(platform)


@pytest.fixture(scope="session")
def made(listed: Sibling, store: Store) -> Path:
    """The image's file, made again."""
    return rehydrated(listed.folder, listed.listed.name, store)


@pytest.fixture(scope="session")
def made_image(made: Path, store: Store) -> Iterator[Image]:
    """The image made again, opened."""
    with open_image(made, store=store) as opened:
        yield opened
