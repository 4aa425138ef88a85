# SPDX-License-Identifier: Apache-2.0
"""A community's days: which run, which are restated by what comes late, what each comes to.

The number is the same however often and whenever it is computed (invariant 5); `verify` proves it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final

import psycopg

from ingest.domains import DOMAINS, Outcome, Scene
from ingest.indicators.duration import Duration
from ingest.indicators.lighting_nights import RoadNight
from ingest.indicators.spans import from_us, to_us
from ingest.indicators.tally import Key, Tally
from ingest.store import area_days, community_days, device_durations, road_nights
from ingest.store.community_days import DayKey
from ingest.store.devices import Device, Registry, load_registry

_US: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)
_HOUR: Final = timedelta(hours=1)
_HOUR_US: Final = _HOUR // _US
_EPOCH: Final = from_us(0)
# Later than any day: all of it has come.
FOR_EVER_US: Final = 2**62
# What was seen this lately needs no mark: its day, even if it ended since, is still to be computed
# for good (`community_days.FINAL_AFTER`).
LATELY: Final = timedelta(minutes=5)


class Places:
    """The registry by community: who stands there, or ever stood there."""

    def __init__(self, registry: Registry) -> None:
        """Index a registry."""
        self.revision = registry.revision
        self._devices: defaultdict[str, list[Device]] = defaultdict(list)
        self.zones: dict[str, str] = {}
        for device in registry.devices.values():
            self.zones[device.community] = device.place.time_zone
            for community in {device.community, *(then.community for _, then in device.history)}:
                self._devices[community].append(device)

    def of(self, community: str) -> Sequence[Device]:
        """Return the devices that stand in a community, or stood there once, as they are now."""
        return self._devices.get(community, ())

    def running(self, now_us: int) -> dict[DayKey, datetime]:
        """Return the days that run now, of every community with devices, and when each ends."""
        days: dict[DayKey, datetime] = {}
        for community, zone in self.zones.items():
            kinds = {device.kind for device in self._devices[community]}
            for domain in DOMAINS.values():
                if not domain.kinds or not kinds.isdisjoint(domain.kinds):
                    day = domain.day_of(now_us, zone)
                    days[DayKey(domain.name, day, community)] = from_us(domain.span(day, zone)[1])
        return days


def days_over(known: Iterable[tuple[Device, datetime]], now: datetime) -> dict[DayKey, datetime]:
    """Return the days that are over and in which something speaks, with when they ended.

    What is stored for them now is late: it restates their numbers.

    Args:
        known: Devices, each with an instant something is known of it for.
        now: Receipt time.
    """
    lately = now - LATELY
    # A backlog tells of the same few hours again and again: dates are reckoned once for each.
    heard: dict[tuple[object, ...], tuple[Device, datetime, datetime]] = {}
    for device, at in known:
        if at > lately:  # the common case
            continue
        group = (
            device.community,
            device.kind,
            device.max_silence,
            device.place.time_zone,
            device.id if device.history else None,  # it may have stood elsewhere
            (at - _EPOCH) // _HOUR,
        )
        among = heard.get(group)
        if among is None:
            heard[group] = (device, at, at)
        elif not among[1] <= at <= among[2]:
            heard[group] = (device, min(among[1], at), max(among[2], at))
    found: dict[DayKey, datetime] = {}
    now_us = to_us(now)
    for device, first, last in heard.values():
        zone = device.place.time_zone
        silence_us = device.max_silence // _US
        for domain in DOMAINS.values():
            if device.kind not in domain.kinds:
                continue
            reach_us = max(domain.reach_us, silence_us)
            day, end_day = _days_between(domain.name, zone, to_us(first), to_us(last) + reach_us)
            while day <= end_day and (end := domain.span(day, zone)[1]) <= now_us:
                found[DayKey(domain.name, day, device.at(end - 1).community)] = from_us(end)
                day += _DAY
    return found


def _days_between(name: str, zone: str, first_us: int, last_us: int) -> tuple[date, date]:
    """Return the days that two instants belong to, the later one no earlier than the other."""
    hour, later = first_us // _HOUR_US, last_us // _HOUR_US
    first, last = _days_of_hour(name, zone, hour), _days_of_hour(name, zone, later)
    day_of = DOMAINS[name].day_of
    return (
        first[0] if first[0] == first[1] else day_of(first_us, zone),
        last[0] if last[0] == last[1] else day_of(last_us, zone),
    )


@lru_cache(maxsize=10_000)
def _days_of_hour(name: str, zone: str, hour: int) -> tuple[date, date]:
    """Return the days that the first and the last microsecond of an hour since 1970 belong to."""
    day_of = DOMAINS[name].day_of
    return day_of(hour * _HOUR_US, zone), day_of((hour + 1) * _HOUR_US - 1, zone)


def compute(conn: psycopg.Connection, places: Places, day: DayKey, until_us: int) -> Outcome:
    """Compute a community's day from raw readings and the registry's history.

    Args:
        conn: For reading only.
        places: The registry, with its history.
        day: Which.
        until_us: What comes later has not come yet. Before the day begins nothing can be said.
    """
    domain = DOMAINS[day.domain]
    there: list[Device] = []
    whole = None if domain.kinds else domain.span(day.day, _zone(conn, day.community))
    for current in places.of(day.community):
        end = domain.span(day.day, current.place.time_zone)[1]
        device = current.at(min(end, until_us) - 1)
        is_known = min(device.registered_us, device.in_service_from_us) < end
        if device.community == day.community and device.kind in domain.kinds and is_known:
            there.append(device)
            whole = whole or domain.span(day.day, device.place.time_zone)
    if whole is None or until_us <= whole[0]:
        return Outcome()
    return domain.compute(Scene(conn, day.community, there, whole, min(until_us, whole[1])))


def _zone(conn: psycopg.Connection, community: str) -> str:
    row = conn.execute("SELECT time_zone FROM area WHERE area = %s", (community,)).fetchone()
    assert row is not None, "a day's community is an area"
    return row[0]


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored number that a recomputation does not give.

    Attributes:
        when: Its day, or what it is a sum over.
        of: Which number.
    """

    when: str
    of: str
    stored: Tally | Duration | RoadNight | None
    computed: Tally | Duration | RoadNight | None

    def __str__(self) -> str:
        return (
            f"{self.when} {self.of}: stored {_show(self.stored)}, computed {_show(self.computed)}"
        )


