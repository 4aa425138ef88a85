# SPDX-License-Identifier: Apache-2.0
"""`./dev bench ingest`, tiny: what is wrong is seen, what is told is complete; none is judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from deploy.bench import differences, docs
from deploy.bench.__main__ import app
from deploy.bench.ground import Ground
from deploy.bench.runs import Ratio, percentiles
from deploy.bench.town import Town, register
from edge_agent import topics
from ingest.judge import Limits, Received
from ingest.kinds import DEFAULT_RULES
from ingest.pki import Authority
from ingest.presence import Presence
from ingest.rules import RuleBook
from ingest.telemetry import TelemetryWriter
from ingest.writer import FlushLimits
from simulators.messages import Clock, Readings, Speaker, community_of, gateway_of
from simulators.mqtt import packets, topic_field

pytestmark = pytest.mark.timeout(300)

TOWN = Town(2, 20)
TURNS = 3
PERIOD = 30_000_000  # µs

Ledger = Mapping[str, Sequence[int]]


def _said(readings: Readings, topic: str, number: int, turn: int, at: bytes) -> bytes:
    """Return a payload as a gateway of the load sends it."""
    field = topic_field(topic)
    speaker = Speaker.of(community_of(number), field, f"t-{number}")
    said = readings.slice(turn * TOWN.devices, TOWN.devices, full_bin=True)
    packet = said.packet(speaker, 1, turn + 1, at)
    ((_, start, end),) = packets(packet)
    return packet[start + len(field) + 3 : end]


@pytest.fixture
def ledger(database: str, authority: Authority) -> Ledger:
    """Two communities whose every device told three times, and what they sent."""
    register(database, TOWN, datetime.now(UTC) - timedelta(hours=6))
    readings = Readings(TOWN.devices)
    writer = TelemetryWriter(
        dsn=database,
        consumer=Ground(database, authority).consumer("ingest-telemetry-00"),
        rules=RuleBook(DEFAULT_RULES, {}),
        limits=Limits(),
        flush=FlushLimits(0, 500, 4_000_000),
        presence=Presence(),
    )
    clock, now = Clock(), datetime.now(UTC)
    first_us = int((now - timedelta(seconds=100)).timestamp() * 1e6)
    messages = [
        Received(0, 0, 0, topic, payload, False, False, now)
        for turn in range(TURNS)
        for number in (1, 2)
        for topic in [topics.up(gateway_of(number), "telemetry")]
        for payload in [_said(readings, topic, number, turn, clock.text(first_us + turn * PERIOD))]
    ]
    writer.persist(messages)
    writer.close()
    return {gateway_of(n): (TURNS, TURNS * TOWN.devices, TURNS, 0) for n in (1, 2)}


def found(database: str, ledger: Ledger) -> dict[str, list[str]]:
    with psycopg.connect(database) as conn:
        return {
            "streams": differences.missing_seqs(conn, ledger),
            "readings": differences.missing_readings(conn, ledger),
            "doubled": differences.doubled_readings(conn),
            "lit": differences.wrong_lit_times(conn),
            "bins": differences.wrong_full_bins(conn, TOWN),
        }


def test_what_was_stored_is_what_was_sent(database: str, ledger: Ledger) -> None:
    assert not any(found(database, ledger).values())


@pytest.mark.parametrize(
    ("change", "seen_in"),
    [
        ("UPDATE gateway_stream SET seen = seen - int8multirange(int8range(2, 3))", "streams"),
        ("DELETE FROM reading_gate WHERE at = (SELECT max(at) FROM reading_gate)", "readings"),
        ("INSERT INTO reading_bin SELECT * FROM reading_bin LIMIT 1", "doubled"),
        ("UPDATE lamp_night SET lit_us = lit_us + 1 WHERE lit_us > 0", "lit"),
        ("DELETE FROM lamp_night WHERE device_id = (SELECT min(device_id) FROM lamp_night)", "lit"),
        (
            "UPDATE alert_occurrence SET rule = 'bin.fire'"
            " WHERE rule = 'bin.full' AND gateway = 'gw-c0001'",
            "bins",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_seen(database: str, ledger: Ledger, change: str, seen_in: str) -> None:
    with psycopg.connect(database) as conn:
        assert conn.execute(change.encode()).rowcount
    assert found(database, ledger)[seen_in]


def test_ratio_is_judged_by_its_median_and_called_unstable_by_its_spread() -> None:
    assert Ratio("a", [0.4, 0.6, 0.7], 0.5).met
    assert not Ratio("a", [0.4, 0.45, 0.7], 0.5).met
    assert Ratio("p99", [200.0], 250.0, at_most=True).met
    assert not Ratio("a", [1.0, 1.2], 0.5).stable
    assert Ratio("a", [1.0, 1.1], 0.5).stable


def test_percentiles_of_few_samples_have_no_p99() -> None:
    assert "p99" not in percentiles([0.001] * 999)
    assert percentiles([0.001] * 989 + [0.5] * 11)["p99"] == 500.0


NAMES = ("ingest", "alerts", "burst", "outage", "fanout")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, Any]]:
    """All trials of one small city on one stage, one after the other; each one's report."""
    folder = tmp_path_factory.mktemp("bench")
    done = CliRunner().invoke(
        app,
        ["everything", *NAMES, "--quick", "--reports", str(folder), "--communities", "2",
         "--devices", "40", "--minutes", "0.02", "--seconds", "0.5", "--status", "0.2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    reports = {name: json.loads((folder / f"{name}.json").read_text()) for name in NAMES}
    for told in reports.values():
        assert {"schema", "commit", "machine", "versions", "settings", "ratios"} <= told.keys()
        assert not told["comparable"]
    return reports


@pytest.mark.parametrize("name", NAMES)
def test_whatever_a_city_is_put_through_it_loses_nothing(
    ran: Mapping[str, dict[str, Any]], name: str
) -> None:
    found = ran[name]
    assert (found["bench"], found["correct"], found["wrong"]) == (name, True, [])


def test_a_city_is_told_with_all_that_it_took(ran: Mapping[str, dict[str, Any]]) -> None:
    city = ran["ingest"]["runs"][0]
    assert city["sent"] > 0
    # Statuses come by themselves, beside readings, five a second of each gateway.
    assert city["statuses"] > 5
    assert {"broker", "database", "ingest", "api", "viewers", "load"} == city["cores"].keys()
    # Twelve alarms of ten panic buttons: a button pressed again within minutes is one alert.
    assert city["alert_ms"]["n"] == 10


def test_rounds_measure_what_the_goals_compare(ran: Mapping[str, dict[str, Any]]) -> None:
    runs = {one["name"]: one for one in ran["ingest"]["runs"]}
    assert len(runs) == 8
    replay = runs["Linli, nothing but duplicates"]
    assert 0 < replay["sent"] == replay["stored"]
    told = [one["goal"].partition(" ")[0] for one in ran["ingest"]["ratios"]]
    short = [one for one in ran["ingest"]["notes"] if one.startswith("too short for a ratio")]
    assert len(told) + len(short) >= 5


def test_everybody_who_watches_hears_the_same(ran: Mapping[str, dict[str, Any]]) -> None:
    api, empty, *_ = ran["fanout"]["runs"]
    assert api["deliveries"] > 0 < empty["deliveries"]
    # Of the same size: what is compared is the way, not the load.
    assert empty["bytes_a_delivery"] == pytest.approx(api["bytes_a_delivery"], rel=0.25)
    page = docs.page({"b.json": ran["fanout"]})
    assert f"{api['deliveries_per_s']:,}" in page


def test_page_says_what_a_short_run_is_worth(ran: Mapping[str, dict[str, Any]]) -> None:
    for name, report in ran.items():
        page = docs.page({"b.json": report})
        assert "Not comparable" in page
        assert f"## {name}" in page
        assert all(one["goal"] in page for one in report["ratios"])


def test_page_is_made_of_the_reports_that_lie_beside_it() -> None:
    assert Path(docs.PAGE).read_text() == docs.page(docs.load()), "run python -m deploy.bench.docs"
