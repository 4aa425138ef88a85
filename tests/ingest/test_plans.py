# SPDX-License-Identifier: Apache-2.0
"""How the database goes about it: one index a reading table, no trigger, no sequential scan, HOT.

Figures belong to `./dev bench`; what is held here are their causes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, sql
from psycopg.rows import AsyncRowFactory, TupleRow, tuple_row

from api import devices, history, states
from api.places import find_area
from api.scope import Scope
from deploy.faults.ground import dsn_of
from deploy.services import Postgres
from edge_agent.kinds.lamp import LampReading
from ingest.indicators.spans import day_span, from_us
from ingest.kinds import KINDS
from ingest.retention import EVENTS, READINGS
from ingest.store import chunks, connect, device_days
from ingest.store.devices import load_states, save_states
from ingest.store.held_states import load_held
from tests.ingest.community import Bench, feed, found
from tests.services import OWNER, Broker, until

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
DAYS = 400
COMMUNITIES = 20
DEVICES = 100  # of each community
SCOPE = Scope("admin", "city", "city")
LAMP = "d-01-050"


@pytest.fixture(scope="module")
def town(database_server: Postgres, database_template: str) -> str:
    """Two thousand lamps in twenty communities; one has told of itself for more than a year."""
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE plans TEMPLATE {} OWNER {}").format(
                sql.Identifier(database_template), sql.Identifier(OWNER)
            )
        )
    dsn = dsn_of(database_server, "plans")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO area (area, path, level, name) VALUES ('city', 'city', 'city', '城')"
        )
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            SELECT 'c' || lpad(n::text, 2, '0'), 'city',
                   ('city.c' || lpad(n::text, 2, '0'))::ltree, 'community', '区'
            FROM generate_series(1, %s) AS n
            """,
            (COMMUNITIES,),
        )
        conn.execute("INSERT INTO gateway (gateway, community) SELECT 'gw-' || area, area FROM area"
                     " WHERE level = 'community'")  # fmt: skip
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area)
            SELECT format('d-%%s-%%s', right(area, 2), lpad(n::text, 3, '0')), 'lamp',
                   'gw-' || area, area, area
            FROM generate_series(1, %s) AS n, area WHERE level = 'community'
            """,
            (DEVICES,),
        )
        conn.execute(
            """
            INSERT INTO device_state (device_id, at, received_at, since, reading)
            SELECT id, %(at)s, %(at)s, %(at)s, '{"lit": true}' FROM device
            """,
            {"at": NOW - DAY},
        )
        conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, power_w)
            SELECT at, at, d.id, 40 FROM generate_series(%s, %s, INTERVAL '8 hours') AS at,
                   device AS d WHERE d.device IN (%s, 'd-02-001')
            """,
            (NOW - DAYS * DAY, NOW, LAMP),
        )
        # Lately all of them: so a chunk is more than a page.
        conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, power_w)
            SELECT at, at, d.id, 40 FROM generate_series(%s, %s, INTERVAL '8 hours') AS at,
                   device AS d WHERE d.device NOT IN (%s, 'd-02-001')
            """,
            (NOW - 33 * DAY, NOW, LAMP),
        )
        for back in range(2, 300):
            day = (NOW - back * DAY).date()
            start, end = map(from_us, day_span(day, "Asia/Shanghai"))
            device_days.make(conn, device_days.Due(day, "c01", "Asia/Shanghai", NOW), start, end)
        conn.execute("VACUUM ANALYZE")
    return dsn


class _Explained(psycopg.AsyncCursor[Any]):
    """Keeps the plan of every statement that is run."""

    async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
        explained = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}").format(
            query if isinstance(query, sql.Composed) else sql.SQL(query)
        )
        if not str(query).lstrip().startswith("SET"):
            async with psycopg.AsyncCursor(self.connection, row_factory=tuple_row) as cursor:
                await cursor.execute(explained, params)
                row = await cursor.fetchone()
                assert row is not None
                _PLANS.append(row[0][0]["Plan"])
        return await super().execute(query, params, **more)


_PLANS: list[dict[str, Any]] = []


async def explained(dsn: str) -> AsyncConnection[TupleRow]:
    _PLANS.clear()
    factory: AsyncRowFactory[TupleRow] = tuple_row
    conn = await AsyncConnection.connect(
        dsn, autocommit=True, row_factory=factory, cursor_factory=_Explained,
        options="-c plan_cache_mode=force_custom_plan",
    )  # fmt: skip
    return conn


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def scans(plans: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (node["Node Type"], node["Relation Name"])
        for plan in plans
        for node in nodes(plan)
        if "Relation Name" in node
    ]


def sequential(plans: list[dict[str, Any]]) -> set[str]:
    """What is read from end to end, areas and gateways excepted: there are few."""
    return {name for kind, name in scans(plans) if kind == "Seq Scan"} - {"area", "gateway"}


def of_readings(plans: list[dict[str, Any]]) -> list[str]:
    return [kind for kind, name in scans(plans) if name.startswith("_hyper_")]


async def test_states_of_a_community_are_found_by_community(town: str) -> None:
    async with await explained(town) as conn:
        place = await find_area(conn, SCOPE, "c01")
        rows = await states.read_states(conn, SCOPE, place)
    assert rows.count("d-01-") == DEVICES
    assert sequential(_PLANS) == set()
    used = {node["Index Name"] for plan in _PLANS for node in nodes(plan) if "Index Name" in node}
    assert "device_state_community" in used
    assert not of_readings(_PLANS)


async def test_year_of_a_device_is_one_index_scan_and_few_of_readings(town: str) -> None:
    async with await explained(town) as conn:
        found = await history._find(conn, SCOPE, LAMP)  # pyright: ignore[reportPrivateUsage]
        points = await history._days(  # pyright: ignore[reportPrivateUsage]
            conn, SCOPE, found, NOW - 366 * DAY, NOW
        )
    assert len(points) >= 300
    assert sequential(_PLANS) == set()
    assert sum(name == "device_day" for _, name in scans(_PLANS)) == 1
    # Three local days lie in four chunks.
    assert 1 <= len(of_readings(_PLANS)) <= 4
    assert set(of_readings(_PLANS)) <= {"Index Scan", "Bitmap Heap Scan"}


async def test_month_by_hour_reads_its_own_chunks_by_index(town: str) -> None:
    async with await explained(town) as conn:
        found = await history._find(conn, SCOPE, LAMP)  # pyright: ignore[reportPrivateUsage]
        points = await history._stretches(  # pyright: ignore[reportPrivateUsage]
            conn, SCOPE, found, NOW - 31 * DAY, NOW, "hour"
        )
    assert len(points) in (92, 93, 94)
    assert sequential(_PLANS) == set()
    assert 31 <= len(of_readings(_PLANS)) <= 32


async def test_page_of_history_reads_the_newest_chunks_alone(town: str) -> None:
    async with await explained(town) as conn:
        found = await devices._find(conn, SCOPE, LAMP)  # pyright: ignore[reportPrivateUsage]
        rows = await devices._readings(  # pyright: ignore[reportPrivateUsage]
            conn, SCOPE, "lamp", found["id"], (NOW - 366 * DAY, NOW), 0, 10
        )
    assert len(rows) == 10
    assert sequential(_PLANS) == set()
    run = [
        node
        for plan in _PLANS
        for node in nodes(plan)
        if node.get("Relation Name", "").startswith("_hyper_") and node["Actual Loops"]
    ]
    assert 1 <= len(run) <= 6


async def test_open_chunk_without_b_tree_is_read_by_time_and_closed_ones_by_device(
    database: str,
) -> None:
    found(database, in_service_from=NOW - 30 * DAY)
    start = NOW.replace(hour=0, minute=0, second=0, microsecond=0) - 2 * DAY
    with connect(database, "test") as conn:
        conn.execute("SET statement_timeout = 0")  # the product never writes so many at once
        conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, power_w)
            SELECT at, at, device_id, 40
            FROM generate_series(%s, %s, interval '15 minutes') AS at,
                 generate_series(1, 500) AS device_id
            ORDER BY at  -- as they come
            """,
            (start, start + 2 * DAY - timedelta(minutes=15)),
        )
        _, written = chunks.load(conn)
        assert chunks.index(conn, written, "brin")
        conn.execute("ANALYZE reading_lamp")
    hour = (written.start + DAY / 2, written.start + DAY / 2 + timedelta(hours=1))
    async with await explained(database) as conn:
        device = await devices._find(conn, SCOPE, "c01-lamp-001")  # pyright: ignore[reportPrivateUsage]
        for during, rows in ((hour, 4), ((start, NOW), 192)):
            read = await devices._readings(  # pyright: ignore[reportPrivateUsage]
                conn, SCOPE, "lamp", device["id"], during, 0, 1_000
            )
            assert len(read) == rows
    by_hour, by_days = [one for one in _PLANS if of_readings([one])]
    (scan,) = [node for node in nodes(by_hour) if node.get("Relation Name") == written.name]
    assert scan["Node Type"] == "Bitmap Heap Scan"
    # The plan is that of a few ranges of pages, not of all of them.
    assert scan["Lossy Heap Blocks"] <= 2 * 128
    closed = [kind for kind, name in scans([by_days]) if name not in (written.name, "device")]
    assert closed
    assert not any(kind == "Seq Scan" for kind in closed), closed


