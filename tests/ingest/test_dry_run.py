# SPDX-License-Identifier: Apache-2.0
"""What a rule would have raised, over stored history in the real database."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg
import pytest
from psycopg import sql

from deploy.faults.ground import dsn_of
from deploy.services import Postgres
from ingest.alerts import IDLE, Clear, Decision, Raise, Track, step
from ingest.conditions import Told, compile_condition
from ingest.dry_run import Budget, DryRunError, Outcome, dry_run
from ingest.kinds import DEVICE_SILENT, GATEWAY_SILENT, KINDS
from ingest.rules import Rule
from ingest.store import alerts, connect, readings
from ingest.store.alerts import Change, Subject
from tests.ingest import test_rule_states as states
from tests.ingest.conditions.telling import CHENGDU
from tests.services import OWNER

START: Final = datetime(2026, 11, 1, tzinfo=UTC)
END: Final = START + timedelta(days=3)
BINS: Final = ("bin-1", "bin-2", "bin-3")
PERIOD_S: Final = 600.0
DEVICES: Final = (
    *((bin_, "bin", "c01-a") for bin_ in BINS),
    ("gate-1", "gate", "c01-a"),
    ("alarm-1", "alarm", "c01-a"),
    ("alarm-2", "alarm", "c01-b"),
    ("bin-9", "bin", "c02"),
)
FULL: Final = {"type": "threshold", "field": "fill_pct", "above": 90.0, "clear": 70.0}


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def history() -> dict[str, list[tuple[datetime, float, float]]]:
    """Three days of three bins: how full, and how hot."""
    rng = random.Random(6)
    told: dict[str, list[tuple[datetime, float, float]]] = {}
    for bin_ in BINS:
        fill, seconds = rng.uniform(0, 50), 0.0
        rows = told[bin_] = []
        while seconds < 3 * 86_400:
            rows.append((START + timedelta(seconds=seconds), fill, round(rng.gauss(25, 6), 1)))
            fill = (
                5.0 if fill > 99 or rng.random() < 0.01 else min(100.0, fill + rng.choice((0, 4)))
            )
            seconds += rng.choice((300, 600, 600, 700, 4_000))
    return told


HISTORY: Final = history()


@pytest.fixture(scope="module")
def conn(database_server: Postgres, database_template: str) -> Iterator[psycopg.Connection]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(database_server.dsn(), autocommit=True) as server:
        server.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(name), sql.Identifier(database_template), sql.Identifier(OWNER)
            )
        )
        with connect(dsn_of(database_server, name), "dry-run") as made:
            fill(made)
            yield made
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def fill(conn: psycopg.Connection) -> None:
    conn.execute(
        """
        INSERT INTO area (area, parent, path, level, name, time_zone, latitude, longitude)
        VALUES ('city', NULL, 'city', 'city', '城', 'Asia/Shanghai', NULL, NULL),
               ('c01', 'city', 'city.c01', 'community', '一', 'Asia/Shanghai', 30.6, 104.0),
               ('c01-a', 'c01', 'city.c01.c01_a', 'cell', '甲', 'Asia/Shanghai', NULL, NULL),
               ('c01-b', 'c01', 'city.c01.c01_b', 'cell', '乙', 'Asia/Shanghai', NULL, NULL),
               ('c02', 'city', 'city.c02', 'community', '二', 'Asia/Shanghai', 30.6, 104.0)
        """
    )
    conn.execute("INSERT INTO gateway (gateway, community) VALUES ('gw-1', 'c01'), ('gw-2', 'c02')")
    for device, kind, area in DEVICES:
        community = area[:3]
        conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, in_service_from,
                                reporting_period_s)
            VALUES (%s, %s, %s, %s, %s, %s, %s)
            """,
            (device, kind, f"gw-{community[2]}", community, area, START, PERIOD_S),
        )
    ids = dict(conn.execute("SELECT device, id FROM device").fetchall())
    bins = KINDS["bin"].readings
    rows: list[tuple[object, ...]] = []
    for bin_, told in {**HISTORY, "bin-9": HISTORY["bin-1"]}.items():
        for when, fill_pct, temperature_c in told:
            said = {"fill_pct": fill_pct, "temperature_c": temperature_c}
            rows.append((ids[bin_], when, when, *(said.get(name) for name in bins.columns)))
    random.Random(1).shuffle(rows)  # as they arrived
    readings.copy_in(conn, bins, rows)
    gates, alarms = KINDS["gate"].events, KINDS["alarm"].events
    assert gates is not None
    assert alarms is not None
    forced = [at(hours) for hours in (1, 30, 50)]
    readings.copy_in(
        conn, gates, [(ids["gate-1"], one, one, "forced", None, None) for one in forced]
    )
    intrusions = [
        ("alarm-1", at(1) + timedelta(seconds=40)),
        ("alarm-1", at(20)),
        ("alarm-2", at(30) + timedelta(seconds=5)),  # in the next cell
        ("alarm-1", at(50) + timedelta(seconds=61)),
    ]
    readings.copy_in(
        conn,
        alarms,
        [
            *(
                (ids[device], when, when, "intrusion", "raised", f"o-{n}", None)
                for n, (device, when) in enumerate(intrusions)
            ),
            (ids["alarm-2"], at(4), at(4), "duress", "raised", "o-9", None),
        ],
    )


