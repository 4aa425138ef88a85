# SPDX-License-Identifier: Apache-2.0
"""Indexes of chunks over a real database: by device when closed, by time while they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from deploy.services import Postgres
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.lamp import LampReading
from ingest import retention
from ingest.capacity import ReadingIndex
from ingest.retention import StorageKeeper
from ingest.store import chunks, connect, lamp_nights
from ingest.store.chunks import READINGS, Chunk, Indexed
from tests.ingest.community import Bench, feed, found
from tests.services import OWNER, Broker, until

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
NOON = TODAY + 12 * HOUR
LATE_LIMIT = timedelta(days=30)


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    """Readings of two days that are closed, and of today; chunks are of a day."""
    found(database, in_service_from=NOW - 29 * DAY)
    made = Bench(database, broker)
    store(made, 1, *(min(TODAY - back * DAY + HOUR, NOW) for back in (5, 4, 0)))
    made.close()
    yield made
    made.close()


def store(bench: Bench, seq: int, *instants: datetime) -> None:
    lamps = [LampReading(device="c01-lamp-001", at=at, lit=True, power_w=40.0) for at in instants]
    bins = [BinReading(device="c01-bin-001", at=at, fill_pct=10.0) for at in instants]
    feed(bench.telemetry(), bench.batch(seq, *lamps, *bins))


def keep(bench: Bench, setting: ReadingIndex, now: datetime = NOON) -> None:
    with connect(bench.dsn, "test") as conn:
        StorageKeeper(bench.dsn, {}, LATE_LIMIT, DAY, setting).keep(conn, now)


def of(bench: Bench, table: str = "reading_lamp") -> list[Chunk]:
    with connect(bench.dsn, "test") as conn:
        return chunks.load(conn, [table])


def methods(bench: Bench, table: str = "reading_lamp") -> list[str]:
    """Each chunk's index, the oldest first; more than one are told with a plus."""
    return [
        "+".join(one.method if one.is_valid else "invalid" for one in chunk.indexes)
        for chunk in of(bench, table)
    ]


def indexed_until(bench: Bench, now: datetime = NOON) -> datetime | None:
    with connect(bench.dsn, "test") as conn:
        return Indexed().until(conn, now)


@contextmanager
def reader(bench: Bench) -> Generator[Callable[[], None]]:
    """Somebody who reads until told to end: whoever builds or drops an index waits for them."""
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT count(*) FROM reading_lamp")
        yield conn.commit


@contextmanager
def building(bench: Bench, chunk: Chunk, method: chunks.Method) -> Generator[list[object]]:
    """A build in a thread of its own, as soon as it waits; what came of it is in the list."""
    done: list[object] = []

    def build() -> None:
        try:
            with connect(bench.dsn, "build") as conn:
                done.append(chunks.index(conn, chunk, method))
        except psycopg.OperationalError as error:
            done.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        until(
            lambda: bench.value(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND application_name LIKE '%%build' AND query LIKE '%%INDEX CONCURRENTLY%%'"
            ),
            "the build waits",
        )
        yield done
    finally:
        thread.join(30)


def test_open_chunk_is_indexed_by_time_and_closed_ones_by_device(bench: Bench) -> None:
    assert methods(bench) == ["btree"] * 3
    assert indexed_until(bench) is None
    keep(bench, "after-close")
    # That of tomorrow was made ahead.
    assert methods(bench) == methods(bench, "reading_bin") == ["btree", "btree", "brin", "brin"]
    assert indexed_until(bench) == TODAY
    # Not as soon as its time is over: most of what is late is late by minutes.
    keep(bench, "after-close", TODAY + DAY + MINUTE)
    assert methods(bench) == ["btree", "btree", "brin", "brin"]
    keep(bench, "after-close", TODAY + DAY + retention.SETTLED_AFTER)
    assert methods(bench) == ["btree", "btree", "btree", "brin"]
    assert indexed_until(bench) == TODAY + DAY


def test_what_comes_late_for_a_closed_chunk_is_found_by_device(bench: Bench) -> None:
    keep(bench, "after-close")
    # One that is there, and one that is made for it.
    store(bench, 10, TODAY - 4 * DAY + 2 * HOUR, TODAY - 10 * DAY)
    assert methods(bench) == ["btree", "btree", "btree", "brin", "brin"]
    assert indexed_until(bench) == TODAY


