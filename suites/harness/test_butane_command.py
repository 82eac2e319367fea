"""`harness ignition translate` and `validate` of Butane configs: output, exit codes, who translated."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import BadInput, MissingTool
from harness.ignition.butane import external
from harness.ignition.butane.translate import Options, translate

HERE = Path(__file__).with_name("butane")
GOOD = "variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: /etc/a\n      mode: 0644\n"
STAND_IN = """#!/bin/sh
case "$1" in
--version) echo "Butane 0.99.0";;
*)
    if grep -q refuse; then
        echo "Error at line 3, column 7: no" >&2
        echo "refused" >&2
        exit 1
    fi
    echo "$*"
    ;;
esac
"""


def harness(*arguments, stdin=b"", path=None):
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    command = [sys.executable, "-m", "harness.cli", "ignition", *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, check=False, env=environment)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "host.bu"
    path.write_text(GOOD)
    return path


def test_translate_writes_ignition_and_says_who_made_it(config):
    done = harness("translate", "--by", "built-in", config)
    assert (done.returncode, json.loads(done.stdout), done.stderr.decode()) == (
        0,
        {"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "/etc/a", "mode": 420}]}},
        f"{config}: translated by the built-in translator (fcos 1.4.0 to Ignition 3.3.0)\n",
    )


def test_translate_writes_a_file_whole_and_reads_standard_input(tmp_path):
    output = tmp_path / "new/host.ign"
    done = harness("translate", "--by", "built-in", "-", "-o", output, stdin=GOOD.encode())
    assert (done.returncode, done.stdout, json.loads(output.read_bytes())["ignition"]) == (0, b"", {"version": "3.3.0"})


def test_a_refusal_is_one_line_and_leaves_no_file(tmp_path, config):
    config.write_text(GOOD + "      modus: 1\n")
    output = tmp_path / "host.ign"
    done = harness("translate", "--by", "built-in", config, "-o", output)
    assert (done.returncode, done.stdout, output.exists(), sorted(tmp_path.iterdir())) == (2, b"", False, [config])
    assert done.stderr.decode().startswith(f'error: {config}:7:7: unknown key "modus"')
    assert done.stderr.count(b"\n") == 1


def test_warnings_are_printed_and_strict_makes_them_errors(config):
    config.write_text(GOOD.replace("0644", "644"))
    lax, strict = (harness("translate", "--by", "built-in", config, *more) for more in ([], ["--strict"]))
    words = f"{config}:6:13: mode 644 would be reasonable in octal: write 0644"
    assert (lax.returncode, lax.stderr.decode().splitlines()[0]) == (0, f"warning  {words}")
    assert (strict.returncode, strict.stderr.decode()) == (2, f"error: {words} (only a warning without --strict)\n")


def test_validate_blames_the_lines_of_a_butane_config(config):
    config.write_text(GOOD + "    - path: etc/b\n      mode: 644\n    - path: /etc/a\n")
    done = harness("validate", config)
    assert (done.returncode, done.stdout.decode().splitlines()[:2]) == (
        1,
        [
            f'error    {config}:7:13: path "etc/b" is not absolute ($.storage.files[1].path)',
            f'error    {config}:9:7: duplicate entry "/etc/a" ($.storage.files[2])',
        ],
    )


def test_validate_says_which_language_a_valid_config_is_written_in(config):
    done = harness("validate", config)
    assert (done.returncode, done.stdout.decode()) == (
        0,
        f"{config}: valid Butane config (fcos 1.4.0 to Ignition 3.3.0)\n",
    )


def test_local_files_need_files_dir():
    without, given = (harness("validate", HERE / "host.bu", *more) for more in ([], ["-d", HERE / "files"]))
    assert (without.returncode, given.returncode) == (2, 0)
    assert b"host.bu:9:35: local files cannot be read (give the folder" in without.stderr


@pytest.mark.parametrize("suffix", ["fcc", "yaml", "yml"])
def test_other_endings_are_butane_too(tmp_path, suffix):
    path = tmp_path / f"host.{suffix}"
    path.write_text(GOOD)
    assert harness("validate", path).returncode == 0


# The real butane. It cannot be had from this project's package sources, so a stand-in shows how it is called; where
# there is a real one, it must agree with the built-in translator.


@pytest.fixture
def stand_in(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "butane").write_text(STAND_IN)
    (folder / "butane").chmod(0o755)
    return folder


def test_butane_is_used_where_it_is_present_and_gets_the_options(config, stand_in):
    done = harness("translate", "-s", "-p", "-r", "-d", "/x", config, path=stand_in)
    assert (done.stdout, done.stderr.decode()) == (
        b"--strict --pretty --raw --files-dir /x\n",
        f"{config}: translated by Butane 0.99.0\n",
    )


def test_what_butane_refuses_is_blamed_on_its_place(config, stand_in):
    config.write_text("refuse me")
    done = harness("translate", config, path=stand_in)
    assert (done.returncode, done.stderr.decode()) == (
        2,
        f"error: {config}:3:7: butane refuses it: Error at line 3, column 7: no | refused\n",
    )


def test_the_built_in_translator_can_be_preferred(config, stand_in):
    assert b"built-in" in harness("translate", "--by", "built-in", config, path=stand_in).stderr


def test_without_butane_asking_for_it_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingTool, match="butane is not installed"):
        external.translate_by_butane(b"", "x", Options())


def test_podman_runs_the_users_image_without_network_and_with_files_read_only(monkeypatch, stand_in, tmp_path):
    shutil.copy(stand_in / "butane", stand_in / "podman")
    monkeypatch.setenv("PATH", f"{stand_in}:{os.environ['PATH']}")
    made = external.translate_by_container(b"x", "x", Options(tmp_path, pretty=True), "registry.example/butane:1")
    assert made.decode().split() == [
        *["run", "--rm", "--interactive", "--network=none", "--security-opt=label=disable"],
        *[f"--volume={tmp_path}:/files:ro", "registry.example/butane:1", "--pretty", "--files-dir", "/files"],
    ]


@pytest.mark.parametrize("image", ["", "--privileged"])
def test_an_option_is_no_image(image):
    with pytest.raises(BadInput, match="is no container image"):
        external.translate_by_container(b"x", "x", Options(), image)


def test_container_contradicts_built_in(config):
    done = harness("translate", "--by", "built-in", "--container", "x", config)
    assert (done.returncode, b"contradicts" in done.stderr) == (2, True)


@pytest.mark.skipif(not external.is_installed(), reason="needs the real butane")
@pytest.mark.parametrize("name", ["host.bu"])
def test_the_real_butane_makes_the_same_config(name):
    options = Options(HERE / "files")
    raw = (HERE / name).read_bytes()
    assert json.loads(external.translate_by_butane(raw, name, options)) == json.loads(
        translate(raw, name, options).output
    )
