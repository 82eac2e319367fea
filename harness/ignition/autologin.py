"""A config that logs the console in: for a person who looks at a guest by hand, never for a guest under test."""

from __future__ import annotations

import json
from typing import Any

from harness.ignition.access import DEFAULT_SPEC, USER, data_url
from harness.ignition.config import Config
from harness.ignition.spec import text_of

GETTY = "serial-getty@.service"  # what systemd starts on every console= that is a serial line
DROP_IN = f"[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin {USER} --keep-baud 115200,57600,9600 %I $TERM\n"


def with_autologin(user_config: Config | None) -> bytes:
    """A config that does all `user_config` does and opens a shell of `core` on serial consoles.

    Its specification is the user's own, else 3.0.0. Equal input gives equal bytes.
    """
    version = DEFAULT_SPEC if user_config is None else user_config.version
    document: dict[str, Any] = {
        "ignition": {"version": text_of(version)},
        "systemd": {"units": [{"name": GETTY, "dropins": [{"name": "50-autologin.conf", "contents": DROP_IN}]}]},
    }
    if user_config is not None:
        how = "append" if version < DEFAULT_SPEC else "merge"
        document["ignition"]["config"] = {how: [{"source": data_url(user_config.raw)}]}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
