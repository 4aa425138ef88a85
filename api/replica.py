# SPDX-License-Identifier: Apache-2.0
"""Reads that bear a little delay go to a replica, while there is one and it is close behind.

A router that names `Lagging` as its route class has its GETs answered there: what devices and
computations change. What people change (alerts, incidents, sessions) and what the live stream tells
is read on the primary, so nobody sees their own action undone. For what an import of the registry
changes, the answer to every change carries a cookie: while it lasts, its bearer reads the primary.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, LiteralString

import psycopg
from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.config import Config
from api.metrics import Metrics
from api.state import SCHEMA_MIN, Connection, Pool, make_pool, services

log = logging.getLogger(__name__)

Status = Literal["ok", "unknown", "away", "lagging", "schema", "foreign"]

# How often the replica is looked at; its lag in seconds is known as exactly as this.
LOOK_INTERVAL_S: Final = 1.0
# A look that is older than this says nothing any more.
_LOOK_LASTS_S: Final = 3.0
_TIMEOUT_S: Final = 2.0
# Positions of the primary that are remembered: ten minutes.
_POSITIONS_MAX: Final = 600
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_COOKIE: Final = "linli_wrote"
_REPLICA: Final = "linli.replica"


@dataclass(frozen=True, slots=True)
class Health:
    """How the replica is, and why reads do not go there if they do not.

    Attributes:
        lag_s: All that was committed this long ago is there; None: not known.
        lag_bytes: Of the primary's log, not yet replayed there.
    """

    status: Status
    lag_s: float | None = None
    lag_bytes: int | None = None


class Lag:
    """How far behind a replica is, by the primary's own positions in time.

    Not by the time of the last transaction replayed there: while nothing is written that grows
    without any lag, and it compares two machines' clocks.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._positions: deque[tuple[float, int]] = deque(maxlen=_POSITIONS_MAX)
        self._reached: float | None = None

    def look(self, now_s: float, written: int, replayed: int) -> float | None:
        """Return the lag in seconds, None while it has not been close since we began to look.

        Args:
            now_s: Monotonic; when the primary was asked, before the replica was.
            written: The primary's position.
            replayed: The replica's position.
        """
        self._positions.append((now_s, written))
        while self._positions and self._positions[0][1] <= replayed:
            self._reached = self._positions.popleft()[0]
        return None if self._reached is None else now_s - self._reached


