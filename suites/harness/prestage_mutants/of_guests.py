"""Mutants that only a guest can tell from what is right. Each starts a machine, so they belong to the night."""

import re

import pytest

import fixtures.release
from fixtures.release import DISCOVERY_TAGS
from harness.containers.layout import Image
from harness.prestage.lists.stages import Stage
from suites.harness.mutants.mutant import Mutants
from suites.harness.prestage_mutants.of_configs import change_config

MUTANTS = Mutants()
mutant = MUTANTS.mutant

DISCOVERED = "test_discovery.py"
IN_STORAGE = f"{DISCOVERED}::test_every_image_of_the_stage_is_in_storage"
RUNS = f"{DISCOVERED}::test_a_container_of_each_image_runs"
STORED = f"{DISCOVERED}::test_storage_is_whole_when_the_host_is_off"
AGENT = DISCOVERY_TAGS[0]


@mutant(
    f"{DISCOVERED}::test_extraction_is_enabled_and_done",
    IN_STORAGE,
    f"{DISCOVERED}::test_by_digest_images_have_their_digest",
    RUNS,
    STORED,
    f"{DISCOVERED}::test_journal_tells_of_each_image_once",
    kind="guest",
    cause="disabled|inactive",
    asks=DISCOVERED,
)
def nobody_starts_the_extraction(patch: pytest.MonkeyPatch) -> None:
    """The unit of discovery is not enabled."""
    change_config(patch, Stage.DISCOVERY, lambda document: document["systemd"]["units"][1].update(enabled=False))


@mutant(IN_STORAGE, RUNS, STORED, kind="guest", cause=re.escape(AGENT), asks=DISCOVERED)
def an_image_loses_its_name(patch: pytest.MonkeyPatch) -> None:
    """After the extraction an image is in storage, and podman does not find it by the name that the agent asks for."""

    def change(document):
        unit = document["systemd"]["units"][1]
        start = "ExecStartPost=-/usr/bin/systemctl stop"
        unit["contents"] = unit["contents"].replace(start, f"ExecStartPost=/usr/bin/podman untag {AGENT}\n{start}")

    change_config(patch, Stage.DISCOVERY, change)


@mutant(RUNS, kind="guest", cause="another program", asks=DISCOVERED)
def a_layer_is_another(patch: pytest.MonkeyPatch) -> None:
    """By its tag an image was pulled whose layer has other files; every digest agrees, so all archives are whole."""
    make = fixtures.release._speaking

    def speaking(name: str, sentence: str, busybox: bytes) -> Image:
        return make(name, "another program" if name == "image 4" else sentence, busybox)

    patch.setattr(fixtures.release, "_speaking", speaking)
