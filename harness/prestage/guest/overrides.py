"""Ignition configs as patches of assisted-service: a JSON object with one key, whose value is the config as a string.

Facts: the API of assisted-service. Discovery: PATCH /api/assisted-install/v2/infra-envs/<id>; an installed host's
pointer config: PATCH /api/assisted-install/v2/infra-envs/<id>/hosts/<id>/ignition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import BadInput, InvalidIgnition
from harness.ignition.config import SIZE_LIMIT, Config, read_bounded, read_config
from harness.prestage.lists.lists import Stage

KEYS: Final[Mapping[Stage, str]] = {Stage.DISCOVERY: "ignition_config_override", Stage.INSTALL: "config"}
ENDPOINTS: Final[Mapping[Stage, str]] = {
    Stage.DISCOVERY: "/api/assisted-install/v2/infra-envs/{infra_env}",
    Stage.INSTALL: "/api/assisted-install/v2/infra-envs/{infra_env}/hosts/{host}/ignition",
}


@dataclass(frozen=True, slots=True)
class Override:
    """What a patch overrides, and with which config."""

    stage: Stage
    config: Config


def encode(stage: Stage, config: Config) -> bytes:
    """The patch that carries a config, compact, with a line end: what `curl --data @FILE` sends."""
    text = json.dumps(config.document, separators=(",", ":"), ensure_ascii=False)
    return json.dumps({KEYS[stage]: text}, separators=(",", ":")).encode() + b"\n"


def decode(source: Path | bytes, name: str = "") -> Override:
    """Read a patch back; `name` is what messages call it.

    Raises BadInput for what cannot be read or is no such patch, and InvalidIgnition, whose place begins with the key,
    for a config in it that is none.
    """
    name = name or (str(source) if isinstance(source, Path) else "the patch")
    raw = source if isinstance(source, bytes) else read_bounded(source)
    if len(raw) > SIZE_LIMIT:
        raise BadInput(f"is larger than {SIZE_LIMIT:,} bytes", where=name)
    stage, text = _only_key(raw, name)
    try:
        inner = text.encode()
    except UnicodeEncodeError as cause:  # half a surrogate pair, which JSON can write
        raise InvalidIgnition("holds text that is no Unicode", where=f"{name}: $.{KEYS[stage]}") from cause
    return Override(stage, read_config(inner, f"{name}: $.{KEYS[stage]}"))


def _only_key(raw: bytes, name: str) -> tuple[Stage, str]:
    """The stage that the key names, and the text under it."""
    keys = " or ".join(KEYS.values())
    next_step = f'it must be an object with the one key {keys}, whose value is a string: {{"{KEYS[Stage.INSTALL]}":"{{'
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as cause:
        raise BadInput("is not JSON", where=name, next_step=next_step) from cause
    if not isinstance(document, dict) or len(document) != 1:
        raise BadInput("is not an object with one key", where=name, next_step=next_step)
    ((key, text),) = document.items()
    stage = next((stage for stage, known in KEYS.items() if known == key), None)
    if stage is None:
        where = f"{name}: $.{key[:40]}"
        what = "is a config, not a patch that carries one" if key == "ignition" else "is not a key of these patches"
        raise BadInput(what, where=where, next_step=next_step)
    if not isinstance(text, str):
        raise BadInput("must be a string that holds the config", where=f"{name}: $.{key}", next_step=next_step)
    return stage, text
