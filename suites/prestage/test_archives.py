"""What lies on the data partition: the lists, and an archive for each image of them, whole. Without booting."""

from harness.prestage.archives.folder import SCRIPT, SCRIPT_FILE
from harness.prestage.archives.verify import verify_files
from harness.prestage.lists.stages import Stage


def test_both_stages_have_images(prestaged):
    assert [stage.value for stage in Stage if not prestaged.references(stage)] == []


def test_every_archive_is_whole_and_none_is_missing_or_too_many(prestaged):
    verified = list(verify_files(prestaged.files))
    assert [str(finding) for archive in verified for finding in archive.findings] == []
    assert len(verified) == len(prestaged.folder.images.images)


def test_nothing_else_lies_there(prestaged):
    assert sorted(prestaged.files.listdir("/")) == sorted(prestaged.folder.members)


def test_script_for_use_by_hand_is_ours(prestaged):
    assert prestaged.files.read(f"/{SCRIPT}") == SCRIPT_FILE.read_bytes()
