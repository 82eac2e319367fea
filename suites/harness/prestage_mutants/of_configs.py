"""Mutants of the configs that hosts get, as faults of the code that writes them: each changes what it returns."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

import fixtures.prestaged
from harness.ignition.config import Config, read_config
from harness.prestage.guest import overrides
from harness.prestage.lists.stages import Stage
from suites.harness.mutants.mutant import Mutants
from suites.harness.prestage_mutants.checks import DEFECTS, MOUNTS, OVERRIDE

MUTANTS = Mutants()
mutant = MUTANTS.mutant


@mutant(
    DEFECTS, kind="code", cause=r"not-enabled at \$\.systemd\.units\[1\]\.enabled: prestage-install\.service is not"
)
def unit_is_not_enabled(patch: pytest.MonkeyPatch) -> None:
    """The installed host never starts the extraction."""
    change_config(patch, Stage.INSTALL, lambda document: document["systemd"]["units"][1].update(enabled=False))


@mutant(
    DEFECTS, kind="code", cause=r"mode-decimal at \$\.storage\.files\[0\]\.mode: mode 755 is decimal and means 0o1363"
)
def mode_is_decimal(patch: pytest.MonkeyPatch) -> None:
    """The script of discovery has mode 755, as that of the seed (facts D4)."""
    change_config(patch, Stage.DISCOVERY, lambda document: document["storage"]["files"][0].update(mode=755))


@mutant(DEFECTS, kind="code", cause="spec-release at .*: spec 3.3.0 is not what a discovery config of 4.10 has")
def spec_is_too_new(patch: pytest.MonkeyPatch) -> None:
    """assisted-service refuses such a discovery config."""
    change_config(patch, Stage.DISCOVERY, lambda document: document["ignition"].update(version="3.3.0"))


@mutant(MOUNTS, kind="code", cause="by-partlabel/dota")
def partition_is_mounted_by_another_label(patch: pytest.MonkeyPatch) -> None:
    """The config of discovery looks for a partition that the disk does not have."""

    def change(document: dict[str, Any]) -> None:
        unit = document["systemd"]["units"][0]
        unit["contents"] = unit["contents"].replace("by-partlabel/data", "by-partlabel/dota")

    change_config(patch, Stage.DISCOVERY, change)


@mutant(OVERRIDE, kind="code", cause=r"\['systemd'\]")
def override_lacks_a_unit(patch: pytest.MonkeyPatch) -> None:
    """The patch was not made anew when the config was, as the seed's (facts D4)."""
    change_encoding(patch, lambda document: document["systemd"]["units"].pop())


@mutant(OVERRIDE, kind="code", verdict="infra", cause="must be a string that holds the config")
def override_is_an_object(patch: pytest.MonkeyPatch) -> None:
    """The patch holds the config itself, not as a string."""
    keys = overrides.KEYS
    patch.setattr(overrides, "encode", lambda stage, config: json.dumps({keys[stage]: config.document}).encode())


@mutant(OVERRIDE, kind="code", cause=r"\['stage'\]: expected '\w+', found '\w+'")
def override_is_of_the_other_stage(patch: pytest.MonkeyPatch) -> None:
    """The patch of discovery is one for the pointer config, and the other way round."""
    encode = overrides.encode
    patch.setattr(overrides, "encode", lambda stage, config: encode(_other(stage), config))


def change_config(patch: pytest.MonkeyPatch, stage: Stage, change: Callable[[dict[str, Any]], object]) -> None:
    """From now on the config of a stage is another."""
    make = fixtures.prestaged.stage_config

    def broken(which: Stage, release: str, **more: Any) -> Config:
        config = make(which, release, **more)
        return _changed(config, change) if which is stage else config

    patch.setattr(fixtures.prestaged, "stage_config", broken)


def change_encoding(patch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object]) -> None:
    """From now on patches carry another config than they are made of."""
    encode = overrides.encode
    patch.setattr(overrides, "encode", lambda stage, config: encode(stage, _changed(config, change)))


def _changed(config: Config, change: Callable[[dict[str, Any]], object]) -> Config:
    document = copy.deepcopy(config.document)
    change(document)
    return read_config(json.dumps(document).encode(), "the broken config")


def _other(stage: Stage) -> Stage:
    return next(each for each in Stage if each is not stage)
