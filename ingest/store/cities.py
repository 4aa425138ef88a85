# SPDX-License-Identifier: Apache-2.0
"""A province's side of federation: its cities, whose each area is, and the numbers they tell.

Of everything that is told the greatest version holds, whatever order it comes in and however often;
an equal version with other content is refused, and so is an area that is somebody else's.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Final, LiteralString, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from psycopg.types.range import DateRange

from edge_agent.messages import AreaDay, AreaRecord, Status, encode
from ingest.indicators.catalogue import INDICATORS

LEVELS: Final = ("province", "city", "district", "street", "community", "cell")
# A day is told once it is over where it was; time zones differ by a day at most.
_AHEAD: Final = timedelta(days=1)
_TOLD_AGAIN: Final = "city"  # why a number was replaced


class Refused(NamedTuple):
    """An area or day of a message that is not taken: its place there, why, and for people what."""

    place: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class City:
    """A city as its province sees it."""

    city: str
    area: str
    status: str
    last_seen_at: datetime | None
    silent: bool
    told_at: datetime | None
    waiting: int | None
    areas: int


@dataclass(frozen=True, slots=True)
class _Known:
    """An area of a city, as it is stored."""

    path: str
    level: str
    version: int
    sha256: bytes


def admit(conn: Connection, city: str, area: str, name: str, parent: str) -> None:
    """Let a city tell of one area and what lies in it; the area is made where it is not there yet.

    Raises:
        KeyError: There is no area ``parent``.
        ValueError: The name or the area is taken; the text says by whom.
    """
    with conn.transaction():
        above = conn.execute("SELECT path::text FROM area WHERE area = %s", (parent,)).fetchone()
        if above is None:
            raise KeyError(parent)
        if conn.execute("SELECT 1 FROM gateway WHERE gateway = %s", (city,)).fetchone():
            raise ValueError(f"{city!r} is a gateway")
        known = conn.execute("SELECT area FROM city WHERE city = %s", (city,)).fetchone()
        if known is not None:
            if known[0] != area:
                raise ValueError(f"{city!r} tells of {known[0]!r} already")
            conn.execute("UPDATE city SET status = 'active' WHERE city = %s", (city,))
        else:
            if conn.execute("SELECT 1 FROM area WHERE area = %s", (area,)).fetchone():
                raise ValueError(f"area {area!r} is registered already")
            conn.execute(
                """
                INSERT INTO area (area, parent, path, level, name)
                VALUES (%s, %s, (%s || '.' || replace(%s, '-', '_'))::ltree, 'city', %s)
                """,
                (area, parent, above[0], area, name),
            )
            conn.execute("INSERT INTO city (city, area) VALUES (%s, %s)", (city, area))
            conn.execute(
                "INSERT INTO city_area (area, city, version, sha256) VALUES (%s, %s, 0, '')",
                (area, city),
            )
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")


def listed(conn: Connection) -> list[City]:
    """Return all cities, by name."""
    with conn.cursor(row_factory=class_row(City)) as cursor:
        return cursor.execute(
            """
            SELECT c.city, c.area, c.status, c.last_seen_at, c.silent, c.told_at, c.waiting,
                   (SELECT count(*) FROM city_area AS a WHERE a.city = c.city) AS areas
            FROM city AS c ORDER BY c.city
            """
        ).fetchall()


def save_status(conn: Connection, statuses: Mapping[str, tuple[Status, datetime]]) -> None:
    """Write the latest status of each city; a will says only that the link broke."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            UPDATE city
            SET status_at = %s, agent_version = %s, waiting = %s, status_interval_s = %s
            WHERE city = %s
            """,
            [
                (
                    received_at,
                    status.agent_version,
                    status.outbox_messages,
                    status.status_interval_s,
                    city,
                )
                for city, (status, received_at) in statuses.items()
                if status.state == "online"
            ],
        )


def save_presence(conn: Connection, presence: Sequence[tuple[str, datetime | None, bool]]) -> None:
    """Write when cities were last heard, and whether that is too long ago."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            UPDATE city SET last_seen_at = greatest(last_seen_at, %s), silent = %s WHERE city = %s
            """,
            [(last_seen_at, silent, city) for city, last_seen_at, silent in presence],
        )


def _digest(one: AreaRecord | AreaDay) -> bytes:
    return hashlib.sha256(encode(one)).digest()


# Areas


def take_areas(conn: Connection, city: str, records: Sequence[AreaRecord]) -> list[Refused]:
    """Store what a city tells of its areas; return what is refused."""
    top = conn.execute(
        """
        SELECT a.area, a.path::text FROM city AS c JOIN area AS a ON a.area = c.area
        WHERE c.city = %s FOR UPDATE OF c
        """,
        (city,),
    ).fetchone()
    assert top is not None, "who is judged to be a city is registered"
    tree = _Tree(top[0], top[1], _areas_of(conn, city), _foreign(conn, city, records))
    refused: list[Refused] = []
    changed = False
    for index, record in enumerate(records):
        known, digest = tree.known.get(record.area), _digest(record)
        if known is not None and known.version >= record.version:
            if known.version == record.version and known.sha256 != digest:
                refused.append(Refused(index, "aggregate.conflict", record.area))
            continue
        reason = tree.fault(record)
        if reason is not None:
            refused.append(Refused(index, reason, f"{record.area} in {record.parent}"))
            continue
        path = tree.path(record.places[-1].path)
        _write_area(conn, city, record, path, digest, is_new=known is None)
        _write_places(conn, record, tree)
        _write_population(conn, record)
        tree.known[record.area] = _Known(path, record.level, record.version, digest)
        changed = True
    if changed:
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    return refused


def _areas_of(conn: Connection, city: str) -> dict[str, _Known]:
    return {
        area: _Known(*columns)
        for area, *columns in conn.execute(
            """
            SELECT c.area, a.path::text, a.level, c.version, c.sha256
            FROM city_area AS c JOIN area AS a ON a.area = c.area
            WHERE c.city = %s
            """,
            (city,),
        )
    }


def _foreign(conn: Connection, city: str, records: Sequence[AreaRecord]) -> frozenset[str]:
    """Return which of the areas are somebody else's."""
    rows = conn.execute(
        """
        SELECT a.area FROM area AS a
        LEFT JOIN city_area AS c ON c.area = a.area
        WHERE a.area = ANY (%s) AND c.city IS DISTINCT FROM %s
        """,
        ([one.area for one in records], city),
    ).fetchall()
    return frozenset(area for (area,) in rows)


