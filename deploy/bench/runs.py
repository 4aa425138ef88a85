# SPDX-License-Identifier: Apache-2.0
"""What measuring a city comes to: runs, ratios, what was wrong, and the whole report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from deploy.bench.report import commit
from deploy.bench.stage import CITY, VIEWERS
from deploy.bench.town import Town
from simulators.orders import Order

SCHEMA: Final = 2
EVENTS_PER_S: Final = 10.0
SAMPLES_MIN: Final = 1_000  # below it a p99 is the luck of ten
SPREAD_MAX: Final = 0.15
_FLOW_LIMIT: Final = 12_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    town: Town
    minutes: float
    batch: int
    rounds: int
    round_s: float
    comparable: bool
    bench: str = "ingest"
    viewers: int = VIEWERS
    ingest_processes: int = 1

    @property
    def flow_limit(self) -> int:
        """Messages of a flow that are in flight: as many as the broker queues for one reader."""
        return _FLOW_LIMIT if self.comparable else _FLOW_LIMIT // 10

    def as_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "communities": self.town.communities,
            "devices": self.town.devices,
            "period_s": self.town.period_s,
            "readings_per_s": round(self.town.rate, 1),
            "minutes": self.minutes,
            "batch": self.batch or "1 s",
            "rounds": self.rounds,
            "round_s": self.round_s,
            "viewers": self.viewers,
            "events_per_s": EVENTS_PER_S,
            "status_s": self.town.status_s,
            "changed_every": 10,
            "tls": True,
            "qos": 1,
            "comparable": self.comparable,
            "ingest": dict(CITY),
            "ingest_processes": self.ingest_processes,
        }


@dataclass(slots=True)
class Run:
    """One phase, measured."""

    name: str
    seconds: float
    sent: int
    stored: int
    messages: int
    cpu: Mapping[str, float] = field(default_factory=dict[str, float])  # s per million readings
    cores: Mapping[str, float] = field(default_factory=dict[str, float])
    rss_mb: Mapping[str, float] = field(default_factory=dict[str, float])
    told: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        """One of the report's ``runs``."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 1),
            "sent": self.sent,
            "stored": self.stored,
            "messages": self.messages,
            "stored_per_s": round(self.stored / self.seconds) if self.seconds else 0,
            "cpu_s_per_million": {name: short(one) for name, one in self.cpu.items()},
            "cores": {name: short(one) for name, one in self.cores.items()},
            "rss_mb": {name: round(one) for name, one in self.rss_mb.items()},
            **self.told,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """One goal: all its values and what they must be, at least or (``at_most``) at most."""

    goal: str
    values: Sequence[float]
    must: float
    at_most: bool = False

    @property
    def value(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value <= self.must if self.at_most else self.value >= self.must

    @property
    def stable(self) -> bool:
        """Whether the values lie together."""
        return max(self.values) - min(self.values) <= SPREAD_MAX * abs(self.value)

    def as_json(self) -> dict[str, Any]:
        """One of the report's ``ratios``."""
        return {
            "goal": self.goal,
            "value": short(self.value),
            "values": [short(one) for one in self.values],
            "must": self.must,
            "at_most": self.at_most,
            "met": self.met,
            "stable": self.stable and len(self.values) > 1,
        }


@dataclass(slots=True)
class Result:
    """Everything of one call."""

    settings: Settings
    runs: list[Run] = field(default_factory=list[Run])
    ratios: list[Ratio] = field(default_factory=list[Ratio])
    wrong: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: float = 0.0
    machine: Mapping[str, Any] = field(default_factory=dict[str, Any])
    samples: Sequence[Mapping[str, Any]] = ()

    def compare(
        self, goal: str, mine: Sequence[float], others: Sequence[float], must: float
    ) -> None:
        """Add the ratio of what was measured in turns; of what is too short there is none."""
        values = [one / other for one, other in zip(mine, others, strict=True) if other]
        if values:
            self.ratios.append(Ratio(goal, values, must))
        else:
            self.notes.append(f"too short for a ratio: {goal}")

    @property
    def met(self) -> bool:
        """Every must is, and nothing is wrong."""
        return not self.wrong and all(one.met for one in self.ratios)

    def as_json(self) -> dict[str, Any]:
        """The whole report; ratios only where all was correct."""
        return {
            "schema": SCHEMA,
            "bench": self.settings.bench,
            "comparable": self.settings.comparable,
            "commit": commit(),
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "settings": self.settings.as_json(),
            "seconds": round(self.seconds, 1),
            "correct": not self.wrong,
            "wrong": self.wrong,
            "notes": self.notes,
            "ratios": [] if self.wrong else [one.as_json() for one in self.ratios],
            "runs": [one.as_json() for one in self.runs],
            "samples": list(self.samples),
        }


def rate(told: Sequence[Mapping[str, Any]], what: str, seconds: float) -> float:
    """Return what was stored per second of the middle of a phase: not its ramp, nor its end."""
    points = [(one["t"], one[what]) for one in told if 0.2 * seconds <= one["t"] <= seconds]
    if len(points) < 2:
        return 0.0
    (begin, first), (end, last) = points[0], points[-1]
    return (last - first) / (end - begin)


def grew(told: Sequence[Mapping[str, Any]], order: Order, messages_per_s: float) -> bool:
    """Whether queues grew over the second half, by more than half a second's messages."""
    half = [
        one["in_flight"] + one["held"]
        for one in told
        if order.seconds / 2 <= one["t"] <= order.seconds
    ]
    if len(half) < 4:
        return False
    middle = len(half) // 2
    return statistics.mean(half[middle:]) - statistics.mean(half[:middle]) > messages_per_s / 2


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of them lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def percentiles(ordered: Sequence[float]) -> dict[str, Any]:
    """Return n and percentiles in ms; a p99 only of a thousand samples or more."""
    found: dict[str, Any] = {"n": len(ordered)}
    if ordered:
        found["p50"] = short(1e3 * quantile(ordered, 0.5))
        found["p90"] = short(1e3 * quantile(ordered, 0.9))
        found["max"] = short(1e3 * ordered[-1])
    if len(ordered) >= SAMPLES_MIN:
        found["p99"] = short(1e3 * quantile(ordered, 0.99))
    return found


def short(value: float) -> float:
    """Four digits: more would claim a precision that no measurement here has."""
    with suppress(OverflowError, ValueError):
        return float(f"{value:.4g}")
    return value
