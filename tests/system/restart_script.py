# SPDX-License-Identifier: Apache-2.0
"""A night of sixty devices, made from a seed: what their gateways send, in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final, Literal

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.alarm import AlarmEvent, AlarmReading
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateEvent, GateReading
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import EventMessage, Telemetry, encode

GATEWAYS: Final = tuple(f"gw-c01-{letter}" for letter in "abcd")
COUNTS: Final = {"lamp": 5, "bin": 4, "gate": 2, "alarm": 4}
PHASES: Final = 12
ROUNDS: Final = 6
ROUND: Final = timedelta(seconds=120)
# The events of a phase begin and end within its readings' time.
PHASE: Final = ROUNDS * ROUND
# All is late when it arrives, so that how late makes no difference.
LONG_AGO: Final = timedelta(hours=3)

_ALARMS: Final = ("intrusion", "tamper", "water", "panic", "smoke", "duress")

#: What the installation says of the product's rules.
TUNED: Final[dict[str, dict[str, float]]] = {
    "bin.full": {"off_delay_s": 240},
    "detector.low_battery": {"on_delay_s": 200, "reopen_s": 900},
}


def own_rules() -> dict[str, dict[str, Any]]:
    """People's own: with both delays and latching, counting readings, counting events, a sequence.

    The window of the count over readings ends after the test; those over events end within it.
    """
    return {
        "custom.lid": {
            "kind": "bin", "severity": "minor", "latching": True,
            "on_delay_s": 180, "off_delay_s": 150,
            "when": {"type": "equals", "field": "lid_open", "value": True},
        },
        "custom.often": {
            "kind": "bin", "severity": "info", "reopen_s": 300,
            "when": {
                "type": "all",
                "of": [
                    {"type": "equals", "field": "tilt", "value": True},
                    {
                        "type": "count", "times": 3, "within_s": 86_400,
                        "of": {"type": "threshold", "field": "fill_pct", "above": 50},
                    },
                ],
            },
        },
        "custom.denied": {
            "kind": "gate", "severity": "minor", "reopen_s": 0,
            "when": {
                "type": "count", "times": 3, "within_s": 60,
                "of": {"type": "event", "events": ["denied"]},
            },
        },
        "custom.break-in": {
            "kind": "alarm", "severity": "critical",
            "when": {
                "type": "sequence", "within_s": 60, "where": "cell",
                "first": {"type": "event", "kind": "gate", "events": ["forced"]},
                "then": {"type": "event", "events": ["intrusion"], "phases": ["raised"]},
            },
        },
    }  # fmt: skip


#: Raised by events and ended by time alone.
ENDED_BY_TIME: Final = ("custom.denied", "custom.break-in")


def devices() -> list[tuple[str, str, str]]:
    """All devices: name, class, gateway."""
    return [
        (name, kind, gateway)
        for gateway in GATEWAYS
        for kind in COUNTS
        for name in names(gateway, kind)
    ]


def names(gateway: str, kind: str) -> list[str]:
    """A gateway's devices of one class."""
    return [f"{gateway[-1]}-{kind}-{number}" for number in range(COUNTS[kind])]


@dataclass(frozen=True, slots=True)
class Sent:
    """One message under the contract."""

    gateway: str
    lane: Literal["telemetry", "event"]
    stream: str
    seq: int
    payload: bytes


