# SPDX-License-Identifier: Apache-2.0
"""Asking again without doing twice: ``Idempotency-Key``, as the IETF's draft of that name has it.

One line lets an endpoint bear it, and one more commits its answer together with what it wrote:

    @router.post("/incidents", status_code=201)
    @idempotent
    async def report_incident(person: Officer, request: Request, ...) -> Incident:
        async with writes(request) as conn:
            ...

The endpoint calls these two parameters so, and returns an `Answer` or nothing. What it writes
through `writes` and the answer are one transaction, so a crash leaves neither and the key is free
again; a refusal is kept as well, and changed nothing. What it writes in transactions of its own
must bear being done twice. What others are told of it goes through `afterwards`.

The same key with the same request gives the stored answer for a day, with another request
``idempotency.reused``, and while the first is under way ``idempotency.in_progress``. Keys are each
principal's own, at most `KEYS_MAX` a day, of `BYTES_MAX` in all: then ``idempotency.too_many``.
What is shown once only is not kept (`Answer.to_keep`): told again, the answer is without it.
"""

import asyncio
import hashlib
import inspect
import json
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import wraps
from typing import Annotated, Any, Final, ParamSpec, TypeVar, cast

from fastapi import Header, Request, Response
from psycopg.types.json import Jsonb

from api import problems
from api.answers import Answer
from api.errors import Problem
from api.people import Principal
from api.state import Connection, services
from ingest.store.expired import ANSWERS_KEPT, BATCH, DROP_ANSWERS

# Each holds a connection for as long as it takes, and may need a second one.
_AT_ONCE: Final = asyncio.Semaphore(4)
#: So many answers are kept for one principal: a desk's busiest day with room to spare, and not so
#: many that one client in a loop could fill the disk. Some more where several are asked at once.
KEYS_MAX: Final = 5_000
#: And so many bytes of answers, headers apart.
BYTES_MAX: Final = 64 * 1024 * 1024
_REPLAYED: Final = "Idempotency-Replayed"
_TURN: Final = "linli.idempotency"
# A structured field's string, or the same without its quotes.
_KEY: Final = re.compile(r'"([ !#-\[\]-~]{1,255})"|([!#-\[\]-~]{1,255})')
_KeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="chosen by the client, unique for what it wants done; asked again with it"
        " within 24 h, the answer is the same, but for what is shown once, and nothing is done"
        " twice",
    ),
]

P = ParamSpec("P")
AnswerT = TypeVar("AnswerT", bound=Answer | None)


@dataclass(slots=True)
class _Turn:
    """A request that carries a key while it is carried out."""

    conn: Connection
    afterwards: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])


@asynccontextmanager
async def writes(request: Request) -> AsyncGenerator[Connection]:
    """Give the connection that an endpoint writes through; with a key, within its transaction."""
    turn: _Turn | None = request.scope.get(_TURN)
    if turn is not None:
        yield turn.conn
        return
    async with services(request).pool.connection() as conn:
        yield conn


def afterwards(request: Request, tell: Callable[[], None]) -> None:
    """Call ``tell`` once what was written is committed: at once, where it is so already."""
    turn: _Turn | None = request.scope.get(_TURN)
    if turn is None:
        tell()
    else:
        turn.afterwards.append(tell)


def idempotent(
    endpoint: Callable[P, Awaitable[AnswerT]],
) -> Callable[P, Awaitable[AnswerT | Response]]:
    """Let an endpoint bear an ``Idempotency-Key``; see above for what it must keep to."""
    signature = inspect.signature(endpoint)
    assert signature.parameters.keys() >= {"person", "request"}, endpoint

    @wraps(endpoint)
    async def once(*args: P.args, **kwargs: P.kwargs) -> AnswerT | Response:
        given = cast("str | None", kwargs.pop("idempotency_key"))
        if given is None:
            return await endpoint(*args, **kwargs)
        request = cast(Request, kwargs["request"])
        person = cast(Principal, kwargs["person"])
        dressed = [value for value in kwargs.values() if isinstance(value, Response)]

        async def carry_out() -> tuple[Response, Response]:
            answer = await endpoint(*args, **kwargs)
            kept = None if answer is None else answer.to_keep()
            return _response(request, answer, dressed), _response(request, kept, dressed)

        async with _AT_ONCE:
            return await _once(request, person, _key(given), carry_out)

    header = inspect.Parameter(
        "idempotency_key", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_KeyHeader
    )
    # What FastAPI reads to know which parts of a request are wanted.
    vars(once)["__signature__"] = signature.replace(
        parameters=[*signature.parameters.values(), header]
    )
    return once


def _key(given: str) -> str:
    match = _KEY.fullmatch(given.strip())
    if match is None:
        raise Problem("idempotency.invalid")
    return match[1] or match[2]


