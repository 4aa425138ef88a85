# SPDX-License-Identifier: Apache-2.0
"""Each migration runs once, whole or not at all, whoever else starts at the same time."""

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable
from datetime import date
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from deploy.services import Postgres
from ingest.errors import SchemaError, Unavailable
from ingest.migrate import MIGRATIONS, check_schema, migrate
from ingest.store.area_days import verify_sums
from tests.services import until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    (folder / "always").mkdir(parents=True)
    (folder / "0001_first.sql").write_text(
        "CREATE TABLE first (n int);\nINSERT INTO first VALUES (1);"
    )
    (folder / "0002_second.sql").write_text("CREATE TABLE second (n int)")
    return folder


@pytest.fixture
def empty(database: str) -> str:
    """A database without any of our tables."""
    with psycopg.connect(database) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
        conn.execute("CREATE SCHEMA public")
    return database


def one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def test_the_shipped_migrations_apply_and_satisfy_the_check(empty: str) -> None:
    assert migrate(empty) == [file.name for file in sorted(MIGRATIONS.glob("*.sql"))]
    assert migrate(empty) == []
    with psycopg.connect(empty) as conn:
        check_schema(conn)
        conn.execute("SELECT FROM reading_lamp")


def test_files_run_in_order_and_once(empty: str, folder: Path) -> None:
    assert migrate(empty, folder=folder) == ["0001_first.sql", "0002_second.sql"]
    (folder / "0003_third.sql").write_text("INSERT INTO first VALUES (3)")
    assert migrate(empty, folder=folder) == ["0003_third.sql"]
    assert migrate(empty, folder=folder) == []
    assert one(empty, "SELECT array_agg(n ORDER BY n) FROM first") == [1, 3]


def test_always_runs_last_and_every_time(empty: str, folder: Path) -> None:
    (folder / "always/policies.sql").write_text("INSERT INTO second VALUES (1)")
    migrate(empty, folder=folder)
    migrate(empty, folder=folder)
    assert one(empty, "SELECT count(*) FROM second") == 2


def test_a_failing_file_leaves_nothing_behind(empty: str, folder: Path) -> None:
    (folder / "0002_second.sql").write_text("CREATE TABLE second (n int); SELECT 1 / 0")
    with pytest.raises(SchemaError, match=r"0002_second\.sql: division by zero"):
        migrate(empty, folder=folder)
    assert one(empty, "SELECT to_regclass('second')") is None
    (folder / "0002_second.sql").write_text("CREATE TABLE second (n int)")
    assert migrate(empty, folder=folder) == ["0002_second.sql"]


def test_what_an_older_ingest_cannot_live_with_waits_for_its_end(empty: str, folder: Path) -> None:
    migrate(empty, folder=folder)
    (folder / "0003_third.sql").write_text("-- linli: contract\nDROP TABLE second")
    with psycopg.connect(empty, application_name="linli-ingest ingest-event-00"):
        with pytest.raises(SchemaError, match=r"0003_third\.sql.*linli-ingest ingest-event-00"):
            migrate(empty, folder=folder)
    assert one(empty, "SELECT to_regclass('second')") is not None
    writing = "FROM pg_stat_activity WHERE application_name = 'linli-ingest ingest-event-00'"
    until(_equals(empty, f"SELECT count(*) {writing}", 0), "the server noticed its end")
    assert migrate(empty, folder=folder) == ["0003_third.sql"]


def test_a_statement_that_refuses_a_transaction_gets_none(empty: str, folder: Path) -> None:
    (folder / "0003_index.sql").write_text(
        "-- linli: autocommit\nCREATE INDEX CONCURRENTLY IF NOT EXISTS first_n ON first (n)"
    )
    assert migrate(empty, folder=folder)[-1] == "0003_index.sql"
    assert one(empty, "SELECT to_regclass('first_n')") is not None


def test_an_edited_file_is_refused(empty: str, folder: Path) -> None:
    migrate(empty, folder=folder)
    (folder / "0001_first.sql").write_text("CREATE TABLE first (n bigint)")
    expected = r"0001_first\.sql: is not what was applied"
    with pytest.raises(SchemaError, match=expected):
        migrate(empty, folder=folder)
    with psycopg.connect(empty) as conn, pytest.raises(SchemaError, match=expected):
        check_schema(conn, folder=folder)


@pytest.mark.parametrize("name", ["0004_hole.sql", "0002_twice.sql", "3_short.sql"])
def test_numbers_have_neither_holes_nor_doubles(empty: str, folder: Path, name: str) -> None:
    (folder / name).write_text("SELECT 1")
    with pytest.raises(SchemaError, match=r"expected 000\d_what\.sql"):
        migrate(empty, folder=folder)


class TestCheck:
    """A service works with its own schema and with a newer one that only grew."""

    def test_an_older_database_names_the_command(self, empty: str, folder: Path) -> None:
        with psycopg.connect(empty) as conn:
            with pytest.raises(SchemaError, match=r"^schema 0, code needs 2: run `linli-ingest"):
                check_schema(conn, folder=folder)
            (folder / "0002_second.sql").rename(folder.parent / "later.sql")
            migrate(empty, folder=folder)
            (folder.parent / "later.sql").rename(folder / "0002_second.sql")
            with pytest.raises(SchemaError, match=r"^schema 1, code needs 2") as caught:
                check_schema(conn, folder=folder)
        assert caught.value.exit_code == 3

    def test_a_newer_database_that_grew_is_fine(self, empty: str, folder: Path) -> None:
        old = shutil.copytree(folder, folder.parent / "old")
        (folder / "0003_third.sql").write_text("CREATE TABLE third (n int)")
        migrate(empty, folder=folder)
        with psycopg.connect(empty) as conn:
            check_schema(conn, folder=old)
        assert migrate(empty, folder=old) == []

    def test_a_newer_database_that_lost_something_is_refused(
        self, empty: str, folder: Path
    ) -> None:
        old = shutil.copytree(folder, folder.parent / "old")
        (folder / "0003_third.sql").write_text("-- linli: contract\nDROP TABLE first")
        migrate(empty, folder=folder)
        expected = r"^schema 3, code knows 2: 0003_third.sql"
        with psycopg.connect(empty) as conn, pytest.raises(SchemaError, match=expected):
            check_schema(conn, folder=old)
        with pytest.raises(SchemaError, match=expected):
            migrate(empty, folder=old)


