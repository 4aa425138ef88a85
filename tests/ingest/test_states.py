# SPDX-License-Identifier: Apache-2.0
"""A device's state is one thing, whoever says it: the view, the live topic, rules."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Final

import psycopg
import pytest

from edge_agent.kinds.bin import BinReading, DepositEvent
from ingest.presence import Hearing, Presence
from ingest.states import device_state, states_of
from ingest.store import connect, devices
from ingest.telemetry import TelemetryWriter
from tests.ingest.community import GATEWAY, Bench, feed, found
from tests.ingest.test_dry_run import fill
from tests.ingest.test_rule_reload import say, timeline
from tests.services import Broker

AT: Final = datetime(2026, 11, 20, tzinfo=UTC)
LIVES: Final = ("planned", "installed", "in_service", "maintenance", "retired")
HEARD: Final = (None, *product((False, True), (None, "jam")))


def test_the_view_says_the_same(database: str) -> None:
    """Of every life, heard or not, silent or not, in fault or not, behind either gateway."""
    expected: dict[str, str] = {}
    with connect(database, "states") as conn:
        fill(conn)
        conn.execute("UPDATE gateway SET silent = gateway = 'gw-2'")
        for number, (life, heard, gateway) in enumerate(product(LIVES, HEARD, ("gw-1", "gw-2"))):
            name = f"bin-x{number}"
            add(conn, name, life, gateway)
            silent, fault = heard or (False, None)
            if heard is not None:
                hear(conn, name, silent, fault)
            expected[name] = device_state(
                life, heard=heard is not None, silent=silent,
                gateway_silent=gateway == "gw-2", fault=fault,
            )  # fmt: skip
        shown = dict(conn.execute("SELECT device, state FROM device_view WHERE device ^@ 'bin-x'"))
        assert shown == expected
        assert set(shown.values()) == {"normal", "fault", "offline", "unknown", "maintenance"}
        state = devices.latest(conn, number_of(conn, "bin-x2"))
        assert state is not None
        assert (state.at, state.reading, state.silent) == (AT, {"fill_pct": 5.0}, False)
        assert devices.latest(conn, number_of(conn, "bin-x0")) is None


def add(conn: psycopg.Connection, device: str, life: str, gateway: str) -> None:
    community = f"c0{gateway[-1]}"
    conn.execute(
        """
        INSERT INTO device (device, kind, gateway, community, area, in_service_from, life,
                            reporting_period_s)
        VALUES (%s, 'bin', %s, %s, %s, %s, %s, 60)
        """,
        (device, gateway, community, community, AT, life),
    )


def number_of(conn: psycopg.Connection, device: str) -> int:
    row = conn.execute("SELECT id FROM device WHERE device = %s", (device,)).fetchone()
    assert row is not None
    return row[0]


def hear(conn: psycopg.Connection, device: str, silent: bool, fault: str | None) -> None:
    conn.execute(
        """
        INSERT INTO device_state (device_id, at, received_at, since, silent, fault, reading)
        VALUES (%s, %s, %s, %s, %s, %s, '{"fill_pct": 5}')
        """,
        (number_of(conn, device), AT, AT, AT, silent, fault),
    )


@pytest.mark.parametrize(
    ("life", "heard", "silent", "gateway_silent", "states"),
    [
        ("in_service", True, False, False, {"state": "normal", "gateway": "heard"}),
        ("in_service", False, False, True, {"state": "unknown", "gateway": "silent"}),
        ("maintenance", True, True, True, {"state": "maintenance", "gateway": "silent"}),
        ("installed", True, False, False, {}),
        ("retired", True, True, False, {}),
        # It is not known whether it was ever heard: told where that makes no difference.
        ("in_service", None, False, False, {"gateway": "heard"}),
        ("in_service", None, False, True, {"gateway": "silent"}),
        ("in_service", None, True, False, {"state": "offline", "gateway": "heard"}),
        ("maintenance", None, False, False, {"state": "maintenance", "gateway": "heard"}),
    ],
)
def test_rules_hear_of_who_is_in_use(
    life: str, heard: bool | None, silent: bool, gateway_silent: bool, states: dict[str, str]
) -> None:
    said = states_of(life, heard=heard, silent=silent, gateway_silent=gateway_silent, fault=None)
    assert said == states


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=datetime.now(UTC) - timedelta(days=1))
    made = Bench(database, broker)
    yield made
    made.close()


def started(bench: Bench, now: datetime) -> TelemetryWriter:
    """A process that starts at ``now``, and hears everything from then on."""
    bench.presence = Presence()
    writer = bench.telemetry()
    feed(writer)
    writer.healthy_since = now
    writer.consumer.hearing = Hearing(timedelta(hours=9))
    writer.consumer.hearing.came_round(now)
    return writer


def tick(bench: Bench, writer: TelemetryWriter, now: datetime, *, heard: bool = True) -> None:
    if heard:
        bench.presence.heard([(GATEWAY, now)])
    assert writer.connection is not None
    writer.consumer.hearing.came_round(now)
    writer.tick(writer.connection, now)


def test_rules_on_states_over_a_real_database(bench: Bench) -> None:
    """A device falls silent, then its gateway, then it goes into maintenance; with restarts."""

    def ask(rule: str, expression: str) -> None:
        when = {"type": "expression", "expression": expression}
        name = {"zh-CN": "状态", "en": "State"}
        say(bench, rule, {"name": name, "kind": "bin", "severity": "minor", "when": when})

    ask("custom.gone", "state == 'offline'")
    ask("custom.both", "state == 'offline' && gateway == 'silent'")
    now = datetime.now(UTC).replace(microsecond=0)
    writer = started(bench, now)
    feed(writer, bench.batch(1, BinReading(device="c01-bin-001", at=now, fill_pct=20), at=now))
    tick(bench, writer, now + timedelta(minutes=20))
    assert timeline(bench, "custom.gone") == []

    noticed = now + timedelta(hours=2)
    tick(bench, writer, noticed)
    assert timeline(bench, "custom.gone") == [("raised", "condition_met")]
    raised = bench.rows("SELECT rule, raised_at, params FROM alert WHERE device = 'c01-bin-001'")
    assert {row["rule"]: row["raised_at"] for row in raised} == {
        "device.silent": noticed,
        "custom.gone": noticed,
    }
    assert {"state": "offline"} in [row["params"] for row in raised]

    writer = started(bench, noticed)
    tick(bench, writer, noticed + timedelta(minutes=5))
    bench.presence.set_silent(GATEWAY, silent=True, now=noticed)
    with psycopg.connect(bench.dsn) as conn:  # as the event lane does, beside telling its process
        conn.execute("UPDATE gateway SET silent = true WHERE gateway = %s", (GATEWAY,))
    tick(bench, writer, noticed + timedelta(minutes=6), heard=False)
    assert timeline(bench, "custom.both") == [("raised", "condition_met")]
    writer = started(bench, noticed + timedelta(minutes=7))
    tick(bench, writer, noticed + timedelta(minutes=8), heard=False)
    assert len(timeline(bench, "custom.both")) == 1

    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE device SET life = 'maintenance' WHERE device = 'c01-bin-001'")
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    # Whoever hears of a device it does not know reads the registry again.
    feed(writer, bench.batch(2, BinReading(device="c01-bin-999", at=now), at=now))
    tick(bench, writer, noticed + timedelta(minutes=9), heard=False)
    for rule in ("custom.gone", "custom.both"):
        assert timeline(bench, rule) == [
            ("raised", "condition_met"), ("cleared", "condition_ended"),
        ]  # fmt: skip


@pytest.mark.parametrize("asks", [True, False])
def test_an_event_is_asked_with_numbers_that_would_wait(bench: Bench, asks: bool) -> None:
    """What a rule on events looks at is in the table at once, and nothing else is."""
    field = "fill_pct" if asks else "weight_kg"
    parts = [
        {"type": "event", "events": ["deposit"], "holds_s": 60},
        {"type": "threshold", "field": field, "above": 60},
    ]
    say(bench, "custom.full", {
        "name": {"zh-CN": "满投", "en": "Full all the same"}, "kind": "bin", "severity": "minor",
        "when": {"type": "all", "of": parts},
    })  # fmt: skip
    now = datetime.now(UTC).replace(microsecond=0)
    writer = bench.telemetry(timedelta(minutes=10))
    for seq, filled in enumerate((10, 20, 70), start=1):
        at = now - timedelta(seconds=90 - seq)
        feed(writer, bench.batch(seq, BinReading(device="c01-bin-001", at=at, fill_pct=filled)))
    said = bench.value("SELECT reading ->> 'fill_pct' FROM device_state")
    assert float(said) == (70 if asks else 10)
    deposit = DepositEvent(device="c01-bin-001", at=now, weight_kg=1)
    feed(bench.events(), bench.event(1, deposit))
    assert timeline(bench, "custom.full") == ([("raised", "condition_met")] if asks else [])
