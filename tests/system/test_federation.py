# SPDX-License-Identifier: Apache-2.0
"""Two cities and their province as real processes: whatever happens, the numbers are equal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from deploy.faults import ground
from deploy.faults.ground import until
from deploy.installation import environment
from deploy.services import Postgres, Process, Userland, free_port
from edge_agent.messages import Aggregate, AreaDay, AreaTally, encode
from ingest.pki import Authority
from ingest.store import province
from tests.bad_input.installation import Gateway
from tests.ingest.federation import (
    DAYS,
    NOW,
    assert_equal,
    connect,
    databases,
    found_city,
    found_province,
    read,
    write,
)
from tests.services import OWNER, Broker

pytestmark = pytest.mark.timeout(300)

DEADLINE_S = 80.0
CITIES = (("metro-city", "metro", ""), ("other-city", "other", "o-"))


@dataclass(slots=True)
class Installation:
    """One ingest process over its own broker and its own database."""

    name: str
    dsn: str
    broker: Broker
    folder: Path
    sections: str = ""
    role: str = "city"
    conn: psycopg.Connection = field(init=False)
    process: Process | None = None

    def __post_init__(self) -> None:
        self.conn = connect(self.dsn)
        for identity in ("ingest-telemetry-00", "ingest-event-00", "ingest-aggregate-00"):
            self.broker.identity(identity)

    def start(self) -> None:
        config = self.folder / f"{self.name}.toml"
        config.write_text(
            f"""
[database]
dsn = "{self.dsn}"
[broker]
port = {self.broker.port}
ca = "{self.broker.ca}"
[ingest]
certificates = "{self.broker.services}"
metrics_port = {free_port()}
role = "{self.role}"
{self.sections}
"""
        )
        self.process = Process(
            self.name,
            [sys.executable, "-P", "-m", "ingest", "run", "--config", str(config)],
            log=self.folder / f"{self.name}.log",
            environment=environment(),
        )

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.kill() == -signal.SIGKILL

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()

    def back_up(self, server: Postgres) -> None:
        """Keep a copy of its database, as a dump is one."""
        self._between_runs(server, "CREATE DATABASE {backup} TEMPLATE {database} OWNER {owner}")

    def restore(self, server: Postgres) -> None:
        """Put the copy in the place of its database: all since then is gone, on no new timeline."""
        self._between_runs(
            server,
            "DROP DATABASE {database} WITH (FORCE)",
            "ALTER DATABASE {backup} RENAME TO {database}",
        )

    def _between_runs(self, server: Postgres, *statements: LiteralString) -> None:
        self.stop()
        self.conn.close()
        name = str(conninfo_to_dict(self.dsn)["dbname"])
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            for statement in statements:
                conn.execute(
                    sql.SQL(statement).format(
                        database=sql.Identifier(name),
                        backup=sql.Identifier(f"{name}_backup"),
                        owner=sql.Identifier(OWNER),
                    )
                )
        self.conn = connect(self.dsn)


@dataclass(slots=True)
class Federation:
    centre: Installation
    cities: list[Installation]

    def __iter__(self) -> Iterator[Installation]:
        yield self.centre
        yield from self.cities

    def wait_until_told(self) -> None:
        """Until no city has anything left to tell."""

        def is_told() -> bool:
            for city in self.cities:
                known = province.progress(city.conn)
                if known.areas == 0 or known.areas_waiting or known.days_waiting:
                    return False
                if city.conn.execute("SELECT FROM province WHERE noted_from IS NOT NULL").rowcount:
                    return False
            return True

        until(is_told, "the province is told everything", timeout_s=DEADLINE_S)

    async def assert_equal(self) -> None:
        self.wait_until_told()
        for city, (_, top, prefix) in zip(self.cities, CITIES, strict=True):
            await assert_equal(city.conn, self.centre.conn, top, prefix, ("total", "day"))
        letters = self.centre.conn.execute(
            "SELECT reason, detail FROM dead_letter WHERE gateway <> 'raw-city'"
        ).fetchall()
        assert letters == []


@pytest.fixture(scope="module")
def federation(
    userland: Userland,
    service_folder: Path,
    authority: Authority,
    database_server: Postgres,
    database_template: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    brokers = [
        ground.broker(userland, service_folder / f"broker-federation-{number}", authority)
        for number in range(3)
    ]
    with databases(database_server, database_template) as new_database:
        centre = Installation("centre", new_database(), brokers[0], folder, role="province")
        found_province(centre.conn)
        cities: list[Installation] = []
        for (name, top, prefix), broker in zip(CITIES, brokers[1:], strict=True):
            identity = brokers[0].identity(name)
            sections = f"""
