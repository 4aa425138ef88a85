# SPDX-License-Identifier: Apache-2.0
"""Compares what the platform stored and computed with what the simulators know to be true.

The ledger (``truth.sqlite``) is written outside the platform: what edge agents accepted, when
lamps were physically lit, what of it could be known, which alerts had to follow. Everything here
is counting and comparing; no figure is assumed. The parts are in `deploy.checker`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psycopg

from deploy.checker import alerts, delivery, facts, gaps, lighting, streams
from deploy.checker.alerts import Alerts, Once
from deploy.checker.delivery import Delivery
from deploy.checker.facts import Accepted, Difference, Message
from deploy.checker.gaps import Gaps
from deploy.checker.lighting import Lighting, Recomputed
from deploy.checker.spans import Span, by_subject, contains

__all__ = ["Verdict", "compare", "contains", "outages", "percentile"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole comparison; None is what was not to be compared."""

    readings: Delivery
    events: Delivery
    gaps: Gaps
    recomputed: Recomputed
    once: Once
    lighting: Lighting | None
    alerts: Alerts | None
    differences: Sequence[Difference]

    @property
    def ok(self) -> bool:
        """The platform said what is true, and nothing else differs either."""
        parts = (
            self.readings, self.events, self.gaps, self.recomputed, self.once, self.lighting,
            self.alerts,
        )  # fmt: skip
        return all(part.ok for part in parts if part is not None) and not self.differences

    def figures(self) -> dict[str, object]:
        """As in the demo's result file."""
        parts = {
            "readings": self.readings,
            "events": self.events,
            "gaps": self.gaps,
            "recomputed": self.recomputed,
            "once": self.once,
            "lighting": self.lighting,
            "alerts": self.alerts,
        }
        return {name: asdict(part) for name, part in parts.items() if part is not None}


@dataclass(frozen=True, slots=True)
class Terms:
    """What a run may be judged by; an ordinary one by everything.

    Attributes:
        physics: Whether the ledger's world tells what had to be computed and raised.
        forfeited: Messages whose only copy was destroyed on purpose.
        given_up: Streams of outboxes that turned out to be old copies. What was numbered in them
            before that was known got other numbers, which the ledger is not told: by their content
            alone these messages are looked for.
        beside: Alert rules of which the ledger's world knows nothing, or not in which order what
            they ask arrives.
        stopped_at: When the world was stopped; whoever waits after that hears silence.
    """

    physics: bool = True
    forfeited: Collection[Message] = frozenset()
    given_up: Collection[str] = frozenset()
    # Whether the clock is right is the machine's affair that runs the agents.
    beside: Collection[str] = frozenset({"gateway.clock"})
    stopped_at: datetime | None = None


ORDINARY = Terms()


def compare(truth: Path, dsn: str, terms: Terms = ORDINARY) -> Verdict:
    """Compare the ledger with the database, which nobody may be writing to any more."""
    differences: list[Difference] = []
    with closing(sqlite3.connect(f"file:{truth}?mode=ro", uri=True)) as ledger:
        with psycopg.connect(dsn) as conn:
            refused = delivery.refused(conn)
            evicted = gaps.messages_in([gap for gap, _ in gaps.told(ledger)])
            excuses = delivery.Excuses(refused, evicted, terms.forfeited)
            stored_readings = list(facts.stored(conn, facts.READING_TABLES))
            stored_events = list(facts.stored(conn, facts.EVENT_TABLES))
            due_readings = facts.accepted(ledger, "telemetry")
            due_events = facts.accepted(ledger, "event")
            readings = delivery.deliver(
                "reading", due_readings, stored_readings, excuses, differences
            )
            events = delivery.deliver("event", due_events, stored_events, excuses, differences)
            numbered = {one.message for one in (*due_readings, *due_events)}
            streams.compare(
                {message for message in numbered if message.stream not in terms.given_up},
                streams.seen(conn),
                terms.forfeited,
                differences,
            )
            gone = _not_stored(due_readings, stored_readings) | _not_stored(
                due_events, stored_events
            )
            recorded = gaps.compare(ledger, conn, gone - refused.keys(), differences)
            recomputed = lighting.recompute(conn, differences)
            once = alerts.once(conn, differences)
            light = lighting.compare(ledger, conn, differences) if terms.physics else None
            raised = (
                alerts.compare(ledger, conn, differences, terms.beside, terms.stopped_at)
                if terms.physics
                else None
            )
        differences += [
            Difference("ledger incomplete", f"{Message(*row)} was accepted and not written down")
            for row in ledger.execute("SELECT gateway, stream, seq FROM unrecorded")
        ]
    return Verdict(readings, events, recorded, recomputed, once, light, raised, differences)


def _not_stored(due: Sequence[Accepted], stored: Sequence[facts.Stored]) -> set[Message]:
    """The messages of which no fact is stored."""
    there = {one.digest for one in stored}
    held = {one.message for one in due if one.digest in there}
    return {one.message for one in due} - held


# -- for the latency --------------------------------------------------------------------------


def outages(truth: Path) -> Mapping[str, Sequence[Span]]:
    """When the links of which gateways were cut on purpose."""
    with closing(sqlite3.connect(f"file:{truth}?mode=ro", uri=True)) as ledger:
        return by_subject(
            ledger.execute("SELECT gateway, cut_us, healed_us FROM outage WHERE healed_us NOTNULL")
        )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` (0 to 1) of all do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))
    return ordered[rank - 1]