def test_every_reading_table_has_one_index_and_no_trigger(town: str) -> None:
    with psycopg.connect(town) as conn:
        for table in (*READINGS, *EVENTS):
            indexes = conn.execute(
                "SELECT indexdef FROM pg_indexes WHERE tablename = %s", (table,)
            ).fetchall()
            assert len(indexes) == 1, table
            assert indexes[0][0].endswith("USING btree (device_id, at)")
            assert "UNIQUE" not in indexes[0][0]
        # Neither tables nor chunks: a row trigger would end COPY's way of many rows at once.
        triggers = conn.execute(
            """
            SELECT c.relname, t.tgname FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
            WHERE (c.relname = ANY (%s) OR c.relname LIKE '\\_hyper\\_%%')
              AND t.tgname <> 'ts_insert_blocker'  -- of an empty root table, for good reason
            """,
            ([*READINGS, *EVENTS],),
        ).fetchall()
        assert triggers == []
        chunks = conn.execute(
            """
            SELECT count(*), count(DISTINCT tablename) FROM pg_indexes
            WHERE schemaname = '_timescaledb_internal' AND tablename LIKE '\\_hyper\\_%'
            """
        ).fetchone()
        assert chunks is not None
        assert chunks[0] == chunks[1] > DAYS


def test_nothing_that_a_reading_changes_is_indexed(town: str) -> None:
    with psycopg.connect(town) as conn:
        indexed = {
            name
            for (name,) in conn.execute(
                """
                SELECT a.attname FROM pg_index AS i
                JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                WHERE i.indrelid = 'device_state'::regclass
                """
            )
        }
        assert indexed == {"device_id", "community"}
        partial = conn.execute(
            "SELECT count(*) FROM pg_index WHERE indrelid = 'device_state'::regclass"
            " AND (indpred IS NOT NULL OR indexprs IS NOT NULL)"
        ).fetchone()
        assert partial == (0,)


