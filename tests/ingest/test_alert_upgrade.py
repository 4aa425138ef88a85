# SPDX-License-Identifier: Apache-2.0
"""A database from before alerts had occurrences, with alerts of all shapes, is brought up."""

from __future__ import annotations

import itertools
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from uuid_utils.compat import uuid7

from ingest.alerts import Clear, Raise
from ingest.kinds import DEFAULT_RULES
from ingest.migrate import MIGRATIONS, migrate
from ingest.rules import RuleBook
from ingest.store import alerts, connect
from ingest.store.alerts import Change, Subject
from tests.ingest.community import GATEWAY, found

NOW = datetime.now(UTC).replace(microsecond=0)
BEFORE = 13
DISPOSITIONS = (None, "open", "confirmed", "false_alarm", "test", "duplicate", "withdrawn")
# Rule, device, key.
POINTS = (
    ("alarm.smoke", "c01-alarm-001", "o-{}"),
    ("alarm.duress", "c01-alarm-001", "o-{}"),
    ("gate.forced", "c01-gate-001", ""),
    ("bin.fire", "c01-bin-001", ""),
    ("lamp.dark", "c01-lamp-001", ""),
    ("device.refused", "c01-lamp-001", "telemetry"),
    ("gateway.silent", None, ""),
    ("stream.hole", None, "s-{}"),
)


@pytest.fixture
def old(database: str, tmp_path: Path) -> str:
    """A database as the release before left it, with a community in it."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        if int(file.name[:4]) <= BEFORE:
            shutil.copy(file, folder)
    with psycopg.connect(database) as conn:
        conn.execute("DROP SCHEMA public CASCADE")
        conn.execute("CREATE SCHEMA public")
    migrate(database, folder=folder)
    found(database, in_service_from=NOW - timedelta(days=10))
    return database


def insert(conn: psycopg.Connection) -> dict[str, int]:
    """Write alerts of all shapes as they were written then; return how many of each rule stand."""
    numbers, standing = itertools.count(), dict[str, int]()
    for (rule, device, key), acknowledged, found_out, active in itertools.product(
        POINTS, (False, True), DISPOSITIONS, (True, False)
    ):
        number = next(numbers)
        keyed = "{}" in key
        stands = active and (keyed or rule not in standing)
        if rule == "device.refused" and rule in standing:
            continue  # of these there was one for ever
        alert, at = uuid7(), NOW - timedelta(hours=24 - number / 60)
        noted = at + timedelta(minutes=5) if acknowledged else None
        conn.execute(
            """
            INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area, key,
                               active, acknowledged, raised_at, received_at, cleared_at,
                               acknowledged_at, acknowledged_by, changed_at)
            VALUES (%s, %s, 'major', 'any', %s, %s, 'c01', 'c01', %s, %s, %s, %s, %s, %s, %s, %s,
                    %s)
            """,
            (
                alert, rule, device, GATEWAY, key.format(number), stands, acknowledged, at, at,
                None if stands else at + timedelta(minutes=1), noted,
                "root" if acknowledged else None, at,
            ),
        )  # fmt: skip
        for action in ("raised", *(() if stands else ("cleared",))):
            conn.execute(
                """
                INSERT INTO alert_history (alert, at, actor, action, reason)
                VALUES (%s, %s, 'rule', %s, 'condition_met')
                """,
                (alert, at, action),
            )
        if found_out is not None:
            confirmed = found_out == "confirmed"
            conn.execute(
                """
                INSERT INTO incident (id, category, area, community, occurred_at, disposition,
                                      alert, confirmed_by, confirmed_at, reported_by, reported_at,
                                      changed_at)
                VALUES (%s, 'other', 'c01', 'c01', %s, %s, %s, %s, %s, 'root', %s, %s)
                """,
                (
                    uuid7(), at, found_out, alert, "root" if confirmed else None,
                    at if confirmed else None, at, at,
                ),
            )  # fmt: skip
        standing[rule] = standing.get(rule, 0) + stands
    return standing


def test_alerts_of_all_shapes_are_brought_up_to_date(old: str) -> None:
    with psycopg.connect(old) as conn:
        standing = insert(conn)
        before = conn.execute("SELECT count(*) FROM alert").fetchone()
    done = migrate(old)
    assert done == sorted(
        file.name for file in MIGRATIONS.glob("*.sql") if int(file.name[:4]) > BEFORE
    )
    with psycopg.connect(old) as conn, conn.cursor(row_factory=dict_row) as cursor:

        def rows(query: str) -> list[dict[str, Any]]:
            return cursor.execute(query.encode()).fetchall()

        assert before is not None
        assert rows("SELECT count(*) AS n FROM alert_occurrence") == [{"n": before[0]}]
        # An alert and its occurrence say the same.
        assert (
            rows(
                """
            SELECT FROM alert AS t
            JOIN alert_occurrence AS o ON o.alert = t.id
            WHERE (t.active, t.standing, t.raised_at, t.last_raised_at, t.cleared_at,
                   t.acknowledged_at)
               IS DISTINCT FROM (o.active, o.active::int, o.raised_at, o.raised_at, o.cleared_at,
                                 o.acknowledged_at)
            """
            )
            == []
        )
        assert rows("SELECT FROM alert_history WHERE occurrence IS NULL OR NOT told") == []
        # Nothing old is looked at, muted or told anew.
        assert rows("SELECT FROM alert_occurrence WHERE NOT looked") == []
        # Each alarm that nobody settled is a case, with its record where there is one.
        assert (
            rows(
                """
            SELECT FROM alert AS t
            LEFT JOIN incident AS i ON i.alert = t.id
            LEFT JOIN case_alert AS m ON m.alert = t.id
            LEFT JOIN alert_case AS c ON c.id = m.case_id
            WHERE (c.id IS NOT NULL) IS DISTINCT FROM
                  ((t.rule LIKE 'alarm.%' OR t.rule IN ('gate.forced', 'bin.fire'))
                   AND (t.active OR NOT t.acknowledged)
                   AND (i.id IS NULL OR i.disposition = 'open'))
               OR c.id IS NOT NULL AND c.incident IS DISTINCT FROM i.id
            """
            )
            == []
        )
    # What stands can be cleared, and raised again.
    book = RuleBook(DEFAULT_RULES, {})
    with connect(old, "test") as conn:
        found_standing = alerts.load_standing(conn)
        assert len(found_standing) == sum(standing.values())
        for one in found_standing:
            rule = book.get(one.rule, "c01")
            assert rule is not None
            subject = Subject("any", one.gateway, "c01", "c01", one.device)
            for decision in (Clear(NOW, "condition_ended"), Raise(NOW, "condition_met")):
                key = one.key
                if isinstance(decision, Raise) and one.rule.startswith("alarm."):
                    key += "-again"
                change = Change(rule, subject, decision, NOW, key)
                with conn.transaction():
                    assert alerts.write(conn, [change], NOW), one
