# SPDX-License-Identifier: Apache-2.0
"""Indicators by community and day: computed from raw readings, again whenever these change.

A day is opened when it begins, computed now and then while it runs, and once more when it is over;
after that whoever stores something that belongs to it marks it (`ingest.store.community_days`).
The number is the same however often and whenever it is computed (invariant 5), so marks may be
generous, and a crash costs nothing but time.
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from ingest import metrics
from ingest.errors import Unavailable
from ingest.indicators import access, equipment, lighting, lighting_nights, refuse, security
from ingest.indicators.definition import Definition
from ingest.indicators.spans import Span, clip, day_of, day_span, from_us, to_us
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally
from ingest.kinds import KINDS
from ingest.store import area_days, community_days, connect, devices, driver_errors, incidents
from ingest.store.area_days import Status
from ingest.store.community_days import CommunityDay, DayKey
from ingest.store.devices import Device, Registry, load_registry

log = logging.getLogger(__name__)

_US: Final = timedelta(microseconds=1)
_IDLE_S: Final = 1.0
_RETRY_S: Final = 5.0
_OPEN_INTERVAL: Final = timedelta(seconds=60)
_AT_ONCE: Final = 20
_COUNTED: Final = frozenset({"in_service", "maintenance"})
# Later than any day: all of it has come.
FOR_EVER_US: Final = 2**62
# What runs is brought up to date this often, or less often where that would take more than this
# share of one processor.
RUNNING_INTERVAL: Final = timedelta(seconds=30)
RUNNING_SHARE: Final = 0.05
# All that is due takes no more than this share, however much it is.
SHARE: Final = 0.2
# What was seen this lately needs no mark: its day, even if it ended since, is still to be computed
# for good (`community_days.FINAL_AFTER`).
_LATELY: Final = timedelta(minutes=5)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Scene:
    """What a community's day is computed from: who counts, when, and the raw rows.

    Attributes:
        community: Where.
        devices: As they were at the day's end (or are now, while it runs); in this community.
        whole: The day.
        until_us: What comes later has not come yet.
    """

    conn: psycopg.Connection
    community: str
    devices: Sequence[Device]
    whole: Span
    until_us: int

    @cached_property
    def subjects(self) -> Sequence[Subject]:
        """Who is in service for some of the day, or in maintenance and not counted for that."""
        return [subject(device, self.whole) for device in self.devices if device.life in _COUNTED]

    def of(self, *kinds: str) -> list[Subject]:
        """Return the subjects of some classes."""
        return [one for one in self.subjects if one.kind in kinds]

    def rows(
        self, table: str, columns: LiteralString, subjects: Sequence[Subject], reach_us: int = 0
    ) -> Mapping[int, Sequence[Sequence[Any]]]:
        """Return raw rows ``(at_us, *columns)`` by device: of the day, and ``reach_us`` before."""
        found: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
        if not subjects:
            return found
        query = sql.SQL(
            "SELECT device_id, at, {} FROM {} WHERE device_id = ANY (%s) AND at >= %s AND at < %s"
        ).format(sql.SQL(columns), sql.Identifier(table))
        with self.conn.cursor(binary=True) as cursor:
            cursor.execute(
                query,
                (
                    [one.device_id for one in subjects],
                    from_us(self.whole[0] - reach_us),
                    from_us(self.whole[1]),
                ),
            )
            for device_id, at, *values in cursor:
                found[device_id].append((to_us(at), *values))
        return found


@dataclass(frozen=True, slots=True)
class Domain:
    """Indicators that are computed together.

    Attributes:
        kinds: The device classes they speak of; none where people speak.
        span: From a day (or the night that begins on it) and a time zone to its span.
        day_of: From an instant and a time zone to the day it belongs to.
    """

    name: str
    kinds: frozenset[str]
    indicators: Sequence[Definition]
    span: Callable[[date, str], Span]
    day_of: Callable[[int, str], date]
    compute: Callable[[Scene], dict[Key, Tally]]
    #: How far before a day its rows begin to speak in it, where holds do not reach further.
    reach_us: int = 0


def subject(device: Device, whole: Span) -> Subject:
    """Return what counts of a device's day."""
    return Subject(
        device.id,
        device.kind,
        device.area,
        clip([(device.in_service_from_us, whole[1])], whole),
        (whole,) if device.life == "maintenance" else device.maintenance,
        whole,
        device.max_silence // _US,
    )


