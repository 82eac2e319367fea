"""Kernel arguments of a live ISO: a line of words, changed and written to every place alike."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import BadInput, DamagedImage
from harness.images.filesystems.files import shown
from harness.images.system.live_places import KargsPlace, KargsPlaces

GRUB_READS = frozenset("\\\"'$;&|<>")  # characters that GRUB takes for itself unless they are quoted


def current(found: KargsPlaces) -> str:
    """What stands in all places. Raises DamagedImage where they differ or are garbled."""
    texts = {place.text() for place in found.places}
    if len(texts) != 1 or None in texts:
        say = ", ".join("garbled" if text is None else f'"{shown(text)}"' for text in sorted(texts, key=str))
        raise DamagedImage(
            f"the places do not agree on the kernel arguments: {say}",
            where=found.places[0].area.whole.name,
            next_step="harness iso kargs reset",
        )
    (text,) = texts
    return text or ""


def changed(line: str, *, delete: Sequence[str] = (), replace: Sequence[str] = (), append: Sequence[str] = ()) -> str:
    """A line with words deleted, then values replaced (KEY=OLD=NEW), then words appended.

    Raises BadInput for a word that cannot be one, that is to go and is not there, or is there more than once.

    >>> changed("quiet a=1", delete=["quiet"], replace=["a=1=2"], append=["b"])
    'a=2 b'
    """
    words = line.split()
    for word in delete:
        words.pop(_place(checked(word), words))
    for each in replace:
        old, new = _replacement(checked(each))
        words[_place(old, words)] = new
    return " ".join([*words, *map(checked, append)])


def written(line: str, found: KargsPlaces, place: KargsPlace) -> bytes:
    """The bytes of a place with this line, what ends it, and padding. Raises BadInput where it is too long.

    Raises DamagedImage where the ISO wants what cannot be written.
    """
    if not line.isprintable():
        raise DamagedImage(f'"{shown(line[:80])}" is no line of kernel arguments', where=place.area.name)
    text = line.encode()
    if len(text) >= found.size:
        raise BadInput(
            f"the kernel arguments have {len(text) + 1:,} bytes with their end mark, a place {found.size:,}",
            where=place.area.name,
            next_step="leave some away",
        )
    if not (place.pad.isascii() and place.end.isascii()):
        raise DamagedImage(f"is padded with {place.pad!r} after {place.end!r}, no single bytes", where=place.area.name)
    return (text + place.end.encode()).ljust(found.size, place.pad.encode())


def checked(word: str) -> str:
    """The word itself. Raises BadInput unless it can stand in a line of words."""
    if not word or not all("!" <= char <= "~" for char in word):
        raise BadInput(
            f"{word[:80]!r} is no kernel argument", next_step="printable ASCII without spaces; one argument an option"
        )
    return word


def _place(word: str, words: Sequence[str]) -> int:
    count = words.count(word)
    if count != 1:
        what = "stands there more than once" if count else "is not among the kernel arguments"
        raise BadInput(f"{word} {what}", next_step=f"there are: {shown(' '.join(words)) or 'none'}")
    return words.index(word)


def _replacement(said: str) -> tuple[str, str]:
    key, _, values = said.partition("=")
    old, has_new, new = values.partition("=")
    if not key or not has_new:
        raise BadInput(f"{said} is no replacement", next_step="say KEY=OLD=NEW")
    return f"{key}={old}", f"{key}={new}"
