# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reportlab.graphics.shapes import Circle, Drawing, Group, Polygon, PolyLine, Rect, Shape, String

from ingest.indicators.rate import Verdict
from ingest.reports.charts import (
    BAND,
    BLUE,
    GAP,
    VERDICTS,
    Axis,
    areas_chart,
    days_chart,
    drawn_by_day,
    fit,
    headline,
    mark,
    ranked,
    register_fonts,
    runs,
    tag,
    text_width,
)
from ingest.reports.content import Report
from tests.ingest.reports.sample import LIGHTING, NO_DATA_NIGHTS, SORTED, sample

FRACTIONS = st.floats(0, 1)


@pytest.fixture(autouse=True)
def fonts() -> None:
    register_fonts()


def top(drawing: Drawing) -> list[Shape]:
    """What is drawn, without the legend."""
    return [shape for shape in drawing.contents if not isinstance(shape, Group)]


def nights(report: Report) -> Drawing:
    number = next(number for number in report.numbers if number.indicator == LIGHTING.id)
    return days_chart(report, number, 480, 130)


def texts(drawing: Drawing) -> Iterator[str]:
    for shape in drawing.contents:
        if isinstance(shape, String):
            yield shape.text


@given(low=FRACTIONS, high=FRACTIONS)
def test_an_axis_holds_what_it_shows_in_few_round_steps(low: float, high: float) -> None:
    low, high = sorted((low, high))
    axis = Axis.over(low, high)
    assert 0 <= axis.share(low) <= axis.share(high) <= 1
    assert 0 <= axis.first < axis.last <= 1_000
    assert (axis.last - axis.first) % axis.step == 0
    assert 3 <= len(axis.ticks()) <= 7


@pytest.mark.parametrize("target", [0.6, 0.96, 0.97])
def test_a_target_never_lies_on_the_rim(target: float) -> None:
    axis = Axis.over(target, target)
    assert 0 < axis.share(target) < 1


def test_a_night_without_data_is_shaded_and_has_no_dot() -> None:
    shapes = top(nights(sample()))
    gaps = [s for s in shapes if isinstance(s, Rect) and s.fillColor == GAP]
    dots = [s for s in shapes if isinstance(s, Circle)]
    assert len(gaps) == len(NO_DATA_NIGHTS)
    assert len(dots) == 31 - len(NO_DATA_NIGHTS)


def test_a_night_that_has_not_come_is_not_missing() -> None:
    report = sample()
    begun = tuple(day for day in report.daily[LIGHTING.id] if day.day.day <= 12)
    made_at = datetime(2026, 10, 14, 4, tzinfo=UTC)
    report = replace(report, daily={LIGHTING.id: begun}, made_at=made_at)
    gaps = [s for s in top(nights(report)) if isinstance(s, Rect) and s.fillColor == GAP]
    assert len(gaps) == 3, "the 12th without data, the 13th and today without a row"


def test_the_line_is_broken_where_data_is() -> None:
    lines = [s for s in top(nights(sample())) if isinstance(s, PolyLine)]
    assert [len(line.points) // 2 for line in lines] == [11, 6, 11]


def test_every_dot_lies_in_its_band() -> None:
    shapes = top(nights(sample()))
    bands = [s for s in shapes if isinstance(s, Polygon) and s.fillColor == BAND]
    for dot in (s for s in shapes if isinstance(s, Circle)):
        ys = [
            y
            for band in bands
            for x, y in zip(band.points[::2], band.points[1::2], strict=True)
            if x == pytest.approx(dot.cx)
        ]
        assert min(ys) - 1e-6 <= dot.cy <= max(ys) + 1e-6


def test_one_day_alone_is_a_dot_in_a_box() -> None:
    report = sample()
    report = replace(report, daily={LIGHTING.id: report.daily[LIGHTING.id][:1]})
    shapes = top(nights(report))
    (dot,) = (s for s in shapes if isinstance(s, Circle))
    (box,) = (s for s in shapes if isinstance(s, Rect) and s.fillColor == BAND)
    assert box.x < dot.cx < box.x + box.width
    assert box.y <= dot.cy <= box.y + box.height


def test_lighting_is_drawn_first_and_only_what_has_days() -> None:
    report = sample()
    shuffled = replace(report, numbers=report.numbers[::-1])
    assert next(n.indicator for n in drawn_by_day(shuffled)) == LIGHTING.id
    assert headline(shuffled) == LIGHTING.id
    only = replace(report, daily={SORTED.id: report.daily[SORTED.id]})
    assert [n.indicator for n in drawn_by_day(only)] == [SORTED.id]
    assert headline(only) == SORTED.id
    assert headline(replace(report, daily={})) is None


def test_areas_furthest_from_the_target_come_first_and_unknown_ones_last() -> None:
    values = [number.value for _, number in ranked(sample(children=12), LIGHTING.id)]
    known = [value for value in values if value is not None]
    assert values == [*sorted(known), None]


def test_every_area_is_named_and_an_unheard_one_says_so() -> None:
    rows = ranked(sample("en"), LIGHTING.id)
    drawing = areas_chart(rows, "en", 480)
    written = list(texts(drawing))
    assert {child.name["en"] for child, _ in rows} <= set(written)
    assert written.count("no data") == 1
    dots = [s for s in top(drawing) if isinstance(s, Circle) and s.fillColor == BLUE]
    assert len(dots) == len(rows) - 1


def test_signs_differ_in_shape_and_not_in_colour_alone() -> None:
    shapes = {
        verdict: tuple(type(shape).__name__ for shape in mark(verdict, 0, 0, 4))
        for verdict in get_args(Verdict)
    }
    assert len(set(shapes.values())) == len(get_args(Verdict))


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_verdicts_can_be_read_on_white(verdict: Verdict) -> None:
    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    color = VERDICTS[verdict]
    parts = zip((0.2126, 0.7152, 0.0722), color.rgb(), strict=True)
    luminance = sum(weight * linear(part) for weight, part in parts)
    assert 1.05 / (luminance + 0.05) >= 4.5  # WCAG 2, contrast of text


@given(st.text())
def test_every_letter_has_a_font(text: str) -> None:
    parts = list(runs(text))
    assert len("".join(part for _, part in parts)) == len(text)
    for font, part in parts:
        if font == "Helvetica":
            part.encode("cp1252")
        assert all(ord(letter) < 0x10000 for letter in part)


@given(st.text(max_size=200), st.floats(20, 200))
def test_a_long_name_is_cut_to_fit(name: str, width: float) -> None:
    assert text_width(fit(name, width, 8), 8) <= width


def test_a_tag_is_as_wide_as_its_text() -> None:
    assert tag("达标", "met").width > text_width("达标", 8.5)
