# SPDX-License-Identifier: Apache-2.0
"""The whole agent of one gateway, with scripted hardware and a real broker."""

from __future__ import annotations

import asyncio
import logging
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from edge_agent.agent import Agent
from edge_agent.errors import OutboxFull, OutboxUnavailable
from edge_agent.kinds import Observation
from edge_agent.kinds.alarm import AlarmEvent, AlarmSignal
from edge_agent.kinds.gate import Passage
from edge_agent.messages import EventMessage, Telemetry
from edge_agent.outbox import Accepted
from tests.edge_agent.rig import (
    T0,
    HandClock,
    Script,
    config_for,
    eventually,
    lamp,
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


def test_full_outbox_refuses_telemetry_loudly_and_still_takes_events(tmp_path: Path) -> None:
    lights = [Script(f"lamp-{number:03d}") for number in range(100)]
    gate = Script("gate-1", "gate")
    config = offline_config(tmp_path, outbox={"limit_bytes": MEBIBYTE})
    agent = Agent(config, [*lights, gate], HandClock())
    told: list[Accepted] = []
    agent.accepted = told.append
    now = T0
    with pytest.raises(OutboxFull):
        while True:
            now += timedelta(seconds=60)
            agent.sample(now)
    full = agent.outbox.depth()
    told.clear()
    gate.next = [[Passage("gate-1", now, "forced")]]
    with pytest.raises(OutboxFull):
        agent.sample(now + timedelta(seconds=60))
    assert [one.lane for one in told] == ["event"]
    assert agent.outbox.depth() == full + 1

    telemetry = agent.outbox.lane("telemetry")
    agent.outbox.discard(telemetry.stream, telemetry.next - 1)
    (accepted,) = agent.sample(now + timedelta(seconds=61))
    assert isinstance(accepted.message, Telemetry)
    assert len(accepted.message.readings) == 100, "what was refused is reported as it is now"
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
        started = time.monotonic()
        thread = threading.Thread(target=alarm.wake)
        thread.start()
        await eventually(lambda: ingest.events, "alarm arrived", every_s=0.001)
        assert time.monotonic() - started < 2.0
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
        telemetry = agent.outbox.lane("telemetry")
        await ingest.ack({telemetry.stream: telemetry.next - 1})
        await eventually(lambda: told("accepting again"), "told its end")
    agent.close()


async def test_history_is_replayed_while_publishing_and_live_follows(
    broker: Broker, tmp_path: Path
) -> None:
    """What simulators do: steps through the past, then the agent's own loop."""
    light = Script("lamp-1")
    config = config_for(tmp_path, broker, "gw-replay", sampling={"poll_interval_s": 0.05})
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
