# SPDX-License-Identifier: Apache-2.0
"""One database a module, emptied of what was told between tests; real SMTP and HTTP servers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from deploy.services import Postgres
from tests.ingest.notify.town import Mailbox, Receiver, Town, found, http, smtp, town
from tests.services import OWNER, dsn_of


@pytest.fixture(scope="module")
def town_dsn(database_server: Postgres, database_template: str) -> Iterator[str]:
    name = f"town_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(database_template), sql.Identifier(OWNER)
            )
        )
    dsn = dsn_of(database_server, name)
    with psycopg.connect(dsn) as conn:
        found(conn)
    yield dsn
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def mail_server() -> Iterator[Mailbox]:
    with smtp() as mailbox:
        yield mailbox


@pytest.fixture
def mailbox(mail_server: Mailbox) -> Mailbox:
    mail_server.mails.clear()
    mail_server.refuse = False
    return mail_server


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with http() as receiver:
        yield receiver


@pytest.fixture
def place(town_dsn: str, mailbox: Mailbox) -> Iterator[Town]:
    """The town with nothing set and nothing told."""
    with psycopg.connect(town_dsn, autocommit=True) as conn:
        # What is a record elsewhere is swept here.
        conn.execute("ALTER TABLE case_history DISABLE TRIGGER USER")
        for table in (
            "notification", "notification_message", "notification_escalation",
            "notification_chain", "notification_preference", "webhook_former_secret",
            "webhook_history", "notification_channel",
            "case_step", "case_history", "case_alert", "alert_case", "alert_history",
            "alert_occurrence", "alert",
        ):  # fmt: skip
            conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(table)))
        conn.execute("ALTER TABLE case_history ENABLE TRIGGER USER")
        conn.execute("UPDATE person SET role = 'police', area = 'c01' WHERE username = 'liaison'")
        conn.execute("UPDATE person SET role = 'property', area = 'c01' WHERE username = 'manager'")
    with town(town_dsn, mailbox.port) as place:
        yield place
