"""Where a guest looks for its Ignition config.

Facts: coreos-assembler hands configs to QEMU guests by fw_cfg and writes them into the boot filesystem where a
machine has no fw_cfg; Fedora CoreOS copies the latter in its initramfs (35coreos-ignition).
"""

from __future__ import annotations

from typing import Final

FW_CFG_NAME: Final = "opt/com.coreos/config"  # -fw_cfg name=...,file=... (x86_64 and aarch64)
INJECTION_PATH: Final = "/ignition/config.ign"  # on the filesystem that is mounted at /boot
FIRST_BOOT_STAMP: Final = "/ignition.firstboot"  # on the same one; Ignition runs only while it exists
