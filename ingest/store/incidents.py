# SPDX-License-Identifier: Apache-2.0
"""Incidents in the database: reported and changed by people, read by what counts them.

Every change locks the row, asks the pure rules (`ingest.incidents`), writes record and history,
and has the days it touches computed anew, all in one transaction.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection, Connection, errors
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from ingest import incidents
from ingest.incidents import AlertFacts, Incident, Site
from ingest.indicators.officers import Situation
from ingest.indicators.security import Alarm, Case, Category, Disposition
from ingest.indicators.spans import Span, day_span, from_us
from ingest.store.cases import follow
from ingest.store.population import Population
from ingest.store.seen import Missing, Stale

# Why a day is computed anew.
_REASON: Final = "incident"


class AlertTaken(ValueError):
    """Another record stands for this alert already."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What somebody reports."""

    category: Category
    area: str
    occurred_at: datetime
    disposition: Disposition = "open"
    alert: UUID | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants changed, None: as it is; an empty note removes the note."""

    category: Category | None = None
    area: str | None = None
    occurred_at: datetime | None = None
    disposition: Disposition | None = None
    note: str | None = None


async def report(
    conn: AsyncConnection,
    draft: Draft,
    *,
    within: str,
    hidden_rules: Sequence[str] = (),
    actor: str,
    reason: str,
    now: datetime,
) -> UUID:
    """Write a new record for somebody who sees the area ``within``; return its id.

    Raises:
        Missing: The area or the alert is not within sight.
        ingest.incidents.Refused: A rule forbids it.
        AlertTaken: The alert has its record.
    """
    async with conn.transaction():
        site = await _site(conn, draft.area, within)
        alert = None
        if draft.alert is not None:
            alert = await _alert(conn, draft.alert, within, hidden_rules)
        incident = incidents.report(
            Incident(
                draft.category,
                site,
                draft.occurred_at,
                draft.disposition,
                draft.alert,
                draft.note or None,
            ),
            alert,
            actor=actor,
            now=now,
        )
        made = uuid7()
        try:
            await conn.execute(
                """
                INSERT INTO incident (id, category, area, community, occurred_at, disposition,
                                      alert, confirmed_by, confirmed_at, note, reported_by,
                                      reported_at, changed_at, version)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                (
                    made,
                    incident.category,
                    site.area,
                    site.community,
                    incident.occurred_at,
                    incident.disposition,
                    incident.alert,
                    incident.confirmed_by,
                    incident.confirmed_at,
                    incident.note,
                    actor,
                    now,
                    now,
                    incident.version,
                ),
            )
        except errors.UniqueViolation:
            raise AlertTaken(str(draft.alert)) from None
        told: incidents.Changes = {
            "category": (None, incident.category),
            "area": (None, site.area),
            "occurred_at": (None, incident.occurred_at.isoformat()),
            "disposition": (None, incident.disposition),
            "note": (None, incident.note),
        }
        await _tell(conn, made, now, actor, "reported", reason, told, incident.version)
        await follow(
            conn,
            made,
            incident.alert,
            incident.disposition,
            actor=actor,
            reason=reason,
            now=now,
        )
        await _restate(conn, incident)
    return made


async def change(
    conn: AsyncConnection,
    incident: UUID,
    wanted: Wanted,
    *,
    within: str,
    actor: str,
    reason: str,
    expected_version: int | None,
    now: datetime,
) -> None:
    """Change a record for somebody who sees the area ``within``.

    Raises:
        Missing: The record, or the area it shall move to, is not within sight.
        Stale: ``expected_version`` is given and is not the record's.
        ingest.incidents.Unchanged: It is like that already.
        ingest.incidents.Refused: A rule forbids it.
        AlertTaken: Its alert has another record by now.
    """
    async with conn.transaction():
        before, alert = await _locked(conn, incident, within)
        if expected_version is not None and expected_version != before.version:
            raise Stale(before.version)
        site = None if wanted.area is None else await _site(conn, wanted.area, within)
        changed = incidents.change(
            before,
            incidents.Change(
                wanted.category, site, wanted.occurred_at, wanted.disposition, wanted.note
            ),
            alert,
            actor=actor,
            now=now,
        )
        after = changed.incident
        try:
            await conn.execute(
                """
                UPDATE incident
                SET category = %s, area = %s, community = %s, occurred_at = %s, disposition = %s,
                    confirmed_by = %s, confirmed_at = %s, note = %s, changed_at = %s, version = %s
                WHERE id = %s
                """,
                (
                    after.category,
                    after.site.area,
                    after.site.community,
                    after.occurred_at,
                    after.disposition,
                    after.confirmed_by,
                    after.confirmed_at,
                    after.note,
                    now,
                    after.version,
                    incident,
                ),
            )
        except errors.UniqueViolation:
            raise AlertTaken(str(before.alert)) from None
        await _tell(conn, incident, now, actor, "changed", reason, changed.changes, after.version)
        if after.disposition != before.disposition:
            await follow(
                conn,
                incident,
                after.alert,
                after.disposition,
                actor=actor,
                reason=reason,
                now=now,
            )
        await _restate(conn, before, after)


