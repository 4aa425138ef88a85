# SPDX-License-Identifier: Apache-2.0
"""Real agents, a real broker: the past is replayed, live operation follows, nothing is missed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edge_agent.clock import SystemClock
from edge_agent.kinds.alarm import AlarmEvent
from edge_agent.kinds.base import EventBase
from edge_agent.kinds.gate import GateEvent
from edge_agent.messages import ClockQuality
from simulators import members
from simulators.fleet import Fleet
from simulators.registry import build
from simulators.scenario import History, Live, Scenario, Scripted, find, load
from simulators.spans import HOUR, instant, micros
from simulators.truth import FILE, Ledger, settle
from simulators.world import World
from tests.services import Broker
from tests.simulators.archive import Archive, Name, archive
from tests.simulators.town import NOON, SEED

# Whole programs are started, and half a day is lived through.
pytestmark = pytest.mark.timeout(300)

GATEWAYS = ("gw-c01-a", "gw-c01-b")


class Later:
    """A clock that shows another day, and goes on from there."""

    def __init__(self, at: datetime) -> None:
        self._ahead = at - instant(0) - timedelta(seconds=time.monotonic())

    def now(self) -> datetime:
        return instant(0) + self._ahead + timedelta(seconds=time.monotonic())

    def quality(self) -> ClockQuality:
        return "synchronized"


class Town:
    """One community's fleet on one data folder, as often as it is started."""

    def __init__(self, folder: Path, broker: Broker, scenario: Scenario) -> None:
        self.folder = folder
        self.scenario = scenario
        self.clock = Later(instant(NOON + 30 * HOUR))
        self.told: list[Mapping[str, object]] = []
        self._stop: tuple[str, Fleet] | None = None
        for gateway in GATEWAYS:
            broker.identity(gateway)
        self.broker = members.Broker(broker.host, broker.port, broker.ca, broker.services)

    def fleet(self, ledger: Ledger) -> Fleet:
        since = self.clock.now() - timedelta(hours=self.scenario.history.hours)
        since_us = int(ledger.agree("in_service_us", micros(since)))
        world = World(SEED, build(SEED, 1, instant(since_us)), ledger.faults())
        return Fleet(
            self.scenario,
            world,
            ledger,
            self.broker,
            self.folder,
            self.clock,
            self.hear,
        )

    def hear(self, said: Mapping[str, object]) -> None:
        self.told.append(said)
        if self._stop is not None and said.get(self._stop[0]):
            self._stop[1].stop()

    def stop_at(self, word: str, fleet: Fleet) -> None:
        """Stop a fleet when it first says this of its progress."""
        self._stop = word, fleet

    @property
    def phases(self) -> list[object]:
        return [one["phase"] for one in self.told]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / FILE)
    yield made
    made.close()


def accepted(file: Path) -> list[tuple[Name, str, int]]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT gateway, stream, seq, device, at_us FROM accepted").fetchall()
    return [(Name(*row[:3]), row[3], row[4]) for row in rows]


def agree(ledger: Path, heard: Archive) -> None:
    """What was accepted is what was heard: by message, and inside messages by fact."""
    rows = accepted(ledger)
    assert {name for name, _, _ in rows} == set(heard.messages)
    facts = Counter((device, at) for _, device, at in rows)
    events = [one for one in heard.events if isinstance(one, EventBase)]
    assert facts == Counter((one.device, micros(one.at)) for one in (*heard.readings, *events))
    for stream, seqs in heard.seen.items():
        assert seqs == set(range(1, heard.watermark(stream) + 1))


async def test_past_then_live_then_a_last_word(
    tmp_path: Path, broker: Broker, ledger: Ledger
) -> None:
    script = (
        Scripted(fault="gate_held_open", at_s=0.3, for_s=60),
        Scripted(fault="alarm", detail="panic", at_s=0.5, for_s=60),
        Scripted(fault="bin_fire", at_s=0.7, for_s=90),
    )
    town = Town(
        tmp_path, broker, Scenario(name="x", history=History(hours=2), live=Live(script=script))
    )
    fleet = town.fleet(ledger)
    async with archive(broker) as heard:
        assert await fleet.run(1.5)
    agree(ledger.file, heard)
    # The past in steps, with every change in between at its own instant.
    steps = {one.at for one in heard.readings if one.device == "c01-lamp-060"}
    assert len(steps) >= 13
    assert len({one.at for one in heard.readings}) > 4 * len(steps)
    assert town.phases[-1] == "live"
    last = next(one for one in reversed(town.told) if one["phase"] == "history")
    assert last["done"] == last["total"] == 14
    # What happened live was told to the microsecond, and at once.
    ((live_from, live_to),) = ledger.sessions()
    assert live_to - live_from >= 1_500_000
    (held,) = [
        one for one in heard.events if isinstance(one, GateEvent) and one.event == "held_open"
    ]
    (panic,) = [one for one in heard.events if isinstance(one, AlarmEvent)]
    assert (micros(held.at), micros(panic.at)) == (live_from + 300_000, live_from + 500_000)
    # Everybody's last word is that of the end.
    latest = {one.device: one.at for one in heard.readings}
    assert set(latest.values()) == {instant(live_to)}
    world = World(SEED, build(SEED, 1, instant(live_from - 2 * HOUR)), ledger.faults())
    assert settle(ledger, world).alerts == 3


