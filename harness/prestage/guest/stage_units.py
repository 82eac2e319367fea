"""Ignition configs that bring a prestage folder into container storage, at discovery and when installed.

Each has three things: a mount unit for the data partition, the script, and a service that runs it once before whatever
would pull images. What the prototypes of this idea taught:

- The service starts the mount itself instead of depending on it. A mount in the boot transaction makes every boot wait
  for a partition that may be gone by then, and where it is missing systemd does not fail a dependent service, it does
  not start it: `systemctl --failed` would show nothing. So the mount's job may take MOUNT_SECONDS from the moment it is
  wanted, and the script says which partition is missing and fails.
- The partition is unmounted afterwards, whatever came of it: coreos-installer refuses a disk with a mounted partition,
  and in discovery that disk is the one to install to.
- Nobody requires the service. Where it fails the boot goes on, agent and machine-config-daemon pull what is missing,
  and `systemctl --failed` and the journal's error lines show it. After EXTRACTION_MINUTES it is ended, and the
  next boot goes on where it was.
- Once everything was there it never runs again (STAMPS): the kubelet removes images it no longer needs, and an
  extraction at every boot would bring them back.
- Units that may be absent are only named by Before=, which then means nothing.

Spec versions are those of the configs that assisted-service merges ours with (its documentation and node.ign).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.errors import BadInput
from harness.ignition.access import PUBLIC_KEY, USER, data_url
from harness.ignition.config import Config, read_config
from harness.ignition.spec import Version, text_of
from harness.ignition.validate import check
from harness.prestage.archives.folder import LIST_NAMES, SCRIPT_FILE
from harness.prestage.lists.stages import Stage

SCRIPT_PATH: Final = "/usr/local/bin/extract-images"
MOUNT_POINT: Final = "/run/prestage"
MOUNT_UNIT: Final = "run-prestage.mount"
SERVICES: Final[Mapping[Stage, str]] = {
    Stage.DISCOVERY: "prestage-discovery.service",
    Stage.INSTALL: "prestage-install.service",
}
STAMPS: Final[Mapping[Stage, str]] = {stage: f"/var/lib/prestage/{stage}.complete" for stage in Stage}
BEFORE: Final[Mapping[Stage, str]] = {  # whatever pulls images there
    Stage.DISCOVERY: "agent.service",
    Stage.INSTALL: "machine-config-daemon-pull.service nodeip-configuration.service",
}
DEFAULT_LABEL: Final = "data"
LABEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,35}")  # of 36 UTF-16 units (UEFI 2.10, 5.3.3)
MOUNT_SECONDS: Final = 90  # as long as systemd waits for a device; 30 were not enough on an overloaded host
EXTRACTION_MINUTES: Final = 120

DISCOVERY_SPEC: Version = (3, 1)  # what assisted-service merges into its discovery config
RELEASE: Final = re.compile(r"4\.(\d{1,2})(?:\.\d{1,3}(?:-[A-Za-z0-9.-]{1,40})?)?")
FIRST_RELEASE: Final = 6  # 4.5 and older have Ignition 0.35, which reads spec 2
POINTER_SPEC_OF_FIRST: Version = (3, 1)
POINTER_SPEC: Version = (3, 2)  # 4.7 and later: their node.ign has it, and newer Ignitions read it still

MOUNT: Final = """[Unit]
Description=Pre-staged container images (partition {label})
DefaultDependencies=no
Before={service} umount.target
Conflicts=umount.target
JobTimeoutSec={seconds}

[Mount]
What=/dev/disk/by-partlabel/{label}
Where={point}
Options=ro,nodev,nosuid,noexec
TimeoutSec={seconds}
"""

SERVICE: Final = """[Unit]
Description=Bring the pre-staged images of the {stage} stage into container storage
ConditionPathExists=!{stamp}
RequiresMountsFor=/var/lib/containers /var/lib/prestage
After={mount}
Before={before}