def _reach(subjects: Iterable[Subject]) -> int:
    return max((one.max_silence_us for one in subjects), default=0)


def _equipment(scene: Scene) -> dict[Key, Tally]:
    readings: dict[int, list[equipment.Health]] = {}
    for kind in KINDS.values():
        subjects = scene.of(kind.kind)
        found = scene.rows(kind.readings.name, "fault IS NULL", subjects, _reach(subjects))
        for device_id, rows in found.items():
            readings[device_id] = [equipment.Health(at_us, healthy) for at_us, healthy in rows]
    return equipment.tally(scene.subjects, readings, scene.until_us)


def _lighting(scene: Scene) -> dict[Key, Tally]:
    subjects = scene.of("lamp")
    reach_us = lighting_nights.reach_us(_reach(subjects))
    found = scene.rows(KINDS["lamp"].readings.name, "lit, power_w, energy_kwh", subjects, reach_us)
    by_id = {device.id: device for device in scene.devices}
    lamps = [lamp_day(by_id[one.device_id], one, found.get(one.device_id, ())) for one in subjects]
    nights = [lighting_nights.night_of_readings(lamp, scene.until_us) for lamp in lamps]
    registered = [
        lighting_nights.Lamp(device.id, device.area, device.life)
        for device in scene.devices
        if device.kind == "lamp"
    ]
    return {
        **lighting_nights.tally_nights(nights),
        **lighting_nights.tally_installed(registered),
        **lighting_nights.tally_days(lamps, scene.until_us),
    }


def _security(scene: Scene) -> dict[Key, Tally]:
    come = (scene.whole[0], scene.until_us)
    return security.tally(
        incidents.cases(scene.conn, scene.community, come),
        incidents.alarms(scene.conn, scene.community, come),
    )


def lamp_day(
    device: Device, counted: Subject, rows: Sequence[Sequence[Any]]
) -> lighting_nights.LampDay:
    """Return a lamp's night as its indicators want it."""
    night = lighting.night_of(counted.whole[0], device.place.time_zone)
    return lighting_nights.LampDay(
        counted,
        device.rated_power_w,
        lighting.due(device.programme, device.place, night),
        [lighting_nights.LampReading(*row) for row in rows],
        device.road or "",
        device.life,
    )


def _refuse(scene: Scene) -> dict[Key, Tally]:
    subjects = scene.of("bin")
    kind = KINDS["bin"]
    assert kind.events is not None
    reach_us = max(_reach(subjects), refuse.LOOKBACK_US)
    levels = scene.rows(kind.readings.name, "fill_pct, stream", subjects, reach_us)
    deposits = scene.rows(kind.events.name, "weight_kg, sorted_ok, stream", subjects)
    return refuse.tally(
        subjects,
        {key: [refuse.Level(*row) for row in rows] for key, rows in levels.items()},
        {key: [refuse.Deposit(*row) for row in rows] for key, rows in deposits.items()},
        scene.until_us,
    )


def _access(scene: Scene) -> dict[Key, Tally]:
    subjects = scene.of("gate")
    kind = KINDS["gate"]
    assert kind.events is not None
    doors = scene.rows(kind.readings.name, "door, fault", subjects, _reach(subjects))
    passages = scene.rows(kind.events.name, "event", subjects)
    return access.tally(
        subjects,
        {key: [access.Door(*row) for row in rows] for key, rows in doors.items()},
        {key: [access.Passage(*row) for row in rows] for key, rows in passages.items()},
        scene.until_us,
    )


