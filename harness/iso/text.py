"""A live ISO's facts as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from harness.images.filesystems.files import shown
from harness.iso.facts import IsoFacts, Room
from harness.iso.initrd import CONFIG, NETWORK

WIDTH = 16  # of the left column


def render(facts: IsoFacts) -> str:
    """The facts as text for a terminal."""
    parts = (_head(facts), _ignition(facts), _kargs(facts), _live(facts))
    paragraphs = ["\n".join(lines) for lines in map(list, parts) if lines]
    if facts.notes:
        paragraphs.append("\n".join(["notes", *(f"  - {note}" for note in facts.notes)]))
    return "\n\n".join(paragraphs) + "\n"


def _head(facts: IsoFacts) -> Iterator[str]:
    yield f"{facts.name}: CoreOS live ISO, {facts.size:,} bytes"
    yield _line("volume id", facts.volume_id)
    for each in facts.boot:
        state = "" if each.bootable else ", not bootable"
        yield _line("boots by", f"{each.platform}, {each.size:,} bytes at {each.offset:,}{state}")
    if not facts.boot:
        yield _line("boots by", "no El Torito entry")


def _ignition(facts: IsoFacts) -> Iterator[str]:
    found = facts.ignition
    if found is None:
        yield _line("Ignition", "no room for a config")
        return
    states = {"config": "embedded", "empty": "none embedded", "initrd": "none embedded, but other files"}
    yield _line("Ignition", states.get(found.state, "something else is in its place"))
    if found.config_sha256:
        yield _line("  config", f"sha256 {found.config_sha256}")
    if found.network:
        yield _line("  network", ", ".join(found.network))
    others = [name for name in found.members if name != CONFIG and not f"{name}/".startswith((NETWORK, "etc/"))]
    if others:
        yield _line("  other files", ", ".join(others))
    yield _line("  room", _place(found.room))
    yield _line("  announced by", found.announced_by)


def _kargs(facts: IsoFacts) -> Iterator[str]:
    found = facts.kargs
    if found is None:
        yield _line("kernel args", "cannot be changed: no place is announced")
        return
    yield _line("kernel args", shown(found.default))
    if found.current != found.default:
        yield _line("  changed to", shown(found.current) if found.current is not None else "different in each place")
    for each in found.rooms:
        yield _line("  room", _place(each.room))
    for pad, end in dict.fromkeys((each.pad, each.end) for each in found.rooms):
        yield _line("  written", f"ended by {end!r}, filled with {pad!r}")
    yield _line("  announced by", found.announced_by)


def _live(facts: IsoFacts) -> Iterator[str]:
    if facts.features is not None:
        kept = [name for name, value in facts.features.items() if value]
        yield _line("features", shown(", ".join(kept)) or "none")
    for name, size in facts.pxe.items():
        yield _line("PXE", f"{name}, {size:,} bytes")
    if facts.root:
        build = facts.root.build or "unknown"
        yield _line("live root", f"{facts.root.filesystem} at {facts.root.offset} of rootfs.img, build {build}")
        for each in facts.root.osmet:
            what = f"{each.os_description} {each.architecture}, sectors of {each.sector_size:,}, {each.size:,} bytes"
            yield _line("installs (osmet)", what)
    elif "rootfs.img" not in facts.pxe:
        yield _line("live root", "none: a minimal ISO, which fetches it")
    if minimal := facts.minimal_iso:
        made_of = (
            f"{minimal.files} files of this one ({minimal.shared_bytes:,} bytes) and {minimal.packed_bytes:,} packed"
        )
        yield _line("minimal ISO", f"{made_of}, by coreos-installer {minimal.app_version}")
        yield _line("", f"sha256 {minimal.sha256}")
    elif "rootfs.img" in facts.pxe:
        yield _line("minimal ISO", "no recipe")


def _place(room: Room) -> str:
    return f"{room.length:,} bytes at {room.offset:,} in {room.file}, {room.used:,} used"


def _line(name: str, value: str) -> str:
    return f"{name:<{WIDTH}} {value}".rstrip()
