# SPDX-License-Identifier: Apache-2.0
"""Many notifications become few messages, and their order stays. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal
from uuid import UUID

Kind = Literal["raised", "repeated", "cleared"]
#: What comes for a community so soon after a message waits, to become one with what follows.
WINDOW: Final = timedelta(seconds=5)
#: A message names so many alerts, the others are a number.
NAMED_MAX: Final = 20


@dataclass(frozen=True, slots=True)
class Waiting:
    """What one channel is still to be told."""

    id: int
    alert: UUID
    community: str
    kind: Kind
    digest: bool
    due_at: datetime


@dataclass(slots=True)
class Group:
    """What becomes one message."""

    community: str
    kind: Kind
    digest: bool
    parts: list[Waiting] = field(default_factory=list[Waiting])

    @property
    def alerts(self) -> list[UUID]:
        """Which alerts it tells of, each once."""
        return list(dict.fromkeys(part.alert for part in self.parts))


def ready(waiting: Sequence[Waiting], now: datetime) -> list[Waiting]:
    """Return what of a channel's waiting notifications (by id) is to be told now.

    Whatever precedes one that is due, about the same alert, goes before it: nothing is overtaken.
    """
    last_due: dict[UUID, int] = {}
    for one in waiting:
        if one.due_at <= now:
            last_due[one.alert] = one.id
    return [one for one in waiting if one.id <= last_due.get(one.alert, -1)]


def held_until(last_message_at: datetime | None) -> datetime | None:
    """Return until when a community's further notifications wait after a message."""
    return None if last_message_at is None else last_message_at + WINDOW


def grouped(due: Sequence[Waiting]) -> list[Group]:
    """Put notifications of one channel (by id) together, so that no alert's order changes.

    One joins the last message of its community and kind, unless a later message tells of the same
    alert already.
    """
    groups: list[Group] = []
    for one in due:
        # A digest lists what stands, however often it was to be told.
        kind: Kind = "raised" if one.digest and one.kind == "repeated" else one.kind
        for group in reversed(groups):
            if (group.community, group.kind, group.digest) == (one.community, kind, one.digest):
                group.parts.append(one)
                break
            if any(part.alert == one.alert for part in group.parts):
                groups.append(Group(one.community, kind, one.digest, [one]))
                break
        else:
            groups.append(Group(one.community, kind, one.digest, [one]))
    return groups
