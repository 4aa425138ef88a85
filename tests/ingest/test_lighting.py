# SPDX-License-Identifier: Apache-2.0
"""Lighting: programmes, due time, holds, rates; and every order of delivery gives one number."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from astral import Observer
from astral.sun import elevation
from hypothesis import given
from hypothesis import strategies as st

from ingest.indicators import lighting, spans
from ingest.indicators.definition import Target
from ingest.indicators.rate import share
from ingest.indicators.tally import Tally

CHENGDU = lighting.Place(30.6, 104.0, "Asia/Shanghai")
CST = timezone(timedelta(hours=8))
TARGET = Target(0.97, "R0")
HOUR = 3_600 * 10**6
NIGHT = date(2026, 11, 20)


def us(text: str) -> int:
    return spans.to_us(datetime.fromisoformat(text))


def due(
    programme: str, place: lighting.Place = CHENGDU, night: date = NIGHT
) -> tuple[spans.Span, ...]:
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
        assert elevation(observer, spans.from_us(instant)) == pytest.approx(-0.3, abs=0.6)
    assert spans.from_us(dusk).astimezone(CST).date() == NIGHT
    assert 13 * HOUR < dawn - dusk < 14 * HOUR
    assert due("sun+15-10") == ((dusk + 15 * 60 * 10**6, dawn - 10 * 60 * 10**6),)


def test_night_is_as_long_as_local_clocks_say() -> None:
    berlin = lighting.Place(52.5, 13.4, "Europe/Berlin")
    assert spans.length(due("always", berlin, date(2026, 10, 24))) == 25 * HOUR
    assert spans.length(due("always", berlin, date(2026, 3, 28))) == 23 * HOUR


def test_polar_summer_has_nothing_due_and_polar_winter_the_whole_night() -> None:
    tromso = lighting.Place(69.65, 18.96, "Europe/Oslo")
    assert due("sun", tromso, date(2026, 6, 21)) == ()
    assert spans.length(due("sun", tromso, date(2026, 12, 21))) == 24 * HOUR


@pytest.mark.parametrize(
    ("place", "night", "dusk", "dawn"),
    [
        pytest.param(
            CHENGDU,
            date(2026, 1, 23),
            "2026-01-23T18:31:45+08:00",
            "2026-01-24T07:59:42+08:00",
            id="sunrise-at-midnight-of-utc",
        ),
        pytest.param(
            lighting.Place(64.15, -21.94, "Atlantic/Reykjavik"),
            date(2026, 6, 17),
            "2026-06-18T00:01:04+00:00",
            "2026-06-18T02:56:33+00:00",
            id="sunset-after-midnight",
        ),
        pytest.param(
            lighting.Place(64.15, -21.94, "Atlantic/Reykjavik"),
            date(2026, 6, 16),
            "2026-06-17T00:00:09+00:00",
            "2026-06-17T02:57:00+00:00",
            id="no-sunset-on-its-date",
        ),
        pytest.param(
            lighting.Place(-13.83, -171.77, "Pacific/Apia"),
            date(2026, 11, 20),
            "2026-11-20T18:36:18+13:00",
            "2026-11-21T05:48:55+13:00",
            id="a-day-ahead-of-its-sun",
        ),
    ],
)
def test_a_night_begins_at_its_own_sunset(
    place: lighting.Place, night: date, dusk: str, dawn: str
) -> None:
    """Expected instants are when the sun's height, looked at by itself, crosses the horizon."""
    ((start, end),) = due("sun", place, night)
    assert start == pytest.approx(us(dusk), abs=3 * 10**6)
    assert end == pytest.approx(us(dawn), abs=3 * 10**6)