def _explain(conn: psycopg.Connection[Any], query: Any, params: Any) -> None:
    explained = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(
        query if isinstance(query, sql.Composed) else sql.SQL(query)
    )
    row = psycopg.Cursor[TupleRow](conn, row_factory=tuple_row).execute(explained, params)
    _PLANS.append(next(row)[0][0]["Plan"])


class _ExplainedUpdates(psycopg.Cursor[Any]):
    def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
        if str(query).lstrip().startswith("UPDATE"):
            _explain(self.connection, query, params)
        return super().execute(query, params, **more)


class _ExplainedFinds(psycopg.Cursor[Any]):
    def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
        if isinstance(query, sql.Composed):
            _explain(self.connection, query, params)
        return super().execute(query, params, **more)


def test_states_are_updated_by_their_key(town: str) -> None:
    """A temporary table has no statistics: whatever it holds, no other state may be read."""
    _PLANS.clear()
    with psycopg.connect(town, cursor_factory=_ExplainedUpdates) as conn:
        states = list(load_states(conn).items())
        save_states(conn, states[: len(states) // 2])
        conn.rollback()
    (plan,) = _PLANS
    assert ("Index Scan", "device_state") in scans([plan])
    assert sequential([plan]) == {"stage_state"}


@pytest.mark.parametrize("indexed", ["always", "after-close"])
def test_what_was_held_back_is_found_in_the_newest_chunks(town: str, indexed: str) -> None:
    _PLANS.clear()
    latest = NOW + timedelta(seconds=1)
    with psycopg.connect(town) as conn:
        if indexed == "after-close":
            conn.execute("DROP INDEX reading_lamp_device_at")
            conn.execute("CREATE INDEX ON reading_lamp USING brin (at)")
        conn.execute(
            "UPDATE device_state SET at = %s WHERE device_id <= 50", (NOW - timedelta(minutes=1),)
        )
        conn.execute(
            "INSERT INTO reading_lamp (at, received_at, device_id, power_w)"
            " SELECT %s, %s, id, 41.1 FROM device WHERE id <= 60",
            (latest, latest),
        )
        conn.cursor_factory = _ExplainedFinds
        stored = {device_id: state.at for device_id, state in load_states(conn).items()}
        since = NOW - timedelta(minutes=2)
        found = list(load_held(conn, KINDS["lamp"].readings, since, stored, NOW))
        conn.rollback()
    assert len(found) == 50
    assert found[0][1:] == (latest, latest, {"power_w": 41.1})
    assert len(_PLANS) >= 3, "the newest readings are read first"
    for plan in _PLANS:
        # No chunk is read twice, and of four hundred only those in which there may be something.
        assert not [node for node in nodes(plan) if node["Node Type"] == "Nested Loop"]
        assert 1 <= len(of_readings([plan])) <= 2


def test_updates_of_states_are_hot(town: str, broker: Broker) -> None:
    bench = Bench(town, broker)
    # Whoever was here before may be about to add its own.
    until(lambda: not _others(bench), "others are gone")
    before = _updates(bench)
    writer = bench.telemetry()
    for seq in range(1, 6):
        at = NOW - timedelta(seconds=60 - seq)
        told = [LampReading(device=f"d-01-{n:03d}", at=at, lit=True) for n in range(1, 51)]
        feed(writer, bench.batch(seq, *told, gateway="gw-c01"))
    bench.close()
    # Statistics come when the writer's backend is gone.
    until(lambda: _updates(bench)[0] >= before[0] + 5 * 50, "updates were counted")
    all_, hot = (now - then for now, then in zip(_updates(bench), before, strict=True))
    assert all_ == 5 * 50
    assert hot >= 0.9 * all_


def _others(bench: Bench) -> int:
    return bench.value(
        "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )


def _updates(bench: Bench) -> tuple[int, int]:
    """How many updates of states there were, and how many of them were HOT."""
    (row,) = bench.rows(
        """
        SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'device_state'
        """
    )
    return row["n_tup_upd"], row["n_tup_hot_upd"]


def test_new_states_know_their_community_at_once(town: str, broker: Broker) -> None:
    with psycopg.connect(town) as conn:
        conn.execute(
            "DELETE FROM device_state"
            " WHERE device_id = (SELECT id FROM device WHERE device = 'd-03-001')"
        )
    bench = Bench(town, broker)
    reading = LampReading(device="d-03-001", at=NOW, lit=True)
    feed(bench.telemetry(), bench.batch(1, reading, gateway="gw-c03"))
    bench.close()
    assert bench.rows(
        "SELECT s.community FROM device_state AS s JOIN device AS d ON d.id = s.device_id"
        " WHERE d.device = 'd-03-001'"
    ) == [{"community": "c03"}]