def rule(said: Mapping[str, Any], **more: Any) -> Rule:
    return Rule.model_validate({"id": "custom.tried", "severity": "minor", "when": said, **more})


def one_by_one(tried: Rule, device: str) -> list[Decision]:
    """As devices tell it: each reading in turn, nothing else."""
    assert tried.when is not None
    made = compile_condition(tried.when, "bin")
    track: Track = IDLE
    memory = None
    decided: list[Decision] = []
    for when, fill_pct, temperature_c in HISTORY[device]:
        values = {"fill_pct": fill_pct, "temperature_c": temperature_c}
        answer = made.ask(Told(device, "bin", "c01-a", CHENGDU, when, values), memory)
        memory = answer.memory
        track, decisions = step(
            track,
            answer.holds,
            when,
            on_delay=tried.on_delay,
            off_delay=tried.off_delay,
            known_until=when + timedelta(seconds=3 * PERIOD_S),
        )
        decided += decisions
    return decided


@pytest.mark.parametrize(
    "tried",
    [
        pytest.param(rule(FULL), id="threshold"),
        pytest.param(rule({**FULL, "clear": None}, on_delay_s=900, off_delay_s=1_200), id="delays"),
        pytest.param(
            rule({"type": "threshold", "field": "temperature_c", "above": 30.0}), id="flapping"
        ),
        pytest.param(
            rule({"type": "rate", "field": "temperature_c", "above": 0.5, "within_s": 1_800.0}),
            id="rate",
        ),
        pytest.param(
            rule({"type": "expression", "expression": "fill_pct > 80 && temperature_c > 30"}),
            id="expression",
        ),
        pytest.param(
            rule({"type": "not", "of": {"type": "any", "of": [FULL, {**FULL, "above": 95.0}]}}),
            id="nested",
        ),
    ],
)
def test_it_raises_what_would_have_been_raised(conn: psycopg.Connection, tried: Rule) -> None:
    tried = tried.model_copy(update={"reopen_s": 0.0})
    outcome = dry_run(conn, tried, "bin", "c01", START, END)
    raised = {
        bin_: [one.at for one in one_by_one(tried, bin_) if isinstance(one, Raise)] for bin_ in BINS
    }
    count = sum(map(len, raised.values()))
    assert count > 0, "or nothing is compared"
    assert outcome.occurrences == count
    assert dict(outcome.noisiest) == {bin_: len(all_) for bin_, all_ in raised.items() if all_}
    earliest = sorted((when, bin_) for bin_, all_ in raised.items() for when in all_)[:10]
    assert [(one.raised_at, one.device) for one in outcome.first] == earliest
    days = [(when + timedelta(hours=8)).date() for all_ in raised.values() for when in all_]
    assert outcome.per_day == {day: days.count(day) for day in sorted(set(days))}
    assert (outcome.devices, outcome.devices_asked, outcome.truncated) == (3, 3, None)
    assert outcome.rows == sum(map(len, HISTORY.values()))


