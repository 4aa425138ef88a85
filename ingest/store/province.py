# SPDX-License-Identifier: Apache-2.0
"""A city's side of federation: what its province is still to be told, and what was said.

The tables of numbers are the outbox: a day is to be told where its version is greater than the one
last sent. Only the few messages on their way are kept as bytes, for a number names one message for
ever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any, Final
from uuid import uuid4

from psycopg import Connection
from psycopg.rows import class_row

from edge_agent.messages import (
    Aggregate,
    AreaDay,
    AreaRecord,
    AreaTally,
    Rejection,
    encode,
)
from ingest.indicators.catalogue import INDICATORS, SINGLE
from ingest.store import course
from ingest.store.province_areas import digest, records

#: What is told: what adds up. Single times stay in the city, and medians of days make no median.
TOLD: Final = frozenset(INDICATORS) - SINGLE
# Days of history noted in one step; of a city of 2,500 communities some 400,000 rows are looked at.
NOTED_AT_ONCE: Final = timedelta(days=7)
# Of a message; the contract allows 128 KiB.
BYTES_MAX: Final = 120_000
_ROOM: Final = 300  # what is around the entries
DAYS_AT_ONCE: Final = 100
_REFUSALS_KEPT: Final = 1_000


@dataclass(frozen=True, slots=True)
class Province:
    """Whom this city tells, and by which numbers.

    Attributes:
        epoch: The course of our own database when the stream began.
        province_epoch: The course of theirs, as last heard.
        next_seq: The number that the next message will get.
        acknowledged: All messages up to this number are stored there, or refused for ever.
    """

    city: str
    level: str
    epoch: str
    province_epoch: str | None
    stream: str
    next_seq: int
    acknowledged: int
    acknowledged_at: datetime | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How much is told and how much waits; of areas and of areas' days."""

    areas: int
    areas_waiting: int
    days: int
    days_waiting: int
    messages: int


def load(conn: Connection) -> Province | None:
    """Return whom this city tells; None where it tells nobody."""
    with conn.cursor(row_factory=class_row(Province)) as cursor:
        return cursor.execute(
            """
            SELECT city, level, epoch, province_epoch, stream, next_seq,
                   coalesce((SELECT min(seq) FROM province_message), next_seq) - 1 AS acknowledged,
                   acknowledged_at
            FROM province
            """
        ).fetchone()


def begin(conn: Connection, city: str, level: str) -> Province:
    """Have everything told from now on: by the same stream, or anew where it cannot be the same.

    Anew where the city goes by another name, tells of another level, or its database is on another
    course: a standby may lack the last commits of its primary, and would number new messages as
    the province knows others. A backup on the same course the province's answers tell (`question`);
    where nothing was said yet, as far as we know, there is nothing to ask by.
    """
    with conn.transaction():
        epoch = str(course(conn))
        known = load(conn)
        if known is None:
            conn.execute(
                """
                INSERT INTO province (city, level, epoch, stream, noted_from)
                VALUES (%s, %s, %s, %s, 'infinity')
                """,
                (city, level, epoch, str(uuid4())),
            )
        elif known.next_seq == 1 or (known.city, known.level, known.epoch) != (city, level, epoch):
            renew(conn, None)
            conn.execute(
                "UPDATE province SET city = %s, level = %s, epoch = %s", (city, level, epoch)
            )
        after = load(conn)
        assert after is not None
        return after


def renew(conn: Connection, province_epoch: str | None) -> None:
    """Begin a new stream and tell everything again; there it changes nothing that is stored."""
    with conn.transaction():
        _forget(conn)
        conn.execute(
            """
            UPDATE province
            SET stream = %s, next_seq = 1, first_message = NULL, province_epoch = %s,
                noted_from = 'infinity'
            """,
            (str(uuid4()), province_epoch),
        )


def know_epoch(conn: Connection, epoch: str) -> bool:
    """Take note of which database answers; return False where it is another one than before.

    Then it was restored from a backup, and is told everything again.
    """
    with conn.transaction():
        row = conn.execute("SELECT province_epoch FROM province FOR UPDATE").fetchone()
        if row is None or row[0] == epoch:
            return True
        if row[0] is None:
            conn.execute("UPDATE province SET province_epoch = %s", (epoch,))
            return True
        renew(conn, epoch)
        return False


