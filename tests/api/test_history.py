# SPDX-License-Identifier: Apache-2.0
"""A device's history in short: against a slow sum of raw readings, in days of its community."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from ingest.indicators.spans import day_span, from_us
from ingest.store import device_days
from tests.api.conftest import NOW, Api

SUMMARY = "/api/v1/devices/c01-lamp-002/history/summary"
ZONE = ZoneInfo("Asia/Shanghai")
DAY = timedelta(days=1)
# The last of them are young: no row is made of them yet.
UNMADE = 2


def fill(dsn: str, days: int) -> list[tuple[datetime, float, bool, str | None]]:
    """Give a lamp a reading every seven hours, and make days of them but for the last two."""
    rows = [
        (
            NOW - timedelta(hours=7 * step, minutes=step % 13),
            float(step % 101),
            step % 3 == 0,
            "lamp" if step % 17 == 0 else None,
        )
        for step in range(days * 24 // 7)
    ]
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "DELETE FROM reading_lamp WHERE device_id = (SELECT id FROM device"
            " WHERE device = 'c01-lamp-002')"
        )
        with conn.cursor() as cursor:
            cursor.executemany(
                """
                INSERT INTO reading_lamp (at, received_at, device_id, power_w, lit, fault)
                SELECT %s, %s, id, %s, %s, %s FROM device WHERE device = 'c01-lamp-002'
                """,
                [(at, NOW, power_w, lit, fault) for at, power_w, lit, fault in rows],
            )
        last = NOW.astimezone(ZONE).date() - UNMADE * DAY
        for back in range(days + 1):
            day = last - back * DAY
            start, end = map(from_us, day_span(day, "Asia/Shanghai"))
            due = device_days.Due(day, "c01", "Asia/Shanghai", NOW)
            device_days.make(conn, due, start, end)
    return rows


def slowly(
    rows: Sequence[tuple[datetime, float, bool, str | None]],
    start_of: Callable[[datetime], datetime],
) -> list[dict[str, Any]]:
    """The same points, made of raw rows one by one."""
    groups: defaultdict[datetime, list[tuple[float, bool, str | None]]] = defaultdict(list)
    for at, power_w, lit, fault in rows:
        groups[start_of(at)].append((power_w, lit, fault))

    def extent(values: list[float]) -> dict[str, object]:
        mean = pytest.approx(sum(values) / len(values), rel=1e-6)
        return {"min": min(values), "mean": mean, "max": max(values)}

    return [
        {
            "at": at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "readings": len(group),
            "faults": sum(fault is not None for *_, fault in group),
            "values": {
                "lit": extent([float(lit) for _, lit, _ in group]),
                "power_w": extent([power_w for power_w, *_ in group]),
            },
        }
        for at, group in sorted(groups.items())
    ]


def local_midnight(at: datetime) -> datetime:
    local = at.astimezone(ZONE)
    return local.replace(hour=0, minute=0, second=0, microsecond=0)


async def ask(api: Api, query: str = "", who: str = "wang") -> dict[str, Any]:
    answer = await api.client(who).get(f"{SUMMARY}{query}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_year_by_day_is_what_raw_readings_say(own_city: Api) -> None:
    rows = fill(own_city.dsn, 360)
    found = await ask(own_city)
    assert (found["device"], found["kind"], found["width"]) == ("c01-lamp-002", "lamp", "day")
    assert found["items"] == slowly(rows, local_midnight)
    assert len(found["items"]) in (360, 361)


async def test_days_stay_when_their_readings_are_dropped(own_city: Api) -> None:
    fill(own_city.dsn, 60)
    before = (await ask(own_city))["items"]
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("DELETE FROM reading_lamp WHERE at < %s", (NOW - 10 * DAY,))
    assert (await ask(own_city))["items"] == before
    assert len(before) > 55


@pytest.mark.parametrize(("width", "step"), [("hour", 3_600), ("5min", 300)])
async def test_finer_points_are_what_raw_readings_say(own_city: Api, width: str, step: int) -> None:
    rows = fill(own_city.dsn, 5)
    start, end = NOW - 2 * DAY, NOW - timedelta(hours=5)

    def floor(at: datetime) -> datetime:
        return datetime.fromtimestamp(at.timestamp() // step * step, UTC)

    found = await ask(
        own_city, f"?width={width}&from={start:%Y-%m-%dT%H:%M:%SZ}&to={end:%Y-%m-%dT%H:%M:%SZ}"
    )
    assert found["items"] == slowly([row for row in rows if start <= row[0] < end], floor)
    assert len(found["items"]) == 6


async def test_days_that_the_range_touches_are_whole(own_city: Api) -> None:
    rows = fill(own_city.dsn, 30)
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("DELETE FROM reading_lamp WHERE at < %s", (NOW - 10 * DAY,))
    first = NOW.astimezone(ZONE).date() - 20 * DAY
    start = datetime(first.year, first.month, first.day, 23, tzinfo=ZONE)
    end = start + timedelta(hours=2)
    found = await ask(
        own_city,
        f"?from={start.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
        f"&to={end.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    )
    both = {first, first + DAY}
    wanted = slowly([row for row in rows if row[0].astimezone(ZONE).date() in both], local_midnight)
    assert found["items"] == wanted
    assert len(wanted) == len(both)


@pytest.mark.parametrize(
    ("query", "code", "bounds"),
    [
        ("?width=5min&from=2026-11-01T00:00:00Z&to=2026-11-05T00:00:00Z", "range.too_long", 3),
        ("?width=hour&from=2026-10-01T00:00:00Z&to=2026-11-05T00:00:00Z", "range.too_long", 31),
        ("?from=2025-10-01T00:00:00Z&to=2026-11-05T00:00:00Z", "range.too_long", 366),
        ("?from=2026-11-05T00:00:00Z&to=2026-11-05T00:00:00Z", "range.reversed", None),
        ("?width=week", "field.enum", None),
    ],
)
async def test_number_of_points_is_bounded(
    city: Api, query: str, code: str, bounds: int | None
) -> None:
    answer = await city.client("wang").get(f"{SUMMARY}{query}")
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["code"] == code
    assert bounds is None or str(bounds) in error["message"]


async def test_classes_without_numbers_tell_how_often_they_reported(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute(
            """
            INSERT INTO reading_gate (at, received_at, device_id, door, fault)
            SELECT %s, %s, id, 'closed', 'lock' FROM device WHERE device = 'c01-gate-001'
            """,
            (NOW, NOW),
        )
    path = "/api/v1/devices/c01-gate-001/history/summary"
    found = (await own_city.client("wang").get(path)).json()
    (point,) = [one for one in found["items"] if one["faults"]]
    assert point["values"] == {}
    assert point["readings"] >= 1
    assert date.fromisoformat(point["at"][:10]) == date(2026, 11, 20)
    path = "/api/v1/devices/c01-alarm-001/history/summary"
    assert (await own_city.client("wang").get(path)).json()["items"] == []


@pytest.mark.parametrize("device", ["nothing", "c02-lamp-001", "A", "%00"])
async def test_missing_and_foreign_devices_are_not_found(city: Api, device: str) -> None:
    answer = await city.client("wang").get(f"/api/v1/devices/{device}/history/summary")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
