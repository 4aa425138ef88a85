# SPDX-License-Identifier: Apache-2.0
"""Latest states of a community and a device's year, beside what raw readings would have to give.

A whole city is registered, each device with its latest state. One community has thirty days of raw
readings, for DISTINCT ON; one device elsewhere has a year of them. The api is a process of its own
on a socket; everything it answers is compared with what was written.
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from api.people import digest
from deploy.bench.city import ZONE, name_of
from deploy.bench.ground import Ground
from deploy.bench.report import Measured
from deploy.services import HOST, Process, ServiceError, free_port, mortal
from ingest.indicators.spans import day_span, from_us
from ingest.pki import issue_client
from ingest.store import connect, device_days

DATABASE_MS: Final = 10.0
API_MS: Final = 20.0
YEAR_MS: Final = 100.0
# Latest state / DISTINCT ON.
SHARE_MAX: Final = 1 / 500
YEAR_PERIOD_S: Final = 600
YEAR: Final = timedelta(days=365)
RAW: Final = timedelta(days=30)
_DAY: Final = timedelta(days=1)
_TOKEN: Final = "bench-token"  # noqa: S105 - of a database that nobody else ever sees
_START_S: Final = 30.0
_FIELD: Final = "power_w"
_LAST: Final = name_of(2)

LATEST: Final = sql.SQL(
    """
    SELECT device_id, at, received_at, since, silent, fault, lit, reading
    FROM device_state WHERE community = %(community)s
    """
)
DISTINCT: Final = sql.SQL(
    """
    SELECT DISTINCT ON (device_id) device_id, at, received_at, fault, lit, power_w
    FROM reading_lamp
    WHERE device_id IN (SELECT id FROM device WHERE community = %(community)s)
      AND at >= %(since)s
    ORDER BY device_id, at DESC
    """
)


def steps(rounds: int) -> int:
    """Return how often `measure` tells how far it is."""
    return 5 + rounds + 1


@dataclass(frozen=True, slots=True)
class Town:
    """What is registered.

    Attributes:
        elsewhere: Devices of every community but the first.
        devices: Of the first.
        period_s: Of the first community's raw readings.
    """

    communities: int
    elsewhere: int
    devices: int
    period_s: int

    def fill(self, conn: psycopg.Connection, now: datetime, tell: Callable[[str], None]) -> None:
        """Write everything, by the server itself."""
        conn.execute("SET synchronous_commit = off")
        tell("a city is registered")
        conn.execute(
            "INSERT INTO area (area, path, level, name, time_zone)"
            " VALUES ('city', 'city', 'city', '城', %s)", (ZONE,),
        )  # fmt: skip
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name, time_zone)
            SELECT name, 'city', ('city.' || name)::ltree, 'community', '社区', %s
            FROM (SELECT 'c' || lpad(n::text, 4, '0') AS name
                  FROM generate_series(1, %s) AS n) AS names
            """,
            (ZONE, self.communities),
        )
        conn.execute(
            "INSERT INTO gateway (gateway, community, last_seen_at)"
            " SELECT 'gw-' || area, area, %s FROM area WHERE level = 'community'", (now,),
        )  # fmt: skip
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, name, reporting_period_s,
                                in_service_from)
            SELECT a.area || '-lamp-' || lpad(n::text, 5, '0'), 'lamp', 'gw-' || a.area, a.area,
                   a.area, '路灯 ' || n, %(period)s, %(since)s
            FROM area AS a, LATERAL generate_series(
                1, CASE a.area WHEN %(first)s THEN %(devices)s ELSE %(elsewhere)s END) AS n
            WHERE a.level = 'community' ORDER BY a.area, n
            """,
            {"first": name_of(1), "devices": self.devices, "elsewhere": self.elsewhere,
             "period": self.period_s, "since": now - 2 * YEAR},
        )  # fmt: skip
        tell("states are written")
        conn.execute(
            """
            INSERT INTO device_state (device_id, at, received_at, since, silent, fault, lit, lit_at,
                                      reading)
            SELECT id, at, at, at, id %% 50 = 7, CASE WHEN id %% 50 = 3 THEN 'lamp_failure' END,
                   true, at,
                   '{"lit": true, "level_pct": 100, "power_w": 41.5, "voltage_v": 228.4,
                     "current_a": 0.18, "energy_kwh": 9121.5, "burn_hours": 4012}'
            FROM (SELECT id, %(now)s - id %% 30 * INTERVAL '1 second' AS at FROM device) AS told
            """,
            {"now": now},
        )
        tell("thirty days of raw readings are written")
        conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, power_w, lit, level_pct,
                                      voltage_v, current_a, energy_kwh, burn_hours)
            SELECT s.at - step * %(period)s * INTERVAL '1 second', s.at, s.device_id,
                   41.5, true, 100, 228.4, 0.18, 9121.5, 4012
            FROM generate_series(0, %(count)s) AS step, device_state AS s
            WHERE s.community = %(first)s
            """,
            {"period": self.period_s, "count": int(RAW.total_seconds()) // self.period_s,
             "first": name_of(1)},
        )  # fmt: skip
        tell("a device's year is written")
        conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, power_w, lit)
            SELECT %(now)s - step * %(period)s * INTERVAL '1 second', %(now)s, id,
                   step %% 997, step %% 3 = 0
            FROM generate_series(0, %(count)s) AS step, device
            WHERE device = %(device)s
            """,
            {"period": YEAR_PERIOD_S, "count": int(YEAR.total_seconds()) // YEAR_PERIOD_S,
             "device": year_device(), "now": now},
        )  # fmt: skip
        today = now.astimezone(ZoneInfo(ZONE)).date()
        for back in range(2, YEAR.days + 1):
            day = today - back * _DAY
            start, end = map(from_us, day_span(day, ZONE))
            device_days.make(conn, device_days.Due(day, _LAST, ZONE, now), start, end)
        tell("statistics are made")
        conn.execute("VACUUM ANALYZE")


def year_device() -> str:
    """Return the device that has a year of readings."""
    return f"{_LAST}-lamp-00001"


def measure(ground: Ground, town: Town, rounds: int, tell: Callable[[str], None]) -> list[Measured]:
    """Measure everything in turns, so that what disturbs one disturbs all."""
    now = datetime.now(UTC).replace(microsecond=0)
    first = {"community": name_of(1), "since": now - RAW}
    with connect(ground.dsn, "bench") as conn:
        conn.execute("SET statement_timeout = 0")
        conn.execute("SET plan_cache_mode = force_custom_plan")
        town.fill(conn, now, tell)
        conn.execute(
            "INSERT INTO service_token (token_sha256, name, role, area)"
            " VALUES (%s, 'bench', 'admin', 'city')", (digest(_TOKEN),),
        )  # fmt: skip
        wrong_latest = _compare_latest(conn, first)
        wanted_states = _wanted_states(conn, first)
        wanted_year = _wanted_year(conn, now)
        values: dict[str, list[float]] = {
            name: [] for name in ("latest", "distinct", "states", "year", "year raw", "overview")
        }
        wrong: dict[str, list[str]] = {"states": [], "year": []}
        with api(ground) as ask:
            for turn in range(rounds + 1):
                tell("asked in turns")
                took = {
                    "latest": _server_ms(conn, LATEST, first),
                    # One that takes seconds is asked three times.
                    "distinct": _server_ms(conn, DISTINCT, first) if turn <= 3 else None,
                    "year raw": _year_raw_ms(conn, now) if turn <= 3 else None,
                }
                for name, path, check in (
                    ("states", f"/areas/{name_of(1)}/states", _states_are(wanted_states)),
                    ("year", f"/devices/{year_device()}/history/summary", _year_is(wanted_year)),
                    ("overview", f"/areas/{name_of(1)}/overview", None),
                ):
                    begun = time.perf_counter()
                    answer = ask(path)
                    took[name] = 1_000 * (time.perf_counter() - begun)
                    if check is not None:
                        wrong[name] += check(json.loads(answer))
                if turn:  # the first one warms up
                    for name, one in took.items():
                        if one is not None:
                            values[name].append(one)
    share = statistics.median(values["latest"]) / statistics.median(values["distinct"])
    count = f"{town.devices:,} devices"
    return [
        Measured("latest / DISTINCT ON over 30 days of raw, server time", "", [share],
                 SHARE_MAX, wrong_latest),
        Measured(f"latest state of {count}, server time", "ms", values["latest"], DATABASE_MS,
                 wrong_latest),
        Measured(f"latest state of {count}, through the api", "ms", values["states"], API_MS,
                 wrong["states"][:5]),
        Measured("a device's year by day, through the api", "ms", values["year"], YEAR_MS,
                 wrong["year"][:5]),
        Measured("baseline: DISTINCT ON over 30 days of raw, server time", "ms",
                 values["distinct"]),
        Measured("baseline: a device's year from raw readings, by day", "ms", values["year raw"]),
        Measured(f"overview of {count}, through the api", "ms", values["overview"]),
    ]  # fmt: skip


def _server_ms(conn: psycopg.Connection, query: sql.SQL, values: dict[str, Any]) -> float:
    """Return how long the server works on a query, planning included; rows go nowhere."""
    explained = sql.SQL("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {}").format(query)
    row = conn.execute(explained, values).fetchone()
    assert row is not None
    (plan,) = row[0]
    return plan["Planning Time"] + plan["Execution Time"]


def _compare_latest(conn: psycopg.Connection, values: dict[str, Any]) -> list[str]:
    """Say where the two ways to a latest state differ."""
    kept = {row[0]: row[1] for row in conn.execute(LATEST, values)}
    found = {row[0]: row[1] for row in conn.execute(DISTINCT, values)}
    if kept == found and kept:
        return []
    differing = sum(found.get(device) != at for device, at in kept.items())
    return [f"{len(kept)} states, {len(found)} latest readings, {differing} differ"]


def _wanted_states(conn: psycopg.Connection, values: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    rows = conn.execute(
        "SELECT device, state, at FROM device_view WHERE community = %(community)s", values
    )
    return {device: (state, at) for device, state, at in rows}


def _states_are(wanted: dict[str, tuple[str, Any]]) -> Callable[[dict[str, Any]], list[str]]:
    def check(answer: dict[str, Any]) -> list[str]:
        found = {
            device: (state, datetime.fromisoformat(at)) for device, _, state, at in answer["rows"]
        }
        return [] if found == wanted else [f"{len(found)} states are not those of the tables"]

    return check


def _wanted_year(conn: psycopg.Connection, now: datetime) -> dict[str, tuple[int, float, float]]:
    """Sum up the year from raw rows, one by one, by another way than the database's."""
    zone = ZoneInfo(ZONE)
    since = now.astimezone(zone).date() - YEAR
    days: dict[str, tuple[int, float, float]] = {}
    for at, power in conn.execute(
        """
        SELECT at, power_w FROM reading_lamp
        WHERE device_id = (SELECT id FROM device WHERE device = %s)
        """,
        (year_device(),),
    ):
        day = at.astimezone(zone).date()
        if day < since:
            continue
        count, least, greatest = days.get(str(day), (0, power, power))
        days[str(day)] = (count + 1, min(least, power), max(greatest, power))
    return days


