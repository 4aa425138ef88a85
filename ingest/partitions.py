# SPDX-License-Identifier: Apache-2.0
"""Sets of partitions: which part of all gateways an ingest process works for.

A partition is a topic level, two hex digits that follow from the gateway's id
(`edge_agent.topics.partition`); so who owns a gateway is known without asking anybody.
"""

import re
from collections.abc import Collection
from typing import Final

from edge_agent.topics import PARTITIONS

Partitions = frozenset[str]

NAMES: Final = tuple(f"{number:02x}" for number in range(PARTITIONS))
ALL: Final[Partitions] = frozenset(NAMES)

_PART = re.compile(r"([0-9a-f]{2})(?:-([0-9a-f]{2}))?")


def parse(text: str) -> Partitions:
    """Return the partitions that a text such as ``00-1f`` or ``00,02,10-3f`` names.

    Raises:
        ValueError: It names none, or what is no partition.
    """
    found: set[str] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip().lower())
        if match is None:
            raise ValueError(f"{part.strip()!r} is no partition: expected 00-1f or 00,02,10-3f")
        first, last = match[1], match[2] or match[1]
        if last < first or last not in ALL:
            raise ValueError(f"{part.strip()!r} is no range: partitions are 00 to {NAMES[-1]}")
        found.update(NAMES[int(first, 16) : int(last, 16) + 1])
    return frozenset(found)


def show(partitions: Collection[str]) -> str:
    """Return the shortest text that `parse` takes for these; empty for none."""
    runs: list[list[str]] = []
    for name in sorted(partitions):
        if runs and int(runs[-1][-1], 16) + 1 == int(name, 16):
            runs[-1][1:] = [name]
        else:
            runs.append([name])
    return ",".join("-".join(run) for run in runs)


def member_row(lane: str, identity: str) -> str:
    """Return under which name the database keeps what belongs to a member of a lane.

    The first one's is the lane's: so a process that becomes one of several finds its own.
    """
    return lane if identity.endswith("-00") else identity


def share(member: int, members: int) -> Partitions:
    """Return the part of all partitions that member ``member`` (from 0) of ``members`` takes.

    Shares follow each other without a gap and differ by at most one partition.
    """
    first, end = (PARTITIONS * number // members for number in (member, member + 1))
    return frozenset(NAMES[first:end])


def of_topic(topic: str) -> str:
    """Return what stands where a topic names the partition; it need not be one."""
    levels = topic.split("/", 3)
    return levels[2] if len(levels) > 2 else ""
