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
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from ingest import metrics
from ingest.errors import Unavailable
from ingest.indicators import (
    access,
    duration,
    equipment,
    lighting,
    lighting_nights,
    refuse,
    repairs,
    security,
)
from ingest.indicators.definition import Definition
from ingest.indicators.duration import Duration
from ingest.indicators.lighting_nights import RoadNight
from ingest.indicators.spans import Hold, Span, clip, day_of, day_span, from_us, to_us
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally
from ingest.kinds import KINDS
from ingest.store import (
    area_days,
    claim,
    community_days,
    connect,
    device_durations,
    devices,
    driver_errors,
    incidents,
    road_nights,
    runs,
)
from ingest.store.area_days import Status
from ingest.store.community_days import CommunityDay, DayKey
from ingest.store.devices import Device, Registry, load_registry

log = logging.getLogger(__name__)

_US: Final = timedelta(microseconds=1)
_IDLE_S: Final = 1.0
_RETRY_S: Final = 5.0
_OPEN_INTERVAL: Final = timedelta(seconds=60)
_AT_ONCE: Final = 20
# Days that nobody opened are looked for at the start, and after the database was away.
_MISSING_INTERVAL: Final = timedelta(hours=1)
_MISSING_REACH: Final = timedelta(days=92)
_COUNTED: Final = frozenset({"in_service", "maintenance"})
# Later than any day: all of it has come.
FOR_EVER_US: Final = 2**62
# What runs is brought up to date this often, or less often where that would take more than this
# share of what ingest takes of a processor otherwise, and more than this share of what it leaves.
RUNNING_INTERVAL: Final = timedelta(seconds=30)
RUNNING_SHARE: Final = 0.05
RUNNING_FREE: Final = 0.1
# A day that could not be computed is left alone for so long: others come first.
FAILED_INTERVAL: Final = timedelta(minutes=10)
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

    def runs(
        self,
        table: str,
        says: LiteralString,
        subjects: Sequence[Subject],
        rated_power_w: Mapping[int, float | None] | None = None,
    ) -> dict[int, list[Hold]]:
        """Return from when to when devices are known to have been one thing (`runs.load_runs`)."""
        come = (self.whole[0], self.until_us)
        return runs.load_runs(self.conn, table, says, subjects, come, rated_power_w)

    def rows(
        self,
        table: str,
        columns: LiteralString,
        subjects: Sequence[Subject],
        reach_us: int = 0,
        *,
        where: LiteralString = "true",
    ) -> Mapping[int, Sequence[Sequence[Any]]]:
        """Return raw rows ``(at_us, *columns)`` by device: as far as the day has come.

        Args:
            table: Of readings or events.
            columns: Which.
            subjects: Whose.
            reach_us: From how long before the day on.
            where: Which rows of theirs.
        """
        found: defaultdict[int, list[Sequence[Any]]] = defaultdict(list)
        if not subjects:
            return found
        query = sql.SQL(
            "SELECT device_id, at, {} FROM {}"
            " WHERE device_id = ANY (%s) AND at >= %s AND at < %s AND {}"
        ).format(sql.SQL(columns), sql.Identifier(table), sql.SQL(where))
        with self.conn.cursor(binary=True) as cursor:
            cursor.execute(
                query,
                (
                    [one.device_id for one in subjects],
                    from_us(self.whole[0] - reach_us),
                    from_us(self.until_us),
                ),
            )
            for device_id, at, *values in cursor:
                found[device_id].append((to_us(at), *values))
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a community's day comes to: what adds up, and what does not."""

    tallies: dict[Key, Tally] = field(default_factory=dict[Key, Tally])
    durations: Sequence[Duration] = ()
    roads: Sequence[RoadNight] = ()


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
    compute: Callable[[Scene], Outcome]
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


def _equipment(scene: Scene) -> Outcome:
    health: dict[int, list[Hold]] = {}
    for kind in KINDS.values():
        health |= scene.runs(kind.readings.name, runs.HEALTHY, scene.of(kind.kind))
    return Outcome(equipment.tally(scene.subjects, health, scene.until_us))


def _lighting(scene: Scene) -> Outcome:
    subjects = scene.of("lamp")
    table = KINDS["lamp"].readings.name
    by_id = {device.id: device for device in scene.devices}
    powers = {one.device_id: by_id[one.device_id].rated_power_w for one in subjects}
    light = scene.runs(table, runs.LIT, subjects, powers)
    used = energy(scene, subjects, powers)
    # Most lamps have no battery.
    charges = scene.rows(table, "battery_pct", subjects, where="battery_pct IS NOT NULL")
    lamps = [
        lamp_day(
            by_id[one.device_id],
            one,
            light.get(one.device_id, ()),
            used.get(one.device_id),
            [(at_us, charge) for at_us, charge in charges.get(one.device_id, ())],
        )
        for one in subjects
    ]
    nights = [lighting_nights.night_of(lamp, scene.until_us) for lamp in lamps]
    registered = [
        lighting_nights.Lamp(device.id, device.area, device.life)
        for device in scene.devices
        if device.kind == "lamp"
    ]
    roads = lighting_nights.by_road(nights)
    durations = lighting_nights.autonomies(lamps, scene.until_us)
    tallies = {
        **lighting_nights.tally_nights(nights),
        **lighting_nights.tally_installed(registered),
        **lighting_nights.tally_days(lamps, scene.until_us),
        **lighting_nights.tally_roads(roads, scene.community),
        **duration.tally(durations),
    }
    return Outcome(tallies, durations, roads)


