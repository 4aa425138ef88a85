# SPDX-License-Identifier: Apache-2.0
"""Every indicator of any area and time: sums, bounds, verdicts, revisions, reports."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from ingest.indicators.catalogue import INDICATORS
from tests.api.conftest import NOW, Api

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
