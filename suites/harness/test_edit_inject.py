"""Files and configs injected into the boot filesystem, checked by our reader, debugfs and e2fsck."""

import json
import subprocess

import pytest

from harness.errors import BadInput, DamagedImage, InvalidIgnition, ToolFailed, UnsupportedImage
from harness.images.edits.debugfs import NewFile
from harness.images.edits.inject import inject, inject_ignition, read_new_file
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.tools import run
from suites.harness.edited import changed_outside, sha256, trees
from suites.harness.small_disk import MIB, PARTS, small_disk
from suites.harness.test_cli import run_harness

CONFIG = json.dumps({"ignition": {"version": "3.3.0"}}).encode()
BOOT = PARTS["boot"][0] * MIB
LABEL = b"system_u:object_r:boot_t:s0\0"


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("inject"))


@pytest.fixture
def spoiled(disk, tmp_path):
    """A copy to be changed by debugfs orders."""

    def change(*orders):
        copy = tmp_path / "spoiled.img"
        copy.write_bytes(disk.read_bytes())
        subprocess.run(
            ["debugfs", "-w", "-f", "/dev/stdin", f"{copy}?offset={BOOT}"],
            input="\n".join(orders).encode(),
            check=True,
            capture_output=True,
        )
        return copy

    return change


def boot_of(path):
    with open_image(path) as image:
        return trees(path)["boot"], dict(read_layout(image.block).partition("boot").filesystem.details)


def assert_sound(path, offset=BOOT):
    run(["e2fsck", "-f", "-n", f"{path}?offset={offset}"])


def test_a_config_lies_where_first_boot_looks_and_nothing_else_changes(disk, tmp_path):
    before, made = sha256(disk), tmp_path / "new.raw"
    inject_ignition(disk, CONFIG, made)
    with open_image(made) as image:
        files = open_files(read_layout(image.block).part_block("boot"))
        found = files.stat("/ignition/config.ign")
        assert files.read("/ignition/config.ign") == CONFIG
        assert (found.mode, found.uid, found.gid) == (0o600, 0, 0)
    assert_sound(made)
    old, new = trees(disk), trees(made)
    assert set(new["boot"]) - set(old["boot"]) == {"/ignition", "/ignition/config.ign"}
    assert {key: old[key] for key in ("EFI-SYSTEM", "root")} == {key: new[key] for key in ("EFI-SYSTEM", "root")}
    assert changed_outside(disk, made, BOOT, BOOT + PARTS["boot"][1] * MIB) == []
    assert sha256(disk) == before


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_the_same_input_gives_the_same_bytes(form, disk, tmp_path):
    files = [NewFile("/a/b/c", b"x" * 70_000), NewFile("/grub2/console.cfg", b"new\n", 0o600)]
    made = [tmp_path / f"{number}.{form}" for number in (1, 2)]
    for target in made:
        inject(disk, files, target, replace=True)
    assert sha256(made[0]) == sha256(made[1])
    if form == "qcow2":
        run(["qemu-img", "check", made[0]])


def test_qcow2_has_the_properties_coreos_ships(disk, tmp_path):
    made = tmp_path / "new.qcow2"
    inject_ignition(disk, CONFIG, made)
    facts = json.loads(run(["qemu-img", "info", "--output=json", made]))
    assert (facts["format"], facts["cluster-size"], facts["virtual-size"]) == ("qcow2", 65536, 48 * MIB)
    assert facts["format-specific"]["data"]["compat"] == "1.1"
    assert "backing-filename" not in facts
    assert made.stat().st_size % 65536 == 0


def test_every_source_gives_the_same_disk(disk, tmp_path):
    packed = tmp_path / "small.qcow2"
    run(["qemu-img", "convert", "-c", "-O", "qcow2", disk, packed])
    squeezed = tmp_path / "small.img.gz"
    squeezed.write_bytes(run(["gzip", "-1", "-c", disk]))
    made = []
    for number, source in enumerate([disk, packed, squeezed]):
        made.append(tmp_path / f"{number}.raw")
        inject_ignition(source, CONFIG, made[-1])
    assert len({sha256(path) for path in made}) == 1