@dataclass(frozen=True, slots=True)
class _Tree:
    """A city's areas while a message of them is taken.

    Attributes:
        top: The area that all others lie in.
        top_path: Its path in the province.
        known: The city's areas, also those just taken.
        foreign: Areas that are somebody else's.
    """

    top: str
    top_path: str
    known: dict[str, _Known]
    foreign: frozenset[str]

    def path(self, labels: Sequence[str]) -> str:
        """Return a path in the city as one in the province."""
        return ".".join([self.top_path, *(label.replace("-", "_") for label in labels[1:])])

    def fault(self, record: AreaRecord) -> str | None:
        """Return why an area cannot be taken, as a reason; None where it can."""
        if record.area in self.foreign or (record.area == self.top) != (record.parent is None):
            return "area.foreign"
        above = self.known.get(record.parent or "")
        if above is None and record.area != self.top:
            return "area.unknown"
        sinces = [place.since for place in record.places]
        if sinces[0] is not None or None in sinces[1:]:
            return "area.impossible"
        if any(one >= two for one, two in pairwise(filter(None, sinces))):
            return "area.impossible"
        for place in record.places:
            if place.path[0] != self.top or place.path[-1] != record.area:
                return "area.impossible"
            if any(label not in self.known for label in place.path[:-1]):
                return "area.unknown"
            if len(set(place.path)) != len(place.path) or not _is_zone(place.time_zone):
                return "area.impossible"
        if above is not None and (
            self.path(record.places[-1].path[:-1]) != above.path
            or LEVELS.index(record.level) <= LEVELS.index(above.level)
        ):
            return "area.impossible"
        spans = [(one.first, one.end or date.max) for one in record.population]
        if any(first >= end for first, end in spans) or any(
            one[1] > two[0] for one, two in pairwise(spans)
        ):
            return "area.impossible"
        return None


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _write_area(
    conn: Connection, city: str, record: AreaRecord, path: str, digest: bytes, *, is_new: bool
) -> None:
    values = {
        "area": record.area,
        "parent": record.parent,
        "path": path,
        "level": record.level,
        "name": record.name,
        "name_en": record.name_en,
        "time_zone": record.places[-1].time_zone,
        "city": city,
        "version": record.version,
        "sha256": digest,
    }
    conn.execute(
        """
        INSERT INTO area (area, parent, path, level, name, name_en, time_zone)
        VALUES (%(area)s, %(parent)s, %(path)s::ltree, %(level)s, %(name)s, %(name_en)s,
                %(time_zone)s)
        """
        if is_new
        # The city's own area keeps its place in the province.
        else """
        UPDATE area SET parent = coalesce(%(parent)s, parent), path = %(path)s::ltree,
            level = %(level)s, name = %(name)s, name_en = %(name_en)s, time_zone = %(time_zone)s
        WHERE area = %(area)s
        """,
        values,
    )
    conn.execute(
        """
        INSERT INTO city_area (area, city, version, sha256)
        VALUES (%(area)s, %(city)s, %(version)s, %(sha256)s)
        ON CONFLICT (area) DO UPDATE SET version = excluded.version, sha256 = excluded.sha256
        """,
        values,
    )