def test_what_is_raised_again_soon_is_one_alert(conn: psycopg.Connection) -> None:
    hot = {"type": "threshold", "field": "temperature_c", "above": 30.0}
    each, folded = (
        dry_run(conn, rule(hot, reopen_s=reopen), "bin", "c01", START, END)
        for reopen in (0.0, 3_600.0)
    )
    assert each.occurrences == folded.occurrences
    assert each.alerts > folded.alerts > 0
    lengths = [one.length(END) for one in folded.longest]
    assert lengths == sorted(lengths, reverse=True)
    assert folded.longest[0].length(END) > each.longest[0].length(END)


SEQUENCE: Final = {
    "type": "sequence",
    "first": {"type": "event", "kind": "gate", "events": ["forced"]},
    "then": {"type": "event", "events": ["intrusion"], "phases": ["raised"]},
    "within_s": 60.0,
    "holds_s": 300.0,
    "where": "cell",
}


def test_a_sequence_in_a_cell(conn: psycopg.Connection) -> None:
    outcome = dry_run(conn, rule(SEQUENCE), "alarm", "city", START, END)
    (alert,) = outcome.first
    assert (alert.device, alert.raised_at) == ("alarm-1", at(1) + timedelta(seconds=40))
    assert alert.cleared_at == alert.raised_at + timedelta(seconds=300), "without another event"
    assert alert.values["event"] == "intrusion"
    assert outcome.per_day == {date(2026, 11, 1): 1}


def test_nothing_is_told_of_duress(conn: psycopg.Connection) -> None:
    any_alarm = {"type": "expression", "expression": "event.phase == 'raised'"}
    outcome = dry_run(conn, rule(any_alarm, reopen_s=0.0), "alarm", "c01-b", START, END)
    assert [one.raised_at for one in outcome.first] == [at(30) + timedelta(seconds=5)]


def test_a_condition_that_time_alone_makes_true(conn: psycopg.Connection) -> None:
    """Evening comes without a reading, and what is still known then is judged then."""
    clock = {"type": "schedule", "by": "clock", "start": "18:00", "end": "18:05"}
    warm = {"type": "threshold", "field": "temperature_c", "above": -50.0}
    tried = rule({"type": "all", "of": [warm, clock]})
    outcome = dry_run(conn, tried, "bin", "c01", START, END)
    evenings = [at(10), at(34), at(58)]
    assert 0 < outcome.alerts <= 9
    assert {one.raised_at for one in outcome.first} <= set(evenings)
    assert all(one.length(END) == timedelta(minutes=5) for one in outcome.first)


def test_only_what_lies_in_the_area_is_asked(conn: psycopg.Connection) -> None:
    def asked(area: str) -> Outcome:
        return dry_run(conn, rule(FULL), "bin", area, START, END)

    assert [asked(area).devices for area in ("city", "c01", "c01-a", "c01-b", "c02", "x")] == [
        4, 3, 3, 0, 1, 0,
    ]  # fmt: skip


def test_only_what_lies_in_the_range_is_asked(conn: psycopg.Connection) -> None:
    instants = [one[0] for told in HISTORY.values() for one in told]
    outcome = dry_run(conn, rule(FULL), "bin", "c01", at(5), at(6))
    assert outcome.rows == sum(at(5) <= one < at(6) for one in instants)


