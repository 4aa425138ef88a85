# SPDX-License-Identifier: Apache-2.0
"""The api over a small city: two communities, five people, every device state and kind of alert."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx2
import psycopg
import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange

from api.app import create_app
from api.config import Config
from api.people import digest
from api.state import Pool, Services
from deploy.services import HOST, Postgres, free_port
from tests.services import OWNER, PASSWORD, Broker

# 10:00 in Shanghai: last night is over, tonight has not begun.
NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
NIGHT_FROM = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
NIGHT_TO = datetime(2026, 11, 20, 22, 0, tzinfo=UTC)
NOON = datetime(2026, 11, 21, 4, 0, tzinfo=UTC)
SECRET = "correct horse battery"
ORIGIN = "http://127.0.0.1:8080"
PATIENCE_S = 60
# Of a name that is given twice the last one counts.
_PATIENCE = " ".join(
    f"-c {name}={PATIENCE_S}s"
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
)

# Who there is: role and area.
PEOPLE = {
    "root": ("admin", "city"),
    "wang": ("property", "c01"),
    "li": ("police", "c01"),
    "zhao": ("property", "c02"),
    "chen": ("admin", "c01-g01"),
}
ALERTS = {
    "dark": uuid.UUID(int=1),
    "forced": uuid.UUID(int=2),
    "duress": uuid.UUID(int=3),
    "done": uuid.UUID(int=4),
    "gateway": uuid.UUID(int=5),
    "foreign": uuid.UUID(int=6),
}


INCIDENTS = {
    "open": uuid.UUID(int=11),
    "confirmed": uuid.UUID(int=12),
    "fire": uuid.UUID(int=13),
    "test": uuid.UUID(int=14),
    "foreign": uuid.UUID(int=15),
}
# Planned for a month ahead.
WINDOWS = {"c01": uuid.UUID(int=21), "c02": uuid.UUID(int=22)}


class Watch:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(slots=True)
class Api:
    """A running api without a socket, and somebody's way to talk to it."""

    app: FastAPI
    dsn: str
    watch: Watch
    clients: list[httpx2.AsyncClient] = field(default_factory=list[httpx2.AsyncClient])

    @property
    def services(self) -> Services:
        parts: Services = self.app.state.services
        return parts

    def client(self, who: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """A browser in which ``who`` is logged in; None: nobody."""
        client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app, raise_app_exceptions=False),
            base_url=ORIGIN,
            headers={"Origin": ORIGIN, **headers},
            cookies={} if who is None else {"linli_session": session_token(who)},
        )
        self.clients.append(client)
        return client


def session_token(who: str) -> str:
    return f"session-of-{who}"


def make_config(dsn: str, broker: Broker, **changes: object) -> Config:
    broker.identity("api-live-00")
    return Config.model_validate(
        {
            "database": {"dsn": dsn},
            # Nobody listens there: one identity cannot be connected by many apis at once.
            "broker": {"host": broker.host, "port": free_port(), "ca": broker.ca},
            "api": {"certificates": broker.services, "public_url": ORIGIN, **changes},
        }
    )


@asynccontextmanager
async def running(dsn: str, broker: Broker, **changes: object) -> AsyncGenerator[Api]:
    watch = Watch()
    static = changes.pop("static", Path("/nonexistent"))
    assert isinstance(static, Path)
    app = create_app(make_config(dsn, broker, **changes), clock=watch, static=static)
    api = Api(app, dsn, watch)
    _be_patient(api.services.pool)
    async with app.router.lifespan_context(app):
        yield api
        for client in api.clients:
            await client.aclose()


def _be_patient(pool: Pool) -> None:
    """Let requests wait for what a test holds for as long as it does, on a busy machine too."""
    kwargs = cast("dict[str, Any]", pool.kwargs)  # pyright: ignore[reportUnknownMemberType] - a bare dict in its hints
    kwargs["options"] += f" {_PATIENCE}"
    pool.timeout = PATIENCE_S


@pytest.fixture(scope="session")
def city_template(database_server: Postgres, database_template: str) -> str:
    """The name of a database with the city in it, to be cloned."""
    name = "api_city"
    clone(database_server, database_template, name)
    with psycopg.connect(dsn_of(database_server, name)) as conn:
        seed(conn)
    return name


@pytest.fixture(scope="session")
async def city(database_server: Postgres, city_template: str, broker: Broker) -> AsyncIterator[Api]:
    """The api over a city that no test changes."""
    name = "api_shared"
    clone(database_server, city_template, name)
    async with running(dsn_of(database_server, name), broker) as api:
        yield api


