# SPDX-License-Identifier: Apache-2.0
"""The first synchronisation of a city with its province: real processes, broker and databases.

A city has a month of final numbers of every indicator that adds up. First it only makes the
messages, which tells their count, their bytes and its own share; then it tells a province, from the
start of its process until everything is acknowledged. In the end both sides are compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from deploy.bench.ground import cpu_s
from deploy.bench.report import Measured
from deploy.faults import ground
from deploy.faults.ground import OWNER, PASSWORD, Broker, authority_for, dsn_of, in_memory, until
from deploy.installation import environment
from deploy.services import HOST, Postgres, Process, Userland, free_port, settings_for_machine
from ingest.indicators.catalogue import INDICATORS
from ingest.kinds import KINDS
from ingest.migrate import migrate
from ingest.store import cities, province

END: Final = date(2026, 4, 1)
ZONE: Final = "Asia/Shanghai"
_CITY: Final = "bench-city"
_TIMEOUT_S: Final = 7_200.0
_WATCH_S: Final = 0.1
_IDENTITIES: Final = ("ingest-telemetry-00", "ingest-event-00", "ingest-aggregate-00")


@dataclass(slots=True)
class _Side:
    """One installation: its database, its broker, its ingest process."""

    name: str
    dsn: str
    broker: Broker
    folder: Path
    sections: str = ""
    role: str = "city"
    process: Process | None = None

    def start(self) -> None:
        for identity in _IDENTITIES:
            self.broker.identity(identity)
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

    @property
    def cpu_s(self) -> float:
        """CPU seconds of its ingest so far."""
        return 0.0 if self.process is None else cpu_s(self.process.pid)


def measure(communities: int, days: int, tell: Callable[[str], None]) -> tuple[list[Measured], str]:
    """Tell a province a city's month, and compare; return what was measured, and of which server.

    ``tell`` is called three times, and once for each day that is written.
    """
    with _sides() as (city, centre), _connect(city.dsn) as own, _connect(centre.dsn) as theirs:
        _found(theirs)
        rows = _fill(own, communities, days, tell)
        tell("messages are made")
        province.begin(own, _CITY, "community")
        making_s, messages, size = _make(own)
        with own.transaction():
            province.renew(own, None)
        own.execute("VACUUM ANALYZE")
        tell("a province is told")
        first_s, all_s, cpu = _tell_all(own, theirs, city, centre)
        tell("both are compared")
        wrong = _compare(own, theirs, rows)
        version = f"{own.info.server_version}"
    return [
        Measured("messages of the first synchronisation", "messages", [messages]),
        Measured("bytes of these", "MB", [size / 1e6]),
        Measured("numbers told", "numbers", [rows]),
        Measured("making them, the city alone", "s", [making_s]),
        Measured("until the first day is stored", "s", [first_s]),
        Measured("until all is acknowledged", "s", [all_s], wrong=wrong, cpu=cpu),
        Measured("numbers stored a second", "1/s", [rows / all_s]),
        Measured("areas' days stored a second", "1/s", [communities * days / all_s]),
    ], version


@contextmanager
def _connect(dsn: str) -> Generator[psycopg.Connection]:
    with psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC") as conn:
        yield conn


@contextmanager
def _sides() -> Generator[tuple[_Side, _Side]]:
    """Start a database server and two brokers; stop all of it, leave nothing."""
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="linli-bench-", dir=in_memory()))
        )
        userland = Userland.find()
        server = Postgres(
            userland,
            folder / "postgres",
            free_port(),
            folder / "log/postgres.log",
            settings=settings_for_machine(),
        )
        stack.callback(server.stop)
        server.start()
        authority = authority_for(folder / "pki")
        sides: list[_Side] = []
        for name in ("centre", "city"):
            migrate(server.create_database(name, owner=OWNER, password=PASSWORD))
            broker = ground.broker(userland, folder / f"broker-{name}", authority)
            stack.callback(broker.server.stop)
            sides.append(_Side(name, dsn_of(server, name), broker, folder))
        centre, city = sides
        centre.role = "province"
        identity = centre.broker.identity(_CITY)
        city.sections = f"""