DOMAINS: Final[Mapping[str, Domain]] = {
    domain.name: domain
    for domain in (
        Domain(
            "lighting",
            frozenset({"lamp"}),
            lighting_nights.INDICATORS,
            lighting.night_span,
            lighting.night_of,
            _lighting,
            lighting_nights.COUNTER_REACH_US,
        ),
        Domain(
            "equipment",
            frozenset(KINDS),
            equipment.INDICATORS,
            day_span,
            day_of,
            _equipment,
        ),
        Domain(
            "refuse",
            frozenset({"bin"}),
            refuse.INDICATORS,
            day_span,
            day_of,
            _refuse,
            refuse.LOOKBACK_US,
        ),
        Domain("access", frozenset({"gate"}), access.INDICATORS, day_span, day_of, _access),
        Domain("security", frozenset(), security.INDICATORS, day_span, day_of, _security),
    )
}


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
    found: dict[DayKey, datetime] = {}
    lately, now_us = now - _LATELY, to_us(now)
    for device, at in known:
        if at > lately:  # the common case
            continue
        at_us = to_us(at)
        zone = device.place.time_zone
        for domain in DOMAINS.values():
            if device.kind not in domain.kinds:
                continue
            reach_us = max(domain.reach_us, device.max_silence // _US)
            day, last = (domain.day_of(instant, zone) for instant in (at_us, at_us + reach_us))
            while day <= last and (end := domain.span(day, zone)[1]) <= now_us:
                found[DayKey(domain.name, day, device.at(end - 1).community)] = from_us(end)
                day += _DAY
    return found


def compute(
    conn: psycopg.Connection, places: Places, day: DayKey, until_us: int
) -> dict[Key, Tally]:
    """Compute a community's day from raw readings and the registry's history.

    Args:
        conn: For reading only.
        places: The registry, with its history.
        day: Which.
        until_us: What comes later has not come yet.
    """
    domain = DOMAINS[day.domain]
    there: list[Device] = []
    whole = None if domain.kinds else domain.span(day.day, _zone(conn, day.community))
    for current in places.of(day.community):
        end = domain.span(day.day, current.place.time_zone)[1]
        device = current.at(min(end, until_us) - 1)
        if device.community == day.community and device.kind in domain.kinds:
            there.append(device)
            whole = whole or domain.span(day.day, device.place.time_zone)
    if whole is None:
        return {}
    return domain.compute(Scene(conn, day.community, there, whole, min(until_us, whole[1])))


def _zone(conn: psycopg.Connection, community: str) -> str:
    row = conn.execute("SELECT time_zone FROM area WHERE area = %s", (community,)).fetchone()
    assert row is not None, "a day's community is an area"
    return row[0]


class DailyKeeper:
    """Keeps the days: opens, computes, settles; a thread of its own beside the lanes."""

    def __init__(self, dsn: str, registry: Callable[[], Registry]) -> None:
        """Take where to store, and whom to ask for the registry."""
        self._dsn = dsn
        self._registry = registry
        self._places = Places(Registry(-1))
        self._stopping = threading.Event()
        self._opened_at = datetime.min.replace(tzinfo=UTC)
        self._running: Mapping[DayKey, datetime] = {}
        # Processor time that the last day of each domain took; seconds.
        self._costs: dict[str, float] = {}

    def stop(self) -> None:
        """Let `run` return after the day in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the days until `stop`; an unexpected error ends the thread."""
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "days") as conn:
                    while not self._stopping.wait(_IDLE_S):
                        self._keep_all(conn)
            except Unavailable as error:
                log.warning("database lost, retrying keeper=days error=%s", error)
                self._stopping.wait(_RETRY_S)

    def _keep_all(self, conn: psycopg.Connection) -> None:
        """Do what is due, in pauses: a city has thousands of days, and the lanes come first."""
        begun = time.thread_time()
        while self.keep(conn, datetime.now(UTC)):
            spent_s = time.thread_time() - begun
            if self._stopping.wait(spent_s * (1 / SHARE - 1)):
                return
            begun = time.thread_time()

    def keep(self, conn: psycopg.Connection, now: datetime) -> int:
        """Do what is due at ``now``; return how many days were computed."""
        registry = self._registry()
        with driver_errors():
            if registry.revision != devices.registry_revision(conn):
                return 0  # what marked a day may be a change that is not read yet
            if registry.revision != self._places.revision:
                self._places = Places(registry)
                self._opened_at = datetime.min.replace(tzinfo=UTC)
            if not now - _OPEN_INTERVAL < self._opened_at <= now:
                self._opened_at = now
                self._running = self._places.running(to_us(now))
                with conn.transaction():
                    community_days.open_days(conn, sorted(self._running.items()))
            due = community_days.due(conn, now, _AT_ONCE, running=self._interval)
            for day in due:
                if self._stopping.is_set():
                    break
                started = time.thread_time()
                keep_day(conn, self._places, day, now)
                if day.key in self._running:
                    self._costs[day.domain] = time.thread_time() - started
        return len(due)

    @property
    def _interval(self) -> timedelta:
        """How often the days that run can be brought up to date, by what the last ones took."""
        total_s = sum(self._costs.get(key.domain, 0.0) for key in self._running)
        return max(RUNNING_INTERVAL, timedelta(seconds=total_s / RUNNING_SHARE))