def stop(conn: Connection) -> None:
    """Tell nobody any more, and forget what was told."""
    with conn.transaction():
        _forget(conn)
        conn.execute("DELETE FROM province")


def _forget(conn: Connection) -> None:
    conn.execute("TRUNCATE province_message, province_area, province_day")


def resend(conn: Connection, first: date) -> int:
    """Have all areas, and all days from ``first`` on, told again; return how many days."""
    with conn.transaction():
        conn.execute("UPDATE province_area SET version = next_version(version)")
        return conn.execute(
            "UPDATE province_day SET version = next_version(version) WHERE day >= %s", (first,)
        ).rowcount


def note_history(conn: Connection) -> tuple[date, int] | None:
    """Note the latest days that are not noted yet: those of one week.

    Returns:
        From which day on all are noted now, and how many were found; None where nothing is left.
    """
    with conn.transaction():
        row = conn.execute(
            """
            SELECT p.level, CASE WHEN isfinite(p.noted_from) THEN p.noted_from END,
                   h.latest, h.earliest
            FROM province AS p
            CROSS JOIN (
                SELECT max(s.last) AS latest, min(s.first) AS earliest
                FROM area AS a JOIN area_sum AS s ON s.area = a.area AND s.span = 'month'
                WHERE a.parent IS NULL
            ) AS h
            WHERE p.noted_from IS NOT NULL
            """
        ).fetchone()
        if row is None:
            return None
        level, before, latest, earliest = row
        if latest is None or (before is not None and before <= earliest):
            conn.execute("UPDATE province SET noted_from = NULL")
            return None
        end: date = min(before, latest + timedelta(days=1)) if before else latest + timedelta(1)
        first = end - NOTED_AT_ONCE
        found = conn.execute(
            """
            INSERT INTO province_day (area, day, version)
            SELECT n.area, n.first, next_version(0)
            FROM (
                SELECT DISTINCT s.area, s.first
                FROM area AS a
                CROSS JOIN unnest(%(told)s::text[]) AS i (indicator)
                CROSS JOIN LATERAL (
                    SELECT area, parent, first FROM area_sum
                    WHERE area = a.area AND indicator = i.indicator AND span = 'day'
                      AND first >= %(first)s AND first < %(end)s
                    OFFSET 0
                ) AS s
                LEFT JOIN area AS o ON o.area = s.parent
                WHERE is_told(a.level, o.level, %(level)s)
            ) AS n
            ORDER BY n.area, n.first
            ON CONFLICT (area, day) DO NOTHING
            """,
            {"told": sorted(TOLD), "first": first, "end": end, "level": level},
        ).rowcount
        conn.execute("UPDATE province SET noted_from = %s", (first,))
        return first, found


def note_areas(conn: Connection) -> int:
    """Note which areas changed; return how many did."""
    with conn.transaction():
        told = records(conn)
        known = dict(conn.execute("SELECT area, sha256 FROM province_area").fetchall())
        changed = [one for one in told if known.get(one.area) != digest(one)]
        if changed:
            conn.execute(
                """
                INSERT INTO province_area AS a (area, version, sha256)
                SELECT n.area, next_version(0), n.sha256
                FROM unnest(%s::text[], %s::bytea[]) AS n (area, sha256)
                ON CONFLICT (area) DO UPDATE
                SET version = next_version(a.version), sha256 = excluded.sha256
                """,
                ([one.area for one in changed], [digest(one) for one in changed]),
            )
    return len(changed)


def next_message(conn: Connection, now: datetime) -> tuple[int, bytes] | None:
    """Make the next message, keep it, and return its number and bytes; None: nothing waits.

    Areas go before days, so that nobody is told of what he does not know.
    """
    with conn.transaction():
        row = conn.execute("SELECT stream, next_seq FROM province FOR UPDATE").fetchone()
        if row is None:
            return None
        stream, seq = row
        areas = _next_areas(conn)
        days = () if areas else _next_days(conn)
        if not areas and not days:
            return None
        payload = encode(
            Aggregate(stream=stream, seq=seq, sent_at=now, areas=areas or None, days=days or None)
        )
        conn.execute("INSERT INTO province_message (seq, payload) VALUES (%s, %s)", (seq, payload))
        conn.execute(
            """
            UPDATE province SET next_seq = %s, first_message = coalesce(first_message,
                (SELECT payload FROM province_message WHERE seq = 1))
            """,
            (seq + 1,),
        )
    return seq, payload


