"""The set-up entry point: what it plans on machines that lack things. Nothing is installed here."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
NEEDED = ["bash", "cat", "cut", "dirname", "env", "flock", "mkdir", "python3", "sed", "sha256sum"]


def run_setup(*arguments, folder=CHECKOUT, path=None):
    environment = {**os.environ, **({"PATH": str(path)} if path else {})}
    return subprocess.run(
        ["/bin/bash", str(folder / "setup"), *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose environment looks made, so that only tools can be missing."""
    folder = tmp_path / "checkout"
    (folder / "harness").mkdir(parents=True)
    for name in ("setup", "requirements.lock", "pyproject.toml", "harness/host-tools.tsv"):
        shutil.copy(CHECKOUT / name, folder / name)
    binaries = folder / ".venv/bin"
    binaries.mkdir(parents=True)
    for name in ("python", "python3"):
        (binaries / name).symlink_to(shutil.which("python3"))
    (folder / ".venv/.made-from").write_text(f"{wanted_stamp(folder)} {folder}\n")
    return folder


def wanted_stamp(folder):
    code = f"here={folder}; {function_of('wanted_stamp')}; wanted_stamp"
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def function_of(name):
    lines = (CHECKOUT / "setup").read_text().splitlines()
    start = lines.index(f"{name}() {{")
    return "\n".join(lines[start : lines.index("}", start) + 1])


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with what a script needs, and neither package manager nor tools of ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(shutil.which(name))
    return folder


def test_nothing_to_do_is_quick(checkout):
    started = time.monotonic()
    done = run_setup("--plan", folder=checkout)
    if "nothing is missing" not in done.stderr:
        pytest.skip(f"this machine lacks tools: {done.stderr}")
    assert done.returncode == 0
    assert time.monotonic() - started < 1


def test_plan_names_each_missing_package_once_with_all_reasons(checkout, bare_path):
    (bare_path / "apt-get").symlink_to("/bin/true")
    done = run_setup("--plan", folder=checkout, path=bare_path)
    assert done.returncode == 1
    rows = [line.split(maxsplit=1) for line in done.stderr.splitlines() if line.startswith("  ")]
    plan = dict(rows)
    assert len(plan) == len(rows)
    assert "qemu-img: converting images" in plan["qemu-utils"]
    assert "ssh: shells in guests; ssh-keygen: a key pair" in plan["openssh-client"]


def test_plan_has_the_names_of_dnf_where_dnf_is(checkout, bare_path):
    (bare_path / "dnf").symlink_to("/bin/true")
    plan = run_setup("--plan", folder=checkout, path=bare_path).stderr
    assert "qemu-system-x86-core" in plan
    assert "openssh-client " not in plan


def test_unknown_package_manager_is_a_clear_stop(checkout, bare_path):
    done = run_setup("true", folder=checkout, path=bare_path)
    assert done.returncode == 2
    assert "whose package manager we do not know (we know apt and dnf)" in done.stderr
    assert "skopeo: container images" in done.stderr


def test_changed_lock_asks_for_a_new_environment(checkout):
    with (checkout / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    done = run_setup("--plan", folder=checkout)
    assert done.returncode == 1
    assert ".venv" in done.stderr


def test_moved_checkout_asks_for_a_new_environment(checkout):
    moved = checkout.rename(checkout.with_name("moved"))
    assert run_setup("--plan", folder=moved).returncode == 1


def test_command_runs_in_the_environment_and_hands_back_its_exit_code(checkout):
    if run_setup("--plan", folder=checkout).returncode:
        pytest.skip("this machine lacks tools, and nothing is installed by a test")
    done = run_setup("bash", "-c", 'type -P python3; echo "$1"; exit 7', "_", "two words", folder=checkout)
    assert done.returncode == 7
    assert done.stdout.splitlines() == [str(checkout / ".venv/bin/python3"), "two words"]


def test_unknown_option_is_refused():
    done = run_setup("--frobnicate")
    assert done.returncode == 2
    assert "--help" in done.stderr


def test_help_shows_both_commands_of_the_readme():
    done = run_setup("--help")
    assert done.returncode == 0
    assert "./setup pytest suites/rhcos -n 4" in done.stdout
    assert "./setup pytest -n 4" in done.stdout


def test_every_tool_of_the_table_has_both_package_names():
    rows = [line.split("\t") for line in (CHECKOUT / "harness/host-tools.tsv").read_text().splitlines()]
    assert all(len(row) == 4 and all(row) for row in rows)
