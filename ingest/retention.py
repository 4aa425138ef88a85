# SPDX-License-Identifier: Apache-2.0
"""Keeps the reading tables: chunks of a fitting length, made ahead, indexed; days; what is old.

The Apache edition of TimescaleDB runs no jobs, so this is a loop of our own over ``drop_chunks``.
Raw rows are dropped by whole chunks, and only where nothing is to be computed from them any more:
the days they belong to are final and unmarked, and devices' days are made of them. From then on
`raw_kept` says that those days stay as they are; numbers, lamp-nights and devices' days remain.

What other tables keep for a time only (`ingest.store.expired`) goes in the same loop.

With `reading_index` after-close the b-tree of a chunk of readings is built when its time is over,
which costs less than half of keeping one up meanwhile. docs/decisions/0016.
"""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg
from psycopg import sql

from ingest.capacity import ReadingIndex, chunk_interval
from ingest.domains import DOMAINS
from ingest.errors import Unavailable
from ingest.indicators.spans import day_span, from_us
from ingest.kinds import KINDS
from ingest.store import chunks, connect, device_days, driver_errors, expired
from ingest.store.chunks import READINGS, Chunk, Method

log = logging.getLogger(__name__)

_DAY: Final = timedelta(days=1)
_LOOK_INTERVAL_S: Final = 60.0
_RETRY_S: Final = 30.0
# What is only worth doing now and then.
_TIDY_INTERVAL: Final = timedelta(hours=1)
_MADE_AT_ONCE: Final = 50
# A day of a community with thousands of devices is a million rows.
_STATEMENT_TIMEOUT: Final = "120s"
# Any number, the same in every release: of several ingest processes one keeps the tables.
_LOCK: Final = 0x6C696E6C6A
# A chunk is closed when its time has been over for so long: what comes later pays for the b-tree.
SETTLED_AFTER: Final = timedelta(minutes=15)
# Indexes are built one after the other until so much time went by, then for this share of it.
_BUILDING_S: Final = 1.0
BUILDING_SHARE: Final = 0.2
# A day lasts at most 25 hours.
_DAY_MAX: Final = timedelta(hours=25)

EVENTS: Final = tuple(kind.events.name for kind in KINDS.values() if kind.events is not None)
# Who went through which gate is nobody's business after a quarter.
DEFAULT_DAYS: Final[Mapping[str, float]] = {
    **dict.fromkeys((*READINGS, *EVENTS), 400.0),
    "event_gate": 90.0,
}
# A reading this much older than the oldest that is still taken cannot change any day.
MARGIN_DAYS: Final = 10.0


class StorageKeeper:
    """Keeps the reading tables; a thread of its own, beside the keeper of days."""

    def __init__(
        self,
        dsn: str,
        kept_days: Mapping[str, float],
        late_limit: timedelta,
        chunk: timedelta | None = None,
        reading_index: ReadingIndex = "always",
    ) -> None:
        """Take what is configured.

        Args:
            dsn: Where.
            kept_days: For how long rows are kept, by table, where `DEFAULT_DAYS` is not meant.
            late_limit: How old a reading may be that is still taken.
            chunk: How long a chunk is; None: by the rate of the registered devices.
            reading_index: When chunks of readings get their b-tree.
        """
        self._dsn = dsn
        self._kept = {
            table: timedelta(days=days) for table, days in {**DEFAULT_DAYS, **kept_days}.items()
        }
        self._late_limit = late_limit
        self._chunk = chunk
        self._reading_index: ReadingIndex = reading_index
        self._build_at = datetime.min.replace(tzinfo=UTC)
        self._stopping = threading.Event()
        self._tidied_at = datetime.min.replace(tzinfo=UTC)
        # At start every day is looked at: some may be of the time before devices' days were made.
        self._first_day = date.min

    def stop(self) -> None:
        """Let `run` return after the statement in hand."""
        self._stopping.set()

    def run(self) -> None:
        """Keep the tables until `stop`; an unexpected error ends the thread."""
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "storage") as conn:
                    with driver_errors():
                        conn.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'")
                    self.keep(conn, datetime.now(UTC))
                    while not self._stopping.wait(_LOOK_INTERVAL_S):
                        self.keep(conn, datetime.now(UTC))
            except Unavailable as error:
                log.warning("database lost, retrying keeper=storage error=%s", error)
                self._stopping.wait(_RETRY_S)

    def keep(self, conn: psycopg.Connection, now: datetime) -> None:
        """Do what is due at ``now``, unless another process does it already."""
        with driver_errors():
            row = conn.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()
            if row is None or not row[0]:
                return
            try:
                if not now - _TIDY_INTERVAL < self._tidied_at <= now:
                    self._tidy(conn, now)
                    self._tidied_at = now
                make_ahead(conn, now, self._reading_index)
                self._index(conn, now)
            finally:
                conn.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))

    def _tidy(self, conn: psycopg.Connection, now: datetime) -> None:
        intervals = fitting(conn, self._kept, self._chunk, self._reading_index)
        for table, interval in intervals.items():
            if set_interval(conn, table, interval):
                log.info("chunks change table=%s interval=%s", table, interval)
        while due := device_days.due(conn, self._first_day, _MADE_AT_ONCE):
            for one in due:
                if self._stopping.is_set():
                    return
                start_us, end_us = day_span(one.day, one.time_zone)
                device_days.make(conn, one, from_us(start_us), from_us(end_us))
        # Late readings restate no day before this one.
        self._first_day = (now - self._late_limit - 2 * _DAY).date()
        for table, kept in self._kept.items():
            for end in drop_old(conn, table, now - kept):
                log.info("chunk dropped table=%s end=%s", table, end)
                if self._stopping.is_set():
                    return
        for drop in (
            expired.drop_answers,
            expired.drop_secrets,
            expired.drop_messages,
            expired.drop_cancelled,
        ):
            while drop(conn, now) == expired.BATCH:
                if self._stopping.is_set():
                    return

    def _index(self, conn: psycopg.Connection, now: datetime) -> None:
        """Have chunks of readings indexed as they are to be, the oldest first, in pauses."""
        stored = chunks.load(conn)
        for chunk in stored:
            if chunk.start <= now < chunk.end + SETTLED_AFTER and chunk.has("brin"):
                chunks.summarise(conn, chunk)
        if now < self._build_at:
            return
        begun = time.monotonic()
        for chunk in stored:
            method = self._method(chunk, now)
            if not chunk.has(method):
                which = (chunk.table, chunk.end, method)
                if chunks.index(conn, chunk, method):
                    log.info("chunk indexed table=%s end=%s method=%s", *which)
                else:
                    log.warning("chunk in use, indexed later table=%s end=%s method=%s", *which)
                if self._stopping.is_set() or time.monotonic() - begun > _BUILDING_S:
                    break
        self._build_at = now + timedelta(seconds=time.monotonic() - begun) / BUILDING_SHARE

    def _method(self, chunk: Chunk, now: datetime) -> Method:
        is_open = chunk.end + SETTLED_AFTER > now
        return "brin" if is_open and self._reading_index == "after-close" else "btree"


