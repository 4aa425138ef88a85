# SPDX-License-Identifier: Apache-2.0
"""Cities with some weeks of numbers, a province, and what either says of an area."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from datetime import UTC, date, datetime, timedelta

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from deploy.services import Postgres
from ingest import numbers
from ingest.indicators.catalogue import INDICATORS, SINGLE
from ingest.numbers import Period, Question
from ingest.store import cities
from ingest.store.area_days import verify_sums
from ingest.store.sums import By
from tests.services import OWNER, PASSWORD

NOW = datetime(2026, 5, 1, 4, tzinfo=UTC)
FIRST, END = date(2026, 3, 25), date(2026, 4, 5)
DAYS = [FIRST + timedelta(days=number) for number in range((END - FIRST).days)]
MOVED_ON = date(2026, 3, 30)
# The city's tree; c4 moves from one street to the other.
TREE = (
    ("metro", None, "city"),
    ("s1", "metro", "street"),
    ("s2", "metro", "street"),
    ("c1", "s1", "community"),
    ("c1-a", "c1", "cell"),
    ("c2", "s1", "community"),
    ("c3", "s2", "community"),
    ("c4", "s2", "community"),
)
TOLD = (
    ("lighting-uptime", ""),
    ("lamps-lit", ""),
    ("equipment-good", ""),
    ("equipment-good", "lamp"),
    ("refuse-sorted", ""),
    ("incident-rate", ""),
)


@contextlib.contextmanager
def databases(server: Postgres, template: str) -> Generator[Callable[[], str]]:
    """Makes migrated databases; what they were used for ends with this."""
    made: list[str] = []

    def make() -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                    sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER)
                )
            )
        made.append(name)
        return f"host=127.0.0.1 port={server.port} dbname={name} user={OWNER} password={PASSWORD}"

    yield make
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        for name in made:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def connect(dsn: str) -> psycopg.Connection:
    return psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC")


def found_province(conn: psycopg.Connection) -> None:
    conn.execute(
        """
        INSERT INTO area (area, path, level, name) VALUES ('north', 'north', 'province', '北省')
        """
    )
    cities.admit(conn, "metro-city", "metro", "大城", "north")
    cities.admit(conn, "other-city", "other", "别城", "north")


def found_city(conn: psycopg.Connection, top: str = "metro", prefix: str = "") -> None:
    """Write the tree, who lives there, and the numbers of `DAYS`; ``prefix`` is that of ids."""

    def named(area: str | None) -> str | None:
        return None if area is None else top if area == "metro" else f"{prefix}{area}"

    for area, parent, level in [(named(one), named(two), level) for one, two, level in TREE]:
        assert area is not None
        above = conn.execute("SELECT path::text FROM area WHERE area = %s", (parent,)).fetchone()
        label = area.replace("-", "_")
        conn.execute(
            "INSERT INTO area (area, parent, path, level, name) VALUES (%s, %s, %s, %s, %s)",
            (
                area,
                parent,
                label if above is None else f"{above[0]}.{label}",
                level,
                f"name {area}",
            ),
        )
        if level == "community":
            conn.execute(
                """
                INSERT INTO area_population (area, valid, residents, households)
                VALUES (%s, '[2026-01-01,2026-03-28)', 2900, 1000),
                       (%s, '[2026-03-28,)', 3100, NULL)
                """,
                (area, area),
            )
    conn.execute(
        "UPDATE area SET parent = %(street)s, path = %(path)s::ltree WHERE area = %(area)s",
        {
            "street": named("s1"),
            "path": f"{top}.{named('s1')}.{named('c4')}".replace("-", "_"),
            "area": named("c4"),
        },
    )
    conn.execute(
        """
        UPDATE area_version SET during = CASE WHEN lower_inf(during)
            THEN tstzrange(NULL, %(at)s) ELSE tstzrange(%(at)s, NULL) END
        WHERE area = %(area)s
        """,
        {
            "area": named("c4"),
            "at": datetime.combine(MOVED_ON, datetime.min.time(), UTC) + timedelta(hours=4),
        },
    )
    rows: list[Row] = []
    for number, day in enumerate(DAYS):
        for place, area in enumerate(("c1", "c1-a", "c2", "c3", "c4")):
            for order, (indicator, kind) in enumerate(TOLD):
                good = 1_000 * (place + 1) + 17 * number + order
                bad = (number * 7 + place) % 40
                if indicator == "incident-rate":
                    good, bad = (number + place) % 3 // 2, 0
                rows.append(
                    (f"{prefix}{area}", day, indicator, kind, good, bad, good + bad + place)
                )
        rows.append((f"{prefix}c1", day, "time-to-empty", "", 5, 0, 5))
    write(conn, *rows)


Row = tuple[str, date, str, str, int, int, int]  # area, day, indicator, class, good, bad, total


def write(conn: psycopg.Connection, *rows: Row, revision: int = 1, status: str = "final") -> None:
    """Write days' numbers as the days' keeper does."""
    areas, days, indicators, kinds, good, bad, total = zip(*rows, strict=True)
    conn.execute(
        """
        INSERT INTO area_day (area, day, indicator, kind, good, bad, total, excluded, subjects,
                              revision, status, rule_version, computed_at)
        SELECT n.*, 3, %s, %s, 1, %s
        FROM unnest(%s::text[], %s::date[], %s::text[], %s::text[], %s::bigint[], %s::bigint[],
                    %s::bigint[], %s::jsonb[]) AS n
        ON CONFLICT (area, indicator, day, kind) DO UPDATE SET
            good = excluded.good, bad = excluded.bad, total = excluded.total,
            excluded = excluded.excluded, revision = excluded.revision, status = excluded.status
        """,
        (
            revision,
            status,
            NOW,
            *map(list, (areas, days, indicators, kinds, good, bad, total)),
            [Jsonb({"maintenance": one} if one % 2 else {}) for one in good],
        ),
    )


async def read(
    conn: psycopg.Connection, area: str, by: By, indicators: Sequence[str] = tuple(INDICATORS)
) -> list[Period]:
    row = conn.execute("SELECT path::text FROM area WHERE area = %s", (area,)).fetchone()
    assert row is not None
    question = Question(row[0], row[0].split(".")[0], "Asia/Shanghai", FIRST, END, by, NOW)
    async with asynchronous(conn) as other:
        return await numbers.read(other, [INDICATORS[one] for one in indicators], question)


@contextlib.asynccontextmanager
async def asynchronous(conn: psycopg.Connection) -> AsyncGenerator[psycopg.AsyncConnection]:
    """A connection to the same database, as the api's are."""
    async with await psycopg.AsyncConnection.connect(
        f"{conn.info.dsn} password={PASSWORD}", autocommit=True
    ) as other:
        yield other


SUMMED = tuple(one for one in INDICATORS if one not in SINGLE)


async def assert_equal(
    city: psycopg.Connection,
    centre: psycopg.Connection,
    top: str = "metro",
    prefix: str = "",
    periods: Sequence[By] = ("total", "month", "day", "child"),
) -> None:
    """Every number of the areas the province knows is the city's own."""
    for area in (top, *(f"{prefix}{one}" for one in ("s1", "c1", "c4"))):
        for by in periods:
            own = await read(city, area, by, SUMMED)
            if by == "child":  # cells stay in the city
                own = [one for one in own if not one.label.endswith("c1_a")]
            assert await read(centre, area, by, SUMMED) == own, (area, by)
            assert own or by == "child", area
    assert verify_sums(centre, FIRST, END)[1] == []