def _write_places(conn: Connection, record: AreaRecord, tree: _Tree) -> None:
    """Let the area have lain where its city says, not where it lay when we were told."""
    sinces = [place.since for place in record.places]
    conn.execute("DELETE FROM area_version WHERE area = %s", (record.area,))
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO area_version (area, during, path, time_zone)
            VALUES (%s, tstzrange(%s, %s), %s::ltree, %s)
            """,
            [
                (record.area, since, until, tree.path(place.path), place.time_zone)
                for place, since, until in zip(
                    record.places, sinces, [*sinces[1:], None], strict=True
                )
            ],
        )


def _write_population(conn: Connection, record: AreaRecord) -> None:
    conn.execute("DELETE FROM area_population WHERE area = %s", (record.area,))
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO area_population (area, valid, residents, households)
            VALUES (%s, %s, %s, %s)
            """,
            [
                (record.area, DateRange(one.first, one.end), one.residents, one.households)
                for one in record.population
            ],
        )


# Days


def take_days(
    conn: Connection, city: str, days: Sequence[AreaDay], received_at: datetime
) -> list[Refused]:
    """Store the numbers a city tells of its areas' days; return what is refused."""
    own, others = _owned(conn, city, days)
    known = _known_days(conn, days)
    refused: list[Refused] = []
    taken: dict[tuple[str, date], AreaDay] = {}
    digests: dict[tuple[str, date], bytes] = {}
    latest = received_at.date() + _AHEAD
    for index, one in enumerate(days):
        key, digest = (one.area, one.day), _digest(one)
        if one.area not in own:
            reason = "area.foreign" if one.area in others else "area.unknown"
            refused.append(Refused(index, reason, one.area))
        elif one.day > latest:
            refused.append(Refused(index, "time.future", f"{one.area} on {one.day}"))
        elif (before := known.get(key)) is not None and before[0] >= one.version:
            if before[0] == one.version and before[1] != digest:
                refused.append(Refused(index, "aggregate.conflict", f"{one.area} on {one.day}"))
        else:
            known[key] = (one.version, digest)
            taken[key], digests[key] = one, digest
    if taken:
        _write_days(conn, list(taken.values()), received_at)
        conn.execute(
            """
            INSERT INTO city_day (area, day, version, sha256, received_at)
            SELECT *, %s FROM unnest(%s::text[], %s::date[], %s::bigint[], %s::bytea[])
            ON CONFLICT (area, day) DO UPDATE SET version = excluded.version,
                sha256 = excluded.sha256, received_at = excluded.received_at
            """,
            (
                received_at,
                [area for area, _ in taken],
                [day for _, day in taken],
                [one.version for one in taken.values()],
                [digests[key] for key in taken],
            ),
        )
        conn.execute(
            "UPDATE city SET told_at = greatest(told_at, %s) WHERE city = %s", (received_at, city)
        )
    return refused


