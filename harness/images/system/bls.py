"""Boot loader entries: one `key value` a line (UAPI.1 Boot Loader Specification).

The default entry is the lexicographically last file, as coreos-installer and rdcore have it (facts: their bls.rs).
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import MissingFile
from harness.images.filesystems.files import Files, shown

LARGEST_ENTRY = 65536  # bytes
MOST_ENTRIES = 256


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One entry. Paths are within the boot filesystem; keys that repeat are joined by a space, as GRUB does."""

    path: str
    title: str
    version: str
    linux: str
    initrd: str
    options: tuple[str, ...]

    def karg(self, name: str) -> list[str]:
        """Every value of one kernel argument, in order; an argument without `=` has the value ``""``.

        >>> entry = parse_entry("/x.conf", "options rw console=tty0 console=ttyS0")
        >>> entry.karg("console"), entry.karg("rw"), entry.karg("quiet")
        (['tty0', 'ttyS0'], [''], [])
        """
        pairs = (option.partition("=") for option in self.options)
        return [value for key, _, value in pairs if key == name]


@dataclass(frozen=True, slots=True)
class BootEntries:
    """All entries of a boot filesystem, sorted by file name."""

    entries: tuple[BootEntry, ...]

    @property
    def default(self) -> BootEntry:
        """The entry that an unattended boot takes."""
        return self.entries[-1]


def read_entries(boot: Files, folder: str = "/loader/entries") -> BootEntries:
    """The entries of a boot filesystem; `loader` may be a symlink, as ostree has it.

    Raises MissingFile where there is no entry, or an absurd number of them.
    """
    names = [name for name in boot.listdir(folder) if name.endswith(".conf")]
    if not names or len(names) > MOST_ENTRIES:
        raise MissingFile(f"{shown(folder)} holds {len(names)} boot loader entries (*.conf)", where=boot.name)
    ordered = sorted(names, key=lambda name: name.encode("utf-8", "surrogateescape"))
    paths = [f"{folder}/{name}" for name in ordered]
    return BootEntries(tuple(parse_entry(path, boot.text(path, LARGEST_ENTRY)) for path in paths))


def parse_entry(path: str, text: str) -> BootEntry:
    """One entry's text. A missing key is an empty value: whether that matters is for a check to say."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key and not key.startswith("#"):
            values.setdefault(key, []).append(value.strip())
    joined = {key: " ".join(parts) for key, parts in values.items()}
    return BootEntry(
        path,
        joined.get("title", ""),
        joined.get("version", ""),
        joined.get("linux", ""),
        joined.get("initrd", ""),
        split_arguments(joined.get("options", "")),
    )


def split_arguments(line: str) -> tuple[str, ...]:
    """A kernel command line's arguments; spaces within double quotes do not split, as the kernel has it.

    >>> split_arguments('rw dyndbg="file a.c +p"  quiet')
    ('rw', 'dyndbg="file a.c +p"', 'quiet')
    """
    arguments, current, quoted = [], "", False
    for character in line:
        if character == '"':
            quoted = not quoted
        if character.isspace() and not quoted:
            arguments.append(current)
            current = ""
        else:
            current += character
    return tuple(argument for argument in [*arguments, current] if argument)
