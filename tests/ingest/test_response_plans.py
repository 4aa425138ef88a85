# SPDX-License-Identifier: Apache-2.0
"""Response plans: which fits a case; the product's brought once; nothing of them ever removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from deploy.services import Postgres
from ingest.cases import SEVERITIES
from ingest.migrate import MIGRATIONS, migrate
from ingest.response_plans import (
    Plan,
    Step,
    doubled,
    fitting,
    is_for_cases,
    is_life_safety,
)
from tests.ingest.precinct import Precinct, settle

STEPS = (Step.model_validate({"step": "look", "zh-CN": "查看", "en": "Look"}),)
DEFAULTS = Path("always/response_plans.sql")


@pytest.fixture
def precinct(database: str) -> Iterator[Precinct]:
    settle(database)
    with psycopg.connect(database, autocommit=True) as conn:
        yield Precinct(database, conn)


def plan(rule: str, version: int = 1) -> Plan:
    return Plan("critical", rule, None, None, version, STEPS)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("alarm.fire", "alarm.fire"),
        ("alarm.fire_lane_blocked", "alarm.fire"),
        ("alarm.panic", "alarm."),
        ("gate.forced", ""),
    ],
)
def test_the_longest_beginning_holds(rule: str, expected: str) -> None:
    plans = [plan("alarm."), plan(""), plan("alarm.fire")]
    found = fitting(plans, "critical", rule)
    assert found is not None
    assert found.rule == expected
    assert fitting(plans, "minor", rule) is None


def test_only_rules_of_cases_have_plans() -> None:
    beginnings = ("", "alarm.", "alarm.panic", "gate.", "gate.held", "bin.fire")
    assert all(map(is_for_cases, beginnings))
    others = ("lamp.", "bin.full", "gateway.silent", "custom.", "gates", "alarm.of_ours")
    assert not any(map(is_for_cases, others))
    assert [one for one in beginnings if is_life_safety(one)] == ["alarm.panic", "bin.fire"]


def test_a_step_is_named_once() -> None:
    other = Step.model_validate({"step": "call", "zh-CN": "呼叫", "en": "Call"})
    assert doubled([*STEPS, other]) is None
    assert doubled([*STEPS, other, *STEPS]) == 2


def test_every_severity_has_a_plan_in_both_languages(precinct: Precinct) -> None:
    plans = precinct.rows("SELECT severity, rule, area, version, steps FROM response_plan_version")
    assert {severity for severity, rule, *_ in plans if rule == ""} == set(SEVERITIES)
    assert {(area, version) for _, _, area, version, _ in plans} == {(None, 1)}
    for _, rule, _, _, steps in plans:
        assert is_for_cases(rule)
        assert doubled([Step.model_validate(step) for step in steps]) is None


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM response_plan_version",
        "TRUNCATE response_plan_version",
        "UPDATE response_plan_version SET reason = 'x'",
    ],
)
def test_versions_are_kept(precinct: Precinct, statement: str) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation):
        precinct.conn.execute(statement.encode())


def test_a_plan_without_steps_is_none(precinct: Precinct) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        _say(precinct, "info", "alarm.water", "c01", [])


def test_a_product_s_plan_that_changed_is_a_version_for_cases_to_come(
    precinct: Precinct, tmp_path: Path
) -> None:
    """Brought up again nothing changes; a newer product changes what differs, and takes back."""
    precinct.ring(("c01-gate-g01", "gate.forced", 0))
    before = precinct.rows("SELECT * FROM response_plan_version")
    migrate(precinct.dsn)
    assert precinct.rows("SELECT * FROM response_plan_version") == before
    newer = tmp_path / "newer"
    shutil.copytree(MIGRATIONS, newer)
    text = (newer / DEFAULTS).read_text()
    assert '"zh-CN": "查看记录,必要时提高等级"' in text
    assert '"rules": ["alarm.panic"]' in text
    text = text.replace("查看记录,必要时提高等级", "先看记录")
    (newer / DEFAULTS).write_text(text.replace('"rules": ["alarm.panic"]', '"rules": []'))
    migrate(precinct.dsn, folder=newer)
    assert precinct.rows(
        """
        SELECT severity, rule, version, revision, steps -> 0 ->> 'zh-CN'
        FROM response_plan_version WHERE version > 1 ORDER BY 1
        """
    ) == [("critical", "alarm.panic", 2, 2, None), ("info", "", 2, 2, "先看记录")]
    precinct.ring(("c02-gate-g01", "gate.forced", 0))
    assert precinct.rows("SELECT plans_revision FROM alert_case ORDER BY opened_at, id") == [
        (1,), (2,),
    ]  # fmt: skip


def test_what_was_written_in_sql_holds_for_all_areas_after_the_upgrade(
    database_server: Postgres, tmp_path: Path
) -> None:
    before, name = tmp_path / "before", "before_plans"
    (before / "always").mkdir(parents=True)
    (since,) = MIGRATIONS.glob("*_response_plans.sql")
    for file in MIGRATIONS.glob("*.sql"):
        if file.name < since.name:
            shutil.copy(file, before)
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = database_server.dsn(name)
    migrate(dsn, folder=before)
    own = [{"step": "Tell Li", "zh-CN": "告诉李", "en": "Tell Li"}]
    with psycopg.connect(dsn) as conn:
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES ('city', NULL, 'city', 'city', ''),
                   ('c01', 'city', 'city.c01', 'community', '')
            """
        )
        conn.execute("UPDATE response_plan SET steps = %s WHERE severity = 'minor'", (Jsonb(own),))
        # A beginning that the api would not take, and words of the product's for another rule.
        conn.execute("INSERT INTO response_plan VALUES ('major', 'alarm', %s)", (Jsonb(own),))
        conn.execute(
            """
            INSERT INTO response_plan
            SELECT severity, 'alarm.water', steps FROM response_plan WHERE rule = 'alarm.panic'
            """
        )
    migrate(dsn)
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            """
            SELECT severity, rule, area, version, revision, steps FROM response_plan_version
            WHERE area IS NOT NULL ORDER BY severity
            """
        ).fetchall()
        assert [row[:5] for row in found] == [
            ("critical", "alarm.water", "city", 1, 1),
            ("major", "alarm", "city", 1, 1),
            ("minor", "", "city", 1, 1),
        ]
        assert found[1][5] == found[2][5] == own
        ((product,),) = conn.execute(
            "SELECT count(*) FROM response_plan_version WHERE area IS NULL AND revision = 1"
        ).fetchall()
        assert product == 15


def _say(
    precinct: Precinct, severity: str, rule: str, area: str, steps: list[dict[str, str]]
) -> None:
    precinct.conn.execute(
        """
        INSERT INTO response_plan_version (severity, rule, area, version, revision, steps, author,
                                           reason, at)
        VALUES (%s, %s, %s, 1, 1, %s, 'x', 'x', now())
        """,
        (severity, rule, area, Jsonb(steps)),
    )
