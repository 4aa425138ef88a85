# SPDX-License-Identifier: Apache-2.0
"""``linli-sim``: write the registry of a simulated city, run a scenario, settle its ledger."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from edge_agent.clock import SystemClock
from edge_agent.errors import EdgeError
from simulators import registry
from simulators.errors import LedgerError, ScenarioError, SimulatorError
from simulators.fleet import Fleet
from simulators.members import Broker
from simulators.registry import COMMUNITIES_MAX
from simulators.scenario import Scenario, change, find, load
from simulators.spans import instant, micros
from simulators.town import Town
from simulators.truth import FILE, Ledger, settle
from simulators.world import World

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

EXIT_USAGE = 2

Seed = Annotated[int | None, typer.Option(min=0, help="Overrides the scenario's seed.")]
Communities = Annotated[
    int | None, typer.Option(min=1, max=COMMUNITIES_MAX, help="Overrides the scenario's number.")
]
Data = Annotated[Path, typer.Option(help="Folder of the outboxes and the ledger.")]


@app.command("registry")
def write_registry(
    out: Annotated[Path, typer.Option(help="Folder for the CSV files.")],
    in_service_from: Annotated[
        str | None, typer.Option(help="ISO instant with a zone; by default a day ago.")
    ] = None,
    scenario: Annotated[str, typer.Option(help="Whose city.")] = "community_day",
    communities: Communities = None,
    seed: Seed = None,
) -> None:
    """Write the registry files of a simulated city."""
    since = datetime.now(UTC) - timedelta(days=1)
    if in_service_from is not None:
        since = _instant(in_service_from)
    try:
        chosen = change(load(find(scenario)), seed=seed, communities=communities)
    except SimulatorError as error:
        _refuse(error)
    for file in registry.write(chosen.city(since), out):
        print(file)


@app.command()
def run(
    scenario: Annotated[
        str, typer.Argument(help="A scenario file, or the name of one that comes with Linli.")
    ],
    broker_host: Annotated[
        list[str], typer.Option(help="Repeatable: the nodes of one broker, tried in turn.")
    ],
    broker_port: Annotated[int, typer.Option(min=1, max=65_535)],
    ca: Annotated[Path, typer.Option(help="The authority that vouches for the broker.")],
    certificates: Annotated[Path, typer.Option(help="Holds <gateway>.crt and <gateway>.key.")],
    data: Data,
    seed: Seed = None,
    communities: Communities = None,
    history_hours: Annotated[
        float | None, typer.Option(min=0, max=720, help="How much of the past to replay.")
    ] = None,
    registry_folder: Annotated[
        Path | None,
        typer.Option(
            "--registry", help="Folder of the registry files: since when devices are in service."
        ),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop by itself after being live for this long.")
    ] = None,
    on_cue: Annotated[
        bool,
        typer.Option(
            "--on-cue",
            help="Play each line of the timetable when a line comes on standard input, not by"
            " the clock.",
        ),
    ] = False,
) -> None:
    """Replay the past of a city, then keep it alive until stopped.

    Tells how far it is as JSON, one object a line, on standard output. SIGTERM or SIGINT ends it
    in good order: lines are mended, everything accepted is delivered, the ledger is settled. A
    second one ends it at once, which costs nothing but the settlement.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr
    )
    try:
        chosen = change(
            load(find(scenario)), seed=seed, communities=communities, history_hours=history_hours
        )
        ledger = Ledger(data / FILE)
        world = _world(ledger, chosen, registry_folder)
        broker = Broker(broker_host[0], broker_port, ca, certificates, tuple(broker_host[1:]))
        broker.check(gateway.gateway for gateway in world.city.gateways)
    except SimulatorError as error:
        _refuse(error)
    fleet = Fleet(chosen, world, ledger, broker, data, SystemClock(), _tell, on_cue=on_cue)
    accepted_before = ledger.accepted
    try:
        drained = asyncio.run(_until_stopped(fleet, seconds))
    except EdgeError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    settlement = settle(ledger, world)
    _tell(
        {
            "phase": "stopped",
            "accepted": ledger.accepted - accepted_before,
            "drained": drained,
            "lamp_nights": settlement.lamp_nights,
            "expected_alerts": settlement.alerts,
        }
    )
    ledger.close()


@app.command("settle")
def settle_again(data: Data) -> None:
    """Settle the ledger of a run that was ended by force."""
    try:
        ledger = Ledger(data / FILE)
        world = _known_world(ledger)
    except SimulatorError as error:
        _refuse(error)
    settlement = settle(ledger, world)
    _tell({"lamp_nights": settlement.lamp_nights, "expected_alerts": settlement.alerts})
    ledger.close()


async def _until_stopped(fleet: Fleet, seconds: float | None) -> bool:
    loop = asyncio.get_running_loop()
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            # At once: what is on disk is enough to go on from.
            os._exit(1)
        fleet.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if fleet.on_cue:
        loop.add_reader(sys.stdin.fileno(), _hear, loop, fleet.cue)
    return await fleet.run(seconds)


def _hear(loop: asyncio.AbstractEventLoop, cue: Callable[[], None]) -> None:
    """Pass on a cue for each line of standard input, until it ends."""
    said = os.read(sys.stdin.fileno(), 4_096)
    for _ in range(said.count(b"\n")):
        cue()
    if not said:
        loop.remove_reader(sys.stdin.fileno())


def _world(ledger: Ledger, scenario: Scenario, registry_folder: Path | None) -> World:
    """Return the world that the ledger belongs to; a new ledger takes the scenario's.

    Raises:
        LedgerError: The ledger belongs to another one.
        ScenarioError: The registry folder holds no registry of ours.
    """
    since = datetime.now(UTC) - timedelta(hours=scenario.history.hours)
    if registry_folder is not None:
        since = registry.in_service_from(registry_folder)
    ledger.own(scenario.seed, scenario.communities)
    town = "" if scenario.town is None else scenario.town.model_dump_json()
    if ledger.agree("town", town) != town:
        raise LedgerError(f"{ledger.file}: belongs to another town; choose another folder")
    since_us = int(ledger.agree("in_service_us", micros(since)))
    return World(scenario.seed, scenario.city(instant(since_us)), ledger.faults())


def _known_world(ledger: Ledger) -> World:
    seed, communities = ledger.owner()
    since_us = int(ledger.get("in_service_us") or 0)
    known = ledger.get("town")
    town = Town.model_validate_json(known) if known else None
    scenario = Scenario(name="settled", seed=seed, communities=communities, town=town)
    return World(seed, scenario.city(instant(since_us)), ledger.faults())


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no ISO 8601 instant") from error
    if at.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone; write for example {text}Z")
    return at


def _tell(progress: Mapping[str, object]) -> None:
    print(json.dumps(progress), flush=True)


def _refuse(error: SimulatorError) -> NoReturn:
    lines = error.mistakes if isinstance(error, ScenarioError) else [str(error)]
    for line in lines:
        print(line, file=sys.stderr)
    raise typer.Exit(EXIT_USAGE) from error


def main() -> None:
    """Run the command line."""
    app(prog_name="linli-sim")


if __name__ == "__main__":
    main()
