"""From an installed root filesystem to the tree of an ostree commit: cleaned, overlaid, in CoreOS's shape."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NOT_REPRODUCIBLE = (
    "etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/*-", "var/log/*", "var/cache/*",
    "var/lib/apt/lists/*", "var/lib/systemd/random-seed", "etc/resolv.conf", "etc/hostname", "etc/hosts", "tmp/*",
    "var/tmp/*", "run/*", "dev/*", "boot/*", "vmlinuz*", "initrd.img*", "etc/fstab", "etc/ld.so.cache",
    "etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap", "var/lib/ucf", "var/lib/systemd/deb-systemd-*",
    "etc/mtab",
)  # fmt: skip
MASKED = (
    "systemd-gpt-auto-generator",  # makes /boot an autofs (seen by a mount check)
)
MASKED_UNITS = (
    "systemd-firstboot.service", "systemd-update-done.service", "systemd-hwdb-update.service", "ldconfig.service",
    "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "ostree-finalize-staged.path",
    "systemd-sysusers.service", "proc-sys-fs-binfmt_misc.automount",
)  # fmt: skip
# Where CoreOS keeps what is not in the deployment (rpm-ostree's tree layout).
SYMLINKS = {
    "home": "var/home", "root": "var/roothome", "srv": "var/srv", "mnt": "var/mnt", "opt": "var/opt",
    "media": "run/media", "ostree": "sysroot/ostree", "usr/local": "../var/usrlocal",
}  # fmt: skip


def unpack(rootfs: Path, root: Path) -> None:
    """Unpack the tar of an installed system (as root of some namespace)."""
    root.mkdir(parents=True)
    subprocess.run(
        ["tar", "--extract", "--file", rootfs, "--directory", root, "--numeric-owner", "--xattrs",
         "--xattrs-include=*", "--exclude=./dev/*"],
        check=True,
    )  # fmt: skip


def copy_checkout(source: Path, target: Path) -> None:
    """Copy a folder of the checkout with the modes git knows: executable or not, whatever the umask was."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in (source, *source.rglob("*")):
        is_open = path.is_dir() or os.access(path, os.X_OK)
        (target / path.relative_to(source)).chmod(0o755 if is_open else 0o644)


def digest_of_folder(path: Path) -> str:
    """SHA-256 over relative names, modes (executable or not) and contents of a file or folder of the checkout."""
    total = hashlib.sha256()
    for name, content, executable in _members(path):
        total.update(f"{name}\0{executable}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _members(path: Path) -> Iterator[tuple[str, bytes, bool]]:
    if path.is_file():
        yield "", path.read_bytes(), False
        return
    for member in sorted(path.rglob("*")):
        if member.is_symlink():
            yield str(member.relative_to(path)), str(member.readlink()).encode(), False
        elif member.is_file() and "__pycache__" not in member.parts:
            yield str(member.relative_to(path)), member.read_bytes(), os.access(member, os.X_OK)


def shape(root: Path, overlay: Path, os_release: str, version: str, initramfs: Path) -> None:
    """Turn an installed root into what is committed: no /var, etc under usr, CoreOS's symlinks, our files."""
    for pattern in NOT_REPRODUCIBLE:
        for path in root.glob(pattern):
            _remove(path)
    _relocate_dpkg(root)
    (root / "etc").rename(root / "usr/etc")
    _lay_over(overlay, root)
    (root / "usr/lib/os-release").write_text(os_release)
    _link(root / "usr/etc/os-release", "../usr/lib/os-release")
    _link(root / "usr/etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
    (root / "usr/etc/machine-id").touch(0o444)
    (root / "usr/etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "usr/etc/.updated").touch()
    _mask(root)
    _apply_presets(root)
    _add_group(root, "wheel", 995)
    modules = root / "usr/lib/modules" / version
    shutil.copyfile(initramfs / "vmlinuz", modules / "vmlinuz")
    shutil.copyfile(initramfs / "initramfs.img", modules / "initramfs.img")
    shutil.rmtree(root / "var")
    for name in ("var", "sysroot", "boot", "run", "dev", "proc", "sys", "tmp"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, target in SYMLINKS.items():
        _remove(root / name)
        _link(root / name, target)


def _relocate_dpkg(root: Path) -> None:
    """The package database describes the deployment, so it lives in it (as FCOS's rpmdb does)."""
    (root / "var/lib/dpkg").rename(root / "usr/lib/dpkg-db")
    for volatile in ("lock", "lock-frontend", "triggers/Lock", "available", "status-old", "diversions-old",
                     "statoverride-old"):  # fmt: skip
        (root / "usr/lib/dpkg-db" / volatile).unlink(missing_ok=True)


def _lay_over(overlay: Path, root: Path) -> None:
    for source in sorted(overlay.rglob("*")):
        target = root / source.relative_to(overlay)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            _remove(target)
            shutil.copyfile(source, target)
            target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    (root / "usr/etc/sudoers.d/coreos-sudo-group").chmod(0o440)


def _mask(root: Path) -> None:
    for generator in MASKED:
        folder = root / "usr/etc/systemd/system-generators"
        folder.mkdir(exist_ok=True)
        _link(folder / generator, "/dev/null")
    for unit in MASKED_UNITS:
        _link(root / "usr/etc/systemd/system" / unit, "/dev/null")


def _apply_presets(root: Path) -> None:
    """What PID 1 would do on a first boot (27 to 43 s under TCG), done once here."""
    system = root / "usr/etc/systemd/system"
    for wants in [*system.glob("*.wants"), *system.glob("*.requires")]:
        shutil.rmtree(wants)
    for alias in ("dbus-org.freedesktop.network1.service", "syslog.service"):
        _remove(system / alias)
    (root / "etc").symlink_to("usr/etc")
    subprocess.run(
        ["chroot", root, "systemctl", "preset-all", "--preset-mode=full"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (root / "etc").unlink()
    _link(system / "default.target", "/usr/lib/systemd/system/multi-user.target")


def _add_group(root: Path, name: str, gid: int) -> None:
    for database, row in (("group", f"{name}:x:{gid}:\n"), ("gshadow", f"{name}:!*::\n")):
        path = root / "usr/etc" / database
        path.write_text(path.read_text() + row)


def _link(path: Path, target: str) -> None:
    _remove(path)
    path.symlink_to(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