def test_names_with_blanks_deep_folders_symlinks_and_empty_files_work(disk, tmp_path):
    made = tmp_path / "new.raw"
    inject(disk, [NewFile("/deep er/down/a file", b"1"), NewFile("/loader/entries/x.txt", b""),
                  NewFile("/deep er/down/other", b"2", 0o4755)], made)  # fmt: skip
    boot = trees(made)["boot"]
    assert boot["/deep er/down/a file"][0][:4] == ("file", 0o644, 0, 0)
    assert boot["/deep er/down/other"][0][1] == 0o4755
    assert boot["/loader.1/entries/x.txt"][0][4] == 0
    assert_sound(made)


def test_a_replaced_file_keeps_owner_mode_and_attributes(spoiled, tmp_path):
    (tmp_path / "label").write_bytes(LABEL)
    path = "/grub2/console.cfg"
    source = spoiled(
        f"sif {path} uid 7", f"sif {path} mode 0100640", f"ea_set -f {tmp_path}/label {path} security.selinux"
    )
    inject(source, [NewFile(path, b"other")], tmp_path / "new.raw", replace=True)
    stat, attributes, _ = trees(tmp_path / "new.raw")["boot"][path]
    assert stat[:5] == ("file", 0o640, 7, 0, 5)
    assert attributes == {"security.selinux": LABEL}
    assert_sound(tmp_path / "new.raw")


def test_new_files_get_the_label_of_their_folder(spoiled, tmp_path):
    (tmp_path / "label").write_bytes(LABEL)
    inject_ignition(spoiled(f"ea_set -f {tmp_path}/label / security.selinux"), CONFIG, tmp_path / "new.raw")
    boot = trees(tmp_path / "new.raw")["boot"]
    assert boot["/ignition"][1] == boot["/ignition/config.ign"][1] == {"security.selinux": LABEL}


def test_times_are_those_of_the_filesystem(disk, tmp_path):
    """Not of now: the same input gives the same bytes tomorrow."""
    inject_ignition(disk, CONFIG, tmp_path / "new.raw")
    raw = disk.read_bytes()[BOOT + 1024 :]
    written = int.from_bytes(raw[0x30:0x34], "little")
    assert trees(tmp_path / "new.raw")["boot"]["/ignition/config.ign"][0][5] == written