def _next_areas(conn: Connection) -> tuple[AreaRecord, ...]:
    versions: dict[str, int] = dict(
        conn.execute(
            "SELECT area, version FROM province_area WHERE version > sent FOR UPDATE"
        ).fetchall()
    )
    if not versions:
        return ()
    size, taken = _ROOM, list[AreaRecord]()
    for bare in records(conn, sorted(versions)):
        record = bare.model_copy(update={"version": versions[bare.area]})
        size += len(encode(record)) + 1
        if taken and size > BYTES_MAX:
            break
        taken.append(record)
    conn.execute(
        "UPDATE province_area SET sent = version WHERE area = ANY (%s)",
        ([one.area for one in taken],),
    )
    return tuple(taken)


def _next_days(conn: Connection) -> tuple[AreaDay, ...]:
    # Locked, and only then read: who changes a day changes its version in the same transaction.
    keys = conn.execute(
        """
        SELECT area, day, version FROM province_day
        WHERE version > sent
        ORDER BY date_trunc('month', day::timestamp) DESC, area, day DESC LIMIT %s
        FOR UPDATE
        """,
        (DAYS_AT_ONCE,),
    ).fetchall()
    if not keys:
        return ()
    rows = conn.execute(
        """
        SELECT s.area, s.first, s.indicator, s.kind, sum(s.good)::bigint, sum(s.bad)::bigint,
               sum(s.total)::bigint, sum(s.subjects)::int, sum_by_reason(s.excluded),
               max(s.revision), max(s.rule_version), max(s.computed_at)
        FROM unnest(%s::text[], %s::date[]) AS k (area, day)
        CROSS JOIN unnest(%s::text[]) AS i (indicator)
        CROSS JOIN LATERAL (
            -- OFFSET 0: each is found in the index, however few the planner takes the rest for.
            SELECT * FROM area_sum
            WHERE area = k.area AND indicator = i.indicator AND span = 'day' AND first = k.day
            OFFSET 0
        ) AS s
        GROUP BY s.area, s.first, s.indicator, s.kind
        ORDER BY s.area, s.first, s.indicator, s.kind
        """,
        ([area for area, _, _ in keys], [day for _, day, _ in keys], sorted(TOLD)),
    ).fetchall()
    found = {key: list(of_day) for key, of_day in groupby(rows, key=lambda row: (row[0], row[1]))}
    size, taken = _ROOM, list[AreaDay]()
    for area, day, version in keys:
        one = _area_day(area, day, version, found.get((area, day), ()))
        size += len(encode(one)) + 1
        if taken and size > BYTES_MAX:
            break
        taken.append(one)
    conn.execute(
        """
        UPDATE province_day AS d SET sent = k.version
        FROM unnest(%s::text[], %s::date[], %s::bigint[]) AS k (area, day, version)
        WHERE d.area = k.area AND d.day = k.day
        """,
        _keys(taken),
    )
    return tuple(taken)


def _area_day(area: str, day: date, version: int, rows: Sequence[Sequence[Any]]) -> AreaDay:
    return AreaDay(
        area=area,
        day=day,
        version=version,
        computed_at=max((row[-1] for row in rows), default=datetime(2000, 1, 1, tzinfo=UTC)),
        tallies=tuple(
            AreaTally(
                indicator=indicator,
                kind=kind or None,
                good=good,
                bad=bad,
                total=total,
                subjects=subjects,
                excluded=excluded or None,
                revision=revision,
                rule_version=rule_version,
            )
            for _, _, indicator, kind, good, bad, total, subjects, excluded, revision,
                rule_version, _ in rows
        ),
    )  # fmt: skip


def _keys(days: Sequence[AreaDay]) -> tuple[list[str], list[date], list[int]]:
    return [one.area for one in days], [one.day for one in days], [one.version for one in days]


