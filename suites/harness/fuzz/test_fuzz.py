"""Every reader against damaged files: only our typed errors come out, in bounded time and memory.

`pytest suites/harness/fuzz -m nightly` goes on for ten minutes. An accident names its seed and number, which do the
same damage again.
"""

import shutil
import sys
import time

import pytest

from harness.errors import HarnessError, MissingTool
from harness.images.filesystems.files import open_files
from harness.images.inspection import inspect
from harness.images.partitions.layout import part_of, read_layout
from harness.images.source import open_image
from suites.harness.fuzz.cage import first_accident
from suites.harness.fuzz.mutation import damaged, sample_of
from suites.harness.fuzz.recipes import follow_plan, follow_recipe, try_plan, try_recipe, wrapped_plan
from suites.harness.fuzz.samples import makers
from suites.harness.small_disk import small_disk

SEED = 20261121
QUICK = 25  # mutations of each sample in every run
NIGHTLY = 27.0  # seconds for each sample at night: ten minutes in all
BATCH = 200
TRIES = {"recipe": try_recipe, "plan": try_plan}  # what is no image
FOLLOWS = {"recipe": follow_recipe, "plan": lambda body: follow_plan(wrapped_plan(body))}
MOST_FILES, MOST_BYTES = 300, 2**20


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(params=makers())
def sample(request, disk, tmp_path):
    own = tmp_path / "own.img"
    shutil.copyfile(disk, own)
    try:
        return sample_of(request.param, makers()[request.param](tmp_path, own))
    except MissingTool as missing:
        pytest.skip(str(missing))


def look_everywhere(path):
    """What a user can do with an image without booting it. Returns how much could be read."""
    seen = 0
    with open_image(path) as image:
        inspect(image)
        try:
            blocks = [part_of(image.block, each) for each in read_layout(image.block).partitions] or [image.block]
        except HarnessError:
            blocks = [image.block]
        for block in blocks:
            try:
                seen += read_some(open_files(block))
            except HarnessError:
                continue
    return seen


def read_some(files):
    seen = 0
    for number, entry in enumerate(files.walk()):
        if number >= MOST_FILES:
            break
        files.xattrs(entry.path)
        if entry.kind == "file":
            for position, piece in enumerate(files.chunks(entry.path, 65536)):
                seen += len(piece)
                if position * 65536 >= MOST_BYTES:
                    break
    return seen


def look(sample):
    """Read a sample as what it is."""
    if sample.name in TRIES:
        TRIES[sample.name](sample.path.read_bytes())
        return 0
    return look_everywhere(sample.path)


def attempt(sample, number):
    with damaged(sample, SEED, number) as what:
        try:
            look(sample)
        except HarnessError as error:
            if "\n" in str(error):
                raise AssertionError(f"{what}: an error of several lines: {error}") from error
        except BaseException as accident:
            raise AssertionError(f"seed {SEED}, number {number}: {what}") from accident


def test_a_sound_file_is_read(sample):
    found = look(sample)
    if sample.name in FOLLOWS:
        assert FOLLOWS[sample.name](sample.path.read_bytes()) > 0
    elif sample.name != "mbr":
        assert found > 0


def test_a_damaged_file_gives_a_typed_error_or_what_is_left(sample):
    assert first_accident(lambda number: attempt(sample, number), range(QUICK)) is None


@pytest.mark.nightly
def test_no_damage_makes_a_reader_hang_or_explode(sample, capsys):
    """Ten minutes over all samples; the count is printed."""
    until, number = time.monotonic() + NIGHTLY, QUICK
    found = None
    while time.monotonic() < until and not found:
        found = first_accident(lambda each: attempt(sample, each), range(number, number + BATCH))
        number += BATCH
    with capsys.disabled():
        sys.stderr.write(f"\n{sample.name}: seed {SEED}, {number - QUICK} mutations\n")
    assert found is None
