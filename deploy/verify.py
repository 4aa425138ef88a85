# SPDX-License-Identifier: Apache-2.0
"""Compares what the platform stored and computed with what the simulators know to be true.

The ledger (``truth.sqlite``) is written outside the platform: what edge agents accepted, when
lamps were physically lit, what of it could be known, which alerts had to follow. Everything here
is counting and comparing; no figure is assumed.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import sql

LIGHTING_ERROR_MAX_S = 1.0

READING_TABLES = {
    "lamp": "reading_lamp",
    "bin": "reading_bin",
    "gate": "reading_gate",
    "alarm": "reading_alarm",
}
EVENT_TABLES = {"bin": "event_bin", "gate": "event_gate", "alarm": "event_alarm"}

Span = tuple[int, int]  # [from, to) in microseconds since 1970, UTC


class Message(NamedTuple):
    """What names one immutable message for ever."""

    gateway: str
    stream: str
    seq: int


class Fact(NamedTuple):
    """One reading or event: of which class, which device, when."""

    kind: str
    device: str
    at_us: int


class Accepted(NamedTuple):
    """A fact an edge agent accepted, and the message that carries it."""

    fact: Fact
    message: Message


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of everything accepted in one lane."""

    accepted: int
    stored: int
    lost: int
    duplicated: int
    dead_lettered: int

    @property
    def ok(self) -> bool:
        """Something went through, nothing was lost or doubled."""
        return self.accepted > 0 and self.lost == 0 and self.duplicated == 0


@dataclass(frozen=True, slots=True)
class Lighting:
    """Lighting uptime, over all lamp-nights together; ``truth`` is the ledger's."""

    lamp_nights: int
    uptime: float | None
    truth: float | None
    max_abs_error_s: float

    @property
    def ok(self) -> bool:
        """Every lamp-night agrees."""
        return self.lamp_nights > 0 and self.max_abs_error_s <= LIGHTING_ERROR_MAX_S


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
class Difference:
    """One thing that does not agree, for whoever looks for the reason."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole comparison."""

    readings: Delivery
    events: Delivery
    lighting: Lighting
    alerts: Alerts
    differences: Sequence[Difference]

    @property
    def ok(self) -> bool:
        """The platform said what is true, and nothing else differs either."""
        parts = (self.readings, self.events, self.lighting, self.alerts)
        return all(part.ok for part in parts) and not self.differences

    def figures(self) -> dict[str, object]:
        """As in the demo's result file."""
        return {
            "readings": asdict(self.readings),
            "events": asdict(self.events),
            "lighting": asdict(self.lighting),
            "alerts": asdict(self.alerts),
        }


def compare(truth: Path, dsn: str) -> Verdict:
    """Compare the ledger with the database, which nobody may be writing to any more."""
    differences: list[Difference] = []
    with closing(sqlite3.connect(f"file:{truth}?mode=ro", uri=True)) as ledger:
        with psycopg.connect(dsn) as conn:
            refused = _refused(conn)
            readings = _deliver(
                "reading",
                _accepted(ledger, "telemetry"),
                _stored(conn, READING_TABLES),
                refused,
                differences,
            )
            events = _deliver(
                "event",
                _accepted(ledger, "event"),
                _stored(conn, EVENT_TABLES),
                refused,
                differences,
            )
            lighting = _lighting(ledger, conn, differences)
            alerts = _alerts(ledger, conn, differences)
        differences += [
            Difference("ledger incomplete", f"{Message(*row)} was accepted and not written down")
            for row in ledger.execute("SELECT gateway, stream, seq FROM unrecorded")
        ]
    return Verdict(readings, events, lighting, alerts, differences)


# -- delivery ---------------------------------------------------------------------------------


def _accepted(ledger: sqlite3.Connection, lane: str) -> list[Accepted]:
    rows = ledger.execute(
        "SELECT kind, device, at_us, gateway, stream, seq FROM accepted WHERE lane = ?", (lane,)
    )
    return [
        Accepted(Fact(kind, device, at_us), Message(gateway, stream, seq))
        for kind, device, at_us, gateway, stream, seq in rows
    ]


def _stored(conn: psycopg.Connection, tables: Mapping[str, str]) -> Counter[Fact]:
    found: Counter[Fact] = Counter()
    for kind, table in tables.items():
        rows = conn.execute(
            sql.SQL(
                """
                SELECT d.device, (extract(epoch FROM r.at) * 1000000)::bigint, count(*)
                FROM {} AS r
                JOIN device AS d ON d.id = r.device_id
                GROUP BY d.device, r.at
                """
            ).format(sql.Identifier(table))
        )
        for device, at_us, count in rows:
            found[Fact(kind, device, at_us)] += count
    return found


def _refused(conn: psycopg.Connection) -> dict[Message, int | None]:
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


def _deliver(
    what: str,
    accepted: Sequence[Accepted],
    stored: Counter[Fact],
    refused: Mapping[Message, int | None],
    differences: list[Difference],
) -> Delivery:
    due = Counter(one.fact for one in accepted)
    surplus = stored - due
    missing = due - stored
    # What is not stored may be a dead letter instead, each of which excuses one fact.
    excused = dict(refused)
    lost = dead_lettered = 0
    for fact, message in accepted:
        if not missing[fact]:
            continue
        missing[fact] -= 1
        left = excused.get(message, 0)
        if left is None:
            dead_lettered += 1
        elif left > 0:
            excused[message] = left - 1
            dead_lettered += 1
        else:
            lost += 1
            differences.append(Difference(f"{what} lost", f"{fact} of {message}"))
    differences += [
        Difference(f"{what} stored too often", f"{fact}, {count} times too often")
        for fact, count in surplus.items()
    ]
    return Delivery(len(accepted), stored.total(), lost, surplus.total(), dead_lettered)


