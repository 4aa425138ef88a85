# SPDX-License-Identifier: Apache-2.0
"""The log of what was told, where much was told: a page is read by index, and pages hold it all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from api import notifications
from api.notifications import Delivery, DeliveryQuestion, read_log
from api.paging import Key
from api.people import Principal
from api.places import find_area
from deploy.services import Postgres
from tests.api.conftest import NOW, clone_city
from tests.ingest.test_plans import nodes

COMMUNITIES = 30  # of three streets
MESSAGES = 300  # of each community
EACH = timedelta(minutes=7)
LIMIT = 10
ALERT = UUID(int=5 * 1_000 + 7)  # of m05
OUTSIDE = "m06"


@pytest.fixture(scope="module")
def told(database_server: Postgres, database_template: str) -> str:
    """Nine thousand messages, one in a hundred not delivered, of one person a community."""
    dsn = clone_city(database_server, database_template, "told")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "INSERT INTO area (area, path, level, name) VALUES ('city', 'city', 'city', '城')"
        )
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            SELECT 's' || n, 'city', ('city.s' || n)::ltree, 'street', '街'
            FROM generate_series(0, 2) AS n
            """
        )
        numbers = {"count": COMMUNITIES, "messages": MESSAGES, "now": NOW, "each": EACH}
        for statement in (
            """
            INSERT INTO area (area, parent, path, level, name)
            SELECT format('m%%s', lpad(n::text, 2, '0')), 's' || n %% 3,
                   format('city.s%%s.m%%s', n %% 3, lpad(n::text, 2, '0'))::ltree, 'community', '区'
            FROM generate_series(1, %(count)s) AS n
            """,
            """
            INSERT INTO area (area, parent, path, level, name)
            SELECT area || '-g1', area, path || (area || '_g1')::ltree, 'cell', '格'
            FROM area WHERE level = 'community'
            """,
            """
            INSERT INTO gateway (gateway, community)
            SELECT 'gw-' || area, area FROM area WHERE level = 'community'
            """,
            """
            INSERT INTO person (username, password_hash, role, area)
            SELECT 'of-' || area, '', 'property', area FROM area WHERE level = 'community'
            """,
            """
            INSERT INTO notification_channel (id, kind, name, address, username, created_at,
                                              created_by)
            SELECT ('00000000-0000-0000-0000-0000000000' || right(area, 2))::uuid, 'email', 'x', '',
                   'of-' || area, %(now)s, 'x'
            FROM area WHERE level = 'community'
            """,
            # Forty alerts of each community, one in ten of its cell; every twentieth is duress.
            """
            INSERT INTO alert (id, rule, severity, kind, gateway, community, area, active,
                               acknowledged, raised_at, received_at, last_raised_at, changed_at)
            SELECT lpad(to_hex(c.n * 1000 + k), 32, '0')::uuid,
                   CASE k %% 20 WHEN 19 THEN 'alarm.duress' ELSE 'gateway.silent' END, 'major',
                   'gateway', 'gw-' || c.area, c.area,
                   c.area || CASE k %% 10 WHEN 3 THEN '-g1' ELSE '' END, false, true, %(now)s,
                   %(now)s, %(now)s, %(now)s
            FROM (SELECT area, right(area, 2)::int AS n FROM area WHERE level = 'community') AS c,
                 generate_series(0, 39) AS k
            """,
            # Community by community in turn, as they come.
            """
            INSERT INTO notification_message (key, channel, community, kind, content, state,
                                              created_at, next_at, finished_at)
            SELECT gen_random_uuid(), ch.id, p.area, 'raised', '{}',
                   CASE k %% 100 WHEN 50 THEN 'given_up' ELSE 'sent' END,
                   %(now)s - %(each)s * (%(messages)s - k), %(now)s, %(now)s
            FROM generate_series(1, %(messages)s) AS k, notification_channel AS ch
            JOIN person AS p USING (username)
            ORDER BY k, p.area
            """,
            """
            INSERT INTO notification (alert, channel, community, kind, created_at, due_at, message)
            SELECT lpad(to_hex(right(m.community, 2)::int * 1000
                               + (m.id / %(count)s) %% 40), 32, '0')::uuid,
                   m.channel, m.community, 'raised', m.created_at, m.created_at, m.id
            FROM notification_message AS m
            """,
        ):
            conn.execute(statement.encode(), numbers)
        conn.execute("VACUUM ANALYZE")
    return dsn


@dataclass(slots=True)
class Log:
    """Who asks, and the plans of what was read for them while ``is_explained``."""

    conn: AsyncConnection[Any]
    person: Principal
    is_explained: bool = True
    plans: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    async def page(
        self, after: Key | None, count: int = LIMIT, **question: Any
    ) -> list[tuple[int, Delivery]]:
        wanted = DeliveryQuestion.model_validate(question)
        place = await find_area(self.conn, self.person.scope, wanted.area or self.person.area)
        found = await read_log(self.conn, self.person, place, wanted, after, count)
        return list(found)

    async def whole(self, **question: Any) -> list[int]:
        """The numbers of all pages."""
        self.is_explained = False
        found: list[int] = []
        after: Key | None = None
        while page := await self.page(after, 400, **question):
            found += [number for number, _ in page]
            after = page[-1][1].created_at.isoformat(), page[-1][0]
        self.is_explained = True
        return found

    @property
    def read(self) -> int:
        """How many messages were looked at."""
        return sum(
            node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0))
            for plan in self.plans
            for node in nodes(plan)
            if node.get("Relation Name") == "notification_message"
        )


