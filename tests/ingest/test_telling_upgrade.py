# SPDX-License-Identifier: Apache-2.0
"""A database from before secrets were replaced and gateways had a life is brought up."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from ingest.migrate import MIGRATIONS, migrate
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, found

NOW = datetime.now(UTC).replace(microsecond=0)
STEP = "_telling.sql"


def test_kept_secrets_go_and_all_else_is_as_it_was(database: str, tmp_path: Path) -> None:
    files = sorted(MIGRATIONS.glob("*.sql"))
    (step,) = [number for number, file in enumerate(files) if file.name.endswith(STEP)]
    before = tmp_path / "migrations"
    before.mkdir()
    for file in files[:step]:
        shutil.copy(file, before)
    with psycopg.connect(database) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
        conn.execute("CREATE SCHEMA public")
    migrate(database, folder=before)
    found(database, in_service_from=NOW - timedelta(days=10))
    hook = uuid7()
    answers = {
        "made": b'{"id":"1","name":"desk","secret":"whsec_AAAA"}',
        "other": '{"note":"看过 whsec"}'.encode(),
        "refused": b'{"code":"not_found"}',
    }
    with psycopg.connect(database) as conn:
        conn.execute(
            """
            INSERT INTO notification_channel (id, kind, name, address, area, secret, created_at,
                                              created_by, version)
            VALUES (%s, 'webhook', 'desk', 'https://8.8.8.8', 'c01', 'whsec_AAAA', %s, 'root', 3)
            """,
            (hook, NOW),
        )
        for key, body in answers.items():
            conn.execute(
                "INSERT INTO idempotency VALUES ('root', %s, '', %s, 201, %s, %s)",
                (key, NOW, Jsonb({}), body),
            )
    assert files[step].name in migrate(database)
    with psycopg.connect(database) as conn:
        kept = conn.execute("SELECT key FROM idempotency ORDER BY key").fetchall()
        assert kept == [("other",), ("refused",)]
        assert conn.execute("SELECT secret, version FROM notification_channel").fetchall() == [
            ("whsec_AAAA", 3)
        ]
        assert conn.execute(
            "SELECT webhook, at, actor, action FROM webhook_history"
        ).fetchall() == [(hook, NOW, "root", "made")]
        gateways = conn.execute(
            """
            SELECT g.gateway, g.life, v.life, v.community = g.community, v.during::text
            FROM gateway AS g JOIN gateway_version AS v USING (gateway) ORDER BY 1
            """
        ).fetchall()
        assert gateways == [
            (name, "in_service", "in_service", True, "(,)")
            for name in sorted((GATEWAY, OTHER_GATEWAY))
        ]
