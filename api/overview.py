# SPDX-License-Identifier: Apache-2.0
"""What matters in one area now: device states, lighting, alerts, gateways, sub-areas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final, Literal

from psycopg.rows import class_row
from pydantic import Field

from api.answers import Answer, Instant
from api.indicators import Indicator, answer
from api.kinds import KINDS
from api.places import Level, Place
from api.scope import Scope
from api.state import Connection, consistent
from ingest import numbers
from ingest.indicators import lighting, spans
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.lighting_nights import UPTIME
from ingest.indicators.rate import Verdict, share
from ingest.store.light_sums import LightSum, sum_light

Severity = Literal["critical", "major", "minor", "info"]
# A city says every minute that it is there; its days are final once a day.
STALE_AFTER: Final = timedelta(hours=6)
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "major", "minor", "info")


class Area(Answer):
    """One area. ``parent`` is null where it lies outside what the person may see."""

    area: str
    parent: str | None
    level: Level
    name: str
    name_en: str | None
    time_zone: str
    children: int

    @staticmethod
    def of(place: Place) -> "Area":
        """Return the place as people see it."""
        return Area(
            area=place.area,
            parent=place.parent,
            level=place.level,
            name=place.name,
            name_en=place.name_en,
            time_zone=place.time_zone,
            children=place.children,
        )


class KindCount(Answer):
    """How many devices of one class are in service, and in which state."""

    kind: str
    total: int
    normal: int
    fault: int
    offline: int
    unknown: int
    maintenance: int


class DueTime(Answer):
    """When lamps on the sun's programme are due."""

    due_from: Instant
    due_to: Instant


class Lighting(Answer):
    """The night in progress, or the last one. ``next`` is the next to begin."""

    night: date
    due_from: Instant | None
    due_to: Instant | None
    in_progress: bool
    indicator: Indicator | None
    next: DueTime | None


class AlertCounts(Answer):
    """Alerts of the desk: open (active, latched or not acknowledged), and not quiet.

    ``oldest_at`` is when the oldest was raised, ``quiet`` how many open ones are kept from it.
    """

    unacknowledged: int
    active: int
    by_severity: dict[Severity, int]
    oldest_at: Instant | None
    quiet: int


class GatewayState(Answer):
    """One gateway, by its end-to-end heartbeat and its last status."""

    gateway: str
    community: str
    name: str
    silent: bool
    last_seen_at: Instant | None
    outbox_messages: int | None
    outbox_hours: float | None = Field(
        description="how long the outbox could still take in what is measured; h"
    )
    clock: str
    version: str | None
    life: Literal["installed", "in_service", "maintenance"]


class CityState(Answer):
    """A city that tells us its numbers and keeps its devices; ``stale`` when it did not for long.

    ``told_at`` is when a day's numbers last came, ``waiting`` how many areas' days it has left to
    tell.
    """

    city: str
    area: str
    name: str
    name_en: str | None
    last_seen_at: Instant | None
    told_at: Instant | None
    waiting: int | None
    stale: bool


class Uptime(Answer):
    """Lighting uptime of a sub-area in the night the overview tells of."""

    value: float | None
    lower: float | None
    upper: float | None
    verdict: Verdict


class Child(Answer):
    """One sub-area in figures."""

    area: str
    name: str
    name_en: str | None
    devices: int
    fault: int
    offline: int
    unacknowledged: int
    critical: int
    uptime: Uptime | None


class Overview(Answer):
    """All of it."""

    area: Area
    at: Instant
    kinds: list[KindCount]
    lighting: Lighting | None
    alerts: AlertCounts
    bins_full: int
    gates_held: int
    gateways: list[GatewayState]
    cities: list[CityState] = Field(
        description="whose numbers these are, where they come from cities: there are no devices"
    )
    children: list[Child]


async def read_overview(conn: Connection, scope: Scope, place: Place, *, now: datetime) -> Overview:
    """Return the overview of a place that `places.find_area` allowed."""
    async with consistent(conn):
        kinds = await _count_kinds(conn, scope, place)
        night = await _night(conn, scope, place, now) if kinds["lamp"].total else None
        open_alerts = await _count_alerts(conn, scope, place)
        return Overview(
            area=Area.of(place),
            at=now,
            kinds=list(kinds.values()),
            lighting=night,
            alerts=AlertCounts(
                unacknowledged=open_alerts.unacknowledged,
                active=open_alerts.active,
                by_severity={
                    "critical": open_alerts.critical,
                    "major": open_alerts.major,
                    "minor": open_alerts.minor,
                    "info": open_alerts.info,
                },
                oldest_at=open_alerts.oldest_at,
                quiet=open_alerts.quiet,
            ),
            bins_full=open_alerts.bins_full,
            gates_held=open_alerts.gates_held,
            gateways=await _gateways(conn, scope, place),
            cities=await _cities(conn, scope, place, now),
            children=await _children(conn, scope, place, night, now) if place.children else [],
        )


