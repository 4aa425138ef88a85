# SPDX-License-Identifier: Apache-2.0
"""Alerts of rules over indicators, over a real database: raised, restated, tuned, never twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from edge_agent.kinds.lamp import LampReading
from ingest.daily import DailyKeeper
from ingest.indicators.tally import Tally
from ingest.kinds import DEFAULT_RULES
from ingest.rules import RuleBook
from ingest.store import area_days, connect
from ingest.store import rules as stored
from ingest.store.devices import load_registry
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, Bench, feed, found
from tests.services import Broker

UPTIME = "indicator.lighting_uptime"
COVERAGE = "indicator.coverage_low"
# Two days ago: Shanghai is eight hours ahead.
DAY = (datetime.now(UTC) - timedelta(days=2)).date()
MIDNIGHT = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC) - timedelta(hours=8)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
# That day and its night are final, nothing else is.
FINAL = MIDNIGHT + 38 * HOUR


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=MIDNIGHT - timedelta(days=5))
    made = Bench(database, broker)
    yield made
    made.close()


def keep(bench: Bench, now: datetime, **configured: Mapping[str, object]) -> None:
    """Start a keeper and let it do all that is due at one moment."""
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(bench.dsn, lambda: registry, RuleBook(DEFAULT_RULES, configured))
        while keeper.keep(conn, now):
            pass


def night(bench: Bench, lit: bool, *, after: timedelta = timedelta()) -> None:
    """Every lamp tells every half hour from noon to noon; later word within it overrides."""
    for device in ("c01-lamp-001", "c01-lamp-002", "c01-lamp-101"):
        readings = [
            LampReading(device=device, at=MIDNIGHT + 12 * HOUR + n * 30 * MINUTE + after, lit=lit)
            for n in range(48)
        ]
        gateway = OTHER_GATEWAY if device == "c01-lamp-101" else GATEWAY
        stream = f"s-{device}-{after.seconds}"
        feed(bench.telemetry(), bench.batch(1, *readings, gateway=gateway, stream=stream))


def say(bench: Bench, rule: str, definition: dict[str, Any] | None, area: str = "c01") -> None:
    async def save() -> None:
        async with await psycopg.AsyncConnection.connect(bench.dsn) as conn, conn.transaction():
            await stored.save(
                conn, rule, area, definition, expected=None, author="root", reason="test", now=FINAL
            )

    asyncio.run(save())


def mark(bench: Bench) -> None:
    with psycopg.connect(bench.dsn) as conn:
        conn.execute("UPDATE community_day SET dirty = 'asked', marks = marks + 1")


def seen(bench: Bench) -> dict[str, tuple[bool, int]]:
    """Return the alerts over indicators: whether each is active, and how often it came again."""
    rows = bench.rows("SELECT rule, active, repeats FROM alert WHERE kind = 'community'")
    found = {row["rule"]: (row["active"], row["repeats"]) for row in rows}
    assert len(found) == len(rows), "one alert for each rule"
    return found


def timeline(bench: Bench, rule: str) -> list[tuple[str, str]]:
    rows = bench.rows(
        """
        SELECT h.action, h.reason FROM alert_history AS h JOIN alert AS t ON t.id = h.alert
        WHERE t.rule = %s ORDER BY h.id
        """,
        rule,
    )
    return [(row["action"], row["reason"]) for row in rows]


def week(bench: Bench, now: datetime) -> Tally:
    """Return the lighting of the last nights as the rules see it."""
    with connect(bench.dsn, "test") as conn:
        asked = {"lighting-uptime": "lighting"}
        (found,) = area_days.last_days(
            conn, asked, ["c01", "city"], today=now.date(), reach=31, count=7
        )
        assert area_days.last_days(conn, asked, ["city"], today=now.date(), reach=31, count=7) == []
    return found.tally


def test_a_bad_night_is_raised_once_and_cleared_when_it_is_restated(bench: Bench) -> None:
    night(bench, lit=False)
    keep(bench, FINAL)
    # Nothing is known of the other devices: no verdict on their condition, but that is told too.
    assert seen(bench) == {UPTIME: (True, 0), COVERAGE: (True, 0)}
    (alert,) = bench.rows(
        """
        SELECT subject, kind, name, area, severity, late, raised_at, params FROM alert_view
        WHERE rule = %s
        """,
        UPTIME,
    )
    assert alert == {
        "subject": "c01",
        "kind": "community",
        "name": "一",
        "area": "c01",
        "severity": "minor",
        "late": False,
        "raised_at": FINAL,
        "params": {"value_pct": 0.0, "target_pct": 97.0, "day": DAY.isoformat()},
    }
    # The same day again, and another start, say nothing new.
    mark(bench)
    keep(bench, FINAL + MINUTE)
    assert timeline(bench, UPTIME) == [("raised", "number_below")]
    # It had been lit but for a second in each half hour.
    night(bench, lit=True, after=timedelta(seconds=1))
    keep(bench, FINAL + 2 * MINUTE)
    assert seen(bench) == {UPTIME: (False, 0), COVERAGE: (True, 0)}
    assert timeline(bench, UPTIME)[1:] == [("cleared", "number_recovered")]
    # Restated to and fro it is one alert.
    night(bench, lit=False, after=timedelta(seconds=2))
    keep(bench, FINAL + 4 * MINUTE)
    assert seen(bench)[UPTIME] == (True, 1)
    assert timeline(bench, UPTIME)[2:] == [("raised_again", "number_below")]


def test_a_day_that_runs_or_proves_nothing_raises_nothing(bench: Bench) -> None:
    night(bench, lit=False)
    keep(bench, MIDNIGHT + 35 * HOUR)  # the night is not over; the day is
    assert seen(bench) == {COVERAGE: (True, 0)}
    keep(bench, FINAL)
    assert seen(bench).keys() == {UPTIME, COVERAGE}


def test_what_is_not_certain_raises_nothing(bench: Bench) -> None:
    readings = [
        LampReading(device="c01-lamp-001", at=MIDNIGHT + 20 * HOUR + n * MINUTE, lit=n == 0)
        for n in range(2)
    ]
    feed(bench.telemetry(), bench.batch(1, *readings))
    keep(bench, FINAL)
    (told,) = bench.rows(
        "SELECT good > 0 AS good, bad >= 30 * good AS dark FROM area_day WHERE status = 'final'"
        " AND indicator = 'lighting-uptime'"
    )
    assert told == {"good": True, "dark": True}
    assert seen(bench) == {COVERAGE: (True, 0)}


def test_the_days_before_count_too(bench: Bench) -> None:
    without: dict[str, Mapping[str, object]] = {COVERAGE: {"enabled": False}}
    night(bench, lit=False)
    keep(bench, FINAL, **without)
    assert seen(bench) == {UPTIME: (True, 0)}
    one_night = 3 * 24 * HOUR // timedelta(microseconds=1)
    assert week(bench, FINAL) == Tally(0, one_night, one_night)
    # The next night nothing is heard: the one before counts as well.
    keep(bench, FINAL + 24 * HOUR, **without)
    two = week(bench, FINAL + 24 * HOUR)
    assert (two.good, two.total) == (0, 2 * one_night)
    assert two.bad >= one_night
    assert timeline(bench, UPTIME) == [("raised", "number_below")]
    # When the last seven nights hold nothing of it at all it still stands: nothing was heard.
    keep(bench, FINAL + timedelta(days=9), **without)
    assert week(bench, FINAL + timedelta(days=9)) == Tally(0, 0, 7 * one_night)
    assert seen(bench) == {UPTIME: (True, 0)}


@pytest.mark.parametrize(
    ("area", "definition", "expected"),
    [
        pytest.param("c01", {"enabled": False}, "rule_off", id="off"),
        pytest.param("city", {"enabled": False}, "rule_off", id="off above"),
        # A quarter is known.
        pytest.param("city", {"limit": 20}, "rule_changed", id="asks otherwise, no answer"),
        pytest.param("c01", {"limit": 20, "clear": 22}, "number_recovered", id="answered by no"),
        pytest.param("c01", {"limit": 30}, None, id="answered by yes"),
        pytest.param("c01", {"severity": "info"}, None, id="asks the same"),
    ],
)
@pytest.mark.parametrize("runs", [True, False], ids=["live", "while ingest was down"])
def test_a_rule_that_people_change_ends_what_it_does_not_want(
    bench: Bench, area: str, definition: dict[str, Any], expected: str | None, runs: bool
) -> None:
    night(bench, lit=False)
    with connect(bench.dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(bench.dsn, lambda: registry, RuleBook(DEFAULT_RULES))
        while keeper.keep(conn, FINAL):
            pass
        say(bench, COVERAGE, definition, area)
        if runs:
            keeper.keep(conn, FINAL + MINUTE)
    if not runs:
        keep(bench, FINAL + MINUTE)
    told = timeline(bench, COVERAGE)
    assert told == [("raised", "number_below"), *([("cleared", expected)] if expected else [])]
    # Back to what was inherited.
    say(bench, COVERAGE, None, area)
    keep(bench, FINAL + 2 * MINUTE)
    assert seen(bench)[COVERAGE] == (True, 0 if expected is None else 1)


def test_a_limit_that_one_area_raises_is_asked_at_once_and_only_there(bench: Bench) -> None:
    night(bench, lit=False, after=timedelta(seconds=1))
    night(bench, lit=True)
    keep(bench, FINAL, **{COVERAGE: {"limit": 20, "clear": 22}, UPTIME: {"enabled": False}})
    assert seen(bench) == {}
    say(bench, COVERAGE, {"limit": 30, "clear": 40}, "c01")
    keep(bench, FINAL, **{COVERAGE: {"limit": 20, "clear": 22}, UPTIME: {"enabled": False}})
    assert seen(bench) == {COVERAGE: (True, 0)}
    (alert,) = bench.rows("SELECT params FROM alert WHERE kind = 'community'")
    assert alert["params"] == {"value_pct": 25.0, "target_pct": 30.0, "day": DAY.isoformat()}
