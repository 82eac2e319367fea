"""The doctor: what it finds on this machine, and what it says of a poorer one."""

import io
import json
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from harness.doctor import as_document, examine, render
from harness.store import Store
from harness.tools import known_tools


@pytest.fixture(scope="module")
def health(tmp_path_factory):
    return examine(Store(tmp_path_factory.mktemp("store")))


def shown(health):
    console = Console(file=io.StringIO(), width=140)
    render(health, console)
    return console.file.getvalue()


def test_doctor_knows_every_tool_of_the_table(health):
    assert [tool.name for tool in health.tools] == list(known_tools())


def test_tools_tell_their_versions(health):
    versions = {tool.name: tool.version for tool in health.tools if not tool.is_missing}
    assert versions["apt-get"][0].isdigit()
    assert versions["mke2fs"].startswith("1.")
    assert not [name for name, version in versions.items() if "did not tell" in version]


def test_accelerator_is_named_with_a_reason(health):
    assert health.accelerator in {"kvm", "tcg"}
    assert "".join(health.accelerator_reason.split()) in "".join(shown(health).split())  # wrapped where it is long


def test_missing_tool_is_named_with_package_and_cost(health):
    tools = tuple(replace(tool, version="") if tool.name == "skopeo" else tool for tool in health.tools)
    poor = replace(health, tools=tools)
    assert any("skopeo" in complaint and "container images" in complaint for complaint in poor.complaints)
    assert "missing: install skopeo (apt)" in shown(poor)


def test_missing_optional_tool_is_no_complaint(health):
    tools = tuple(replace(tool, version="") if tool.name == "chromium" else tool for tool in health.tools)
    assert replace(health, tools=tools).complaints == health.complaints


@pytest.mark.parametrize(
    "change,word",
    [
        ({"firmware": ()}, "BIOS only"),
        ({"free_disk": 2**20}, "1 MiB free"),
        ({"free_memory": 2**29}, "a guest wants"),
        ({"accelerator": "", "accelerator_reason": "no qemu"}, "no qemu"),
    ],
)
def test_each_lack_is_a_complaint(health, change, word):
    assert any(word in complaint for complaint in replace(health, **change).complaints)


def test_json_is_the_same_examination(health):
    document = json.loads(json.dumps(as_document(health)))
    assert document["schema"] == 1
    assert len(document["tools"]) == len(health.tools)
    assert document["healthy"] is (not document["complaints"])


def test_command_exits_by_the_health_of_the_machine(tmp_path):
    environment = {"PATH": "/nowhere", "HOME": str(tmp_path), "IMAGE_HARNESS_STORE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "doctor", "--json", "--accel", "tcg"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert "skopeo" in "".join(json.loads(done.stdout)["complaints"])