def test_starters_at_once_apply_each_file_once(empty: str, folder: Path) -> None:
    applied: list[str] = []

    def start() -> None:
        applied.extend(migrate(empty, folder=folder))

    starters = [threading.Thread(target=start) for _ in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert sorted(applied) == ["0001_first.sql", "0002_second.sql"]
    assert one(empty, "SELECT count(*) FROM first") == 1


def test_a_starter_killed_halfway_leaves_its_work_to_the_next(empty: str, folder: Path) -> None:
    slow = folder / "0002_second.sql"
    slow.write_text("CREATE TABLE second (n int); SELECT pg_sleep(60)")
    starter = multiprocessing.get_context("spawn").Process(
        target=_migrate, args=(empty, str(folder))
    )
    starter.start()
    asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    sleeping = f"SELECT count(*) {asleep}"
    try:
        until(_equals(empty, sleeping, 1), "the starter is in the middle", timeout_s=60)
    finally:
        assert starter.pid is not None
        os.kill(starter.pid, signal.SIGKILL)
        starter.join()
    # The server notices that its client is gone only when it answers: end the wait for that.
    one(empty, f"SELECT pg_terminate_backend(pid) {asleep}")
    until(_equals(empty, sleeping, 0), "the interrupted session has ended")
    assert one(empty, "SELECT to_regclass('second')") is None
    slow.write_text("CREATE TABLE second (n int)")
    assert migrate(empty, folder=folder) == ["0002_second.sql"]


def _migrate(dsn: str, folder: str) -> None:
    migrate(dsn, folder=Path(folder))


def _equals(dsn: str, query: str, expected: object) -> Callable[[], bool]:
    return lambda: one(dsn, query) == expected


def test_an_upgraded_schema_is_the_fresh_one(
    database_server: Postgres, empty: str, folder: Path
) -> None:
    """Nothing may depend on which release a database was first made with."""
    upgraded = empty
    known = sorted(MIGRATIONS.glob("*.sql"))
    grown = folder.parent / "grown"
    grown.mkdir()
    for file in known:
        shutil.copy(file, grown)
        migrate(upgraded, folder=grown)
    name = "fresh_schema"
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        fresh = database_server.dsn(name)
        migrate(fresh)
        try:
            assert _columns(upgraded) == _columns(fresh)
        finally:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _columns(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            """
            SELECT table_name, column_name, data_type, is_nullable, column_default
            FROM information_schema.columns
            WHERE table_schema = 'public'
            ORDER BY table_name, column_name
            """
        ).fetchall()


def test_a_server_without_timescaledb_is_refused(empty: str, folder: Path) -> None:
    with psycopg.connect(empty) as conn:
        # Stands before the server's own list in the search path below, as if that were empty.
        conn.execute("CREATE TABLE pg_available_extensions (name text)")
    bare = f"{empty} options='-c search_path=public,pg_catalog'"
    with pytest.raises(SchemaError, match=r"^the database server has no TimescaleDB: install"):
        migrate(bare, folder=folder)
    assert one(empty, "SELECT to_regclass('first')") is None


def test_a_database_out_of_reach_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=r"^database: connection"):
        migrate("host=127.0.0.1 port=1 dbname=nothing connect_timeout=2")


def test_numbers_stored_before_there_were_sums_are_summed(empty: str, tmp_path: Path) -> None:
    before = tmp_path / "before"
    (before / "always").mkdir(parents=True)
    for file in sorted(MIGRATIONS.glob("*.sql"))[:6]:
        shutil.copy(file, before)
    migrate(empty, folder=before)
    with psycopg.connect(empty) as conn:
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES ('city', NULL, 'city', 'city', ''), ('c-1', 'city', 'city.c_1', 'community', ''),
                   ('c-2', 'city', 'city.c_2', 'community', '')
            """
        )
        conn.execute(
            """
            INSERT INTO area_day (indicator, day, area, kind, good, bad, total, subjects, excluded,
                                  revision, status, rule_version, computed_at)
            SELECT 'one', day, area, '', 2, 1, 4, 1, '{"maintenance": 3}', 2, status, 1, now()
            FROM (VALUES ('c-1', date '2026-01-30', 'final'), ('c-1', '2026-01-31', 'final'),
                         ('c-2', '2026-01-31', 'final'), ('c-2', '2026-02-01', 'provisional'))
                AS d (area, day, status)
            """
        )
    assert migrate(empty)
    with psycopg.connect(empty) as conn:
        sums = conn.execute(
            """
            SELECT span, first::text, good, total, subjects, (excluded ->> 'maintenance')::int
            FROM area_sum WHERE area = 'city' ORDER BY span, first
            """
        ).fetchall()
        assert sums == [
            ("day", "2026-01-30", 2, 4, 1, 3),
            ("day", "2026-01-31", 4, 8, 2, 6),
            ("month", "2026-01-01", 6, 12, 2, 9),
        ]
        assert verify_sums(conn, date(2026, 1, 1), date(2026, 3, 1))[1] == []
