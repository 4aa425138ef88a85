# SPDX-License-Identifier: Apache-2.0
"""The charts of the printed report, drawn as vectors: days against the target, areas side by side.

What is unknown is drawn as such: a band from the lower to the upper bound, a gap where no data is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil, floor
from typing import Final, Literal

from reportlab.graphics.shapes import (
    Circle,
    Drawing,
    Group,
    Line,
    Polygon,
    PolyLine,
    Rect,
    Shape,
    String,
)
from reportlab.lib.colors import Color, HexColor, white
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.pdfmetrics import (
    getRegisteredFontNames,  # pyright: ignore[reportUnknownVariableType]  # no types
    registerFont,  # pyright: ignore[reportUnknownVariableType]  # no types
    stringWidth,
)

from ingest.indicators.definition import Language
from ingest.indicators.rate import Verdict
from ingest.reports.content import ChildRow, Day, Number, Report
from ingest.reports.words import percent, printable, word

LATIN: Final = "Helvetica"
LATIN_BOLD: Final = "Helvetica-Bold"
CHINESE: Final = "STSong-Light"
INK: Final = HexColor("#1b2733")
FAINT: Final = HexColor("#5c6b7a")
RULE: Final = HexColor("#d5dce3")
SHADE: Final = HexColor("#f3f6f9")
GAP: Final = HexColor("#e9ecef")
BLUE: Final = HexColor("#1f5f99")
BAND: Final = HexColor("#c3d9ee")
TARGET: Final = HexColor("#a3470b")
# What Helvetica has and Chinese texts do not use in their own width.
_LATIN_LETTERS: Final = frozenset(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0x100)))) | {"–", "‰"}
# Dark enough to be read on white (4.5 : 1 and more).
VERDICTS: Final[dict[Verdict, Color]] = {
    "met": HexColor("#1c6e3d"),
    "not_met": HexColor("#b3261e"),
    "undetermined": HexColor("#7a5200"),
}
# More bars than this are no longer a picture.
MOST_BARS: Final = 20
_SMALL: Final = 7.0
_NAME: Final = 8.0
_BAR: Final = 15.0
_RIM: Final = 0.002
_BEYOND: Final = re.compile(r"[\U00010000-\U0010ffff]")
_BREAKS: Final = re.compile(r"[\t\n]")
Anchor = Literal["start", "middle", "end"]


def register_fonts() -> None:
    """Make the Chinese font known; readers of PDF bring its glyphs themselves."""
    if CHINESE not in getRegisteredFontNames():
        registerFont(UnicodeCIDFont(CHINESE))


def runs(text: str, *, bold: bool = False) -> Iterator[tuple[str, str]]:
    """Yield a text's parts, each with the font that has its letters.

    Neither font has letters beyond the first 65,536 (emoji); they are shown as boxes.
    """
    latin = LATIN_BOLD if bold else LATIN
    shown = _BEYOND.sub("□", _BREAKS.sub(" ", printable(text)))
    for font, letters in groupby(shown, lambda letter: latin if _is_latin(letter) else CHINESE):
        yield font, "".join(letters)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return how wide a text is drawn, in points."""
    return sum(stringWidth(part, font, size) for font, part in runs(text, bold=bold))


