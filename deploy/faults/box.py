# SPDX-License-Identifier: Apache-2.0
"""One gateway's real agent over made-up devices, with the ledger of what it accepted.

A process of its own, ``python -m deploy.faults.box``: what ``linli-edge run`` does, and beside it
the ledger's file. Its devices are busy: every poll tells something new of each. SIGTERM lets it
drain: it measures no more, and ends with status 0 when all it accepted is known as stored.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from edge_agent.__main__ import load_driver
from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import load
from edge_agent.errors import ConfigError
from edge_agent.kinds import Observation
from edge_agent.kinds.alarm import AlarmReading, AlarmSignal
from edge_agent.kinds.bin import BinReading, DepositEvent
from edge_agent.kinds.gate import GateReading, Passage
from edge_agent.kinds.lamp import LampReading
from edge_agent.outbox import LANES, Accepted
from simulators.truth import Ledger

DRAIN_MAX_S = 60.0
_LOOK_S = 0.02
EXIT_NOT_DRAINED = 3

app = typer.Typer(add_completion=False)


def make(device: str, options: Mapping[str, Any]) -> Busy:
    """Return the driver of one made-up device; options: ``kind``."""
    return Busy(device, options["kind"])


class Busy:
    """A device that has something new to tell at every poll, and now and then an event."""

    EVENT_SHARE: Final = 0.03
    ALARM_SHARE: Final = 0.2

    def __init__(self, device: str, kind: str) -> None:
        """Take the id and the class."""
        self._device = device
        self._kind = kind
        self._raised = False

    @property
    def device(self) -> str:
        """The device's id."""
        return self._device

    @property
    def kind(self) -> str:
        """The device's class."""
        return self._kind

    def attach(self, wake: Callable[[], None]) -> None:
        """Ignore ``wake``: there is something new at every poll."""

    def poll(self, now: datetime) -> Sequence[Observation]:
        """Return what is new, and by chance an event."""
        chance = random.Random(f"{self._device} {now}")  # noqa: S311 - not for secrets
        device = self._device
        share = self.ALARM_SHARE if self._kind == "alarm" else self.EVENT_SHARE
        happens = chance.random() < share
        match self._kind:
            case "lamp":
                return [
                    # Digits that no compression makes smaller: an outbox fills in no time.
                    LampReading(
                        device=device,
                        at=now,
                        lit=True,
                        power_w=chance.uniform(30, 90),
                        voltage_v=chance.uniform(210, 240),
                        current_a=chance.random(),
                        energy_kwh=chance.uniform(1_000, 9_000),
                        burn_hours=chance.uniform(0, 9_000),
                        lux=chance.uniform(0, 900),
                        battery_pct=chance.uniform(0, 100),
                        solar_w=chance.uniform(0, 300),
                    )
                ]
            case "bin":
                reading = BinReading(
                    device=device, at=now, fill_pct=chance.uniform(0, 60), lid_open=happens
                )
                weight_kg = chance.uniform(0, 10)
                deposit = DepositEvent(device=device, at=now, weight_kg=weight_kg)
                return [deposit, reading] if happens else [reading]
            case "gate":
                reading = GateReading(device=device, at=now, door="open" if happens else "closed")
                passage = Passage(device, now, "granted", "in", str(chance.randrange(10**8)))
                return [passage, reading] if happens else [reading]
            case _:
                reading = AlarmReading(device=device, at=now, armed=True)
                if not happens:
                    return [reading]
                self._raised = not self._raised
                phase = "raised" if self._raised else "restored"
                return [AlarmSignal(device, now, "intrusion", phase), reading]


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="The agent's TOML file.")],
    truth: Annotated[Path, typer.Option(help="The ledger; made if it is not there.")],
) -> None:
    """Measure and publish until SIGTERM, then drain."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    ledger = Ledger(truth)
    try:
        settings = load(config, os.environ)
        drivers = [load_driver(one) for one in settings.devices]
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    agent = Agent(settings, drivers, SystemClock())
    gateway = settings.gateway

    def take(one: Accepted) -> None:
        ledger.accept(gateway, one.lane, one.stream, one.seq, one.payload)
        ledger.commit()

    agent.accepted = take
    for lane in LANES:
        state = agent.outbox.lane(lane)
        held = agent.outbox.pending(lane, after=0, limit=state.held)
        ledger.take_over(
            gateway, lane, state.stream, state.next, [(one.seq, one.payload) for one in held]
        )
    drained = asyncio.run(_until_drained(agent))
    agent.close()
    ledger.close()
    raise typer.Exit(0 if drained else EXIT_NOT_DRAINED)


async def _until_drained(agent: Agent) -> bool:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with asyncio.TaskGroup() as tasks:
        publishing = tasks.create_task(agent.run(sample=False))
        measuring = tasks.create_task(agent.measure())
        await stopping.wait()
        measuring.cancel()
        await asyncio.wait([measuring])
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_MAX_S):
                await _look_until_empty(agent)
        drained = agent.outbox.depth() == 0
        publishing.cancel()
    return drained


async def _look_until_empty(agent: Agent) -> None:
    """Return when nothing is left; an outbox does not call, it is looked at."""
    while True:
        if agent.outbox.depth() == 0:
            return
        await asyncio.sleep(_LOOK_S)


if __name__ == "__main__":
    app()
