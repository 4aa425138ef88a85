# SPDX-License-Identifier: Apache-2.0
"""Killing ingest at random while alerts rise and fall gives the same alerts as no kill.

Sixty devices' messages go through the real broker to a real process that is killed again and again,
by SIGKILL and right before and after a COMMIT; unacknowledged ones are sent again. The same
messages, one by one and undisturbed, go to writers by hand: what both leave must be equal, but for
ids and receipt times.

Left out is what depends on when a message comes rather than on what it says. No keeper runs: floods
and chattering are judged by our clock. Each gateway has a cell of its own, because messages of
different gateways overtake one another, and readings raise nothing that joins a case, because lanes
do. No reading is older than its device's last one: whether that is late depends on the flush.
What only time ends, an hour ago in device time, is let end before its device speaks again.
"""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.rows import dict_row

from deploy.faults.city import City
from edge_agent import topics
from edge_agent.messages import Status, encode, parse_ack
from ingest.failpoints import AFTER_COMMIT, BEFORE_COMMIT
from ingest.owed import WAIT_MAX
from ingest.presence import Hearing
from ingest.store import rules
from ingest.writer import Writer
from tests.bad_input.installation import Gateway
from tests.ingest.community import Bench, feed, found
from tests.services import Broker, until
from tests.system.restart_script import (
    ENDED_BY_TIME,
    GATEWAYS,
    TUNED,
    Sent,
    devices,
    own_rules,
    script,
)

pytestmark = pytest.mark.timeout(420)

SEED = 6
NAME = {"zh-CN": "规则", "en": "rule"}
# A process starts within seconds, under load within some more; who said nothing since it listens,
# as these gateways may not for an hour, is waited for.
SETTLED_S = 60.0 + WAIT_MAX.total_seconds()
KILLS = 8

# Rule, device and when it was raised first name an alert; ids and receipt times differ.
_WHAT: Mapping[str, LiteralString] = {
    "alerts": """
        SELECT rule, severity, kind, device, gateway, area, params, active, standing,
               acknowledged, late, life_safety, repeats, raised_at, last_raised_at, cleared_at,
               latched, suppressed_by, shelved_until, version
        FROM alert ORDER BY rule, device, raised_at
    """,
    "occurrences": """
        SELECT o.rule, o.device, o.key, o.params, o.active, o.late, o.raised_at, o.cleared_at,
               t.raised_at AS of_alert
        FROM alert_occurrence AS o JOIN alert AS t ON t.id = o.alert
        ORDER BY o.rule, o.device, o.key, o.raised_at
    """,
    "history": """
        SELECT t.rule, t.device, t.raised_at, h.at, h.actor, h.action, h.reason, h.note, h.params,
               o.key, o.raised_at AS of_occurrence
        FROM alert_history AS h
        JOIN alert AS t ON t.id = h.alert
        LEFT JOIN alert_occurrence AS o ON o.id = h.occurrence
        ORDER BY t.rule, t.device, t.raised_at, h.id
    """,
    "memory": """
        SELECT rule, subject, key, lane, memory, since, ending, known_until, params, asked
        FROM rule_memory ORDER BY rule, subject, key
    """,
    "pending": """
        SELECT p.rule, d.device, p.since, p.ending
        FROM alert_pending AS p JOIN device AS d ON d.id = p.device_id ORDER BY p.rule, d.device
    """,
    "cases": """
        SELECT c.area, c.nature, c.rule, c.severity, c.aborted, c.state, c.first_at, c.last_at,
               array_agg(concat_ws(' ', t.rule, t.device, t.raised_at, m.reason, m.raised_at,
                                   m.aborted_at, m.under_threat)
                         ORDER BY t.rule, t.device, t.raised_at) AS members
        FROM alert_case AS c
        JOIN case_alert AS m ON m.case_id = c.id
        JOIN alert AS t ON t.id = m.alert
        GROUP BY c.id ORDER BY c.area, c.first_at, c.rule, members
    """,
}