def test_setting_back_and_forth_converges(bench: Bench) -> None:
    told = bench.rows("SELECT * FROM reading_lamp ORDER BY at")
    settings: list[tuple[ReadingIndex, list[str]]] = [
        ("after-close", ["btree", "btree", "brin", "brin"]),
        ("always", ["btree"] * 4),
        ("after-close", ["btree", "btree", "brin", "brin"]),
    ]
    for setting, expected in settings:
        keep(bench, setting)
        assert methods(bench) == expected
        assert bench.rows("SELECT * FROM reading_lamp ORDER BY at") == told
    # The table itself has its one index whatever is set, and events know nothing of it.
    for table in (*READINGS, *retention.EVENTS):
        (row,) = bench.rows("SELECT indexdef FROM pg_indexes WHERE tablename = %s", table)
        assert row["indexdef"].endswith("USING btree (device_id, at)")


def test_chunk_made_ahead_is_indexed_by_time_from_the_start(bench: Bench) -> None:
    with connect(bench.dsn, "test") as conn:
        made = retention.make_ahead(conn, NOON + HOUR, "after-close")
    assert made == ["reading_bin", "reading_lamp"]
    assert methods(bench) == ["btree", "btree", "btree", "brin"]
    assert bench.value("SELECT count(*) FROM reading_lamp WHERE device_id = 0") == 0


def test_dropping_chunks_and_an_index_of_ones_own_go_on(bench: Bench) -> None:
    keep(bench, "after-close")
    oldest, *_ = of(bench)
    with connect(bench.dsn, "test") as conn:
        conn.execute(f"CREATE INDEX own ON {oldest.schema}.{oldest.name} (power_w)".encode())
    keep(bench, "always")
    assert bench.value("SELECT count(*) FROM pg_indexes WHERE indexname = 'own'") == 1
    assert methods(bench) == ["btree"] * 4
    with connect(bench.dsn, "test") as conn:
        conn.execute("SELECT drop_chunks('reading_lamp', older_than => %s)", (oldest.end,))
    assert methods(bench) == ["btree"] * 3


def test_interrupted_build_is_done_anew(bench: Bench) -> None:
    keep(bench, "after-close")
    closed_at = TODAY + DAY + HOUR
    chunk = of(bench)[2]
    with reader(bench), building(bench, chunk, "btree") as done:
        assert methods(bench)[2] == "brin+invalid"
        bench.value(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name LIKE '%%build'"
        )
        until(lambda: done, "the build ended")
    assert isinstance(done[0], psycopg.OperationalError)
    assert methods(bench)[2] == "brin+invalid"
    assert indexed_until(bench) == TODAY
    keep(bench, "after-close", closed_at)
    assert methods(bench)[2] == "btree"


@pytest.mark.parametrize(
    ("place", "method"),
    [
        pytest.param(1, "brin", id="by-time-and-the-b-tree-dropped"),
        pytest.param(2, "btree", id="by-device-and-the-brin-dropped"),
    ],
)
def test_readings_are_stored_while_an_index_is_built(
    bench: Bench, place: int, method: chunks.Method
) -> None:
    keep(bench, "after-close")
    chunk = of(bench)[place]
    at = chunk.start + timedelta(milliseconds=1)
    with reader(bench) as end, building(bench, chunk, method) as done:
        store(bench, 20, at)
        assert bench.value("SELECT count(*) FROM reading_lamp WHERE at = %s", at) == 1
        assert done == []
        end()
    assert done == [True]
    assert methods(bench)[place] == method
    with connect(bench.dsn, "test") as conn:
        conn.execute("SET enable_seqscan = off")
        count = conn.execute(
            "SELECT count(*) FROM reading_lamp WHERE device_id = ANY (ARRAY(SELECT id FROM device))"
            " AND at >= %s AND at < %s",
            (chunk.start, chunk.end),
        ).fetchone()
    assert count == (2,)


def test_who_is_in_the_way_for_too_long_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keep(bench, "after-close")
    closed_at = TODAY + DAY + HOUR
    with reader(bench), caplog.at_level("INFO"), monkeypatch.context() as hurried:
        hurried.setattr(chunks, "_BUILD_WAIT", "50ms")
        keep(bench, "after-close", closed_at)
    assert "later table=reading_lamp" in caplog.text
    assert methods(bench)[2] == "brin+invalid"
    keep(bench, "after-close", closed_at)
    assert methods(bench)[2] == "btree"


