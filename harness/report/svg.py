"""The two pictures of a report, as inline SVG that takes its colours from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.report.verdict import ImageFacts, PartitionFacts, Stage

WIDTH = 960  # units of the view box
NARROWEST = 98.0  # what a label needs
GAP = 4.0
HUES = 6  # fill classes hue0 ... hue5


def size_text(size: float) -> str:
    """Bytes for people.

    >>> size_text(1048576), size_text(133169152)
    ('1 MiB', '127 MiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.1f}".rstrip("0").rstrip(".") + f" {unit}" if size < 10 else f"{size:.0f} {unit}"
        size /= 1024
    return ""


def partition_map(image: ImageFacts) -> Markup:
    """The disk as a bar. Widths grow with the square root of sizes, or small partitions would not be seen."""
    pieces = _pieces(image)
    if not pieces:
        return Markup()
    roots = [piece.size**0.5 for piece in pieces]
    free = WIDTH - GAP * (len(pieces) - 1)
    widths = _at_least(NARROWEST, [free * root / sum(roots) for root in roots], free)
    drawn, left = [], 0.0
    for piece, width in zip(pieces, widths, strict=True):
        drawn.append(_piece(piece, left, width))
        left += width + GAP
    title = f"Partitions of {image.name}"
    return Markup('<svg class="map" viewBox="0 0 {} 92" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, title, Markup().join(drawn)
    )


def timeline(stages: Sequence[Stage]) -> Markup:
    """A boot as a staircase: each bar lasts from its milestone to the next one."""
    if not stages or stages[-1].seconds <= 0:
        return Markup()
    row, label_width, value_width = 26, 170, 76
    span = WIDTH - label_width - value_width
    end = stages[-1].seconds
    drawn = []
    for index, stage in enumerate(stages):
        until = stages[index + 1].seconds if index + 1 < len(stages) else end
        x = label_width + span * stage.seconds / end
        width = max(3.0, span * (until - stage.seconds) / end)
        y = index * row
        drawn.append(
            Markup(
                '<text x="0" y="{ty}">{name}</text><rect class="track" x="{label}" y="{y}" width="{span}" height="16" '
                'rx="3"/><rect class="hue{hue}" x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" rx="3"/>'
                '<text class="value" x="{right}" y="{ty}">{at:.1f} s</text>'
            ).format(
                ty=y + 13, name=stage.name, label=label_width, y=y, span=span, hue=index % HUES, width=width,
                x=min(x, label_width + span - 3), right=WIDTH, at=stage.seconds,
            )
        )  # fmt: skip
    return Markup('<svg class="timeline" viewBox="0 0 {} {}" role="img" aria-label="Boot timeline">{}</svg>').format(
        WIDTH, row * len(stages) - 8, Markup().join(drawn)
    )


def _pieces(image: ImageFacts) -> list[PartitionFacts]:
    """Partitions in disk order, with the gaps between them that are worth showing as number 0."""
    pieces, end = [], 0
    for partition in sorted(image.partitions, key=lambda piece: piece.start):
        if partition.start - end > 2**20:
            pieces.append(PartitionFacts(0, "free", end, partition.start - end))
        pieces.append(partition)
        end = partition.start + partition.size
    if pieces and image.disk_size - end > 2**20:
        pieces.append(PartitionFacts(0, "free", end, image.disk_size - end))
    return pieces


def _at_least(least: float, widths: list[float], total: float) -> list[float]:
    """Widen what is too narrow and take it from the rest in proportion, unless nothing can give."""
    if least * len(widths) >= total:
        return [total / len(widths)] * len(widths)
    narrow = {index for index, width in enumerate(widths) if width < least}
    while True:
        rest = sum(width for index, width in enumerate(widths) if index not in narrow)
        factor = (total - least * len(narrow)) / rest
        more = {index for index, width in enumerate(widths) if index not in narrow and width * factor < least}
        if not more:
            return [least if index in narrow else width * factor for index, width in enumerate(widths)]
        narrow |= more


def _piece(piece: PartitionFacts, left: float, width: float) -> Markup:
    kind = f"hue{(piece.number - 1) % HUES}" if piece.number else "track"
    label = _fitting(piece.label or "unnamed", width)
    under = _fitting(" · ".join(part for part in (piece.filesystem, size_text(piece.size)) if part), width)
    where = f"starts at {piece.start:,} bytes, {piece.size:,} bytes long"
    number = Markup('<text class="number" x="{:.1f}" y="22">{}</text>').format(left + 8, piece.number)
    return Markup(
        '<g><title>{title}</title><rect class="{kind}" x="{left:.1f}" y="0" width="{width:.1f}" height="52" rx="4"/>'
        '{number}<text class="label" x="{left:.1f}" y="70">{label}</text>'
        '<text class="value start" x="{left:.1f}" y="87">{under}</text></g>'
    ).format(
        title=f"{piece.label}: {where}", kind=kind, left=left, width=width, number=number if piece.number else "",
        label=label, under=under,
    )  # fmt: skip


def _fitting(text: str, width: float) -> str:
    most = max(4, int(width / 7.2))
    return text if len(text) <= most else text[: most - 1] + "…"