def left(dsn: str) -> dict[str, list[dict[str, Any]]]:
    """What the tables hold of alerts."""
    with psycopg.connect(dsn) as conn, conn.cursor(row_factory=dict_row) as cursor:
        return {what: cursor.execute(query).fetchall() for what, query in _WHAT.items()}


def register(dsn: str) -> None:
    """The devices, each gateway's in a cell of its own, and people's own rules."""
    found(dsn, in_service_from=datetime.now(UTC) - timedelta(days=2), devices=devices())
    with psycopg.connect(dsn) as conn:
        for gateway in GATEWAYS:
            cell = f"c01-g{gateway[-1]}"
            conn.execute(
                "INSERT INTO area (area, parent, path, level, name)"
                " VALUES (%s, 'c01', %s::ltree, 'cell', '格')",
                (cell, f"city.c01.{cell.replace('-', '_')}"),
            )
            conn.execute("UPDATE device SET area = %s WHERE gateway = %s", (cell, gateway))
    asyncio.run(save_rules(dsn))


async def save_rules(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        for rule, definition in own_rules().items():
            await rules.save(
                conn,
                rule,
                "city",
                {"name": NAME, **definition},
                expected=0,
                author="police",
                reason="a test",
                now=datetime.now(UTC),
            )


def run_calm(dsn: str, broker: Broker, phases: Sequence[Sequence[Sent]]) -> None:
    """One writer a lane, each message a flush of its own, nothing killed."""
    bench = Bench(dsn, broker, {rule: dict(said) for rule, said in TUNED.items()})
    for lane in ("telemetry", "event"):
        writer: Writer = bench.telemetry() if lane == "telemetry" else bench.events()
        feed(writer)
        # It listens before anybody speaks, and without a break.
        writer.consumer.hearing = Hearing(timedelta(hours=1))
        writer.consumer.hearing.came_round(datetime.now(UTC))
        for phase in phases:
            for one in phase:
                if one.lane == lane:
                    feed(writer, bench.received(topics.up(one.gateway, lane), one.payload))
            writer.consumer.hearing.came_round(datetime.now(UTC))  # nothing waits any more
            feed(writer)
    bench.close()


class Senders:
    """The gateways: they send in order, and again what nobody told them is stored."""

    def __init__(self, broker: Broker) -> None:
        self._gateways = {name: Gateway(broker, name) for name in GATEWAYS}
        self._sent: defaultdict[str, list[Sent]] = defaultdict(list)
        self._upto: defaultdict[str, int] = defaultdict(int)
        self._heard: defaultdict[str, int] = defaultdict(int)
        self.rejected = 0

    def send(self, messages: Iterable[Sent]) -> None:
        for one in messages:
            self._sent[one.stream].append(one)
            self._publish(one)

    def send_again(self) -> None:
        """What is not stored, and that they are there: who has all stored says nothing else."""
        for gateway in self._gateways.values():
            gateway.publish("status", encode(Status(state="online")))
        for one in self._unstored():
            self._publish(one)

    @property
    def stored(self) -> int:
        """How many messages are known as stored."""
        self._listen()
        return sum(self._upto.values())

    @property
    def done(self) -> bool:
        self._listen()
        return next(self._unstored(), None) is None

    def close(self) -> None:
        for gateway in self._gateways.values():
            gateway.close()

    def _publish(self, one: Sent) -> None:
        self._gateways[one.gateway].publish(one.lane, one.payload)

    def _unstored(self) -> Iterator[Sent]:
        for stream, sent in self._sent.items():
            yield from sent[self._upto[stream] :]

    def _listen(self) -> None:
        for name, gateway in self._gateways.items():
            heard = gateway.heard[self._heard[name] :]
            self._heard[name] += len(heard)
            for topic, payload in heard:
                if topic.endswith("/ack"):
                    ack = parse_ack(payload)
                    self.rejected += len(ack.rejected)
                    for stream, upto in ack.streams.items():
                        self._upto[stream] = max(self._upto[stream], upto)


class Killed:
    """The ingest process: killed, by turns, from outside and at a COMMIT; then started anew."""

    def __init__(self, city: City, senders: Senders, total: int) -> None:
        self._city = city
        self._senders = senders
        chance = Random(SEED)
        # When, by messages that are stored, early enough for all; a COMMIT is the process's n-th.
        self._kills = sorted(chance.sample(range(total // 20, total // 2), KILLS // 2))
        self._failpoints = [
            f"{name}:{chance.randint(1, 12)}"
            for _ in range(KILLS // 4)
            for name in (BEFORE_COMMIT, AFTER_COMMIT)
        ]
        self.from_outside = 0
        self.at_commit = 0
        self._failpoint = ""
        # From then on the broker keeps what is sent to who is dead.
        city.start_ingest()

    def look(self) -> None:
        """Kill it when its time has come; start it anew when it is dead."""
        process = self._city.ingest
        assert process is not None
        if not process.running:
            assert self._failpoint, process.tail(40)
            assert process.popen.returncode == -signal.SIGKILL, process.tail(40)
            self.at_commit += 1
            self._start("")
        elif not self._failpoint and self._kills and self._senders.stored >= self._kills[0]:
            self._kills.pop(0)
            process.kill()
            self.from_outside += 1
            self._start(self._failpoints.pop(0))

    def _start(self, failpoint: str) -> None:
        self._failpoint = failpoint
        self._city.start_ingest(failpoint, wait=False)
        self._senders.send_again()


def run_killed(dsn: str, broker: Broker, folder: Path, phases: Sequence[Sequence[Sent]]) -> None:
    """The real thing."""
    settings = {"LINLI_INGEST__LANES": "event,telemetry", "LINLI_INGEST__STATUS_INTERVAL_S": "3600"}
    city = City(dsn, broker, folder, rules=TUNED, ingest_settings=settings)
    city.write_config()
    for lane in ("telemetry", "event"):
        broker.identity(f"ingest-{lane}-00")
    senders = Senders(broker)
    try:
        ingest = Killed(city, senders, sum(map(len, phases)))

        def settled() -> bool:
            ingest.look()
            return senders.done and not standing(dsn, ENDED_BY_TIME)

        for phase in phases:
            senders.send(phase)
            until(settled, "what was sent is stored, what is over has ended", timeout_s=SETTLED_S)
        assert senders.rejected == 0
        assert (ingest.from_outside, ingest.at_commit) == (KILLS // 2, KILLS // 2)
    finally:
        senders.close()
        city.close()


def standing(dsn: str, names: Sequence[str]) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT count(*) FROM alert_occurrence WHERE active AND rule = ANY (%s)", (list(names),)
        ).fetchone()
    assert row is not None
    return row[0]


def test_killed_at_random_the_same_alerts_rise_and_fall(
    database: str, second_database: str, own_broker: Broker, tmp_path: Path
) -> None:
    phases = script(SEED, datetime.now(UTC))
    for dsn in (database, second_database):
        register(dsn)
    run_calm(second_database, own_broker, phases)
    calm = left(second_database)
    raised = [one for one in calm["history"] if one["action"].startswith("raised")]
    cleared = [one for one in calm["history"] if one["action"] == "cleared"]
    assert len(raised) >= 500
    assert len(cleared) >= 400
    assert {one["rule"] for one in raised} >= {*own_rules(), *TUNED, "lamp.dark", "device.fault"}
    assert all(calm.values()), "each table has something to compare"

    run_killed(database, own_broker, tmp_path, phases)
    killed = left(database)
    for what, expected in calm.items():
        lost = [row for row in expected if row not in killed[what]]
        added = [row for row in killed[what] if row not in expected]
        assert (lost, added) == ([], []), what
        assert killed[what] == expected, what