def test_one_chunk_at_a_time_and_in_pauses(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_BUILDING_S", 0.0)
    keeper = StorageKeeper(bench.dsn, {}, LATE_LIMIT, DAY, "after-close")
    with connect(bench.dsn, "test") as conn:
        keeper.keep(conn, NOON)
        assert (methods(bench) + methods(bench, "reading_bin")).count("brin") == 3
        keeper.keep(conn, NOON)
        assert (methods(bench) + methods(bench, "reading_bin")).count("brin") == 3
        keeper.keep(conn, NOON + HOUR)
        assert (methods(bench) + methods(bench, "reading_bin")).count("brin") == 4


def test_what_was_written_lately_is_found_by_time(bench: Bench) -> None:
    keep(bench, "after-close")
    chunk = of(bench)[2]
    with psycopg.connect(bench.dsn, autocommit=True) as conn:
        # The keeper leaves a chunk alone that is being vacuumed, and there is much to vacuum now.
        conn.execute(
            f"ALTER TABLE {chunk.schema}.{chunk.name} SET (autovacuum_enabled = off)".encode()
        )
        conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, power_w, voltage_v)
            SELECT at, at, 1, 40, 230 FROM generate_series(
                %s, %s - interval '1 second', interval '1 second') AS at
            """,
            (TODAY, NOON),
        )
        keep(bench, "after-close")
        conn.execute("SET enable_seqscan = off")
        (plan,) = conn.execute(
            "EXPLAIN (ANALYZE, FORMAT JSON) SELECT power_w FROM reading_lamp"
            " WHERE device_id = 1 AND at >= %s AND at < %s",
            (TODAY + 2 * HOUR, TODAY + 2 * HOUR + MINUTE),
        ).fetchone() or ([],)
        pages = conn.execute(
            "SELECT pg_relation_size(%s::regclass) / 8192",
            (f"{chunk.schema}.{chunk.name}",),
        ).fetchone()
    scan = plan[0]["Plan"]
    assert (scan["Node Type"], scan["Actual Rows"]) == ("Bitmap Heap Scan", 60)
    assert pages is not None
    assert scan["Lossy Heap Blocks"] <= 2 * 128 < pages[0]


def test_night_is_restated_when_its_readings_are_indexed(bench: Bench) -> None:
    keep(bench, "after-close")
    chunk = of(bench)[1]
    with connect(bench.dsn, "test") as conn:
        assert chunks.index(conn, chunk, "brin")
        writer = bench.telemetry()
        # The later one, then one from before it.
        for seq, hours in ((30, 3), (31, 2)):
            at = chunk.start + hours * HOUR
            feed(writer, bench.batch(seq, LampReading(device="c01-lamp-002", at=at, lit=True)))
        dirty = "SELECT count(*) FROM lamp_night WHERE dirty"
        lit = "SELECT sum(lit_us) FROM lamp_night AS n JOIN device AS d ON d.id = n.device_id"
        lit += " WHERE d.device = 'c01-lamp-002'"
        assert (bench.value(dirty), bench.value(lit)) == (1, 0)
        writer.tick(conn, datetime.now(UTC) + HOUR)
        assert (bench.value(dirty), bench.value(lit)) == (1, 0)
        assert chunks.index(conn, of(bench)[1], "btree")
        writer.tick(conn, datetime.now(UTC) + 2 * HOUR)
    # Half an hour is what a reading holds.
    assert (bench.value(dirty), bench.value(lit)) == (0, 30 * 60 * 10**6)


def test_nights_that_wait_for_an_index_are_looked_through_once_a_minute(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(bench, "after-close")
    looked: list[object] = []
    take_dirty = lamp_nights.take_dirty

    def noted(conn: psycopg.Connection, limit: int, until: datetime | None, of: None) -> object:
        looked.append(until)
        return take_dirty(conn, limit, until, of)

    monkeypatch.setattr(lamp_nights, "take_dirty", noted)
    writer, start = bench.telemetry(), datetime.now(UTC) + HOUR
    reading = LampReading(device="c01-lamp-002", at=of(bench)[1].start + HOUR, lit=True)
    feed(writer, bench.batch(30, reading))
    looked.clear()
    with connect(bench.dsn, "test") as conn:
        assert chunks.index(conn, of(bench)[1], "brin")
        for seconds in (0, 1, 30, 59, 60, 61):
            writer.tick(conn, start + timedelta(seconds=seconds))
        assert len(looked) == 2
        assert None not in looked
        for chunk in (one for table in READINGS for one in of(bench, table)):
            assert chunks.index(conn, chunk, "btree")
        for seconds in (120, 121, 122):
            writer.tick(conn, start + timedelta(seconds=seconds))
    assert looked[2:] == [None] * 3


def test_who_owns_the_tables_may_index_their_chunks_only_by_leave(
    bench: Bench, database_server: Postgres
) -> None:
    with connect(bench.dsn, "test") as conn:
        assert chunks.may_index(conn)
        with psycopg.connect(database_server.dsn(conn.info.dbname)) as superuser:
            superuser.execute(
                f"REVOKE CREATE ON SCHEMA _timescaledb_internal FROM {OWNER}".encode()
            )
        assert not chunks.may_index(conn)
