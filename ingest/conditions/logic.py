# SPDX-License-Identifier: Apache-2.0
"""AND, OR and NOT of three values: true, false and unknown (Kleene's strong logic)."""

from collections.abc import Iterable
from dataclasses import dataclass

from ingest.conditions.nodes import Asked, Node, Said, earliest


@dataclass(frozen=True, slots=True)
class AllNode:
    """False where one is, else unknown where one is."""

    parts: tuple[Node, ...]

    def ask(self, asked: Asked) -> Said:
        """Ask each, because each may have to remember."""
        said = [part.ask(asked) for part in self.parts]
        against = [one for one in said if one.holds is False]
        if against:
            return Said(False, until=_latest(against))
        return _otherwise(said, True)


@dataclass(frozen=True, slots=True)
class AnyNode:
    """True where one is, else unknown where one is."""

    parts: tuple[Node, ...]

    def ask(self, asked: Asked) -> Said:
        """Ask each, because each may have to remember."""
        said = [part.ask(asked) for part in self.parts]
        for_it = [one for one in said if one.holds]
        if for_it:
            return Said(True, any(one.pulse for one in for_it), _latest(for_it))
        return _otherwise(said, False)


@dataclass(frozen=True, slots=True)
class NotNode:
    """The other one; unknown stays unknown."""

    part: Node

    def ask(self, asked: Asked) -> Said:
        """Turn it over."""
        said = self.part.ask(asked)
        return Said(None if said.holds is None else not said.holds, until=said.until)


def _latest(deciding: Iterable[Said]) -> int | None:
    """Return when the last of those that decide may give way to time, if each may.

    While one stays, so does the whole: nobody need be asked again.
    """
    instants = [one.until for one in deciding]
    return None if None in instants else max(one for one in instants if one is not None)


def _otherwise(said: list[Said], holds: bool) -> Said:
    is_known = all(one.holds is not None for one in said)
    pulse = holds and is_known and any(one.pulse for one in said)
    return Said(holds if is_known else None, pulse, earliest(*(one.until for one in said)))
