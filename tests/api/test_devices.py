# SPDX-License-Identifier: Apache-2.0
"""Devices: pages, filters, states, history."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx2
import psycopg
import pytest

from tests.api.conftest import NOW, Api

DEVICES = "/api/v1/devices"


async def _pages(client: httpx2.AsyncClient, path: str) -> list[list[dict[str, Any]]]:
    """All pages of a list, in order."""
    pages: list[list[dict[str, Any]]] = []
    cursor: str | None = None
    while True:
        separator = "&" if "?" in path else "?"
        url = path if cursor is None else f"{path}{separator}cursor={cursor}"
        answer = await client.get(url)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json()["items"])
        cursor = answer.json()["next_cursor"]
        if cursor is None:
            return pages


async def test_pages_hold_every_device_once(city: Api) -> None:
    client = city.client("root")
    whole = (await client.get(DEVICES)).json()
    assert whole["next_cursor"] is None
    first = await client.get(f"{DEVICES}?limit=4&kind=lamp")
    following = first.headers["link"].removeprefix("<").removesuffix('>; rel="next"')
    rest = (await client.get(following)).json()["items"]
    assert len(first.json()["items"] + rest) == 6
    pages = await _pages(client, f"{DEVICES}?limit=4")
    assert [len(page) for page in pages] == [4, 4, 3]
    assert [item for page in pages for item in page] == whole["items"]


async def test_page_that_fits_exactly_is_the_last(city: Api) -> None:
    pages = await _pages(city.client("root"), f"{DEVICES}?limit=11")
    assert len(pages) == 1


@pytest.mark.parametrize(
    ("query", "devices"),
    [
        pytest.param("kind=lamp", ["lamp-001", "lamp-002", "lamp-003"], id="kind"),
        pytest.param("state=offline", ["bin-001"], id="behind-a-silent-gateway"),
        pytest.param("state=fault", ["lamp-002"], id="fault"),
        pytest.param("state=unknown", ["alarm-001"], id="never-seen"),
        pytest.param("state=maintenance", ["lamp-003"], id="maintenance"),
        pytest.param("state=normal&kind=lamp", ["lamp-001"], id="normal"),
        pytest.param("life=planned", ["lamp-004"], id="planned"),
        pytest.param("gateway=gw-c01-b", ["bin-001"], id="gateway"),
        pytest.param("area=c01-g02", ["lamp-002", "lamp-003"], id="cell"),
        pytest.param("q=LAMP+号+002", ["lamp-002"], id="text-in-name-whatever-its-case"),
        pytest.param("q=Gate", ["gate-001"], id="text-in-english-name"),
        pytest.param("q=%25", [], id="percent-is-a-text"),
        pytest.param("q=' OR 1=1--", [], id="sql-is-a-text"),
        pytest.param("kind=nothing", [], id="unknown-kind"),
    ],
)
async def test_filters(city: Api, query: str, devices: list[str]) -> None:
    items = (await city.client("wang").get(f"{DEVICES}?{query}")).json()["items"]
    assert [item["device"] for item in items] == [f"c01-{device}" for device in devices]


async def test_device_shows_registry_and_latest_reading(city: Api) -> None:
    device = (await city.client("wang").get(f"{DEVICES}/c01-lamp-001")).json()
    assert device == {
        "device": "c01-lamp-001",
        "kind": "lamp",
        "gateway": "gw-c01-a",
        "area": "c01-g01",
        "community": "c01",
        "name": "lamp 号 001",
        "name_en": "Lamp 001",
        "life": "in_service",
        "road": "东路",
        "state": "normal",
        "since": "2026-11-21T01:00:00.000Z",
        "at": "2026-11-21T01:59:00.000Z",
        "received_at": "2026-11-21T01:59:01.000Z",
        "fault": None,
        "values": {"lit": False, "power_w": 0.4},
        "in_service_from": "2026-08-13T02:00:00.000Z",
        "reporting_period_s": 600.0,
        "rated_power_w": 42.0,
        "programme": "sun",
        "component_code": "0312-000123",
        "owner": "街道办",
        "maker": "ACME",
        "model": "L60",
        "planned_on": "2024-11-01",
        "installed_on": "2025-02-03",
        "warranty_until": None,
    }
    unseen = (await city.client("wang").get(f"{DEVICES}/c01-alarm-001")).json()
    assert (unseen["state"], unseen["at"], unseen["values"]) == ("unknown", None, {})
    assert unseen["programme"] is None


@pytest.mark.parametrize("device", ["nothing", "..", "C01-LAMP-001", "a" * 65, "%00", "a%2Fb", "'"])
async def test_missing_device_is_not_found(city: Api, device: str) -> None:
    for path in (f"{DEVICES}/{device}", f"{DEVICES}/{device}/history"):
        answer = await city.client("wang").get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_history_is_newest_first_in_pages(city: Api) -> None:
    client = city.client("wang")
    pages = await _pages(client, f"{DEVICES}/c01-lamp-001/history?limit=10")
    assert [len(page) for page in pages] == [10, 10, 5]
    times = [row["at"] for page in pages for row in page]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == 25
    first = pages[0][0]
    assert (first["lit"], first["power_w"], first["fault"]) == (False, 41.3, None)
    assert first["received_at"] > first["at"]


async def test_history_range_includes_its_start_and_not_its_end(city: Api) -> None:
    client = city.client("wang")
    newest = "2026-11-21T01:59:00Z"
    oldest = "2026-11-21T01:39:00%2B00:00"
    answer = await client.get(f"{DEVICES}/c01-lamp-001/history?from={oldest}&to={newest}")
    assert [row["at"][11:16] for row in answer.json()["items"]] == ["01:49", "01:39"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_history_pages_through_readings_of_one_instant(own_city: Api, limit: int) -> None:
    instant = NOW - timedelta(days=2)
    with psycopg.connect(own_city.dsn) as conn:
        for index in range(7):
            conn.execute(
                """
                INSERT INTO reading_lamp (at, received_at, device_id, power_w)
                SELECT %s, %s, id, %s FROM device WHERE device = 'c01-lamp-002'
                """,
                (instant + timedelta(seconds=index // 6), NOW, index),
            )
    pages = await _pages(own_city.client("wang"), f"{DEVICES}/c01-lamp-002/history?limit={limit}")
    powers = [row["power_w"] for page in pages for row in page]
    assert sorted(powers) == [0, 1, 2, 3, 4, 5, 6]
    assert powers[0] == 6


async def test_history_of_other_classes_shows_their_fields(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        for table, device in (("reading_bin", "bin"), ("reading_gate", "gate")):
            conn.execute(
                f"""
                INSERT INTO {table} (at, received_at, device_id)
                SELECT %s, %s, id FROM device WHERE device = %s
                """.encode(),
                (NOW, NOW, f"c01-{device}-001"),
            )
    client = own_city.client("wang")
    for device, names in (
        ("bin", {"fill_pct", "weight_kg", "temperature_c", "lid_open", "tilt", "stream"}),
        ("gate", {"door", "lock"}),
    ):
        rows = (await client.get(f"{DEVICES}/c01-{device}-001/history")).json()["items"]
        assert set(rows[0]) == names | {"at", "received_at", "fault"}
