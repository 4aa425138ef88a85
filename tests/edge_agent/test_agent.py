# SPDX-License-Identifier: Apache-2.0
"""The whole agent of one gateway, with scripted hardware and a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.clock import boot_id
from edge_agent.errors import OutboxFull, OutboxUnavailable
from edge_agent.kinds import Observation
from edge_agent.kinds.alarm import AlarmEvent, AlarmSignal
from edge_agent.kinds.gate import Passage
from edge_agent.lanes import Accepted, Draft, Unstamped
from edge_agent.messages import EventMessage, GapEvent, Telemetry, parse_event
from tests.edge_agent.rig import (
    T0,
    HandClock,
    Script,
    config_for,
    eventually,
    lamp,
    noise,
    offline_config,
    running,
    server,
)
from tests.services import Broker

MEBIBYTE = 1024 * 1024


def test_step_is_accepted_at_once_events_first(tmp_path: Path) -> None:
    alarm, gate, light = Script("alarm-1", "alarm"), Script("gate-1", "gate"), Script("lamp-1")
    alarm.next = [[AlarmSignal("alarm-1", T0, "smoke", "raised")]]
    gate.next = [[Passage("gate-1", T0 - timedelta(seconds=1), "granted", "in", "4711")]]
    agent = Agent(offline_config(tmp_path), [light, alarm, gate], HandClock())
    told: list[Accepted] = []
    agent.accepted = told.append
    accepted = agent.sample(T0)
    assert told == accepted
    assert [(one.lane, one.seq) for one in accepted] == [
        ("event", 1),
        ("event", 2),
        ("telemetry", 1),
    ]
    first, second, third = (one.message for one in accepted)
    assert isinstance(first, EventMessage)
    assert first.event.at < T0
    assert isinstance(second, EventMessage)
    assert isinstance(second.event, AlarmEvent)
    assert isinstance(third, Telemetry)
    assert third.readings[0].device == "lamp-1"
    assert agent.outbox.depth() == 3
    assert agent.sample(T0) == []
    agent.close()


def test_alarm_restored_after_a_restart_repeats_its_occurrence(tmp_path: Path) -> None:
    occurrences: list[str] = []
    for number, phase in enumerate(("raised", "restored", "raised")):
        alarm = Script("alarm-1", "alarm")
        at = T0 + timedelta(seconds=number)
        alarm.next = [[AlarmSignal("alarm-1", at, "panic", phase)]]
        agent = Agent(offline_config(tmp_path), [alarm], HandClock())
        (one,) = agent.sample(at)
        assert isinstance(one.message, EventMessage)
        assert isinstance(one.message.event, AlarmEvent)
        occurrences.append(one.message.event.occurrence)
        agent.close()
    assert occurrences[0] == occurrences[1] != occurrences[2]


def full_of_events(agent: Agent) -> None:
    """Leave no room in the outbox, and nothing in it that telemetry may drive out."""
    made = AlarmEvent(device="a-1", at=T0, event="smoke", phase="raised", occurrence="o-1")

    def make(stream: str, seq: int) -> EventMessage:
        return EventMessage(stream=stream, seq=seq, sent_at=T0, event=made)

    while not agent.outbox.evicted["event"]:
        agent.outbox.append([Draft("event", make)] * 500)


def test_full_outbox_evicts_and_goes_on_accepting(tmp_path: Path) -> None:
    lights = [Script(f"lamp-{number:03d}") for number in range(100)]
    config = offline_config(tmp_path, outbox={"limit_bytes": MEBIBYTE})
    agent = Agent(config, lights, HandClock())
    told: list[Accepted] = []
    agent.accepted = told.append
    now = T0
    accepted: list[Accepted] = []
    while agent.outbox.used_bytes() < 0.98 * agent.outbox.limit_bytes():
        agent.outbox.append([noise(100)])
    while not agent.outbox.evicted["telemetry"]:
        now += timedelta(seconds=60)
        accepted = agent.sample(now)
        assert len(accepted) == 1 or agent.outbox.evicted["telemetry"]
    telemetry, record = accepted
    assert isinstance(telemetry.message, Telemetry)
    assert isinstance(record.message, EventMessage)
    assert isinstance(record.message.event, GapEvent)
    assert record.message.event.count == agent.outbox.evicted["telemetry"]
    assert told[-2:] == accepted, "a gap record is accepted like anything else"
    agent.close()


def test_outbox_full_of_events_refuses_telemetry_loudly_and_still_takes_events(
    tmp_path: Path,
) -> None:
    lights = [Script(f"lamp-{number:03d}") for number in range(100)]
    gate = Script("gate-1", "gate")
    config = offline_config(tmp_path, outbox={"limit_bytes": MEBIBYTE})
    agent = Agent(config, [*lights, gate], HandClock())
    full_of_events(agent)
    told: list[Accepted] = []
    agent.accepted = told.append
    now = T0
    with pytest.raises(OutboxFull):
        while True:
            now += timedelta(seconds=60)
            agent.sample(now)
    told.clear()
    evicted = agent.outbox.evicted["event"]
    gate.next = [[Passage("gate-1", now, "forced")]]
    with pytest.raises(OutboxFull):
        agent.sample(now + timedelta(seconds=60))
    assert [one.lane for one in told][:1] == ["event"]
    assert agent.outbox.evicted["event"] == evicted, "never for telemetry"

    events = agent.outbox.lane("event")
    agent.outbox.discard(events.stream, events.next - 1)
    (accepted,) = agent.sample(now + timedelta(seconds=61))
    assert isinstance(accepted.message, Telemetry)
    assert len(accepted.message.readings) == 100, "what was refused is reported as it is now"
    agent.close()


# -- a clock that is not set, or set in mid-run ---------------------------------------------------


class Uptime:
    """A monotonic clock in hand."""

    def __init__(self, seconds: float = 40.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds


@contextlib.asynccontextmanager
async def measuring(agent: Agent) -> AsyncGenerator[None]:
    task = asyncio.create_task(agent.measure())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


NEVER_SET = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)


async def test_events_before_the_clock_was_set_are_stamped_when_it_is(tmp_path: Path) -> None:
    alarm, light = Script("alarm-1", "alarm"), Script("lamp-1")
    config = offline_config(tmp_path, sampling={"poll_interval_s": 0.05})
    clock, uptime = HandClock(NEVER_SET, "unsynchronized"), Uptime()
    agent = Agent(config, [alarm, light], clock, monotonic=uptime)
    told: list[Accepted] = []
    agent.accepted = told.append
    async with measuring(agent):
        await eventually(lambda: light.polls, "polled")
        alarm.next = [[AlarmSignal("alarm-1", NEVER_SET, "smoke", "raised")]]
        await eventually(agent.outbox.unstamped, "held on disk")
        assert not told
        uptime.seconds += 90
        alarm.next = [[AlarmSignal("alarm-1", NEVER_SET, "smoke", "restored")]]
        await eventually(lambda: len(agent.outbox.unstamped()) == 2, "held on disk")
        uptime.seconds += 10
        clock.at = T0
        await eventually(lambda: len(told) == 3, "accepted, and measuring")
    events = [one.message.event for one in told if isinstance(one.message, EventMessage)]
    alarms = [one for one in events if isinstance(one, AlarmEvent)]
    assert [one.phase for one in alarms] == ["raised", "restored"]
    assert len({one.occurrence for one in alarms}) == 1
    assert [one.at for one in alarms] == [
        T0 - timedelta(seconds=100),
        T0 - timedelta(seconds=10),
    ]
    assert agent.outbox.unstamped() == []
    assert isinstance(told[-1].message, Telemetry)
    assert told[-1].message.readings[0].at == T0
    agent.close()


async def test_events_of_an_earlier_boot_happened_before_this_one(tmp_path: Path) -> None:
    config = offline_config(tmp_path, sampling={"poll_interval_s": 0.05})
    smoke = '{"device":"a-1","at":"2025-01-01T00:00:40Z","kind":"alarm","event":"smoke",'
    smoke += '"phase":"raised","occurrence":"o-1"}'
    agent = Agent(config, [], HandClock())
    agent.outbox.hold([Unstamped("another-boot", 5_000_000, smoke)], {})
    agent.outbox.hold([Unstamped(boot_id(), 5_000_000, smoke)], {})
    agent.close()
    again = Agent(config, [], HandClock(), monotonic=Uptime(60.0))
    assert again.sample(T0) == []
    first, second = told_of(again)
    again.close()
    assert first == T0 - timedelta(seconds=60)
    assert second == T0 - timedelta(seconds=55)


def told_of(agent: Agent) -> list[datetime]:
    """The instants of the events in the outbox."""
    held = agent.outbox.pending("event", after=0, limit=9)
    found = [parse_event(one.payload).event for one in held]
    return [one.at for one in found]


@pytest.mark.parametrize("step_s", [3_600, -3_600], ids=["ahead", "back"])
async def test_clock_set_in_mid_run_loses_nothing_and_is_told(
    tmp_path: Path, step_s: int, caplog: pytest.LogCaptureFixture
) -> None:
    gate, light = Script("gate-1", "gate"), Script("lamp-1")
    config = offline_config(tmp_path, sampling={"poll_interval_s": 0.05})
    clock = HandClock()
    # It stands still as the clock does: what passes meanwhile would be taken for a clock set back.
    agent = Agent(config, [gate, light], clock, monotonic=Uptime())
    told: list[Accepted] = []
    agent.accepted = told.append
    expected: list[datetime] = []
    async with measuring(agent):
        for number, shift_s in enumerate((0, step_s, -step_s)):
            clock.step(shift_s + 1)
            light.next = [[lamp("lamp-1", clock.now(), lit=number % 2 == 0)]]
            gate.next = [[Passage("gate-1", clock.now(), "forced")]]
            expected.append(clock.now())
            await eventually(lambda count=2 * number + 2: len(told) >= count, "told")
    events = [one.message.event for one in told if isinstance(one.message, EventMessage)]
    readings = [
        reading
        for one in told
        if isinstance(one.message, Telemetry)
        for reading in one.message.readings
    ]
    assert [one.at for one in events] == expected
    assert set(expected) <= {one.at for one in readings}
    assert [one.seq for one in told if one.lane == "event"] == [1, 2, 3]
    assert caplog.text.count("clock was set") == 2
    agent.close()


async def test_old_telemetry_is_evicted_only_by_a_clock_that_stays_as_it_is(
    tmp_path: Path,
) -> None:
    light = Script("lamp-1")
    config = offline_config(
        tmp_path, sampling={"poll_interval_s": 0.05}, outbox={"max_age_h": 24.0}
    )
    clock, uptime = HandClock(), Uptime()
    agent = Agent(config, [light], clock, monotonic=uptime)
    agent.sample(T0)
    async with measuring(agent):
        clock.step(10 * 365 * 86_400)  # somebody, or something, sets it ten years ahead
        uptime.seconds += 5_000
        polls = light.polls
        await eventually(lambda: light.polls > polls + 2, "goes on")
        assert not agent.outbox.evicted
        clock.step(4_000)
        uptime.seconds += 4_000
        await eventually(lambda: agent.outbox.evicted["telemetry"] == 1, "believed by now")
    (record,) = agent.outbox.pending("event", after=0, limit=9)
    gap = parse_event(record.payload).event
    assert isinstance(gap, GapEvent)
    assert (gap.first, gap.last) == (1, 1)
    agent.close()


def test_event_waits_for_a_disk_that_failed(tmp_path: Path) -> None:
    alarm = Script("alarm-1", "alarm")
    later = T0 + timedelta(seconds=1)
    alarm.next = [
        [AlarmSignal("alarm-1", T0, "smoke", "raised")],
        [AlarmSignal("alarm-1", later, "smoke", "restored")],
    ]
    agent = Agent(offline_config(tmp_path), [alarm], HandClock())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OutboxUnavailable):
            agent.sample(T0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    events = [one.message for one in agent.sample(later) if isinstance(one.message, EventMessage)]
    assert [(one.seq, one.sent_at) for one in events] == [(1, T0), (2, later)]
    alarms = [one.event for one in events if isinstance(one.event, AlarmEvent)]
    assert [one.phase for one in alarms] == ["raised", "restored"]
    assert len({one.occurrence for one in alarms}) == 1
    assert agent.outbox.occurrences() == {}
    agent.close()


def test_second_agent_on_the_same_outbox_is_refused(tmp_path: Path) -> None:
    agent = Agent(offline_config(tmp_path), [], HandClock())
    with pytest.raises(OutboxUnavailable, match="locked"):
        Agent(offline_config(tmp_path), [], HandClock())
    agent.close()


async def test_running_agent_polls_and_publishes(broker: Broker, tmp_path: Path) -> None:
    light = Script("lamp-1")
    config = config_for(tmp_path, broker, "gw-poll", sampling={"poll_interval_s": 0.05})
    agent = Agent(config, [light], clock := HandClock())
    async with server(broker, "gw-poll") as ingest, running(agent, sample=True):
        await eventually(lambda: len(ingest.telemetry) == 1, "first reading")
        polls = light.polls
        await eventually(lambda: light.polls > polls + 3, "polled on")
        assert len(ingest.telemetry) == 1, "unchanged is not repeated"
        clock.step(60)
        await eventually(lambda: len(ingest.telemetry) == 2, "heartbeat")
    agent.close()


async def test_woken_device_is_sampled_at_once_and_alone(broker: Broker, tmp_path: Path) -> None:
    light, alarm = Script("lamp-1"), Script("alarm-1", "alarm")
    config = config_for(tmp_path, broker, "gw-wake", sampling={"poll_interval_s": 3600})
    agent = Agent(config, [light, alarm], HandClock())
    async with server(broker, "gw-wake") as ingest, running(agent, sample=True):
        await eventually(lambda: ingest.telemetry, "first round over")
        alarm.next = [[AlarmSignal("alarm-1", T0, "duress", "raised")]]
        thread = threading.Thread(target=alarm.wake)
        thread.start()
        await eventually(lambda: ingest.events, "alarm arrived, an hour before the next poll")
        thread.join()
        assert light.polls == 1
    agent.close()


async def test_blocking_driver_does_not_hold_up_publishing(broker: Broker, tmp_path: Path) -> None:
    release = threading.Event()

    class Stuck(Script):
        def poll(self, now: datetime) -> Sequence[Observation]:
            super().poll(now)
            release.wait(10)
            return []

    stuck = Stuck("lamp-1")
    config = config_for(
        tmp_path, broker, "gw-slow", sampling={"poll_interval_s": 0.05, "status_interval_s": 1}
    )
    agent = Agent(config, [stuck], HandClock())
    async with server(broker, "gw-slow") as ingest, running(agent, sample=True):
        await eventually(lambda: stuck.polls, "polling")
        await eventually(lambda: len(ingest.statuses) >= 2, "heartbeat goes on")
        release.set()
        await eventually(lambda: stuck.polls > 2, "and so does polling")
    agent.close()


async def test_refused_telemetry_is_told_when_it_begins_and_ends(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Measuring goes on while the outbox is full and nobody stores what it holds."""
    lights = [Script(f"lamp-{number:03d}") for number in range(100)]
    config = config_for(
        tmp_path,
        broker,
        "gw-full",
        sampling={"poll_interval_s": 0.05},
        outbox={"limit_bytes": MEBIBYTE},
    )
    agent = Agent(config, lights, clock := HandClock())
    caplog.set_level(logging.INFO)
    full_of_events(agent)
    with pytest.raises(OutboxFull):
        while True:
            agent.sample(clock.step(60))

    def told(text: str) -> int:
        return sum(text in record.message for record in caplog.records)

    async with server(broker, "gw-full") as ingest, running(agent, sample=True):
        await eventually(lambda: told("nothing is accepted"), "told")
        polls = lights[0].polls
        await eventually(lambda: lights[0].polls > polls + 3, "goes on measuring")
        assert told("nothing is accepted") == 1
        await eventually(lambda: ingest.statuses, "connected")
        events = agent.outbox.lane("event")
        await ingest.ack({events.stream: events.next - 1})
        await eventually(lambda: told("accepting again"), "told its end")
    agent.close()