async def test_a_timetable_is_played_by_the_clock(
    tmp_path: Path, broker: Broker, ledger: Ledger
) -> None:
    timetable = """
      0   | gw-east falls silent
      0.2 | tank-3  water x3
      0.6 | lodge   panic
      0.8 | gate-n  forced
      1.8 | gw-east is back
    """
    scenario = load(find("night")).model_copy(
        update={"live": Live.model_validate({"timetable": timetable})}
    )
    clock = SystemClock()
    world = World(SEED, scenario.city(clock.now()))
    for gateway in world.city.gateways:
        broker.identity(gateway.gateway)
    place = members.Broker(broker.host, broker.port, broker.ca, broker.services)
    lines: list[str] = []

    def hear(said: Mapping[str, object]) -> None:
        if said["phase"] == "timetable":
            lines.append(str(said["line"]))
            if len(lines) == len(scenario.live.timetable):
                fleet.stop()

    fleet = Fleet(scenario, world, ledger, place, tmp_path, clock, hear)
    async with archive(broker) as heard:
        assert await fleet.run()
    agree(ledger.file, heard)
    assert lines == [str(line) for line in scenario.live.timetable]
    ((live_from, _),) = ledger.sessions()
    ((cut, cut_us, mended_us),) = ledger.outages()
    assert cut == "gw-east"
    # Each at its second or, on a machine that has much to do, after it.
    assert live_from <= cut_us
    assert live_from + 1_800_000 <= mended_us
    # What was told behind the cut link came when it was mended, with the instants of its own.
    alarms = [one for one in heard.events if isinstance(one, AlarmEvent)]
    phases = defaultdict[str, list[str]](list)
    for one in sorted(alarms, key=lambda one: one.at):
        phases[one.device].append(one.phase)
    assert phases == {"tank-3": ["raised", "restored"] * 3, "lodge": ["raised"]}
    assert all(cut_us < micros(one.at) < mended_us for one in alarms)
    assert min(micros(one.at) for one in alarms if one.device == "lodge") > live_from + 600_000
    (forced,) = [one for one in heard.events if isinstance(one, GateEvent)]
    assert (forced.device, forced.event) == ("gate-n", "forced")
    # Three times in each reporting period: nobody is silent for a poll that came late.
    assert {one.kind for one in heard.readings} == {"lamp", "gate", "alarm"}
    lamps = Counter(one.device for one in heard.readings if one.kind == "lamp")
    assert len(lamps) == 200
    assert min(lamps.values()) >= 2


async def test_stopped_in_the_past_and_started_again(
    tmp_path: Path, broker: Broker, ledger: Ledger
) -> None:
    rates = {"bin_overfull": 4.0, "gate_held_open": 4.0, "alarm": 4.0, "device_dead": 4.0}
    scenario = Scenario(name="x", history=History(hours=14, a_day=rates))
    town = Town(tmp_path, broker, scenario)
    first = town.fleet(ledger)
    async with archive(broker) as heard:
        town.stop_at("done", first)
        assert await first.run()
        assert "live" not in town.phases
        before = len(heard.messages)
        assert before
        assert await town.fleet(ledger).run(0)
    assert town.phases[-1] == "live"
    assert len(heard.messages) > before
    agree(ledger.file, heard)
    # The second run went on where the first had stopped: no instant of a device twice.
    assert max(Counter((one.device, one.at) for one in heard.readings).values()) == 1
    alarms = [one for one in heard.events if isinstance(one, AlarmEvent) and one.phase != "test"]
    occurrences = Counter(one.occurrence for one in alarms)
    assert set(occurrences.values()) == {2}


async def test_killed_and_started_again(tmp_path: Path, broker: Broker) -> None:
    for gateway in GATEWAYS:
        broker.identity(gateway)
    command = [sys.executable, "-m", "simulators", "run", "quick"]
    command += ["--broker-host", broker.host, "--broker-port", str(broker.port)]
    command += ["--ca", str(broker.ca), "--certificates", str(broker.services)]
    command += ["--data", str(tmp_path), "--history-hours", "12", "--seconds", "1"]

    async def run(until: str | None) -> tuple[int, list[dict[str, Any]]]:
        """Start it; kill it when it says ``until``."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        told: list[dict[str, Any]] = []
        assert process.stdout is not None
        async for line in process.stdout:
            told.append(json.loads(line))
            if until is not None and told[-1].get(until):
                process.send_signal(signal.SIGKILL)
        return await process.wait(), told

    async with archive(broker) as heard:
        status, told = await run("done")
        assert status == -signal.SIGKILL
        assert told[-1]["phase"] == "history"
        status, told = await run("at")
        assert status == -signal.SIGKILL
        assert told[-1]["phase"] == "live"
        status, told = await run(None)
    assert status == 0
    assert told[-1]["phase"] == "stopped"
    assert told[-1]["drained"]
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        unrecorded = db.execute("SELECT gateway, stream, seq FROM unrecorded").fetchall()
        names = db.execute("SELECT DISTINCT gateway, stream, seq FROM accepted").fetchall()
    assert {Name(*row) for row in (*names, *unrecorded)} == set(heard.messages)
    assert not set(names) & set(unrecorded)
