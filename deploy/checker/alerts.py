# SPDX-License-Identifier: Apache-2.0
"""Alerts: the expected ones, one to one; and each opened and closed once (I7)."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import psycopg

from deploy.checker.facts import Difference
from deploy.checker.spans import Span

# Rules that other alerts meet, or whole days, not readings: the simulators know nothing of them.
DERIVED: Final = (
    "circuit.dark",
    "alerts.flood",
    "indicator.lighting_uptime",
    "indicator.equipment_good",
    "indicator.refuse_sorted",
    "indicator.coverage_low",
)


@dataclass(frozen=True, slots=True)
class Alerts:
    """Expected against raised, one to one."""

    expected: int
    raised: int
    missing: int
    unexpected: int

    @property
    def ok(self) -> bool:
        """Each expected one was raised once, and no other."""
        return self.missing == 0 and self.unexpected == 0


@dataclass(frozen=True, slots=True)
class Once:
    """Every alert against its own history, and alarm events against the alerts they raise."""

    alerts: int
    occurrences: int
    wrong: int

    @property
    def ok(self) -> bool:
        """Each was opened once, changed at most once, and none is missing."""
        return not self.wrong


def compare(
    ledger: sqlite3.Connection,
    conn: psycopg.Connection,
    differences: list[Difference],
    beside: Collection[str] = (),
    stopped_at: datetime | None = None,
) -> Alerts:
    """Compare with what the simulators expect.

    Args:
        ledger: Theirs.
        conn: To what was raised.
        differences: Where they are told.
        beside: Rules the simulators know nothing of, or cannot know when what they ask arrives.
        stopped_at: When the simulators were stopped: gateways that are silent after it are.
    """
    windows: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for rule, subject, from_us, to_us in ledger.execute(
        "SELECT rule, subject, from_us, to_us FROM expected_alert"
    ):
        if rule not in beside:
            windows[rule, subject].append((from_us, to_us))
    raised: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rule, subject, at_us in conn.execute(
        """
        SELECT rule, coalesce(device, gateway), (extract(epoch FROM raised_at) * 1000000)::bigint
        FROM alert_occurrence
        WHERE rule <> ALL (%s)
          AND (rule <> 'gateway.silent' OR raised_at <= coalesce(%s, 'infinity'::timestamptz))
        """,
        ([*beside, *DERIVED], stopped_at),
    ):
        raised[rule, subject].append(at_us)
    missing = unexpected = 0
    for key in sorted(windows.keys() | raised.keys()):
        unmet, extra = pair(windows.get(key, ()), raised.get(key, ()))
        missing += len(unmet)
        unexpected += len(extra)
        name = " ".join(key)
        differences += [Difference("alert missing", f"{name} due in {span}") for span in unmet]
        differences += [Difference("alert unexpected", f"{name} at {at_us}") for at_us in extra]
    expected_total = sum(map(len, windows.values()))
    raised_total = sum(map(len, raised.values()))
    return Alerts(expected_total, raised_total, missing, unexpected)


def pair(windows: Iterable[Span], instants: Iterable[int]) -> tuple[list[Span], list[int]]:
    """Give each instant a window of its own that contains it; both ends belong to a window.

    Taking for each instant the window that closes first pairs as many as can be paired.

    Returns:
        The windows and the instants left over.
    """
    free = sorted(windows, key=lambda span: span[1])
    alone: list[int] = []
    for instant in sorted(instants):
        match = next((span for span in free if span[0] <= instant <= span[1]), None)
        if match is None:
            alone.append(instant)
        else:
            free.remove(match)
    return free, alone


def once(conn: psycopg.Connection, differences: list[Difference]) -> Once:
    """Look whether each alert was opened and closed once, and each alarm is one alert."""
    wrong: list[Difference] = []
    rows = conn.execute(
        """
        SELECT o.rule, coalesce(o.device, o.gateway), o.active,
               count(*) FILTER (WHERE h.action IN ('raised', 'raised_again')),
               count(*) FILTER (WHERE h.action = 'cleared')
        FROM alert_occurrence AS o
        LEFT JOIN alert_history AS h ON h.occurrence = o.id
        GROUP BY o.id
        """
    ).fetchall()
    for rule, subject, active, opened, closed in rows:
        if opened != 1 or closed != (0 if active else 1):
            state = "active" if active else "cleared"
            wrong.append(
                Difference(
                    "alert history",
                    f"{rule} {subject} is {state}, was raised {opened} and cleared {closed} times",
                )
            )
    occurrences = Counter(
        conn.execute(
            """
            SELECT 'alarm.' || e.event, d.device, e.occurrence
            FROM event_alarm AS e
            JOIN device AS d ON d.id = e.device_id
            WHERE e.phase = 'raised'
            GROUP BY d.device, e.event, e.occurrence
            """
        ).fetchall()
    )
    alerts = Counter(
        conn.execute(
            "SELECT rule, device, key FROM alert_occurrence WHERE starts_with(rule, 'alarm.')"
        ).fetchall()
    )
    for one, count in (occurrences - alerts).items():
        wrong.append(Difference("alarm without its alert", f"{one}, {count} times"))
    for one, count in (alerts - occurrences).items():
        wrong.append(Difference("alert without its alarm", f"{one}, {count} times"))
    differences += wrong
    return Once(len(rows), occurrences.total(), len(wrong))
