# SPDX-License-Identifier: Apache-2.0
"""What a day of each domain is computed from, and how: who counts, and the raw rows.

One function a domain; what it computes with is pure (`ingest.indicators`).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cached_property
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

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
from ingest.store import incidents, runs
from ingest.store.devices import Device

_US: Final = timedelta(microseconds=1)
_COUNTED: Final = frozenset({"in_service", "maintenance"})


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
