"""A guest that is up in seconds: signed boot loaders, a signed kernel, and a shell on the console from busybox."""

from __future__ import annotations

from pathlib import Path

from suites.harness.small_esp import chain, esp_disk
from suites.harness.small_live_iso import cpio

CONFIG = """\
linux /vmlinuz console=ttyS0 quiet panic=1 no_timer_check
initrd /initrd
boot
"""
INIT = """\
#!/busybox sh
/busybox mkdir -p /bin /proc /sys /dev
/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t securityfs securityfs /sys/kernel/security
printf 'small login: '
read -r user
exec setsid sh -c 'exec sh -i </dev/ttyS0 >/dev/ttyS0 2>&1'
"""


def guest_disk(folder: Path, kernel: bytes, busybox: bytes) -> Path:
    """A disk that boots by UEFI, secure or not, to a login prompt; whoever answers it has a root shell."""
    initrd = cpio({"init": INIT.encode(), "busybox": busybox}, 0o100755)
    return esp_disk(folder, chain(config=CONFIG) | {"/vmlinuz": kernel, "/initrd": initrd})
