"""Defects of the units that mount the partition and run the extraction (systemd.unit(5), systemd.exec(5))."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from harness.prestage.lint.lint import Context, Spot
from harness.prestage.lint.subject import Place, Subject, Unit
from harness.prestage.lint.unitfile import Option, mount_unit_of

NEEDS = ("Requires", "Requisite", "BindsTo")
PULLS = (*NEEDS, "Wants", "Upholds")
ORDERS = ("Before", "After")
INSTALLS = ("WantedBy", "RequiredBy", "UpheldBy", "Alias", "Also")
NAMES = (*PULLS, *ORDERS, "PartOf", "WantedBy", "RequiredBy", "UpheldBy", "Also")
COMMANDS = ("ExecStartPre", "ExecStart", "ExecStartPost", "ExecStop", "ExecStopPost", "ExecReload", "ExecCondition")
RUNNING = ("Service", "Socket", "Mount", "Swap")  # sections of what runs programs: systemd.exec(5)
SECTIONS = {
    **dict.fromkeys((*COMMANDS, "RemainAfterExit"), ("Service",)),
    **dict.fromkeys(("WorkingDirectory", "User", "TimeoutSec", "TimeoutStopSec"), RUNNING),
    **dict.fromkeys(("What", "Where"), ("Mount", "Automount")),
    **dict.fromkeys((*PULLS, *ORDERS, "StopWhenUnneeded", "RequiresMountsFor"), ("Unit",)),
    **dict.fromkeys(INSTALLS, ("Install",)),
}
DEEPEST = 32  # parts of a path that are looked at
INTERPRETERS = frozenset(("bash", "sh", "dash", "python3", "perl"))
OURS = ("/usr/local/", "/opt/", "/etc/", "/var/", "/root/", "/home/", "/srv/", "/run/", "/tmp/", "/mnt/")  # noqa: S108

# Units that RHCOS, its boot or OpenShift's installation bring, and with which such configs order themselves.
OF_THE_SYSTEM = frozenset(
    (
        "agent.service",
        "chronyd.service",
        "console-login-helper-messages-gensnippet-ssh-keys.service",
        "crio.service",
        "crio-wipe.service",
        "dbus.service",
        "kubelet.service",
        "machine-config-daemon-firstboot.service",
        "machine-config-daemon-pull.service",
        "node-valid-hostname.service",
        "nodeip-configuration.service",
        "ovs-configuration.service",
        "podman.service",
        "podman.socket",
        "release-image.service",
        "selinux.service",
        "sshd.service",
        "var.mount",
        "tmp.mount",
        "boot.mount",
        "sysroot.mount",
        "-.mount",
    )
)
FAMILIES = ("systemd-", "ostree-", "rpm-ostree", "coreos-", "ignition-", "NetworkManager", "afterburn", "assisted-")
STARTS = re.compile(r"\bsystemctl (?:--\S+ )*(?:re)?start ")
KINDS = (".target", ".slice", ".scope", ".device")  # systemd's own, or the hardware's


def mount_named_otherwise(subject: Subject, _: Context) -> Iterator[Spot]:
    """Mount units that are not called as their path."""
    for unit in subject.units:
        for option in unit.values("Where"):
            expected = mount_unit_of(option.value)
            if unit.name.endswith(".mount") and unit.name != expected:
                what = f"{unit.name} says Where={option.value}, whose unit is {expected}"
                yield Spot(unit.place, what, option.line, f"name the unit {expected}")


def ordered_with_nobody(subject: Subject, _: Context) -> Iterator[Spot]:
    """Units that name one which neither the config nor the system has."""
    if subject.config is None:
        return  # what is not here may be in another file
    own = {str(entry.get("name")) for _, entry in subject.entries("systemd", "units")}
    for unit in subject.units:
        for option in unit.values(*NAMES):
            for name in option.value.split():
                if name not in own and not _is_of_the_system(name):
                    what = f"{unit.name} says {option.key}={name}, which is not in this config"
                    yield Spot(unit.place, what, option.line)


def stops_what_needs_it(subject: Subject, _: Context) -> Iterator[Spot]:
    """Units bound to one that needs them, and that stop when unneeded."""
    for unit in subject.units:
        if not unit.says("StopWhenUnneeded"):
            continue
        for option in unit.values("BindsTo"):
            for name in option.value.split():
                other = next((each for each in subject.units if each.name == name), None)
                if name in unit.words("RequiredBy") or (other and unit.name in _needed_by(other)):
                    what = f"{unit.name} is bound to {name}, which needs it, and stops when unneeded"
                    yield Spot(unit.place, what, option.line)


def never_started(subject: Subject, _: Context) -> Iterator[Spot]:
    """Units that nobody enables or wants."""
    wanted = _wanted(subject)
    for unit in subject.units:
        if unit.is_enabled is False and unit.name not in wanted:
            place = Place(unit.place.file, f"{unit.place.path.removesuffix('.contents')}.enabled")
            yield Spot(place, f"{unit.name} is not enabled, and no unit here wants it")


def cannot_be_enabled(subject: Subject, _: Context) -> Iterator[Spot]:
    """Units that are enabled (or bare) and say not for what."""
    wanted = _wanted(subject)
    for unit in subject.units:
        if unit.is_enabled is not False and not unit.values(*INSTALLS) and unit.name not in wanted:
            word = "is enabled, but" if unit.is_enabled else "cannot be enabled: it"
            yield Spot(unit.place, f"{unit.name} {word} says nowhere by whom it is wanted")


def in_another_section(subject: Subject, _: Context) -> Iterator[Spot]:
    """Options in a section where systemd does not read them."""
    for unit in subject.units:
        for option in unit.options:
            allowed = SECTIONS.get(option.key)
            if allowed is None or option.section in allowed or option.section.startswith("X-"):
                continue
            what = f"{unit.name} says {option.key}= in [{option.section}]"
            yield Spot(unit.place, what, option.line, f"move it to [{allowed[0]}]")


def runs_what_nobody_delivers(subject: Subject, _: Context) -> Iterator[Spot]:
    """Programs in places of our own that the config does not fill."""
    if subject.config is None:
        return
    delivered = {file.path for file in subject.files}
    delivered |= {str(entry.get("path")) for _, entry in subject.entries("storage", "links")}
    mounts = [option.value.rstrip("/") for unit in subject.units for option in unit.values("Where")]
    for unit, option, path, _is_direct in _commands(subject):
        if not path.startswith(OURS) or "%" in path or "$" in path or path in delivered:
            continue
        if not any(path.startswith(f"{mount}/") for mount in mounts):
            yield Spot(unit.place, f"{unit.name} runs {path}, which this config does not deliver", option.line)


def runs_what_is_not_executable(subject: Subject, _: Context) -> Iterator[Spot]:
    """Files that a unit runs by themselves and that nobody may execute."""
    files = {file.path: file for file in subject.files} if subject.config else {}
    for unit, option, path, is_direct in _commands(subject):
        file = files.get(path)
        if file and is_direct and not (file.mode or 0) & 0o111:
            mode = "none" if file.mode is None else f"{file.mode} (0o{file.mode:o})"
            yield Spot(file.place.at(".mode"), f"{unit.name} runs {path} (line {option.line}), whose mode is {mode}")


def gives_up_after_a_failure(subject: Subject, _: Context) -> Iterator[Spot]:
    """Units that disable themselves whatever became of them."""
    for unit in subject.units:
        for option in unit.values("ExecStopPost"):
            words = option.value.split()
            if "disable" in words and unit.name in words:
                yield Spot(unit.place, f"{unit.name} disables itself in ExecStopPost=", option.line)


def _commands(subject: Subject) -> Iterator[tuple[Unit, Option, str, bool]]:
    """What units run: the program, or the script behind an interpreter (then not run directly)."""
    for unit in subject.units:
        for option in unit.values(*COMMANDS):
            try:
                words = shlex.split(option.value.lstrip("@-:+!"))
            except ValueError:
                words = option.value.lstrip("@-:+!").split()
            program = words[0] if words else ""
            if program.rpartition("/")[2] in INTERPRETERS:
                script = next((word for word in words[1:] if not word.startswith("-")), "")
                if "-c" not in words:
                    yield unit, option, script, False
            yield unit, option, program, True


def _needed_by(unit: Unit) -> frozenset[str]:
    """The units without which a unit does not run; a path needs the mounts on the way to it (systemd.exec(5))."""
    paths = unit.words("RequiresMountsFor", "WorkingDirectory", "RootDirectory")
    parts = (path.split("/", DEEPEST)[:DEEPEST] for path in paths)
    ways = ("/".join(each[:depth]) for each in parts for depth in range(2, len(each) + 1))
    return unit.words(*NEEDS) | frozenset(map(mount_unit_of, ways))


def _wanted(subject: Subject) -> frozenset[str]:
    """The units that another one here starts: by what it says of it, or by `systemctl start`."""
    return frozenset(
        name
        for unit in subject.units
        for name in unit.words(*PULLS) | _needed_by(unit) | _started_by(unit)
        if name != unit.name
    )


def _started_by(unit: Unit) -> frozenset[str]:
    starts = (option.value for option in unit.values("ExecStartPre", "ExecStart", "ExecStartPost"))
    return frozenset(name for line in starts if STARTS.search(line) for name in line.split())


def _is_of_the_system(name: str) -> bool:
    return name in OF_THE_SYSTEM or name.startswith(FAMILIES) or name.endswith(KINDS) or "%" in name
