# SPDX-License-Identifier: Apache-2.0
"""A half-open database connection: nothing on the client ends the call but the guard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from edge_agent.kinds.lamp import LampReading
from tests.ingest.community import Bench, found
from tests.proxy import Proxy
from tests.services import Broker, until


@pytest.fixture
def start() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture
def link(database: str, proxy: Callable[[int], Proxy]) -> Proxy:
    return proxy(int(str(conninfo_to_dict(database)["port"])))


@pytest.fixture
def bench(
    database: str, broker: Broker, link: Proxy, start: datetime
) -> Iterator[tuple[Bench, Bench]]:
    """Two views of one database: through the link, and past it."""
    found(database, in_service_from=start)
    behind = Bench(make_conninfo(database, host="127.0.0.1", port=link.port), broker)
    yield behind, Bench(database, broker)
    behind.close()


def test_half_open_database_is_left_and_the_flush_stored_once(
    bench: tuple[Bench, Bench], link: Proxy, start: datetime
) -> None:
    behind, past = bench
    writer = behind.telemetry()
    writer.persist([])
    link.stall()
    message = behind.batch(1, LampReading(device="c01-lamp-001", at=start, lit=True))
    thread = threading.Thread(target=writer.persist, args=([message],))
    thread.start()
    until(lambda: writer.asking_since is not None, "the database is asked")
    writer.abort_if_stuck(time.monotonic())  # not yet: it may only be slow
    assert thread.is_alive()
    writer.abort_if_stuck(time.monotonic() + 60)
    until(lambda: writer.healthy_since is None, "the call has ended, although nobody answered")
    link.heal()
    thread.join(30)
    assert not thread.is_alive()
    assert past.value("SELECT count(*) FROM reading_lamp") == 1
    assert past.value("SELECT seen::text FROM gateway_stream") == "{[1,2)}"
