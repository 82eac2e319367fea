"""What was measured about recipes, as rows; as a table in Markdown, and as a picture with logarithmic bars."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from suites.bench.measuring import Cost

HEAD = (
    "| pair | method | bytes | of target | encode CPU s | wall | MB | decode CPU s | wall | MB | bit-exact | others"
    " |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|\n"
)
WIDTH, NAME, BAR, LINE, TITLE = 1180, 190, 300, 17, 30  # pixels
SANS = "font-family='DejaVu Sans, Arial, sans-serif'"
OWN, OTHER = "#1f6f54", "#9aa5b1"


class Row(NamedTuple):
    """One method on one pair; `size` is None where there is nothing to keep (limits), or nothing came of it."""

    pair: str
    method: str
    target: int
    size: int | None = None
    encode: Cost | None = None
    decode: Cost | None = None
    is_exact: bool = False
    remark: str = ""
    dictionary: int = 0  # bytes, of our recipes


def markdown(rows: Iterable[Row]) -> str:
    """The rows as one table; the last column is how many cores others kept busy meanwhile."""
    lines, last = [], ""
    for row in rows:
        name = row.pair if row.pair != last else ""
        last = row.pair
        size = "" if row.size is None else f"{row.size:,}"
        ratio = "" if row.size is None else f"{row.size / row.target:.2g}"
        exact = row.remark or ("yes" if row.is_exact else "")
        costs = [cell for cost in (row.encode, row.decode) for cell in _cells(cost)]
        loads = [cost.others for cost in (row.encode, row.decode) if cost]
        others = f"{max(loads):.1f}" if loads else ""
        lines.append(f"| {' | '.join((name, row.method, size, ratio, *costs, exact, others))} |\n")
    return HEAD + "".join(lines)


def _cells(cost: Cost | None) -> Sequence[str]:
    if cost is None:
        return ("", "", "")
    return (f"{cost.cpu:.2f}", f"{cost.wall:.1f}", f"{cost.memory / 1e6:.0f}")


def picture(rows: Sequence[Row], own: str) -> str:
    """An SVG: for each pair and method three bars, each logarithmic. Methods that begin with `own` stand out."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.size or row.decode:
            groups.setdefault(row.pair, []).append(row)
    columns: Sequence[tuple[str, Mapping[Row, float], str]] = (
        ("bytes kept", {row: row.size for row in rows if row.size}, "{:,.0f}"),
        ("CPU seconds to make", {row: row.encode.cpu for row in rows if row.encode and row.size}, "{:.1f}"),
        ("CPU seconds to follow", {row: row.decode.cpu for row in rows if row.decode}, "{:.1f}"),
    )
    parts, y = [_text(12, 24, "Recipes: ours and others", size=17, weight="bold")], 52
    for column, (title, _, _) in enumerate(columns):
        parts.append(_text(_left(column), y, f"{title} (logarithmic)", size=12, weight="bold"))
    for pair, members in groups.items():
        y += TITLE
        parts.append(f"<line x1='12' x2='{WIDTH - 12}' y1='{y - 16}' y2='{y - 16}' stroke='#d5dae0'/>")
        parts.append(_text(12, y, pair, size=13, weight="bold"))
        for row in members:
            y += LINE
            colour = OWN if row.method.startswith(own) else OTHER
            parts.append(_text(24, y, row.method, size=12))
            for column, (_, values, form) in enumerate(columns):
                if row in values:
                    parts += _bar(
                        _left(column), y, _share(values[row], values.values()), form.format(values[row]), colour
                    )
    height = y + 24
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' viewBox='0 0 {WIDTH} {height}'>"
        f"<rect width='100%' height='100%' fill='white'/>{''.join(parts)}</svg>\n"
    )


def _left(column: int) -> int:
    return NAME + 20 + column * (BAR + 20)


def _share(value: float, values: Iterable[float]) -> float:
    """How long a bar is, from 0 to 1; the smallest has a twentieth, so that it can be seen."""
    found = [max(each, 1e-3) for each in values]
    low, high = math.log10(min(found)), math.log10(max(found))
    return 0.05 + 0.95 * (math.log10(max(value, 1e-3)) - low) / ((high - low) or 1)


def _bar(x: int, y: int, share: float, label: str, colour: str) -> list[str]:
    length = round(share * (BAR - 90))
    bar = f"<rect x='{x}' y='{y - 10}' width='{length}' height='11' fill='{colour}'/>"
    return [bar, _text(x + length + 5, y, label, size=11)]


def _text(x: int, y: int, text: str, *, size: int, weight: str = "normal") -> str:
    return (
        f"<text x='{x}' y='{y}' {SANS} font-size='{size}' font-weight='{weight}' fill='#1c2733'>{escape(text)}</text>"
    )