async def _count_kinds(conn: Connection, scope: Scope, place: Place) -> dict[str, KindCount]:
    cursor = await conn.execute(
        """
        SELECT d.kind, d.state, count(*)
        FROM device_view AS d
        WHERE d.path <@ %(area)s::ltree
          AND d.path <@ %(scope)s::ltree  -- invariant 9
          AND d.life IN ('in_service', 'maintenance')
        GROUP BY d.kind, d.state
        """,
        {"area": place.path, "scope": scope.path},
    )
    counts: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    async for kind, state, count in cursor:
        counts.setdefault(kind, {})[state] = count
    return {
        kind: KindCount(
            kind=kind,
            total=sum(states.values()),
            normal=states.get("normal", 0),
            fault=states.get("fault", 0),
            offline=states.get("offline", 0),
            unknown=states.get("unknown", 0),
            maintenance=states.get("maintenance", 0),
        )
        for kind, states in counts.items()
    }


@dataclass(frozen=True, slots=True)
class _OpenAlerts:
    unacknowledged: int
    active: int
    critical: int
    major: int
    minor: int
    info: int
    bins_full: int
    gates_held: int
    oldest_at: datetime | None
    quiet: int


async def _count_alerts(conn: Connection, scope: Scope, place: Place) -> _OpenAlerts:
    async with conn.cursor(row_factory=class_row(_OpenAlerts)) as cursor:
        await cursor.execute(
            """
            SELECT count(*) FILTER (WHERE NOT t.quiet AND NOT t.acknowledged) AS unacknowledged,
                   count(*) FILTER (WHERE NOT t.quiet AND t.active) AS active,
                   count(*) FILTER (WHERE NOT t.quiet AND t.severity = 'critical') AS critical,
                   count(*) FILTER (WHERE NOT t.quiet AND t.severity = 'major') AS major,
                   count(*) FILTER (WHERE NOT t.quiet AND t.severity = 'minor') AS minor,
                   count(*) FILTER (WHERE NOT t.quiet AND t.severity = 'info') AS info,
                   -- A bin is full whether or not somebody wants to be told.
                   count(*) FILTER (WHERE t.active AND t.rule = 'bin.full') AS bins_full,
                   count(*) FILTER (WHERE t.active AND t.rule = 'gate.held_open') AS gates_held,
                   min(t.raised_at) FILTER (WHERE NOT t.quiet) AS oldest_at,
                   count(*) FILTER (WHERE t.quiet) AS quiet
            FROM alert_view AS t
            WHERE (t.active OR t.latched OR NOT t.acknowledged)
              AND t.path <@ %(area)s::ltree
              AND t.path <@ %(scope)s::ltree  -- invariant 9
              AND NOT t.rule = ANY (%(hidden)s)
            """,
            {"area": place.path, "scope": scope.path, "hidden": scope.hidden_rules},
        )
        row = await cursor.fetchone()
    assert row is not None, "an aggregate always has a row"
    return row


async def _gateways(conn: Connection, scope: Scope, place: Place) -> list[GatewayState]:
    async with conn.cursor(row_factory=class_row(GatewayState)) as cursor:
        await cursor.execute(
            """
            SELECT g.gateway, g.community, g.name, g.silent, g.last_seen_at, g.outbox_messages,
                   g.outbox_hours, g.clock, g.agent_version AS version, g.life
            FROM gateway AS g
            JOIN area AS a ON a.area = g.community
            WHERE g.status = 'active' AND g.life NOT IN ('planned', 'retired')
              AND a.path <@ %(area)s::ltree
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY g.silent DESC, g.gateway
            LIMIT 1000
            """,
            {"area": place.path, "scope": scope.path},
        )
        return await cursor.fetchall()


async def _cities(conn: Connection, scope: Scope, place: Place, now: datetime) -> list[CityState]:
    """Return the cities that lie in a place, or the one that it lies in."""
    async with conn.cursor(row_factory=class_row(CityState)) as cursor:
        await cursor.execute(
            """
            SELECT c.city, c.area, a.name, a.name_en, c.last_seen_at, c.told_at, c.waiting,
                   coalesce(c.last_seen_at < %(stale)s, true) AS stale
            FROM city AS c
            JOIN area AS a ON a.area = c.area
            WHERE c.status = 'active'
              AND (a.path <@ %(area)s::ltree OR a.path @> %(area)s::ltree)
              AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
            ORDER BY stale DESC, c.area
            LIMIT 1000
            """,
            {"area": place.path, "scope": scope.path, "stale": now - STALE_AFTER},
        )
        return await cursor.fetchall()


