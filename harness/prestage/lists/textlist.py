"""Lists with a pull spec a line: of a release, of assisted-installer, ai-images.txt and ocp-images.txt; mapping.txt.

The labs' scripts take the first word of a line (`awk '{print $1}'`), so blanks around it are nothing; those of
factory-precaching-cli take the whole line. `#` begins a comment. mapping.txt, which oc-mirror writes, has lines
`<pull spec>=<name>:<tag>`; in it a release's image is called `openshift/release:<version>-<arch>-<operator>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.prestage.lists.entry import Entry
from harness.prestage.lists.problem import Problem

MOST_LINES = 100_000  # of a list
LONGEST_LINE = 4096  # characters; the longest real one has 130
TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
OPERATOR = re.compile(r"\d+\.\d+\.[\w.-]*?-(?:x86_64|amd64|aarch64|arm64|ppc64le|s390x|multi)-(?P<name>[\w.-]+)")
SHOWN = 120


def words(text: str) -> Iterator[tuple[int, str, str] | Problem]:
    """Number, first word and the rest of every line that says something."""
    ends_as_on_windows = 0
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > LONGEST_LINE:
            yield Problem("too-long", f"has a line of {len(line):,} characters", number, f"at most {LONGEST_LINE:,}")
            continue
        ends_as_on_windows = ends_as_on_windows or (number if line.endswith("\r") else 0)
        found = line.split(maxsplit=1)
        if found and not found[0].startswith("#"):
            yield number, found[0].partition("#")[0], found[1].strip() if len(found) > 1 else ""
    if ends_as_on_windows:
        what = "ends in a carriage return, which scripts take for a part of the name"
        yield Problem("carriage-return", what, ends_as_on_windows, "dos2unix")


def is_mapping(text: str) -> bool:
    """Whether the first line that says something maps a pull spec: those themselves have no `=`."""
    first = next((each for each in words(text) if not isinstance(each, Problem)), None)
    return first is not None and "=" in first[1]


def plain_entries(text: str) -> Iterator[Entry | Problem]:
    """The entries of a list with a pull spec a line."""
    for each in words(text):
        if isinstance(each, Problem):
            yield each
            continue
        number, word, rest = each
        yield Entry(word, number)
        if rest and not rest.startswith("#"):
            yield Problem("extra-words", f"has more than a pull spec: {rest[:SHOWN]!r} is not read", number)


def mapping_entries(text: str) -> Iterator[Entry | Problem]:
    """The entries of a mapping.txt."""
    for each in words(text):
        if isinstance(each, Problem):
            yield each
            continue
        number, word, _ = each
        source, equals, target = word.partition("=")
        name, _, tag = target.rpartition(":")
        if not equals or not name or TAG.fullmatch(tag) is None:
            yield Problem("bad-mapping", f"is not <pull spec>=<name>:<tag>: {word[:SHOWN]!r}", number)
            continue
        operator = OPERATOR.fullmatch(tag)
        is_release = name.endswith("openshift/release-images")
        yield Entry(source, number, name=operator["name"] if operator else "", tag=tag, is_release=is_release)
