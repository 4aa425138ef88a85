# SPDX-License-Identifier: Apache-2.0
"""`./dev bench latest`, `storage` and `edge`, tiny: complete, right, and wrong when it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.bench import edge, latest, storage
from deploy.bench.__main__ import app
from deploy.bench.ground import Ground
from deploy.bench.latest import Town
from ingest import capacity
from ingest.pki import Authority

pytestmark = pytest.mark.timeout(300)

TOWN = Town(3, 20, 200, 43_200)


def silent(name: str) -> None:
    del name


def ran(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "b.json"
    done = CliRunner().invoke(app, [*arguments, "--json", str(file)])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(file.read_text())
    assert report["bench"] == arguments[0]
    assert all(one["correct"] and one["values"] for one in report["runs"])
    return report


def test_storage_tells_goals_and_what_the_planner_reckons_with(tmp_path: Path) -> None:
    report = ran(tmp_path, "storage", "--devices", "8000", "--rounds", "1")
    budgets = [one["budget"] for one in report["runs"] if one["budget"] is not None]
    assert budgets == [storage.SLOWER_MAX, storage.BYTES_MAX]
    told = {one["name"]: one["value"] for one in report["runs"]}
    reckoned = {f"a {kind} reading: row": size for kind, size in capacity.ROW_BYTES.items()} | {
        "a lamp reading: index": capacity.INDEX_BYTES,
        "a lamp reading: WAL": capacity.ROW_WAL_BYTES,
        "a latest state updated: WAL": capacity.STATE_WAL_BYTES,
        "a device, its history and state": capacity.DEVICE_BYTES,
        "a lamp-night": capacity.LAMP_NIGHT_BYTES,
        "a device's day": capacity.DEVICE_DAY_BYTES,
        "an area day": capacity.AREA_DAY_BYTES,
    }
    # Small tables have half-empty pages; what is off by more is another table than was measured.
    assert {name: told[name] for name in reckoned} == pytest.approx(reckoned, rel=0.35)
    assert told["a device in ingest's memory"] <= 1.35 * capacity.INGEST_DEVICE_BYTES
    assert told["bytes a value: wide"] < told["bytes a value: entity, attribute, value"]


def test_edge_tells_goals(tmp_path: Path) -> None:
    arguments = ("edge", "--seconds", "2", "--rounds", "1", "--messages", "1000")
    report = ran(tmp_path, *arguments)
    budgets = {one["name"]: one["budget"] for one in report["runs"] if one["budget"] is not None}
    assert set(budgets.values()) == {
        edge.RSS_MB, edge.CPU_SHARE, edge.START_S, edge.READING_BYTES,
    }  # fmt: skip
    assert len(budgets) == 6


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ("SELECT 1", set[str]()),
        (
            "UPDATE device_state SET at = at + interval '1 s' WHERE device_id = 5",
            {"latest / DISTINCT ON", "latest state of 200 devices, server time"},
        ),
        (
            f"UPDATE device_day SET readings = readings - 1"
            f" WHERE day = current_date - 40 AND device_id ="
            f" (SELECT id FROM device WHERE device = '{latest.year_device()}')",
            {"a device's year by day"},
        ),
    ],
    ids=["right", "state", "year"],
)
def test_latest_sees_what_is_wrong(
    database: str,
    authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    wrong: set[str],
) -> None:
    fill = Town.fill

    def broken(town: Town, conn: psycopg.Connection, *rest: Any) -> None:
        fill(town, conn, *rest)
        assert conn.execute(change.encode()).rowcount == 1

    monkeypatch.setattr(Town, "fill", broken)
    runs = latest.measure(Ground(database, authority), TOWN, 1, silent)
    found = {one.name for one in runs if one.wrong}
    assert len(found) == len(wrong)
    assert all(any(name.startswith(part) for name in found) for part in wrong)
    assert [one.budget for one in runs if one.budget is not None] == [
        latest.SHARE_MAX, latest.DATABASE_MS, latest.API_MS, latest.YEAR_MS,
    ]  # fmt: skip