def _owned(
    conn: Connection, city: str, days: Sequence[AreaDay]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return which areas of days are the city's, and which are somebody else's."""
    rows = conn.execute(
        """
        SELECT a.area, c.city IS NOT DISTINCT FROM %s AND c.version > 0
        FROM area AS a LEFT JOIN city_area AS c ON c.area = a.area
        WHERE a.area = ANY (%s)
        """,
        (city, sorted({one.area for one in days})),
    ).fetchall()
    own = frozenset(area for area, is_own in rows if is_own)
    return own, frozenset(area for area, _ in rows) - own


def _known_days(
    conn: Connection, days: Sequence[AreaDay]
) -> dict[tuple[str, date], tuple[int, bytes]]:
    rows = conn.execute(
        """
        SELECT d.area, d.day, d.version, d.sha256
        FROM (SELECT DISTINCT * FROM unnest(%s::text[], %s::date[])) AS k (area, day)
        JOIN city_day AS d USING (area, day)
        """,
        ([one.area for one in days], [one.day for one in days]),
    ).fetchall()
    return {(area, day): (version, sha256) for area, day, version, sha256 in rows}


# The rows of a message's days as columns, named once for all that is done with them.
_TALLIES: Final[LiteralString] = """
    unnest(%(area)s::text[], %(day)s::date[], %(indicator)s::text[], %(kind)s::text[],
           %(good)s::bigint[], %(bad)s::bigint[], %(total)s::bigint[], %(subjects)s::int[],
           %(excluded)s::jsonb[], %(revision)s::int[], %(rule_version)s::int[],
           %(computed_at)s::timestamptz[])
    AS n (area, day, indicator, kind, good, bad, total, subjects, excluded, revision,
          rule_version, computed_at)
"""


def _write_days(conn: Connection, days: Sequence[AreaDay], now: datetime) -> None:
    """Write tallies as final numbers; what they replace is kept with its reason.

    A city whose database went back begins again at lower revisions.
    """
    values = _columns(days) | {"now": now, "reason": _TOLD_AGAIN, "indicators": [*INDICATORS]}
    conn.execute(
        f"""
        INSERT INTO area_day_revision (indicator, day, area, kind, revision, good, bad, total,
            subjects, excluded, rule_version, computed_at, replaced_at, reason)
        SELECT d.indicator, d.day, d.area, d.kind, d.revision, d.good, d.bad, d.total, d.subjects,
               d.excluded, d.rule_version, d.computed_at, %(now)s, %(reason)s
        FROM {_TALLIES}
        JOIN area_day AS d USING (area, indicator, day, kind)
        WHERE d.revision <> n.revision AND (d.good, d.bad, d.total, d.subjects, d.excluded)
              IS DISTINCT FROM (n.good, n.bad, n.total, n.subjects, n.excluded)
        ON CONFLICT DO NOTHING
        """,  # noqa: S608 - our own words
        values,
    )
    conn.execute(
        """
        DELETE FROM area_day AS d
        USING unnest(%(areas)s::text[], %(days)s::date[]) AS k (area, day)
            JOIN city_day AS c USING (area, day)  -- only of days told before is there anything
            CROSS JOIN unnest(%(indicators)s::text[]) AS i (indicator)
        WHERE d.area = k.area AND d.indicator = i.indicator AND d.day = k.day
          AND NOT EXISTS (
              SELECT FROM unnest(%(area)s::text[], %(day)s::date[], %(indicator)s::text[],
                                 %(kind)s::text[]) AS n (area, day, indicator, kind)
              WHERE (n.area, n.day, n.indicator, n.kind)
                    = (d.area, d.day, d.indicator, d.kind))
        """,
        values,
    )
    conn.execute(
        f"""
        INSERT INTO area_day AS d (area, day, indicator, kind, good, bad, total, subjects,
            excluded, revision, rule_version, computed_at, status)
        SELECT n.*, 'final' FROM {_TALLIES}
        ON CONFLICT (area, indicator, day, kind) DO UPDATE SET
            good = excluded.good, bad = excluded.bad, total = excluded.total,
            subjects = excluded.subjects, excluded = excluded.excluded,
            revision = excluded.revision, rule_version = excluded.rule_version,
            computed_at = excluded.computed_at, status = excluded.status
        WHERE (d.good, d.bad, d.total, d.subjects, d.excluded, d.revision, d.rule_version, d.status)
              IS DISTINCT FROM (excluded.good, excluded.bad, excluded.total, excluded.subjects,
                                excluded.excluded, excluded.revision, excluded.rule_version,
                                excluded.status)
        """,  # noqa: S608 - our own words
        values,
    )


def _columns(days: Sequence[AreaDay]) -> dict[str, object]:
    # A class named twice counts once: the last, as in an object.
    rows = list(
        {
            (day.area, day.day, one.indicator, one.kind or ""): (day, one)
            for day in days
            for one in day.tallies
        }.values()
    )
    return {
        "areas": [day.area for day in days],
        "days": [day.day for day in days],
        "area": [day.area for day, _ in rows],
        "day": [day.day for day, _ in rows],
        "indicator": [one.indicator for _, one in rows],
        "kind": [one.kind or "" for _, one in rows],
        "good": [one.good for _, one in rows],
        "bad": [one.bad for _, one in rows],
        "total": [one.total for _, one in rows],
        "subjects": [one.subjects for _, one in rows],
        "excluded": [Jsonb(_told(one.excluded)) for _, one in rows],
        "revision": [one.revision for _, one in rows],
        "rule_version": [one.rule_version for _, one in rows],
        "computed_at": [day.computed_at for day, _ in rows],
    }


def _told(excluded: Mapping[str, int] | None) -> dict[str, int]:
    return {reason: part for reason, part in (excluded or {}).items() if part}
