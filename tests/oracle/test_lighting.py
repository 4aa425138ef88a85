# SPDX-License-Identifier: Apache-2.0
"""The product's lighting numbers against a second, slow computation: equal, to the microsecond."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.indicators import lighting, lighting_nights
from ingest.indicators.lighting_nights import LampDay, LampNight, LampReading, energy_wh
from ingest.indicators.spans import runs
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally, add_up
from tests.oracle import lighting as oracle
from tests.oracle.lighting import HOUR, MINUTE, Found, Given, Row

AREA = "jinjiang-01"
PLACES = {
    "chengdu": lighting.Place(30.66, 104.06, "Asia/Shanghai"),
    "kashgar": lighting.Place(39.47, 75.99, "Asia/Shanghai"),
    "berlin": lighting.Place(52.52, 13.40, "Europe/Berlin"),  # 23 and 25 hours
    "havana": lighting.Place(23.1, -82.4, "America/Havana"),  # changes at midnight
    "lord-howe": lighting.Place(-31.55, 159.08, "Australia/Lord_Howe"),  # by half an hour
    "kathmandu": lighting.Place(27.7, 85.3, "Asia/Kathmandu"),
    "apia": lighting.Place(-13.83, -171.77, "Pacific/Apia"),  # a day ahead of its sun
    "tromso": lighting.Place(69.65, 18.96, "Europe/Oslo"),  # polar night and day
    "reykjavik": lighting.Place(64.15, -21.94, "Atlantic/Reykjavik"),  # sunset after midnight
}
NIGHTS = (
    date(2026, 11, 20),
    date(2026, 12, 31),  # the year ends in it
    date(2028, 2, 28),  # the next day is the 29th
    date(2026, 3, 28),  # Berlin springs forward
    date(2026, 10, 24),  # Berlin falls back
    date(2026, 3, 7),  # Havana springs forward
    date(2026, 10, 31),  # Havana falls back
    date(2026, 4, 4),  # Lord Howe falls back
    date(2026, 10, 3),  # Lord Howe springs forward
    date(2026, 6, 21),
    date(2026, 12, 21),
)
PROGRAMMES = (
    "always",
    "18:00-06:30",
    "16:45-02:30",  # may end in an hour that clocks leave out, or show twice
    "00:00-12:00",
    "12:00-00:15",
    "10:00-14:00",  # over noon
    "sun",
    "sun+15-10",
    "sun+180-0",
    "sun+720-720",  # never
    "sun@100,23:00@50",
)
# How long a night takes to make up or to work out says nothing of what it comes to.
PATIENT = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SILENCES = (7 * MINUTE, 30 * MINUTE, 90 * MINUTE + 1, 30 * HOUR)


@dataclass(frozen=True)
class World:
    """One lamp over some nights: what a programme says of each, and all its rows."""

    place: lighting.Place
    nights: tuple[tuple[date, str], ...]  # changes of programme take effect from night to night
    in_service: tuple[oracle.Span, ...]
    maintenance: tuple[oracle.Span, ...]
    rows: tuple[Row, ...]
    rated_w: float | None
    silence: int
    until: int
    life: str

    def due(self, day: date, programme: str) -> tuple[oracle.Span, ...]:
        """By the oracle's clock; of the sun by the product's, which is proven below."""
        if not programme.startswith("sun"):
            return oracle.clock_due(programme, day, self.place.time_zone)
        return lighting.due(lighting.parse_programme(programme), self.place, day)

    def given(self, day: date, programme: str) -> Given:
        whole = oracle.night(day, self.place.time_zone)
        return Given(
            whole=whole,
            due=self.due(day, programme),
            in_service=_within(self.in_service, whole),
            maintenance=self.maintenance,
            rows=self.rows,
            rated_w=self.rated_w,
            silence=self.silence,
            until=self.until,
            life=self.life,
        )

    def lamp(self, day: date, programme: str) -> LampDay:
        whole = lighting.night_span(day, self.place.time_zone)
        subject = Subject(
            device_id=7,
            kind="lamp",
            area=AREA,
            in_service=_within(self.in_service, whole),
            maintenance=self.maintenance,
            whole=whole,
            max_silence_us=self.silence,
        )
        readings = [LampReading(row.at, row.lit, row.power_w, row.energy_kwh) for row in self.rows]
        words = [
            (row.at, lighting.is_lit(row.lit, row.power_w, self.rated_w))
            for row in self.rows
            if row.at < min(self.until, whole[1])
        ]
        return LampDay(
            subject=subject,
            due=lighting.due(lighting.parse_programme(programme), self.place, day),
            light=runs(words, self.silence),
            energy_wh=energy_wh(readings, subject.until(self.until), self.rated_w),
            charges=[(row.at, row.battery_pct) for row in self.rows if row.battery_pct is not None],
            life=self.life,
        )


def _within(spans: Sequence[oracle.Span], whole: oracle.Span) -> tuple[oracle.Span, ...]:
    cut = ((max(start, whole[0]), min(end, whole[1])) for start, end in spans)
    return tuple((start, end) for start, end in cut if start < end)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    place = PLACES[draw(st.sampled_from(sorted(PLACES)))]
    first = draw(st.sampled_from(NIGHTS))
    programmes = draw(st.lists(st.sampled_from(PROGRAMMES), min_size=1, max_size=3))
    nights = tuple((first + timedelta(days=n), text) for n, text in enumerate(programmes))
    start = oracle.night(first, place.time_zone)[0]
    end = oracle.night(nights[-1][0], place.time_zone)[1]
    silence = draw(st.sampled_from(SILENCES))

    # Instants near those at which something happens, to the microsecond; and anywhere else.
    edges = [
        start, end, *(end - silence, start - silence, start - 12 * HOUR),
        *(
            instant
            for day, text in nights
            for span in lighting.due(lighting.parse_programme(text), place, day)
            for instant in span
        ),
    ]  # fmt: skip
    moves = (0, 0, -1, 1, MINUTE, -MINUTE, silence, -silence, -silence - 1)
    near = st.tuples(st.sampled_from(edges), st.sampled_from(moves)).map(sum)
    instant = st.one_of(near, st.integers(start - 14 * HOUR, end + 2 * HOUR))
    span = st.tuples(instant, instant).map(lambda ends: (min(ends), max(ends) + 1))
    service_from = draw(st.one_of(st.just(start - 1), instant))
    service = draw(
        st.one_of(
            st.just(((service_from, end + HOUR),)),
            span.map(lambda gap: ((start - 1, gap[0]), (gap[1], max(gap[1] + 1, end)))),
        )
    )
    rated = draw(st.sampled_from((None, 60.0, 100.0)))
    rows = draw(st.lists(_rows(instant), max_size=15))
    for begin, period, word in draw(st.lists(_runs(instant), max_size=2)):
        rows += [replace(word, at=begin + n * period) for n in range(12)]
    # A burst of switches: cycling.
    for begin, period in draw(
        st.lists(
            st.tuples(instant, st.sampled_from((MINUTE, 200 * 10**6 - 1, 200 * 10**6))), max_size=1
        )
    ):
        rows += [Row(begin + n * period, lit=n % 2 == 0) for n in range(6)]
    rows += draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []  # redelivered
    draw(st.randoms(use_true_random=False)).shuffle(rows)
    return World(
        place,
        nights,
        tuple(one for one in service if one[0] < one[1]),
        tuple(draw(st.lists(span, max_size=3))),
        tuple(rows),
        rated,
        silence,
        draw(st.one_of(st.just(end), st.just(end + HOUR), instant)),
        draw(st.sampled_from(("in_service",) * 6 + ("maintenance", "installed", "retired"))),
    )


def _rows(instant: st.SearchStrategy[int]) -> st.SearchStrategy[Row]:
    return st.builds(
        Row,
        instant,
        lit=st.sampled_from((None, True, False)),
        power_w=st.sampled_from((None, None, 0.0, 19.9, 20.0, 98.125, 12.5)),
        energy_kwh=st.sampled_from((None, None, 0.0, 1.25, 1.5, 2.001, 900.0, 901.0)),
    )


def _runs(instant: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int, Row]]:
    return st.tuples(
        instant,
        st.sampled_from((MINUTE, 10 * MINUTE, 30 * MINUTE)),
        st.builds(
            Row,
            st.just(0),
            lit=st.sampled_from((True, False)),
            power_w=st.sampled_from((None, 33.333)),
        ),
    )


@PATIENT
@given(worlds())
def test_nights_equal_what_asking_piece_by_piece_finds(world: World) -> None:
    product: list[LampNight] = []
    expected: list[tuple[Key, Tally]] = []
    for day, programme in world.nights:
        found = oracle.work_out(world.given(day, programme))
        night = lighting_nights.night_of(world.lamp(day, programme), world.until)
        assert (night.due_us, night.lit_us, night.dark_us) == (found.due, found.lit, found.dark)
        assert night.excluded == _nonzero(
            maintenance=found.due_in_maintenance, not_in_service=found.due_out_of_service
        )
        product.append(night)
        expected += _night_tallies(found)
    assert lighting_nights.tally_nights(product) == add_up(expected)


def _night_tallies(found: Found) -> list[tuple[Key, Tally]]:
    excluded = _nonzero(
        maintenance=found.due_in_maintenance, not_in_service=found.due_out_of_service
    )
    uptime, lit = Key("lighting-uptime", AREA), Key("lamps-lit", AREA)
    if found.due:
        seen = found.lit + found.dark
        assessable = Fraction(seen, found.due) >= Fraction(90, 100)
        shone = assessable and Fraction(found.lit, seen) >= Fraction(95, 100)
        return [
            (uptime, Tally(found.lit, found.dark, found.due, 1, excluded)),
            (lit, Tally(int(shone), int(assessable and not shone), 1, 1)),
        ]
    if not excluded:
        return []
    return [
        (uptime, Tally(excluded=excluded)),
        (lit, Tally(excluded={max(excluded, key=lambda why: excluded[why]): 1})),
    ]


def _nonzero(**parts: int) -> dict[str, int]:
    return {name: part for name, part in parts.items() if part}


@PATIENT
@given(worlds(), st.data())
def test_autonomy_equals_what_asking_piece_by_piece_finds(
    world: World, data: st.DataObject
) -> None:
    """A battery that falls through the night, with gaps, rises, and two words at one instant."""
    day, programme = world.nights[0]
    start, end = oracle.night(day, world.place.time_zone)
    world = replace(world, silence=data.draw(st.sampled_from((30 * MINUTE, 90 * MINUTE + 1))))
    begin = data.draw(st.integers(start - 2 * HOUR, start + 12 * HOUR))
    # Below silence, at it, and beyond.
    period = data.draw(st.sampled_from((world.silence - 1, world.silence, world.silence + 1)))
    per_step = data.draw(st.sampled_from((0.3, 1.1, 2.345, 0.005)))
    rows = [
        Row(begin + n * period, lit=True, battery_pct=round(max(0.0, 99.5 - n * per_step), 3))
        for n in range((end - begin) // period + 3)
    ]
    for place in data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=4)):
        index = min(place, len(rows) - 1)
        changed = data.draw(
            st.sampled_from(
                (
                    Row(rows[index].at, lit=False),
                    Row(rows[index].at, battery_pct=50.0),
                    Row(rows[index].at + 1, lit=True, battery_pct=99.999),
                )
            )
        )
        rows[index : index + data.draw(st.integers(0, 3))] = [changed]
    random.Random(1).shuffle(rows)
    world = replace(world, rows=(*rows, *world.rows[:3]))

    found = lighting_nights.autonomies([world.lamp(day, programme)], world.until)

    expected = oracle.autonomy(world.given(day, programme))
    assert [one.took_us for one in found] == ([] if expected is None else [expected])


@PATIENT
@given(worlds())
def test_days_equal_what_asking_piece_by_piece_finds(world: World) -> None:
    for day, programme in world.nights:
        found = oracle.work_out(world.given(day, programme))
        tallies = lighting_nights.tally_days([world.lamp(day, programme)], world.until)
        assert tallies == _day_tallies(found)


def _day_tallies(found: Found) -> dict[Key, Tally]:
    tallies: dict[Key, Tally] = {}

    def tell(indicator: str, amount: int, heard: bool) -> None:
        tallies[Key(indicator, AREA)] = Tally(good=amount, total=amount, subjects=int(heard))

    if found.counted:
        tell("day-burners", int(found.lit_outside >= 15 * MINUTE), found.seen_outside > 0)
        tell("lamps-cycling", int(found.cycling), found.seen_counted > 0)
    elif found.in_maintenance or found.out_of_service:
        why = "maintenance" if found.in_maintenance >= found.out_of_service else "not_in_service"
        for indicator in ("day-burners", "lamps-cycling"):
            tallies[Key(indicator, AREA)] = Tally(excluded={why: 1})
    if found.in_service:
        tell("lamp-energy", found.energy_wh or 0, found.energy_wh is not None)
        tell("lamp-burn", found.burning, found.seen_in_service > 0)
    return tallies


@PATIENT
@given(worlds(), st.randoms(use_true_random=False))
def test_order_and_redelivery_change_nothing(world: World, order: random.Random) -> None:
    rows = [*world.rows, *world.rows[: len(world.rows) // 2]]
    order.shuffle(rows)
    late = replace(world, rows=tuple(rows))
    for day, programme in world.nights:
        for count in (lighting_nights.tally_days, _uptime):
            assert count([late.lamp(day, programme)], world.until) == count(
                [world.lamp(day, programme)], world.until
            )


def _uptime(lamps: Sequence[LampDay], until: int) -> dict[Key, Tally]:
    return lighting_nights.tally_nights([lighting_nights.night_of(lamp, until) for lamp in lamps])


@PATIENT
@given(worlds())
def test_nights_of_one_lamp_add_up_to_its_readings(world: World) -> None:
    """Nothing is counted twice, and nothing lost, where one night becomes the next."""
    burn = Key("lamp-burn", AREA)
    parts = [
        lighting_nights.tally_days([world.lamp(day, programme)], world.until).get(burn, Tally())
        for day, programme in world.nights
    ]
    first, last = world.nights[0][0], world.nights[-1][0]
    whole = (
        oracle.night(first, world.place.time_zone)[0],
        oracle.night(last, world.place.time_zone)[1],
    )
    together = oracle.work_out(
        replace(
            world.given(*world.nights[0]), whole=whole, in_service=_within(world.in_service, whole)
        )
    )
    assert sum(part.good for part in parts) == together.burning


@given(
    st.sampled_from(sorted(PLACES)),
    st.dates(date(2024, 1, 1), date(2030, 12, 31)),
    st.sampled_from(((0, 0), (15, 10), (0, 90), (720, 720))),
)
@settings(PATIENT, max_examples=60)
def test_the_sun_is_down_when_watching_it_says_so(
    name: str, day: date, offsets: tuple[int, int]
) -> None:
    place = PLACES[name]
    after, before = offsets
    programme = lighting.parse_programme(f"sun+{after}-{before}")
    product = lighting.due(programme, place, day)
    watched = oracle.sun_due(place.latitude, place.longitude, place.time_zone, day, after, before)
    # Where the sun grazes the horizon seconds of height are minutes of time.
    apart_max = 2 * 10**6 if abs(place.latitude) < 60 else 20 * MINUTE
    assert _apart(product, watched) <= apart_max


def _apart(some: Sequence[oracle.Span], others: Sequence[oracle.Span]) -> int:
    """For how long only one of the two is due."""
    cuts = sorted({instant for spans in (some, others) for span in spans for instant in span})
    return sum(
        end - start
        for start, end in pairwise(cuts)
        if any(begin <= start < stop for begin, stop in some)
        != any(begin <= start < stop for begin, stop in others)
    )


@pytest.mark.parametrize("name", sorted(PLACES))
def test_every_night_of_a_year_is_as_long_as_the_one_before(name: str) -> None:
    """No night is left out: astral's own sunrise misses those when it passes midnight of UTC."""
    place = PLACES[name]
    plain = lighting.parse_programme("sun")
    lengths = [
        sum(end - start for start, end in lighting.due(plain, place, date(2026, 1, 1) + day))
        for day in (timedelta(days=n) for n in range(366))
    ]
    steps = [abs(after - before) for before, after in pairwise(lengths)]
    # Polar day and night begin and end abruptly; a clock's change moves noon through no dark.
    assert max(steps) <= (5 * MINUTE if abs(place.latitude) < 60 else 120 * MINUTE)
