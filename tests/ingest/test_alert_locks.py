# SPDX-License-Identifier: Apache-2.0
"""Lanes, people and those who tell people move the same alerts at once, over a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.services import Postgres
from edge_agent.kinds.alarm import AlarmEvent, Phase
from edge_agent.kinds.bin import BinReading
from ingest.alerts import Clear, Raise
from ingest.kinds import DEVICE_REFUSED
from ingest.notify.chains import BUILT_IN
from ingest.store import alerts, escalations, gateways
from ingest.store.alerts import Change, Subject
from ingest.writer import Writer
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, Bench, feed, found
from tests.services import Broker, until

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=NOW - timedelta(days=10))
    made = Bench(database, broker)
    yield made
    made.close()


def alarm(phase: Phase, *, at: datetime = NOW, occurrence: str = "o-1") -> AlarmEvent:
    return AlarmEvent(
        device="c01-alarm-001", at=at, event="smoke", phase=phase, occurrence=occurrence
    )


def full(fill: float = 95, second: int = 0) -> BinReading:
    at = NOW + timedelta(seconds=second)
    return BinReading(device="c01-bin-001", at=at, fill_pct=fill)


def change_registry(bench: Bench, statement: str) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute(statement.encode())
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")


def look(writer: Writer) -> None:
    """Let the writer take up the registry that changed, as it does every few seconds."""
    assert writer.connection is not None
    assert writer._reload_registry(writer.connection)  # pyright: ignore[reportPrivateUsage]
    writer.follow_rules(writer.connection)


def is_waiting(bench: Bench) -> bool:
    return bool(
        bench.value(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
    )


def test_whoever_tells_people_of_an_alert_keeps_no_lane_waiting(bench: Bench) -> None:
    writer = bench.events()
    feed(writer, bench.event(1, alarm("raised")))
    alert = bench.value("SELECT id FROM alert")
    with psycopg.connect(bench.dsn) as telling:
        assert escalations.begin(telling, alert, BUILT_IN["critical"], NOW)
        assert writer.connection is not None
        writer.connection.execute("SET lock_timeout = '1s'")
        subject = writer.subject(GATEWAY, "c01-alarm-001")
        rule = writer.rules.get("alarm.smoke", "c01")
        assert subject is not None and rule is not None
        ended = Change(rule, subject, Clear(NOW, "condition_ended"), NOW, "o-1")
        with writer.connection.transaction():
            assert alerts.write(writer.connection, [ended], NOW) == [("c01", alert)]


def test_a_deadlock_is_tried_again_without_reading_everything_anew(
    bench: Bench, database_server: Postgres
) -> None:
    writer = bench.events()
    feed(writer, bench.event(1, alarm("raised")))
    connection = writer.connection
    told = bench.event(2, alarm("restored", at=NOW + timedelta(seconds=1)))
    name = str(conninfo_to_dict(bench.dsn)["dbname"])
    with psycopg.connect(database_server.dsn(name)) as other:
        # It looks for no deadlock itself, so the lane is the one that loses.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute("SELECT FROM alert FOR NO KEY UPDATE")
        lane = threading.Thread(target=feed, args=(writer, told))
        lane.start()
        until(lambda: is_waiting(bench), "the lane waits")
        other.execute("SELECT FROM gateway_stream FOR UPDATE")
    lane.join(60)
    assert not bench.value("SELECT active FROM alert")
    assert writer.connection is connection
    assert bench.value("SELECT count(*) FROM event_alarm") == 2
    assert bench.value("SELECT count(*) FROM dead_letter") == 0


def test_days_are_marked_after_the_alerts_as_by_whoever_settles_a_case(bench: Bench) -> None:
    writer = bench.events()
    past = NOW - 3 * DAY
    feed(writer, bench.event(1, alarm("raised", at=past)))
    assert bench.value("SELECT count(*) FROM community_day") > 0
    with psycopg.connect(bench.dsn) as settling:
        settling.execute("SELECT FROM alert FOR NO KEY UPDATE")
        told = bench.event(2, alarm("restored", at=past + timedelta(seconds=1)))
        lane = threading.Thread(target=feed, args=(writer, told))
        lane.start()
        until(lambda: is_waiting(bench), "the lane waits")
        try:
            settling.execute("SELECT FROM community_day FOR UPDATE NOWAIT")
        finally:
            settling.rollback()
            lane.join(60)
    assert not bench.value("SELECT active FROM alert")


def test_what_ends_before_it_is_heard_of_does_not_stand_for_ever(bench: Bench) -> None:
    writer = bench.events()
    feed(writer, bench.event(2, alarm("restored", at=NOW + timedelta(seconds=5))))
    feed(writer, bench.event(1, alarm("raised")), bench.event(3, alarm("raised", occurrence="o-2")))
    rows = bench.rows("SELECT key, active, cleared_at FROM alert_occurrence ORDER BY key")
    assert rows == [
        {"key": "o-1", "active": False, "cleared_at": NOW + timedelta(seconds=5)},
        {"key": "o-2", "active": True, "cleared_at": None},
    ]


@pytest.mark.parametrize("runs", [True, False], ids=["live", "while ingest was down"])
def test_what_stands_ends_behind_the_gateway_to_which_its_device_was_moved(
    bench: Bench, runs: bool
) -> None:
    writer = bench.telemetry()
    feed(writer, bench.batch(1, full()))
    change_registry(
        bench, f"UPDATE device SET gateway = '{OTHER_GATEWAY}' WHERE device = 'c01-bin-001'"
    )
    if runs:
        look(writer)
    else:
        writer = bench.telemetry()
    feed(writer, bench.batch(1, full(20, 60), gateway=OTHER_GATEWAY))
    assert bench.rows("SELECT active, standing FROM alert") == [{"active": False, "standing": 0}]
    assert bench.value("SELECT count(*) FROM alert_occurrence WHERE active") == 0


@pytest.mark.parametrize("runs", [True, False], ids=["live", "while ingest was down"])
def test_what_stands_ends_with_its_device(bench: Bench, runs: bool) -> None:
    writer = bench.telemetry()
    feed(writer, bench.batch(1, full()))
    change_registry(bench, "UPDATE device SET life = 'retired' WHERE device = 'c01-bin-001'")
    if runs:
        look(writer)
    else:
        writer = bench.telemetry()
        feed(writer)
    assert bench.value("SELECT active FROM alert") is False
    assert bench.value("SELECT reason FROM alert_history ORDER BY id DESC LIMIT 1") == (
        "device_retired"
    )
    # Put back, it is asked as if it had said nothing before.
    change_registry(bench, "UPDATE device SET life = 'in_service' WHERE device = 'c01-bin-001'")
    look(writer)
    feed(writer, bench.batch(2, full(second=60)))
    assert bench.value("SELECT active FROM alert") is True


def test_a_device_turns_bad_more_than_once(bench: Bench) -> None:
    subject = Subject("bin", GATEWAY, "c01", "c01", "c01-bin-001")
    with psycopg.connect(bench.dsn) as conn:
        for hours in range(3):
            at = NOW + timedelta(hours=hours)
            for decision in (Raise(at, "refused_often"), Clear(at, "refusals_ended")):
                change = Change(DEVICE_REFUSED, subject, decision, at, "telemetry")
                assert alerts.write(conn, [change], at)
    assert bench.value("SELECT count(*) FROM alert_occurrence WHERE NOT active") == 3


def test_who_is_heard_is_written_beside_the_event_lane_without_waiting(bench: Bench) -> None:
    # Both write gateways, each in an order of its own; and alarms wait for the event lane.
    before, now = NOW - timedelta(seconds=30), NOW
    with psycopg.connect(bench.dsn) as events, psycopg.connect(bench.dsn) as telemetry:
        gateways.save_presence(events, [(GATEWAY, before, False)])
        telemetry.execute("SET lock_timeout = '5s'")
        gateways.save_heard(telemetry, [(GATEWAY, now), (OTHER_GATEWAY, now)])
        telemetry.commit()
        events.commit()
        assert dict(gateways.load_heard(events, [GATEWAY, OTHER_GATEWAY])) == {
            GATEWAY: before,
            OTHER_GATEWAY: now,
        }
        gateways.save_heard(telemetry, [(GATEWAY, now), (OTHER_GATEWAY, before)])
        telemetry.commit()
        assert dict(gateways.load_heard(events, [GATEWAY, OTHER_GATEWAY])) == {
            GATEWAY: now,
            OTHER_GATEWAY: now,
        }
