# SPDX-License-Identifier: Apache-2.0
"""Which days something late restates, against a look at each reading by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.days import days_over
from ingest.domains import DOMAINS
from ingest.indicators import lighting, spans
from ingest.store.community_days import DayKey
from ingest.store.devices import Device

NOW = datetime(2026, 11, 20, 10, 7, 13, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# Of half an hour, with summer time that has just ended, and twelve hours from either.
ZONES = ("Asia/Shanghai", "Asia/Kolkata", "America/New_York", "Pacific/Auckland")


def device(number: int, kind: str, zone: str, silence_s: int) -> Device:
    return Device(
        id=number,
        device=f"{kind}-{number}",
        kind=kind,
        gateway="gw-1",
        community=f"{zone} {number % 2}",
        area="c",
        life="in_service",
        max_silence=timedelta(seconds=silence_s),
        rated_power_w=None,
        programme=lighting.parse_programme("always"),
        place=lighting.Place(30.6, 104.0, zone),
        in_service_from_us=0,
    )


def moved(one: Device) -> Device:
    """A device that stood elsewhere until five days ago."""
    until_us = spans.to_us(NOW - timedelta(days=5))
    return replace(one, history=((until_us, replace(one, community=f"{one.place.time_zone} 9")),))


devices = st.builds(
    device,
    st.integers(1, 4),
    st.sampled_from(["lamp", "bin", "gate", "alarm"]),
    st.sampled_from(ZONES),
    st.sampled_from([90, 1_800, 100_000]),
)


def edge(day: int, quarter: int, off: int) -> datetime:
    """Where a day begins somewhere, at each side of it."""
    return datetime(2026, 11, day, tzinfo=UTC) + quarter * timedelta(minutes=15) + off * MICROSECOND


instants = st.one_of(
    st.builds(edge, st.integers(1, 20), st.integers(0, 95), st.integers(-1, 1)),
    st.integers(-3_600, 30 * 86_400).map(lambda back_s: NOW - timedelta(seconds=back_s)),
)


def one_by_one(known: Iterable[tuple[Device, datetime]]) -> dict[DayKey, datetime]:
    found: dict[DayKey, datetime] = {}
    for device, at in known:
        if at > NOW - timedelta(minutes=5):
            continue
        zone = device.place.time_zone
        for domain in DOMAINS.values():
            if device.kind in domain.kinds:
                reach_us = max(domain.reach_us, device.max_silence // MICROSECOND)
                at_us = spans.to_us(at)
                day: date = domain.day_of(at_us, zone)
                while day <= domain.day_of(at_us + reach_us, zone):
                    end = domain.span(day, zone)[1]
                    if end <= spans.to_us(NOW):
                        key = DayKey(domain.name, day, device.at(end - 1).community)
                        found[key] = spans.from_us(end)
                    day += timedelta(days=1)
    return found


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.one_of(devices, devices.map(moved)), instants), max_size=20),
    st.lists(st.integers(0, 3_599_999_999), max_size=6),
)
def test_together_they_restate_what_each_restates_alone(
    known: list[tuple[Device, datetime]], later_us: list[int]
) -> None:
    # Some more within the hour after each, as in a backlog.
    known += [(one, at + us * MICROSECOND) for one, at in known[:3] for us in later_us]
    assert days_over(known, NOW) == one_by_one(known)


@pytest.mark.parametrize("zone", ZONES)
def test_what_is_seen_lately_restates_nothing(zone: str) -> None:
    lamp = device(1, "lamp", zone, 90)
    assert days_over([(lamp, NOW), (lamp, NOW - timedelta(minutes=4))], NOW) == {}


def test_instants_of_any_time_zone_count_as_what_they_are() -> None:
    lamp = device(1, "lamp", "Asia/Shanghai", 90)
    at = datetime(2026, 11, 18, 3, 59, 30, tzinfo=UTC)
    shown = at.astimezone(ZoneInfo("Asia/Kolkata"))
    assert days_over([(lamp, shown)], NOW) == one_by_one([(lamp, at)]) != {}
