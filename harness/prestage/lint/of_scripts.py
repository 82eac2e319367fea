"""Defects of the scripts that bring images in. What a shell would do is guessed from lines: no shell is parsed here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from harness.prestage.lint.lint import Context, Spot
from harness.prestage.lint.subject import Place, Subject

COPY = re.compile(r"\bskopeo\b.*\bcopy\b|\bpodman\s+(?:load|pull)\b")
ERREXIT = re.compile(r"^\s*set\s+(?:-\w*e|-o\s+errexit|-\w*o\s+errexit)|^#!\S+\s+-\w*e")
EXIT = re.compile(r"\bexit\b\s*(\S*)")
FOR = re.compile(r"\bfor\s+(\w+)(?:\s+in\b|\s*;|\s*$)")
LOOP = re.compile(r"(?:^|[;&|(]|\b(?:do|then|else)\b)\s*(?:for|while|until|select)\b")
DONE = re.compile(r"(?:^|;)\s*done\b")
MOST_LOOPS = 50  # of a script; the largest real one has six
LONGEST_LINE = 1024  # characters that are looked at
FUNCTION = re.compile(r"^\s*(?:function\s+([\w-]+)|([\w-]+)\s*\(\s*\))")
STATUS = re.compile(r"^\s*(?:local\s+)?(\w+)=\$\?")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a script."""

    number: int  # 1-based
    code: str  # without comment
    function: int  # which of the script's functions it is in, 0 outside


@dataclass(frozen=True, slots=True)
class Loop:
    """One loop of a script."""

    variable: str  # of a for loop, else empty
    start: int  # lines, inclusive
    end: int
    function: int

    def holds(self, line: Line) -> bool:
        return self.start <= line.number <= self.end


def wrong_archive_removed(subject: Subject, _: Context) -> Iterator[Spot]:
    """Scripts that unpack X.tgz and then remove X.gz."""
    for place, lines in _scripts(subject):
        unpacking = [line for line in lines if re.search(r"\btar\b", line.code)]
        stems = {word.removesuffix(".tgz") for line in unpacking for word in _words(line.code) if word.endswith(".tgz")}
        for line in lines:
            if not re.search(r"\brm\b", line.code):
                continue
            for word in _words(line.code):
                if word.endswith(".gz") and word.removesuffix(".gz") in stems:
                    yield Spot(place, f"unpacks {word.removesuffix('.gz')}.tgz, but removes {word}", line.number)


def always_succeeds(subject: Subject, _: Context) -> Iterator[Spot]:
    """Scripts that copy images and end with success without having looked."""
    for place, lines in _scripts(subject):
        code = [line for line in lines if line.code.strip()]
        if not any(COPY.search(line.code) for line in code) or any(ERREXIT.search(line.code) for line in code):
            continue
        statuses = [match[1].strip(";\"'") for line in code for match in EXIT.finditer(line.code)]
        if code[-1].code.strip() == "exit 0" and all(status == "0" for status in statuses):
            yield Spot(place, "ends with `exit 0`, whatever became of the copies", code[-1].number)


def retry_of_another_item(subject: Subject, _: Context) -> Iterator[Spot]:
    """Loops that work on the variable of another loop, which has kept that one's last item."""
    for place, lines in _scripts(subject):
        loops = _loops(lines)
        for loop in loops:
            if not loop.variable:
                continue
            body = [line for line in lines if loop.holds(line)]
            for other in sorted({each.variable for each in loops} - {loop.variable, ""}):
                of_other = [each for each in loops if each.variable == other]
                if any(_overlap(loop, each) for each in of_other):
                    continue
                used = next((line for line in body if _uses(line.code, other)), None)
                here = [line for line in lines if line.function == loop.function and line.number <= loop.end]
                assigned = any(
                    _assigns(line.code, other) for line in here if not any(each.holds(line) for each in of_other)
                )
                if used and not assigned:
                    what = f"loops over ${loop.variable}, but works on ${other}, the last item of another loop"
                    yield Spot(place, what, used.number, f"write ${{{loop.variable}}}")


def status_of_the_last(subject: Subject, _: Context) -> Iterator[Spot]:
    """Loops that overwrite the status with which their function or script ends."""
    for place, lines in _scripts(subject):
        for loop in _loops(lines):
            body = [line for line in lines if loop.holds(line)]
            for line in body:
                match = STATUS.match(line.code)
                if match is None or any(_uses(each.code, match[1]) for each in body):
                    continue
                ends = re.compile(rf"\b(?:return|exit)\s+\"?\$\{{?{match[1]}\b")
                after = [each for each in lines if each.function == loop.function and each.number > loop.end]
                if any(ends.search(each.code) for each in after):
                    yield Spot(place, f"${match[1]} is the status of the last item alone", line.number)


def _scripts(subject: Subject) -> Iterator[tuple[Place, list[Line]]]:
    for file in subject.files:
        if file.script:
            yield file.place.at(".contents.source" if subject.config else ""), _lines(file.script)


def _lines(text: str) -> list[Line]:
    lines, function, functions = [], 0, 0
    for number, raw in enumerate(text.split("\n"), 1):
        code = raw[:LONGEST_LINE]
        if number > 1:
            code = _without_comment(code)
        if FUNCTION.match(code):
            functions += 1
            function = functions
        lines.append(Line(number, code, function))
        if code.startswith("}"):
            function = 0
    return lines


def _without_comment(line: str) -> str:
    quote = ""
    for at, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (at == 0 or line[at - 1] in " \t;"):
            return line[:at]
    return line


def _loops(lines: list[Line]) -> list[Loop]:
    """Every loop that is closed, outer ones after those inside them."""
    open_loops: list[tuple[str, Line]] = []
    loops: list[Loop] = []
    for line in lines:
        if len(loops) == MOST_LOOPS:
            break
        if LOOP.search(line.code):
            match = FOR.search(line.code)
            open_loops.append((match[1] if match else "", line))
        if DONE.search(line.code) and open_loops:
            variable, first = open_loops.pop()
            loops.append(Loop(variable, first.number, line.number, first.function))
    return loops


def _overlap(one: Loop, other: Loop) -> bool:
    return one.start <= other.end and other.start <= one.end


def _uses(code: str, variable: str) -> bool:
    return re.search(rf"\$\{{?[#!]?{variable}\b", code) is not None


def _assigns(code: str, variable: str) -> bool:
    ways = rf"(?:^|[\s;&|(]){variable}=", rf"\bread\b[^|;]*\b{variable}\b", rf"\blocal\s[^=]*\b{variable}\b"
    return any(re.search(way, code) for way in ways)


def _words(code: str) -> list[str]:
    """The words of a line without quotes, and `${x}` as `$x`."""
    plain = re.sub(r"[\"']", "", code)
    return re.split(r"[\s;&|()]+", re.sub(r"\$\{(\w+)\}", r"$\1", plain))
