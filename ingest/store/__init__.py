# SPDX-License-Identifier: Apache-2.0
"""The tables, one module a family, and the one place where driver errors become ours."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import class_row

from ingest.errors import Busy, Rejected, Unavailable

APPLICATION = "linli-ingest"


@contextmanager
def driver_errors() -> Generator[None]:
    """Translate what the database driver raises.

    Raises:
        Rejected: The data cannot be stored, however often it is tried.
        Busy: A deadlock, or a lock that was waited for too long: it was rolled back.
        Unavailable: The database cannot store now; whether a COMMIT took is not known.
    """
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise Rejected(f"db.{error.sqlstate or 'data'}", str(error).partition("\n")[0]) from error
    except (errors.DeadlockDetected, errors.LockNotAvailable) as error:
        raise Busy(str(error).partition("\n")[0]) from error
    except (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError) as error:
        raise Unavailable(str(error).partition("\n")[0]) from error


def connect(dsn: str, name: str) -> psycopg.Connection:
    """Open a writer's connection: bounded waits, so that nothing hangs for ever.

    Raises:
        Unavailable: The database does not answer.
    """
    with driver_errors():
        connection = psycopg.connect(
            dsn,
            application_name=f"{APPLICATION} {name}",
            # Of each host, where several are named: the first of them may be the lost one.
            connect_timeout=conninfo_to_dict(dsn).get("connect_timeout") or 10,
            options="-c statement_timeout=10s -c lock_timeout=5s -c timezone=UTC"
            " -c idle_in_transaction_session_timeout=60s",
        )
        connection.autocommit = True
        return connection


@dataclass(frozen=True, slots=True)
class Course:
    """One course of events in a database, told to gateways as ``epoch``.

    PostgreSQL begins a new timeline when a standby is promoted, or a backup restored up to some
    moment. What was committed at the end of the one before may be missing then, so that watermarks
    may be lower than they were.
    """

    database: str
    timeline: int

    def __str__(self) -> str:
        return f"{self.database}-{self.timeline}"

    def is_before(self, other: Self) -> bool:
        """Return whether this one ended when the other began: an old primary came back."""
        return self.database == other.database and self.timeline < other.timeline


def course(conn: psycopg.Connection) -> Course:
    """Return on which course the database is; it must take data."""
    with conn.cursor(row_factory=class_row(Course)) as cursor:
        row = cursor.execute(
            """
            SELECT epoch AS database,
                   ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS timeline
            FROM installation
            """
        ).fetchone()
    assert row is not None
    return row


def claim(conn: psycopg.Connection, work: str) -> bool:
    """Claim some work until the connection ends; return False where another process has it."""
    row = conn.execute(
        "SELECT pg_try_advisory_lock(hashtext('linli ingest'), hashtext(%s))", (work,)
    ).fetchone()
    return row is not None and row[0]