@pytest.fixture(scope="module")
async def module_city(
    database_server: Postgres, city_template: str, broker: Broker
) -> AsyncIterator[Api]:
    """The api over a city that the tests of a module add to; each asks for its own things."""
    name = f"module_{uuid.uuid4().hex[:12]}"
    clone(database_server, city_template, name)
    async with running(dsn_of(database_server, name), broker) as api:
        yield api
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def city_database(database_server: Postgres, database_template: str) -> str:
    """The DSN of a city seeded at the real time, that no test changes."""
    name = "api_now"
    clone(database_server, database_template, name)
    with psycopg.connect(dsn_of(database_server, name)) as conn:
        seed(conn, datetime.now(UTC))
        # Between two of the modules that use it there may be more than a session's half hour.
        conn.execute("UPDATE session SET used_at = 'infinity', expires_at = 'infinity'")
    return dsn_of(database_server, name)


@pytest.fixture(scope="module")
async def rules_city(
    database_server: Postgres, city_template: str, broker: Broker
) -> AsyncIterator[Api]:
    """The api over a city of which one module's tests change rules, each others."""
    name = "api_rules"
    clone(database_server, city_template, name)
    async with running(dsn_of(database_server, name), broker) as api:
        yield api


@pytest.fixture
def own_database(database_server: Postgres, city_template: str) -> Iterator[str]:
    """The DSN of a city of the test's own."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    clone(database_server, city_template, name)
    yield dsn_of(database_server, name)
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
async def own_city(own_database: str, broker: Broker) -> AsyncIterator[Api]:
    """The api over a city of the test's own."""
    async with running(own_database, broker) as api:
        yield api


def clone_city(server: Postgres, template: str, name: str) -> str:
    """Make a city of a module's own; return its DSN."""
    clone(server, template, name)
    return dsn_of(server, name)


def dsn_of(server: Postgres, name: str) -> str:
    return f"host={HOST} port={server.port} dbname={name} user={OWNER} password={PASSWORD}"


def clone(server: Postgres, template: str, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER)
            )
        )


# -- the city


def seed(conn: psycopg.Connection, now: datetime = NOW) -> None:
    """Fill an empty database; every time is relative to ``now``."""
    shift = now - NOW
    _areas(conn)
    _people(conn, now)
    for community in ("c01", "c02"):
        _community(conn, community, now)
    _lamp_nights(conn, shift)
    _alerts(conn, now)
    _incidents(conn, now)
    for community, window in WINDOWS.items():
        conn.execute(
            """
            INSERT INTO maintenance_window (id, area, begins_at, ends_at, reason, created_by,
                                            created_at, changed_at)
            VALUES (%s, %s, %s, %s, 'paint', 'seed', %s, %s)
            """,
            (window, community, now + timedelta(days=30), now + timedelta(days=31), now, now),
        )


