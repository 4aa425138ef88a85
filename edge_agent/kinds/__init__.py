# SPDX-License-Identifier: Apache-2.0
"""The device classes, one line each, and the unions of what they report.

A new class is a module beside these four, one line in each table below, and its counterparts in
`ingest.kinds`, `api` and `simulators.kinds` (ARCHITECTURE.md, "Adding a device class").
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Protocol

from pydantic import Field

from edge_agent.kinds import alarm, bin, gate, lamp
from edge_agent.kinds.alarm import AlarmEvent, AlarmReading, AlarmSignal
from edge_agent.kinds.bin import BinReading, DepositEvent
from edge_agent.kinds.gate import GateEvent, GateReading, Passage
from edge_agent.kinds.lamp import LampReading

Reading = Annotated[
    LampReading | BinReading | GateReading | AlarmReading, Field(discriminator="kind")
]
Event = Annotated[DepositEvent | GateEvent | AlarmEvent, Field(discriminator="kind")]

# Report by exception: does the second reading tell more than a repetition of the first?
# Any: each function takes the readings of its own class only, which the key guarantees.
CHANGED: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "lamp": lamp.changed,
    "bin": bin.changed,
    "gate": gate.changed,
    "alarm": alarm.changed,
}

# What a driver may report: readings and deposits as they go on the wire; passages and alarm
# signals before the agent made the credential a pseudonym and minted the occurrence id.
Observation = (
    LampReading | BinReading | GateReading | AlarmReading | DepositEvent | Passage | AlarmSignal
)


class Driver(Protocol):
    """The seam between the agent and hardware: one device, real or virtual."""

    @property
    def device(self) -> str:
        """The device's id."""
        ...

    @property
    def kind(self) -> str:
        """The device's class: a key of `CHANGED`."""
        ...

    def poll(self, now: datetime) -> Sequence[Observation]:
        """Return what the device saw since the last poll, oldest first.

        Every observation is stamped with when the device saw it, none later than ``now``. The
        last reading is the present value, stamped ``now``. Hardware without a memory returns
        just that; hardware with one returns earlier changes as well, each with its own instant.
        May block (it is called in a thread); raises OSError when the hardware does not answer.
        """
        ...

    def attach(self, wake: Callable[[], None]) -> None:
        """Take the function to call, from any thread, when something should not await a poll."""
        ...
