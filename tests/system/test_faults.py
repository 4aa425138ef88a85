# SPDX-License-Identifier: Apache-2.0
"""Kill each part in the middle of a run: nothing is lost, nothing is doubled, the numbers agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from deploy.services import HOST, Postgres
from deploy.verify import Verdict
from ingest.migrate import migrate
from tests.services import Broker, until
from tests.system.city import City, running_city

pytestmark = pytest.mark.timeout(300)

STORED = "SELECT (SELECT count(*) FROM reading_lamp) + (SELECT count(*) FROM reading_bin)"


@pytest.fixture
def city(database: str, own_broker: Broker, tmp_path: Path) -> Iterator[City]:
    yield from running_city(database, own_broker, tmp_path)


def agrees(verdict: Verdict) -> None:
    """Everything accepted is stored once, and what follows from it is what is true."""
    differences = "\n".join(map(str, verdict.differences[:20]))
    assert verdict.ok, f"{verdict.figures()}\n{differences}"
    assert verdict.readings.accepted > 1_000


def stored_more(city: City, than: int) -> None:
    until(lambda: city.count(STORED) > than, f"more than {than} readings", timeout_s=60)


def test_undisturbed_run_agrees_with_the_truth(city: City) -> None:
    city.start_ingest()
    city.start_simulators()
    city.await_phase("live")
    until(
        lambda: city.count("SELECT count(*) FROM alert WHERE NOT late") >= 5,
        "live alerts",
        timeout_s=60,
    )
    agrees(city.finish())


def test_ingest_killed_in_the_middle_loses_nothing(city: City) -> None:
    ingest = city.start_ingest()
    city.start_simulators()
    redelivered = 0
    for _ in range(5):
        before = city.count(STORED)
        stored_more(city, before)
        ingest.kill()
        ingest = city.start_ingest()
    city.await_phase("live")
    agrees(city.finish())
    log = (city.folder / "ingest.log").read_text()
    redelivered = log.count("session_present=True")
    assert redelivered >= 5, "no kill was felt: the broker never had to send anything again"


def test_agent_killed_in_the_middle_loses_nothing(city: City) -> None:
    city.start_ingest()
    simulators = city.start_simulators()
    for _ in range(3):
        before = city.count(STORED)
        stored_more(city, before)
        simulators.kill()
        simulators = city.start_simulators()
    city.await_phase("live")
    agrees(city.finish())


def test_broker_killed_in_the_middle_loses_nothing(city: City) -> None:
    city.start_ingest()
    city.start_simulators()
    for _ in range(3):
        stored_more(city, city.count(STORED))
        city.broker.server.kill()
        city.broker.server.start()
    city.await_phase("live")
    agrees(city.finish())
    assert (city.folder / "ingest.log").read_text().count("broker lost") >= 3


@pytest.fixture
def own_city(
    own_database_server: Postgres, own_broker: Broker, tmp_path: Path
) -> Iterator[tuple[City, Postgres]]:
    dsn = own_database_server.create_database("linli", owner="linli", password="only-for-tests")
    migrate(dsn)
    for city in running_city(dsn, own_broker, tmp_path):
        yield city, own_database_server


def test_database_crashing_in_the_middle_loses_nothing(own_city: tuple[City, Postgres]) -> None:
    city, server = own_city
    city.start_ingest()
    city.start_simulators()
    for _ in range(3):
        stored_more(city, city.count(STORED))
        server.crash()
        server.start()
    city.await_phase("live")
    agrees(city.finish())
    assert (city.folder / "ingest.log").read_text().count("database lost") >= 3


def test_nothing_is_acknowledged_before_it_is_committed(own_city: tuple[City, Postgres]) -> None:
    """With the database away, ingest takes no more than Receive Maximum and confirms none of it."""
    city, server = own_city
    city.start_ingest()
    city.start_simulators()
    stored_more(city, 0)
    server.crash()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"host={HOST} port={server.port} dbname=linli user=linli connect_timeout=2")
    assert city.ingest is not None
    city.ingest.kill()  # whatever it held in memory is gone
    server.start()
    city.start_ingest()
    city.await_phase("live")
    agrees(city.finish())
