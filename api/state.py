# SPDX-License-Identifier: Apache-2.0
"""What one running api shares among its requests."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from api.errors import SchemaError

if TYPE_CHECKING:
    from fastapi import Request

    from api.attempts import Attempts
    from api.config import Config
    from api.live import Hub
    from api.metrics import Metrics
    from api.paging import Cursors
    from api.people import Passwords
    from api.replica import Replica

Connection = AsyncConnection[Any]  # Any: each query names its own row
Pool = AsyncConnectionPool[AsyncConnection[TupleRow]]
Clock = Callable[[], datetime]


@dataclass(slots=True)
class Services:
    """The parts a request may use. ``cursors`` gets the installation's key at start.

    ``pool`` is the primary's; a route that reads from elsewhere asks `api.replica.reads`.
    """

    config: Config
    clock: Clock
    pool: Pool
    passwords: Passwords
    attempts: Attempts
    metrics: Metrics
    hub: Hub
    cursors: Cursors
    replica: Replica | None = None


def services(request: Request) -> Services:
    """Return the services of the app that answers ``request``."""
    return cast(Services, request.app.state.services)


def make_pool(
    dsn: str, *, name: str = "linli-api", min_size: int = 1, timeout_s: float = 5
) -> Pool:
    """Return the pool, still closed: open it in the running loop.

    Every connection has bounded waits, is checked before use and lives at most ten minutes.
    ``timeout_s`` is how long a request waits for one.
    """
    return AsyncConnectionPool(
        dsn,
        kwargs={
            "autocommit": True,
            "application_name": name,
            # Of each host, where several are named: the first of them may be the lost one.
            "connect_timeout": conninfo_to_dict(dsn).get("connect_timeout") or 5,
            # A machine that is lost says nothing: what it never confirmed ends the connection.
            "tcp_user_timeout": 10_000,
            "options": "-c statement_timeout=5s -c lock_timeout=2s -c timezone=UTC"
            " -c idle_in_transaction_session_timeout=10s"
            # A plan that suits every area suits none: one cell and a city are too far apart.
            " -c plan_cache_mode=force_custom_plan",
        },
        min_size=min_size,
        max_size=10,
        timeout=timeout_s,
        max_lifetime=600,
        check=AsyncConnectionPool.check_connection,
        open=False,
        name=name,
    )


@asynccontextmanager
async def consistent(conn: Connection) -> AsyncGenerator[None]:
    """Let all reads in the block see the same moment."""
    async with conn.transaction():
        await conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


# The views of this migration are the least the api can work with.
SCHEMA_MIN = 23


async def check_schema(conn: Connection) -> int:
    """Return the version of the database's schema.

    Raises:
        SchemaError: It is older than this code needs, or there is none.
    """
    cursor = await conn.execute("SELECT to_regclass('schema_migration') IS NOT NULL")
    row = await cursor.fetchone()
    version = 0
    if row is not None and row[0]:
        cursor = await conn.execute("SELECT coalesce(max(version), 0) FROM schema_migration")
        row = await cursor.fetchone()
        version = 0 if row is None else int(row[0])
    if version < SCHEMA_MIN:
        raise SchemaError(f"schema {version}, code needs {SCHEMA_MIN}: run `linli-ingest migrate`")
    return version