@dataclass(slots=True)
class Box:
    """One gateway and its devices."""

    gateway: str
    chance: Random
    _seqs: dict[str, int] = field(default_factory=dict[str, int])
    _is_so: dict[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    _standing: dict[str, AlarmEvent] = field(default_factory=dict[str, AlarmEvent])
    _occurrences: int = 0

    def phase(self, start: datetime) -> Iterator[Sent]:
        """Readings and events of one phase, mixed; each lane in the order of its instants."""
        readings = [self._round(start + number * ROUND) for number in range(ROUNDS)]
        events = [self._event(event) for event in self._events(start)]
        while readings or events:
            if events and (not readings or self.chance.random() < 0.7):
                yield events.pop(0)
            else:
                yield readings.pop(0)

    def _number(self, lane: str) -> tuple[str, int]:
        seq = self._seqs[lane] = self._seqs.get(lane, 0) + 1
        return f"s-{self.gateway}-{lane}", seq

    def _round(self, at: datetime) -> Sent:
        told: list[Reading] = []
        for kind in COUNTS:
            for name in names(self.gateway, kind):
                if self.chance.random() < 0.9:
                    at += timedelta(milliseconds=self.chance.randint(1, 2_000))
                    told.append(self._reading(kind, name, at))
        stream, seq = self._number("telemetry")
        message = Telemetry(stream=stream, seq=seq, sent_at=at, readings=tuple(told))
        return Sent(self.gateway, "telemetry", stream, seq, encode(message))

    def _event(self, event: Event) -> Sent:
        stream, seq = self._number("event")
        message = EventMessage(stream=stream, seq=seq, sent_at=event.at, event=event)
        return Sent(self.gateway, "event", stream, seq, encode(message))

    def _flips(self, name: str, what: str, chance: float) -> bool:
        """A state that stays for a while."""
        key = (name, what)
        if self.chance.random() < chance:
            self._is_so[key] = not self._is_so.get(key, False)
        return self._is_so.get(key, False)

    def _reading(self, kind: str, name: str, at: datetime) -> Reading:
        fault = "sensor" if self._flips(name, "fault", 0.1) else None
        match kind:
            case "lamp":
                dark = self._flips(name, "dark", 0.3)
                return LampReading(device=name, at=at, lit=not dark, fault=fault)
            case "bin":
                return BinReading(
                    device=name,
                    at=at,
                    fill_pct=self.chance.choice([10, 60, 80, 95]),
                    lid_open=self._flips(name, "lid", 0.35),
                    tilt=self._flips(name, "tilt", 0.3),
                    fault=fault,
                )
            case "gate":
                return GateReading(device=name, at=at, door="closed", fault=fault)
            case _:
                low = self._flips(name, "low", 0.3)
                return AlarmReading(device=name, at=at, battery_pct=10 if low else 50, fault=fault)

    def _events(self, start: datetime) -> Iterator[Event]:
        """Alarms first; what only time ends comes last, so that nothing else is told meanwhile."""
        at = start
        counted, forced = names(self.gateway, "gate")
        alarms = names(self.gateway, "alarm")
        yield GateEvent(device=forced, at=at, event="restored")
        for _ in range(10):
            at += timedelta(seconds=self.chance.randint(5, 50))
            name = self.chance.choice(alarms)
            before = self._standing.pop(name, None)
            if before is None:
                yield self._alarm(name, at, self.chance.choice(_ALARMS))
            else:
                phase = self.chance.choice(["restored", "restored", "aborted"])
                yield before.model_copy(update={"at": at, "phase": phase})
        if self.chance.random() < 0.5:
            yield GateEvent(device=counted, at=at, event="held_open")
            at += timedelta(seconds=20)
            yield GateEvent(device=counted, at=at, event="restored")
        # No sequence is completed by an intrusion of before.
        at += timedelta(seconds=61)
        yield GateEvent(device=forced, at=at, event="forced")
        for _ in range(3):
            at += timedelta(seconds=5)
            yield GateEvent(device=counted, at=at, event="denied")
        name = self.chance.choice(alarms)
        before = self._standing.pop(name, None)
        if before is not None:
            yield before.model_copy(update={"at": at, "phase": "restored"})
        yield self._alarm(name, at + timedelta(seconds=9), "intrusion")

    def _alarm(self, name: str, at: datetime, event: str) -> AlarmEvent:
        self._occurrences += 1
        one = AlarmEvent.model_validate(
            {
                "device": name,
                "at": at,
                "event": event,
                "phase": "raised",
                "occurrence": f"o-{self.gateway}-{self._occurrences}",
                "zone": f"z{self._occurrences % 3}",
            }
        )
        self._standing[name] = one
        return one


def script(seed: int, now: datetime) -> list[list[Sent]]:
    """All messages by phase, those of the gateways mixed."""
    chance = Random(seed)
    boxes = [Box(gateway, Random(f"{seed} {gateway}")) for gateway in GATEWAYS]
    phases: list[list[Sent]] = []
    for number in range(PHASES):
        left = [list(box.phase(now - LONG_AGO + number * PHASE)) for box in boxes]
        mixed: list[Sent] = []
        while left := [one for one in left if one]:
            mixed.append(chance.choice(left).pop(0))
        phases.append(mixed)
    return phases
