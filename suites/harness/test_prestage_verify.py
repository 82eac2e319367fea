"""A prestage folder, on this host or on a disk, judged as a whole: complete, without strangers, each archive whole."""

import contextlib
import hashlib
import json
import os
import subprocess

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.cli import harness
from harness.containers.folder import FolderFiles
from harness.errors import BadInput, HarnessError, MissingFile
from harness.prestage.archives.folder import PrestageFolder, archive_name, read_folder, write_texts
from harness.prestage.archives.pull import Options, pull
from harness.prestage.archives.verify import verify
from harness.prestage.lists.lists import ImageList, Listed, Stage
from harness.prestage.lists.reference import Reference
from harness.tools import find_tool, run
from suites.harness.small_prestage import NAME, digest_of, image, members_of, packed, reference_of

LAYERS = [(b"one " * 1000,), (b"two " * 1000, b"more"), (b"three " * 1000,)]
TOOL = Reference.parse("quay.io/me/tool:1")
SECTOR = 512
START = 2048 * SECTOR  # bytes, of the data partition
SIZE = 64 * 2**20


@pytest.fixture
def folder(tmp_path):
    """Two images by digest, of which one gets a tag as well, and one by tag."""
    made = tmp_path / "images"
    made.mkdir()
    images, sums = [], {}
    digests = {}
    for number, layers in enumerate(LAYERS):
        files = image(layers)
        reference = TOOL if number == 2 else reference_of(files)
        path = packed(made / archive_name(reference), members_of(reference.archive, files))
        sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        if reference is TOOL:
            digests[reference] = digest_of(files["manifest.json"])
        stages = frozenset(Stage) if number == 0 else frozenset({list(Stage)[number - 1]})
        images.append(Listed(reference, stages, tag="4.10.3-pod" if number == 1 else ""))
    write_texts(made, PrestageFolder(ImageList(tuple(images)), sums, digests))
    return made


def wrong(place, **more):
    return [str(finding) for each in verify(place, **more) for finding in each.findings]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["ai-images.txt", "ocp-images.txt", "mapping.txt", "digests.txt", "SHA256SUMS"]),
    data=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")),
    is_added=st.booleans(),
)
def test_no_text_file_brings_anything_but_words(folder, name, data, is_added):
    path = folder / name
    honest = path.read_bytes()
    path.write_bytes(honest + data if is_added else data)
    with contextlib.suppress(HarnessError):
        wrong(folder)
    path.write_bytes(honest)


def said(*arguments):
    return CliRunner().invoke(harness, ["prestage", "verify", *map(str, arguments)], standalone_mode=False)


def archives(folder):
    return sorted(folder.glob("ocp-v4*.tgz"))


def test_what_was_written_is_read_again_and_whole(folder):
    content = read_folder(FolderFiles(folder))
    first, second, third = content.images.images
    assert {each.reference for each in content.images.of(Stage.DISCOVERY)} == {first.reference, second.reference}
    assert {each.reference for each in content.images.of(Stage.INSTALL)} == {first.reference, third.reference}
    assert {each.tag for each in content.images.images} == {"", "4.10.3-pod"}
    assert (folder / "mapping.txt").read_text().endswith(f"={NAME}:4.10.3-pod\n")
    assert content.archives == tuple(sorted(path.name for path in folder.glob("*.tgz")))
    assert list(content.digests) == [TOOL]
    assert wrong(folder) == []
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=folder, check=True)


def test_what_is_missing_extra_or_damaged_is_told(folder):
    first, second = archives(folder)
    stranger = folder / f"{'x' * 10}_1.tgz"
    first.rename(stranger)
    second.write_bytes(second.read_bytes()[:-1])
    (folder / "scratch-abc").mkdir()
    (folder / "imageset.yaml").touch()
    (folder / "rootfs.img").touch()
    with (folder / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  gone.tgz\n")
    assert sorted(wrong(folder)) == sorted(
        [
            f"{first.name}: is missing",
            f"{second.name}: ends before its compression does",
            "scratch-abc: was left by a pull that was killed",
            "SHA256SUMS: gone.tgz: is of no listed image",
            f"{stranger.name}: is of no listed image",
        ]
    )


def test_an_archive_that_was_packed_anew_has_another_sum(folder):
    """Whole by all it says of itself, but not the file that was published."""
    path = archives(folder)[0]
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\1\2\3\4" + data[8:])  # the time in gzip's header
    (found,) = wrong(folder)
    assert "has the SHA-256" in found
    assert found.endswith("of SHA256SUMS")


def test_an_image_by_tag_has_to_be_what_it_was(folder):
    other = packed(folder / "tool_1.tgz", members_of("tool_1", image(LAYERS[0])))
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    changed = [line for line in lines if "tool_1" not in line]
    changed.append(f"{hashlib.sha256(other.read_bytes()).hexdigest()}  tool_1.tgz")
    (folder / "SHA256SUMS").write_text("".join(f"{line}\n" for line in changed))
    (found,) = wrong(folder)
    assert found.startswith("tool_1.tgz: manifest.json: has the digest sha256:")


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("ai-images.txt", "no pull spec\n", r"ai-images\.txt:1: 'no pull spec': "),
        ("ai-images.txt", "# none\n\nquay.io/a/b\n", r"ai-images\.txt:3: 'quay\.io/a/b': has neither tag nor digest"),
        ("ocp-images.txt", f"{TOOL}\nquay.io/other/tool:1\n", r"tool_1\.tgz: is the archive of both"),
        ("ocp-images.txt", "\0\0\0", r"ocp-images\.txt:1: "),
        ("mapping.txt", "quay.io/me/tool:1\n", r"mapping\.txt:1: is no line of the form"),
        ("mapping.txt", "quay.io/me/other:1=quay.io/me/other:2\n", r"mapping\.txt: gives a tag to quay\.io/me/other:1"),
        ("digests.txt", "quay.io/me/tool:1=sha256:0\n", r"digests\.txt: says .* which is no digest"),
        ("SHA256SUMS", "0  x\n", r"SHA256SUMS:1: is no line of sha256sum"),
        ("SHA256SUMS", f"{'0' * 64}  x\n{'1' * 64}  x\n", r"SHA256SUMS:2: names 'x' twice"),
        ("SHA256SUMS", "x" * 5_000_000, r"SHA256SUMS: has more than 4,194,304 bytes"),
        ("SHA256SUMS", None, "SHA256SUMS: cannot be read: No such file"),
        ("ai-images.txt", b"\xff\xfe", r"ai-images\.txt: is no text"),
    ],
)
def test_text_files_that_cannot_be_believed_are_one_line(folder, name, text, words):
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(HarnessError, match=words) as caught:
        wrong(folder)
    assert "\n" not in str(caught.value)
    assert isinstance(said(folder).exception, HarnessError)