def keep_day(conn: psycopg.Connection, places: Places, day: CommunityDay, now: datetime) -> int:
    """Compute one day and store it; return how many numbers changed."""
    status: Status = "final" if day.is_over else "provisional"
    indicators = DOMAINS[day.domain].indicators
    started = time.monotonic()
    with conn.transaction():
        # One snapshot for all that is read; what is stored after it marks the day again.
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        tallies = compute(conn, places, day.key, to_us(now))
        stored = area_days.load(conn, [one.id for one in indicators], day.day, day.community)
    with conn.transaction():
        changed = area_days.store(
            conn,
            stored,
            tallies,
            day.day,
            rule_versions={one.id: one.rule_version for one in indicators},
            status=status,
            reason=day.dirty,
            now=now,
        )
        community_days.settle(conn, day, now)
    metrics.DAYS.labels(day.domain).observe(time.monotonic() - started)
    return changed


@dataclass(frozen=True, slots=True)
class Difference:
    """A stored number that a recomputation from raw does not give."""

    day: DayKey
    key: Key
    stored: Tally | None
    computed: Tally | None

    def __str__(self) -> str:
        kind = f" {self.key.kind}" if self.key.kind else ""
        return (
            f"{self.day.day} {self.key.indicator}{kind} in {self.key.area}:"
            f" stored {_show(self.stored)}, computed {_show(self.computed)}"
        )


def verify(
    conn: psycopg.Connection, first: date, end: date, progress: Callable[[int, int], None]
) -> tuple[int, list[Difference]]:
    """Compute every final day in ``[first, end)`` again from raw readings.

    Days that are marked are left out: that they differ is known, and being mended.

    Returns:
        How many numbers were compared, and those that differ.
    """
    places = Places(load_registry(conn))
    days = community_days.known(conn, first, end)
    compared = 0
    differences: list[Difference] = []
    for done, day in enumerate(days, start=1):
        indicators = DOMAINS[day.domain].indicators
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            computed = compute(conn, places, day, FOR_EVER_US)
            rows = area_days.load(conn, [one.id for one in indicators], day.day, day.community)
        stored = {row.key: row.tally for row in rows if row.tally != Tally()}
        for key in sorted(stored.keys() | computed.keys()):
            compared += 1
            if stored.get(key, Tally()) != computed.get(key, Tally()):
                difference = Difference(day, key, stored.get(key), computed.get(key))
                differences.append(difference)
        progress(done, len(days))
    return compared, differences


def _show(tally: Tally | None) -> str:
    if tally is None:
        return "nothing"
    excluded = "".join(f" {reason}={amount}" for reason, amount in tally.excluded.items())
    return f"good={tally.good} bad={tally.bad} total={tally.total} n={tally.subjects}{excluded}"
