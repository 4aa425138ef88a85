# SPDX-License-Identifier: Apache-2.0
"""A city that is not left alone: more than it can take, a backlog, ingest away for a while."""

from __future__ import annotations

import statistics
import time
from typing import Final

import psycopg

from deploy.bench import differences, sampling
from deploy.bench.ingest import ALERT_BUDGET_MS, WRONG_SHOWN, Bench
from deploy.bench.runs import EVENTS_PER_S, SAMPLES_MIN, Ratio, Run, percentiles, short
from deploy.bench.stage import Loading
from simulators.orders import Order

_BACKLOG: Final = 1_000_000
_WARM_S: Final = 35.0
_DRAIN_S: Final = 1_800.0
#: So slow that nothing waits for anything; and so short that no device is taken for silent, which
#: would be the alarm of a whole city.
_IDLE: Final = 0.02
_IDLE_S: Final = 120.0
#: How much of the city goes on while a backlog drains; all of it would leave too little for that.
_BESIDE: Final = 0.25
_POINTS_MIN: Final = 5
_HALF: Final = 0.5
#: While a backlog replays: enough for a p99 of one that is gone in a minute.
_ALARMS_PER_S: Final = 20.0
_WAITING_S: Final = 5.0


def alerts(bench: Bench, load: Loading) -> None:
    """Alert latency with nothing else to do, and while a backlog of telemetry drains."""
    bench.tell("alarms alone")
    seconds = _seconds(bench)
    alone = bench.phase(
        load,
        Order("alarms alone", seconds=min(seconds, _IDLE_S), speed=_IDLE, events_per_s=10,
              probes_per_s=10),
    )  # fmt: skip
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
            limit=min(bench.settings.flow_limit, _BACKLOG // 50),
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


def replay(bench: Bench, load: Loading) -> None:
    """Alert latency at half of the city's load, while a million readings are replayed beside it.

    Who hears telemetry is killed and away until that many wait; alarms are heard all the time.
    """
    stage = bench.stage
    if not stage.telemetry:
        bench.result.notes.append("one process does all of ingest: nothing can be away alone")
        return
    _warm_up(bench, load)
    away_s = min(_BACKLOG / (_HALF * bench.settings.town.rate), _seconds(bench))
    bench.tell(f"telemetry is away for {away_s:.0f} s, half of the city goes on")
    for process in stage.telemetry.values():
        process.kill()
    # One community after the other presses its panic button; again too soon is no new alert.
    order = Order("half of the city while a backlog replays", seconds=away_s + _seconds(bench),
                  speed=_HALF, events_per_s=_ALARMS_PER_S, probes_per_s=EVENTS_PER_S,
                  catch_up_s=_DRAIN_S, drain_s=_DRAIN_S)  # fmt: skip
    load.begin(order)
    begun = time.monotonic()
    time.sleep(away_s)
    bench.tell("a backlog replays beside half of the city")
    _start_ingest(bench)
    back = time.monotonic()
    took = load.end()
    bench.result.wrong += [] if took["drained"] else ["not caught up beside half of the city"]
    bench.result.wrong += bench.differences(load, took, lit=False)
    # While more waits than all gateways say in some seconds, each once a second.
    waiting = [one for one in load.told if one["in_flight"] + one["held"] > _WAITING_S
               * bench.settings.town.communities]  # fmt: skip
    caught_up = begun + waiting[-1]["t"] if waiting else back
    heard = {
        name: due for name, due in took["events"].items() if back <= due <= max(caught_up, back)
    }
    found = bench.latencies({"events": heard, "alerts": took["alerts"]})
    # The bare way through the broker, in order, as often as due.
    bare = slice(*(int((at - begun) * EVENTS_PER_S) for at in (back, caught_up)))
    run = Run(order.name, order.seconds, took["readings"], took["stored_readings"],
              took["messages"], {}, {})  # fmt: skip
    run.told = {
        "events_per_s": _ALARMS_PER_S,
        "alert_ms": percentiles(found),
        "bare_ms": percentiles(sorted(took["probes"][bare])),
        "lag_max_s": short(took["lag_max_s"]),
        "resent": took["resent"],
    }
    bench.result.notes.append(
        f"telemetry was away for {back - begun:.0f} s, the rest of that to start again; what had"
        f" waited was stored {caught_up - back:.0f} s later"
    )
    bench.result.runs.append(run)
    if len(found) < SAMPLES_MIN:
        bench.result.notes.append(
            f"the backlog was gone after {caught_up - back:.0f} s: {len(found)} alarms meanwhile"
        )
        return
    goal = "alert p99 at half of the city's load while a million readings replay, ms"
    p99 = percentiles(found)["p99"]
    bench.result.ratios.append(Ratio(goal, [p99], ALERT_BUDGET_MS, at_most=True))


def burst(bench: Bench, load: Loading) -> None:
    """Three times what is usual: memory stays flat, and in the end everything is stored."""
    seconds = _seconds(bench)
    _warm_up(bench, load)
    bench.tell(f"three times as much, {bench.settings.minutes:g} minutes")
    sampler = sampling.Sampler(bench.pids, bench.stage.dsn)
    sampler.start()
    took = bench.phase(load, Order("three times as much", seconds=seconds, speed=3,
                                   drain_s=_DRAIN_S))  # fmt: skip
    bench.result.samples = samples = sampler.stop()
    run = took["run"]
    rss = [
        sum(one["rss_mb"][name] for name in bench.stage.ingest)
        for one in samples
        if one["t"] <= seconds
    ]
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
    """Ingest is away: how soon all is stored, alone and while a part of the city goes on."""
    _warm_up(bench, load)
    _catch_up(bench, load)
    _catch_up_beside(bench, load)


def _warm_up(bench: Bench, load: Loading) -> None:
    """Have every device heard once; no figure of a short run is worth that."""
    if bench.settings.comparable:
        bench.tell("warm-up")
        load.run(Order("warm-up", seconds=min(_WARM_S, _seconds(bench)), drain_s=_DRAIN_S))


def _seconds(bench: Bench) -> float:
    return 60 * bench.settings.minutes


def _catch_up(bench: Bench, load: Loading) -> None:
    """Let it catch up with nothing else to do."""
    seconds = _seconds(bench)
    bench.tell(f"ingest is away for {bench.settings.minutes:g} minutes")
    bench.stage.end_ingest(killed=True)
    away = load.run(Order("ingest away", seconds=seconds, drain_s=0))
    bench.tell("ingest catches up")
    _start_ingest(bench)
    started = time.monotonic()
    caught_up = load.drain(_DRAIN_S)
    took_s = time.monotonic() - started
    bench.result.notes.append(
        f"what was due in {seconds:g} s was stored {took_s:.0f} s after ingest was ready again;"
        f" {away['readings']:,} readings of it had been sent, the rest was held back"
    )
    bench.result.wrong += [] if caught_up else ["not caught up"]
    bench.result.wrong += bench.differences(load, away)
    bench.result.ratios.append(Ratio("catch-up after an outage / live rate", [seconds / took_s], 5))


def _catch_up_beside(bench: Bench, load: Loading) -> None:
    """Let it catch up while a part of the city goes on; beside that, as fast as it can at all."""
    seconds = _seconds(bench) / 2
    bench.tell(f"ingest is away again; {_BESIDE:.0%} of the city go on when it is back")
    bench.stage.end_ingest(killed=True)
    order = Order("backlog beside live traffic", seconds=seconds, speed=_BESIDE,
                  catch_up_s=_DRAIN_S, drain_s=_DRAIN_S)  # fmt: skip
    load.begin(order)
    begun = time.monotonic()
    time.sleep(seconds)
    _start_ingest(bench)
    back_s = time.monotonic() - begun
    took = load.end()
    bench.result.wrong += [] if took["drained"] else ["not caught up beside live traffic"]
    # From its return to the first second in which no gateway holds anything back any more.
    held = [one for one in load.told if one["t"] >= back_s and one["held"]]
    batch = max(1, round(took["readings"] / max(1, took["messages"])))
    bench.tell(f"as fast as it can, {batch} a message")
    run, most = bench.flow(load, batch)
    run.name = f"as fast as it can, {batch} a message"
    bench.result.runs.append(run)
    with psycopg.connect(bench.stage.dsn) as conn:
        found = differences.missing_seqs(conn, load.ledger())
        found += differences.missing_readings(conn, load.ledger())
    bench.result.wrong += found[:WRONG_SHOWN]
    if len(held) < _POINTS_MIN:
        bench.result.notes.append("too little was held back to tell how fast it drained")
        return
    stored = held[-1]["stored_readings"] - held[0]["stored_readings"]
    rate = stored / (held[-1]["t"] - held[0]["t"])
    bench.result.notes.append(
        f"beside {_BESIDE:.0%} of the city, {stored:,} readings were stored in"
        f" {held[-1]['t'] - held[0]['t']:.0f} s, {rate:,.0f} a second; {most:,.0f} at most"
    )
    goal = "8 stored/s while a backlog drains beside live traffic / at most"
    bench.result.compare(goal, [rate], [most], 0.8)


def _start_ingest(bench: Bench) -> None:
    bench.stage.start_ingest()
    bench.pids |= {name: one.pid for name, one in bench.stage.ingest.items()}