def test_readings_that_wait_for_their_index_are_left_out(database: str) -> None:
    """As `ingest.store.chunks.Indexed` finds them: device by device they would cost too much."""
    with connect(database, "dry-run") as conn:
        fill(conn)
        conn.execute(
            """
            DO $$
            DECLARE one regclass;
            BEGIN
                FOR one IN SELECT i.indexrelid
                           FROM timescaledb_information.chunks AS c
                           JOIN pg_index AS i ON i.indrelid =
                                format('%I.%I', c.chunk_schema, c.chunk_name)::regclass
                           WHERE c.hypertable_name = 'reading_bin'
                             AND c.range_start >= '2026-11-03T00:00:00Z' LOOP
                    EXECUTE format('DROP INDEX %s', one);
                END LOOP;
            END $$
            """
        )
        outcome = dry_run(conn, rule(FULL), "bin", "c01", START, END)
        assert outcome.until == START + timedelta(days=2)
        instants = [one[0] for told in HISTORY.values() for one in told]
        assert outcome.rows == sum(one < outcome.until for one in instants)
        assert dry_run(conn, rule(SEQUENCE), "alarm", "city", START, END).until == END


def keep(conn: psycopg.Connection, taken: Sequence[states.Step]) -> datetime:
    """Store what was said and noticed in two bins' course; return when that was over."""
    ids = dict(conn.execute("SELECT device, id FROM device").fetchall())
    bins, when = KINDS["bin"].readings, states.START
    rows: list[tuple[object, ...]] = []
    lives: dict[str, list[tuple[datetime, str]]] = {one.device: [] for one in states.BINS}
    life = dict.fromkeys(lives, "in_service")
    silent: dict[str | None, bool] = {}
    changes: list[Change] = []
    for step_ in taken:
        when += timedelta(seconds=step_.seconds)
        bin_: str | None = BINS[step_.which]
        match step_.what:
            case "good" | "fault":
                said = {"fill_pct": step_.fill, "fault": "jam" if step_.what == "fault" else None}
                values = (said.get(name) for name in bins.columns)
                rows.append((ids[bin_], when, when, *values))
            case "maintenance" | "in_service":
                lives[bin_].append((when, step_.what))
                life[bin_] = step_.what
            case what:
                rule_ = DEVICE_SILENT
                if what.startswith("gateway"):
                    rule_, bin_ = GATEWAY_SILENT, None
                if bin_ is not None and life[bin_] == "maintenance":
                    continue  # nobody looks
                now = what.endswith("silent")
                if silent.get(bin_, False) != now:
                    silent[bin_] = now
                    kind, area = ("gateway", "c01") if bin_ is None else ("bin", "c01-a")
                    subject = Subject(kind, "gw-1", "c01", area, bin_)
                    decision = Raise(when, "x") if now else Clear(when, "x")
                    changes.append(Change(rule_, subject, decision, when))
    readings.copy_in(conn, bins, rows)
    with conn.transaction():
        alerts.write(conn, changes, when)
        for bin_, changed in lives.items():
            # Each change closes what was before, as the registry's triggers do.
            for since, then in changed:
                conn.execute(
                    """
                    WITH v AS (
                        UPDATE device_version SET during = tstzrange(lower(during), %(since)s)
                        WHERE device_id = %(id)s AND upper_inf(during)
                        RETURNING *
                    )
                    INSERT INTO device_version
                    SELECT device_id, tstzrange(%(since)s, NULL), gateway, community, area,
                           %(life)s, reporting_period_s, rated_power_w, programme, road
                    FROM v
                    """,
                    {"since": since, "id": ids[bin_], "life": then},
                )
    return when + timedelta(seconds=4_000)


@pytest.mark.parametrize("seed", range(4))
def test_states_are_what_they_were(database: str, seed: int) -> None:
    """From readings, kept alerts on silence and the registry's history: as it was live."""
    rng = random.Random(seed)
    whats = states.What.__args__
    taken = [states.Step(n, "good", n - 1) for n in (1, 2)] + [
        states.Step(rng.randint(1, 900), rng.choice(whats), rng.randint(0, 1),
                    rng.choice((0.0, 90.0)))
        for _ in range(60)
    ]  # fmt: skip
    asked = [one for one in states.RULES if one is not states.NEVER]
    told = states.run(taken, *asked).tables.told
    with connect(database, "dry-run") as conn:
        fill(conn)
        end = keep(conn, taken)
        raised_by: set[str] = set()
        for version in asked:
            assert version.definition is not None
            tried = Rule.model_validate({"id": version.rule, **version.definition, "reopen_s": 0.0})
            found = dry_run(
                conn, tried, "bin", "c01", states.START, end - timedelta(microseconds=1)
            )
            live = [
                (when, bin_)
                for slug, bin_, name, when, *_ in told
                if (slug, name) == (version.rule, "Raise")
            ]
            assert found.occurrences == len(live)
            assert [(one.raised_at, one.device) for one in found.first] == sorted(live)[:10]
            cleared = {
                (when, bin_)
                for slug, bin_, name, when, *_ in told
                if (slug, name) == (version.rule, "Clear")
            }
            ends = {(one.cleared_at, one.device) for one in found.first if one.cleared_at}
            assert ends <= cleared
            raised_by |= {version.rule} if live else set()
        assert len(raised_by) >= 5, "or nothing is compared"