def _year_is(wanted: dict[str, tuple[int, float, float]]) -> Callable[[dict[str, Any]], list[str]]:
    def check(answer: dict[str, Any]) -> list[str]:
        zone = ZoneInfo(ZONE)
        found = {
            str(datetime.fromisoformat(one["at"]).astimezone(zone).date()): (
                one["readings"], one["values"][_FIELD]["min"], one["values"][_FIELD]["max"],
            )
            for one in answer["items"]
        }  # fmt: skip
        # The oldest day is cut in the raw readings, and whole in neither.
        return [
            f"{day}: {found.get(day)}, not {point}"
            for day, point in sorted(wanted.items())[1:]
            if found.get(day) != point
        ]

    return check


def _year_raw_ms(conn: psycopg.Connection, now: datetime) -> float:
    """Return how long it takes to add up a year of raw readings by day."""
    begun = time.perf_counter()
    conn.execute(
        """
        SELECT (at AT TIME ZONE %s)::date AS day, count(*), min(power_w), avg(power_w), max(power_w)
        FROM reading_lamp
        WHERE device_id = (SELECT id FROM device WHERE device = %s) AND at >= %s AND at < %s
        GROUP BY 1 ORDER BY 1
        """,
        (ZONE, year_device(), now - YEAR, now),
    ).fetchall()
    return 1_000 * (time.perf_counter() - begun)


