"""The harness's own way into a guest, added to whatever config the user brings.

The user's config is carried untouched inside the harness's: merged (spec 3) or appended (spec 2.2) from a data: URL,
so Ignition itself puts the two together, as it does for configs fetched from elsewhere. Equal input gives equal bytes.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, Final

from harness.errors import BadInput
from harness.ignition.config import Config
from harness.ignition.spec import KNOWN, Version, text_of

USER: Final = "core"
CHANNEL_PORT: Final = "org.image-harness.channel"  # the name of the virtserialport
CHANNEL_UNIT: Final = "image-harness-channel.service"
CHANNEL_SCRIPT: Final = "/etc/image-harness/channel.sh"
DEFAULT_SPEC: Version = (3, 0)

PUBLIC_KEY = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w@.\-]+ [A-Za-z0-9+/]+=*(?: [^\r\n]*)?")
_HERE = Path(__file__).parent


def with_access(
    user_config: Config | None, *, ssh_public_key: str, channel: bool = True, spec: Version | None = None
) -> bytes:
    """A config that does all `user_config` does, lets the key log in as core and, with `channel`, starts its shell.

    Its specification is the user's own, else `spec`, else 3.0.0. Raises BadInput for a key that is not one line of
    an OpenSSH public key, and for a `spec` that the user's config does not share.
    """
    key = ssh_public_key.strip()
    if not PUBLIC_KEY.fullmatch(key):
        raise BadInput("is not an OpenSSH public key", where=f'"{key[:40]}"', next_step="give the line of a .pub file")
    version = _shared_version(user_config, spec)
    document: dict[str, Any] = {
        "ignition": {"version": text_of(version)},
        "passwd": {"users": [{"name": USER, "sshAuthorizedKeys": [key]}]},
    }
    if user_config is not None:
        how = "append" if version < DEFAULT_SPEC else "merge"
        document["ignition"]["config"] = {how: [{"source": data_url(user_config.raw)}]}
    if channel:
        document |= _channel(version)
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def data_url(content: bytes) -> str:
    """The `data:` URL that carries these bytes.

    >>> data_url(b"hello")
    'data:;base64,aGVsbG8='
    """
    return "data:;base64," + base64.b64encode(content).decode()


def _shared_version(user_config: Config | None, spec: Version | None) -> Version:
    if spec is not None and spec not in KNOWN:
        known = ", ".join(map(text_of, KNOWN))
        raise BadInput(f"Ignition spec {spec[0]}.{spec[1]} is not supported", next_step=f"known: {known}")
    if user_config is None:
        return spec or DEFAULT_SPEC
    if spec is not None and spec != user_config.version:
        raise BadInput(f"declares spec {user_config.spec}, not {text_of(spec)}", where=user_config.name)
    return user_config.version


def _channel(version: Version) -> dict[str, Any]:
    """The script, its unit, and the link that enables it.

    Ignition enables units by a preset, which an image may not apply; the link works in either case.
    """
    node = {"filesystem": "root"} if version < DEFAULT_SPEC else {"overwrite": True}
    wanted = f"/etc/systemd/system/sysinit.target.wants/{CHANNEL_UNIT}"
    script = (_HERE / "channel.sh").read_bytes()
    return {
        "storage": {
            "files": [node | {"path": CHANNEL_SCRIPT, "mode": 0o644, "contents": {"source": data_url(script)}}],
            "links": [node | {"path": wanted, "target": f"/etc/systemd/system/{CHANNEL_UNIT}"}],
        },
        "systemd": {
            "units": [{"name": CHANNEL_UNIT, "enabled": True, "contents": (_HERE / "channel.service").read_text()}]
        },
    }