def fit(text: str, width: float, size: float) -> str:
    """Return the text, cut where it would be wider than ``width`` points."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}...", size) > width:
        text = text[:-1]
    return f"{text}..."


def headline(report: Report) -> str | None:
    """Return the indicator whose days and areas are drawn first: lighting, or what else is told."""
    shares = [
        number.indicator
        for number in report.numbers
        if number.unit == "fraction" and not number.kind and report.daily.get(number.indicator)
    ]
    return "lighting-uptime" if "lighting-uptime" in shares else next(iter(shares), None)


def drawn_by_day(report: Report) -> list[Number]:
    """Return the shares with a target whose days are drawn, lighting first."""
    shares = [
        number
        for number in report.numbers
        if number.unit == "fraction"
        and not number.kind
        and number.target is not None
        and any(day.value is not None for day in report.daily.get(number.indicator, ()))
    ]
    return sorted(shares, key=lambda number: number.indicator != "lighting-uptime")


def ranked(report: Report, indicator: str) -> list[tuple[ChildRow, Number]]:
    """Return the areas below with their number, the furthest from the target first.

    An area without a value comes last: nobody can say where it stands.
    """
    rows = [
        (child, number)
        for child in report.children
        for number in child.numbers
        if number.indicator == indicator and not number.kind
    ]

    def place(row: tuple[ChildRow, Number]) -> tuple[bool, float]:
        number = row[1]
        if number.value is None:
            return True, 0.0
        low = number.target is not None and number.target.better == "low"
        return False, -number.value if low else number.value

    return sorted(rows, key=place)


def days_chart(report: Report, number: Number, width: float, height: float) -> Drawing:
    """Draw a share by day: value as a line, its bounds as a band, the target as a dashed line."""
    assert number.target is not None
    by_day = {day.day: day for day in report.daily[number.indicator]}
    known = {
        index: by_day[day]
        for index, day in enumerate(report.days)
        if day in by_day and by_day[day].value is not None
    }
    target = number.target.value
    axis = Axis.over(
        min(target, *(_low(day) for day in known.values())),
        max(target, *(_high(day) for day in known.values())),
    )
    frame = _Frame(left=40, bottom=24, width=width - 44, height=height - 46)
    step = frame.width / len(report.days)

    def x(index: float) -> float:
        return frame.left + step * (index + 0.5)

    def y(value: float) -> float:
        return frame.bottom + frame.height * axis.share(value)

    drawing = Drawing(width, height)
    for index, day in enumerate(report.days):
        if index not in known and not report.is_to_come(day):
            drawing.add(_box(x(index - 0.5), frame.bottom, step, frame.height, GAP))
    for tick in axis.ticks():
        drawing.add(_line(frame.left, y(tick), frame.right, y(tick), RULE))
        _write(drawing, frame.left - 5, y(tick) - 2.5, _tick_text(tick), anchor="end")
    for indices in _stretches(sorted(known)):
        if len(indices) == 1:  # one day alone: its band is a box, its line a dot
            low, high = (y(bound(known[indices[0]])) for bound in (_low, _high))
            drawing.add(_box(x(indices[0] - 0.3), low, 0.6 * step, high - low, BAND))
        else:
            upper = [(x(index), y(_high(known[index]))) for index in indices]
            lower = [(x(index), y(_low(known[index]))) for index in reversed(indices)]
            drawing.add(Polygon(_flat([*upper, *lower]), fillColor=BAND, strokeColor=None))
    drawing.add(_line(frame.left, y(target), frame.right, y(target), TARGET, dash=[4, 2]))
    for indices in _stretches(sorted(known)):
        points = [(x(index), y(known[index].value or 0.0)) for index in indices]
        drawing.add(PolyLine(_flat(points), strokeColor=BLUE, strokeWidth=1.4))
        for at, value in points:
            drawing.add(_dot(at, value, 1.5, BLUE))
    drawing.add(_line(frame.left, frame.bottom, frame.right, frame.bottom, FAINT))
    for index, day in enumerate(report.days):
        if day.day == 1 or day.day % 5 == 0:
            _write(drawing, x(index), frame.bottom - 10, f"{day:%m-%d}", anchor="middle")
    _legend(drawing, frame.left, height - 9, target, report.language)
    return drawing


def areas_chart(
    rows: Sequence[tuple[ChildRow, Number]], language: Language, width: float
) -> Drawing:
    """Draw one share of several areas: a dot with its bounds, and how far it is from the target.

    Dots rather than bars, because the scale need not begin at 0: what matters lies near the target.
    """
    label = min(150.0, max(text_width(child.name[language], _NAME) for child, _ in rows) + 10)
    targets = {number.target.value for _, number in rows if number.target is not None}
    ends = [_bounds(number) for _, number in rows if number.value is not None]
    axis = Axis.over(
        min([*targets, *(low for low, _ in ends)], default=0.0),
        max([*targets, *(high for _, high in ends)], default=1.0),
    )
    frame = _Frame(left=label, bottom=18, width=width - label - 76, height=_BAR * len(rows))
    drawing = Drawing(width, frame.height + 36)

    def x(value: float) -> float:
        return frame.left + frame.width * axis.share(value)

    for tick in axis.ticks():
        drawing.add(_line(x(tick), frame.bottom, x(tick), frame.top, RULE))
        _write(drawing, x(tick), 8, _tick_text(tick), anchor="middle")
    for target in sorted(targets):
        drawing.add(_line(x(target), frame.bottom - 2, x(target), frame.top + 3, TARGET, [4, 2]))
        text = f"{word('chart_target', language)} {100 * target:g} %"
        _write(drawing, x(target), frame.top + 6, text, anchor="middle", color=TARGET)
    for index, (child, number) in enumerate(rows):
        y = frame.top - _BAR * (index + 0.5)
        name = fit(child.name[language], label - 10, _NAME)
        _write(drawing, frame.left - 6, y - 3, name, size=_NAME, anchor="end", color=INK)
        if number.value is None:
            _write(drawing, frame.left + 4, y - 2.5, word("chart_gap", language))
            continue
        low, high = (x(bound) for bound in _bounds(number))
        drawing.add(_box(low, y - 4, high - low, 8, BAND))
        limit = None if number.target is None else number.target.value
        if limit is not None:
            drawing.add(_line(x(limit), y, x(number.value), y, BLUE, width=1.0))
        drawing.add(_dot(x(number.value), y, 2.6, BLUE))
        if number.verdict is not None:
            for shape in mark(number.verdict, frame.right + 14, y, 4):
                drawing.add(shape)
        value = percent(number.value, limit)
        _write(drawing, frame.right + 22, y - 2.8, value, size=_NAME, color=INK)
    drawing.add(_line(frame.left, frame.bottom, frame.left, frame.top, FAINT))
    return drawing


def tag(text: str, verdict: Verdict | None, size: float = 8.5) -> Drawing:
    """Draw a word or figure with the verdict's sign before it, as one line of a table."""
    drawing = Drawing(12 + text_width(text, size), 1.4 * size)
    if verdict is not None:
        for shape in mark(verdict, 4, 0.7 * size, 4):
            drawing.add(shape)
    _write(
        drawing,
        11,
        0.4 * size,
        text,
        size=size,
        color=INK if verdict is None else VERDICTS[verdict],
    )
    return drawing


