"""Small pictures as SVG, for a page that loads nothing from elsewhere. Colours are the page's CSS variables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 460, 240
START, END, TOP, BOTTOM = 52, 12, 12, 34


class Line(NamedTuple):
    """A line through points in data units; `kind` is a CSS class: main, other or ideal."""

    x: Sequence[float]
    y: Sequence[float]
    kind: str = "main"


class ChartRow(NamedTuple):
    """One row of an interval chart: a value with its interval, the band it should lie in, and a word about it."""

    name: str
    value: float
    low: float
    high: float
    band: tuple[float, float]
    word: str


class _Axes:
    def __init__(self, x_max: float, y_max: float, x_label: str, y_label: str) -> None:
        self._x_max, self._y_max = x_max or 1.0, y_max or 1.0
        self.parts = [
            f'<rect class="frame" x="{START}" y="{TOP}" width="{WIDTH - START - END}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>',
            f'<text x="{(START + WIDTH - END) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>',
            f'<text transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>",
        ]
        for share in (0.0, 0.5, 1.0):
            self._tick(share)

    def _tick(self, share: float) -> None:
        x, y = self.x(share * self._x_max), self.y(share * self._y_max)
        anchor = "end" if share == 1.0 else "middle"  # the last one stays inside
        self.parts += [
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 13}" text-anchor="{anchor}">{_number(share * self._x_max)}</text>',
            f'<text x="{START - 5}" y="{y + 4}" text-anchor="end">{_number(share * self._y_max)}</text>',
        ]

    def x(self, value: float) -> float:
        return round(START + (WIDTH - START - END) * value / self._x_max, 1)

    def y(self, value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self._y_max, 1)

    def picture(self, title: str) -> str:
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)}"><title>{escape(title)}</title>' + "".join(self.parts) + "</svg>"
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def lines(title: str, drawn: Sequence[Line], x_label: str, y_label: str, y_max: float | None = None) -> str:
    """Lines over [0, largest x] and [0, largest y]. `told` says what is seen, for those who do not see it."""
    highest = max(max(line.y) for line in drawn) if y_max is None else y_max
    axes = _Axes(max(max(line.x) for line in drawn), highest, x_label, y_label)
    for line in drawn:
        points = " ".join(f"{axes.x(x)},{axes.y(y)}" for x, y in zip(line.x, line.y, strict=True))
        axes.parts.append(f'<polyline class="{line.kind}" points="{points}"/>')
        if len(line.x) <= 20 and line.kind != "ideal":
            axes.parts += [
                f'<circle class="{line.kind}" cx="{axes.x(x)}" cy="{axes.y(y)}" r="2.5"/>'
                for x, y in zip(line.x, line.y, strict=True)
            ]
    return axes.picture(title)


def histogram(title: str, counts: Sequence[int], expected: float, x_label: str) -> str:
    """Bars over [0, 1], and the height that all should have."""
    axes = _Axes(1.0, max(*counts, expected) * 1.05, x_label, "count")
    for at, count in enumerate(counts):
        start, end = axes.x(at / len(counts)), axes.x((at + 1) / len(counts))
        height = axes.y(0) - axes.y(count)
        size = f'width="{end - start - 1:.1f}" height="{height:.1f}"'
        axes.parts.append(f'<rect class="bar" x="{start + 0.5}" y="{axes.y(count)}" {size}/>')
    axes.parts.append(
        f'<polyline class="ideal" points="{axes.x(0)},{axes.y(expected)} {axes.x(1)},{axes.y(expected)}"/>'
    )
    return axes.picture(title)


def intervals(title: str, rows: Sequence[ChartRow]) -> str:
    """A dot with its interval on the band it should lie in, one row each."""
    name_width, step = 130, 30
    height = step * len(rows) + 30
    largest = max(max(row.high, row.band[1], row.value) for row in rows) * 1.1 or 1.0

    def x(value: float) -> float:
        return round(name_width + (WIDTH + 140 - name_width - 90) * value / largest, 1)

    parts = []
    for at, row in enumerate(rows):
        y, start, end = step * at + 18, x(row.band[0]), x(row.band[1])
        parts += [
            f'<text x="{name_width - 8}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect class="band" x="{start}" y="{y - 9}" width="{max(1.0, end - start):.1f}" height="18"/>',
            f'<polyline class="{row.word} whisker" points="{x(row.low)},{y} {x(row.high)},{y}"/>',
            f'<circle class="{row.word}" cx="{x(row.value)}" cy="{y}" r="4.5"/>',
            f'<text class="{row.word}" x="{WIDTH + 140 - 82}" y="{y + 4}">{row.value:.2%} {escape(row.word)}</text>',
        ]
    parts += [
        f'<text x="{x(largest * share)}" y="{height - 6}" text-anchor="middle">{largest * share:.1%}</text>'
        for share in (0.0, 0.5, 1.0)
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH + 140} {height}" role="img" aria-label="{escape(title)}">'
        + f"<title>{escape(title)}</title>"
        + "".join(parts)
        + "</svg>"
    )