[province]
city = "{name}"
host = "127.0.0.1"
port = {brokers[0].port}
ca = "{identity.ca}"
certificate = "{identity.certificate}"
key = "{identity.key}"
status_interval_s = 1
"""
            city = Installation(name, new_database(), broker, folder, sections)
            found_city(city.conn, top, prefix)
            cities.append(city)
        made = Federation(centre, cities)
        try:
            for one in made:
                one.start()
            yield made
        finally:
            for one in made:
                one.stop()
                one.conn.close()
            for broker in brokers:
                broker.server.stop()


def restate(federation: Federation, day: date, good: int, revision: int) -> None:
    for city, (_, _, prefix) in zip(federation.cities, CITIES, strict=True):
        for indicator in ("lighting-uptime", "refuse-sorted"):
            row = (f"{prefix}c1", day, indicator, "", good, 3, good + 5)
            write(city.conn, row, revision=revision)


async def test_a_province_says_what_its_cities_say(federation: Federation) -> None:
    await federation.assert_equal()
    both = await read(federation.centre.conn, "north", "total", ["refuse-sorted"])
    parts = [
        (await read(city.conn, top, "total", ["refuse-sorted"]))[0].number
        for city, (_, top, _) in zip(federation.cities, CITIES, strict=True)
    ]
    number = both[0].number
    assert number.numerator == sum(one.numerator or 0 for one in parts)
    assert number.denominator == sum(one.denominator or 0 for one in parts)
    assert number.total == sum(one.total or 0 for one in parts)
    restate(federation, DAYS[3], 77, 2)
    await federation.assert_equal()

    def is_heard() -> bool:
        rows = federation.centre.conn.execute(
            "SELECT last_seen_at IS NOT NULL AND waiting = 0 AND told_at IS NOT NULL FROM city"
        ).fetchall()
        return rows == [(True,), (True,)]

    until(is_heard, "the province says when it heard its cities", timeout_s=DEADLINE_S)


async def test_kills_at_either_end_lose_and_double_nothing(federation: Federation) -> None:
    federation.wait_until_told()
    city, (_, _, prefix) = federation.cities[0], CITIES[0]
    centre = federation.centre
    before = count(centre)
    days = [DAYS[0] - timedelta(days=number) for number in range(1, 400)]

    def have_told(some: Sequence[date]) -> None:
        write(
            city.conn,
            *(
                (f"{prefix}{area}", day, indicator, "", 100 + place, 5, 110 + place)
                for day in some
                for place, area in enumerate(("c1", "c2", "c3"))
                for indicator in ("lighting-uptime", "equipment-good", "refuse-sorted")
            ),
        )

    have_told(days[:100])
    until(lambda: count(centre) > before, "the first of them are stored", timeout_s=DEADLINE_S)
    with psycopg.connect(centre.dsn) as holder:
        # Nothing more gets in, so both are killed in the middle of it, however slow we are.
        holder.execute("LOCK TABLE city_day IN SHARE MODE")
        have_told(days[100:])
        until(lambda: is_waited_for(holder), "more is being stored", timeout_s=DEADLINE_S)
        centre.kill()
        city.kill()
        assert count(centre) < before + 3 * len(days), "killed too late to prove anything"
    city.start()
    until(lambda: province.messages(city.conn), "messages wait", timeout_s=DEADLINE_S)
    city.kill()
    city.start()
    centre.start()
    await federation.assert_equal()
    assert count(centre) == before + 3 * len(days)


def is_waited_for(holder: psycopg.Connection) -> bool:
    """Whether anybody waits for what this connection holds."""
    found = holder.execute(
        "SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
    )
    return found.rowcount > 0


def count(centre: Installation) -> int:
    (row,) = centre.conn.execute("SELECT count(*) FROM city_day").fetchall()
    return row[0]


async def test_an_outage_of_the_province_changes_nothing(federation: Federation) -> None:
    federation.wait_until_told()
    federation.centre.kill()
    federation.centre.broker.server.kill()
    for revision in (3, 4, 5):
        restate(federation, DAYS[4], 100 * revision, revision)
        restate(federation, DAYS[3 + revision], 60, revision)
    waiting = [province.progress(city.conn).days_waiting for city in federation.cities]
    assert waiting == [4, 4]
    federation.centre.broker.server.start()
    federation.centre.start()
    await federation.assert_equal()


async def test_a_city_whose_database_went_back_loses_nothing(
    federation: Federation, database_server: Postgres
) -> None:
    await federation.assert_equal()
    city = federation.cities[0]
    city.back_up(database_server)
    city.start()
    known = province.load(city.conn)
    assert known is not None
    write(city.conn, *(("c1", day, "lighting-uptime", "", 200, 3, 205) for day in DAYS[:3]))
    federation.wait_until_told()
    city.restore(database_server)
    # It goes on from there: with a number that the province knows, for another day.
    assert province.load(city.conn) == known
    write(city.conn, ("c2", DAYS[5], "lighting-uptime", "", 300, 3, 305), revision=2)
    city.start()
    await federation.assert_equal()


async def test_a_province_whose_database_went_back_is_told_what_it_lacks(
    federation: Federation, database_server: Postgres
) -> None:
    await federation.assert_equal()
    centre = federation.centre
    centre.back_up(database_server)
    centre.start()
    restate(federation, DAYS[6], 400, 7)
    federation.wait_until_told()
    centre.restore(database_server)
    centre.start()
    restate(federation, DAYS[7], 500, 7)
    await federation.assert_equal()


async def test_whatever_a_city_sends_harms_nobody_else(federation: Federation) -> None:
    federation.wait_until_told()
    conn = federation.centre.conn
    conn.execute(
        """
        INSERT INTO area (area, parent, path, level, name)
        VALUES ('raw', 'north', 'north.raw', 'city', '');
        INSERT INTO city (city, area) VALUES ('raw-city', 'raw');
        INSERT INTO city_area (area, city, version, sha256) VALUES ('raw', 'raw-city', 1, '');
        UPDATE installation SET registry_revision = registry_revision + 1
        """
    )
    raw = Gateway(federation.centre.broker, "raw-city")
    try:
        messages = [
            day_message(1, "raw", 7, 70),
            day_message(2, "raw", 9, 90),
            day_message(3, "raw", 8, 80),  # older
            day_message(2, "raw", 9, 90),  # again
            day_message(4, "raw", 9, 91),  # another content
            day_message(5, "c1", 10**16 // 2, 1),  # of another city
            day_message(6, "raw", 9, 90).replace(b'"bad":0', b'"bad":1000'),
            b"{}",
        ]
        for payload in messages:
            raw.publish("aggregate", payload)
        until(
            lambda: raw.upto("raw") == 6 and len(raw.rejected) == 4,
            "all of it is judged",
            timeout_s=DEADLINE_S,
        )
        reasons = [one.reason for one in raw.rejected]
        assert reasons == [
            "aggregate.conflict", "area.foreign", "tally.impossible", "field.missing",
        ]  # fmt: skip
    finally:
        raw.close()
    assert conn.execute("SELECT good, revision FROM area_day WHERE area = 'raw'").fetchall() == [
        (90, 1)
    ]
    letters = conn.execute("SELECT reason FROM dead_letter").fetchall()
    assert sorted(reason for (reason,) in letters) == sorted(reasons)
    await federation.assert_equal()


def day_message(seq: int, area: str, version: int, good: int) -> bytes:
    return encode(
        Aggregate(
            stream="raw",
            seq=seq,
            sent_at=NOW,
            days=(
                AreaDay(
                    area=area,
                    day=DAYS[0],
                    version=version,
                    computed_at=NOW,
                    tallies=(
                        AreaTally(
                            indicator="lamps-lit", good=good, bad=0, total=good, subjects=1,
                            revision=1, rule_version=1,
                        ),
                    ),
                ),
            ),
        )
    )  # fmt: skip