def fitting(
    conn: psycopg.Connection,
    kept: Mapping[str, timedelta],
    chunk: timedelta | None,
    reading_index: ReadingIndex = "always",
) -> dict[str, timedelta]:
    """Return how long chunks of each reading table should be.

    Args:
        conn: Any.
        kept: For how long rows of each table are kept.
        chunk: What is configured; None: by the rate of the registered devices, all classes
            together, and by the server's shared buffers.
        reading_index: Whether the open chunk has a b-tree that is to fit into them.
    """
    if chunk is not None:
        return dict.fromkeys(READINGS, chunk)
    row = conn.execute(
        """
        SELECT coalesce(sum(1 / reporting_period_s), 0),
               pg_size_bytes(current_setting('shared_buffers'))
        FROM device WHERE life = 'in_service'
        """
    ).fetchone()
    assert row is not None, "an aggregate always has a row"
    return {table: chunk_interval(row[0], row[1], kept[table], reading_index) for table in READINGS}


def set_interval(conn: psycopg.Connection, table: str, interval: timedelta) -> bool:
    """Have new chunks of a table last so long; return whether that is a change."""
    changes = conn.execute(
        """
        SELECT FROM timescaledb_information.dimensions
        WHERE hypertable_name = %s AND hypertable_schema = current_schema()
          AND time_interval <> %s
        """,
        (table, interval),
    ).fetchone()
    if changes is None:
        return False
    conn.execute(
        "SELECT set_chunk_time_interval(%s::text::regclass, %s::interval)", (table, interval)
    )
    return True


def make_ahead(
    conn: psycopg.Connection, now: datetime, reading_index: ReadingIndex = "always"
) -> list[str]:
    """Make the chunk that is needed half an interval from now; return the tables that got one.

    A flush that has to make its chunk waits for locks and indexes; this one has time. Tables
    without any chunk have no devices and get none.
    """
    made: list[str] = []
    found = conn.execute(
        """
        SELECT d.hypertable_name, %(now)s + d.time_interval / 2
        FROM timescaledb_information.dimensions AS d
        WHERE d.hypertable_schema = current_schema() AND d.hypertable_name = ANY (%(tables)s)
          AND EXISTS (
              SELECT FROM timescaledb_information.chunks AS c
              WHERE c.hypertable_schema = d.hypertable_schema
                AND c.hypertable_name = d.hypertable_name)
          AND NOT EXISTS (
              SELECT FROM timescaledb_information.chunks AS c
              WHERE c.hypertable_schema = d.hypertable_schema
                AND c.hypertable_name = d.hypertable_name
                AND c.range_start <= %(now)s + d.time_interval / 2
                AND c.range_end > %(now)s + d.time_interval / 2)
        """,
        {"now": now, "tables": [*READINGS, *EVENTS]},
    ).fetchall()
    for table, at in found:
        with conn.transaction():
            _touch(conn, table, at)
            if reading_index == "after-close" and table in READINGS:
                chunks.index_new(conn, table, at, "brin")
        made.append(table)
    return sorted(made)