@asynccontextmanager
async def log(dsn: str, area: str, role: Any = "admin") -> AsyncGenerator[Log]:
    class Explained(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            if not made.is_explained:
                return await super().execute(query, params, **more)
            explain = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) {}").format(
                query if isinstance(query, sql.Composed) else sql.SQL(query)
            )
            async with psycopg.AsyncCursor(self.connection) as cursor:
                await cursor.execute(explain, params)
                row = await cursor.fetchone()
            assert row is not None
            made.plans.append(row[0][0]["Plan"])
            return await super().execute(query, params, **more)

    async with await AsyncConnection.connect(
        dsn,
        autocommit=True,
        cursor_factory=Explained,
        options="-c plan_cache_mode=force_custom_plan",
    ) as conn:
        async with psycopg.AsyncCursor(conn) as cursor:
            await cursor.execute("SELECT path::text FROM area WHERE area = %s", (area,))
            row = await cursor.fetchone()
        assert row is not None
        made = Log(conn, Principal("x", role, area, area, row[0], None, b"", False))
        yield made


@pytest.mark.parametrize(
    ("area", "question", "at_most"),
    [
        pytest.param("m05", {}, LIMIT, id="community"),
        # Nine in ten of its community's messages are about alerts that are not the cell's.
        pytest.param("m05-g1", {}, LIMIT * 15, id="cell"),
        pytest.param("s1", {}, LIMIT * COMMUNITIES // 3, id="street"),
        pytest.param("city", {}, LIMIT * COMMUNITIES, id="city"),
        pytest.param("city", {"area": "m05"}, LIMIT, id="community-of-a-city"),
        pytest.param("city", {"alert": str(ALERT)}, 8, id="alert"),
        pytest.param("city", {"recipient": "of-m05"}, LIMIT, id="person"),
        pytest.param("city", {"recipient": "of-nobody"}, 0, id="nobody"),
        pytest.param(
            "m05",
            {"from": NOW - EACH * 200, "to": NOW - EACH * 100},
            LIMIT,
            id="time",
        ),
    ],
)
async def test_a_page_is_read_by_index_and_costs_what_it_shows(
    told: str, area: str, question: dict[str, Any], at_most: int
) -> None:
    async with log(told, area) as one:
        page = await one.page(None, **question)
        assert bool(page) is (at_most > 0)
        assert sequential(one) == set()
        assert one.read <= at_most
        # So does the last page but one: what came before it is not read again.
        whole = await one.whole(**question)
        if len(whole) > LIMIT:
            one.plans.clear()
            middle = await at(told, whole[-LIMIT - 1])
            assert len(await one.page((middle, whole[-LIMIT - 1]), **question)) == LIMIT
            assert sequential(one) == set()
            assert one.read <= at_most


@pytest.mark.parametrize(
    ("question", "at_most"),
    [
        pytest.param({}, LIMIT, id="all"),
        pytest.param({"state": "given_up"}, LIMIT, id="what-did-not-arrive"),
        pytest.param({"to": NOW - EACH * 150}, LIMIT, id="time"),
    ],
)
async def test_where_nearly_all_is_theirs_it_is_read_as_it_is(
    told: str, monkeypatch: pytest.MonkeyPatch, question: dict[str, Any], at_most: int
) -> None:
    monkeypatch.setattr(notifications, "MERGED_MAX", COMMUNITIES - 1)
    async with log(told, "city") as one:
        assert len(await one.page(None, **question)) == LIMIT
        assert sequential(one) == set()
        assert one.read <= at_most


@pytest.mark.parametrize("merged", [COMMUNITIES, 0], ids=["merged", "as-it-is"])
@pytest.mark.parametrize(
    ("area", "role", "question", "wanted"),
    [
        pytest.param("s1", "admin", {}, "m.community = ANY ('{m01,m04,m07,m10,m13,m16,m19,m22,m25,"
                     "m28}')", id="street"),
        pytest.param("m05", "property", {}, "m.community = 'm05' AND t.rule <> 'alarm.duress'",
                     id="no-duress"),
        pytest.param("m05-g1", "police", {}, "t.area = 'm05-g1'", id="cell"),
        pytest.param("m05", "admin", {"state": "given_up"},
                     "m.community = 'm05' AND m.state = 'given_up'", id="not-arrived"),
        pytest.param("m05", "admin", {"recipient": "of-" + OUTSIDE}, "false", id="elsewhere"),
        pytest.param("m05", "admin", {"alert": str(ALERT), "recipient": "of-m05"},
                     f"t.id = '{ALERT}'", id="alert-and-person"),
    ],
)  # fmt: skip
async def test_pages_hold_what_is_theirs_once_and_in_order(
    told: str, monkeypatch: pytest.MonkeyPatch, area: str, role: str, question: dict[str, Any],
    wanted: str, merged: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(notifications, "MERGED_MAX", merged)
    with psycopg.connect(told) as conn:
        right = conn.execute(
            f"""
            SELECT m.id FROM notification_message AS m
            JOIN notification AS n ON n.message = m.id
            JOIN alert AS t ON t.id = n.alert
            WHERE {wanted}
            ORDER BY m.created_at DESC, m.id DESC
            """.encode()
        ).fetchall()
    async with log(told, area, role) as one:
        assert await one.whole(**question) == [number for (number,) in right]


def sequential(one: Log) -> set[str]:
    """What was read from end to end, of that of which there is much."""
    return {
        node["Relation Name"]
        for plan in one.plans
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan"
    } & {"notification_message", "notification", "alert"}


async def at(dsn: str, message: int) -> str:
    async with await AsyncConnection.connect(dsn) as conn:
        cursor = await conn.execute(
            "SELECT created_at FROM notification_message WHERE id = %s", (message,)
        )
        row = await cursor.fetchone()
    assert row is not None
    created_at: datetime = row[0]
    return created_at.isoformat()
