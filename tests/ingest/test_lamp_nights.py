# SPDX-License-Identifier: Apache-2.0
"""What is added to lamp-nights piece by piece is what all readings settle at once."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ingest.indicators import lighting, spans
from ingest.lamp_nights import LampNights
from ingest.store.devices import Device
from ingest.store.lamp_nights import NightKey, open_night

START = datetime(2026, 11, 20, 3, tzinfo=UTC)  # 11:00 local time: the next night begins at noon
HOUR_US = 3_600 * 10**6


def lamp(programme: str, life: str = "in_service") -> Device:
    return Device(
        id=1,
        device="lamp-1",
        kind="lamp",
        gateway="gw-1",
        community="c01",
        area="c01",
        life=life,
        max_silence=timedelta(minutes=30),
        rated_power_w=100.0,
        programme=lighting.parse_programme(programme),
        place=lighting.Place(30.6, 104.0, "Asia/Shanghai"),
        in_service_from_us=spans.to_us(START - timedelta(days=2)),
    )


programmes = st.sampled_from(["always", "sun", "18:10-23:30", "11:30-12:30"])
steps = st.lists(
    st.tuples(st.integers(1, 45 * 60), st.booleans(), st.booleans()), min_size=2, max_size=80
)


@given(programmes, steps)
def test_pieces_come_to_the_whole(programme: str, taken: list[tuple[int, bool, bool]]) -> None:
    one, nights = lamp(programme), LampNights()
    silence_us = one.max_silence // timedelta(microseconds=1)
    readings: list[tuple[int, bool]] = []
    at_us = spans.to_us(START)
    for seconds, lit, _ in taken:
        at_us += seconds * 10**6
        readings.append((at_us, lit))
    found: Counter[tuple[date, str]] = Counter()
    opened: set[NightKey] = set()
    for ((start, lit), (end, _)), (_, _, fails) in zip(pairwise(readings), taken, strict=False):
        for fails_now in (True, False) if fails else (False,):
            nights.settle(one, start, lit, min(end, start + silence_us))
            if fails_now:
                nights.rollback()
        for (_, night), (lit_us, dark_us) in nights.settled.items():
            found[night, "lit"] += lit_us
            found[night, "dark"] += dark_us
        assert not opened & nights.opened.keys(), "a night is opened once"
        opened |= nights.opened.keys()
        assert nights.settled.keys() <= opened
        nights.commit()
    for night in {START.date(), START.date() - timedelta(days=1)} | {night for _, night in opened}:
        due = open_night(one, night).due
        assert (found[night, "lit"], found[night, "dark"]) == spans.settle(
            due, readings, silence_us
        )


def test_a_late_reading_marks_each_night_it_touches_while_it_holds() -> None:
    one, nights = lamp("always"), LampNights()
    noon_us = spans.to_us(START) + HOUR_US
    before, after = date(2026, 11, 19), date(2026, 11, 20)
    nights.mark(one, noon_us - HOUR_US)
    assert nights.dirty == {(one.id, before)}
    nights.mark(one, noon_us - HOUR_US // 4)
    assert nights.dirty == nights.opened.keys() == {(one.id, before), (one.id, after)}
    nights.rollback()
    assert (nights.dirty, nights.opened) == (set(), {})


def test_what_is_forgotten_is_opened_anew() -> None:
    one, nights = lamp("always"), LampNights()
    start_us = spans.to_us(START)
    nights.settle(one, start_us, True, start_us + 2 * HOUR_US)
    nights.commit()
    nights.forget(date(2026, 11, 20))
    nights.settle(one, start_us, True, start_us + 2 * HOUR_US)
    assert nights.opened.keys() == {(one.id, date(2026, 11, 19))}
    nights.rollback()
    nights.follow()
    nights.settle(one, start_us, True, start_us + 2 * HOUR_US)
    assert len(nights.opened) == 2


def test_until_when_light_is_due() -> None:
    nights, noon = LampNights(), START + timedelta(hours=1)
    at_us = spans.to_us(START)
    # Over noon it goes on in the next night.
    assert nights.is_due(lamp("always"), at_us) == (True, None)
    assert nights.end_of(lamp("always"), at_us) == noon
    nights.follow()
    half = timedelta(minutes=30)
    one = lamp("10:00-11:30")
    assert nights.is_due(one, at_us) == (True, START + half)
    assert nights.is_due(one, at_us - 2 * HOUR_US) == (False, START - 2 * half)
    assert nights.is_due(one, at_us + HOUR_US // 2) == (False, None)


def test_before_its_start_of_service_a_lamp_has_no_nights() -> None:
    one, nights = lamp("always", "installed"), LampNights()
    at_us = spans.to_us(START)
    nights.settle(one, at_us, True, at_us + HOUR_US)
    assert (nights.opened, nights.settled) == ({}, {})
    assert nights.is_due(one, at_us) == (False, None)