class Replica:
    """The pool of the replica, and whether it may be used; `run` keeps looking."""

    def __init__(self, dsn: str, lag_limit_s: float, primary: Pool, metrics: Metrics) -> None:
        """Take where it is, and how many seconds behind it may be."""
        # No connection is kept ready: while it is away nothing shall knock there but the look.
        self.pool = make_pool(dsn, name="linli-api-replica", min_size=0, timeout_s=1)
        self.health = Health("unknown")
        self.dsn = dsn
        self._lag_limit_s = lag_limit_s
        self._primary = primary
        self._metrics = metrics
        self._lag = Lag()
        self._looked_at = -math.inf
        self._conn: Connection | None = None
        self._limits: set[asyncio.Timeout] = set()

    @property
    def is_near(self) -> bool:
        """Whether reads may go there now."""
        fresh = time.monotonic() - self._looked_at < _LOOK_LASTS_S
        return fresh and self.health.status == "ok"

    async def run(self) -> None:
        """Look at the replica, again and again, until cancelled."""
        try:
            while True:
                self._tell(await self._look())
                await asyncio.sleep(LOOK_INTERVAL_S)
        finally:
            await self._forget()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[None]:
        """Let a read wait for the replica for as long as that answers at all.

        Raises:
            TimeoutError: It fell silent meanwhile; a server that hangs closes no connection.
        """
        async with asyncio.timeout(None) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def failed(self, error: psycopg.Error | TimeoutError) -> None:
        """Take note of a read that failed there; its connection lost, the next goes elsewhere."""
        sqlstate = error.sqlstate if isinstance(error, psycopg.Error) else None
        self._metrics.replica_retries.labels(sqlstate or "none").inc()
        log.debug("read again on the primary sqlstate=%s error=%s", sqlstate, error)
        # That all connections are busy (PoolTimeout) says nothing of the server.
        is_lost = sqlstate is None and type(error) is psycopg.OperationalError
        if is_lost or (sqlstate or "").startswith(("08", "57P")):
            self._tell(Health("away"))

    async def _look(self) -> Health:
        try:
            async with self._primary.connection(timeout=_TIMEOUT_S) as conn:
                now_s = time.monotonic()
                installation, written = await _one(
                    conn,
                    "SELECT epoch, (pg_current_wal_lsn() - '0/0')::bigint FROM installation",
                )
        except psycopg.Error:
            return Health("unknown")
        # Told at once: to give up a query that hangs takes the driver another ten seconds.
        away = asyncio.get_running_loop().call_later(_TIMEOUT_S, self._tell, Health("away"))
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                copy, version, replayed = await _one(
                    await self._connection(),
                    """
                    SELECT epoch, (SELECT coalesce(max(version), 0) FROM schema_migration),
                           CASE WHEN pg_is_in_recovery()
                                THEN (pg_last_wal_replay_lsn() - '0/0')::bigint END
                    FROM installation
                    """,
                )
        except (psycopg.Error, TimeoutError):
            await self._forget()
            return Health("away")
        finally:
            away.cancel()
        if copy != installation or replayed is None:
            return Health("foreign")
        lag_s = self._lag.look(now_s, written, replayed)
        near = lag_s is not None and lag_s <= self._lag_limit_s
        status = "schema" if version < SCHEMA_MIN else "ok" if near else "lagging"
        return Health(status, lag_s, max(0, written - replayed))

    async def _connection(self) -> Connection:
        if self._conn is None:
            self._conn = await psycopg.AsyncConnection.connect(
                self.dsn,
                autocommit=True,
                application_name="linli-api-replica-look",
                connect_timeout=math.ceil(_TIMEOUT_S),
            )
        return self._conn

    async def _forget(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()

    def _tell(self, health: Health) -> None:
        before, self.health = self.health, health
        self._looked_at = time.monotonic()
        self._metrics.replica_used.set(health.status == "ok")
        for gauge, value in (
            (self._metrics.replica_lag_s, health.lag_s),
            (self._metrics.replica_lag_bytes, health.lag_bytes),
        ):
            gauge.set(math.nan if value is None else value)
        if health.status == "away":
            limits, self._limits = self._limits, set()
            for limit in limits:
                limit.reschedule(asyncio.get_running_loop().time())
        if health.status == before.status:
            return
        if health.status == "ok":
            log.info("replica serves reads lag_s=%.1f", health.lag_s)
        else:
            log.warning(
                "replica left out, the primary serves all reads reason=%s lag_s=%s",
                health.status,
                health.lag_s,
            )


async def _one(conn: Connection, query: LiteralString) -> tuple[Any, ...]:
    """Return the only row; Any: as the query names them."""
    row = await (await conn.execute(query)).fetchone()
    if row is None:
        raise psycopg.OperationalError("no installation there")
    return row


class Lagging(APIRoute):
    """A route whose answer may be as old as the replica is allowed to be.

    What fails there is asked once more, of the primary: a query that a replay had to cancel, a
    schema that is not there yet, a lost connection.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            replica = services(request).replica
            if (
                replica is None
                or request.method not in _SAFE
                or _COOKIE in request.cookies
                or not replica.is_near
            ):
                return await handle(request)
            request.scope[_REPLICA] = replica
            try:
                async with replica.reading():
                    return await handle(request)
            except (psycopg.Error, TimeoutError) as error:
                replica.failed(error)
            del request.scope[_REPLICA]
            return await handle(request)

        return answer


def reads(request: Request) -> Pool:
    """Return the pool that a request reads from: the primary's, unless its route is `Lagging`."""
    replica: Replica | None = request.scope.get(_REPLICA)
    return services(request).pool if replica is None else replica.pool


def reads_dsn(request: Request) -> str:
    """Return what `reads` is connected by, for a connection that may take longer."""
    replica: Replica | None = request.scope.get(_REPLICA)
    if replica is not None:
        return replica.dsn
    return services(request).config.database.dsn.get_secret_value()


def wrote_cookie(config: Config) -> str | None:
    """Return the ``Set-Cookie`` of an answer to a change; None where there is no replica.

    It lasts until a replica that may still be used must have the change.
    """
    if config.database.replica is None:
        return None
    look_s = _TIMEOUT_S + _LOOK_LASTS_S
    lasts_s = math.ceil(config.database.replica_lag_limit_s + look_s + 1)
    secure = "; Secure" if config.api.secure else ""
    return f"{_COOKIE}=1; Max-Age={lasts_s}; Path=/; HttpOnly; SameSite=Lax{secure}"


def wrote(method: str, status: int) -> bool:
    """Return whether an answer is one to a change."""
    return method not in _SAFE and status < 400