async def _site(conn: AsyncConnection, area: str, within: str) -> Site:
    """Return an area within sight and the community it belongs to, itself where it is one.

    Raises:
        Missing: There is none, it is not within sight, or it lies above all communities.
    """
    cursor = await conn.execute(
        """
        SELECT a.area, c.area
        FROM area AS a
        JOIN area AS c ON c.path @> a.path AND c.level = 'community'
        WHERE a.area = %(area)s
          -- invariant 9: never another area's rows
          AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(within)s)
        """,
        {"area": area, "within": within},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Missing("area")
    return Site(*row)


async def _alert(
    conn: AsyncConnection, alert: UUID, within: str, hidden_rules: Sequence[str]
) -> AlertFacts:
    """Return what an incident must fit with.

    Raises:
        Missing: There is no such alert within sight.
    """
    cursor = await conn.execute(
        """
        SELECT t.id, t.community, t.raised_at
        FROM alert AS t
        JOIN area AS a ON a.area = t.area
        WHERE t.id = %(alert)s
          AND NOT t.rule = ANY (%(hidden)s)
          -- invariant 9: never another area's rows
          AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(within)s)
        """,
        {"alert": alert, "within": within, "hidden": list(hidden_rules)},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Missing("alert")
    return AlertFacts(*row)


async def _locked(
    conn: AsyncConnection, incident: UUID, within: str
) -> tuple[Incident, AlertFacts | None]:
    """Lock a record within sight; return it with what it must fit with.

    Raises:
        Missing: There is no such record within sight.
    """
    cursor = await conn.execute(
        """
        SELECT i.category, i.area, i.community, i.occurred_at, i.disposition, i.alert, i.note,
               i.confirmed_by, i.confirmed_at, i.version, t.community, t.raised_at
        FROM incident AS i
        JOIN area AS a ON a.area = i.area
        LEFT JOIN alert AS t ON t.id = i.alert
        WHERE i.id = %(incident)s
          -- invariant 9: never another area's rows
          AND a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(within)s)
        FOR UPDATE OF i
        """,
        {"incident": incident, "within": within},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Missing("incident")
    category, area, community, occurred_at, disposition, alert = row[:6]
    note, confirmed_by, confirmed_at, version, alert_community, raised_at = row[6:]
    found = Incident(
        category,
        Site(area, community),
        occurred_at,
        disposition,
        alert,
        note,
        confirmed_by,
        confirmed_at,
        version,
    )
    return found, None if alert is None else AlertFacts(alert, alert_community, raised_at)


async def _tell(
    conn: AsyncConnection,
    incident: UUID,
    at: datetime,
    actor: str,
    action: str,
    reason: str,
    changes: incidents.Changes,
    version: int,
) -> None:
    told = {name: list(pair) for name, pair in changes.items() if pair[0] != pair[1]}
    await conn.execute(
        """
        INSERT INTO incident_history (incident, at, actor, action, reason, changes, version)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        """,
        (incident, at, actor, action, reason, Jsonb(told), version),
    )


async def _restate(conn: AsyncConnection, *records: Incident) -> None:
    """Have the days computed anew on which the records count, and those of their alert."""
    days: set[tuple[str, datetime]] = {
        (record.site.community, record.occurred_at) for record in records
    }
    cursor = await conn.execute(
        """
        SELECT t.community, o.received_at
        FROM alert_occurrence AS o
        JOIN alert AS t ON t.id = o.alert
        WHERE t.id = ANY (%(alerts)s)
           -- Alerts of one case are settled with the record of one of them.
           OR t.id IN (SELECT m.alert
                       FROM case_alert AS m
                       JOIN case_alert AS s ON s.case_id = m.case_id
                       WHERE s.alert = ANY (%(alerts)s))
        """,
        {"alerts": [record.alert for record in records if record.alert is not None]},
    )
    days.update([(community, at) async for community, at in cursor])
    await mark_days(conn, days)


async def mark_days(conn: AsyncConnection, days: Collection[tuple[str, datetime]]) -> None:
    """Have the days of some communities computed anew that hold some instants."""
    cursor = await conn.execute(
        "SELECT area, time_zone FROM area WHERE area = ANY (%s)",
        ([community for community, _ in days],),
    )
    zones = {community: zone async for community, zone in cursor}
    local = {
        (community, at.astimezone(ZoneInfo(zones[community])).date()) for community, at in days
    }
    for community, day in sorted(local):
        ends_at = from_us(day_span(day, zones[community])[1])
        await conn.execute(
            """
            INSERT INTO community_day AS c (domain, day, community, ends_at, dirty)
            VALUES ('security', %s, %s, %s, %s)
            ON CONFLICT (domain, day, community) DO UPDATE
            -- Counted, so that a computation that runs meanwhile does not settle this mark.
            SET dirty = coalesce(c.dirty, excluded.dirty), marks = c.marks + 1
            """,
            (day, community, ends_at, _REASON),
        )


@dataclass(frozen=True, slots=True)
class Officer:
    """Somebody who may write records, and the area whose records they may write."""

    name: str
    area: str


async def find_officer(conn: AsyncConnection, name: str) -> Officer:
    """Return an active person who may write records: police, or an admin.

    Raises:
        Missing: There is no such person, or another role is theirs.
    """
    async with conn.cursor(row_factory=class_row(Officer)) as cursor:
        await cursor.execute(
            """
            SELECT username AS name, area FROM person
            WHERE username = %s AND active AND role IN ('police', 'admin')
            """,
            (name,),
        )
        officer = await cursor.fetchone()
    if officer is None:
        raise Missing("person")
    return officer


@dataclass(frozen=True, slots=True)
class Listed:
    """One record as the command line shows it: no note, which is for the console."""

    id: UUID
    occurred_at: datetime
    area: str
    category: Category
    disposition: Disposition
    confirmed_by: str | None
    version: int


async def listed(
    conn: AsyncConnection,
    *,
    area: str | None,
    disposition: Disposition | None,
    start: datetime | None,
    end: datetime | None,
    limit: int,
) -> list[Listed]:
    """Return records of ``area``'s subtree (None: all) that occurred in ``[start, end)``, newest
    first.
    """
    async with conn.cursor(row_factory=class_row(Listed)) as cursor:
        await cursor.execute(
            """
            SELECT i.id, i.occurred_at, i.area, i.category, i.disposition, i.confirmed_by,
                   i.version
            FROM incident AS i
            JOIN area AS a ON a.area = i.area
            WHERE (%(area)s::text IS NULL
                   OR a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %(area)s))
              AND (%(disposition)s::text IS NULL OR i.disposition = %(disposition)s)
              AND (%(start)s::timestamptz IS NULL OR i.occurred_at >= %(start)s)
              AND (%(end)s::timestamptz IS NULL OR i.occurred_at < %(end)s)
            ORDER BY i.occurred_at DESC, i.id DESC
            LIMIT %(limit)s
            """,
            {
                "area": area,
                "disposition": disposition,
                "start": start,
                "end": end,
                "limit": limit,
            },
        )
        return await cursor.fetchall()


# -- what is counted

# Rows fit `ingest.indicators.security.Case`. Queries rather than calls, as in `sums`: the api asks
# them over its own, asynchronous connections.
CASES: Final[LiteralString] = """
    SELECT area, category, disposition FROM incident
    WHERE community = %(community)s AND occurred_at >= %(start)s AND occurred_at < %(end)s
    ORDER BY occurred_at, id
"""

# Columns fit `ingest.indicators.security.Alarm`.
_ALARM: Final[LiteralString] = """t.area,
           (extract(epoch FROM o.received_at) * 1000000)::bigint AS received_us,
           (extract(epoch FROM o.acknowledged_at) * 1000000)::bigint AS acknowledged_us,
           (extract(epoch FROM o.cleared_at) * 1000000)::bigint AS cleared_us,
           i.disposition"""
_ALARMS: Final[LiteralString] = """
    FROM alert_occurrence AS o
    JOIN alert AS t ON t.id = o.alert
    JOIN area AS a ON a.area = t.area
    LEFT JOIN LATERAL (
        -- The one that stands for the alert, or for its case; where none does, the last that was
        -- dismissed.
        SELECT i.disposition FROM incident AS i
        WHERE i.alert = t.id
           OR i.id = (SELECT c.incident FROM case_alert AS m
                      JOIN alert_case AS c ON c.id = m.case_id WHERE m.alert = t.id)
        ORDER BY i.disposition IN ('duplicate', 'withdrawn'),
                 i.alert IS NOT DISTINCT FROM t.id DESC, i.changed_at DESC, i.id DESC
        LIMIT 1
    ) AS i ON true{lay}
    WHERE o.received_at >= %(start)s AND o.received_at < %(end)s
      AND (o.rule LIKE 'alarm.%%' OR o.rule = 'gate.forced')
"""
ALARMS: Final[LiteralString] = (
    f"SELECT {_ALARM}"
    + _ALARMS.format(lay="")
    + " AND t.community = %(community)s ORDER BY o.received_at, o.id"
)
#: Of a subtree as it was, for one person: times do not add up, so they are computed from all of it.
#: Before the columns of an `Alarm` stands where its area lay that day, a path.
ALARMS_BELOW: Final[LiteralString] = (
    f"SELECT l.path::text, {_ALARM}"
    + _ALARMS.format(
        lay="""
    JOIN area_lay AS l ON l.area = t.area
        AND l.since <= (o.received_at AT TIME ZONE a.time_zone)::date
        AND l.until > (o.received_at AT TIME ZONE a.time_zone)::date"""
    )
    + """
      AND l.path ~ ('*.' || subpath(%(area)s::ltree, -1)::text || '.*')::lquery
      AND %(area)s::ltree <@ %(scope)s::ltree  -- invariant 9
      AND NOT t.rule = ANY (%(hidden)s)
    ORDER BY o.received_at, o.id
"""
)


def cases(conn: Connection, community: str, span: Span) -> list[Case]:
    """Return a community's incidents that occurred in ``span``, for `security.tally`."""
    start, end = map(from_us, span)
    with conn.cursor(row_factory=class_row(Case)) as cursor:
        return cursor.execute(
            CASES, {"community": community, "start": start, "end": end}
        ).fetchall()


def alarms(conn: Connection, community: str, span: Span) -> list[Alarm]:
    """Return a community's alarms that reached us in ``span``, for `security.tally`."""
    start, end = map(from_us, span)
    with conn.cursor(row_factory=class_row(Alarm)) as cursor:
        return cursor.execute(
            ALARMS, {"community": community, "start": start, "end": end}
        ).fetchall()


@dataclass(frozen=True, slots=True)
class OfficerCounts:
    """What the officer rule counts in one community and its city; see `officers.Situation`."""

    cases: int
    city_cases: int
    open_cases: int
    cases_by_hour: list[int]

    def situation(self, here: Population, city: Population) -> Situation:
        """Return the situation with the population of both.

        Where any day's residents are unknown, or registered so that a part is larger than the
        whole, no population is known and rates are not compared.
        """
        known = all(people.days_covered == people.days for people in (here, city))
        if not known or here.person_days > city.person_days:
            return Situation(
                self.cases, 0, self.city_cases, 0, False, self.open_cases, self.cases_by_hour
            )
        return Situation(
            self.cases,
            here.person_days,
            self.city_cases,
            city.person_days,
            True,
            self.open_cases,
            self.cases_by_hour,
        )


#: One row, fits `OfficerCounts`: the community at ``path``, its city being the root above it. The
#: caller checks that ``path`` lies in scope; of the city no more than a count is told.
OFFICER_COUNTS: Final[LiteralString] = """
    WITH counted AS (
        SELECT a.path <@ %(path)s::ltree AS is_here,
               i.criminal AND i.disposition = 'confirmed' AS is_case,
               i.disposition = 'open' AS is_open,
               extract(hour FROM i.occurred_at AT TIME ZONE a.time_zone)::int AS hour
        FROM incident AS i
        JOIN area AS a ON a.area = i.area
        WHERE a.path <@ subpath(%(path)s::ltree, 0, 1)
          AND i.occurred_at >= %(start)s AND i.occurred_at < %(end)s
    )
    SELECT count(*) FILTER (WHERE is_case AND is_here) AS cases,
           count(*) FILTER (WHERE is_case) AS city_cases,
           count(*) FILTER (WHERE is_open AND is_here) AS open_cases,
           ARRAY (
               SELECT (SELECT count(*) FROM counted AS c
                       WHERE c.is_case AND c.is_here AND c.hour = h.hour)
               FROM generate_series(0, 23) AS h (hour)
               ORDER BY h.hour
           ) AS cases_by_hour
    FROM counted
"""


def officer_counts(conn: Connection, path: str, start: datetime, end: datetime) -> OfficerCounts:
    """Return the counts of a community for ``[start, end)``."""
    with conn.cursor(row_factory=class_row(OfficerCounts)) as cursor:
        row = cursor.execute(OFFICER_COUNTS, {"path": path, "start": start, "end": end}).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    return row