async def test_history_is_replayed_while_publishing_and_live_follows(
    broker: Broker, tmp_path: Path
) -> None:
    """What simulators do: steps through the past, then the agent's own loop."""
    light = Script("lamp-1")
    config = config_for(
        tmp_path,
        broker,
        "gw-replay",
        sampling={"poll_interval_s": 0.05},
        publishing={"backlog_after_s": 1e9},
    )
    agent = Agent(config, [light], clock := HandClock())
    async with server(broker, "gw-replay") as ingest, running(agent):
        for minutes in range(0, 24 * 60, 10):
            agent.sample(T0 - timedelta(days=1) + timedelta(minutes=minutes))
        depth = agent.outbox.depth()
        assert depth == 144
        while agent.outbox.depth():
            seqs = ingest.lane_seqs("telemetry")
            if seqs:
                await ingest.ack({agent.outbox.lane("telemetry").stream: max(seqs)})
            await asyncio.sleep(0.01)  # lets the agent and the broker work
        assert ingest.lane_seqs("telemetry") == list(range(1, 145))
        live = asyncio.create_task(agent.measure())
        light.next = [[lamp("lamp-1", clock.now(), lit=True)]]
        await eventually(lambda: len(ingest.telemetry) == 145, "live follows")
        live.cancel()
        await asyncio.wait([live])
    agent.close()


async def test_restarted_agent_sends_what_the_last_one_kept(broker: Broker, tmp_path: Path) -> None:
    config = config_for(tmp_path, broker, "gw-again")
    first = Agent(config, [Script("lamp-1")], HandClock())
    kept = [one.payload for one in first.sample(T0)]
    first.close()
    second = Agent(config, [Script("lamp-1")], HandClock())
    async with server(broker, "gw-again") as ingest, running(second):
        await eventually(lambda: ingest.telemetry, "arrived")
        assert [payload for name, payload in ingest.received if name == "telemetry"] == kept
        assert [one.seq for one in second.sample(T0 + timedelta(seconds=1))] == [2]
    second.close()


def test_importing_the_contract_costs_pydantic_alone() -> None:
    code = (
        "import sys, edge_agent.messages, edge_agent.topics\n"
        "print([name for name in ('asyncio', 'ssl', 'sqlite3', 'paho', 'aiomqtt', 'typer')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_agent_needs_nothing_of_the_server() -> None:
    code = (
        "import sys, edge_agent.__main__, edge_agent.drivers.json_file\n"
        "heavy = {'psycopg', 'fastapi', 'cryptography', 'starlette', 'uvicorn', 'astral'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