def messages(conn: Connection) -> list[tuple[int, bytes]]:
    """Return the messages that are not acknowledged, in order."""
    return conn.execute("SELECT seq, payload FROM province_message ORDER BY seq").fetchall()


def question(conn: Connection) -> tuple[int, bytes] | None:
    """Return the stream's first message, to be sent again: the answer tells how far it is stored.

    None where nothing was said yet.
    """
    return conn.execute(
        "SELECT 1, first_message FROM province WHERE first_message IS NOT NULL"
    ).fetchone()


def settle(
    conn: Connection, stream: str, upto: int, refused: Sequence[Rejection], now: datetime
) -> int:
    """Take note of what is stored there, or refused for ever; return how many messages were.

    Args:
        conn: Any connection.
        stream: Whose numbers these are; those of an earlier one say nothing any more.
        upto: All messages up to this number.
        refused: What of them, or of others, was refused.
        now: The present.
    """
    with conn.transaction():
        known = conn.execute("SELECT stream FROM province FOR UPDATE").fetchone()
        if known is None or known[0] != stream:
            return 0
        for one in refused:
            _keep_refusal(conn, one, now)
        done = conn.execute(
            "DELETE FROM province_message WHERE seq <= %s RETURNING payload", (upto,)
        ).fetchall()
        for (payload,) in done:
            _told(conn, Aggregate.model_validate_json(payload))
        if done:
            conn.execute("UPDATE province SET acknowledged_at = %s", (now,))
    return len(done)


def _told(conn: Connection, message: Aggregate) -> None:
    areas = message.areas or ()
    conn.execute(
        """
        UPDATE province_area AS a SET told = greatest(told, k.version)
        FROM unnest(%s::text[], %s::bigint[]) AS k (area, version) WHERE a.area = k.area
        """,
        ([one.area for one in areas], [one.version for one in areas]),
    )
    conn.execute(
        """
        UPDATE province_day AS d SET told = greatest(told, k.version)
        FROM unnest(%s::text[], %s::date[], %s::bigint[]) AS k (area, day, version)
        WHERE d.area = k.area AND d.day = k.day
        """,
        _keys(message.days or ()),
    )


def _keep_refusal(conn: Connection, refusal: Rejection, now: datetime) -> None:
    """Keep what was refused for people to see, once however often it is told."""
    row = conn.execute(
        "SELECT payload FROM province_message WHERE seq = %s", (refusal.seq,)
    ).fetchone()
    area: str | None = None
    day: date | None = None
    if row is not None and refusal.index is not None:
        message = Aggregate.model_validate_json(row[0])
        if message.days is not None and refusal.index < len(message.days):
            area, day = message.days[refusal.index].area, message.days[refusal.index].day
        elif message.areas is not None and refusal.index < len(message.areas):
            area = message.areas[refusal.index].area
    conn.execute(
        """
        INSERT INTO province_refusal (at, seq, at_index, reason, area, day)
        VALUES (%s, %s, %s, %s, %s, %s)
        """,
        (now, refusal.seq, refusal.index, refusal.reason, area, day),
    )
    conn.execute(
        "DELETE FROM province_refusal WHERE id <= (SELECT max(id) FROM province_refusal) - %s",
        (_REFUSALS_KEPT,),
    )


def refusals(conn: Connection, limit: int) -> list[tuple[datetime, str, str | None, date | None]]:
    """Return what was refused lately, newest first: when, why, which area, which day."""
    return conn.execute(
        "SELECT at, reason, area, day FROM province_refusal ORDER BY id DESC LIMIT %s", (limit,)
    ).fetchall()


def progress(conn: Connection) -> Progress:
    """Return how much is told and how much waits."""
    with conn.cursor(row_factory=class_row(Progress)) as cursor:
        found = cursor.execute(
            """
            SELECT (SELECT count(*) FROM province_area) AS areas,
                   (SELECT count(*) FROM province_area WHERE version > told) AS areas_waiting,
                   (SELECT count(*) FROM province_day) AS days,
                   (SELECT count(*) FROM province_day WHERE version > told) AS days_waiting,
                   (SELECT count(*) FROM province_message) AS messages
            """
        ).fetchone()
    assert found is not None, "an aggregate always has a row"
    return found
