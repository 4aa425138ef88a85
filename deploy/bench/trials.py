# SPDX-License-Identifier: Apache-2.0
"""A city that is not left alone: more than it can take, a backlog, ingest away for a while."""

from __future__ import annotations

import statistics
import time
from typing import Final

from deploy.bench import sampling
from deploy.bench.ingest import SAMPLES_MIN, Bench, Ratio, percentiles
from deploy.bench.stage import Loading
from simulators.load import Order

_BACKLOG: Final = 1_000_000
_WARM_S: Final = 35.0
_DRAIN_S: Final = 1_800.0
#: So slow that nothing waits for anything.
_IDLE: Final = 0.02


def alerts(bench: Bench, load: Loading) -> None:
    """Alert latency with nothing else to do, and while a backlog of telemetry drains."""
    bench.tell("alarms alone")
    seconds = max(60 * bench.settings.minutes, 10.0)
    alone = bench.phase(
        load,
        Order("alarms alone", seconds=seconds, speed=_IDLE, events_per_s=10, probes_per_s=10),
    )
    bench.tell("alarms while a backlog drains")
    rate = bench.settings.town.rate
    loaded = bench.phase(
        load,
        Order(
            "alarms while a backlog drains",
            pace="flow",
            seconds=seconds,
            since=time.time() - 200,
            speed=40_000 / rate,
            batch=50,
            limit=min(12_000, _BACKLOG // 50),
            events_per_s=10,
            drain_s=_DRAIN_S,
        ),
    )
    times = [bench.latencies(one) for one in (alone, loaded)]
    for took, found in zip((alone, loaded), times, strict=True):
        run = took["run"]
        run.told = {"alert_ms": percentiles(found), "bare_ms": percentiles(sorted(took["probes"]))}
        bench.result.runs.append(run)
    bench.result.wrong += bench.differences(
        load, {name: {**alone[name], **loaded[name]} for name in ("events", "alerts")}, lit=False
    )
    bare = sorted(alone["probes"])
    if min(len(bare), *map(len, times)) < SAMPLES_MIN:
        bench.result.notes.append(f"too short for a p99: {SAMPLES_MIN} samples each")
        return
    p99, p99_loaded, p99_bare = (percentiles(found)["p99"] for found in (times[0], times[1], bare))
    bench.result.ratios += [
        Ratio("7 alert p99 while a backlog drains / alone", [p99_loaded / p99], 3, at_most=True),
        Ratio("7 alert p99 alone less bare, ms", [p99 - p99_bare], 50, at_most=True),
    ]


def burst(bench: Bench, load: Loading) -> None:
    """Three times what is usual: memory stays flat, and in the end everything is stored."""
    seconds = 60 * bench.settings.minutes
    bench.tell("warm-up")
    load.run(Order("warm-up", seconds=min(_WARM_S, seconds), drain_s=_DRAIN_S))
    bench.tell(f"three times as much, {bench.settings.minutes:g} minutes")
    sampler = sampling.Sampler(bench.pids, bench.stage.dsn)
    sampler.start()
    took = bench.phase(load, Order("three times as much", seconds=seconds, speed=3,
                                   drain_s=_DRAIN_S))  # fmt: skip
    bench.result.samples = samples = sampler.stop()
    run = took["run"]
    rss = [one["rss_mb"]["ingest"] for one in samples if one["t"] <= seconds]
    run.rss_mb = {name: max(one["rss_mb"][name] for one in samples) for name in bench.pids}
    run.told = {"drain_s": round(took["drain_seconds"], 1), "resent": took["resent"]}
    bench.result.runs.append(run)
    bench.result.wrong += [] if took["drained"] else ["not drained"]
    bench.result.wrong += bench.differences(load, took)
    if len(rss) >= 180:
        flat = statistics.mean(rss[-60:]) / statistics.mean(rss[60:120])
        bench.result.ratios.append(
            Ratio("9 resident memory of ingest, last minute / second", [flat], 1.05, at_most=True)
        )
    bench.result.ratios.append(Ratio("9 stored in the end", [float(took["drained"])], 1))


def outage(bench: Bench, load: Loading) -> None:
    """Ingest is killed and away; then it catches up while the city goes on."""
    seconds = 60 * bench.settings.minutes
    bench.tell("warm-up")
    load.run(Order("warm-up", seconds=min(_WARM_S, seconds), drain_s=_DRAIN_S))
    bench.tell(f"ingest is away for {bench.settings.minutes:g} minutes")
    bench.stage.processes["ingest"].kill()
    away = load.run(Order("ingest away", seconds=seconds, drain_s=0))
    bench.tell("ingest catches up")
    bench.stage.start_ingest()
    bench.pids["ingest"] = bench.stage.processes["ingest"].pid
    started = time.monotonic()
    caught_up = load.drain(_DRAIN_S)
    took_s = time.monotonic() - started
    bench.result.notes.append(
        f"{away['readings']:,} readings of {seconds:g} s were stored {took_s:.0f} s after ingest"
        " was ready again"
    )
    bench.result.wrong += [] if caught_up else ["not caught up"]
    bench.result.wrong += bench.differences(load, away)
    bench.result.ratios.append(Ratio("catch-up after an outage / live rate", [seconds / took_s], 5))
