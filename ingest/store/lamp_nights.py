# SPDX-License-Identifier: Apache-2.0
"""Lighting by lamp and night: opened ahead, added to in each flush, recomputed when dirty."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache

from psycopg import Connection
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange

from ingest.indicators import lighting, spans
from ingest.indicators.spans import Span
from ingest.store.devices import Device

NightKey = tuple[int, date]  # device id, night
# A night is final this long after its end: what comes later still restates it.
FINAL_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Night:
    """A lamp-night as it is opened: when its lamp is due."""

    device: Device
    night: date
    due: tuple[Span, ...]


def as_of(device: Device, night: date) -> Device:
    """Return a lamp as it counts for one night: as it was registered at its end, or is now."""
    return device.at(lighting.night_span(night, device.place.time_zone)[1] - 1)


def open_night(device: Device, night: date) -> Night:
    """Return when ``device`` is due: its programme, since it is in service, less maintenance."""
    device = as_of(device, night)
    due = lighting.due(device.programme, device.place, night)
    in_service = (device.in_service_from_us, lighting.night_span(night, device.place.time_zone)[1])
    return Night(device, night, spans.subtract(spans.clip(due, in_service), device.maintenance))


def insert_missing(conn: Connection, nights: Sequence[Night]) -> None:
    """Make rows for nights that have none, so that an unheard lamp counts as unknown."""
    conn.execute(
        """
        INSERT INTO lamp_night (device_id, night, community, due, due_us, due_to)
        SELECT * FROM unnest(%s::int[], %s::date[], %s::text[], %s::text[]::tstzmultirange[],
                             %s::bigint[], %s::timestamptz[])
        ON CONFLICT (device_id, night) DO NOTHING
        """,
        (
            [night.device.id for night in nights],
            [night.night for night in nights],
            [night.device.community for night in nights],
            [_multirange_text(night.due) for night in nights],
            [spans.length(night.due) for night in nights],
            [
                spans.from_us(lighting.night_span(night.night, night.device.place.time_zone)[1])
                for night in nights
            ],
        ),
    )


def add(conn: Connection, settled: Mapping[NightKey, tuple[int, int]]) -> None:
    """Add lit and dark microseconds, settled by in-order readings."""
    conn.execute(
        """
        UPDATE lamp_night AS n
        SET lit_us = n.lit_us + s.lit_us, dark_us = n.dark_us + s.dark_us
        FROM unnest(%s::int[], %s::date[], %s::bigint[], %s::bigint[])
            AS s (device_id, night, lit_us, dark_us)
        WHERE n.device_id = s.device_id AND n.night = s.night
        """,
        (
            _array(device_id for device_id, _ in settled),
            _array(night for _, night in settled),
            _array(lit for lit, _ in settled.values()),
            _array(dark for _, dark in settled.values()),
        ),
    )


def _array(values: Iterable[int | date]) -> str:
    """Return an array as PostgreSQL writes one; the driver would look at each value by itself."""
    return f"{{{','.join(map(str, values))}}}"


def mark_dirty(conn: Connection, nights: Iterable[NightKey]) -> None:
    """Remember that late readings came: these nights are recomputed, where raw ones are kept."""
    keys = sorted(nights)
    conn.execute(
        """
        UPDATE lamp_night AS n SET dirty = true
        FROM unnest(%s::int[], %s::date[]) AS k (device_id, night)
        WHERE n.device_id = k.device_id AND n.night = k.night
          AND NOT EXISTS (
              SELECT FROM raw_kept AS r
              WHERE r.domain = 'lighting' AND n.due_to - interval '25 hours' < r.since)
        """,
        ([device_id for device_id, _ in keys], [night for _, night in keys]),
    )


def take_dirty(
    conn: Connection,
    limit: int,
    until: datetime | None = None,
    gateways: Sequence[str] | None = None,
) -> list[NightKey]:
    """Lock up to ``limit`` dirty nights and return them.

    Args:
        conn: In a transaction.
        limit: How many.
        until: Nights of which readings may be younger wait; None: none does.
        gateways: Of lamps behind these alone; None: of all.
    """
    rows = conn.execute(
        """
        SELECT n.device_id, n.night
        FROM lamp_night AS n
        JOIN device AS d ON d.id = n.device_id
        WHERE n.dirty
          AND n.due_to + d.reporting_period_s * %(periods)s * interval '1 second'
              <= coalesce(%(until)s, 'infinity'::timestamptz)
          AND (%(gateways)s::text[] IS NULL OR d.gateway = ANY (%(gateways)s))
        ORDER BY n.device_id, n.night
        LIMIT %(limit)s
        FOR UPDATE OF n SKIP LOCKED
        """,
        {
            "limit": limit,
            "until": until,
            "periods": lighting.SILENCE_PERIODS,
            "gateways": gateways,
        },
    ).fetchall()
    return [(device_id, night) for device_id, night in rows]


def recompute(conn: Connection, device: Device, night: date, open_at: datetime | None) -> bool:
    """Restate one night from raw readings; return whether its numbers changed.

    Args:
        conn: In the transaction that holds the night's row lock.
        device: The lamp.
        night: Which night.
        open_at: The lamp's latest reading that tells of light: what it holds is not settled.
    """
    device = as_of(device, night)
    start, end = lighting.night_span(night, device.place.time_zone)
    rows = conn.execute(
        """
        SELECT at, lit, power_w FROM reading_lamp
        WHERE device_id = %s AND at >= %s AND at < %s
        ORDER BY at
        """,
        (
            device.id,
            spans.from_us(start) - device.max_silence,
            spans.from_us(end) + device.max_silence,
        ),
    ).fetchall()
    readings = sorted(
        (spans.to_us(at), lit)
        for at, raw, power_w in rows
        if (lit := lighting.is_lit(raw, power_w, device.rated_power_w)) is not None
    )
    silence_us = device.max_silence // timedelta(microseconds=1)
    if readings and (open_at is None or readings[-1][0] < spans.to_us(open_at)):
        # A later reading exists beyond what was read, so the last hold here is settled too.
        readings.append((readings[-1][0] + silence_us, False))
    opened = open_night(device, night)
    lit_us, dark_us = spans.settle(opened.due, readings, silence_us)
    row = conn.execute(
        """
        WITH restated AS (
            UPDATE lamp_night AS n
            SET due = %(due)s, due_us = %(due_us)s, lit_us = %(lit_us)s, dark_us = %(dark_us)s,
                community = %(community)s, revision = n.revision + 1
            WHERE n.device_id = %(device)s AND n.night = %(night)s
              AND (n.due, n.lit_us, n.dark_us, n.community) IS DISTINCT FROM
                  (%(due)s::tstzmultirange, %(lit_us)s::bigint, %(dark_us)s::bigint,
                   %(community)s::text)
            RETURNING 1
        )
        SELECT count(*) FROM restated
        """,
        {
            "due": multirange(opened.due),
            "due_us": spans.length(opened.due),
            "lit_us": lit_us,
            "dark_us": dark_us,
            "community": device.community,
            "device": device.id,
            "night": night,
        },
    ).fetchone()
    conn.execute(
        "UPDATE lamp_night SET dirty = false WHERE device_id = %s AND night = %s AND dirty",
        (device.id, night),
    )
    return row is not None and row[0] > 0


def finalise(conn: Connection, now: datetime) -> int:
    """Mark the nights that are over as final; return how many."""
    return conn.execute(
        "UPDATE lamp_night SET status = 'final' WHERE status = 'provisional' AND due_to < %s",
        (now - FINAL_AFTER,),
    ).rowcount


@lru_cache(maxsize=10_000)
def _multirange_text(parts: tuple[Span, ...]) -> str:
    """Return spans as the database reads them: a city's lamps share a few hundred."""
    ranges = (f"[{spans.from_us(start)},{spans.from_us(end)})" for start, end in parts)
    return f"{{{','.join(ranges)}}}"


def multirange(parts: Iterable[Span]) -> TimestamptzMultirange:
    """Return spans as the database holds them."""
    return TimestamptzMultirange(
        [TimestamptzRange(spans.from_us(start), spans.from_us(end)) for start, end in parts]
    )