[Service]
Type=oneshot
RemainAfterExit=yes
NotifyAccess=all
TimeoutStartSec={minutes}min
ExecStartPre=-/usr/bin/systemctl start {mount}
ExecStart={script} --label {label} --stamp {stamp} {point} {point}/{images}
ExecStartPost=-/usr/bin/systemctl stop {mount}
ExecStopPost=-/usr/bin/systemctl stop {mount}

[Install]
WantedBy=multi-user.target
"""


def stage_config(stage: Stage, release: str, *, label: str = DEFAULT_LABEL, ssh_keys: Sequence[str] = ()) -> Config:
    """The config of a stage: what discovery, or the pointer config of an installed host, is overridden with.

    `ssh_keys` may log in as core. Equal input gives equal bytes. Raises BadInput for a release, label or key that
    cannot be.
    """
    spec = spec_of(stage, release)
    document: dict[str, Any] = {
        "ignition": {"version": text_of(spec)},
        "storage": {"files": [_script()]},
        "systemd": {"units": _units(stage, _checked_label(label))},
    }
    if ssh_keys:
        keys = [_checked_key(key) for key in ssh_keys]
        document["passwd"] = {"users": [{"name": USER, "sshAuthorizedKeys": keys}]}
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    config = read_config(raw, f"the {stage} config")
    check(config)
    return config


def spec_of(stage: Stage, release: str) -> Version:
    """The Ignition specification that a stage of a release (4.10, 4.10.3) understands. Raises BadInput."""
    match = RELEASE.fullmatch(release)
    if match is None:
        raise BadInput("is no OpenShift release", where=f'"{release[:40]}"', next_step="write it as 4.10 or 4.10.3")
    minor = int(match[1])
    if minor < FIRST_RELEASE:
        what = f"is older than 4.{FIRST_RELEASE}, with which Ignition's spec 3 came"
        raise BadInput(
            what, where=f'"{release}"', next_step="such a release cannot be installed from a prestage folder"
        )
    if stage is Stage.DISCOVERY:
        return DISCOVERY_SPEC
    return POINTER_SPEC_OF_FIRST if minor == FIRST_RELEASE else POINTER_SPEC


def mount_unit(stage: Stage, label: str = DEFAULT_LABEL) -> str:
    """The text of run-prestage.mount."""
    return MOUNT.format(label=label, service=SERVICES[stage], seconds=MOUNT_SECONDS, point=MOUNT_POINT)


def service_unit(stage: Stage, label: str = DEFAULT_LABEL) -> str:
    """The text of the extraction service of a stage."""
    return SERVICE.format(
        stage=stage,
        stamp=STAMPS[stage],
        mount=MOUNT_UNIT,
        before=BEFORE[stage],
        minutes=EXTRACTION_MINUTES,
        script=SCRIPT_PATH,
        label=label,
        point=MOUNT_POINT,
        images=LIST_NAMES[stage],
    )


def _units(stage: Stage, label: str) -> list[dict[str, Any]]:
    return [
        {"name": MOUNT_UNIT, "contents": mount_unit(stage, label)},  # started by the service, so not enabled
        {"name": SERVICES[stage], "enabled": True, "contents": service_unit(stage, label)},
    ]


def _script() -> dict[str, Any]:
    contents = {"source": data_url(SCRIPT_FILE.read_bytes())}
    return {"path": SCRIPT_PATH, "mode": 0o755, "overwrite": True, "contents": contents}


def _checked_label(label: str) -> str:
    if not LABEL.fullmatch(label):
        next_step = "1 to 36 letters, digits, '.', '_' or '-', as sgdisk -c gave it"
        raise BadInput("cannot be a partition's label here", where=f'"{label[:60]}"', next_step=next_step)
    return label


def _checked_key(key: str) -> str:
    line = key.strip()
    if not PUBLIC_KEY.fullmatch(line):
        raise BadInput("is not an OpenSSH public key", where=f'"{line[:40]}"', next_step="give the line of a .pub file")
    return line