# -- the api --------------------------------------------------------------------------------------


@contextmanager
def api(ground: Ground) -> Generator[Callable[[str], bytes]]:
    """Run an api on the database; yield what asks it for a path, over one connection.

    There is no broker: nothing that is measured here comes from it.
    """
    folder = ground.authority.folder
    issue_client(folder, "api-live-00", out=folder / "services")
    port = free_port()
    config = folder / "linli.toml"
    config.write_text(
        f"""\
[database]
dsn = {json.dumps(ground.dsn)}
[broker]
host = "{HOST}"
port = {free_port()}
ca = "ca.crt"
[api]
host = "{HOST}"
port = {port}
certificates = "services"
public_url = "http://{HOST}:{port}"
"""
    )
    command = mortal([sys.executable, "-m", "api", "serve", "--config", str(config)])
    process = Process("api", command, log=folder / "api.log")
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        _wait_for(process, port)

        def ask(path: str) -> bytes:
            headers = {"Authorization": f"Bearer {_TOKEN}"}
            connection.request("GET", f"/api/v1{path}", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != http.client.OK:
                raise ServiceError(f"{path}: {answer.status} {body[:500]!r}")
            return body

        yield ask
    finally:
        connection.close()
        process.stop()


def _wait_for(process: Process, port: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with closing(http.client.HTTPConnection(HOST, port, timeout=1)) as connection:
                connection.request("GET", "/livez")
                if connection.getresponse().status == http.client.OK:
                    return
        except OSError:
            if not process.running or time.monotonic() > deadline:
                raise ServiceError(f"the api does not run:\n{process.tail()}") from None
        time.sleep(0.05)
