# SPDX-License-Identifier: Apache-2.0
"""Lighting: what was computed against what was physically true, and against the raw rows (I8)."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

import psycopg
from psycopg.types.multirange import Multirange

from deploy.checker.facts import Difference
from deploy.checker.spans import Span, by_subject, clip, intersect, join, length

LIGHTING_ERROR_MAX_S = 1.0
# A reading holds until the next one, at most this many reporting periods (domain.md, Lighting).
SILENCE_PERIODS = 3
# Without a word on light, from this share of the rated power on.
LIT_POWER_SHARE = 0.2


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
class Recomputed:
    """What was computed as data came in, against a slow computation from the rows at the end."""

    lamp_nights: int
    states: int
    differing: int

    @property
    def ok(self) -> bool:
        """Nothing differs, not by a microsecond."""
        return not self.differing


def compare(
    ledger: sqlite3.Connection, conn: psycopg.Connection, differences: list[Difference]
) -> Lighting:
    """Compare every lamp-night with the ledger's physics."""
    due: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for device, night, from_us, to_us in ledger.execute(
        "SELECT device, night, from_us, to_us FROM due"
    ):
        due[device, str(night)].append((from_us, to_us))
    lit = by_subject(ledger.execute("SELECT device, from_us, to_us FROM lit"))
    observed = by_subject(ledger.execute("SELECT device, from_us, to_us FROM observed"))

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


# -- from the raw rows ----------------------------------------------------------------------------


class _Word(NamedTuple):
    """What one reading says of its lamp's light."""

    at_us: int
    lit: bool


def recompute(conn: psycopg.Connection, differences: list[Difference]) -> Recomputed:
    """Work lamp-nights and latest states out anew from the raw rows, slowly and one by one."""
    wrong: list[Difference] = []
    words = _words(conn)
    nights = conn.execute(
        """
        SELECT d.device, n.night, n.due, n.lit_us, n.dark_us, d.reporting_period_s
        FROM lamp_night AS n
        JOIN device AS d ON d.id = n.device_id
        ORDER BY d.device, n.night
        """
    ).fetchall()
    for device, night, due, lit_us, dark_us, period_s in nights:
        hold_us = round(SILENCE_PERIODS * period_s * 1e6)
        spans = list(_spans(due))
        true = [0, 0]
        for start, end, lit in _held(words.get(device, ()), hold_us, spans):
            true[0 if lit else 1] += length(intersect(spans, [(start, end)]))
        if (lit_us, dark_us) != tuple(true):
            wrong.append(
                Difference(
                    "lamp-night against its readings",
                    f"{device} {night}: lit, dark are {_seconds((lit_us, dark_us))}, "
                    f"recomputed {_seconds(true)}",
                )
            )
    states = _latest(conn)
    for device, at_us, latest_us in states:
        if at_us != latest_us:
            wrong.append(
                Difference(
                    "latest state", f"{device}: at {at_us} us, its latest reading {latest_us} us"
                )
            )
    differences += wrong
    return Recomputed(len(nights), len(states), len(wrong))


def _words(conn: psycopg.Connection) -> dict[str, Sequence[_Word]]:
    """For each lamp what its readings say of light, in order; of equal instants lit comes last."""
    found: dict[str, list[_Word]] = defaultdict(list)
    for device, at_us, lit, power_w, rated_w in conn.execute(
        """
        SELECT d.device, (extract(epoch FROM r.at) * 1000000)::bigint, r.lit, r.power_w,
               d.rated_power_w
        FROM reading_lamp AS r
        JOIN device AS d ON d.id = r.device_id
        """
    ):
        if lit is None and power_w is not None and rated_w is not None:
            lit = power_w >= LIT_POWER_SHARE * rated_w
        if lit is not None:
            found[device].append(_Word(at_us, lit))
    return {device: sorted(set(words)) for device, words in found.items()}


def _held(
    words: Sequence[_Word], hold_us: int, spans: Sequence[Span]
) -> Iterator[tuple[int, int, bool]]:
    """From when to when each word but the last holds, without those far from ``spans``."""
    if not spans:
        return
    first = max(0, bisect_left(words, (spans[0][0] - hold_us, False)) - 1)
    for index in range(first, len(words) - 1):
        start, lit = words[index]
        if start > spans[-1][1]:
            return
        if words[index + 1].at_us > start:
            yield start, min(words[index + 1].at_us, start + hold_us), lit


def _spans(due: Multirange[datetime]) -> Iterator[Span]:
    for one in due:
        assert one.lower is not None
        assert one.upper is not None
        yield _us(one.lower), _us(one.upper)


def _us(at: datetime) -> int:
    # Whole numbers all the way: a float of seconds since 1970 is off by a microsecond.
    days = at.toordinal() - date(1970, 1, 1).toordinal()
    offset = at.utcoffset()
    assert offset is not None
    seconds = days * 86_400 + at.hour * 3_600 + at.minute * 60 + at.second
    return (seconds - round(offset.total_seconds())) * 1_000_000 + at.microsecond


def _latest(conn: psycopg.Connection) -> list[tuple[str, int | None, int | None]]:
    """For each device the instant of its latest state, and of its latest reading."""
    return conn.execute(
        """
        SELECT d.device, (extract(epoch FROM s.at) * 1000000)::bigint,
               (extract(epoch FROM r.at) * 1000000)::bigint
        FROM device_state AS s
        FULL JOIN (
            SELECT device_id, max(at) AS at
            FROM (
                SELECT device_id, at FROM reading_lamp
                UNION ALL SELECT device_id, at FROM reading_bin
                UNION ALL SELECT device_id, at FROM reading_gate
                UNION ALL SELECT device_id, at FROM reading_alarm
            ) AS one
            GROUP BY device_id
        ) AS r USING (device_id)
        JOIN device AS d ON d.id = coalesce(s.device_id, r.device_id)
        """
    ).fetchall()