def test_a_device_that_tells_nothing_is_asked_too(database: str) -> None:
    """Silent, in maintenance, silent again: by what is kept, before any reading in the range."""
    with connect(database, "dry-run") as conn:
        fill(conn)
        end = keep(
            conn,
            [
                states.Step(600, "silent"), states.Step(600, "maintenance"),
                states.Step(600, "in_service"), states.Step(600, "good"), states.Step(5, "heard"),
            ],
        )  # fmt: skip
        tried = Rule.model_validate(
            {"id": "custom.gone", **(states.GONE.definition or {}), "reopen_s": 0.0}
        )
        found = dry_run(conn, tried, "bin", "c01", states.START, end)
        assert found.rows == 1
        assert [
            ((one.raised_at - states.START).seconds, one.length(end).seconds, one.values)
            for one in found.first
        ] == [(600, 600, {"state": "offline"}), (1_800, 605, {"state": "offline"})]


class TestBudget:
    def test_rows(self, conn: psycopg.Connection) -> None:
        most = len(HISTORY["bin-1"]) + 5
        outcome = dry_run(conn, rule(FULL), "bin", "c01", START, END, budget=Budget(rows=most))
        assert (outcome.truncated, outcome.devices_asked, outcome.devices) == ("rows", 1, 3)
        assert {one.device for one in outcome.first} <= {"bin-1"}, "each whole, or not at all"

    def test_time(self, conn: psycopg.Connection) -> None:
        ticks = iter([0.0, 1.0, 99.0])
        budget = Budget(seconds=10.0)
        outcome = dry_run(
            conn, rule(FULL), "bin", "c01", START, END, budget=budget, clock=lambda: next(ticks)
        )
        assert (outcome.truncated, outcome.devices_asked) == ("time", 1)

    def test_nothing_is_left_behind(self, conn: psycopg.Connection) -> None:
        dry_run(conn, rule(FULL), "bin", "c01", START, END, budget=Budget(rows=1))
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert conn.execute("SELECT count(*) FROM pg_cursors").fetchone() == (0,)


@pytest.mark.parametrize(
    ("tried", "start", "end", "code"),
    [
        pytest.param(rule(FULL), END, START, "time.order", id="backwards"),
        pytest.param(rule(FULL), START, START, "time.order", id="no-time"),
        pytest.param(
            rule(FULL), START, START + timedelta(days=31, seconds=1), "time.too_long", id="too-long"
        ),
        pytest.param(
            Rule(id="bin.full", severity="minor"),
            START,
            END,
            "rule.no_condition",
            id="no-condition",
        ),
        pytest.param(
            rule({"type": "one_of", "field": "state", "values": ["fault", "unknown"]}),
            START,
            END,
            "state.no_history",
            id="never-heard",
        ),
        pytest.param(
            rule({"type": "expression", "expression": "fill_pct > 1 && state == 'unknown'"}),
            START,
            END,
            "state.no_history",
            id="never-heard-in-cel",
        ),
    ],
)
def test_questions_that_cannot_be_answered(
    conn: psycopg.Connection, tried: Rule, start: datetime, end: datetime, code: str
) -> None:
    with pytest.raises(DryRunError) as refused:
        dry_run(conn, tried, "bin", "c01", start, end)
    assert refused.value.rule == code