# -- lighting ---------------------------------------------------------------------------------


def _lighting(
    ledger: sqlite3.Connection, conn: psycopg.Connection, differences: list[Difference]
) -> Lighting:
    due: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for device, night, from_us, to_us in ledger.execute(
        "SELECT device, night, from_us, to_us FROM due"
    ):
        due[device, str(night)].append((from_us, to_us))
    lit = _spans(ledger.execute("SELECT device, from_us, to_us FROM lit"))
    observed = _spans(ledger.execute("SELECT device, from_us, to_us FROM observed"))

    computed = _lamp_nights(conn)
    # A lamp-night row is settled up to the latest reading that tells; so is the truth here.
    settled: dict[str, int] = dict(
        conn.execute(
            """
            SELECT d.device, (extract(epoch FROM s.lit_at) * 1000000)::bigint
            FROM device_state AS s
            JOIN device AS d ON d.id = s.device_id
            WHERE s.lit_at IS NOT NULL
            """
        ).fetchall()
    )
    worst_us = lamp_nights = 0
    totals = [0, 0, 0, 0]  # lit and observed, as computed and in truth
    for device, night in sorted(computed.keys() | due.keys()):
        spans = join(due.get((device, night), ()))
        known = clip(spans, settled[device]) if device in settled else spans
        seen = intersect(known, observed.get(device, ()))
        true = (length(spans), length(intersect(seen, lit.get(device, ()))), length(seen))
        due_us, lit_us, dark_us = computed.get((device, night), (0, 0, 0))
        mine = (due_us, lit_us, lit_us + dark_us)
        if not mine[2] and not true[2]:
            continue  # nothing is known of it, here or there: a night that has not begun
        lamp_nights += 1
        error_us = max(abs(a - b) for a, b in zip(mine, true, strict=True))
        if error_us > LIGHTING_ERROR_MAX_S * 1e6:
            differences.append(
                Difference(
                    "lamp-night",
                    f"{device} {night}: due, lit, observed are {_seconds(mine)}, "
                    f"in truth {_seconds(true)}",
                )
            )
        worst_us = max(worst_us, error_us)
        for index, value in enumerate((*mine[1:], *true[1:])):
            totals[index] += value
    return Lighting(
        lamp_nights=lamp_nights,
        uptime=totals[0] / totals[1] if totals[1] else None,
        truth=totals[2] / totals[3] if totals[3] else None,
        max_abs_error_s=worst_us / 1e6,
    )


def _lamp_nights(conn: psycopg.Connection) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Due, lit and dark time in microseconds by device and night."""
    rows = conn.execute(
        """
        SELECT d.device, n.night, n.due_us, n.lit_us, n.dark_us
        FROM lamp_night AS n
        JOIN device AS d ON d.id = n.device_id
        """
    )
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for device, night, due_us, lit_us, dark_us in rows:
        assert isinstance(night, date)
        found[device, night.isoformat()] = (due_us, lit_us, dark_us)
    return found


def _seconds(times_us: Iterable[int]) -> str:
    return ", ".join(f"{time_us / 1e6:.3f} s" for time_us in times_us)


def _spans(rows: Iterable[tuple[str, int, int]]) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = defaultdict(list)
    for device, from_us, to_us in rows:
        found[device].append((from_us, to_us))
    return {device: join(spans) for device, spans in found.items()}


def join(spans: Iterable[Span]) -> list[Span]:
    """The same time as disjoint spans in order."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def intersect(some: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The time in both; both disjoint and in order."""
    common: list[Span] = []
    ends = [end for _, end in others]
    for start, end in some:
        for other_start, other_end in others[bisect_left(ends, start) :]:
            if other_start >= end:
                break
            low, high = max(start, other_start), min(end, other_end)
            if low < high:
                common.append((low, high))
    return common


def clip(spans: Sequence[Span], until: int) -> list[Span]:
    """The time before ``until``."""
    return [(start, min(end, until)) for start, end in spans if start < until]


def length(spans: Iterable[Span]) -> int:
    """Microseconds in all."""
    return sum(end - start for start, end in spans)


# -- alerts -----------------------------------------------------------------------------------


def _alerts(
    ledger: sqlite3.Connection, conn: psycopg.Connection, differences: list[Difference]
) -> Alerts:
    windows: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for rule, subject, from_us, to_us in ledger.execute(
        "SELECT rule, subject, from_us, to_us FROM expected_alert"
    ):
        windows[rule, subject].append((from_us, to_us))
    raised: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rule, subject, at_us in conn.execute(
        """
        SELECT rule, coalesce(device, gateway), (extract(epoch FROM raised_at) * 1000000)::bigint
        FROM alert
        """
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


# -- for the latency --------------------------------------------------------------------------


def outages(truth: Path) -> Mapping[str, Sequence[Span]]:
    """When the links of which gateways were cut on purpose."""
    with closing(sqlite3.connect(f"file:{truth}?mode=ro", uri=True)) as ledger:
        return _spans(
            ledger.execute("SELECT gateway, cut_us, healed_us FROM outage WHERE healed_us NOTNULL")
        )


def contains(spans: Sequence[Span], instant_us: int) -> bool:
    """Whether an instant lies in one of the spans, both ends included."""
    return any(start <= instant_us <= end for start, end in spans)


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least ``share`` (0 to 1) of all do not exceed; None of none."""
    if not values:
        return None
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * round(share * 1000) // 1000))
    return ordered[rank - 1]