def _areas(conn: psycopg.Connection) -> None:
    for area, parent, path, level, name, name_en in (
        ("city", None, "city", "city", "北城", "North City"),
        ("c01", "city", "city.c01", "community", "梧桐苑", "Wutong Court"),
        ("c01-g01", "c01", "city.c01.c01_g01", "cell", "东区", "East"),
        ("c01-g02", "c01", "city.c01.c01_g02", "cell", "西区", None),
        ("c02", "city", "city.c02", "community", "槐树里", None),
        ("c02-g01", "c02", "city.c02.c02_g01", "cell", "南区", None),
    ):
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name, name_en, latitude, longitude)
            VALUES (%s, %s, %s::text::ltree, %s, %s, %s, 39.9, 116.4)
            """,
            (area, parent, path, level, name, name_en),
        )


def _people(conn: psycopg.Connection, now: datetime) -> None:
    stored = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(SECRET)
    for name, (role, area) in PEOPLE.items():
        conn.execute(
            "INSERT INTO person (username, password_hash, role, area) VALUES (%s, %s, %s, %s)",
            (name, stored, role, area),
        )
        conn.execute(
            "INSERT INTO session VALUES (%s, %s, %s, %s, %s)",
            (digest(session_token(name)), name, now, now, now + timedelta(hours=12)),
        )
    conn.execute(
        "INSERT INTO service_token (token_sha256, name, role, area) VALUES (%s, %s, %s, %s)",
        (digest("token-of-robot"), "robot", "admin", "city"),
    )


def _community(conn: psycopg.Connection, community: str, now: datetime) -> None:
    """A quiet gateway with an offline bin behind it, and one with all the other states."""
    for gateway, silent in ((f"gw-{community}-a", False), (f"gw-{community}-b", True)):
        conn.execute(
            """
            INSERT INTO gateway (gateway, community, name, last_seen_at, silent, agent_version,
                                 outbox_messages, clock)
            VALUES (%s, %s, %s, %s, %s, '0.1.0', 3, 'synchronized')
            """,
            (gateway, community, f"箱 {gateway}", now - timedelta(seconds=5), silent),
        )
    for name, kind, gateway, cell, life, reading, fault in (
        ("lamp-001", "lamp", "a", "g01", "in_service", {"lit": False, "power_w": 0.4}, None),
        ("lamp-002", "lamp", "a", "g02", "in_service", {"lit": False}, "driver_failure"),
        ("lamp-003", "lamp", "a", "g02", "maintenance", {"lit": False}, None),
        ("lamp-004", "lamp", "a", "g02", "planned", None, None),
        ("bin-001", "bin", "b", "g01", "in_service", {"fill_pct": 41.3}, None),
        ("gate-001", "gate", "a", "g01", "in_service", {"door": "closed"}, None),
        ("alarm-001", "alarm", "a", "g01", "in_service", None, None),
    ):
        if community == "c02" and kind == "gate":
            continue
        area = f"{community}-{cell}" if f"{community}-{cell}" != "c02-g02" else "c02"
        row = conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, name, name_en, life,
                                in_service_from, rated_power_w)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id
            """,
            (
                f"{community}-{name}",
                kind,
                f"gw-{community}-{gateway}",
                community,
                area,
                f"{kind} 号 {name[-3:]}",
                f"{kind.title()} {name[-3:]}",
                life,
                now - timedelta(days=100),
                42.0 if kind == "lamp" else None,
            ),
        ).fetchone()
        assert row is not None
        if name == "lamp-001":
            conn.execute(
                """
                UPDATE device
                SET component_code = '0312-000123', owner = '街道办', maker = 'ACME',
                    model = 'L60', planned_on = '2024-11-01', installed_on = '2025-02-03',
                    road = '东路'
                WHERE id = %s
                """,
                (row[0],),
            )
        if reading is None:
            continue
        at = now - timedelta(minutes=1)
        conn.execute(
            """
            INSERT INTO device_state (device_id, at, received_at, since, fault, reading, lit,
                                      lit_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                row[0],
                at,
                at + timedelta(seconds=1),
                now - timedelta(hours=1),
                fault,
                Jsonb(reading),
                reading.get("lit"),
                at if "lit" in reading else None,
            ),
        )
        if name == "lamp-001":
            for index in range(25):
                instant = at - timedelta(minutes=10) * index
                conn.execute(
                    """
                    INSERT INTO reading_lamp (at, received_at, device_id, lit, power_w)
                    VALUES (%s, %s, %s, %s, %s)
                    """,
                    (instant, instant + timedelta(seconds=1), row[0], index > 12, 41.3),
                )


def _lamp_nights(conn: psycopg.Connection, shift: timedelta) -> None:
    """Thirteen hours due; lamp 1 lit throughout, lamp 2 dark for 6.5 h, lamp 3 half unknown."""
    hour = 3_600_000_000
    start, end = NIGHT_FROM + shift, NIGHT_TO + shift
    for device, lit_h, dark_h in (
        ("c01-lamp-001", 13.0, 0.0),
        ("c01-lamp-002", 6.5, 6.5),
        ("c01-lamp-003", 6.5, 0.0),
        ("c02-lamp-001", 13.0, 0.0),
    ):
        conn.execute(
            """
            INSERT INTO lamp_night (device_id, night, community, due, due_us, due_to, lit_us,
                                    dark_us)
            SELECT id, %s, community, %s, %s, %s, %s, %s FROM device WHERE device = %s
            """,
            (
                (NIGHT_FROM + shift).date(),
                TimestamptzMultirange([TimestamptzRange(start, end)]),
                13 * hour,
                NOON + shift,
                int(lit_h * hour),
                int(dark_h * hour),
                device,
            ),
        )


def _alerts(conn: psycopg.Connection, now: datetime) -> None:
    for name, rule, severity, subject, active, acknowledged, minutes in (
        ("dark", "lamp.dark", "major", "c01-lamp-002", True, False, 60),
        ("forced", "gate.forced", "major", "c01-gate-001", False, False, 50),
        ("duress", "alarm.duress", "critical", "c01-alarm-001", True, False, 40),
        ("done", "bin.full", "minor", "c01-bin-001", False, True, 600),
        ("gateway", "gateway.silent", "major", "gw-c01-b", True, True, 30),
        ("foreign", "lamp.dark", "major", "c02-lamp-001", True, False, 20),
    ):
        raised_at = now - timedelta(minutes=minutes)
        insert_alert(
            conn,
            ALERTS[name],
            rule,
            severity,
            subject,
            # Long ago: of what a city begins with no live stream tells as of news.
            now=raised_at + timedelta(minutes=5),
            raised_at=raised_at,
            active=active,
            acknowledged=acknowledged,
        )


def insert_alert(
    conn: psycopg.Connection,
    alert: uuid.UUID,
    rule: str,
    severity: str,
    subject: str,
    *,
    now: datetime,
    raised_at: datetime,
    active: bool = True,
    acknowledged: bool = False,
) -> None:
    """Add an alert about a device, or a gateway where there is no such device."""
    conn.execute(
        """
        INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area,
                           params, active, standing, acknowledged, raised_at, last_raised_at,
                           received_at, cleared_at, acknowledged_at, acknowledged_by, changed_at)
        SELECT %(alert)s, %(rule)s, %(severity)s, coalesce(d.kind, 'gateway'), d.device,
               coalesce(d.gateway, g.gateway), coalesce(d.community, g.community),
               coalesce(d.area, g.community), '{"power_w": 0.4}', %(active)s, %(active)s::int,
               %(acknowledged)s, %(raised_at)s, %(raised_at)s, %(raised_at)s, %(cleared_at)s,
               %(acknowledged_at)s, %(acknowledged_by)s, %(now)s
        FROM (SELECT %(subject)s AS subject) AS s
        LEFT JOIN device AS d ON d.device = s.subject
        LEFT JOIN gateway AS g ON g.gateway = s.subject
        """,
        {
            "alert": alert,
            "rule": rule,
            "severity": severity,
            "subject": subject,
            "active": active,
            "acknowledged": acknowledged,
            "raised_at": raised_at,
            "cleared_at": None if active else raised_at + timedelta(minutes=5),
            "acknowledged_at": raised_at + timedelta(minutes=1) if acknowledged else None,
            "acknowledged_by": "li" if acknowledged else None,
            "now": now,
        },
    )
    conn.execute(
        """
        WITH occurred AS (
            INSERT INTO alert_occurrence (alert, rule, gateway, device, key, params, active,
                                          raised_at, received_at, cleared_at, acknowledged_at)
            SELECT id, rule, gateway, device, id::text, params, active, raised_at, received_at,
                   cleared_at, acknowledged_at
            FROM alert WHERE id = %s
            RETURNING id, alert
        )
        INSERT INTO alert_history (alert, at, actor, action, reason, occurrence)
        SELECT alert, %s, 'rule', 'raised', 'condition_met', id FROM occurred
        """,
        (alert, raised_at),
    )


def _incidents(conn: psycopg.Connection, now: datetime) -> None:
    """Records of both communities; the open one is about the alarm given under threat."""
    for name, category, area, disposition, hours in (
        ("open", "affray", "c01-g01", "open", 1),
        ("confirmed", "burglary", "c01", "confirmed", 30),
        ("fire", "fire", "c01-g02", "confirmed", 60),
        ("test", "affray", "c01-g01", "test", 90),
        ("foreign", "fraud", "c02-g01", "confirmed", 30),
    ):
        confirmed = disposition == "confirmed"
        occurred_at = now - timedelta(hours=hours)
        conn.execute(
            """
            INSERT INTO incident (id, category, area, community, occurred_at, disposition, alert,
                                  confirmed_by, confirmed_at, note, reported_by, reported_at,
                                  changed_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'li', %s, %s)
            """,
            (
                INCIDENTS[name],
                category,
                area,
                area[:3],
                occurred_at,
                disposition,
                ALERTS["duress"] if name == "open" else None,
                "li" if confirmed else None,
                occurred_at + timedelta(minutes=30) if confirmed else None,
                f"note of {name}",
                occurred_at,
                occurred_at,
            ),
        )
        conn.execute(
            """
            INSERT INTO incident_history (incident, at, actor, action, reason, changes, version)
            VALUES (%s, %s, 'li', 'reported', 'seen', '{"note": [null, "x"]}', 1)
            """,
            (INCIDENTS[name], occurred_at),
        )
