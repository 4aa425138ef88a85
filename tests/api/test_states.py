# SPDX-License-Identifier: Apache-2.0
"""The states of an area in one answer: the same as the list of devices tells, page by page."""

from __future__ import annotations

from datetime import datetime

import psycopg
import pytest

from api import states
from tests.api.conftest import Api


async def _states(api: Api, area: str, who: str = "root") -> list[tuple[str, str, str, str | None]]:
    answer = await api.client(who).get(f"/api/v1/areas/{area}/states")
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert document["area"] == area
    return sorted(map(tuple, document["rows"]))


async def _listed(api: Api, area: str) -> list[tuple[str, str, str, datetime | None]]:
    answer = await api.client("root").get(f"/api/v1/devices?area={area}&limit=1000")
    return [
        (one["device"], one["kind"], one["state"], _instant(one["at"]))
        for one in answer.json()["items"]
    ]


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


@pytest.mark.parametrize("area", ["city", "c01", "c02", "c01-g01", "c02-g01"])
async def test_states_are_those_of_the_list_of_devices(city: Api, area: str) -> None:
    found = [(*row[:3], _instant(row[3])) for row in await _states(city, area)]
    assert found == await _listed(city, area)
    assert found


async def test_every_state_is_told(city: Api) -> None:
    assert {row[2] for row in await _states(city, "city")} == {
        "normal", "fault", "offline", "unknown", "maintenance",
    }  # fmt: skip


async def test_device_that_moves_takes_its_state_along(own_city: Api) -> None:
    before = {row[0]: row for row in await _states(own_city, "c01")}
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute(
            "UPDATE device SET community = 'c02', area = 'c02', gateway = 'gw-c02-a'"
            " WHERE device = 'c01-lamp-001'"
        )
    moved = {row[0]: row for row in await _states(own_city, "c02")}
    assert moved["c01-lamp-001"] == before["c01-lamp-001"]
    assert before["c01-lamp-001"][3] is not None
    assert "c01-lamp-001" not in {row[0] for row in await _states(own_city, "c01")}


async def test_area_with_too_many_devices_is_refused(
    city: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "DEVICES_MAX", 5)
    answer = await city.client("root").get("/api/v1/areas/c01/states")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["code"], error["pointer"]) == ("area.too_large", "/path/area")