def verify(
    conn: psycopg.Connection, first: date, end: date, progress: Callable[[int, int], None]
) -> tuple[int, list[Difference]]:
    """Compute every final day in ``[first, end)`` again from raw readings, and all sums from days.

    Days that are marked are left out: that they differ is known, and being mended.

    Returns:
        How many numbers were compared, and those that differ.
    """
    places = Places(load_registry(conn))
    days = community_days.known(conn, first, end)
    compared = 0
    differences: list[Difference] = []
    for done, day in enumerate(days, start=1):
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            computed = _named(compute(conn, places, day, FOR_EVER_US))
            stored = _named(_stored(conn, day))
        for name in sorted(stored.keys() | computed.keys()):
            compared += 1
            if stored.get(name) != computed.get(name):
                one = Difference(f"{day.day}", name, stored.get(name), computed.get(name))
                differences.append(one)
        progress(done, len(days))
    count, wrong = area_days.verify_sums(conn, first, end)
    differences += [Difference(when, _name(key), *both) for when, key, *both in wrong]
    return compared + count, differences


def _stored(conn: psycopg.Connection, day: DayKey) -> Outcome:
    """Return a day as it is stored."""
    indicators = [one.id for one in DOMAINS[day.domain].indicators]
    return Outcome(
        {row.key: row.tally for row in area_days.load(conn, indicators, day.day, day.community)},
        device_durations.load(conn, indicators, day),
        road_nights.load(conn, day) if day.domain == "lighting" else (),
    )


def _named(outcome: Outcome) -> dict[str, Tally | Duration | RoadNight]:
    """Return everything of a day that says something, by what it is of."""
    found: dict[str, Tally | Duration | RoadNight] = {}
    for key, tally in outcome.tallies.items():
        if tally != Tally():
            found[_name(key)] = tally
    for one in outcome.durations:
        name = f"{one.indicator} in {one.area} of device {one.device_id} at {from_us(one.at_us)}"
        found[name] = one
    return found | {f"road {road.road}": road for road in outcome.roads}


def _name(key: Key) -> str:
    kind = f" {key.kind}" if key.kind else ""
    return f"{key.indicator}{kind} in {key.area}"


def _show(one: Tally | Duration | RoadNight | None) -> str:
    match one:
        case None:
            return "nothing"
        case Tally():
            excluded = "".join(f" {reason}={amount}" for reason, amount in one.excluded.items())
            return f"good={one.good} bad={one.bad} total={one.total} n={one.subjects}{excluded}"
        case Duration():
            return f"took_us={one.took_us} finished={one.finished}"
        case RoadNight():
            return f"lamps={one.lamps} lit={one.lit} dark={one.dark} {one.verdict or 'no rule'}"