def test_the_command_tells_each_archive_and_counts(folder):
    done = said(folder)
    lines = done.output.splitlines()
    assert done.return_value == 0
    assert sorted(lines[:3]) == [f"OK      {path.name}" for path in sorted(folder.glob("*.tgz"))]
    size = sum(path.stat().st_size for path in folder.glob("*.tgz"))
    assert lines[3:] == [f"3 archives are whole ({size:,} bytes), none are not"]
    gone = archives(folder)[0]
    gone.unlink()
    done = said("--quiet", folder)
    assert (done.return_value, done.output.splitlines()[0]) == (1, f"FAIL    {gone.name}: is missing")
    assert done.output.endswith("1 is not\n")


@pytest.fixture(params=["xfs", "ext4"])
def disk(folder, tmp_path, request):
    """Makes a disk whose partition `data` holds the folder."""

    def make(name="disk.raw", label="data"):
        part, whole = tmp_path / "part", tmp_path / name
        part.unlink(missing_ok=True)
        with part.open("wb") as file:
            file.truncate(SIZE if request.param == "ext4" else 320 * 2**20)
        if request.param == "ext4":
            run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", folder, part])
        else:
            protofile = tmp_path / "proto"
            lines = [f"{path.name} ---644 0 0 {path}" for path in sorted(folder.iterdir()) if path.is_file()]
            protofile.write_text("\n".join(["/", "0 0", "d--755 0 0", *lines, "$", "$", ""]))
            run(["mkfs.xfs", "-q", "-f", "-p", protofile, part])
        size = part.stat().st_size
        with whole.open("wb") as file:
            file.truncate(START + size + 2**20)
        sectors = f"start={START // SECTOR}, size={size // SECTOR}, name={label}"
        run(["sfdisk", "-q", whole], stdin=f"label: gpt\n{sectors}\n".encode())
        argv = ["dd", f"if={part}", f"of={whole}", "bs=1M", f"seek={START}", "oflag=seek_bytes", "conv=notrunc,sparse"]
        subprocess.run(argv, check=True, capture_output=True)
        return whole

    return make


def test_the_data_partition_of_a_disk_is_read_without_mounting(disk, folder):
    whole = disk()
    assert wrong(whole) == []
    assert wrong(disk(label="images"), label="images") == []
    with pytest.raises(MissingFile, match="has no partition 'data'"):
        wrong(disk(label="images"))
    first, second = archives(folder)
    first.write_bytes(b"X" + first.read_bytes()[1:])
    second.unlink()
    packed_disk = whole.with_suffix(".qcow2")
    run(["qemu-img", "convert", "-O", "qcow2", disk(), packed_disk])
    assert sorted(wrong(packed_disk)) == sorted(
        [f"{first.name}: is not compressed by gzip", f"{second.name}: is missing"]
    )


def test_a_disk_without_lists_says_so(disk, folder):
    (folder / "ai-images.txt").unlink()
    with pytest.raises(HarnessError, match=r"ai-images\.txt"):
        wrong(disk())


def test_what_is_no_place_is_told(tmp_path):
    with pytest.raises(BadInput, match="nowhere: is not there"):
        wrong(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HarnessError, match="pipe"):
        wrong(tmp_path / "pipe")


def test_images_of_the_small_release_run(small_release, tmp_path):
    """In a root folder of their own, for want of a container runtime: what they print is what the fixture says."""
    if os.geteuid():
        pytest.skip("only root can change its root folder")
    folder = tmp_path / "images"
    pull(small_release.images, folder, Options(small_release.access))
    assert wrong(folder) == []
    assert len(small_release.sentences) == 6
    spoken = {}
    for reference in small_release.sentences:
        place = tmp_path / reference.archive
        run([find_tool("tar"), "-xzf", folder / archive_name(reference), "-C", tmp_path])
        root = place / "root"
        root.mkdir()
        manifest = json.loads((place / "manifest.json").read_text())
        for layer in manifest["layers"]:
            run(["tar", "-xzf", place / layer["digest"].removeprefix("sha256:"), "-C", root])
        config = json.loads((place / manifest["config"]["digest"].removeprefix("sha256:")).read_text())
        argv = ["chroot", root, *config["config"]["Entrypoint"]]
        spoken[reference] = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.rstrip("\n")
    assert spoken == small_release.sentences