@pytest.mark.parametrize("latitude", [90.0, -90.0])
def test_at_a_pole_the_night_is_half_the_year(latitude: float) -> None:
    pole = lighting.Place(latitude, 0.0, "UTC")
    nights = [date(2026, 1, 1) + timedelta(days=day) for day in range(365)]
    hours = [spans.length(due("sun", pole, night)) // HOUR for night in nights]
    assert 170 < hours.count(24) < 190
    assert 170 < hours.count(0) < 195


@pytest.mark.parametrize(
    "text",
    [
        "", "sunny", "sun+15", "25:00-06:00", "18:00", "sun+9999-1", "sun@", "sun@0", "sun@19",
        "sun@101", "sun@050", "sun,23:00@50", "sun@100,@50", "sun@100,24:00@50", "sun@100,23:00",
        "sun@100,23:00@50,23:00@60", "sun@100@50", "23:00@50", "18:00-06:00,@50", "sun@100,",
    ],
)  # fmt: skip
def test_unknown_programme_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a lamp programme"):
        lighting.parse_programme(text)


@pytest.mark.parametrize("schedule", ["sun", "sun+15-10", "always", "18:00-06:30"])
def test_a_dimmed_lamp_is_due_as_long_as_any(schedule: str) -> None:
    programme = lighting.parse_programme(f"{schedule}@100,23:00@50,05:00@80")
    assert programme.levels == (
        lighting.Dimming(None, 100),
        lighting.Dimming(time(23), 50),
        lighting.Dimming(time(5), 80),
    )
    assert lighting.parse_programme(schedule).levels == ()
    assert lighting.due(programme, CHENGDU, NIGHT) == due(schedule)


@pytest.mark.parametrize(
    ("text", "place", "never"),
    [
        ("sun", CHENGDU, False),
        ("always", CHENGDU, False),
        ("18:00-18:01", CHENGDU, False),
        ("sun+720-720", CHENGDU, True),
        ("sun+430-430", CHENGDU, True),  # the longest night has 14 hours
        ("sun+410-410", CHENGDU, False),
        ("sun+410-410", lighting.Place(-30.6, 104.0, "Asia/Shanghai"), False),
        ("sun+720-720", lighting.Place(69.65, 18.96, "Europe/Oslo"), False),  # in polar night
    ],
)
def test_a_programme_that_never_lights_is_told(
    text: str, place: lighting.Place, never: bool
) -> None:
    assert lighting.never_lights(lighting.parse_programme(text), place) is never


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


some_span = st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)).map(
    lambda pair: (min(pair), max(pair) + 1)
)
points = st.lists(st.tuples(st.integers(-100, 1_100), st.booleans()), max_size=30)


def by_the_tick(
    due_spans: tuple[spans.Span, ...], readings: list[tuple[int, bool]], silence: int
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


@given(some_span, some_span, points, st.integers(1, 300))
def test_settled_time_equals_asking_at_every_tick(
    span: spans.Span, removed: spans.Span, readings: list[tuple[int, bool]], silence: int
) -> None:
    due_spans = spans.subtract([span], [removed])
    assert spans.settle(due_spans, sorted(readings), silence) == by_the_tick(
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
    assert share(Tally(lit, dark, whole), TARGET).verdict == verdict


def test_no_due_time_has_no_rate() -> None:
    rate = share(Tally(), TARGET)
    assert (rate.value, rate.lower, rate.coverage) == (None, None, None)


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9))
def test_bounds_bracket_the_value(lit: int, dark: int, unknown: int) -> None:
    rate = share(Tally(lit, dark, lit + dark + unknown), TARGET)
    if rate.value is not None:
        assert rate.lower is not None
        assert rate.upper is not None
        assert rate.lower <= rate.value + 1e-12
        assert rate.value <= rate.upper + 1e-12


def test_parts_beyond_the_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="not parts"):
        share(Tally(60, 50, 100), TARGET)


def test_instants_survive_the_way_to_microseconds_and_back() -> None:
    at = datetime(2026, 11, 21, 10, 0, 0, 123456, tzinfo=UTC)
    assert spans.from_us(spans.to_us(at)) == at
    assert spans.to_us(at + timedelta(microseconds=1)) == spans.to_us(at) + 1
