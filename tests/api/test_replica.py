# SPDX-License-Identifier: Apache-2.0
"""Reads on a real standby: what goes there, what does not, and what happens when it cannot."""

from __future__ import annotations

import asyncio
import io
import logging
import time
import zipfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from api.app import create_app
from api.config import Config, Database
from api.replica import Lag, Replica
from deploy.services import Postgres, Userland, free_port
from tests.api.conftest import ALERTS, Api, Watch, make_config, session_token
from tests.api.test_access import calls
from tests.proxy import ProxyFactory
from tests.services import Broker, until

STANDBY = "api_tests"
TIMEOUT_S = 40.0
# A look that meets something on its way finds the standby as far behind as the look before it is
# ago: a second, or somewhat more on a busy machine. Not what is meant here.
SOME_LAG_S = 3.0
LAMP = "/api/v1/devices/c01-lamp-001"
# Alerts, incidents, what people set and what the live stream tells are read where they are written.
CURRENT = {
    "exportAlerts", "getAlert", "getAreaOverview", "getAreaStates", "getIncident",
    "getIncidentCounts", "getOfficers", "getResponsePlan", "getRule", "getWindow", "listAlerts",
    "listChains", "listIncidents", "listNotifications", "listResponsePlans", "listRules",
    "listWindows",
}  # fmt: skip


@pytest.fixture(scope="module")
def standby(
    userland: Userland, database_server: Postgres, city_template: str, service_folder: Path
) -> Iterator[Postgres]:
    """A standby of the server that all tests share."""
    assert city_template
    server = Postgres(
        userland,
        service_folder / "standby",
        free_port(),
        service_folder / "log" / "standby.log",
        settings=database_server.settings,
    )
    server.follow(database_server, STANDBY)
    server.start()
    yield server
    server.stop()
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        until(lambda: not _is_followed(conn), "nobody follows any more", timeout_s=TIMEOUT_S)
        # Or the log would be kept for it, for as long as the tests run.
        conn.execute("SELECT pg_drop_replication_slot(%s)", (STANDBY,))


def _is_followed(conn: psycopg.Connection) -> bool:
    return conn.execute("SELECT FROM pg_stat_replication").fetchone() is not None


@contextmanager
def standing_still(standby: Postgres) -> Generator[None]:
    """Have the standby receive and not replay."""
    with psycopg.connect(standby.dsn(), autocommit=True) as conn:
        conn.execute("SELECT pg_wal_replay_pause()")
        until(
            lambda: (
                conn.execute("SELECT pg_get_wal_replay_pause_state()").fetchone() == ("paused",)
            ),
            "the standby stands still",
            timeout_s=TIMEOUT_S,
        )
        try:
            yield
        finally:
            conn.execute("SELECT pg_wal_replay_resume()")


def await_copy(dsn: str, standby: Postgres) -> None:
    """Wait until the standby shows all that is written now."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("SELECT pg_current_wal_lsn()").fetchone()
    with psycopg.connect(standby.dsn(), autocommit=True) as conn:
        until(
            lambda: (
                conn.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone()
                == (True,)
            ),
            "the standby has it all",
            timeout_s=TIMEOUT_S,
        )


def at(port: int, dsn: str) -> str:
    """The same database at another port."""
    return dsn.replace(f"port={conninfo_to_dict(dsn)['port']}", f"port={port}")


def configured(dsn: str, broker: Broker, replica: str, lag_limit_s: float) -> Config:
    database = {"dsn": dsn, "replica": replica, "replica_lag_limit_s": lag_limit_s}
    changed = {"database": Database.model_validate(database)}
    return make_config(dsn, broker).model_copy(update=changed)


@asynccontextmanager
async def replicated(
    dsn: str, replica: str, broker: Broker, lag_limit_s: float = 600
) -> AsyncGenerator[Api]:
    """The api over a primary and a replica that it has found."""
    config = configured(dsn, broker, replica, lag_limit_s)
    watch = Watch()
    app = create_app(config, clock=watch, static=Path("/nonexistent"))
    api = Api(app, dsn, watch)
    # A first connection there is not made in a second where all is slow.
    _replica(api).pool.timeout = TIMEOUT_S
    async with app.router.lifespan_context(app):
        await eventually(lambda: _replica(api).is_near, "the replica is found")
        yield api
        for client in api.clients:
            await client.aclose()


async def eventually(check: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not check():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


def _replica(api: Api) -> Replica:
    found = api.services.replica
    assert found is not None
    return found


def _served(api: Api) -> int:
    """How many requests asked the replica's pool for a connection."""
    return _replica(api).pool.get_stats().get("requests_num", 0)