async def _night(conn: Connection, scope: Scope, place: Place, now: datetime) -> Lighting:
    """Return the night in progress, or before its dusk the one before it."""
    now_us = spans.to_us(now)
    here = await _sun_place(conn, place)
    this = lighting.night_of(now_us, place.time_zone)
    due = _due(here, this)
    if due is None or now_us < due[0]:
        night, coming = this - timedelta(days=1), due
    else:
        night, coming = this, _due(here, this + timedelta(days=1))
    due = _due(here, night)
    found = await numbers.read(
        conn,
        [INDICATORS[UPTIME]],
        numbers.Question(
            place.path, scope.path, place.time_zone, night, night + timedelta(days=1), "day", now
        ),
    )
    return Lighting(
        night=night,
        due_from=None if due is None else spans.from_us(due[0]),
        due_to=None if due is None else spans.from_us(due[1]),
        in_progress=due is not None and due[0] <= now_us < due[1],
        indicator=answer(found[0], str(night)) if found else None,
        next=(
            None
            if coming is None
            else DueTime(due_from=spans.from_us(coming[0]), due_to=spans.from_us(coming[1]))
        ),
    )


def _due(here: lighting.Place | None, night: date) -> tuple[int, int] | None:
    if here is None:
        return None
    due = lighting.due(lighting.parse_programme("sun"), here, night)
    return (due[0][0], due[-1][1]) if due else None


async def _sun_place(conn: Connection, place: Place) -> lighting.Place | None:
    """Return where the sun is looked up: the area itself, else the nearest one that says where."""
    cursor = await conn.execute(
        """
        SELECT o.latitude, o.longitude
        FROM area AS o
        WHERE (o.path @> %(area)s::ltree OR o.path <@ %(area)s::ltree)
          AND o.latitude IS NOT NULL AND o.longitude IS NOT NULL
        ORDER BY abs(nlevel(o.path) - nlevel(%(area)s::ltree)), o.path
        LIMIT 1
        """,
        {"area": place.path},
    )
    row = await cursor.fetchone()
    return None if row is None else lighting.Place(row[0], row[1], place.time_zone)


@dataclass(frozen=True, slots=True)
class _ChildRow:
    area: str
    name: str
    name_en: str | None
    label: str
    devices: int
    fault: int
    offline: int
    unacknowledged: int
    critical: int


async def _children(
    conn: Connection, scope: Scope, place: Place, night: Lighting | None, now: datetime
) -> list[Child]:
    async with conn.cursor(row_factory=class_row(_ChildRow)) as cursor:
        await cursor.execute(
            """
            WITH devices AS (
                SELECT subpath(d.path, nlevel(%(area)s::ltree), 1)::text AS label,
                       count(*) AS devices,
                       count(*) FILTER (WHERE d.state = 'fault') AS fault,
                       count(*) FILTER (WHERE d.state = 'offline') AS offline
                FROM device_view AS d
                WHERE d.path <@ %(area)s::ltree AND nlevel(d.path) > nlevel(%(area)s::ltree)
                  AND d.path <@ %(scope)s::ltree  -- invariant 9
                  AND d.life IN ('in_service', 'maintenance')
                GROUP BY label
            ), alerts AS (
                SELECT subpath(t.path, nlevel(%(area)s::ltree), 1)::text AS label,
                       count(*) FILTER (WHERE NOT t.acknowledged) AS unacknowledged,
                       count(*) FILTER (WHERE t.severity = 'critical') AS critical
                FROM alert_view AS t
                WHERE (t.active OR t.latched OR NOT t.acknowledged) AND NOT t.quiet
                  AND t.path <@ %(area)s::ltree AND nlevel(t.path) > nlevel(%(area)s::ltree)
                  AND t.path <@ %(scope)s::ltree  -- invariant 9
                  AND NOT t.rule = ANY (%(hidden)s)
                GROUP BY label
            )
            SELECT a.area, a.name, a.name_en, subpath(a.path, -1)::text AS label,
                   coalesce(d.devices, 0) AS devices, coalesce(d.fault, 0) AS fault,
                   coalesce(d.offline, 0) AS offline,
                   coalesce(t.unacknowledged, 0) AS unacknowledged,
                   coalesce(t.critical, 0) AS critical
            FROM area AS a
            LEFT JOIN devices AS d ON d.label = subpath(a.path, -1)::text
            LEFT JOIN alerts AS t ON t.label = subpath(a.path, -1)::text
            WHERE a.parent = %(parent)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY a.area
            """,
            {
                "area": place.path,
                "scope": scope.path,
                "hidden": scope.hidden_rules,
                "parent": place.area,
            },
        )
        rows = await cursor.fetchall()
    sums: Sequence[LightSum] = ()
    if night is not None:
        nights = (night.night, night.night + timedelta(days=1))
        sums = await sum_light(conn, scope.path, place.path, nights, "child", now=now)
    uptimes: Mapping[str, Uptime] = {total.period: _uptime(total) for total in sums}
    return [
        Child(
            area=row.area,
            name=row.name,
            name_en=row.name_en,
            devices=row.devices,
            fault=row.fault,
            offline=row.offline,
            unacknowledged=row.unacknowledged,
            critical=row.critical,
            uptime=uptimes.get(row.label),
        )
        for row in rows
    ]


def _uptime(total: LightSum) -> Uptime:
    rate = share(total.tally, INDICATORS[UPTIME].target)
    return Uptime(value=rate.value, lower=rate.lower, upper=rate.upper, verdict=rate.verdict)
