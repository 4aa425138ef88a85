# SPDX-License-Identifier: Apache-2.0
"""People, their sessions, and tokens of services. Secrets are stored hashed only.

Sessions live on the server: an opaque random token, known to the browser, stored as SHA-256. One
ends after 30 minutes without use, 12 hours after log-in, or at log-out, whichever is first.
"""

import hashlib
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from anyio import CapacityLimiter, to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from psycopg import AsyncConnection
from psycopg.rows import class_row

from api.scope import Role, Scope

IDLE_MAX: Final = timedelta(minutes=30)
SESSION_MAX: Final = timedelta(hours=12)
# `used_at` is written at most this often: a session in use costs no write a request.
_TOUCH_EVERY: Final = timedelta(minutes=1)
# What histories call those who act without being anybody.
RESERVED_NAMES: Final = frozenset({"rule", "system", "design", "hygiene"})
_TOKEN_BYTES: Final = 32
PASSWORD_LENGTH_MIN: Final = 12
PASSWORD_LENGTH_MAX: Final = 256
_HASHES_AT_ONCE: Final = 4

Connection = AsyncConnection[Any]  # Any: each query names its own row


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. ``credential`` is the SHA-256 of the session's or service's token."""

    name: str
    role: Role
    area: str
    area_name: str
    path: str
    language: str | None
    credential: bytes
    is_service: bool

    @property
    def scope(self) -> Scope:
        """What this person may see."""
        return Scope(self.role, self.area, self.path)


def new_token() -> str:
    """Return a token nobody can guess: 256 random bits."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def digest(token: str) -> bytes:
    """Return what is stored of a token. It is random, so a fast hash keeps it secret."""
    return hashlib.sha256(token.encode()).digest()


class Passwords:
    """Argon2id in threads, at most four at once, so that log-ins cannot exhaust memory."""

    def __init__(self) -> None:
        """Prepare a hash of nobody's password, so that unknown names cost the same time."""
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._limiter = CapacityLimiter(_HASHES_AT_ONCE)
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """Return the hash to store."""
        return await to_thread.run_sync(self._hasher.hash, password, limiter=self._limiter)

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether ``password`` is right; takes as long where there is no such person."""
        right = await to_thread.run_sync(
            self._verify, stored or self._nobody, password, limiter=self._limiter
        )
        return right and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False


async def password_hash(conn: Connection, username: str) -> str | None:
    """Return the stored hash of an active person, None where there is none."""
    cursor = await conn.execute(
        "SELECT password_hash FROM person WHERE username = %s AND active", (username,)
    )
    row = await cursor.fetchone()
    return None if row is None else row[0]


async def set_password_hash(conn: Connection, username: str, stored: str) -> None:
    """Replace the hash of a person's password."""
    await conn.execute(
        "UPDATE person SET password_hash = %s WHERE username = %s", (stored, username)
    )


async def open_session(conn: Connection, username: str, *, now: datetime) -> str:
    """Begin a session and return its token; clears away what has ended."""
    token = new_token()
    await conn.execute(
        "DELETE FROM session WHERE expires_at <= %s OR used_at <= %s", (now, now - IDLE_MAX)
    )
    await conn.execute(
        """
        INSERT INTO session (token_sha256, username, created_at, used_at, expires_at)
        VALUES (%s, %s, %s, %s, %s)
        """,
        (digest(token), username, now, now, now + SESSION_MAX),
    )
    return token


async def end_session(conn: Connection, credential: bytes) -> None:
    """End a session; its token is worth nothing from now on."""
    await conn.execute("DELETE FROM session WHERE token_sha256 = %s", (credential,))


