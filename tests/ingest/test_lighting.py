# SPDX-License-Identifier: Apache-2.0
"""Lighting: programmes, due time, holds, rates; and every order of delivery gives one number."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from astral import Observer
from astral.sun import elevation
from hypothesis import given
from hypothesis import strategies as st

from ingest.indicators import lighting
from ingest.indicators.rate import time_rate

CHENGDU = lighting.Place(30.6, 104.0, "Asia/Shanghai")
CST = timezone(timedelta(hours=8))
HOUR = 3_600 * 10**6
NIGHT = date(2026, 11, 20)


def us(text: str) -> int:
    return lighting.to_us(datetime.fromisoformat(text))


def due(
    programme: str, place: lighting.Place = CHENGDU, night: date = NIGHT
) -> tuple[lighting.Span, ...]:
    return lighting.due(lighting.parse_programme(programme), place, night)


@pytest.mark.parametrize(
    ("programme", "spans"),
    [
        pytest.param(
            "always", [("2026-11-20T12:00+08:00", "2026-11-21T12:00+08:00")], id="underpass"
        ),
        pytest.param(
            "18:00-06:30", [("2026-11-20T18:00+08:00", "2026-11-21T06:30+08:00")], id="clock"
        ),
        pytest.param(
            "10:00-14:00",
            [
                ("2026-11-20T12:00+08:00", "2026-11-20T14:00+08:00"),
                ("2026-11-21T10:00+08:00", "2026-11-21T12:00+08:00"),
            ],
            id="over-noon",
        ),
    ],
)
def test_clock_programmes_are_due_at_their_local_times(
    programme: str, spans: list[tuple[str, str]]
) -> None:
    assert due(programme) == tuple((us(start), us(end)) for start, end in spans)


def test_sun_programme_is_due_from_sunset_to_sunrise_with_its_offsets() -> None:
    ((dusk, dawn),) = due("sun")
    observer = Observer(CHENGDU.latitude, CHENGDU.longitude)
    for instant in (dusk, dawn):
        # The sun's upper edge, lifted by refraction, stands on the horizon.
        assert elevation(observer, lighting.from_us(instant)) == pytest.approx(-0.3, abs=0.6)
    assert lighting.from_us(dusk).astimezone(CST).date() == NIGHT
    assert 13 * HOUR < dawn - dusk < 14 * HOUR
    assert due("sun+15-10") == ((dusk + 15 * 60 * 10**6, dawn - 10 * 60 * 10**6),)


def test_night_is_as_long_as_local_clocks_say() -> None:
    berlin = lighting.Place(52.5, 13.4, "Europe/Berlin")
    assert lighting.length(due("always", berlin, date(2026, 10, 24))) == 25 * HOUR
    assert lighting.length(due("always", berlin, date(2026, 3, 28))) == 23 * HOUR


def test_polar_summer_has_nothing_due_and_polar_winter_the_whole_night() -> None:
    tromso = lighting.Place(69.65, 18.96, "Europe/Oslo")
    assert due("sun", tromso, date(2026, 6, 21)) == ()
    assert lighting.length(due("sun", tromso, date(2026, 12, 21))) == 24 * HOUR


@pytest.mark.parametrize("text", ["", "sunny", "sun+15", "25:00-06:00", "18:00", "sun+9999-1"])
def test_unknown_programme_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a lamp programme"):
        lighting.parse_programme(text)


@pytest.mark.parametrize(
    ("at", "night"),
    [
        ("2026-11-20T11:59:59+08:00", date(2026, 11, 19)),
        ("2026-11-20T12:00:00+08:00", date(2026, 11, 20)),
        ("2026-12-31T23:59:59+08:00", date(2026, 12, 31)),
        ("2027-01-01T00:00:00+08:00", date(2026, 12, 31)),
    ],
)
def test_a_night_is_named_by_the_date_of_its_dusk(at: str, night: date) -> None:
    assert lighting.night_of(us(at), "Asia/Shanghai") == night


@pytest.mark.parametrize(
    ("lit", "power_w", "rated_w", "says"),
    [
        (True, None, None, True),
        (False, 90.0, 100.0, False),
        (None, 20.0, 100.0, True),
        (None, 19.9, 100.0, False),
        (None, 50.0, None, None),
        (None, None, 100.0, None),
    ],
)
def test_what_a_reading_says_of_light(
    lit: bool | None, power_w: float | None, rated_w: float | None, says: bool | None
) -> None:
    assert lighting.is_lit(lit, power_w, rated_w) is says


spans = st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)).map(
    lambda pair: (min(pair), max(pair) + 1)
)
points = st.lists(st.tuples(st.integers(-100, 1_100), st.booleans()), max_size=30)


def by_the_tick(
    due_spans: tuple[lighting.Span, ...], readings: list[tuple[int, bool]], silence: int
) -> tuple[int, int]:
    """Ask at every tick what is known: slow, and shares nothing with the product."""
    lit = dark = 0
    last = max((at for at, _ in readings), default=0)
    for tick in range(-200, 1_300):
        if tick >= last or not any(start <= tick < end for start, end in due_spans):
            continue
        heard = [reading for reading in readings if reading[0] <= tick]
        if not heard:
            continue
        at = max(at for at, _ in heard)
        if tick < at + silence:
            if any(shines for then, shines in heard if then == at):
                lit += 1
            else:
                dark += 1
    return lit, dark


@given(spans, spans, points, st.integers(1, 300))
def test_settled_time_equals_asking_at_every_tick(
    span: lighting.Span, removed: lighting.Span, readings: list[tuple[int, bool]], silence: int
) -> None:
    due_spans = lighting.subtract([span], [removed])
    assert lighting.settle(due_spans, sorted(readings), silence) == by_the_tick(
        due_spans, readings, silence
    )


@pytest.mark.parametrize(
    ("lit", "dark", "whole", "verdict"),
    [
        pytest.param(97, 3, 100, "met", id="exactly-the-target"),
        pytest.param(96, 4, 100, "not_met", id="below-with-all-known"),
        pytest.param(96, 0, 100, "undetermined", id="unknown-may-be-lit"),
        pytest.param(97, 0, 100, "met", id="even-if-unknown-is-dark"),
        pytest.param(0, 0, 100, "undetermined", id="nothing-known"),
    ],
)
def test_verdict_is_met_only_where_the_unknown_cannot_change_it(
    lit: int, dark: int, whole: int, verdict: str
) -> None:
    assert time_rate(lit, dark, whole, 0.97).verdict == verdict


def test_no_due_time_has_no_rate() -> None:
    rate = time_rate(0, 0, 0, 0.97)
    assert (rate.value, rate.lower, rate.coverage) == (None, None, None)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_bounds_bracket_the_value(lit: int, dark: int, unknown: int) -> None:
    rate = time_rate(lit, dark, lit + dark + unknown, 0.97)
    if rate.value is not None:
        assert rate.lower is not None
        assert rate.upper is not None
        assert rate.lower <= rate.value + 1e-12
        assert rate.value <= rate.upper + 1e-12


def test_parts_beyond_the_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="not parts"):
        time_rate(60, 50, 100, 0.97)


def test_instants_survive_the_way_to_microseconds_and_back() -> None:
    at = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)
    assert lighting.from_us(lighting.to_us(at)) == at
    assert lighting.to_us(at + timedelta(microseconds=1)) == lighting.to_us(at) + 1
