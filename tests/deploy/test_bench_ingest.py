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

from deploy.bench import docs, ingest
from deploy.bench.__main__ import app
from deploy.bench.ground import Ground
from deploy.bench.town import Town, register
from edge_agent import topics
from ingest.judge import Limits, Received
from ingest.kinds import DEFAULT_RULES
from ingest.pki import Authority
from ingest.presence import Presence
from ingest.rules import RuleBook
from ingest.telemetry import TelemetryWriter
from ingest.writer import FlushLimits
from simulators.load import Clock, Plan, Readings, community_of, gateway_of

pytestmark = pytest.mark.timeout(300)

TOWN = Town(2, 20)
TURNS = 3

Ledger = Mapping[str, Sequence[int]]


@pytest.fixture
def ledger(database: str, authority: Authority) -> Ledger:
    """Two communities whose every device told three times, and what they sent."""
    register(database, TOWN, datetime.now(UTC) - timedelta(hours=6))
    readings = Readings(Plan("", 0, "", "", "", TOWN.communities, TOWN.devices, "t"))
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
        Received(
            0, 0, 0, topics.up(gateway_of(number), "telemetry"),
            b'{"v":1,"stream":"t-%d","seq":%d,"sent_at":"%b","readings":[%b]}'
            % (
                number, turn + 1, at,
                readings.text(turn * TOWN.devices, TOWN.devices, full_bin=True)
                .replace(b"\x00C", community_of(number).encode())
                .replace(b"\x00A", at),
            ),
            False, False, now,
        )
        for turn in range(TURNS)
        for at in [clock.text(first_us + turn * 30_000_000)]
        for number in (1, 2)
    ]  # fmt: skip
    writer.persist(messages)
    writer.close()
    return {gateway_of(n): (TURNS, TURNS * TOWN.devices, TURNS, 0) for n in (1, 2)}


def differences(database: str, ledger: Ledger) -> dict[str, list[str]]:
    with psycopg.connect(database) as conn:
        return {
            "streams": ingest.missing_seqs(conn, ledger),
            "readings": ingest.missing_readings(conn, ledger),
            "doubled": ingest.doubled_readings(conn),
            "lit": ingest.wrong_lit_times(conn),
            "bins": ingest.wrong_full_bins(conn, TOWN),
        }


def test_what_was_stored_is_what_was_sent(database: str, ledger: Ledger) -> None:
    assert not any(differences(database, ledger).values())


@pytest.mark.parametrize(
    ("change", "seen_in"),
    [
        ("UPDATE gateway_stream SET seen = seen - int8multirange(int8range(2, 3))", "streams"),
        ("DELETE FROM reading_gate WHERE at = (SELECT max(at) FROM reading_gate)", "readings"),
        ("INSERT INTO reading_bin SELECT * FROM reading_bin LIMIT 1", "doubled"),
        ("UPDATE lamp_night SET lit_us = lit_us + 1 WHERE lit_us > 0", "lit"),
        ("DELETE FROM lamp_night WHERE device_id = (SELECT min(device_id) FROM lamp_night)", "lit"),
        ("UPDATE alert SET rule = 'bin.fire' WHERE rule = 'bin.full' AND gateway = 'gw-c0001'",
         "bins"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_seen(database: str, ledger: Ledger, change: str, seen_in: str) -> None:
    with psycopg.connect(database) as conn:
        assert conn.execute(change.encode()).rowcount
    assert differences(database, ledger)[seen_in]


def test_ratio_is_judged_by_its_median_and_called_unstable_by_its_spread() -> None:
    assert ingest.Ratio("a", [0.4, 0.6, 0.7], 0.5).met
    assert not ingest.Ratio("a", [0.4, 0.45, 0.7], 0.5).met
    assert ingest.Ratio("p99", [200.0], 250.0, at_most=True).met
    assert not ingest.Ratio("a", [1.0, 1.2], 0.5).stable
    assert ingest.Ratio("a", [1.0, 1.1], 0.5).stable


def test_percentiles_of_few_samples_have_no_p99() -> None:
    assert "p99" not in ingest.percentiles([0.001] * 999)
    assert ingest.percentiles([0.001] * 989 + [0.5] * 11)["p99"] == 500.0


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "b.json"
    arguments = ["ingest", "--quick", "--json", str(file), "--communities", "2", "--devices", "20"]
    done = CliRunner().invoke(app, [*arguments, "--minutes", "0.1", "--rounds", "0"])
    assert done.exit_code == 0, done.output
    return json.loads(file.read_text())


def test_command_tells_what_it_measured_and_that_it_was_right(ran: dict[str, Any]) -> None:
    assert ran["correct"], ran["wrong"]
    assert not ran["comparable"]
    (city,) = ran["runs"]
    # Where a second brings less than a reading, a message is one.
    assert 0 < city["sent"] == city["messages"]
    assert {"broker", "database", "ingest", "api", "viewers", "load"} == city["cores"].keys()
    assert city["alert_ms"]["n"] == 60
    assert {"schema", "commit", "machine", "versions", "settings", "ratios"} <= ran.keys()


@pytest.mark.parametrize("name", ["burst", "alerts", "outage"])
def test_city_that_is_not_left_alone_loses_nothing(name: str, tmp_path: Path) -> None:
    file = tmp_path / "b.json"
    arguments = [name, "--quick", "--json", str(file), "--communities", "2", "--devices", "40"]
    done = CliRunner().invoke(app, [*arguments, "--minutes", "0.1"])
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert (found["bench"], found["correct"], found["wrong"]) == (name, True, [])


def test_page_says_what_a_short_run_is_worth(ran: dict[str, Any]) -> None:
    page = docs.page({"b.json": ran})
    assert "Not comparable" in page
    assert ran["ratios"][0]["goal"] in page


def test_page_is_made_of_the_reports_that_lie_beside_it() -> None:
    assert Path(docs.PAGE).read_text() == docs.page(docs.load()), "run python -m deploy.bench.docs"
