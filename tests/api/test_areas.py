# SPDX-License-Identifier: Apache-2.0
"""Areas, the overview, and the lighting indicator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.multirange import TimestamptzMultirange
from psycopg.types.range import TimestamptzRange

from tests.api.conftest import NIGHT_FROM, NIGHT_TO, NOON, Api

UPTIME = "/api/v1/areas/{}/indicators/lighting-uptime"


async def test_areas_are_listed_from_ones_own_down(city: Api) -> None:
    for who, areas in (
        ("root", ["city", "c01", "c01-g01", "c01-g02", "c02", "c02-g01"]),
        ("wang", ["c01", "c01-g01", "c01-g02"]),
    ):
        items = (await city.client(who).get("/api/v1/areas")).json()["items"]
        assert [area["area"] for area in items] == areas
        assert items[0]["parent"] is None
    paged = (await city.client("root").get("/api/v1/areas?limit=4")).json()
    rest = await city.client("root").get(f"/api/v1/areas?limit=4&cursor={paged['next_cursor']}")
    assert [area["area"] for area in rest.json()["items"]] == ["c02", "c02-g01"]
    assert rest.json()["next_cursor"] is None


async def test_overview_counts_what_there_is(city: Api) -> None:
    overview = (await city.client("root").get("/api/v1/areas/c01/overview")).json()
    kinds = {kind.pop("kind"): kind for kind in overview["kinds"]}
    none = {"normal": 0, "fault": 0, "offline": 0, "unknown": 0, "maintenance": 0}
    assert kinds == {
        "lamp": {**none, "total": 3, "normal": 1, "fault": 1, "maintenance": 1},
        "bin": {**none, "total": 1, "offline": 1},
        "gate": {**none, "total": 1, "normal": 1},
        "alarm": {**none, "total": 1, "unknown": 1},
    }
    assert overview["alerts"] == {
        "unacknowledged": 3,
        "active": 3,
        "by_severity": {"critical": 1, "major": 3, "minor": 0, "info": 0},
        "oldest_at": "2026-11-21T01:00:00.000Z",
        "quiet": 0,
    }
    assert [(item["gateway"], item["silent"]) for item in overview["gateways"]] == [
        ("gw-c01-b", True),
        ("gw-c01-a", False),
    ]
    assert overview["at"] == "2026-11-21T02:00:00.000Z"


async def test_gateways_that_are_not_there_are_not_shown(own_city: Api) -> None:
    async def shown() -> list[tuple[str, str]]:
        overview = (await own_city.client("wang").get("/api/v1/areas/c01/overview")).json()
        return [(one["gateway"], one["life"]) for one in overview["gateways"]]

    both = [("gw-c01-b", "in_service"), ("gw-c01-a", "in_service")]
    assert await shown() == both
    with psycopg.connect(own_city.dsn, autocommit=True) as conn:
        for life, expected in (
            ("retired", both[1:]),
            ("planned", both[1:]),
            ("maintenance", [("gw-c01-b", "maintenance"), both[1]]),
        ):
            conn.execute("UPDATE gateway SET life = %s WHERE gateway = 'gw-c01-b'", (life,))
            assert await shown() == expected


async def test_children_add_up_to_their_parent(city: Api) -> None:
    client = city.client("root")
    for area in ("city", "c01"):
        overview = (await client.get(f"/api/v1/areas/{area}/overview")).json()
        children = overview["children"]
        for state in ("fault", "offline"):
            whole = sum(kind[state] for kind in overview["kinds"])
            assert sum(child[state] for child in children) == whole
        assert sum(child["devices"] for child in children) == sum(
            kind["total"] for kind in overview["kinds"]
        )
        critical = overview["alerts"]["by_severity"]["critical"]
        assert sum(child["critical"] for child in children) == critical


async def test_lighting_of_last_night_by_hand(city: Api) -> None:
    # Lamps of c01: lit 13 h, 6.5 h, 6.5 h; dark 0, 6.5 h, 0; of 13 h each.
    lighting = (await city.client("root").get("/api/v1/areas/c01/overview")).json()["lighting"]
    assert lighting["night"] == "2026-11-20"
    assert not lighting["in_progress"]
    assert lighting["next"]["due_from"].startswith("2026-11-21T08:54")
    indicator = lighting["indicator"]
    assert indicator["numerator"] == 26 * 3600
    assert indicator["denominator"] == 32.5 * 3600
    assert indicator["total"] == 39 * 3600
    assert indicator["value"] == pytest.approx(26 / 32.5, abs=1e-12)
    assert indicator["lower"] == pytest.approx(26 / 39, abs=1e-12)
    assert indicator["upper"] == pytest.approx(32.5 / 39, abs=1e-12)
    assert indicator["coverage"] == pytest.approx(32.5 / 39, abs=1e-12)
    assert (indicator["verdict"], indicator["subjects"]) == ("not_met", 3)


async def test_lighting_of_children_is_theirs(city: Api) -> None:
    overview = (await city.client("root").get("/api/v1/areas/city/overview")).json()
    uptimes = {child["area"]: child["uptime"] for child in overview["children"]}
    assert uptimes["c02"] == {"value": 1.0, "lower": 1.0, "upper": 1.0, "verdict": "met"}
    assert uptimes["c01"]["verdict"] == "not_met"
    cells = (await city.client("root").get("/api/v1/areas/c01/overview")).json()["children"]
    assert [cell["uptime"]["value"] for cell in cells] == [1.0, pytest.approx(13 / 19.5)]


@pytest.mark.parametrize(
    ("by", "labels"),
    [
        ("night", ["2026-11-20"]),
        ("day", ["2026-11-20"]),
        ("month", ["2026-11"]),
        ("total", ["2026-11-01/2026-12-01"]),
    ],
)
async def test_indicator_by_period(city: Api, by: str, labels: list[str]) -> None:
    path = UPTIME.format("city")
    answer = await city.client("root").get(f"{path}?from=2026-11-01&to=2026-12-01&by={by}")
    series = answer.json()
    definition = series["definition"]
    assert (definition["indicator"], definition["unit"]) == ("lighting-uptime", "fraction")
    assert (definition["target"]["value"], definition["target"]["source"]) == (0.97, "R0")
    assert set(definition["formula"]) == {"zh-CN", "en"}
    assert [item["label"] for item in series["items"]] == labels
    assert series["items"][0]["numerator"] == 39 * 3600


async def test_month_is_cut_to_what_was_asked(city: Api) -> None:
    path = UPTIME.format("city")
    answer = await city.client("root").get(f"{path}?from=2026-11-10&to=2026-12-10&by=month")
    (month,) = answer.json()["items"]
    assert (month["from"], month["to"]) == ("2026-11-10", "2026-12-01")


async def test_area_without_lamps_has_no_lighting(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("UPDATE device SET life = 'retired' WHERE kind = 'lamp'")
    overview = (await own_city.client("root").get("/api/v1/areas/c02/overview")).json()
    assert overview["lighting"] is None


async def test_unknown_indicator_is_not_found(city: Api) -> None:
    answer = await city.client("root").get("/api/v1/areas/city/indicators/happiness")
    assert answer.status_code == 404


async def test_night_in_progress_counts_what_has_come(own_city: Api) -> None:
    """At 20:00 local, three hours into the night; the lamp was last heard 20 minutes ago."""
    own_city.watch.now = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    _set_night(own_city, lit_h=2, dark_h=0.5, lit=True, heard=timedelta(minutes=20))
    value = await _uptime(own_city)
    # 2 h settled, 20 min held by the latest reading, 10 min never known.
    assert value["numerator"] == 2 * 3600 + 20 * 60
    assert value["denominator"] == 2.5 * 3600 + 20 * 60
    assert value["total"] == 3 * 3600
    assert value["status"] == "provisional"
    overview = (await own_city.client("root").get("/api/v1/areas/c02/overview")).json()
    assert overview["lighting"]["in_progress"]
    assert overview["lighting"]["indicator"] == value


async def test_reading_holds_three_periods_and_then_nothing_is_known(own_city: Api) -> None:
    own_city.watch.now = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    _set_night(own_city, lit_h=1, dark_h=0, lit=False, heard=timedelta(hours=2))
    value = await _uptime(own_city)
    assert value["numerator"] == 3600
    assert value["denominator"] == 3600 + 30 * 60
    assert value["total"] == 3 * 3600


async def test_reading_holds_no_longer_than_lamps_are_due(own_city: Api) -> None:
    own_city.watch.now = NIGHT_TO + timedelta(minutes=25)
    _set_night(own_city, lit_h=12, dark_h=0, lit=True, heard=timedelta(minutes=30))
    value = await _uptime(own_city)
    # Heard five minutes before the end of the night.
    assert value["numerator"] == 12 * 3600 + 5 * 60
    assert value["total"] == 13 * 3600


async def test_gateway_clock_ahead_never_makes_more_known_than_due(own_city: Api) -> None:
    own_city.watch.now = NIGHT_FROM + timedelta(hours=1)
    _set_night(own_city, lit_h=61 / 60, dark_h=0, lit=True, heard=timedelta(minutes=-1))
    value = await _uptime(own_city)
    assert value["coverage"] == 1.0
    assert value["total"] == 61 * 60


async def test_night_to_come_is_not_due_yet(own_city: Api) -> None:
    own_city.watch.now = NIGHT_FROM - timedelta(hours=1)
    _set_night(own_city, lit_h=0, dark_h=0, lit=False, heard=timedelta(minutes=1))
    answer = await own_city.client("root").get(UPTIME.format("c02"))
    assert answer.json()["items"] == []


def _set_night(api: Api, *, lit_h: float, dark_h: float, lit: bool, heard: timedelta) -> None:
    """Say what is settled of the night of c02's lamp, and what its latest reading says."""
    hour = 3_600_000_000
    with psycopg.connect(api.dsn) as conn:
        conn.execute(
            """
            UPDATE lamp_night SET lit_us = %s, dark_us = %s, due = %s, due_to = %s
            WHERE community = 'c02'
            """,
            (
                round(lit_h * hour),
                round(dark_h * hour),
                TimestamptzMultirange([TimestamptzRange(NIGHT_FROM, NIGHT_TO)]),
                NOON,
            ),
        )
        conn.execute(
            """
            UPDATE device_state SET lit = %s, lit_at = %s
            WHERE device_id = (SELECT id FROM device WHERE device = 'c02-lamp-001')
            """,
            (lit, api.watch.now - heard),
        )


async def _uptime(api: Api) -> dict[str, Any]:
    answer = await api.client("root").get(UPTIME.format("c02"))
    (item,) = answer.json()["items"]
    return item
