# SPDX-License-Identifier: Apache-2.0
"""The same city with one ingest process and with two by partition: what a reading costs in each."""

from __future__ import annotations

from typing import Final

from deploy.bench.ingest import Bench
from deploy.bench.runs import Ratio, Run
from deploy.bench.stage import Loading
from deploy.services import HOST
from ingest.consumer import forget_session
from ingest.pki import identity_of
from simulators.orders import Order

#: Each once in a round; with two, events and keepers have a process of their own beside them.
LAYOUTS: Final = (1, 2)
_ROUNDS: Final = 3
# Nights are opened again at each start, a thousand lamps at a time.
_WARM_S: Final = 90.0
_DRAIN_S: Final = 900.0
_SERVER: Final = ("broker", "database")


def partitions(bench: Bench, load: Loading) -> None:
    """CPU of a reading with one process and with two, in turns, at the city's own rate."""
    settings, result = bench.settings, bench.result
    seconds = 60 * settings.minutes
    own: dict[int, list[float]] = {}
    server: dict[int, list[float]] = {}
    took = None
    for turn in range(1, (_ROUNDS if settings.comparable else 1) + 1):
        for processes in LAYOUTS:
            name = "one process" if processes == 1 else f"{processes} by partition"
            bench.tell(f"round {turn}: {name}")
            arrange(bench, processes)
            load.run(Order("warm-up", seconds=min(_WARM_S, seconds), drain_s=_DRAIN_S))
            took = bench.phase(load, Order(name, seconds=seconds, drain_s=_DRAIN_S))
            run: Run = took["run"]
            result.runs.append(run)
            result.wrong += [] if took["drained"] else [f"{name}: not drained"]
            own.setdefault(processes, []).append(_cpu(run))
            server.setdefault(processes, []).append(_cpu(run, *_SERVER))
    assert took is not None
    result.wrong += bench.differences(load, took, lit=False)
    for goal, found in (
        ("16 CPU of a reading, two processes / one, broker and database with them", server),
        ("16 CPU of a reading, two processes / one, ingest alone", own),
    ):
        ratios = [two / one for one, two in zip(found[1], found[2], strict=True)]
        result.ratios.append(Ratio(goal, ratios, 1.15, at_most=True))


def _cpu(run: Run, *besides: str) -> float:
    """Seconds a million readings, of all ingest processes and of what is named."""
    return sum(one for name, one in run.cpu.items() if name.startswith("ingest") or name in besides)


def arrange(bench: Bench, processes: int) -> None:
    """Have ingest run as ``--ingest-processes`` says, ready; what ran before is ended."""
    stage = bench.stage
    stage.end_ingest()
    for name in stage.ingest:
        bench.pids.pop(name, None)
    for number in range(processes, max(LAYOUTS)):
        forget_session(
            identity_of("telemetry", number),
            HOST,
            stage.broker.port,
            ca=stage.broker.ca,
            certificates=stage.broker.services,
        )
    stage.ingest_processes = processes
    stage.start_ingest()
    bench.pids |= {name: one.pid for name, one in stage.ingest.items()}
    stage.check()
