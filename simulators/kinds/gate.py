# SPDX-License-Identifier: Apache-2.0
"""Virtual access gates: people pass by the day's rhythm; doors are forced or held open.

A resident's card number is drawn by the seed and handed to the agent as a reader would read it;
the agent makes it a pseudonym.
"""

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from edge_agent.kinds.gate import Door, GateAction, GateReading, Passage
from simulators.faults import FaultKind
from simulators.kinds.base import Entry, Holding, Timeline, VirtualDriver
from simulators.registry import SHUT
from simulators.spans import SECOND, Span, instant
from simulators.world import people_times

PASSAGES_A_DAY: Final = 40
_DENIED: Final = 0.03
_TAILGATED: Final = 0.01
_APART_US: Final = 30 * SECOND
_OPEN_S: Final = (3.0, 9.0)


class GateState(NamedTuple):
    """What holds from one change to the next."""

    door: Door = "closed"
    lock: Literal["locked", "unlocked"] = "locked"


class Action(NamedTuple):
    """What happened at the gate; ``credential`` is the raw card number."""

    event: GateAction
    direction: Literal["in", "out"] | None = None
    credential: str | None = None


_CLOSED: Final = GateState()
_OPEN: Final = GateState("open", "unlocked")
_FORCED: Final = GateState("forced", "unlocked")
_HELD: Final = GateState("held", "unlocked")


class GateTimeline(Timeline[GateState, Action]):
    """One gate; its blocks are local days."""

    def _build(self, number: int, span: Span) -> tuple[GateState, list[Entry[GateState, Action]]]:
        passages = () if self.device.detail == SHUT else self._passages(number, span)
        troubles = self.during(FaultKind.GATE_FORCED, FaultKind.GATE_HELD_OPEN)
        before = _CLOSED
        entries: list[Entry[GateState, Action]] = []
        for fault in troubles:
            forced = fault.kind is FaultKind.GATE_FORCED
            state = _FORCED if forced else _HELD
            if fault.from_us < span[0] <= fault.to_us:
                before = state
            if span[0] <= fault.from_us < span[1]:
                what: GateAction = "forced" if forced else "held_open"
                entries.append(Entry(fault.from_us, state, Action(what)))
            if span[0] <= fault.to_us < span[1]:
                entries.append(Entry(fault.to_us, _CLOSED, Action("restored")))
        # Nobody passes a door that is out of order; who is just passing leaves it as it is.
        entries += [
            entry
            for entry in passages
            if not any(fault.from_us <= entry.at <= fault.to_us for fault in troubles)
        ]
        entries.sort(key=lambda entry: entry.at)
        return before, entries

    def _passages(self, number: int, span: Span) -> Iterator[Entry[GateState, Action]]:
        draw = self.world.draw("gate", self.device.device, number)
        residents = self.world.city.communities[self.device.community].residents
        for time in people_times(draw, PASSAGES_A_DAY, _APART_US):
            at = span[0] + time
            closed = at + int(draw.between(*_OPEN_S) * SECOND)
            direction = draw.pick(("in", "out"))
            card = _card(self.world.seed, self.device.community, draw.below(max(1, residents)))
            if draw.chance(_DENIED):
                stranger = _card(self.world.seed, "stranger", draw.below(1_000))
                yield Entry(at, None, Action("denied", "in", stranger))
                continue
            yield Entry(at, _OPEN, Action("granted", direction, card))
            if draw.chance(_TAILGATED):
                yield Entry((at + closed) // 2, None, Action("tailgating", direction))
            yield Entry(closed, _CLOSED)


def _card(seed: int, whose: str, number: int) -> str:
    """Return a card number, ten digits, as a reader at the gate would read it."""
    return f"{(seed * 7_919 + sum(whose.encode()) * 104_729 + number * 31) % 10**10:010d}"


class GateDriver(VirtualDriver[GateState, Action]):
    """Tells a gate's timeline as its controller would."""

    def _reading(self, us: int, holding: Holding[GateState]) -> GateReading:
        return GateReading(device=self.device, at=instant(us), **holding.state._asdict())

    def _event(self, us: int, event: Action) -> Passage:
        return Passage(self.device, instant(us), event.event, event.direction, event.credential)
