"""Host programs: found, run, and complained about in words."""

from pathlib import Path

import pytest

from harness.errors import MissingTool, ToolFailed
from harness.tools import TABLE, Tool, find_tool, known_tools, run


def test_the_table_of_tools_is_well_formed():
    rows = [line.split("\t") for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    assert {len(row) for row in rows} == {4}
    assert len({row[0] for row in rows}) == len(rows) == len(known_tools())


def test_a_missing_tool_names_its_package():
    with pytest.raises(MissingTool, match=r"no-such-program is not installed .*\./setup.*no-such-program \(apt\)"):
        find_tool("no-such-program")


def test_a_missing_file_is_a_missing_tool():
    assert Tool("/no/such/firmware", "ovmf", "edk2", "").find() is None
    assert Tool("/etc/passwd", "", "", "").find() == Path("/etc/passwd")


def test_programs_of_the_system_are_found_without_sbin_on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert find_tool("sfdisk").endswith("sbin/sfdisk")


def test_output_is_returned_and_input_given():
    assert run(["cat"], stdin=b"\0hello") == b"\0hello"


def test_the_locale_is_ours_and_the_environment_is_laid_over_it(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE")
    assert run(["sh", "-c", "echo $LC_ALL $MINE"], env={"MINE": "yes"}) == b"C.UTF-8 yes\n"


def test_a_failure_carries_code_last_words_and_command():
    with pytest.raises(ToolFailed, match=r"sh exited with 3: (.* \| )?last \(.*sh -c") as failed:
        run(["sh", "-c", "seq 100 >&2; echo last >&2; exit 3"])
    assert "1 | 2 | 3" not in str(failed.value), "only the last lines"


def test_a_silent_failure_says_so():
    with pytest.raises(ToolFailed, match="it printed nothing"):
        run(["false"])


def test_a_program_that_hangs_is_ended():
    with pytest.raises(ToolFailed, match="sleep ran longer than 0 s"):
        run(["sleep", "60"], timeout=0.2)


def test_output_that_is_not_text_cannot_break_the_message():
    with pytest.raises(ToolFailed, match="sh exited with 1"):
        run(["sh", "-c", r"printf '\377\376\000' >&2; exit 1"])
