# SPDX-License-Identifier: Apache-2.0
"""Areas whose numbers a city tells: whose they are, how fresh, and what is not to be had."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from ingest.indicators.catalogue import SINGLE
from ingest.store import cities
from tests.api.conftest import NOW, Api


@pytest.fixture
def told(own_city: Api) -> Api:
    """The city with another one below it, which tells and keeps its devices."""
    with psycopg.connect(own_city.dsn) as conn:
        cities.admit(conn, "far-city", "far", "远城", "city")
        conn.execute(
            "UPDATE city SET last_seen_at = %s, told_at = %s, waiting = 3",
            (NOW - timedelta(minutes=1), NOW - timedelta(hours=9)),
        )
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES ('far-c1', 'far', 'city.far.far_c1', 'community', '')
            """
        )
    return own_city


async def test_overview_says_whose_numbers_these_are_and_how_fresh(told: Api) -> None:
    client = told.client("root")
    for area in ("city", "far", "far-c1"):
        overview = (await client.get(f"/api/v1/areas/{area}/overview")).json()
        assert overview["cities"] == [
            {
                "city": "far-city",
                "area": "far",
                "name": "远城",
                "name_en": None,
                "last_seen_at": "2026-11-21T01:59:00.000Z",
                "told_at": "2026-11-20T17:00:00.000Z",
                "waiting": 3,
                "stale": False,
            }
        ]
        assert (overview["kinds"][0]["total"] > 0) == (area == "city")
    with psycopg.connect(told.dsn) as conn:
        conn.execute("UPDATE city SET last_seen_at = %s", (NOW - timedelta(hours=7),))
    overview = (await client.get("/api/v1/areas/far-c1/overview")).json()
    assert [one["stale"] for one in overview["cities"]] == [True]
    assert (await client.get("/api/v1/areas/c01/overview")).json()["cities"] == []


async def test_what_a_city_keeps_is_absent_with_the_reason(told: Api) -> None:
    client = told.client("root")
    for area, absent in (("city", SINGLE), ("far-c1", SINGLE), ("c01", frozenset[str]())):
        table = (await client.get(f"/api/v1/areas/{area}/indicators")).json()
        reasons = {one["definition"]["indicator"]: one["absent"] for one in table["items"]}
        assert {name for name, reason in reasons.items() if reason == "single_times"} == absent
        for one in table["items"]:
            assert one["absent"] is None or one["items"] == []
    series = (await client.get("/api/v1/areas/far/indicators/repair-time?by=day")).json()
    assert (series["absent"], series["items"]) == ("single_times", [])
