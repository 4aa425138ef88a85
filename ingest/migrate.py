# SPDX-License-Identifier: Apache-2.0
"""Brings a database to the schema this code needs: forward only, each file once, never edited.

``migrations/NNNN_what.sql`` run in order, each in a transaction of its own with the row that
records it. A first line may say otherwise: ``-- linli: autocommit`` (one statement that refuses a
transaction, and bears being run twice) or ``-- linli: contract`` (older code cannot live with it).
``migrations/always/*.sql`` are idempotent and run last, every time.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.rows import TupleRow

from ingest.errors import SchemaError, Unavailable

MIGRATIONS: Final = Path(__file__).with_name("migrations")
# Any number, the same in every release: it makes starters queue up.
_LOCK: Final = 0x6C696E6C69
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

Connection = psycopg.Connection[TupleRow]


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    version: int
    name: str
    sql: bytes

    @property
    def sha256(self) -> bytes:
        """What tells an edited file from the applied one."""
        return hashlib.sha256(self.sql).digest()

    def says(self, word: str) -> bool:
        """Whether the first line is ``-- linli: <word>``."""
        return self.sql.partition(b"\n")[0].strip() == f"-- linli: {word}".encode()


def migrate(dsn: str, *, folder: Path = MIGRATIONS) -> list[str]:
    """Apply what is missing; any number of starters may do so at once. Return the new files.

    Raises:
        SchemaError: No TimescaleDB, an edited history, a file that fails, or a newer database.
        Unavailable: The database cannot be reached.
    """
    known = _read(folder)
    name = "connection"
    try:
        # Autocommit, so that the lock is the session's, and ends with it whatever happens.
        with psycopg.connect(dsn, autocommit=True, application_name="linli-migrate") as conn:
            conn.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            _require_timescaledb(conn)
            conn.execute(
                """
                CREATE TABLE IF NOT EXISTS schema_migration (
                    version int PRIMARY KEY,
                    name text NOT NULL,
                    sha256 bytea NOT NULL,
                    contract boolean NOT NULL,
                    applied_at timestamptz NOT NULL DEFAULT now()
                )
                """
            )
            current = _current(conn, known)
            missing = [migration for migration in known if migration.version > current]
            for migration in missing:
                name = migration.name
                if current and migration.says("contract"):
                    _require_stopped(conn, name)
                _apply(conn, migration)
            for file in sorted((folder / "always").glob("*.sql")):
                name = f"always/{file.name}"
                with conn.transaction():
                    conn.execute(file.read_bytes())
    except psycopg.OperationalError as error:
        raise Unavailable(f"database: {str(error).strip()}") from error
    except psycopg.Error as error:
        raise SchemaError(f"{name}: {str(error).strip()}") from error
    return [migration.name for migration in missing]


def check_schema(conn: Connection, *, folder: Path = MIGRATIONS) -> None:
    """Refuse a database that this code cannot work with; a newer one that only grew is fine.

    Raises:
        SchemaError: Too old, edited, or changed by newer code in a way this code does not know.
    """
    known = _read(folder)
    # Not to_regclass: inside a transaction it remembers that there was no such table.
    found = conn.execute(
        """
        SELECT FROM pg_tables
        WHERE tablename = 'schema_migration' AND schemaname = ANY (current_schemas(false))
        """
    )
    current = _current(conn, known) if found.fetchone() is not None else 0
    if current < len(known):
        raise SchemaError(f"schema {current}, code needs {len(known)}: run `linli-ingest migrate`")


def _read(folder: Path) -> list[Migration]:
    """Return all files in order; their numbers have neither holes nor doubles."""
    found: list[Migration] = []
    for expected, file in enumerate(sorted(folder.glob("*.sql")), start=1):
        match = _NAME.fullmatch(file.name)
        if match is None or int(match[1]) != expected:
            raise SchemaError(f"{file.name}: expected {expected:04}_what.sql")
        found.append(Migration(expected, file.name, file.read_bytes()))
    return found


def _require_stopped(conn: Connection, name: str) -> None:
    """Refuse while an older ingest writes: what it could not store would become dead letters."""
    rows = conn.execute(
        """
        SELECT DISTINCT application_name FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND application_name ~ '^linli-ingest ingest-'
        """
    )
    found = sorted(application for (application,) in rows)
    if found:
        raise SchemaError(
            f"{name}: an older ingest cannot live with it, stop it first (gateways keep what they"
            f" have to say): {', '.join(found)}"
        )


def _current(conn: Connection, known: list[Migration]) -> int:
    """Return the version of the database, after comparing its history with ours."""
    ours = {migration.version: migration for migration in known}
    current = 0
    for version, name, digest, contract in conn.execute(
        "SELECT version, name, sha256, contract FROM schema_migration ORDER BY version"
    ):
        mine = ours.get(version)
        if mine is None:
            if contract:
                raise SchemaError(
                    f"schema {version}, code knows {len(known)}: {name} is not for code this old,"
                    " install a newer release"
                )
        elif digest != mine.sha256:
            raise SchemaError(
                f"{mine.name}: is not what was applied as {name};"
                " an applied migration is never edited, write a new one"
            )
        current = version
    return current


def _apply(conn: Connection, migration: Migration) -> None:
    if migration.says("autocommit"):
        conn.execute(migration.sql)
        _record(conn, migration)
    else:
        with conn.transaction():
            conn.execute(migration.sql)
            _record(conn, migration)


def _record(conn: Connection, migration: Migration) -> None:
    conn.execute(
        "INSERT INTO schema_migration (version, name, sha256, contract) VALUES (%s, %s, %s, %s)",
        (migration.version, migration.name, migration.sha256, migration.says("contract")),
    )


def _require_timescaledb(conn: Connection) -> None:
    found = conn.execute("SELECT FROM pg_available_extensions WHERE name = 'timescaledb'")
    if found.fetchone() is None:
        raise SchemaError(
            "the database server has no TimescaleDB: install the package"
            " postgresql-NN-timescaledb and add timescaledb to shared_preload_libraries"
        )
