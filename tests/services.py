# SPDX-License-Identifier: Apache-2.0
"""The real broker and the real database, as fixtures.

Both come from `deploy.services`, the code that runs the demo. What cannot be started fails the
tests that need it; nothing is skipped. A test may name:

- ``broker``: one Mosquitto for the whole run. Topics and identities are a test's own.
- ``own_broker``: one for the test alone, to be stopped, killed and started again.
- ``database``: the DSN of an empty, migrated database of the test's own (a clone, some 60 ms).
- ``second_database``: another one, to be compared with the first.
- ``database_server``, ``own_database_server``: the server, for the run or for the test alone.
- ``proxy`` (see `tests.proxy`): to be put before either.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from deploy.faults import ground
from deploy.faults.ground import (
    OWNER,
    PASSWORD,
    TEMPLATE,
    Broker,
    Identity,
    authority_for,
    create_template,
    dsn_of,
    in_memory,
    until,
)
from deploy.services import Postgres, Userland
from ingest.pki import Authority

__all__ = ["OWNER", "PASSWORD", "Broker", "Identity", "until"]


@pytest.fixture(scope="session")
def userland() -> Userland:
    return Userland.find()


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """Where the servers keep their data: in memory where there is room, for speed."""
    with tempfile.TemporaryDirectory(prefix="linli-tests-", dir=in_memory()) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def authority(service_folder: Path) -> Authority:
    return authority_for(service_folder / "pki")


@pytest.fixture(scope="session")
def broker(userland: Userland, service_folder: Path, authority: Authority) -> Iterator[Broker]:
    made = ground.broker(userland, service_folder / "broker", authority)
    yield made
    made.server.stop()


@pytest.fixture
def own_broker(userland: Userland, service_folder: Path, authority: Authority) -> Iterator[Broker]:
    made = ground.broker(userland, service_folder / f"broker-{uuid.uuid4().hex[:8]}", authority)
    yield made
    made.server.stop()


@pytest.fixture(scope="session")
def database_server(userland: Userland, service_folder: Path) -> Iterator[Postgres]:
    server = ground.postgres(userland, service_folder / "postgres")
    yield server
    server.stop()


@pytest.fixture
def own_database_server(userland: Userland, service_folder: Path) -> Iterator[Postgres]:
    server = ground.postgres(userland, service_folder / f"postgres-{uuid.uuid4().hex[:8]}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database_template(database_server: Postgres) -> str:
    """The name of a migrated, empty database that nobody is connected to."""
    create_template(database_server)
    return TEMPLATE


@contextmanager
def empty_database(server: Postgres, template: str) -> Generator[str]:
    """The DSN of a database of one's own, for as long as it lasts."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER)
            )
        )
    yield dsn_of(server, name)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(database_server: Postgres, database_template: str) -> Iterator[str]:
    with empty_database(database_server, database_template) as dsn:
        yield dsn


@pytest.fixture
def second_database(database_server: Postgres, database_template: str) -> Iterator[str]:
    with empty_database(database_server, database_template) as dsn:
        yield dsn