def _touch(conn: psycopg.Connection, table: str, at: datetime) -> None:
    """Have TimescaleDB make the chunk for an instant: a row of nobody comes and goes in one step.

    There is no function for it in the Apache edition.
    """
    texts = [
        sql.Identifier(name)
        for (name,) in conn.execute(
            """
            SELECT attname FROM pg_attribute
            WHERE attrelid = %s::text::regclass AND attnotnull AND attnum > 0
              AND atttypid = 'text'::regtype
            """,
            (table,),
        )
    ]
    name = sql.Identifier(table)
    columns = [sql.Identifier(column) for column in ("device_id", "at", "received_at")]
    values = [sql.Literal(0), *[sql.Literal(at)] * 2, *[sql.Literal("")] * len(texts)]
    conn.execute(
        sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
            name, sql.SQL(", ").join([*columns, *texts]), sql.SQL(", ").join(values)
        )
    )
    conn.execute(
        sql.SQL("DELETE FROM {} WHERE device_id = 0 AND at = {}").format(name, sql.Literal(at))
    )


def drop_old(conn: psycopg.Connection, table: str, before: datetime) -> Iterator[datetime]:
    """Drop chunks of which all rows are from before an instant and no longer needed.

    Yields:
        The end of each chunk that was dropped, the oldest first.
    """
    domains = domains_of(table)
    while True:
        with conn.transaction():
            # Whoever marks an old day reads this table first: before the drop, then it is seen
            # here, or after it, then the day stays as it is.
            conn.execute("LOCK TABLE raw_kept IN ACCESS EXCLUSIVE MODE")
            reach = _reach(conn)
            row = conn.execute(
                """
                SELECT min(range_end) FROM timescaledb_information.chunks
                WHERE hypertable_schema = current_schema() AND hypertable_name = %s
                """,
                (table,),
            ).fetchone()
            assert row is not None, "an aggregate always has a row"
            end: datetime | None = row[0]
            needed = _needed(conn, table, domains)
            if end is None or end > before or (needed is not None and end > needed - reach):
                return
            conn.execute(
                """
                INSERT INTO raw_kept AS k (domain, since)
                SELECT domain, %s FROM unnest(%s::text[]) AS domain
                ON CONFLICT (domain) DO UPDATE SET since = greatest(k.since, excluded.since)
                """,
                (end + reach, domains),
            )
            conn.execute(
                "SELECT drop_chunks(%s::text::regclass, older_than => %s::timestamptz)",
                (table, end),
            )
        yield end


def domains_of(table: str) -> list[str]:
    """Return the domains that are computed from a table; equipment is from readings alone."""
    return [
        domain.name
        for kind in KINDS.values()
        for domain in DOMAINS.values()
        if kind.kind in domain.kinds
        if kind.readings.name == table
        or (kind.events is not None and kind.events.name == table and domain.name != "equipment")
    ]


def _reach(conn: psycopg.Connection) -> timedelta:
    """Return how long before a day its rows begin to speak in it, at most."""
    row = conn.execute("SELECT coalesce(max(reporting_period_s), 0) FROM device").fetchone()
    assert row is not None, "an aggregate always has a row"
    holds = timedelta(seconds=3 * row[0])
    return max(holds, *(timedelta(microseconds=one.reach_us) for one in DOMAINS.values()))


def _needed(conn: psycopg.Connection, table: str, domains: list[str]) -> datetime | None:
    """Return when the first day begins that is still to be computed; None: there is none."""
    row = conn.execute(
        """
        SELECT least(
            (SELECT min(c.ends_at) FROM community_day AS c
             WHERE c.domain = ANY (%(domains)s)
               AND (c.status = 'provisional' OR c.dirty IS NOT NULL)),
            (SELECT min(c.ends_at)
             FROM community_day AS c
             LEFT JOIN device_day_made AS m ON m.day = c.day AND m.community = c.community
             LEFT JOIN raw_kept AS k ON k.domain = c.domain
             WHERE %(readings)s AND c.domain = 'equipment'
               AND m.computed_at IS DISTINCT FROM c.computed_at
               AND (k.since IS NULL OR c.ends_at - %(day)s::interval >= k.since)),
            (SELECT min(n.due_to) FROM lamp_night AS n WHERE %(lamps)s AND n.dirty)
        ) - %(day)s::interval
        """,
        {
            "domains": domains,
            "readings": table in READINGS,
            "lamps": table == KINDS["lamp"].readings.name,
            "day": _DAY_MAX,
        },
    ).fetchone()
    assert row is not None, "there is always one row"
    return row[0]
