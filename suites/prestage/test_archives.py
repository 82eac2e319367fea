"""What lies on the data partition: the lists, and an archive for each image of them, whole. Without booting."""

import hashlib

from harness.prestage.archives.folder import SCRIPT, SCRIPT_FILE
from harness.prestage.archives.verify import verify_files
from harness.prestage.lists.stages import Stage

OF_EXT4 = ("lost+found",)


def test_both_stages_have_images(prestaged):
    assert [stage.value for stage in Stage if not prestaged.references(stage)] == []


def test_every_archive_is_whole_and_none_is_missing_or_too_many(prestaged):
    listed = prestaged.folder.images.images
    verified = list(verify_files(prestaged.files))
    wrong = [str(finding) for archive in verified for finding in archive.findings]
    assert not wrong, "\n".join(wrong)
    assert len(verified) == len(listed)


def test_nothing_else_lies_there(prestaged):
    assert sorted(set(prestaged.files.listdir("/")) - {*prestaged.folder.members, *OF_EXT4}) == []


def test_script_for_use_by_hand_is_ours(prestaged):
    ours = SCRIPT_FILE.read_bytes()
    assert (prestaged.files.sha256(f"/{SCRIPT}"), prestaged.files.stat(f"/{SCRIPT}").mode) == (
        hashlib.sha256(ours).hexdigest(),
        0o755,
    )