[province]
city = "{_CITY}"
host = "{HOST}"
port = {centre.broker.port}
ca = "{identity.ca}"
certificate = "{identity.certificate}"
key = "{identity.key}"
"""
        try:
            yield city, centre
        finally:
            for side in sides:
                if side.process is not None:
                    side.process.stop()


def _found(conn: psycopg.Connection) -> None:
    conn.execute(
        "INSERT INTO area (area, path, level, name) VALUES ('north', 'north', 'province', '省')"
    )
    cities.admit(conn, _CITY, "city", "城", "north")


def _fill(
    conn: psycopg.Connection, communities: int, days: int, tell: Callable[[str], None]
) -> int:
    """Write a city and its final numbers, as the keeper of days leaves them; return how many."""
    conn.execute("SET synchronous_commit = off")
    conn.execute(
        "INSERT INTO area (area, path, level, name, time_zone)"
        " VALUES ('city', 'city', 'city', '城', %s)",
        (ZONE,),
    )
    for level, parent, count in (
        ("district", "city", 16),
        ("street", "district", 160),
        ("community", "street", communities),
    ):
        conn.execute(
            sql.SQL(
                """
                INSERT INTO area (area, parent, path, level, name, time_zone)
                SELECT {level} || n, p.area, p.path || ({level} || n), {level}, '区域', {zone}
                FROM generate_series(1, {count}) AS n
                JOIN area AS p ON p.level = {parent}
                    AND p.area = {parent} || CASE WHEN {parent} = 'city' THEN ''
                        ELSE (1 + n % (SELECT count(*) FROM area WHERE level = {parent}))::text END
                """
            ).format(
                level=sql.Literal(level),
                parent=sql.Literal(parent),
                count=sql.Literal(count),
                zone=sql.Literal(ZONE),
            )
        )
    told = [
        (indicator, kind)
        for indicator in sorted(province.TOLD)
        for kind in ("", *(KINDS if INDICATORS[indicator].by_kind else ()))
    ]
    rows = 0
    for number in range(days):
        day = END - timedelta(days=days - number)
        rows += conn.execute(
            """
            INSERT INTO area_day (indicator, day, area, kind, good, bad, total, subjects, excluded,
                                  status, rule_version, computed_at)
            SELECT t.indicator, %(day)s, a.area, t.kind, v.good, v.bad, v.good + v.bad + 7, 60,
                   CASE WHEN v.bad %% 41 = 0 THEN '{"maintenance": 3600000000}'::jsonb
                        ELSE '{}' END,
                   'final', 1, %(now)s
            FROM area AS a
            CROSS JOIN unnest(%(indicators)s::text[], %(kinds)s::text[])
                WITH ORDINALITY AS t (indicator, kind, place)
            CROSS JOIN LATERAL (
                SELECT 2500000000000 + hashtext(a.area)::bigint * t.place AS good,
                       (hashtext(a.area) & 65535)::bigint * (1 + %(number)s) AS bad) AS v
            WHERE a.level = 'community'
            """,
            {
                "day": day,
                "now": datetime.now(UTC),
                "number": number,
                "indicators": [indicator for indicator, _ in told],
                "kinds": [kind for _, kind in told],
            },
        ).rowcount
        tell(f"{number + 1} of {days} days are written")
    conn.execute("RESET synchronous_commit")
    conn.execute("VACUUM ANALYZE")
    return rows


def _make(conn: psycopg.Connection) -> tuple[float, int, int]:
    """Make all messages and forget them; return seconds, messages, bytes."""
    begun = time.monotonic()
    province.note_areas(conn)
    while province.note_history(conn) is not None:
        pass
    known = province.load(conn)
    assert known is not None
    messages = size = 0
    while (made := province.next_message(conn, datetime.now(UTC))) is not None:
        messages, size = messages + 1, size + len(made[1])
        province.settle(conn, known.stream, made[0], (), datetime.now(UTC))
    return time.monotonic() - begun, messages, size


def _tell_all(
    own: psycopg.Connection, theirs: psycopg.Connection, city: _Side, centre: _Side
) -> tuple[float, float, dict[str, float]]:
    """Return after how many seconds the first day and everything was stored, and CPU by process."""
    centre.start()
    until(
        lambda: theirs.execute(
            "SELECT FROM pg_stat_activity"
            " WHERE application_name = 'linli-ingest ingest-aggregate-00'"
            " AND datname = current_database()"
        ).fetchall(),
        "the province's ingest runs",
        timeout_s=60.0,
    )
    before = centre.cpu_s
    begun = time.monotonic()
    city.start()
    until(
        lambda: theirs.execute("SELECT FROM city_day LIMIT 1").fetchall(),
        "the first day is stored",
        timeout_s=_TIMEOUT_S,
        every_s=_WATCH_S,
    )
    first_s = time.monotonic() - begun

    def is_told() -> bool:
        noted = own.execute("SELECT noted_from IS NULL FROM province").fetchone() == (True,)
        return noted and not province.progress(own).days_waiting

    until(is_told, "everything is told", timeout_s=_TIMEOUT_S, every_s=_WATCH_S)
    cpu = {"city": 1e3 * city.cpu_s, "province": 1e3 * (centre.cpu_s - before)}
    return first_s, time.monotonic() - begun, cpu


def _compare(own: psycopg.Connection, theirs: psycopg.Connection, rows: int) -> list[str]:
    """Return where the province's numbers are not the city's."""

    def numbers(conn: psycopg.Connection) -> dict[tuple[object, ...], tuple[object, ...]]:
        found = conn.execute(
            """
            SELECT area, indicator, kind, first, good, bad, total, subjects, excluded, revision
            FROM area_sum WHERE span = 'month' AND (area = 'city' OR area LIKE 'district%')
            """
        )
        return {row[:4]: row[4:] for row in found}

    here, there = numbers(own), numbers(theirs)
    wrong = [f"{key}: {here.get(key)} {there.get(key)}" for key in here.keys() ^ there.keys()]
    wrong += [f"{key}: {here[key]} {there[key]}" for key in here if there.get(key) != here[key]]
    stored = theirs.execute("SELECT count(*) FROM area_day").fetchone()
    letters = theirs.execute("SELECT count(*) FROM dead_letter").fetchone()
    if stored != (rows,) or letters != (0,) or not here:
        wrong.append(f"{stored} of {rows} numbers stored, {letters} refused")
    return wrong[:5]
