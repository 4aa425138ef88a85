# SPDX-License-Identifier: Apache-2.0
"""A broker and a database for a whole module; what hears of nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from deploy.services import HOST, Mosquitto, Postgres, Userland, free_port
from ingest.pki import Authority
from tests.services import OWNER, PASSWORD, Broker


@pytest.fixture(scope="module")
def module_broker(
    userland: Userland, service_folder: Path, authority: Authority
) -> Iterator[Broker]:
    """A broker without anybody else's sessions and retained messages."""
    folder = service_folder / f"broker-{uuid.uuid4().hex[:8]}"
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
    yield Broker(authority, server.port, server=server)
    server.stop()


@pytest.fixture(scope="module")
def module_database(database_server: Postgres, database_template: str) -> Iterator[str]:
    """The DSN of an empty, migrated database."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(database_template)}
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {name} TEMPLATE {template} OWNER {owner}").format(
                **names, owner=sql.Identifier(OWNER)
            )
        )
    yield f"host={HOST} port={database_server.port} dbname={name} user={OWNER} password={PASSWORD}"
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))
