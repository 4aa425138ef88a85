# SPDX-License-Identifier: Apache-2.0
"""Was everything that was accepted stored, once, unchanged, and nothing else? (I1, I2, I5)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import psycopg

from deploy.checker.facts import Accepted, Difference, Fact, Message, Stored


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of everything accepted in one lane."""

    accepted: int
    stored: int
    lost: int
    duplicated: int  # stored more often than accepted
    dead_lettered: int
    phantom: int = 0  # stored, never accepted
    altered: int = 0  # of the lost: something else is stored in its place
    evicted: int = 0  # not stored, and a gap record says so
    forfeited: int = 0  # not stored, and its only copy was destroyed on purpose

    @property
    def ok(self) -> bool:
        """Something went through; nothing was lost, doubled, changed or invented."""
        return self.accepted > 0 and not (
            self.lost or self.duplicated or self.phantom or self.altered
        )


def refused(conn: psycopg.Connection) -> dict[Message, int | None]:
    """How many facts of which message are dead letters; None stands for all of them."""
    rows = conn.execute(
        """
        SELECT gateway, stream, seq, CASE WHEN bool_or(at_index IS NULL) THEN NULL
                                          ELSE count(DISTINCT at_index) END
        FROM dead_letter
        WHERE gateway IS NOT NULL AND stream IS NOT NULL AND seq IS NOT NULL
        GROUP BY gateway, stream, seq
        """
    )
    return {Message(gateway, stream, seq): count for gateway, stream, seq, count in rows}


@dataclass(frozen=True, slots=True)
class Excuses:
    """Why a fact need not be stored."""

    refused: Mapping[Message, int | None]
    evicted: Collection[Message] = frozenset()
    forfeited: Collection[Message] = frozenset()


def deliver(
    what: str,
    accepted: Sequence[Accepted],
    stored: Iterable[Stored],
    excuses: Excuses,
    differences: list[Difference],
) -> Delivery:
    """Compare one lane; what does not agree is added to ``differences``."""
    found = Counter(stored)
    due = Counter(Stored(one.fact, one.digest) for one in accepted)
    surplus = found - due
    missing = due - found
    foreign = Counter({one: count for one, count in surplus.items() if one not in due})
    in_place = Counter[Fact]()
    for one, count in foreign.items():
        in_place[one.fact] += count
    # Each dead letter excuses one fact.
    letters = dict(excuses.refused)
    lost = dead_lettered = altered = evicted = forfeited = 0
    for fact, content, message in accepted:
        if not missing[Stored(fact, content)]:
            continue
        missing[Stored(fact, content)] -= 1
        left = letters.get(message, 0)
        if left is None:
            dead_lettered += 1
        elif left > 0:
            letters[message] = left - 1
            dead_lettered += 1
        elif message in excuses.evicted:
            evicted += 1
        elif message in excuses.forfeited:
            forfeited += 1
        else:
            lost += 1
            if in_place[fact]:
                in_place[fact] -= 1
                altered += 1
                differences.append(Difference(f"{what} altered", f"{fact} of {message}"))
            else:
                differences.append(Difference(f"{what} lost", f"{fact} of {message}"))
    for one, count in surplus.items():
        kind = "never accepted" if one in foreign else "stored too often"
        differences.append(Difference(f"{what} {kind}", f"{one.fact}, {count} times too often"))
    return Delivery(
        accepted=len(accepted),
        stored=found.total(),
        lost=lost,
        duplicated=surplus.total() - foreign.total(),
        dead_lettered=dead_lettered,
        phantom=foreign.total(),
        altered=altered,
        evicted=evicted,
        forfeited=forfeited,
    )
