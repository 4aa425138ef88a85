# SPDX-License-Identifier: Apache-2.0
"""What raw readings say, run by run: most repeat the one before, and only changes leave the server.

A day of a city has more than a hundred million readings and a few runs a device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, LiteralString

from psycopg import Connection, sql
from psycopg.types.multirange import TimestamptzMultirange

from ingest.indicators import lighting
from ingest.indicators.spans import Hold, Span, from_us, to_us
from ingest.indicators.subject import Subject
from ingest.store.lamp_nights import multirange

# What a reading says of a device, true, false or null: it does not tell.
HEALTHY: Final[LiteralString] = "fault IS NULL"
WORKS: Final[LiteralString] = """
    CASE WHEN fault IS NOT NULL OR door IN ('held', 'forced') THEN false
         WHEN door IN ('closed', 'open') THEN true END"""
LIT: Final[LiteralString] = "coalesce(lit, power_w::float8 >= lit_power_w)"

# A reading begins a run when it says something else than the one before, or that no longer held.
# The first and the last are told in any case. Of two at one instant what is true comes later: it
# holds, the other for no time.
_RUNS: Final = sql.SQL("""
    SELECT s.id, t.at, t.said, t.before, t.before IS NULL OR t.said <> t.said_before
           OR t.at - t.before > s.max_silence AS begins
    FROM unnest(%(ids)s::int[], %(silences)s::interval[], %(powers)s::float8[])
        AS s (id, max_silence, lit_power_w)
    CROSS JOIN LATERAL (
        SELECT at, said, lag(at) OVER said_in_turn AS before,
               lag(said) OVER said_in_turn AS said_before, lead(at) OVER said_in_turn AS after
        FROM (SELECT at, {says} AS said FROM {table}
              WHERE device_id = s.id AND at >= %(start)s AND at < %(end)s) AS r
        WHERE said IS NOT NULL
        WINDOW said_in_turn AS (ORDER BY at, said)
    ) AS t
    WHERE t.before IS NULL OR t.after IS NULL OR t.said <> t.said_before
       OR t.at - t.before > s.max_silence
    ORDER BY s.id, t.at, t.said
