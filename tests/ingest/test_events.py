# SPDX-License-Identifier: Apache-2.0
"""The event lane over a real database: alarms once, gates forced and restored, gateways heard."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from edge_agent.kinds.alarm import AlarmEvent, AlarmType, Phase
from edge_agent.kinds.bin import BinReading, DepositEvent
from edge_agent.kinds.gate import GateEvent
from edge_agent.messages import GapEvent, Status
from ingest.judge import Received
from ingest.presence import Hearing
from ingest.store import streams
from tests.ingest.community import EVENT_STREAM, GATEWAY, Bench, feed, found
from tests.services import Broker

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=NOW - timedelta(hours=1))
    made = Bench(database, broker)
    yield made
    made.close()


def alarm(
    phase: Phase, *, event: AlarmType = "smoke", occurrence: str = "o-1", second: int = 0
) -> AlarmEvent:
    return AlarmEvent(
        device="c01-alarm-001",
        at=NOW + timedelta(seconds=second),
        event=event,
        phase=phase,
        occurrence=occurrence,
        zone="c01-g01",
    )


@pytest.mark.parametrize("event", get_args(AlarmType))
def test_every_kind_of_alarm_raises_its_alert_and_restoring_clears_it(
    bench: Bench, event: AlarmType
) -> None:
    writer = bench.events()
    feed(writer, bench.event(1, alarm("raised", event=event)))
    (raised,) = bench.rows("SELECT rule, active, key, raised_at FROM alert_occurrence")
    assert raised == {"rule": f"alarm.{event}", "active": True, "key": "o-1", "raised_at": NOW}
    restarted = bench.events()
    feed(restarted, bench.event(2, alarm("restored", event=event, second=9)))
    assert bench.value("SELECT active FROM alert") is False


def test_an_occurrence_told_again_under_another_number_is_one_alert(bench: Bench) -> None:
    writer = bench.events()
    feed(writer, bench.event(1, alarm("raised")), bench.event(2, alarm("restored", second=1)))
    feed(writer, bench.event(3, alarm("raised", second=2)))
    assert bench.value("SELECT count(*) FROM alert") == 1
    assert bench.value("SELECT count(*) FROM event_alarm") == 3


def test_a_test_alarm_is_stored_and_raises_nothing(bench: Bench) -> None:
    feed(bench.events(), bench.event(1, alarm("test")))
    assert bench.value("SELECT count(*) FROM alert") == 0
    assert bench.value("SELECT count(*) FROM event_alarm") == 1


def test_forced_gate_stands_until_it_is_restored(bench: Bench) -> None:
    writer = bench.events()

    def gate(seq: int, event: str) -> None:
        happened = GateEvent.model_validate(
            {"device": "c01-gate-001", "at": NOW + timedelta(seconds=seq), "event": event}
        )
        feed(writer, bench.event(seq, happened))

    gate(1, "forced")
    gate(2, "forced")
    gate(3, "granted")
    assert bench.value("SELECT count(*) FROM alert WHERE active") == 1
    gate(4, "restored")
    assert bench.value("SELECT count(*) FROM alert WHERE active") == 0
    assert bench.value("SELECT count(*) FROM alert") == 1


def test_deposits_are_stored(bench: Bench) -> None:
    deposit = DepositEvent(device="c01-bin-001", at=NOW, weight_kg=1.5, sorted_ok=True)
    feed(bench.events(), bench.event(1, deposit))
    (row,) = bench.rows("SELECT event, weight_kg, sorted_ok FROM event_bin")
    assert row == {"event": "deposit", "weight_kg": 1.5, "sorted_ok": True}


def test_gap_closes_the_hole_and_says_how_many_are_missing(bench: Bench) -> None:
    writer = bench.events()
    feed(writer, bench.event(1, alarm("raised")), bench.event(5, alarm("restored", second=1)))
    gap = GapEvent(lane="event", stream=EVENT_STREAM, first=1, last=4, count=4, at=NOW)
    feed(writer, bench.event(6, gap))
    assert bench.value("SELECT seen::text FROM gateway_stream") == "{[1,7)}"
    assert bench.value("SELECT count FROM stream_gap") == 3


@pytest.mark.parametrize("first", [1, 2**53 - 1 - streams.GAP_AHEAD_MAX])
def test_gap_that_would_swallow_the_stream_is_refused(bench: Bench, first: int) -> None:
    writer = bench.events()
    last = 2**53 - 1
    gap = GapEvent(
        lane="telemetry", stream="s-t", first=first, last=last, count=last - first + 1, at=NOW
    )
    feed(writer, bench.event(1, gap))
    assert bench.value("SELECT reason FROM dead_letter") == "gap.range"
    assert bench.rows("SELECT seen FROM gateway_stream WHERE stream = 's-t'") == []
    assert bench.value("SELECT count(*) FROM stream_gap") == 0


def test_gateway_is_silent_after_three_missed_heartbeats_and_heard_again(
    bench: Bench,
) -> None:
    now = datetime.now(UTC)
    writer = bench.events()
    feed(writer)
    # The lane has been listening all the while; only the gateway says nothing.
    writer.healthy_since = now - timedelta(hours=1)
    hearing = writer.consumer.hearing = Hearing(timedelta(hours=1))
    hearing.came_round(now - timedelta(minutes=30))
    status = Status(state="online", status_interval_s=5, agent_version="0.1.0")

    def alerts() -> list[tuple[str, bool]]:
        rows = bench.rows("SELECT rule, active FROM alert ORDER BY raised_at")
        return [(row["rule"], row["active"]) for row in rows]

    def look(now: datetime) -> None:
        assert writer.connection is not None
        hearing.came_round(now)
        writer.tick(writer.connection, now)

    feed(writer, bench.status(status, at=now))
    look(now + timedelta(seconds=14))
    assert alerts() == []
    look(now + timedelta(seconds=16))
    assert alerts() == [("gateway.silent", True)]
    assert bench.value("SELECT silent FROM gateway WHERE gateway = %s", GATEWAY) is True
    # A will, and what the broker kept, are not the gateway's own voice.
    feed(writer, bench.status(Status(state="offline"), at=now + timedelta(seconds=17)))
    stale = bench.status(status, at=now + timedelta(seconds=17))
    feed(writer, bench.received(stale.topic, stale.payload, retain=True))
    look(now + timedelta(seconds=18))
    assert alerts() == [("gateway.silent", True)]
    feed(writer, bench.status(status, at=now + timedelta(seconds=19)))
    look(now + timedelta(seconds=20))
    assert alerts() == [("gateway.silent", False)]


def test_unheard_ingest_makes_no_gateway_silent(bench: Bench) -> None:
    writer = bench.events()
    feed(writer, bench.status(Status(state="online", status_interval_s=5), at=NOW))
    assert writer.listening is None
    assert writer.connection is not None
    writer.tick(writer.connection, NOW + timedelta(hours=1))
    assert bench.value("SELECT count(*) FROM alert") == 0


def test_frozen_broker_makes_no_gateway_silent_and_none_heard(bench: Bench) -> None:
    now = datetime.now(UTC)
    writer = bench.events()
    feed(writer)
    writer.healthy_since = now - timedelta(hours=1)
    hearing = writer.consumer.hearing
    status = Status(state="online", status_interval_s=5)

    def silent_at(second: int, *, probe: bool) -> bool:
        assert writer.connection is not None
        if probe:
            hearing.came_round(now + timedelta(seconds=second))
        writer.tick(writer.connection, now + timedelta(seconds=second))
        return bench.value("SELECT silent FROM gateway WHERE gateway = %s", GATEWAY)

    feed(writer, bench.status(status, at=now))
    hearing.came_round(now)
    # The connection stands, no probe comes round: nothing is known.
    assert not any(silent_at(second, probe=False) for second in range(2, 40, 2))
    # It thaws; what gateways say may take its time.
    assert not any(silent_at(second, probe=True) for second in range(40, 56, 2))
    assert silent_at(56, probe=True)
    # Frozen again: that it was silent is the last that is known.
    assert silent_at(90, probe=False)
    assert silent_at(92, probe=True)
    feed(writer, bench.status(status, at=now + timedelta(seconds=93)))
    assert not silent_at(94, probe=True)


def test_result_of_a_command_nobody_sent_is_refused(bench: Bench) -> None:
    payload = b'{"v":1,"command":"c-1","step":"applied","at":"2026-11-21T10:00:00Z"}'
    topic = bench.event(1, alarm("test")).topic.replace("/event", "/result")
    feed(bench.events(), bench.received(topic, payload))
    assert bench.value("SELECT reason FROM dead_letter") == "command.unknown"


def status_of(seq_oldest: int, seq_next: int, *, stream: str = "s-telemetry") -> Status:
    return Status.model_validate(
        {
            "state": "online",
            "streams": [
                {"lane": "telemetry", "stream": stream, "oldest": seq_oldest, "next": seq_next}
            ],
        }
    )


def test_what_a_gateway_no_longer_holds_is_known_loss_told_once(bench: Bench) -> None:
    readings = bench.telemetry()
    bins = [BinReading(device="c01-bin-001", at=NOW, fill_pct=n) for n in (1, 2)]
    feed(readings, bench.batch(1, bins[0]), bench.batch(5, bins[1]))
    writer = bench.events()
    feed(writer, bench.status(status_of(2, 6)))
    assert bench.value("SELECT count(*) FROM stream_gap") == 0
    feed(writer, bench.status(status_of(4, 6)))
    (gap,) = bench.rows("SELECT first, last, count, cause FROM stream_gap")
    assert gap == {"first": 2, "last": 3, "count": 2, "cause": "vanished"}
    feed(writer, bench.status(status_of(4, 6)))
    (alert,) = bench.rows("SELECT rule, active, acknowledged, params FROM alert")
    assert (alert["rule"], alert["active"], alert["acknowledged"]) == ("stream.lost", False, False)
    assert alert["params"]["count"] == 2
    assert bench.value("SELECT seen::text FROM gateway_stream") == "{[1,4),[5,6)}"


def test_eviction_not_yet_heard_of_is_not_taken_for_loss(bench: Bench) -> None:
    readings = bench.telemetry()
    feed(readings, bench.batch(9, BinReading(device="c01-bin-001", at=NOW, fill_pct=1)))
    writer = bench.events()
    evicted = Status.model_validate(
        {
            "state": "online",
            "streams": [
                {"lane": "telemetry", "stream": "s-telemetry", "oldest": 9, "next": 10},
                {"lane": "event", "stream": EVENT_STREAM, "oldest": 1, "next": 2},
            ],
        }
    )
    feed(writer, bench.status(evicted))
    assert bench.value("SELECT count(*) FROM stream_gap") == 0
    gap = GapEvent(lane="telemetry", stream="s-telemetry", first=1, last=8, count=8, at=NOW)
    feed(writer, bench.event(1, gap), bench.status(evicted))
    (row,) = bench.rows("SELECT cause, count FROM stream_gap")
    assert row == {"cause": "evicted", "count": 8}


def test_hole_raises_an_alert_with_its_range_and_clears_when_filled(
    database: str, broker: Broker
) -> None:
    found(database, in_service_from=NOW - timedelta(hours=1))
    bench = Bench(database, broker, rules={"stream.hole": {"on_delay_s": 0}})

    def late(seq: int) -> Received:
        return bench.event(seq, alarm("test", occurrence=f"o-{seq}"))

    seconds = itertools.count(5, 5)

    def look() -> None:
        assert writer.connection is not None
        writer.tick(writer.connection, datetime.now(UTC) + timedelta(seconds=next(seconds)))

    writer = bench.events()
    feed(writer, late(1), late(4))
    look()
    (alert,) = bench.rows("SELECT rule, active, params FROM alert")
    assert (alert["rule"], alert["active"]) == ("stream.hole", True)
    assert (alert["params"]["first"], alert["params"]["last"]) == (2, 3)
    writer = bench.events()  # a restart does not raise it again
    feed(writer)
    look()
    feed(writer, late(2), late(3))
    look()
    assert [row["active"] for row in bench.rows("SELECT active FROM alert")] == [False]
    bench.close()


def test_another_content_under_a_stored_number_is_refused_and_kept(bench: Bench) -> None:
    writer = bench.events()
    first = bench.event(1, alarm("raised"))
    feed(writer, first, first)
    feed(writer, bench.event(1, alarm("raised", event="panic")), first)
    (letter,) = bench.rows("SELECT reason, seq FROM dead_letter")
    assert letter == {"reason": "event.conflict", "seq": 1}
    assert bench.value("SELECT count(*) FROM event_alarm") == 1
    feed(
        writer,
        bench.event(2, alarm("raised", occurrence="o-2")),
        bench.event(2, alarm("raised", occurrence="o-3")),
    )
    assert bench.value("SELECT count(*) FROM dead_letter") == 2
    assert bench.value("SELECT count(*) FROM event_alarm") == 2
