"""A TPM 2.0 as QEMU attaches it: by architecture, before the same emulator (tried on x86_64 and aarch64)."""

from __future__ import annotations

from collections.abc import Mapping

from harness.errors import BadInput

# QEMU's docs/specs/tpm.rst. s390x has none.
TPM_DEVICES: Mapping[str, str] = {"x86_64": "tpm-crb", "aarch64": "tpm-tis-device", "ppc64le": "tpm-spapr"}


def tpm_arguments(arch: str, control: int | None) -> list[str]:
    """QEMU's arguments; `control` is the descriptor of the emulator's control channel. Raises BadInput."""
    if (device := TPM_DEVICES.get(arch)) is None:
        raise BadInput(f"{arch} has no TPM", next_step=f"these have: {', '.join(TPM_DEVICES)}")
    if control is None:
        raise BadInput("a machine with a TPM needs an emulator to talk to")
    emulator = ["-chardev", f"socket,id=tpm,fd={control}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"]
    return [*emulator, "-device", f"{device},tpmdev=tpm0"]