def energy(
    scene: Scene, subjects: Sequence[Subject], powers: Mapping[int, float | None]
) -> dict[int, int | None]:
    """Return what lamps used: of most the counter tells by itself, of others each reading."""
    table = KINDS["lamp"].readings.name
    reach_us = lighting_nights.reach_us(_reach(subjects))
    come = (scene.whole[0], scene.until_us)
    counted = runs.load_counted(scene.conn, table, subjects, come, reach_us)
    plain = {key: one.used_wh for key, one in counted.items() if one.is_plain}
    others = [one for one in subjects if one.device_id not in plain]
    found = scene.rows(table, "lit, power_w, energy_kwh", others, reach_us)
    read = {
        one.device_id: lighting_nights.energy_wh(
            [lighting_nights.LampReading(*row) for row in found.get(one.device_id, ())],
            one.until(scene.until_us),
            powers[one.device_id],
        )
        for one in others
    }
    return plain | read


def _security(scene: Scene) -> Outcome:
    come = (scene.whole[0], scene.until_us)
    return Outcome(
        security.tally(
            incidents.cases(scene.conn, scene.community, come),
            incidents.alarms(scene.conn, scene.community, come),
        )
    )


def lamp_day(
    device: Device,
    counted: Subject,
    light: Sequence[Hold],
    energy_wh: int | None,
    charges: Sequence[tuple[int, float]],
) -> lighting_nights.LampDay:
    """Return a lamp's night as its indicators want it."""
    night = lighting.night_of(counted.whole[0], device.place.time_zone)
    return lighting_nights.LampDay(
        counted,
        lighting.due(device.programme, device.place, night),
        light,
        energy_wh,
        device.road or "",
        device.life,
        charges,
    )


def _refuse(scene: Scene) -> Outcome:
    subjects = scene.of("bin")
    kind = KINDS["bin"]
    assert kind.events is not None
    deposits = scene.rows(kind.events.name, "weight_kg, sorted_ok, stream", subjects)
    told = levels_of(scene, subjects, {key for key, rows in deposits.items() if rows})
    levels = {key: [refuse.Level(*row) for row in rows] for key, rows in told.items()}
    durations = refuse.times_to_empty(subjects, levels, scene.until_us)
    tallies = refuse.tally(
        subjects,
        levels,
        {key: [refuse.Deposit(*row) for row in rows] for key, rows in deposits.items()},
        scene.until_us,
    )
    return Outcome(tallies | duration.tally(durations), durations)


def levels_of(
    scene: Scene, subjects: Sequence[Subject], used: Collection[int]
) -> Mapping[int, Sequence[Sequence[Any]]]:
    """Return as few levels as say all: of a bin that stays far from full its latest alone.

    Args:
        scene: The day.
        subjects: The bins.
        used: Those with deposits, which may take their stream from a level.
    """
    table = KINDS["bin"].readings.name
    come = (scene.whole[0], scene.until_us)
    quiet: dict[int, Sequence[Sequence[Any]]] = {}
    busy: list[Subject] = []
    waiting: list[Subject] = []
    bins = {one.device_id: one for one in subjects}
    for bin_ in runs.load_bins(scene.conn, table, subjects, come):
        one = bins[bin_.device_id]
        if bin_.before_pct is not None and bin_.before_pct > refuse.QUIET_BELOW_PCT:
            waiting.append(one)
        elif bin_.highest_pct >= refuse.FULL_PCT - 1 or one.device_id in used:
            busy.append(one)
        elif bin_.latest_us is not None:
            quiet[one.device_id] = [(bin_.latest_us, bin_.highest_pct, None)]
    columns: LiteralString = "fill_pct, stream"
    return {
        **quiet,
        **scene.rows(table, columns, busy, _reach(busy)),
        **scene.rows(table, columns, waiting, max(_reach(waiting), refuse.LOOKBACK_US)),
    }


