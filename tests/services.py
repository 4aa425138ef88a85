# SPDX-License-Identifier: Apache-2.0
"""The real broker and the real database, as fixtures.

Both come from `deploy.services`, the code that runs the demo. What cannot be started fails the
tests that need it; nothing is skipped. A test may name:

- ``broker``: one Mosquitto for the whole run. Topics and identities are a test's own.
- ``own_broker``: one for the test alone, to be stopped, killed and started again.
- ``database``: the DSN of an empty, migrated database of the test's own (a clone, some 60 ms).
- ``database_server``, ``own_database_server``: the server, for the run or for the test alone.
- ``proxy`` (see `tests.proxy`): to be put before either.
"""

from __future__ import annotations

import shutil
import ssl
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from deploy.services import HOST, Mosquitto, Postgres, Userland, free_port
from ingest.migrate import migrate
from ingest.pki import Authority, create_authority, issue_client, issue_server

OWNER = "linli"
PASSWORD = "only-for-tests"  # the server listens on 127.0.0.1 and lives as long as the run
TEMPLATE = "linli_template"

TEST_SETTINGS = {"shared_buffers": "128MB", "max_wal_size": "512MB"}


@dataclass(frozen=True, slots=True)
class Identity:
    """The files a client needs to be somebody at the broker."""

    name: str
    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker, and everybody who may talk to it."""

    server: Mosquitto
    authority: Authority

    host: str = HOST

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def ca(self) -> Path:
        return self.server.ca

    def identity(self, name: str) -> Identity:
        """Certificate and key of a gateway or a service, issued on the first call."""
        folder = self.services
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        if not certificate.exists():
            issue_client(self.authority.folder, name, out=folder)
        return Identity(name, self.ca, certificate, key)

    @property
    def services(self) -> Path:
        """The folder of `identity`, as ``certificates`` in a configuration."""
        return self.authority.folder / "services"


def until(
    check: Callable[[], object], what: str, *, timeout_s: float = 10.0, every_s: float = 0.02
) -> None:
    """Wait until ``check`` is true; fail with ``what`` was waited for when time is over."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"after {timeout_s:g} s still not: {what}")
        time.sleep(every_s)


@pytest.fixture(scope="session")
def userland() -> Userland:
    return Userland.find()


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """Where the servers keep their data: in memory where there is room, for speed.

    Nothing is taken from durability that a test could see: processes are killed, machines not.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2_000_000_000
    with tempfile.TemporaryDirectory(prefix="linli-tests-", dir=memory if roomy else None) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def authority(service_folder: Path) -> Authority:
    folder = service_folder / "pki"
    made = create_authority(folder)
    issue_server(folder, [HOST, "localhost"])
    return made


def _broker(userland: Userland, folder: Path, authority: Authority) -> Broker:
    server = Mosquitto(
        userland,
        folder,
        free_port(),
        folder.parent / "log" / f"{folder.name}.log",
        ca=authority.folder / "ca.crt",
        certificate=authority.folder / "server.crt",
        key=authority.folder / "server.key",
    )
    server.start()
    return Broker(server, authority)


@pytest.fixture(scope="session")
def broker(userland: Userland, service_folder: Path, authority: Authority) -> Iterator[Broker]:
    made = _broker(userland, service_folder / "broker", authority)
    yield made
    made.server.stop()


@pytest.fixture
def own_broker(userland: Userland, service_folder: Path, authority: Authority) -> Iterator[Broker]:
    made = _broker(userland, service_folder / f"broker-{uuid.uuid4().hex[:8]}", authority)
    yield made
    made.server.stop()


def _postgres(userland: Userland, folder: Path) -> Postgres:
    log = folder.parent / "log" / f"{folder.name}.log"
    server = Postgres(userland, folder, free_port(), log, settings=TEST_SETTINGS)
    server.start()
    return server


@pytest.fixture(scope="session")
def database_server(userland: Userland, service_folder: Path) -> Iterator[Postgres]:
    server = _postgres(userland, service_folder / "postgres")
    yield server
    server.stop()


@pytest.fixture
def own_database_server(userland: Userland, service_folder: Path) -> Iterator[Postgres]:
    server = _postgres(userland, service_folder / f"postgres-{uuid.uuid4().hex[:8]}")
    yield server
    server.stop()


@pytest.fixture(scope="session")
def database_template(database_server: Postgres) -> str:
    """The name of a migrated, empty database that nobody is connected to."""
    migrate(database_server.create_database(TEMPLATE, owner=OWNER, password=PASSWORD))
    return TEMPLATE


@pytest.fixture
def database(database_server: Postgres, database_template: str) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(database_template), sql.Identifier(OWNER)
            )
        )
    yield f"host={HOST} port={database_server.port} dbname={name} user={OWNER} password={PASSWORD}"
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