REFUSALS = {
    "there already": ([NewFile("/grub2/console.cfg", b"")], "is there already .*--replace"),
    "through a symlink": ([NewFile("/loader/entries/ostree-1-small.conf", b"")], "loader.1/.* is there already"),
    "a symlink": ([NewFile("/loader", b"")], "is a symlink"),
    "a folder": ([NewFile("/grub2", b"")], "is a directory"),
    "below a file": ([NewFile("/ignition.firstboot/x", b"")], "is a file, not a folder"),
    "relative": ([NewFile("ignition", b"")], "is no path that we write to"),
    "upwards": ([NewFile("/a/../b", b"")], "is no path that we write to"),
    "a quote": ([NewFile('/a"b', b"")], "is no path that we write to"),
    "a line end": ([NewFile("/a\nrm /x", b"")], r"/a\\nrm /x is no path"),
    "a long name": ([NewFile("/" + "n" * 256, b"")], "longer than 255 bytes"),
    "twice": ([NewFile("/x", b"1"), NewFile("/x", b"2")], "written twice"),
    "too large": ([NewFile("/x", bytes(11 * MIB))], "bytes free, and .* are needed"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_written_is_refused_and_leaves_nothing(case, disk, tmp_path):
    files, words = REFUSALS[case]
    with pytest.raises(BadInput, match=words):
        inject(disk, files, tmp_path / "new.raw")
    assert list(tmp_path.iterdir()) == []


def test_a_journal_to_replay_is_refused(spoiled, tmp_path):
    with pytest.raises(DamagedImage, match="journal to replay"):
        inject_ignition(spoiled("feature +needs_recovery"), CONFIG, tmp_path / "new.raw")


def test_an_unsound_filesystem_is_refused(spoiled, tmp_path):
    with pytest.raises(DamagedImage, match="e2fsck objects to it before anything was written"):
        inject_ignition(spoiled("clri /grub2"), CONFIG, tmp_path / "new.raw")


def test_space_that_is_not_there_after_all_is_noticed(disk, tmp_path, monkeypatch):
    """debugfs leaves half a file and exits with 0."""
    monkeypatch.setattr("harness.images.edits.debugfs._check_space", lambda *_: None)
    with pytest.raises(ToolFailed):
        inject(disk, [NewFile("/x", b"x" * 11 * MIB)], tmp_path / "new.raw")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_a_boot_filesystem_is_refused(tmp_path):
    whole = tmp_path / "whole.img"
    run(["mke2fs", "-q", "-t", "ext4", whole, "8M"])
    with pytest.raises(UnsupportedImage, match="no partition is labelled 'boot'"):
        inject_ignition(whole, CONFIG, tmp_path / "new.raw")


def test_the_image_itself_is_never_the_target(disk, tmp_path):
    (tmp_path / "link.raw").hardlink_to(disk)
    with pytest.raises(BadInput, match="is the image itself"):
        inject_ignition(disk, CONFIG, tmp_path / "link.raw")


@pytest.mark.parametrize("name", ["new", "new.vmdk"])
def test_a_format_nobody_named_is_asked_for(name, disk, tmp_path):
    with pytest.raises(BadInput, match="--format raw or qcow2"):
        inject_ignition(disk, CONFIG, tmp_path / name)


@pytest.mark.parametrize("name", ["nbd:x.raw", "a?offset=1.raw", 'qu"ote .raw', "json:{}.raw", "-o.raw"])
def test_names_that_mean_something_to_the_tools_are_only_names(name, disk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / f"source {name}"
    source.write_bytes(disk.read_bytes())
    inject_ignition(source.relative_to(tmp_path), CONFIG, (tmp_path / name).relative_to(tmp_path))
    inject_ignition(source.relative_to(tmp_path), CONFIG, (tmp_path / name).relative_to(tmp_path).with_suffix(".qcow2"))
    assert "/ignition/config.ign" in trees(tmp_path / name)["boot"]


@pytest.mark.parametrize(
    "text,path,mode",
    [("{}:/x", "/x", None), ("{}:/x:600", "/x", 0o600), ("{}:/a:b:0644", "/a:b", 0o644), ("{}:/a:b", "/a:b", None)],
)
def test_a_file_is_named_by_source_destination_and_mode(text, path, mode, tmp_path):
    (tmp_path / "s").write_bytes(b"content")
    assert read_new_file(text.format(tmp_path / "s")) == NewFile(path, b"content", mode)


@pytest.mark.parametrize("text", ["", "x", "x:y", ":/x", "/no/such:/x", "/:/x", "/etc/passwd:/x:17777"])
def test_what_names_no_file_is_refused(text):
    with pytest.raises(BadInput):
        read_new_file(text)


def test_the_command_injects_and_refuses_what_is_there(disk, tmp_path):
    (tmp_path / "c.ign").write_bytes(CONFIG)
    command = ["edit", "inject", disk, "--ignition", tmp_path / "c.ign", "--file", f"{tmp_path}/c.ign:/x:0600", "-o",
               tmp_path / "new.raw"]  # fmt: skip
    first, second, third = (run_harness(*command, *more) for more in ([], [], ["--force"]))
    assert (first.returncode, third.returncode) == (0, 0), first.stderr
    assert "injected  /ignition/config.ign" in first.stdout
    assert second.returncode == 2
    assert "is there already" in second.stderr


def test_the_command_judges_the_config_first(disk, tmp_path):
    (tmp_path / "c.ign").write_text('{"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "x"}]}}')
    command = ["edit", "inject", disk, "--ignition", tmp_path / "c.ign", "-o", tmp_path / "new.raw"]
    done = run_harness(*command)
    assert (done.returncode, (tmp_path / "new.raw").exists()) == (InvalidIgnition.exit_code, False)
    assert "$.storage.files[0].path" in done.stderr
    assert run_harness(*command, "--no-validate").returncode == 0
