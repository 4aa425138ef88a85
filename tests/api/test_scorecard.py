# SPDX-License-Identifier: Apache-2.0
"""The alarm-quality scorecard: counted over what a person may see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ingest.indicator_rules import COMMUNITY, INDICATOR_RULES
from tests.api.conftest import INCIDENTS, NOW, Api, running
from tests.services import Broker

QUALITY = "/api/v1/areas/{}/alarm-quality"
MONTH_AGO = NOW - timedelta(days=30)


def occur(
    conn: psycopg.Connection, rule: str, device: str, *seconds: float, quiet: bool = False
) -> None:
    """A rule on a device, raised so many seconds after a day 30 days ago, each time for 5 s."""
    row = conn.execute(
        """
        INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area, active,
                           standing, raised_at, last_raised_at, received_at, cleared_at, changed_at)
        SELECT gen_random_uuid(), %s, 'minor', kind, device, gateway, community, area, false, 0,
               %s, %s, %s, %s, %s
        FROM device WHERE device = %s
        RETURNING id
        """,
        (rule, *[MONTH_AGO] * 5, device),
    ).fetchone()
    assert row is not None
    for second in seconds:
        at = MONTH_AGO + timedelta(seconds=second)
        conn.execute(
            """
            INSERT INTO alert_occurrence (alert, rule, gateway, device, active, raised_at,
                                          received_at, cleared_at, looked, quiet)
            SELECT id, rule, gateway, device, false, %s, %s, %s, true, %s
            FROM alert WHERE id = %s
            """,
            (at, at, at + timedelta(seconds=5), quiet, row[0]),
        )


@pytest.fixture
async def counted(own_database: str, broker: Broker) -> AsyncIterator[Api]:
    with psycopg.connect(own_database) as conn:
        for number in range(12):  # a flood in the first ten minutes, of one device
            occur(conn, f"own.{number:02}", "c01-lamp-001", number * 30)
        occur(conn, "own.chatter", "c01-bin-001", 7_000, 7_020, 7_050)
        occur(conn, "own.calm", "c01-bin-001", 7_000, 7_600)
        occur(conn, "own.muted", "c01-bin-001", 7_000, 7_001, 7_002, quiet=True)
        occur(conn, "alarm.duress", "c01-alarm-001", 20_000)
        occur(conn, "own.foreign", "c02-lamp-001", 20_000)
        for rule, incident in (("own.00", "confirmed"), ("own.01", "test")):
            conn.execute(
                "UPDATE incident SET alert = (SELECT id FROM alert WHERE rule = %s) WHERE id = %s",
                (rule, INCIDENTS[incident]),
            )
    async with running(own_database, broker) as api:
        yield api


async def ask(api: Api, who: str, area: str = "c01", **question: str) -> dict[str, Any]:
    between = {
        "from": MONTH_AGO.isoformat(),
        "to": (MONTH_AGO + timedelta(days=1)).isoformat(),
        **question,
    }
    answer = await api.client(who).get(QUALITY.format(area), params=between)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_key_figures_of_a_day(counted: Api) -> None:
    found = await ask(counted, "li")
    assert found["operators"] == 1
    # 12 + 3 + 2 + 1; what was kept from the desk disturbed nobody.
    assert (found["alarms"], found["kept_from_desk"]) == (18, 3)
    assert found["average"] == pytest.approx(18 / 144)
    assert (found["peak"], found["flood_minutes"]) == (12, 10)
    assert found["flood_share"] == pytest.approx(1 / 144)
    assert found["chattering"] == 2, "muted or not, it chatters"
    assert found["noisiest"][0] == {
        "rule": "own.chatter", "subject": "c01-bin-001", "alarms": 3, "share": 3 / 18,
    }  # fmt: skip
    assert len(found["noisiest"]) == 10
    assert found["noisy_share"] == pytest.approx((3 + 2 + 8) / 18)
    assert found["by_severity"] == {"critical": 0, "major": 0, "minor": 18, "info": 0}
    assert found["targets"]["average"] == 1

    assert found["false_alarm_share"] == 0.5
    manager = await ask(counted, "wang")
    assert manager["alarms"] == 17, "duress is not for property managers"
    assert manager["false_alarm_share"] is None, "nor what officers found"
    both = await ask(counted, "root", "city")
    assert (both["alarms"], both["operators"]) == (19, 2)


async def test_an_area_of_somebody_else_is_not_found(city: Api) -> None:
    assert (await city.client("wang").get(QUALITY.format("c02"))).status_code == 404


async def test_standing_and_stale_are_those_of_the_end(city: Api) -> None:
    with psycopg.connect(city.dsn) as conn:
        row = conn.execute(
            """
            SELECT count(DISTINCT alert) FROM alert_occurrence AS o
            JOIN alert AS t ON t.id = o.alert
            WHERE o.active AND t.community = 'c01'
            """
        ).fetchone()
    assert row is not None
    found = (await city.client("li").get(QUALITY.format("c01"))).json()
    assert found["standing"] == row[0] > 0
    assert 0 <= found["stale"] <= found["standing"]


def stand(conn: psycopg.Connection, rule: str, kind: str, age: timedelta) -> str:
    """An alert on all of c01 that stands for so long."""
    row = conn.execute(
        """
        WITH raised AS (
            INSERT INTO alert (id, rule, severity, kind, gateway, community, area, active, standing,
                               raised_at, last_raised_at, received_at, changed_at)
            SELECT gen_random_uuid(), %(rule)s, 'minor', %(kind)s, 'c01', 'c01', 'c01', true, 1,
                   %(at)s, %(at)s, %(at)s, %(at)s
            RETURNING *
        )
        INSERT INTO alert_occurrence (alert, rule, gateway, active, raised_at, received_at)
        SELECT id, rule, gateway, true, raised_at, received_at FROM raised
        RETURNING alert
        """,
        {"rule": rule, "kind": kind, "at": NOW - age},
    ).fetchone()
    assert row is not None
    return str(row[0])


async def test_what_is_meant_to_last_a_week_is_not_stale_but_counted_by_itself(
    own_city: Api,
) -> None:
    client, between = own_city.client("li"), {"to": NOW.isoformat()}
    path = QUALITY.format("c01")
    before = (await client.get(path, params=between)).json()
    assert before["lasting"] == 0
    with psycopg.connect(own_city.dsn) as conn:
        week, weeks = timedelta(days=7), timedelta(days=20)
        ages = (week, weeks, timedelta(hours=1), week)
        lasting = {
            stand(conn, one.rule.id, COMMUNITY, age)
            for one, age in zip(INDICATOR_RULES, ages, strict=True)
        }
        flood = stand(conn, "alerts.flood", COMMUNITY, timedelta(days=2))
    after = (await client.get(path, params=between)).json()
    assert (after["lasting"], after["stale"]) == (4, before["stale"] + 1)
    assert after["standing"] == before["standing"] + 5
    # Before they were raised there were fewer.
    then = {"to": (NOW - timedelta(days=10)).isoformat()}
    assert (await client.get(path, params=then)).json()["lasting"] == 1
    # The desk says the same of each.
    listed = (await client.get("/api/v1/alerts", params={"status": "stale"})).json()["items"]
    assert flood in {one["id"] for one in listed}
    assert not lasting & {one["id"] for one in listed}
    active = (await client.get("/api/v1/alerts", params={"status": "active"})).json()["items"]
    assert {one["id"]: one["stale"] for one in active if one["id"] in {*lasting, flood}} == {
        **dict.fromkeys(lasting, False),
        flood: True,
    }


@pytest.mark.parametrize(
    ("days", "pointer", "code"),
    [(32, "/query/from", "range.too_long"), (-1, "/query/to", "range.reversed")],
)
async def test_a_time_that_makes_no_sense_is_refused(
    city: Api, days: int, pointer: str, code: str
) -> None:
    between = {"from": MONTH_AGO.isoformat(), "to": (MONTH_AGO + timedelta(days=days)).isoformat()}
    answer = await city.client("li").get(QUALITY.format("c01"), params=between)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)
