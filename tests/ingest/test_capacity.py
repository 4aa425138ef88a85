# SPDX-License-Identifier: Apache-2.0
"""What the planner of capacity says: against a database that is filled, and against itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.bench import storage
from ingest import capacity
from ingest.__main__ import app
from ingest.capacity import INTERVALS, chunk_interval, city_of, estimate
from ingest.errors import ConfigError

# How far bytes on disk may be from what is said of them.
TOLERANCE = 0.25
DEVICES = 8_000
PERIOD_S = 3_600
HOURS = 40
DAY = timedelta(days=1)
SIZES = (400, 10_000, 100_000, 1_005_600, 10**7, 10**8)
FIRST = datetime(2026, 3, 1, tzinfo=UTC)


def test_estimate_is_what_a_filled_database_takes(database: str) -> None:
    city = capacity.City({"lamp": DEVICES}, PERIOD_S, timedelta(hours=HOURS), DEVICES // 400)
    said = estimate(city)
    with psycopg.connect(database, autocommit=True) as conn:
        storage.registered(conn, DEVICES)
        states = storage.write_states(conn, DEVICES)
        for hour in range(HOURS):
            # In the order of gateways' messages, as ingest stores them.
            storage.copy_lamps(conn, storage.shuffled(DEVICES), FIRST + timedelta(hours=hour))
        rows, indexes = storage.size_of(conn, "reading_lamp")
        devices = sum(
            sum(storage.size_of(conn, table))
            for table in ("device", "device_version", "device_state")
        )
    assert said.row_bytes == pytest.approx(rows, rel=TOLERANCE)
    assert said.index_bytes == pytest.approx(indexes, rel=TOLERANCE)
    assert said.state_bytes == pytest.approx(devices, rel=TOLERANCE)
    wal_s = capacity.STATE_WAL_BYTES * DEVICES
    assert wal_s == pytest.approx(states * DEVICES, rel=TOLERANCE)


def test_chunk_is_the_longest_whose_index_fits_into_memory() -> None:
    gib, month = 2**30, timedelta(days=30)
    assert chunk_interval(1.0, gib, month) == DAY
    assert chunk_interval(0.0, gib, month) == DAY
    lengths = [chunk_interval(rate, 2 * gib, DAY) for rate in range(100, 60_000, 500)]
    assert lengths == sorted(lengths, reverse=True)
    for rate, length in zip(range(100, 60_000, 500), lengths, strict=True):
        fits = length.total_seconds() * rate * capacity.INDEX_BYTES <= 2 * gib
        assert fits or length == INTERVALS[0]
    assert chunk_interval(33_520, 2 * gib, DAY) == timedelta(minutes=20)


@pytest.mark.parametrize("days", [1, 10, 30, 400, 900])
@pytest.mark.parametrize("reading_index", ["always", "after-close"])
def test_no_table_has_more_than_a_thousand_chunks(
    days: int, reading_index: capacity.ReadingIndex
) -> None:
    kept = timedelta(days=days)
    found = chunk_interval(100_000, 2**27, kept, reading_index)
    assert kept / found <= capacity.CHUNKS_MAX


def test_chunk_whose_index_is_built_later_is_an_hour_whatever_the_memory() -> None:
    hour = timedelta(hours=1)
    for rate in (0.0, 1.0, 33_520.0, 100_000.0):
        for memory in (2**27, 2**33):
            assert chunk_interval(rate, memory, DAY, "after-close") == hour


def test_index_built_later_changes_nothing_but_the_open_chunk() -> None:
    always = estimate(city_of(1_005_600, 30, 1, capacity.EQUIPMENT))
    later = estimate(city_of(1_005_600, 30, 1, capacity.EQUIPMENT, "after-close"))
    assert later.chunk == always.chunk == timedelta(hours=1)
    assert always.open_index_bytes == pytest.approx(33_520 * 3_600 * capacity.INDEX_BYTES, rel=1e-5)
    assert later.open_index_bytes < always.open_index_bytes / 10_000
    # All chunks but one are as they were.
    saved = always.index_bytes - later.index_bytes
    assert saved == pytest.approx(always.open_index_bytes - later.open_index_bytes)
    assert later.shared_buffers_bytes < always.shared_buffers_bytes
    assert (later.row_bytes, later.chunks) == (always.row_bytes, always.chunks)


def test_beijing_is_told_as_the_arithmetic_has_it() -> None:
    city = city_of(1_005_600, 30, 1, capacity.EQUIPMENT)
    said = estimate(city)
    assert city.total == pytest.approx(1_005_600, abs=2)
    assert city.communities == 2_514
    assert said.readings_s == pytest.approx(33_520, rel=1e-5)
    assert said.messages_s == 2_514  # one a second and gateway, 13.3 readings in each
    assert said.step == "one machine, levers"


@pytest.mark.parametrize(
    ("devices", "period_s", "messages_s"),
    [
        pytest.param(400, 600, 400 / 600, id="slow-a-reading-a-message"),
        pytest.param(400, 30, 1, id="a-message-a-second"),
        pytest.param(400, 1, 4, id="a-hundred-readings-a-message"),
    ],
)
def test_messages_are_cut_as_gateways_cut_them(
    devices: int, period_s: float, messages_s: float
) -> None:
    said = estimate(city_of(devices, period_s, 1, {"lamp": 1}))
    assert said.messages_s == pytest.approx(messages_s)


def test_everything_grows_with_devices_and_time() -> None:
    names = [
        "readings_s", "messages_s", "row_bytes", "index_bytes", "wal_bytes_s", "state_bytes",
        "lamp_night_bytes", "device_day_bytes", "area_day_bytes", "ingest_bytes", "cores",
    ]  # fmt: skip
    before = estimate(city_of(1_000, 30, 1, capacity.EQUIPMENT))
    for devices in (10_000, 100_000, 10**6, 10**7, 10**8):
        said = estimate(city_of(devices, 30, 1, capacity.EQUIPMENT))
        assert all(getattr(said, name) > getattr(before, name) for name in names if name != "cores")
        before = said
    longer = estimate(city_of(10**8, 30, 2, capacity.EQUIPMENT))
    assert longer.row_bytes == 2 * before.row_bytes
    assert longer.wal_bytes_s == before.wal_bytes_s
    assert before.disk_bytes == pytest.approx(
        before.row_bytes + before.index_bytes + before.state_bytes + before.lamp_night_bytes
        + before.device_day_bytes + before.area_day_bytes
    )  # fmt: skip


def test_document_has_the_table_that_the_planner_makes() -> None:
    """Replace it there by what this prints where it fails."""
    document = (Path(__file__).parents[2] / "docs/scaling.md").read_text(encoding="utf-8")
    assert "\n".join(capacity.table(SIZES, 30, 1)) in document


def test_command_tells_what_devices_take() -> None:
    done = CliRunner().invoke(
        app, ["capacity", "--devices", "1005600", "--period", "30", "--months", "1"]
    )
    assert done.exit_code == 0
    told = {line.partition("  ")[0]: line for line in done.output.splitlines()}
    assert "33,520.0/s" in told["readings"]
    assert "2,514.0/s" in told["messages"]
    for name in ("raw readings", "WAL", "lamp-nights", "area days", "memory", "chunk interval"):
        assert any(char.isdigit() for char in told[name]), name


def test_command_tells_what_an_index_built_later_saves() -> None:
    asked = ["capacity", "--devices", "1005600", "--reading-index"]
    always, later = (
        CliRunner().invoke(app, [*asked, setting]).output for setting in ("always", "after-close")
    )
    assert "4.9 GB of index, always" in always
    assert "241.3 kB of index, after-close" in later


@pytest.mark.parametrize("kinds", ["lamp", "lamp=", "tram=3", "lamp=0", "lamp=nan", "lamp=-1", ""])
def test_command_refuses_classes_it_does_not_know(kinds: str) -> None:
    done = CliRunner().invoke(app, ["capacity", "--devices", "10", "--kinds", kinds])
    assert isinstance(done.exception, ConfigError)
    assert "--kinds" in str(done.exception)