def _figure(api: Api, name: str) -> float:
    lines = api.services.metrics.text().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def rename(dsn: str, name: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE device SET name = %s WHERE device = 'c01-lamp-001'", (name,))


@pytest.fixture
def copied(own_database: str, standby: Postgres) -> str:
    """The DSN of a city of the test's own that the standby has, too."""
    await_copy(own_database, standby)
    return own_database


@pytest.fixture
async def pair(copied: str, standby: Postgres, broker: Broker) -> AsyncGenerator[Api]:
    """The api over a city of the test's own and its copy on the standby."""
    async with replicated(copied, at(standby.port, copied), broker) as api:
        yield api


async def test_what_devices_and_computations_change_is_read_on_the_replica(pair: Api) -> None:
    client = pair.client("root")
    gets = [call for call in calls("c01") if call.method == "GET"]
    paths = {call.path: call.operation for call in gets}
    for path, operation in {**paths, "/areas": "listAreas"}.items():
        before = _served(pair)
        answer = await client.get(f"/api/v1{path}")
        assert answer.status_code == 200, answer.text
        assert (_served(pair) == before) == (operation in CURRENT), operation
    assert set(paths.values()) > CURRENT
    assert _figure(pair, "linli_api_replica_retries_total") == 0


async def test_the_registry_is_exported_from_the_replica(pair: Api, standby: Postgres) -> None:
    with standing_still(standby):
        rename(pair.dsn, "新名")
        answer = await pair.client("root").get("/api/v1/registry/export.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        devices = archive.read("devices.csv").decode()
    assert "lamp 号 001" in devices
    assert "新名" not in devices


async def test_the_replica_shows_no_other_scope_either(pair: Api) -> None:
    client = pair.client("wang")
    before = _served(pair)
    for call in calls("c02"):
        if call.method == "GET" and call.operation not in CURRENT and "admin" in call.roles:
            answer = await client.get(f"/api/v1{call.path}")
            assert answer.status_code == call.missing, call.path
    listed = (await client.get("/api/v1/devices?limit=200")).json()["items"]
    assert {device["community"] for device in listed} == {"c01"}
    assert _served(pair) > before


async def test_nobody_sees_their_own_action_undone(pair: Api, standby: Postgres) -> None:
    path = f"/api/v1/alerts/{ALERTS['dark']}"
    li, wang = pair.client("li"), pair.client("wang")
    with standing_still(standby):
        rename(pair.dsn, "新名")
        # Somebody else's change may come late.
        assert (await wang.get(LAMP)).json()["name"] == "lamp 号 001"
        answer = await li.post(f"{path}/acknowledge", json={"note": "seen"})
        assert answer.status_code == 200
        for client in (li, wang):
            assert (await client.get(path)).json()["acknowledged"]
            listed = await client.get("/api/v1/alerts?status=acknowledged")
            assert path.rpartition("/")[2] in {one["id"] for one in listed.json()["items"]}
        # Who changed something reads the primary for a while, whatever it is.
        assert "Max-Age=606" in answer.headers["set-cookie"]
        assert (await li.get(LAMP)).json()["name"] == "新名"
        assert (await wang.get(LAMP)).json()["name"] == "lamp 号 001"
    await asyncio.to_thread(await_copy, pair.dsn, standby)
    assert (await wang.get(LAMP)).json()["name"] == "新名"


async def test_a_session_that_ended_is_over_at_once(pair: Api, standby: Postgres) -> None:
    with standing_still(standby):
        assert (await pair.client("wang").delete("/api/v1/session")).status_code == 204
        late = pair.client(Cookie=f"linli_session={session_token('wang')}")
        assert (await late.get(LAMP)).status_code == 401


async def test_too_far_behind_it_is_left_out_and_said_so(
    copied: str, standby: Postgres, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    replica = at(standby.port, copied)
    with caplog.at_level(logging.INFO, "api.replica"):
        async with replicated(copied, replica, broker, lag_limit_s=SOME_LAG_S) as api:
            client = api.client("wang")
            with standing_still(standby):
                rename(copied, "新名")
                await eventually(lambda: _replica(api).health.status == "lagging", "it is noticed")
                assert (await client.get(LAMP)).json()["name"] == "新名"
                told = (await client.get("/readyz")).json()["replica"]
                assert told["status"] == "lagging"
                assert told["lag_s"] > SOME_LAG_S
                assert told["lag_bytes"] > 0
                assert _figure(api, "linli_api_replica_used") == 0
            await eventually(lambda: _replica(api).is_near, "it caught up")
            assert _figure(api, "linli_api_replica_used") == 1
    told = [one.getMessage().split()[1] for one in caplog.records if one.name == "api.replica"]
    assert told == ["serves", "left", "serves"]


async def test_away_it_is_missed_by_nobody(
    copied: str, standby: Postgres, broker: Broker, proxy: ProxyFactory
) -> None:
    line = proxy(standby.port)
    async with replicated(copied, at(line.port, copied), broker) as api:
        client = api.client("wang")
        assert (await client.get(LAMP)).status_code == 200
        served = _served(api)
        assert served > 0
        line.cut(refuse=True)
        for _ in range(3):
            assert (await client.get(LAMP)).status_code == 200
        await eventually(lambda: _replica(api).health.status == "away", "it is noticed")
        ready = (await client.get("/readyz")).json()
        assert ready["replica"] == {"status": "away", "lag_s": None, "lag_bytes": None}
        # Nobody runs a broker here; that the api is ready without its replica the drill shows.
        assert ready["checks"] == {"database": "ok", "schema": "ok", "broker": "failed"}
        line.heal()
        await eventually(lambda: _replica(api).is_near, "it is found again")
        served = _served(api)
        assert (await client.get(LAMP)).status_code == 200
        assert _served(api) > served


async def test_what_the_replay_stands_in_the_way_of_is_asked_of_the_primary(
    pair: Api, standby: Postgres
) -> None:
    with psycopg.connect(pair.dsn) as conn:
        # Replayed there as a lock, which the standby keeps while it stands still.
        conn.execute("LOCK TABLE reading_lamp IN ACCESS EXCLUSIVE MODE")
        rename(pair.dsn, "whose COMMIT has the log written out")
        await eventually(lambda: _is_locked(standby, pair.dsn), "the lock is there")
        with standing_still(standby):
            conn.rollback()
            answer = await pair.client("wang").get(f"{LAMP}/history")
    assert answer.status_code == 200, answer.text
    assert _figure(pair, 'linli_api_replica_retries_total{sqlstate="55P03"}') == 1


def _is_locked(standby: Postgres, dsn: str) -> bool:
    with psycopg.connect(standby.dsn(str(conninfo_to_dict(dsn)["dbname"]))) as conn:
        return conn.execute(
            """
            SELECT FROM pg_locks
            WHERE mode = 'AccessExclusiveLock' AND relation = 'reading_lamp'::regclass
            """
        ).fetchone() is not None  # fmt: skip


async def test_another_installation_is_no_replica(
    own_database: str, city_database: str, broker: Broker
) -> None:
    config = configured(own_database, broker, city_database, 5)
    app = create_app(config, clock=Watch(), static=Path("/nonexistent"))
    api = Api(app, own_database, Watch())
    async with app.router.lifespan_context(app):
        await eventually(lambda: _replica(api).health.status == "foreign", "it is refused")
        assert not _replica(api).is_near


async def test_a_replica_behind_in_its_schema_waits(
    copied: str, standby: Postgres, broker: Broker
) -> None:
    async with replicated(copied, at(standby.port, copied), broker) as api:
        with psycopg.connect(copied) as conn:
            conn.execute(sql.SQL("DELETE FROM schema_migration WHERE version > 2"))
        await eventually(lambda: _replica(api).health.status == "schema", "it is noticed")
        assert not _replica(api).is_near


async def test_without_a_replica_nothing_is_told_of_one(city: Api) -> None:
    answer = await city.client("li").post("/api/v1/alerts/x/acknowledge", json={"note": "x"})
    assert "set-cookie" not in answer.headers
    assert city.services.replica is None


class TestLag:
    def test_while_nothing_is_written_there_is_none(self) -> None:
        lag = Lag()
        assert [lag.look(float(second), 500, 500) for second in range(3)] == [0, 0, 0]

    def test_it_is_as_old_as_the_last_position_it_reached(self) -> None:
        lag = Lag()
        assert lag.look(0, 100, 100) == 0
        assert lag.look(1, 200, 100) == 1
        assert lag.look(2, 300, 100) == 2
        assert lag.look(3, 400, 250) == 2
        assert lag.look(4, 400, 400) == 0

    def test_one_that_was_never_close_is_not_known(self) -> None:
        lag = Lag()
        assert lag.look(0, 100, 50) is None
        assert lag.look(1, 200, 99) is None
        assert lag.look(2, 300, 150) == 2

    def test_a_long_standstill_is_remembered(self) -> None:
        lag = Lag()
        assert lag.look(0, 0, 0) == 0
        lags = [lag.look(float(second), second, 0) for second in range(1, 2_000)]
        assert lags[-1] == 1_999


@pytest.mark.parametrize(
    ("dsn", "is_good"),
    [
        pytest.param("host=a dbname=x", True, id="one-host"),
        pytest.param("host=a,b dbname=x", False, id="several-and-any-of-them"),
        pytest.param("host=a,b target_session_attrs=any", False, id="any-said"),
        pytest.param("host=a,b target_session_attrs=read-write", True, id="the-one-that-writes"),
        pytest.param("postgresql://a,b/x?target_session_attrs=primary", True, id="url"),
        pytest.param("host=a,b target", False, id="not-one"),
    ],
)
def test_a_standby_is_never_written_to(dsn: str, is_good: bool) -> None:
    if is_good:
        assert Database.model_validate({"dsn": dsn}).dsn.get_secret_value() == dsn
    else:
        with pytest.raises(ValueError, match=r"target_session_attrs|not a PostgreSQL"):
            Database.model_validate({"dsn": dsn})
