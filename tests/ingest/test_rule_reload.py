# SPDX-License-Identifier: Apache-2.0
"""Rules that people change while ingest runs, over a real database: nothing is left hanging."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateEvent
from edge_agent.messages import Status
from ingest.store import rules as stored
from ingest.writer import Writer
from tests.ingest.community import GATEWAY, Bench, feed, found
from tests.services import Broker

NOW = datetime.now(UTC).replace(microsecond=0)
WARM = {
    "name": {"zh-CN": "偏热", "en": "Warm"},
    "kind": "bin",
    "severity": "minor",
    "when": {"type": "threshold", "field": "temperature_c", "above": 30},
}


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=NOW - timedelta(hours=1))
    made = Bench(database, broker)
    yield made
    made.close()


def say(bench: Bench, rule: str, definition: dict[str, Any] | None, area: str = "c01") -> None:
    async def save() -> None:
        async with await psycopg.AsyncConnection.connect(bench.dsn) as conn, conn.transaction():
            await stored.save(
                conn, rule, area, definition, expected=None, author="root", reason="test", now=NOW
            )

    asyncio.run(save())


def look(writer: Writer) -> None:
    """Let the writer look whether rules changed, as it does every few seconds."""
    feed(writer)
    assert writer.connection is not None
    writer.follow_rules(writer.connection)
    feed(writer)


def full(bench: Bench, writer: Writer, seq: int, fill: float = 95, warm: float = 20) -> None:
    at = NOW + timedelta(seconds=seq)
    reading = BinReading(device="c01-bin-001", at=at, fill_pct=fill, temperature_c=warm)
    feed(writer, bench.batch(seq, reading))


def timeline(bench: Bench, rule: str) -> list[tuple[str, str]]:
    rows = bench.rows(
        """
        SELECT h.action, h.reason FROM alert_history AS h JOIN alert AS t ON t.id = h.alert
        WHERE t.rule = %s ORDER BY h.id
        """,
        rule,
    )
    return [(row["action"], row["reason"]) for row in rows]


def test_a_rule_that_is_switched_off_ends_what_it_has_standing(bench: Bench) -> None:
    writer = bench.telemetry()
    full(bench, writer, 1)
    say(bench, "bin.full", {"enabled": False})
    look(writer)
    assert timeline(bench, "bin.full") == [("raised", "condition_met"), ("cleared", "rule_off")]
    full(bench, writer, 2)
    assert len(timeline(bench, "bin.full")) == 2
    say(bench, "bin.full", None)
    look(writer)
    full(bench, writer, 3)
    assert timeline(bench, "bin.full")[2:] == [("raised_again", "condition_met")]


@pytest.mark.parametrize("runs", [True, False], ids=["live", "while ingest was down"])
def test_a_rule_that_asks_otherwise_is_asked_anew(bench: Bench, runs: bool) -> None:
    writer = bench.telemetry()
    full(bench, writer, 1, fill=92)
    say(bench, "bin.full", {"limit": 94})
    if runs:
        look(writer)
    else:
        writer = bench.telemetry()
        feed(writer)
    assert timeline(bench, "bin.full")[1:] == [("cleared", "rule_changed")]
    full(bench, writer, 2, fill=92)
    assert len(timeline(bench, "bin.full")) == 2
    full(bench, writer, 3, fill=94)
    assert timeline(bench, "bin.full")[2:] == [("raised_again", "condition_met")]


def test_what_only_waits_otherwise_stays(bench: Bench) -> None:
    writer = bench.telemetry()
    full(bench, writer, 1)
    say(bench, "bin.full", {"severity": "major", "reopen_s": 60})
    look(writer)
    assert timeline(bench, "bin.full") == [("raised", "condition_met")]


def test_an_own_rule_lives_and_dies_without_a_restart(bench: Bench) -> None:
    writer = bench.telemetry()
    full(bench, writer, 1, fill=5, warm=35)
    say(bench, "custom.warm", WARM | {"on_delay_s": 60}, area="city")
    look(writer)
    full(bench, writer, 2, fill=5, warm=35)
    assert timeline(bench, "custom.warm") == []
    assert bench.value("SELECT count(*) FROM rule_memory WHERE rule = 'custom.warm'") == 1
    writer = bench.telemetry()  # killed while the delay runs
    full(bench, writer, 70, fill=5, warm=36)
    assert timeline(bench, "custom.warm") == [("raised", "condition_held")]
    params = bench.value("SELECT params FROM alert WHERE rule = 'custom.warm'")
    assert params == {"temperature_c": 35.0}  # as it was when the delay ended
    say(bench, "custom.warm", None, area="city")
    look(writer)
    assert timeline(bench, "custom.warm")[1:] == [("cleared", "rule_off")]
    assert bench.value("SELECT count(*) FROM rule_memory") == 0


def test_a_delay_that_runs_ends_with_its_rule(bench: Bench) -> None:
    say(bench, "bin.full", {"on_delay_s": 60})
    writer = bench.telemetry()
    full(bench, writer, 1)
    assert bench.value("SELECT count(*) FROM alert_pending") == 1
    say(bench, "bin.full", {"limit": 99})
    writer = bench.telemetry()
    full(bench, writer, 100)
    assert bench.value("SELECT count(*) FROM alert_pending") == 0
    assert timeline(bench, "bin.full") == []


def test_events_are_followed_on_their_own_lane(bench: Bench) -> None:
    writer = bench.events()
    forced = GateEvent.model_validate({"device": "c01-gate-001", "at": NOW, "event": "forced"})
    feed(writer, bench.event(1, forced))
    say(bench, "gate.forced", {"enabled": False})
    telemetry = bench.telemetry()
    feed(telemetry)
    assert timeline(bench, "gate.forced") == [("raised", "condition_met")]
    feed(bench.events())
    assert timeline(bench, "gate.forced")[1:] == [("cleared", "rule_off")]


def test_versions_are_kept_for_ever(bench: Bench) -> None:
    say(bench, "bin.full", {"limit": 80})
    with psycopg.connect(bench.dsn) as conn, pytest.raises(psycopg.errors.RaiseException):
        conn.execute("DELETE FROM rule_version")


def status(
    bench: Bench, writer: Writer, second: int, *, used: int, clock: str = "synchronized"
) -> None:
    told = Status.model_validate(
        {
            "state": "online",
            "outbox_bytes": used,
            "outbox_limit_bytes": 100,
            "clock": clock,
            "status_interval_s": 300,
        }
    )
    feed(writer, bench.status(told, at=NOW + timedelta(seconds=second)))


def test_a_gateway_tells_of_its_outbox_and_its_clock(bench: Bench) -> None:
    for second in range(0, 901, 300):
        writer = bench.events()  # restarted in between
        status(bench, writer, second, used=90)
    writer = bench.events()
    assert timeline(bench, "gateway.outbox_filling") == [("raised", "condition_held")]
    (row,) = bench.rows("SELECT gateway, device, kind, raised_at, params FROM alert")
    assert (row["gateway"], row["device"], row["kind"]) == (GATEWAY, None, "gateway")
    assert row["raised_at"] == NOW + timedelta(seconds=600)
    status(bench, writer, 1_000, used=70)
    assert len(timeline(bench, "gateway.outbox_filling")) == 1
    status(bench, writer, 1_100, used=10)
    assert timeline(bench, "gateway.outbox_filling")[1:] == [("cleared", "condition_ended")]
    for second in range(2_000, 5_800, 300):
        status(bench, writer, second, used=0, clock="unsynchronized")
    assert timeline(bench, "gateway.clock") == [("raised", "condition_held")]
