# SPDX-License-Identifier: Apache-2.0
"""A small town for the simulators' tests, and ways to live through a part of its time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from edge_agent.kinds import Observation
from edge_agent.kinds.base import ReadingBase
from simulators.faults import Fault, FaultKind
from simulators.kinds import driver
from simulators.registry import Device, build
from simulators.spans import Span, instant, micros, seconds
from simulators.world import World

# Noon in Chengdu, on an ordinary day.
NOON = micros(datetime(2026, 11, 20, 4, 0, tzinfo=UTC))
SEED = 7


def world(faults: Iterable[Fault] = (), *, seed: int = SEED, communities: int = 1) -> World:
    return World(seed, build(seed, communities, instant(NOON)), faults)


def device(town: World, name: str) -> Device:
    return town.city.by_id[name]


def fault(kind: FaultKind, target: str, start: int, lasts_s: float, detail: str = "") -> Fault:
    return Fault(start, start + seconds(lasts_s), kind, target, detail)


def live_through(town: World, name: str, polls: Sequence[int]) -> list[Observation]:
    """Everything that a device tells when it is polled at these instants."""
    hardware = driver(town, device(town, name))
    told: list[Observation] = []
    for us in polls:
        try:
            told += hardware.poll(instant(us))
        except OSError:
            continue
    return told


def every(span: Span, step_s: float) -> list[int]:
    """Instants from the beginning of a span to its end, both included."""
    return [*range(span[0], span[1], seconds(step_s)), span[1]]


def changes(told: Iterable[Observation], polls: Iterable[int]) -> list[Observation]:
    """What was told of the time between polls: all but the present values."""
    asked = {instant(us) for us in polls}
    return [one for one in told if not (isinstance(one, ReadingBase) and one.at in asked)]
