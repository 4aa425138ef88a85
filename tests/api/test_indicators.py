# SPDX-License-Identifier: Apache-2.0
"""Every indicator of any area and time: sums, bounds, verdicts, revisions, reports."""

from __future__ import annotations

import csv
import io
import uuid
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ingest.indicators import security
from ingest.indicators.catalogue import INDICATORS
from ingest.store import chunks, connect, faults
from tests.api.conftest import NOW, Api, insert_alert

AREAS = "/api/v1/areas"
HOUR_US = 3600 * 10**6
NOVEMBER = "from=2026-11-01&to=2026-12-01"


def store(
    api: Api,
    indicator: str,
    area: str,
    day: int,
    good: int,
    bad: int,
    total: int,
    *,
    kind: str = "",
    excluded: Mapping[str, int] | None = None,
    subjects: int = 1,
    revision: int = 1,
) -> None:
    with psycopg.connect(api.dsn) as conn:
        conn.execute(
            """
            INSERT INTO area_day (indicator, day, area, kind, good, bad, total, subjects, excluded,
                revision, status, rule_version, computed_at)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'final', 1, %s)
            """,
            (
                indicator, date(2026, 11, day), area, kind, good, bad, total, subjects,
                Jsonb(dict(excluded or {})), revision, NOW,
            ),
        )  # fmt: skip


async def ask(api: Api, who: str, path: str) -> Any:
    response = await api.client(who).get(f"{AREAS}/{path}")
    assert response.status_code == 200, response.text
    return response.json()


async def test_catalogue_explains_every_indicator(city: Api) -> None:
    items = (await city.client("zhao").get("/api/v1/indicators")).json()["items"]
    assert [one["indicator"] for one in items] == list(INDICATORS)
    rate = next(one for one in items if one["indicator"] == "incident-rate")
    assert (rate["unit"], rate["target"]["better"]) == ("per_mille_year", "low")
    assert "2,514" in rate["target"]["source_name"]["en"]


async def test_share_adds_up_over_days_and_areas(own_city: Api) -> None:
    for day, area, good, bad, total in (
        (3, "c01-g01", 60, 20, 100),
        (4, "c01-g01", 80, 0, 80),
        (4, "c01-g02", 10, 10, 20),
        (4, "c02-g01", 500, 0, 500),
    ):
        store(own_city, "refuse-sorted", area, day, 1000 * good, 1000 * bad, 1000 * total)
    path = f"indicators/refuse-sorted?{NOVEMBER}&by="
    (total,) = (await ask(own_city, "root", f"c01/{path}total"))["items"]
    assert total["label"] == "2026-11-01/2026-12-01"
    assert (total["numerator"], total["denominator"], total["total"]) == (150, 180, 200)
    assert total["value"] == pytest.approx(150 / 180)
    assert (total["lower"], total["upper"]) == (0.75, 0.85)
    assert (total["verdict"], total["target"]) == ("met", 0.6)
    days = (await ask(own_city, "root", f"c01/{path}day"))["items"]
    assert [(one["label"], one["total"]) for one in days] == [
        ("2026-11-03", 100),
        ("2026-11-04", 100),
    ]
    children = (await ask(own_city, "root", f"city/{path}child"))["items"]
    assert [(one["label"], one["total"]) for one in children] == [("c01", 200), ("c02", 500)]
    # A scope cuts: the same question by somebody of c02 shows nothing of c01.
    assert (await own_city.client("zhao").get(f"{AREAS}/c01/{path}total")).status_code == 404