def _access(scene: Scene) -> Outcome:
    subjects = scene.of("gate")
    kind = KINDS["gate"]
    assert kind.events is not None
    passages = scene.rows(kind.events.name, "event", subjects)
    return Outcome(
        access.tally(
            subjects,
            scene.runs(kind.readings.name, runs.WORKS, subjects),
            {key: [access.Passage(*row) for row in rows] for key, rows in passages.items()},
            scene.until_us,
        )
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
            (*equipment.INDICATORS, *repairs.INDICATORS),
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


def compute(conn: psycopg.Connection, places: Places, day: DayKey, until_us: int) -> Outcome:
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
        is_known = min(device.registered_us, device.in_service_from_us) < end
        if device.community == day.community and device.kind in domain.kinds and is_known:
            there.append(device)
            whole = whole or domain.span(day.day, device.place.time_zone)
    if whole is None:
        return Outcome()
    return domain.compute(Scene(conn, day.community, there, whole, min(until_us, whole[1])))


def _zone(conn: psycopg.Connection, community: str) -> str:
    row = conn.execute("SELECT time_zone FROM area WHERE area = %s", (community,)).fetchone()
    assert row is not None, "a day's community is an area"
    return row[0]


def running_interval(total_s: float, busy: float) -> timedelta:
    """Return how often all days that run can be brought up to date.

    Args:
        total_s: How long once takes, seconds; what the database does for it included.
        busy: How much of a processor ingest takes otherwise.
    """
    share = max(RUNNING_SHARE * busy, RUNNING_FREE * (1.0 - busy))
    return max(RUNNING_INTERVAL, timedelta(seconds=total_s / share))


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
        # How long the last running day of each domain took; seconds.
        self._costs: dict[str, float] = {}
        self._busy = 0.0
        self._watched = (time.monotonic(), time.process_time())
        self._failed: dict[DayKey, datetime] = {}

    def stop(self) -> None:
        """Let `run` return after the day in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the days until `stop`."""
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "days") as conn:
                    _claim(conn)
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
                is_new = not now - _MISSING_INTERVAL < self._opened_at <= now
                self._opened_at = now
                self._watch()
                self._running = self._places.running(to_us(now))
                missed = self._missed(conn, now) if is_new else {}
                with conn.transaction():
                    community_days.open_days(conn, sorted({**missed, **self._running}.items()))
            self._failed = {
                key: since
                for key, since in self._failed.items()
                if now - FAILED_INTERVAL < since <= now
            }
            due = community_days.due(
                conn, now, _AT_ONCE, running=self._interval, besides=self._failed
            )
            for day in due:
                if self._stopping.is_set():
                    break
                self._keep_one(conn, day, now)
        metrics.DAYS_FAILED.set(len(self._failed))
        return len(due)

    def _missed(self, conn: psycopg.Connection, now: datetime) -> dict[DayKey, datetime]:
        """Return the days that went by while nobody opened them: unknown, but due all the same."""
        today = now.date()
        found: dict[DayKey, datetime] = {}
        for key in community_days.missing(conn, today - _MISSING_REACH, today + _DAY):
            zone = self._places.zones.get(key.community)
            if zone is not None and key.domain in DOMAINS:
                ends_at = from_us(DOMAINS[key.domain].span(key.day, zone)[1])
                if ends_at <= now:
                    found[key] = ends_at
        return found

    def _keep_one(self, conn: psycopg.Connection, day: CommunityDay, now: datetime) -> None:
        """Compute one day; where that fails others go on, and it is tried again later."""
        started = time.monotonic()
        try:
            keep_day(conn, self._places, day, now)
        except (
            psycopg.errors.QueryCanceled,
            psycopg.DataError,
            psycopg.IntegrityError,
            ValueError,
        ):
            # A day with more rows than can be read in time, or with one that no rule foresaw. What
            # ends the connection is not of the day and goes on up.
            self._failed[day.key] = now
            log.exception("day not computed domain=%s day=%s community=%s", *day.key)
        if day.key in self._running:
            self._costs[day.domain] = time.monotonic() - started

    def _watch(self) -> None:
        """Note how much of a processor this process took lately, days not counted."""
        at, spent = time.monotonic(), time.process_time() - time.thread_time()
        before_at, before_spent = self._watched
        if at > before_at:
            self._busy = max(0.0, (spent - before_spent) / (at - before_at))
        self._watched = (at, spent)

    @property
    def _interval(self) -> timedelta:
        total_s = sum(self._costs.get(key.domain, 0.0) for key in self._running)
        return running_interval(total_s, self._busy)


def _claim(conn: psycopg.Connection) -> None:
    """Claim the days: sums of months are added up from days, of which two at once would miss some.

    Raises:
        Unavailable: Another process has them.
    """
    with driver_errors():
        if not claim(conn, "days"):
            raise Unavailable("another ingest keeps the days, waiting for it")


def keep_day(conn: psycopg.Connection, places: Places, day: CommunityDay, now: datetime) -> int:
    """Compute one day and store it; return how many numbers changed."""
    status: Status = "final" if day.is_over else "provisional"
    indicators = DOMAINS[day.domain].indicators
    started = time.monotonic()
    with conn.transaction():
        # One snapshot for all that is read; what is stored after it marks the day again.
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        outcome = compute(conn, places, day.key, to_us(now))
        stored = area_days.load(conn, [one.id for one in indicators], day.day, day.community)
    with conn.transaction():
        changed = area_days.store(
            conn,
            stored,
            outcome.tallies,
            day.day,
            rule_versions={one.id: one.rule_version for one in indicators},
            status=status,
            reason=day.dirty,
            now=now,
        )
        names = [one.id for one in indicators if one.shape == "times"]
        device_durations.replace(conn, names, day.key, outcome.durations)
        if day.domain == "lighting":
            road_nights.replace(conn, day.key, outcome.roads)
        community_days.settle(conn, day, now)
    metrics.DAYS.labels(day.domain).observe(time.monotonic() - started)
    return changed


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