async def by_session(conn: Connection, token: str, *, now: datetime) -> Principal | None:
    """Return whose session this is, None if it is not or no longer one; notes its use."""
    credential = digest(token)
    async with conn.cursor(row_factory=class_row(Principal)) as cursor:
        await cursor.execute(
            """
            SELECT p.username AS name, p.role, p.area, a.name AS area_name, a.path::text,
                   p.language, s.token_sha256 AS credential, false AS is_service
            FROM session AS s
            JOIN person AS p ON p.username = s.username
            JOIN area AS a ON a.area = p.area
            WHERE s.token_sha256 = %(credential)s AND p.active
              AND s.expires_at > %(now)s AND s.used_at > %(idle)s
            """,
            {"credential": credential, "now": now, "idle": now - IDLE_MAX},
        )
        principal = await cursor.fetchone()
    if principal is not None:
        await touch(conn, [credential], now=now)
    return principal


async def by_token(conn: Connection, token: str) -> Principal | None:
    """Return which service this token belongs to, None if to none."""
    async with conn.cursor(row_factory=class_row(Principal)) as cursor:
        await cursor.execute(
            """
            SELECT t.name, t.role, t.area, a.name AS area_name, a.path::text,
                   NULL AS language, t.token_sha256 AS credential, true AS is_service
            FROM service_token AS t
            JOIN area AS a ON a.area = t.area
            WHERE t.token_sha256 = %s
            """,
            (digest(token),),
        )
        return await cursor.fetchone()


async def touch(conn: Connection, credentials: Collection[bytes], *, now: datetime) -> None:
    """Note that sessions are in use."""
    await conn.execute(
        "UPDATE session SET used_at = %s WHERE token_sha256 = ANY (%s) AND used_at < %s",
        (now, list(credentials), now - _TOUCH_EVERY),
    )


async def rights(
    conn: Connection, credentials: Collection[bytes], *, now: datetime
) -> Mapping[bytes, tuple[Role, str]]:
    """Return role and area of those sessions and tokens that are still good."""
    cursor = await conn.execute(
        """
        SELECT s.token_sha256, p.role, a.path::text
        FROM session AS s
        JOIN person AS p ON p.username = s.username
        JOIN area AS a ON a.area = p.area
        WHERE s.token_sha256 = ANY (%(credentials)s) AND p.active
          AND s.expires_at > %(now)s AND s.used_at > %(idle)s
        UNION ALL
        SELECT t.token_sha256, t.role, a.path::text
        FROM service_token AS t
        JOIN area AS a ON a.area = t.area
        WHERE t.token_sha256 = ANY (%(credentials)s)
        """,
        {"credentials": list(credentials), "now": now, "idle": now - IDLE_MAX},
    )
    return {credential: (role, path) async for credential, role, path in cursor}


async def area_exists(conn: Connection, area: str) -> bool:
    """Whether there is such an area."""
    cursor = await conn.execute("SELECT 1 FROM area WHERE area = %s", (area,))
    return await cursor.fetchone() is not None


async def add_person(conn: Connection, username: str, stored: str, role: Role, area: str) -> bool:
    """Store a new person; False if a person or a service has that name already."""
    cursor = await conn.execute(
        """
        INSERT INTO person (username, password_hash, role, area)
        SELECT %(username)s, %(stored)s, %(role)s, %(area)s
        -- Histories name actors: one name, one actor.
        WHERE NOT EXISTS (SELECT 1 FROM service_token WHERE name = %(username)s)
        ON CONFLICT (username) DO NOTHING
        """,
        {"username": username, "stored": stored, "role": role, "area": area},
    )
    return cursor.rowcount == 1


async def add_token(conn: Connection, name: str, token: str, role: Role, area: str) -> bool:
    """Store a new service token; False if a person or a service has that name already."""
    cursor = await conn.execute(
        """
        INSERT INTO service_token (token_sha256, name, role, area)
        SELECT %(token)s, %(name)s, %(role)s, %(area)s
        WHERE NOT EXISTS (SELECT 1 FROM person WHERE username = %(name)s)
        ON CONFLICT (name) DO NOTHING
        """,
        {"token": digest(token), "name": name, "role": role, "area": area},
    )
    return cursor.rowcount == 1