""")


def load_runs(
    conn: Connection,
    table: str,
    says: LiteralString,
    subjects: Sequence[Subject],
    whole: Span,
    rated_power_w: Mapping[int, float | None] | None = None,
) -> dict[int, list[Hold]]:
    """Return from when to when devices are known to have been one thing, by device id.

    As `spans.runs` makes them of the readings in ``whole`` and those that still hold when it
    begins; the last one holds as well, beyond it.

    Args:
        conn: For reading.
        table: A table of readings.
        says: What one of them says, see `HEALTHY` and those beside it.
        subjects: Whose; each reading holds for its ``max_silence``.
        whole: The time.
        rated_power_w: By device id, for `LIT`.
    """
    powers: Mapping[int, float | None] = {} if rated_power_w is None else rated_power_w
    if not subjects:
        return {}
    start = whole[0] - max(one.max_silence_us for one in subjects)
    rows = conn.execute(
        _RUNS.format(says=sql.SQL(says), table=sql.Identifier(table)),
        {
            "ids": [one.device_id for one in subjects],
            "silences": [_silence(one) for one in subjects],
            "powers": [
                None if power is None else lighting.LIT_POWER_SHARE * power
                for power in (powers.get(one.device_id) for one in subjects)
            ],
            "start": from_us(start),
            "end": from_us(whole[1]),
        },
        binary=True,
    )
    silence_us = {one.device_id: one.max_silence_us for one in subjects}
    found: dict[int, list[Hold]] = {}
    device_id, since, last, said = -1, 0, 0, False

    def end(at_us: int) -> None:
        if device_id < 0:
            return
        until = min(at_us, last + silence_us[device_id])
        known = found.setdefault(device_id, [])
        if since == until:
            return
        if known and known[-1].end == since and known[-1].good is said:
            known[-1] = Hold(known[-1].start, until, said)
        else:
            known.append(Hold(since, until, said))

    for one, at, says_now, before, begins in rows:
        at_us = to_us(at)
        if one != device_id:
            end(_NEVER_US)
            device_id, since, said = one, at_us, says_now
        elif begins:
            last = to_us(before)
            end(at_us)
            since, said = at_us, says_now
        last = at_us
    end(_NEVER_US)
    return found


_NEVER_US: Final = 2**62


@dataclass(frozen=True, slots=True)
class Counted:
    """What a lamp used by its counter, watt hours.

    Attributes:
        used_wh: None where nothing tells.
        is_plain: Every step is forward, of a kilowatt hour at most, at an instant of its own: any
            other is to be looked at one by one.
    """

    used_wh: int | None
    is_plain: bool


def load_counted(
    conn: Connection, table: str, subjects: Sequence[Subject], whole: Span, reach_us: int
) -> dict[int, Counted]:
    """Return what lamps used in ``whole`` while in service by their energy counters, by device id.

    Args:
        conn: For reading.
        table: Of the lamps' readings.
        subjects: Lamps.
        whole: The time; the first difference may begin ``reach_us`` before.
        reach_us: Microseconds.
    """
    rows = conn.execute(
        sql.SQL("""
            SELECT s.id, t.used, t.is_plain
            FROM unnest(%(ids)s::int[], %(services)s::tstzmultirange[]) AS s (id, in_service)
            CROSS JOIN LATERAL (
                SELECT sum(step)::bigint AS used,
                       bool_and(step BETWEEN 0 AND 1000 AND at <> before) AS is_plain
                FROM (
                    SELECT at, wh - lag(wh) OVER in_turn AS step, lag(at) OVER in_turn AS before
                    FROM (SELECT at, floor(energy_kwh * 1000 + 0.5)::bigint AS wh FROM {table}
                          WHERE device_id = s.id AND at >= %(start)s AND at < %(end)s
                            AND energy_kwh IS NOT NULL) AS r
                    WINDOW in_turn AS (ORDER BY at, wh)
                ) AS steps
                WHERE step IS NOT NULL AND at <@ s.in_service
            ) AS t
            WHERE t.used IS NOT NULL
        """).format(table=sql.Identifier(table)),
        {
            "ids": [one.device_id for one in subjects],
            "services": [_service(one) for one in subjects],
            "start": from_us(whole[0] - reach_us),
            "end": from_us(whole[1]),
        },
        binary=True,
    )
    return {device_id: Counted(used, is_plain) for device_id, used, is_plain in rows}


def _service(subject: Subject) -> TimestamptzMultirange:
    return multirange(subject.in_service)


@dataclass(frozen=True, slots=True)
class BinDay:
    """How full a bin was, as far as its day has come; per cent.

    Attributes:
        latest_us: When it last told of a level that day; None: it did not.
        highest_pct: Of that day and of what still held when it began.
        before_pct: What it last told before the day, if that still held.
    """

    device_id: int
    latest_us: int | None
    highest_pct: float
    before_pct: float | None


def load_bins(
    conn: Connection, table: str, subjects: Sequence[Subject], whole: Span
) -> list[BinDay]:
    """Return how full bins were in ``whole``; those that told nothing are left out."""
    rows = conn.execute(
        sql.SQL("""
            SELECT s.id, t.latest, t.highest, t.before
            FROM unnest(%(ids)s::int[], %(silences)s::interval[]) AS s (id, max_silence)
            CROSS JOIN LATERAL (
                SELECT max(at) FILTER (WHERE at >= %(start)s) AS latest,
                       max(fill_pct) AS highest,
                       (array_agg(fill_pct ORDER BY at DESC, fill_pct DESC)
                           FILTER (WHERE at < %(start)s))[1] AS before
                FROM {table}
                WHERE device_id = s.id AND at < %(end)s AND at >= %(reached)s
                  AND at >= %(start)s - s.max_silence AND fill_pct IS NOT NULL
            ) AS t
            WHERE t.highest IS NOT NULL
        """).format(table=sql.Identifier(table)),
        {
            "ids": [one.device_id for one in subjects],
            "silences": [_silence(one) for one in subjects],
            "start": from_us(whole[0]),
            "reached": from_us(whole[0] - max((one.max_silence_us for one in subjects), default=0)),
            "end": from_us(whole[1]),
        },
        binary=True,
    )
    return [
        BinDay(device_id, None if latest is None else to_us(latest), highest, before)
        for device_id, latest, highest, before in rows
    ]


def _silence(subject: Subject) -> timedelta:
    return timedelta(microseconds=subject.max_silence_us)
