# SPDX-License-Identifier: Apache-2.0
"""Killed between any two flushes, with anything waiting at the broker: the same alerts as never.

Two installations hear the same gateways. One is never disturbed: each message is stored as soon as
it is published, and our probe comes round at once. The other is handed messages when it pleases,
some at a time, and killed before or after a COMMIT: a new process reads the tables, what was not
acknowledged comes again, in order. When both have heard all, they hold the same alerts.

Silence is left out: it goes by receipt (decision 0002). So is ``late``, which says when readings
came.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from psycopg.types.json import Jsonb

from deploy.services import Postgres
from edge_agent.kinds import Event, Reading
from edge_agent.kinds.alarm import AlarmEvent
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateEvent
from ingest.judge import Received
from ingest.presence import Hearing, Presence
from ingest.writer import Writer
from tests.ingest.community import GATEWAY, Bench, feed, found
from tests.services import Broker, empty_database

Lane = Literal["telemetry", "event"]
LANES: Final[tuple[Lane, ...]] = ("telemetry", "event")
START: Final = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
NAME: Final = {"zh-CN": "规则", "en": "rule"}
BINS: Final = ("c01-bin-001", "c01-bin-002")
DEVICES: Final = (
    *((one, "bin", GATEWAY) for one in BINS),
    ("c01-gate-001", "gate", GATEWAY),
    ("c01-alarm-001", "alarm", GATEWAY),
)
TUNED: Final[dict[str, dict[str, object]]] = {
    "bin.full": {"on_delay_s": 120, "off_delay_s": 240},
    "gate.forced": {"on_delay_s": 30, "off_delay_s": 20},
    "device.silent": {"enabled": False},
}
OWN: Final[Mapping[str, dict[str, Any]]] = {
    "lid": {
        "kind": "bin", "latching": True, "on_delay_s": 180, "off_delay_s": 150,
        "when": {"type": "equals", "field": "lid_open", "value": True},
    },
    "heavy": {
        "kind": "bin", "off_delay_s": 60,
        "when": {"type": "threshold", "field": "weight_kg", "above": 50, "clear": 40},
    },
    "often": {
        "kind": "bin", "reopen_s": 120,
        "when": {
            "type": "count", "times": 3, "within_s": 900,
            "of": {"type": "threshold", "field": "fill_pct", "above": 50},
        },
    },
    "missing": {
        "kind": "bin", "when": {"type": "no_data", "field": "temperature_c", "for_s": 300},
    },
    "denied": {
        "kind": "gate", "reopen_s": 0, "on_delay_s": 15, "off_delay_s": 10,
        "when": {
            "type": "count", "times": 3, "within_s": 120,
            "of": {"type": "event", "events": ["denied"]},
        },
    },
    "open": {
        "kind": "gate", "on_delay_s": 45, "latching": True,
        "when": {
            "type": "event", "events": ["held_open"],
            "ends": {"events": ["restored"]},
        },
    },
    "break-in": {
        "kind": "alarm",
        "when": {
            "type": "sequence", "within_s": 60, "where": "cell",
            "first": {"type": "event", "kind": "gate", "events": ["forced"]},
            "then": {"type": "event", "events": ["intrusion"], "phases": ["raised"]},
        },
    },
}  # fmt: skip

# Rule, device and when it was raised first name an alert.
_WHAT: Final[Mapping[str, LiteralString]] = {
    "alerts": """
        SELECT rule, device, raised_at, severity, kind, area, params, active, standing,
               acknowledged, life_safety, repeats, last_raised_at, cleared_at, latched, quiet,
               version
        FROM alert ORDER BY rule, device, raised_at
    """,
    "occurrences": """
        SELECT o.rule, o.device, o.key, o.params, o.active, o.raised_at, o.cleared_at,
               t.raised_at AS of_alert
        FROM alert_occurrence AS o JOIN alert AS t ON t.id = o.alert
        ORDER BY o.rule, o.device, o.key, o.raised_at
    """,
    "history": """
        SELECT t.rule, t.device, t.raised_at, h.at, h.actor, h.action, h.reason, h.params,
               o.key, o.raised_at AS of_occurrence
        FROM alert_history AS h
        JOIN alert AS t ON t.id = h.alert
        LEFT JOIN alert_occurrence AS o ON o.id = h.occurrence
        ORDER BY t.rule, t.device, t.raised_at, h.id
    """,
}


class Installation:
    """Both lanes over one database."""

    def __init__(self, dsn: str, broker: Broker) -> None:
        found(dsn, in_service_from=START - timedelta(days=1), devices=DEVICES)
        with psycopg.connect(dsn) as conn:
            conn.execute("UPDATE gateway SET status_interval_s = 864000")
            for name, definition in OWN.items():
                said = Jsonb({"name": NAME, "severity": "minor", **definition})
                conn.execute(
                    """
                    INSERT INTO rule_version
                        (rule, area, version, revision, definition, author, reason, at)
                    VALUES (%s, 'city', 1, 1, %s, 'police', 'a test', now())
                    """,
                    (f"custom.{name}", said),
                )
            conn.execute("UPDATE installation SET rules_revision = rules_revision + 1")
        self.dsn = dsn
        self.benches = {lane: Bench(dsn, broker, dict(TUNED)) for lane in LANES}
        self.waiting: dict[Lane, deque[Received]] = {lane: deque() for lane in LANES}
        self.start(START)

    def start(self, now: datetime) -> None:
        """A new process, which knows what the tables hold."""
        presence = Presence()
        self.writers: dict[Lane, Writer] = {}
        for lane in LANES:
            bench = self.benches[lane]
            bench.presence = presence
            writer: Writer = bench.telemetry() if lane == "telemetry" else bench.events()
            feed(writer)
            # Nothing is silent here: no break is long enough.
            writer.consumer.hearing = Hearing(timedelta(days=3650))
            writer.healthy_since = now
            self.writers[lane] = writer

    def publish(self, lane: Lane, message: Received) -> None:
        self.waiting[lane].append(message)

    def deliver(
        self, lane: Lane, now: datetime, most: int = 100, *, acknowledge: bool = True
    ) -> None:
        """Hand over a flush; once nothing waits, the probe comes round that was sent now."""
        queue = self.waiting[lane]
        taken = [replace(queue[index], received_at=now) for index in range(min(most, len(queue)))]
        writer = self.writers[lane]
        if acknowledge and len(taken) == len(queue):
            writer.consumer.hearing.came_round(now)
        feed(writer, *taken)
        if acknowledge:
            for _ in taken:
                queue.popleft()
        else:
            self.waiting[lane] = deque(replace(one, dup=True) for one in queue)

    def left(self) -> dict[str, list[dict[str, Any]]]:
        return {what: self.benches["event"].rows(query) for what, query in _WHAT.items()}

    def close(self) -> None:
        for bench in self.benches.values():
            bench.close()


class Course(RuleBasedStateMachine):
    """What happens, in the order in which it does."""

    server: Postgres
    template: str
    broker: Broker
    ended: set[str]

    @initialize()
    def begin(self) -> None:
        self._stack = ExitStack()
        dsns = [
            self._stack.enter_context(empty_database(self.server, self.template)) for _ in range(2)
        ]
        self.calm, self.killed = (Installation(dsn, self.broker) for dsn in dsns)
        self.now = START
        self.seqs: dict[Lane, int] = dict.fromkeys(LANES, 0)
        self.occurrences = 0
        self.standing: AlarmEvent | None = None

    def _say(self, said: Reading | Event) -> None:
        lane: Lane = "telemetry" if isinstance(said, BinReading) else "event"
        self.seqs[lane] += 1
        bench = self.calm.benches[lane]
        if isinstance(said, BinReading):
            message = bench.batch(self.seqs[lane], said)
        else:
            message = bench.event(self.seqs[lane], said)  # pyright: ignore[reportArgumentType]
        for one in (self.calm, self.killed):
            one.publish(lane, message)
        self.calm.deliver(lane, self.now)

    @rule(
        seconds=st.sampled_from([1, 20, 61, 150, 400, 1000]),
        which=st.sampled_from(BINS),
        fill=st.sampled_from([10.0, 60.0, 95.0]),
        weight=st.sampled_from([30.0, 45.0, 60.0]),
        lid=st.booleans(),
        warm=st.booleans(),
    )
    def read(
        self, seconds: int, which: str, fill: float, weight: float, lid: bool, warm: bool
    ) -> None:
        self.now += timedelta(seconds=seconds)
        self._say(
            BinReading(
                device=which,
                at=self.now,
                fill_pct=fill,
                weight_kg=weight,
                lid_open=lid,
                temperature_c=20.0 if warm else None,
            )
        )

    @rule(
        seconds=st.sampled_from([1, 5, 16, 40, 130]),
        event=st.sampled_from(["denied", "denied", "denied", "forced", "held_open", "restored"]),
    )
    def pass_gate(self, seconds: int, event: str) -> None:
        self.now += timedelta(seconds=seconds)
        said = {"device": "c01-gate-001", "at": self.now, "event": event}
        self._say(GateEvent.model_validate(said))

    @rule(which=st.sampled_from(BINS), seconds=st.sampled_from([30, 150, 300]))
    def fill_and_empty(self, which: str, seconds: int) -> None:
        for fill in (60.0, 10.0, 95.0, 10.0, 60.0):
            self.read(seconds, which, fill, 45.0, lid=fill > 90, warm=True)

    @rule(event=st.sampled_from(["denied", "forced"]), seconds=st.sampled_from([5, 40, 130]))
    def break_in(self, event: str, seconds: int) -> None:
        for _ in range(3):
            self.pass_gate(5, event)
        self.intrude(seconds)

    @rule(seconds=st.sampled_from([1, 40]))
    def intrude(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        before, self.standing = self.standing, None
        if before is None:
            self.occurrences += 1
            said = {"device": "c01-alarm-001", "event": "intrusion", "phase": "raised"}
            self.standing = AlarmEvent.model_validate(
                {**said, "at": self.now, "occurrence": f"o-{self.occurrences}"}
            )
            self._say(self.standing)
        else:
            self._say(before.model_copy(update={"at": self.now, "phase": "restored"}))

    @rule(seconds=st.sampled_from([10, 45, 200]))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        for lane in LANES:
            self.calm.deliver(lane, self.now)

    @rule(lane=st.sampled_from(LANES), most=st.sampled_from([1, 3, 100]))
    def deliver(self, lane: Lane, most: int) -> None:
        self.killed.deliver(lane, self.now, most)

    @rule(lane=st.sampled_from(LANES), most=st.sampled_from([0, 1, 100]))
    def kill(self, lane: Lane, most: int) -> None:
        """After the COMMIT of a flush, before the broker hears of it; or with nothing in hand."""
        if most:
            self.killed.deliver(lane, self.now, most, acknowledge=False)
        self.killed.start(self.now)

    def teardown(self) -> None:
        # Long after, everybody speaks once more.
        for after in (3600, 3700):
            self.now += timedelta(seconds=after)
            for which in BINS:
                self._say(BinReading(device=which, at=self.now, fill_pct=10, weight_kg=30,
                                     lid_open=False, temperature_c=20.0))  # fmt: skip
            said = {"device": "c01-gate-001", "at": self.now, "event": "granted"}
            self._say(GateEvent.model_validate(said))
        for lane in LANES:
            self.now += timedelta(seconds=120)
            for one in (self.calm, self.killed):
                one.deliver(lane, self.now, 10_000)
        calm, killed = self.calm.left(), self.killed.left()
        for one in (self.calm, self.killed):
            one.close()
        self._stack.close()
        self.ended.update(row["rule"] for row in calm["history"] if row["action"] == "cleared")
        for what, expected in calm.items():
            lost = [row for row in expected if row not in killed[what]]
            added = [row for row in killed[what] if row not in expected]
            assert (lost, added) == ([], []), what
            assert killed[what] == expected, what


def fixed(course: Course) -> None:
    """One that raises and ends each rule, with kills in between."""
    course.begin()
    for number in range(3):
        course.fill_and_empty(BINS[0], 150)
        course.deliver("telemetry", 3)
        for minute in range(8):
            lid, fill, weight = minute < 5, 95.0 if minute < 4 else 10.0, 60.0 - 5 * minute
            course.read(61, BINS[1], fill, weight, lid=lid, warm=minute == 7)
            if minute == 3 + number:
                course.kill("telemetry", number)
        course.pass_gate(5, "held_open")
        course.deliver("event", 1)
        course.wait(200)
        course.break_in(("denied", "forced")[number % 2], 5)
        course.kill("event", 3 * number)
        course.wait(200)
        course.pass_gate(5, "restored")
        course.break_in("denied", 5)
        course.deliver("event", 3)
        course.wait(200)
        course.deliver("event", 100)
    course.teardown()


@pytest.mark.timeout(300)
def test_killed_anywhere_both_lanes_tell_the_same(
    database_server: Postgres, database_template: str, broker: Broker
) -> None:
    class Here(Course):
        server, template = database_server, database_template

    Here.broker, Here.ended = broker, set()
    fixed(Here())
    assert Here.ended >= {*(f"custom.{name}" for name in OWN), "gate.forced", "bin.full"}
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=5,
            stateful_step_count=30,
            deadline=None,
            # To make a failing course shorter would take minutes: each costs a second.
            phases=(Phase.reuse, Phase.generate),
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
