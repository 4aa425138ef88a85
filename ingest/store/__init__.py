# SPDX-License-Identifier: Apache-2.0
"""The tables, one module a family, and the one place where driver errors become ours."""

from collections.abc import Generator
from contextlib import contextmanager

import psycopg

from ingest.errors import Rejected, Unavailable

APPLICATION = "linli-ingest"


@contextmanager
def driver_errors() -> Generator[None]:
    """Translate what the database driver raises.

    Raises:
        Rejected: The data cannot be stored, however often it is tried.
        Unavailable: The database cannot store now; whether a COMMIT took is not known.
    """
    try:
        yield
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise Rejected(f"db.{error.sqlstate or 'data'}", str(error).partition("\n")[0]) from error
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
            connect_timeout=10,
            options="-c statement_timeout=10s -c lock_timeout=5s -c timezone=UTC"
            " -c idle_in_transaction_session_timeout=60s",
        )
        connection.autocommit = True
        return connection


def claim(conn: psycopg.Connection, work: str) -> bool:
    """Claim some work until the connection ends; return False where another process has it."""
    row = conn.execute(
        "SELECT pg_try_advisory_lock(hashtext('linli ingest'), hashtext(%s))", (work,)
    ).fetchone()
    return row is not None and row[0]