async def test_equipment_is_told_by_class_and_with_what_was_left_out(own_city: Api) -> None:
    hours = {"maintenance": 2 * HOUR_US}
    store(own_city, "equipment-good", "c01-g01", 5, HOUR_US, 0, HOUR_US, excluded=hours)
    store(own_city, "equipment-good", "c01-g01", 5, HOUR_US, 0, HOUR_US, kind="lamp")
    table = await ask(own_city, "wang", f"c01/indicators?{NOVEMBER}")
    assert [one["definition"]["indicator"] for one in table["items"]] == list(INDICATORS)
    series = next(
        one for one in table["items"] if one["definition"]["indicator"] == "equipment-good"
    )
    together, lamps = series["items"]
    assert (together["kind"], lamps["kind"]) == ("", "lamp")
    assert (together["total"], together["excluded"]) == (3600, {"maintenance": 7200})
    path = f"c01/indicators/equipment-good?{NOVEMBER}&by=total&kind=lamp"
    assert [one["kind"] for one in (await ask(own_city, "wang", path))["items"]] == ["lamp"]


async def test_no_incident_is_a_number_too(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("DELETE FROM area_population")
        conn.execute(
            """
            INSERT INTO area_population (area, valid, residents, households)
            VALUES ('c01', '[2025-01-01,)', 2000, 800)
            """
        )
    path = "c01/indicators/incident-rate?from=2025-01-01&to=2026-01-01&by=total"
    (rate,) = (await ask(own_city, "wang", path))["items"]
    assert (rate["value"], rate["lower"], rate["numerator"]) == (0, 0, 0)
    # Garwood's upper bound of nothing is 3.689 cases; of 2,000 people in a year.
    assert rate["upper"] == pytest.approx(3.688879 / 2 * 365.25 / 365, abs=1e-5)
    assert rate["verdict"] == "undetermined"
    (unknown,) = (await ask(own_city, "zhao", path.replace("c01", "c02")))["items"]
    assert (unknown["value"], unknown["coverage"]) == (None, 0)


async def test_property_learns_nothing_of_what_duress_would_tell(own_city: Api) -> None:
    store(own_city, "false-alarms", "c01-g01", 5, 1, 0, 2)
    store(own_city, "incident-rate", "c01-g01", 5, 1, 0, 3, subjects=3)
    for who, alarms, subjects in (("li", 1, 3), ("wang", 0, 1)):
        table = await ask(own_city, who, f"c01/indicators?{NOVEMBER}")
        items = {one["definition"]["indicator"]: one["items"] for one in table["items"]}
        assert len(items["false-alarms"]) == alarms
        assert items["incident-rate"][0]["subjects"] == subjects


async def test_revisions_are_shown(own_city: Api) -> None:
    store(own_city, "lighting-uptime", "c01-g01", 5, HOUR_US, 0, HOUR_US, revision=2)
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute(
            """
            INSERT INTO area_day_revision
            SELECT indicator, day, area, kind, 1, good / 2, bad, total, subjects, excluded,
                   rule_version, computed_at, computed_at + interval '1 day', 'late'
            FROM area_day WHERE revision = 2
            """
        )
    found = await ask(own_city, "wang", f"c01/indicators/lighting-uptime/revisions?{NOVEMBER}")
    (revision,) = found["items"]
    assert (revision["day"], revision["revision"], revision["reason"]) == ("2026-11-05", 1, "late")
    assert (found["parts_unit"], revision["numerator"], revision["total"]) == ("s", 1800, 3600)


@pytest.mark.parametrize("language", ["zh-CN", "en"])
async def test_report_can_be_downloaded(own_city: Api, language: str) -> None:
    store(own_city, "refuse-sorted", "c01-g01", 3, 60_000, 20_000, 100_000)
    client = own_city.client("wang")
    for suffix, begin in ((".xlsx", b"PK"), (".pdf", b"%PDF"), (".csv", b"\xef\xbb\xbf")):
        response = await client.get(f"{AREAS}/c01/reports/2026-11{suffix}?language={language}")
        assert response.status_code == 200, response.text
        assert response.content.startswith(begin)
        assert response.headers["content-disposition"].endswith(f'"linli-c01-2026-11{suffix}"')
        assert len(response.content) == int(response.headers["content-length"])
        if suffix == ".xlsx":
            assert zipfile.ZipFile(io.BytesIO(response.content)).testzip() is None
        if suffix == ".csv":
            rows = list(csv.reader(io.StringIO(response.text.lstrip("\ufeff"))))
            assert any("refuse-sorted" in row for row in rows)


@pytest.mark.parametrize("file", ["2026-13.pdf", "2026-11.doc", "2026-11", "2030-01.pdf"])
async def test_report_that_cannot_be_is_not_found(city: Api, file: str) -> None:
    assert (await city.client("root").get(f"{AREAS}/city/reports/{file}")).status_code == 404


async def test_night_that_is_final_is_read_as_stored(own_city: Api) -> None:
    path = "c01/indicators/lighting-uptime?from=2026-11-20&to=2026-11-21&by=total"
    (running,) = (await ask(own_city, "root", path))["items"]
    assert running["total"] == 39 * 3600
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute(
            """
            INSERT INTO community_day (domain, day, community, ends_at, status, computed_at)
            VALUES ('lighting', '2026-11-20', 'c01', %s, 'final', %s)
            """,
            (datetime(2026, 11, 21, 4, tzinfo=UTC), NOW),
        )
    store(own_city, "lighting-uptime", "c01-g01", 20, HOUR_US, 0, 2 * HOUR_US)
    (final,) = (await ask(own_city, "root", path))["items"]
    assert (final["total"], final["status"]) == (7200, "final")
    # Of the other community nothing is final: its lamps are asked.
    (both,) = (await ask(own_city, "root", path.replace("c01", "city")))["items"]
    assert both["total"] == 7200 + 13 * 3600
    assert both["status"] == "provisional"
    path = path.replace("total", "night").replace("c01", "city")
    (night,) = (await ask(own_city, "root", path))["items"]
    assert (night["total"], night["subjects"]) == (both["total"], 2)


# -- times, repairs, roads, bins


def store_times(api: Api, area: str, day: int, *times: tuple[int, bool]) -> None:
    """Times to empty of one day, seconds, with the tally that keeps their revision."""
    finished = sum(took for took, done in times if done)
    total = sum(took for took, _ in times)
    store(api, "time-to-empty", area, day, finished * 10**6, 0, total * 10**6, revision=day)
    with psycopg.connect(api.dsn) as conn, conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO device_duration (indicator, day, community, area, device_id, at, took_us,
                                         finished)
            SELECT 'time-to-empty', %s, community, %s, id, %s, %s, %s FROM device
            WHERE device = %s
            """,
            [
                (
                    date(2026, 11, day), area, NOW + timedelta(seconds=n), took * 10**6, done,
                    f"{area[:3]}-bin-001",
                )
                for n, (took, done) in enumerate(times)
            ],
        )  # fmt: skip


async def test_median_of_a_time_is_taken_over_all_of_it(own_city: Api) -> None:
    store_times(own_city, "c01-g01", 3, (60, True), (120, True), (600, True))
    store_times(own_city, "c01-g01", 4, (30, True))
    store_times(own_city, "c02-g01", 4, (900, True), (7200, False))
    path = f"indicators/time-to-empty?{NOVEMBER}&by="
    (total,) = (await ask(own_city, "root", f"c01/{path}total"))["items"]
    assert (total["value"], total["p90"]) == (60, 600)
    assert (total["numerator"], total["total"]) == (4, 4)
    assert (total["revision"], total["status"]) == (4, "final")
    days = (await ask(own_city, "root", f"c01/{path}day"))["items"]
    assert [(one["label"], one["value"]) for one in days] == [
        ("2026-11-03", 120),
        ("2026-11-04", 30),
    ]
    # What waits still, or was heard of no more, may take for ever.
    (month,) = (await ask(own_city, "root", f"city/{path}month"))["items"]
    assert (month["value"], month["lower"], month["upper"]) == (120, 120, 120)
    assert (month["p90"], month["numerator"], month["total"]) == (7200, 5, 6)
    first, second = (await ask(own_city, "root", f"city/{path}child"))["items"]
    assert (first["label"], first["value"]) == ("c01", 60)
    assert (second["label"], second["value"], second["upper"]) == ("c02", 900, 900)
    # Nothing is a number, too; a scope cuts.
    (none,) = (await ask(own_city, "root", f"c01-g02/{path}total"))["items"]
    assert (none["value"], none["total"]) == (None, 0)


@pytest.mark.parametrize("seed", range(4))
async def test_database_finds_the_nearest_rank(own_city: Api, seed: int) -> None:
    rng = Random(seed)
    told = [(rng.randrange(1, 50), rng.random() < 0.8) for _ in range(rng.randrange(1, 90))]
    store_times(own_city, "c01-g01", 5, *told)
    expected = security.times(
        [took for took, done in told if done], [took for took, done in told if not done]
    )
    path = f"c01/indicators/time-to-empty?{NOVEMBER}&by=total"
    (found,) = (await ask(own_city, "root", path))["items"]
    assert found["value"] == expected.median.value
    assert (found["lower"], found["upper"]) == (expected.median.lower, expected.median.upper)
    assert found["p90"] == expected.p90.value


async def test_times_of_alarms_are_told_by_month_day_and_area_below(city: Api) -> None:
    path = f"indicators/time-to-acknowledge?{NOVEMBER}&by="
    (below,) = (await ask(city, "root", f"city/{path}child"))["items"]
    assert (below["label"], below["total"], below["numerator"]) == ("c01", 2, 0)
    (cell,) = (await ask(city, "root", f"c01/{path}child"))["items"]
    assert (cell["label"], cell["total"]) == ("c01-g01", 2)
    (day,) = (await ask(city, "root", f"c01/{path}day"))["items"]
    (month,) = (await ask(city, "root", f"c01/{path}month"))["items"]
    assert (day["total"], month["total"], month["label"]) == (2, 2, "2026-11")
    # Of an alarm that does not exist for them nobody learns how long it waits.
    (month,) = (await ask(city, "wang", f"c01/{path}month"))["items"]
    assert month["total"] == 1


def store_fault(
    api: Api, device: str, raised_at: datetime, hours: float | None, code: str = "driver"
) -> None:
    name = uuid.uuid4()
    with psycopg.connect(api.dsn) as conn:
        insert_alert(
            conn, name, "device.fault", "minor", device, now=NOW, raised_at=raised_at,
            active=hours is None,
        )  # fmt: skip
        conn.execute(
            "UPDATE alert_occurrence SET params = %s, cleared_at = %s WHERE alert = %s",
            (
                Jsonb({"fault": code}),
                None if hours is None else raised_at + timedelta(hours=hours),
                name,
            ),
        )


async def test_repairs_are_told_from_the_faults_themselves(own_city: Api) -> None:
    store_fault(own_city, "c01-lamp-001", NOW - timedelta(days=9), 2)
    store_fault(own_city, "c01-lamp-001", NOW - timedelta(days=8), 30)
    store_fault(own_city, "c01-gate-001", NOW - timedelta(days=7), 2, "lock_jammed")
    store_fault(own_city, "c01-lamp-001", NOW - timedelta(hours=3), None)
    # Began in maintenance: the lamp is in maintenance all the time.
    store_fault(own_city, "c01-lamp-003", NOW - timedelta(days=5), 50)
    store_fault(own_city, "c02-lamp-001", NOW - timedelta(days=5), 1)
    path = f"c01/indicators/repairs-in-time?{NOVEMBER}&by=total"
    table = await ask(own_city, "wang", f"c01/indicators?{NOVEMBER}")
    items = {one["definition"]["indicator"]: one["items"] for one in table["items"]}
    together, gates, lamps = items["repairs-in-time"]
    assert [together["kind"], gates["kind"], lamps["kind"]] == ["", "gate", "lamp"]
    assert (together["numerator"], together["denominator"], together["total"]) == (1, 3, 4)
    assert (together["lower"], together["upper"]) == (0.25, 0.5)
    assert together["excluded"] == {"maintenance": 1}
    assert (gates["numerator"], gates["denominator"]) == (0, 1)
    times = items["repair-time"][0]
    assert (times["value"], times["upper"], times["p90"]) == (7200, 7200, 30 * 3600)
    assert (times["numerator"], times["total"], times["status"]) == (3, 4, "provisional")
    # As configured, a driver is mended in an hour and a lock within a day.
    with psycopg.connect(own_city.dsn, autocommit=True) as conn:
        faults.configure(conn, {"driver": "emergency", "lock_jammed": "ordinary"}, [])
    (together,) = (await ask(own_city, "wang", path + "&kind="))["items"]
    assert (together["numerator"], together["denominator"], together["total"]) == (1, 4, 4)
    path = path.replace("c01", "city").replace("total", "child")
    below = (await ask(own_city, "root", path + "&kind="))["items"]
    assert [(one["label"], one["numerator"], one["total"]) for one in below] == [
        ("c01", 1, 4),
        ("c02", 1, 1),
    ]


async def test_faults_that_began_out_of_service_or_in_maintenance_do_not_count(
    own_city: Api,
) -> None:
    began = NOW - timedelta(days=3)
    for device in ("c01-lamp-001", "c01-gate-001", "c01-bin-001"):
        store_fault(own_city, device, began, 2)
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute(
            """
            INSERT INTO maintenance (device_id, during, reason)
            SELECT id, tstzrange(%s, %s), 'cleaning' FROM device WHERE device = 'c01-bin-001'
            """,
            (began - timedelta(hours=1), began + timedelta(microseconds=1)),
        )
        conn.execute(
            "UPDATE device SET in_service_from = %s WHERE device = 'c01-gate-001'",
            (began + timedelta(microseconds=1),),
        )
    path = f"c01/indicators/repairs-in-time?{NOVEMBER}&by=total&kind="
    (together,) = (await ask(own_city, "wang", path))["items"]
    assert (together["numerator"], together["total"], together["subjects"]) == (1, 1, 1)
    assert together["excluded"] == {"maintenance": 1, "not_in_service": 1}


def store_road(
    api: Api, community: str, night: int, road: str, lamps: int, lit: int, dark: int,
    dark_max: int | None, verdict: str | None,
) -> None:  # fmt: skip
    with psycopg.connect(api.dsn) as conn:
        conn.execute(
            "INSERT INTO road_night VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            (community, date(2026, 11, night), road, lamps, lit, dark, dark_max, verdict),
        )


async def test_worst_roads_come_first(own_city: Api) -> None:
    for night, road, lit, dark, verdict in (
        (3, "Hua Road", 37, 3, "not_met"),
        (4, "Hua Road", 39, 1, "met"),
        (3, "Xin Road", 38, 2, "met"),
        (4, "Xin Road", 30, 2, "undetermined"),
        (4, "Yan Road", 40, 0, "met"),
    ):
        store_road(own_city, "c01", night, road, 40, lit, dark, 2, verdict)
    store_road(own_city, "c01", 4, "Ring", 240, 200, 40, None, None)
    store_road(own_city, "c02", 4, "Wu Road", 20, 10, 10, 2, "not_met")
    roads = await ask(own_city, "wang", f"c01/roads?{NOVEMBER}")
    assert [one["road"] for one in roads["items"]] == ["Hua Road", "Xin Road", "Ring", "Yan Road"]
    assert roads["items"][0] == {
        "community": "c01", "road": "Hua Road", "nights": 2, "met": 1, "not_met": 1,
        "undetermined": 0, "lamps": 40, "dark": 3, "unknown": 0, "dark_max": 2,
        "worst_night": "2026-11-03",
    }  # fmt: skip
    # Of two nights as dark as each other the later is told.
    assert roads["items"][1]["unknown"] == 8
    assert (roads["items"][2]["dark_max"], roads["items"][2]["met"]) == (None, 0)
    (night,) = (await ask(own_city, "root", "city/roads?from=2026-11-03&to=2026-11-04&limit=1"))[
        "items"
    ]
    assert (night["road"], night["nights"]) == ("Hua Road", 1)
    assert len((await ask(own_city, "root", f"city/roads?{NOVEMBER}"))["items"]) == 5
    assert (await ask(own_city, "chen", f"c01-g01/roads?{NOVEMBER}"))["items"] == []


def store_levels(api: Api, device: str, *fills: float) -> None:
    """The last level now, the others each an hour before."""
    with psycopg.connect(api.dsn) as conn, conn.cursor() as cursor:
        cursor.executemany(
            """
            INSERT INTO reading_bin (at, received_at, device_id, fill_pct)
            SELECT %s, %s, id, %s FROM device WHERE device = %s
            """,
            [
                (NOW - timedelta(hours=hours), NOW, fill, device)
                for hours, fill in enumerate(reversed(fills))
            ],
        )
        cursor.execute(
            """
            UPDATE device_state SET reading = %s
            WHERE device_id = (SELECT id FROM device WHERE device = %s)
            """,
            (Jsonb({"fill_pct": fills[-1]}), device),
        )


async def test_bins_are_listed_by_when_they_will_be_full(own_city: Api) -> None:
    store_levels(own_city, "c01-bin-001", *range(80, 90))
    store_levels(own_city, "c02-bin-001", *range(20, 80, 5))
    everywhere = await ask(own_city, "root", "city/bins")
    later, sooner = everywhere["items"][::-1]
    # 5 points an hour from 75; 1 point an hour from 89.
    assert (sooner["device"], sooner["rise_pct_per_day"]) == ("c02-bin-001", 120)
    assert (later["device"], later["rise_pct_per_day"]) == ("c01-bin-001", 24)
    full_at = datetime.fromisoformat(sooner["full_at"])
    assert abs(full_at - (NOW + timedelta(hours=5))) < timedelta(seconds=1)
    assert (later["fill_pct"], later["readings"]) == (89, 10)
    (mine,) = (await ask(own_city, "wang", "c01/bins"))["items"]
    one = await own_city.client("wang").get("/api/v1/devices/c01-bin-001/forecast")
    assert one.json() == mine == later
    # Only bins have one.
    lamp = await own_city.client("wang").get("/api/v1/devices/c01-lamp-001/forecast")
    assert lamp.status_code == 404


async def test_forecast_is_the_same_while_its_chunks_have_no_b_tree(own_city: Api) -> None:
    store_levels(own_city, "c01-bin-001", *range(10, 90, 2))
    forecast = "/api/v1/devices/c01-bin-001/forecast"
    indexed = (await own_city.client("wang").get(forecast)).json()
    assert indexed["readings"] == 40
    with connect(own_city.dsn, "test") as conn:
        for chunk in chunks.load(conn, ["reading_bin"])[::-1]:
            assert chunks.index(conn, chunk, "brin")
            assert (await own_city.client("wang").get(forecast)).json() == indexed


async def test_pages_of_bins_go_from_the_fullest_on(own_city: Api) -> None:
    store_levels(own_city, "c01-bin-001", 50)
    store_levels(own_city, "c02-bin-001", 50)
    first = await ask(own_city, "root", "city/bins?limit=1")
    assert first["items"][0]["device"] == "c01-bin-001"
    assert (first["items"][0]["full_at"], first["items"][0]["readings"]) == (None, 0)
    second = await ask(own_city, "root", f"city/bins?limit=1&cursor={first['next_cursor']}")
    assert [one["device"] for one in second["items"]] == ["c02-bin-001"]
    assert second["next_cursor"] is None
    foreign = await own_city.client("wang").get(
        f"{AREAS}/c01/bins?limit=1&cursor={first['next_cursor']}"
    )
    assert foreign.json()["code"] == "cursor.invalid"


def restate(api: Api, indicator: str) -> None:
    """Store a number that was restated on the next day."""
    store(api, indicator, "c01-g01", 5, 60_000, 20_000, 100_000, revision=2)
    with psycopg.connect(api.dsn) as conn:
        conn.execute(
            """
            INSERT INTO area_day_revision
            SELECT indicator, day, area, kind, 1, good / 2, bad, total, subjects, excluded,
                   rule_version, computed_at, computed_at + interval '1 day', 'late'
            FROM area_day WHERE indicator = %s
            """,
            (indicator,),
        )


async def test_report_tells_what_was_restated_and_of_roads(own_city: Api) -> None:
    restate(own_city, "refuse-sorted")
    restate(own_city, "false-alarms")
    store_road(own_city, "c01", 4, "Hua Road", 40, 37, 3, 2, "not_met")
    told: dict[str, list[dict[str, str]]] = {}
    for who in ("wang", "li"):
        response = await own_city.client(who).get(f"{AREAS}/c01/reports/2026-11.csv?language=en")
        header, *rows = csv.reader(io.StringIO(response.text.lstrip("\ufeff")))
        told[who] = [dict(zip(header, row, strict=True)) for row in rows]
    restated = [row for row in told["li"] if row["Record"] == "restated"]
    assert {row["Indicator id"] for row in restated} == {"refuse-sorted", "false-alarms"}
    row = next(row for row in restated if row["Indicator id"] == "refuse-sorted")
    assert (row["Was"], row["Value"]) == ("0.6", "0.75")
    assert (row["Good before"], row["Good (numerator)"]) == ("30000", "60000")
    assert (row["Day"], row["Reason"]) == ("2026-11-05", "data arrived late")
    (road,) = [row for row in told["wang"] if row["Record"] == "road"]
    assert (road["Road"], road["Most dark"], road["Dark allowed"]) == ("Hua Road", "3", "2")
    # Who may not know of every alarm learns nothing of how many were false.
    assert not any(row["Indicator id"] == "false-alarms" for row in told["wang"])
    path = f"c01/indicators/false-alarms/revisions?{NOVEMBER}"
    assert len((await ask(own_city, "li", path))["items"]) == 1
    assert (await ask(own_city, "wang", path))["items"] == []


# -- areas that moved


def move(api: Api, area: str, path: str) -> None:
    """Have an area lie elsewhere from now on."""
    *_, parent, _ = path.split(".")
    with psycopg.connect(api.dsn) as conn:
        conn.execute(
            "UPDATE area SET parent = %s, path = %s::text::ltree WHERE area = %s",
            (parent.replace("_", "-"), path, area),
        )
        # As if it were done at the time that the test takes for now.
        conn.execute(
            """
            UPDATE area_version SET during = CASE WHEN upper_inf(during)
                THEN tstzrange(%(now)s, NULL) ELSE tstzrange(NULL, %(now)s) END
            WHERE area = %(area)s
            """,
            {"now": NOW, "area": area},
        )


async def test_an_area_that_came_later_has_no_rate_of_the_time_before(own_city: Api) -> None:
    move(own_city, "c01-g02", "city.c02.c01_g02")
    path = "c02/indicators/incident-rate?from=2026-10-01&to=2026-11-01&by=child"
    found = {one["label"]: one for one in (await ask(own_city, "root", path))["items"]}
    assert found.keys() == {"c01-g02", "c02-g01"}
    assert (found["c01-g02"]["value"], found["c01-g02"]["verdict"]) == (None, "undetermined")


async def test_an_area_that_left_is_called_by_its_id(own_city: Api) -> None:
    store(own_city, "refuse-sorted", "c01-g02", 3, 1_000, 0, 1_000)
    move(own_city, "c01-g02", "city.c02.c01_g02")
    path = f"c01/indicators/refuse-sorted?{NOVEMBER}&by=child"
    (one,) = (await ask(own_city, "root", path))["items"]
    assert (one["label"], one["numerator"]) == ("c01-g02", 1)


async def test_repairs_and_alarms_stay_where_they_happened(own_city: Api) -> None:
    raised_at = NOW - timedelta(days=3)
    store_fault(own_city, "c01-gate-001", raised_at, 1)
    with psycopg.connect(own_city.dsn) as conn:
        insert_alert(
            conn, uuid.uuid4(), "gate.forced", "major", "c01-gate-001", now=NOW,
            raised_at=raised_at,
        )  # fmt: skip

    async def told() -> list[tuple[str, str, str, int]]:
        return [
            (area, name, one["label"], one["total"])
            for area in ("city", "c01", "c02")
            for name in ("repairs-in-time", "time-to-acknowledge")
            for by in ("total", "child")
            for one in (
                await ask(
                    own_city,
                    "root",
                    f"{area}/indicators/{name}?from=2026-11-01&to=2026-11-21&by={by}&kind=",
                )
            )["items"]
        ]

    before = await told()
    assert ("c01", "repairs-in-time", "c01-g01", 1) in before
    assert ("c01", "time-to-acknowledge", "c01-g01", 1) in before
    move(own_city, "c01-g01", "city.c02.c01_g01")
    assert await told() == before


async def test_a_reports_inputs_and_revisions_are_those_of_its_numbers(own_city: Api) -> None:
    store(own_city, "refuse-sorted", "c01-g02", 3, 1_000, 0, 1_000)
    with psycopg.connect(own_city.dsn) as conn:
        conn.execute("UPDATE area_day SET status = 'provisional' WHERE area = 'c01-g02'")
        conn.execute(
            """
            INSERT INTO area_day_revision (indicator, day, area, kind, revision, good, bad, total,
                subjects, excluded, rule_version, computed_at, replaced_at, reason)
            SELECT 'refuse-sorted', '2026-11-03', 'c01-g01', '', 1, 1, 0, 1, 1, '{}', 1, %(now)s,
                   %(now)s, 'late'
            """,
            {"now": NOW},
        )
    store(own_city, "refuse-sorted", "c01-g01", 3, 2_000, 0, 2_000, revision=2)
    for area, path in (("c01-g01", "city.c02.c01_g01"), ("c01-g02", "city.c02.c01_g02")):
        move(own_city, area, path)

    async def told(area: str) -> tuple[list[str], list[str], int, float]:
        csv_file = f"{AREAS}/{area}/reports/2026-11.csv?language=en"
        header, *lines = csv.reader(
            io.StringIO((await own_city.client("root").get(csv_file)).text.lstrip("\ufeff"))
        )
        rows = [
            row
            for row in (dict(zip(header, line, strict=True)) for line in lines)
            if row["Indicator id"] == "refuse-sorted"
        ]
        path = f"{area}/indicators/refuse-sorted/revisions?{NOVEMBER}"
        (total,) = (
            await ask(own_city, "root", f"{area}/indicators/refuse-sorted?{NOVEMBER}&by=total")
        )["items"]
        return (
            [row["Area code"] for row in rows if row["Record"] == "input"],
            [row["Area code"] for row in rows if row["Record"] == "restated"],
            len((await ask(own_city, "root", path))["items"]),
            total["numerator"],
        )

    # What is final stays where it lay; what is not yet goes along.
    assert await told("c01") == (["c01-g01"], ["c01-g01"], 1, 2.0)
    assert await told("c02") == (["c01-g02"], [], 0, 1.0)
    assert await told("city") == (["c01-g01", "c01-g02"], ["c01-g01"], 1, 3.0)
