"""Suites in other people's repositories: the wheel alone, installed in an environment of its own, is enough.

Without network: the libraries that the wheel needs are those of this environment, found by a .pth file.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from suites.harness.small_project import external_project

CHECKOUT = Path(__file__).parents[2]
THEIRS = """
from fixtures.helper import expected_name  # a folder that many a suite has

def test_layout(layout):
    assert layout.partition("EFI-SYSTEM").size >= 100 * 2**20

def test_files(files):
    assert files("boot").exists("/loader/entries")

def test_guest(guest):
    assert guest.check_output("uname -s") == expected_name
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built as `pip wheel` would, which asks the same back end."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An environment with the wheel in it."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(pip, check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    libraries = [path for path in sys.path if Path(path).is_dir() and not (Path(path) / "pyproject.toml").exists()]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return python


def run_installed(*command, cwd):
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(cwd), "LANG": "C.UTF-8"}
    return subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=800
    )


def test_every_file_is_in_the_wheel_and_no_name_that_others_have(wheel):
    here = [path.relative_to(CHECKOUT) for name in ("harness", "fixtures") for path in (CHECKOUT / name).rglob("*")]
    with zipfile.ZipFile(wheel) as opened:
        inside = set(opened.namelist())
    wanted = {
        f"image_harness_{path}" if path.parts[0] == "fixtures" else str(path)
        for path in here
        if (CHECKOUT / path).is_file() and "__pycache__" not in path.parts
    }
    assert wanted - inside == set()
    assert {name.partition("/")[0].partition("-")[0] for name in inside} == {
        "harness",
        "image_harness",
        "image_harness_fixtures",
    }


def test_the_installed_command_finds_its_data(python, tmp_path):
    code = "import harness.places as p; print(p.FIXTURES); from harness.profile import known_profiles as k; print(*k())"
    done = run_installed(python, "-c", code, cwd=tmp_path)
    folder, profiles = done.stdout.splitlines()
    assert Path(folder).name == "image_harness_fixtures"
    assert Path(folder).is_relative_to(python.parents[1])
    assert "reference" in profiles
    done = run_installed(python.parent / "harness", "--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.boot
def test_a_suite_in_another_repository_runs(python, reference, accel, ignition, store, tmp_path):
    """Its own folder `fixtures` is its own; the report goes where it is."""
    repository = tmp_path / "theirs"
    (repository / "fixtures").mkdir(parents=True)
    (repository / "fixtures/__init__.py").touch()
    (repository / "fixtures/helper.py").write_text('expected_name = "Linux"\n')
    (repository / "conftest.py").touch()  # with pytest's usual import mode its folder is on the path
    (repository / "test_theirs.py").write_text(THEIRS)
    (tmp_path / "config.ign").write_bytes(ignition.raw)
    command = [python, "-m", "pytest", "test_theirs.py", "-W", "error::pytest.PytestUnknownMarkWarning"]
    command += [f"--image={reference.path}", f"--ignition={tmp_path}/config.ign"]
    done = run_installed(*command, f"--store={store.root}", f"--accel={accel.name}", cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
    assert (repository / "reports/latest/index.html").exists()


@pytest.mark.boot
def test_external_tests_run_from_it_too(python, reference, accel, ignition, store, tmp_path):
    project = external_project(tmp_path, {"basic": "test $(id -u) = 0"})
    (tmp_path / "config.ign").write_bytes(ignition.raw)
    command = [python, "-m", "pytest", "--external=.", f"--image={reference.path}"]
    command += [f"--ignition={tmp_path}/config.ign", f"--store={store.root}", f"--accel={accel.name}"]
    done = run_installed(*command, cwd=project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