def mark(verdict: Verdict, x: float, y: float, radius: float) -> list[Shape]:
    """Draw a verdict as a sign whose shape tells it apart without its colour."""
    color = VERDICTS[verdict]
    r = radius
    match verdict:
        case "met":
            tick = [(x - 0.5 * r, y), (x - 0.1 * r, y - 0.42 * r), (x + 0.55 * r, y + 0.42 * r)]
            stroke = PolyLine(_flat(tick), strokeColor=white, strokeWidth=0.32 * r, strokeLineCap=1)
            return [_dot(x, y, r, color), stroke]
        case "not_met":
            cross = [
                Line(
                    x - 0.4 * r, y - 0.4 * r * up, x + 0.4 * r, y + 0.4 * r * up,
                    strokeColor=white, strokeWidth=0.32 * r, strokeLineCap=1,
                )
                for up in (1, -1)
            ]  # fmt: skip
            box = _box(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r, color)
            return [box, *cross]
        case "undetermined":
            ring = _dot(x, y, 0.9 * r, white)
            ring.strokeColor, ring.strokeWidth = color, 0.25 * r
            sign = String(x, y - 0.5 * r, "?", textAnchor="middle")
            sign.fontName, sign.fontSize, sign.fillColor = LATIN_BOLD, 1.4 * r, color
            return [ring, sign]


