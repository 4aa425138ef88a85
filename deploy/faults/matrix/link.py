# SPDX-License-Identifier: Apache-2.0
"""Faults of the line between gateways and broker; everything passes a proxy."""

from __future__ import annotations

import time

from deploy.faults.ground import until
from deploy.faults.proxy import Direction, Weather
from deploy.faults.run import Run, fault


@fault("F12", "partition: no connection at all", takes_s=14)
def partition(run: Run) -> None:
    """Messages wait in outboxes."""
    run.found()
    line = run.before_broker()
    run.begin()
    cut = 0
    for _ in run.times():
        run.flow()
        cut += line.cut(refuse=True)
        refused = line.accepted
        time.sleep(60.0 if run.full else 3.0)
        until(lambda refused=refused: line.accepted > refused, "they try again")
        with run.healing():
            line.heal()
    run.sometimes("connections cut", cut)
    run.finish(silence=True)


@fault("F13a", "half-open: connections stay, nothing passes", takes_s=14)
def half_open(run: Run) -> None:
    """What was held back comes through in the end, or the connections are given up."""
    run.found()
    line = run.before_broker()
    run.begin()
    for _ in run.times():
        run.flow()
        held = line.stall()
        before = sum(line.forwarded.values())
        time.sleep(45.0 if run.full else 4.0)
        run.sometimes("connections held", held)
        run.sometimes("nothing passed", sum(line.forwarded.values()) == before)
        with run.healing():
            line.heal()
    run.finish(silence=True)


@fault("F13b", "one way: what goes down is lost", takes_s=14)
def one_way(run: Run) -> None:
    """Messages arrive, and no answer does."""
    run.found()
    line = run.before_broker()
    run.begin()
    for _ in run.times():
        run.flow()
        line.swallow(Direction.DOWN)
        until(lambda: line.swallowed > 0, "something is lost")
        time.sleep(45.0 if run.full else 3.0)
        run.sometimes("bytes lost", line.swallowed)
        with run.healing():
            line.heal()
    run.finish(silence=True)


@fault("F13c", "reset in the middle of a packet", rounds=5, full_rounds=30, hours=240, takes_s=15)
def reset(run: Run) -> None:
    """RST after so and so many bytes."""
    run.found()
    line = run.before_broker()
    run.begin()
    resets = 0
    for _ in run.times():
        run.flow(50)
        taken = line.accepted
        line.cut_after(run.rng.randrange(1, 20_000))
        until(lambda taken=taken: line.accepted > taken, "a connection is reset", timeout_s=60)
        resets += 1
        with run.healing():
            pass
    run.sometimes("connections reset", resets)
    run.finish()


@fault("F13d", "1-byte writes", hours=3, takes_s=20)
def single_bytes(run: Run) -> None:
    """Every packet comes in as many pieces as it has bytes."""
    run.found()
    line = run.before_broker()
    line.endure(Weather(chunk_bytes=1))
    run.begin()
    for _ in run.times():
        run.flow(100)
        with run.healing():
            line.heal()
    carried = sum(line.forwarded.values())
    run.sometimes("writes", line.written > carried / 2 and line.written)
    run.finish()


@fault("F13e", "5 % of packets lost", hours=96, takes_s=14)
def lossy(run: Run) -> None:
    """As TCP shows it: what was lost, and all behind it, comes later."""
    run.found()
    line = run.before_broker()
    line.endure(Weather(loss=0.05, chunk_bytes=1_448))
    run.begin()
    for _ in run.times():
        run.flow()
        time.sleep(30.0 if run.full else 4.0)
        lost = line.lost
        with run.healing():
            line.heal()
        run.sometimes("packets lost", lost)
    run.finish()


@fault("F13f", "slow: 150 ms to and fro, 20 KB/s", hours=24, takes_s=14)
def slow(run: Run) -> None:
    """A mobile link on a bad day."""
    run.found()
    line = run.before_broker()
    line.endure(Weather(delay_s=0.07, chunk_bytes=1_448))
    run.begin()
    for _ in run.times():
        run.flow(100)
        time.sleep(30.0 if run.full else 3.0)
        carried = sum(line.forwarded.values())
        with run.healing():
            line.heal()
        run.sometimes("bytes carried", carried)
    run.finish()