async def _once(
    request: Request,
    person: Principal,
    key: str,
    carry_out: Callable[[], Awaitable[tuple[Response, Response]]],
) -> Response:
    parts = services(request)
    now, asked = parts.clock(), await _fingerprint(request, person)
    async with parts.pool.connection() as conn, conn.transaction():
        stored = await _stored(conn, person.name, key, asked, now)
        if stored is not None:
            return stored
        await _check_room(conn, person.name, now)
        turn = _Turn(conn)
        request.scope[_TURN] = turn
        try:
            async with conn.transaction():
                response, kept = await carry_out()
        except Problem as problem:
            response = kept = problems.answer(request, problem)
            if response.status_code >= 500 or response.status_code == 429:
                raise  # it may go well a little later, and nothing was done
            turn.afterwards.clear()
        finally:
            del request.scope[_TURN]
        await _keep(conn, person.name, key, asked, kept, now)
    for tell in turn.afterwards:
        tell()
    return response


async def _fingerprint(request: Request, person: Principal) -> bytes:
    """Return what tells one request from another: all that was asked, and by whom as what."""
    asked = [
        request.method,
        request.url.path,
        request.url.query,
        request.headers.get("if-match"),
        # Who lost an area or a role meanwhile is not told again what was told before.
        person.role,
        person.path,
    ]
    return hashlib.sha256(json.dumps(asked).encode() + b"\n" + await request.body()).digest()


async def _stored(
    conn: Connection, principal: str, key: str, asked: bytes, now: datetime
) -> Response | None:
    """Take the key for this transaction; return the answer that is stored under it.

    Raises:
        Problem: ``idempotency.in_progress`` or ``idempotency.reused``.
    """
    name = hashlib.sha256(f"{principal}\0{key}".encode()).digest()
    cursor = await conn.execute(
        """
        SELECT pg_try_advisory_xact_lock(%s),
               -- What writes in transactions of its own leaves this one idle meanwhile.
               set_config('idle_in_transaction_session_timeout', '60s', true)
        """,
        (int.from_bytes(name[:8], signed=True),),
    )
    row = await cursor.fetchone()
    if row is None or not row[0]:
        raise Problem("idempotency.in_progress", headers={"Retry-After": "1"})
    cursor = await conn.execute(
        """
        SELECT i.request, i.status, i.headers, i.body
        FROM idempotency AS i
        WHERE i.principal = %s AND i.key = %s AND i.at > %s
        """,
        (principal, key, now - ANSWERS_KEPT),
    )
    row = await cursor.fetchone()
    if row is None:
        return None
    before, status, headers, body = row
    if bytes(before) != asked:
        raise Problem("idempotency.reused")
    return Response(bytes(body), status, {**headers, _REPLAYED: "true"})


async def _check_room(conn: Connection, principal: str, now: datetime) -> None:
    """Refuse one more key than are kept for a principal; without a key all goes on as ever.

    Raises:
        Problem: ``idempotency.too_many``; ``Retry-After`` says when one of them is free again.
    """
    cursor = await conn.execute(
        """
        SELECT i.at FROM idempotency AS i
        WHERE i.principal = %s AND i.at > %s
        ORDER BY i.at DESC
        OFFSET %s LIMIT 1
        """,
        (principal, now - ANSWERS_KEPT, KEYS_MAX - 1),
    )
    row = await cursor.fetchone()
    if row is None:
        cursor = await conn.execute(
            """
            SELECT i.at FROM (
                SELECT k.at, sum(octet_length(k.body)) OVER (ORDER BY k.at DESC, k.key) AS bytes
                FROM idempotency AS k
                WHERE k.principal = %s AND k.at > %s
            ) AS i
            WHERE i.bytes > %s
            ORDER BY i.at DESC
            LIMIT 1
            """,
            (principal, now - ANSWERS_KEPT, BYTES_MAX),
        )
        row = await cursor.fetchone()
    if row is not None:
        wait: timedelta = row[0] + ANSWERS_KEPT - now
        seconds = math.ceil(wait.total_seconds())
        raise Problem(
            "idempotency.too_many",
            headers={"Retry-After": str(seconds)},
            extra={"max": KEYS_MAX},
        )


async def _keep(
    conn: Connection, principal: str, key: str, asked: bytes, response: Response, now: datetime
) -> None:
    """Store an answer, and clear away some of those whose day is over."""
    await conn.execute(DROP_ANSWERS, {"before": now - ANSWERS_KEPT, "count": BATCH})
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    await conn.execute(
        """
        INSERT INTO idempotency (principal, key, request, at, status, headers, body)
        VALUES (%s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (principal, key) DO UPDATE  -- one whose day is over
        SET request = excluded.request, at = excluded.at, status = excluded.status,
            headers = excluded.headers, body = excluded.body
        """,
        (
            principal,
            key,
            asked,
            now,
            response.status_code,
            Jsonb(headers),
            bytes(response.body),
        ),
    )


def _response(request: Request, answer: Answer | None, dressed: list[Response]) -> Response:
    """Return an answer as the route would give it, with the headers that the endpoint set."""
    route: Any = request.scope.get("route")  # Any: the framework's, with the status it was given
    status = getattr(route, "status_code", None) or 200
    response = Response(
        b"" if answer is None else answer.encode(),
        status,
        media_type=None if answer is None else "application/json",
    )
    for told in dressed:
        for name, value in told.headers.items():
            if name != "content-length":
                response.headers[name] = value
        response.status_code = told.status_code or response.status_code
    return response