@dataclass(frozen=True, slots=True)
class _Frame:
    left: float
    bottom: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def top(self) -> float:
        return self.bottom + self.height


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale of fractions in round steps, counted in thousandths so that its ticks are exact."""

    first: int
    last: int
    step: int

    @classmethod
    def over(cls, lowest: float, highest: float) -> "Axis":
        """Return the narrowest round axis within 0 and 1 that holds both in at most six steps."""
        # What lies on the rim would be hidden by it.
        lowest, highest = lowest - _RIM, highest + _RIM
        for step in (5, 10, 20, 50, 100, 200):
            first = max(0, floor(1_000 * lowest / step) * step)
            last = min(1_000, ceil(1_000 * highest / step) * step)
            if last - first < 2 * step:
                first = max(0, last - 2 * step)
                last = first + 2 * step
            if last - first <= 6 * step:
                return cls(first, last, step)
        raise ValueError(f"not fractions: {lowest} to {highest}")

    def share(self, value: float) -> float:
        """Return where a value lies: 0 at the beginning of the axis, 1 at its end."""
        return (1_000 * value - self.first) / (self.last - self.first)

    def ticks(self) -> list[float]:
        """Return where its lines are drawn."""
        return [thousandth / 1_000 for thousandth in range(self.first, self.last + 1, self.step)]


def _legend(drawing: Drawing, x: float, y: float, target: float, language: Language) -> None:
    """Say what line, band, dashes and shade mean, in one row above the picture."""
    sign = {
        "chart_value": [
            _line(0, 2.5, 14, 2.5, BLUE, width=1.4),
            _dot(7, 2.5, 1.5, BLUE),
        ],
        "chart_band": [_box(0, 0, 14, 5, BAND)],
        "chart_target": [_line(0, 2.5, 14, 2.5, TARGET, dash=[4, 2])],
        "chart_gap": [_box(0, -1, 14, 7, GAP)],
    }
    for key, shapes in sign.items():
        drawing.add(Group(*shapes, transform=(1, 0, 0, 1, x, y)))
        text = word(key, language) + (f" {100 * target:g} %" if key == "chart_target" else "")
        _write(drawing, x + 18, y, text)
        x += 18 + text_width(text, _SMALL) + 14


def _write(
    drawing: Drawing,
    x: float,
    y: float,
    text: str,
    *,
    size: float = _SMALL,
    anchor: Anchor = "start",
    color: Color = FAINT,
) -> None:
    """Add a text, each letter in a font that has it."""
    x -= {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * text_width(text, size)
    for font, part in runs(text):
        drawing.add(String(x, y, part, fontName=font, fontSize=size, fillColor=color))
        x += stringWidth(part, font, size)


def _box(x: float, y: float, width: float, height: float, color: Color) -> Rect:
    """Return a filled box, never too thin to be seen."""
    box = Rect(x, y, max(0.6, width), max(0.6, height))
    box.fillColor, box.strokeColor = color, None
    return box


def _dot(x: float, y: float, radius: float, color: Color) -> Circle:
    return Circle(x, y, radius, fillColor=color, strokeColor=None)


def _line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    color: Color,
    dash: list[float] | None = None,
    width: float = 0.5,
) -> Line:
    line = Line(x1, y1, x2, y2, strokeColor=color, strokeWidth=width)
    if dash is not None:
        line.strokeDashArray, line.strokeWidth = dash, 1.0
    return line


def _flat(points: Sequence[tuple[float, float]]) -> list[float]:
    return [coordinate for point in points for coordinate in point]


def _stretches(indices: Sequence[int]) -> Iterator[list[int]]:
    """Yield what follows each other without a gap."""
    for _, pairs in groupby(enumerate(indices), lambda pair: pair[1] - pair[0]):
        yield [index for _, index in pairs]


def _is_latin(letter: str) -> bool:
    return letter in _LATIN_LETTERS


def _low(day: Day) -> float:
    return (day.value or 0.0) if day.lower is None else day.lower


def _high(day: Day) -> float:
    return (day.value or 0.0) if day.upper is None else day.upper


def _bounds(number: Number) -> tuple[float, float]:
    value = number.value or 0.0
    lower = value if number.lower is None else number.lower
    return lower, value if number.upper is None else number.upper


def _tick_text(tick: float) -> str:
    return f"{100 * tick:g} %"
