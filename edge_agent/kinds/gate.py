# SPDX-License-Identifier: Apache-2.0
"""Access gates: door state, passages, and forced or held doors. Names follow BACnet access control.

A raw credential never leaves the gateway: drivers hand in a `Passage`, the sampler turns it into
a `GateEvent` whose ``credential`` is a keyed pseudonym (`edge_agent.pseudonyms`).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from edge_agent.kinds.base import EventBase, ReadingBase

Door = Literal["closed", "open", "held", "forced"]
GateAction = Literal[
    "granted", "denied", "forced", "held_open", "tailgating", "free_access", "restored"
]
# The prefix names the scheme, and keeps any raw card number from passing for a pseudonym.
PSEUDONYM_PATTERN: Final = r"^p1-[a-z2-7]{26}$"
Pseudonym = Annotated[str, StringConstraints(pattern=PSEUDONYM_PATTERN)]


class GateReading(ReadingBase):
    """One gate's door and lock."""

    kind: Literal["gate"] = "gate"
    door: Door | None = Field(
        default=None, description="held: open for too long; forced: opened without a grant"
    )
    lock: Literal["locked", "unlocked"] | None = Field(
        default=None, description="what the lock is, not what it was told to be"
    )


class GateEvent(EventBase):
    """Something happened at a gate.

    ``restored`` ends ``forced``, ``held_open`` and ``free_access``: the door is closed and
    locked again (SIA DC-09 door restoral).
    """

    kind: Literal["gate"] = "gate"
    event: GateAction = Field(description="what happened")
    direction: Literal["in", "out"] | None = Field(
        default=None, description="into the community, or out of it"
    )
    credential: Pseudonym | None = Field(
        default=None, description="keyed pseudonym made on the gateway; never the raw number"
    )


@dataclass(frozen=True, slots=True)
class Passage:
    """What a gate driver saw, with the raw credential, which goes no further than the sampler."""

    device: str
    at: datetime
    event: GateAction
    direction: Literal["in", "out"] | None = None
    credential: str | None = None


def changed(previous: GateReading, current: GateReading) -> bool:
    """Whether ``current`` tells more than a repetition of ``previous`` (report by exception)."""
    return (previous.door, previous.lock, previous.fault) != (
        current.door,
        current.lock,
        current.fault,
    )
