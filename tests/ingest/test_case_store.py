# SPDX-License-Identifier: Apache-2.0
"""Cases made of alerts in the real database: noise kept apart, codes, duress, many at once."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest
from psycopg import sql

from deploy.services import Postgres
from edge_agent.kinds.alarm import AlarmEvent, AlarmType, Phase
from ingest.migrate import MIGRATIONS, migrate
from ingest.store import alerts, cases
from tests.ingest.community import Bench, feed, found
from tests.ingest.precinct import Precinct, at, settle
from tests.services import Broker


@pytest.fixture
def precinct(database: str) -> Iterator[Precinct]:
    settle(database)
    with psycopg.connect(database, autocommit=True) as conn:
        yield Precinct(database, conn)


def test_a_night_of_three_incidents_and_noise_makes_three_cases_in_order(
    precinct: Precinct,
) -> None:
    precinct.ring(
        ("c01-lamp-g01", "lamp.dark", 0),
        ("c01-gate-g01", "gate.held_open", 1),  # nothing stands beside it
        ("c01-gate-g01", "gate.forced", 10),  # a break-in: gate, detector, next door, tampering
        ("c01-alarm-g01", "alarm.intrusion", 10.5),
        ("c01-alarm-g02", "alarm.intrusion", 12),
        ("c01-alarm-g01", "alarm.tamper", 13),
        ("c01-gate-g01", "gate.held_open", 14),
        ("c02-gate-g03", "gate.held_open", 14),
        ("c01-alarm-g03", "alarm.smoke", 15),  # a fire in another block meanwhile
        ("c01-alarm-g03", "alarm.fire", 17),
        ("c01-lamp-g03", "lamp.dark", 18),
        ("c02-alarm-g01", "alarm.panic", 40),  # a cry for help in the other community
    )
    for minutes in range(41, 47):  # a chattering gate
        precinct.ring(("c01-gate-g04", "gate.held_open", minutes))
        precinct.still("c01-gate-g04", "gate.held_open", minutes + 0.5)
    assert precinct.cases() == [
        (
            "crime", "major", "open", "c01",
            ["gate.forced", "alarm.intrusion", "alarm.intrusion", "alarm.tamper", "gate.held_open"],
        ),
        ("fire", "critical", "open", "c01-g03", ["alarm.smoke", "alarm.fire"]),
        ("crime", "critical", "open", "c02-g01", ["alarm.panic"]),
    ]  # fmt: skip


def test_every_member_tells_why_it_is_there(precinct: Precinct) -> None:
    precinct.ring(
        ("c01-gate-g01", "gate.forced", 0),
        ("c01-alarm-g01", "alarm.intrusion", 1),
        ("c01-alarm-g02", "alarm.intrusion", 2),
    )
    assert precinct.history() == [
        ("rule", "opened", "alert_raised"),
        ("rule", "joined", "same_cell"),
        ("rule", "joined", "same_gateway"),
    ]
    assert precinct.rows("SELECT version, first_at, last_at FROM alert_case") == [(3, at(0), at(2))]


def test_told_late_it_still_finds_its_case(precinct: Precinct) -> None:
    precinct.ring(("c01-alarm-g01", "alarm.intrusion", 60))
    with precinct.conn.transaction():
        change = precinct.change("c01-gate-g01", "gate.forced", 55)
        alerts.write(precinct.conn, [change], at(300))
    assert len(precinct.cases()) == 1
    assert precinct.rows("SELECT first_at, last_at FROM alert_case") == [(at(55), at(60))]


def test_raised_again_is_nothing_new_to_look_at(precinct: Precinct) -> None:
    precinct.ring(("c01-alarm-g01", "alarm.intrusion", 0))
    precinct.still("c01-alarm-g01", "alarm.intrusion", 1)
    precinct.ring(("c01-alarm-g01", "alarm.intrusion", 5))
    assert len(precinct.rows("SELECT id FROM alert")) == 1
    assert precinct.rows("SELECT version, last_at FROM alert_case") == [(1, at(5))]


def test_what_is_muted_opens_nothing_but_is_evidence(precinct: Precinct) -> None:
    precinct.ring(("c01-alarm-g02", "alarm.water", 0))
    precinct.conn.execute("DELETE FROM case_alert")
    # As hygiene has it: shelved, and it rings on.
    precinct.conn.execute(
        """
        UPDATE alert SET shelved_until = %s, shelved_by = 'li', shelved_reason = 'wet'
        """,
        (at(999),),
    )
    before = precinct.rows("SELECT id FROM alert_case")
    precinct.ring(("c01-alarm-g02", "alarm.water", 200))
    assert precinct.rows("SELECT id FROM alert_case") == before
    assert precinct.rows("SELECT alert FROM case_alert") == []


class TestDuress:
    def test_it_is_always_a_case_of_its_own(self, precinct: Precinct) -> None:
        precinct.ring(
            ("c01-alarm-g01", "alarm.intrusion", 0),
            ("c01-alarm-g01", "alarm.duress", 1),
            ("c01-gate-g01", "gate.forced", 2),
            ("c01-alarm-g02", "alarm.duress", 3),
        )
        assert [(nature, rules) for nature, _, _, _, rules in precinct.cases()] == [
            ("crime", ["alarm.intrusion", "gate.forced"]),
            ("duress", ["alarm.duress"]),
            ("duress", ["alarm.duress"]),
        ]

    def test_no_word_of_the_device_ends_it(self, precinct: Precinct) -> None:
        precinct.ring(("c01-alarm-g01", "alarm.duress", 0))
        precinct.still("c01-alarm-g01", "alarm.duress", 1)
        assert precinct.cases() == [("duress", "critical", "open", "c01-g01", ["alarm.duress"])]
        assert precinct.history() == [("rule", "opened", "alert_raised")]


def test_many_gateways_at_once_make_one_case(precinct: Precinct) -> None:
    """Each gateway's alarms may be written by another process, at the same instant."""
    devices = [f"c01-{kind}-g0{number}" for number in (1, 2) for kind in ("alarm", "gate")]
    start = threading.Barrier(len(devices))

    def ring(device: str) -> None:
        rule = "gate.forced" if "gate" in device else "alarm.intrusion"
        with psycopg.connect(precinct.dsn) as conn:
            start.wait(30)
            alerts.write(conn, [precinct.change(device, rule, 1)], at(1))

    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(ring, devices))
    ((_, _, _, _, rules),) = precinct.cases()
    assert len(rules) == len(devices)
    assert precinct.rows("SELECT version FROM alert_case") == [(len(devices),)]


def test_a_transaction_that_dies_leaves_nothing(precinct: Precinct) -> None:
    precinct.ring(("c01-gate-g01", "gate.forced", 0))
    tables = ("alert", "alert_case", "case_alert", "case_history")
    before = [precinct.rows(f"SELECT * FROM {table} ORDER BY 1") for table in tables]
    doomed = psycopg.connect(precinct.dsn)
    changes = [
        precinct.change("c01-alarm-g01", "alarm.intrusion", 1),
        precinct.change("c01-alarm-g03", "alarm.smoke", 1),
    ]
    alerts.write(doomed, changes, at(1))
    ((pid,),) = doomed.execute("SELECT pg_backend_pid()").fetchall()
    precinct.rows("SELECT pg_terminate_backend(%s, 30000)", pid)
    with pytest.raises(psycopg.OperationalError):
        doomed.commit()
    doomed.close()
    assert [precinct.rows(f"SELECT * FROM {table} ORDER BY 1") for table in tables] == before
    # And nobody waits for its lock: what is told again makes the same.
    with precinct.conn.transaction():
        alerts.write(precinct.conn, changes, at(2))
    assert [rules for *_, rules in precinct.cases()] == [
        ["gate.forced", "alarm.intrusion"],
        ["alarm.smoke"],
    ]


class Counted(psycopg.Cursor[Any]):
    """Counts statements, and the rows they return."""

    statements = rows_read = 0

    def execute(self, *told: Any, **more: Any) -> Self:
        made = super().execute(*told, **more)
        Counted.statements += 1
        Counted.rows_read += max(self.rowcount, 0)
        return made


def test_an_alert_that_joins_costs_the_same_however_large_the_case_is(precinct: Precinct) -> None:
    """What it reads of the case's alerts, and in how many statements."""
    precinct.ring(("c01-gate-g01", "gate.forced", 0))
    costs: list[tuple[int, int, int]] = []
    # As in a large table: of a few rows PostgreSQL would rather read all.
    precinct.conn.execute("SET enable_seqscan = off")
    precinct.conn.execute("SET enable_bitmapscan = off")
    for size in (20, 200):
        _grow(precinct, size)
        precinct.conn.execute("ANALYZE case_alert, alert, alert_case")
        change = precinct.change("c01-alarm-g01", "alarm.tamper", 1)
        with precinct.conn.transaction(force_rollback=True):
            ((_, alert),) = alerts.write(precinct.conn, [change], at(1))
            again = precinct.change("c01-alarm-g01", "alarm.tamper", 2)
            Counted.statements = Counted.rows_read = 0
            precinct.conn.cursor_factory = Counted
            before = _read(precinct)
            cases.attach(precinct.conn, [(alert, again)], at(2))
            precinct.conn.execute("DELETE FROM case_alert WHERE alert = %s", (alert,))
            cases.attach(precinct.conn, [(alert, again)], at(2))
            costs.append((Counted.statements, Counted.rows_read, _read(precinct) - before))
            precinct.conn.cursor_factory = psycopg.Cursor
    assert costs[0] == costs[1]
    assert costs[0][1] < 40


def _grow(precinct: Precinct, size: int) -> None:
    """Let the only case have alerts of as many devices of its cell."""
    case = precinct.case()
    precinct.conn.execute(
        """
        WITH made AS (
            INSERT INTO alert (id, rule, severity, kind, gateway, community, area, active, standing,
                               raised_at, last_raised_at, received_at, changed_at)
            SELECT gen_random_uuid(), 'alarm.intrusion', 'major', 'alarm', 'gw-c01-a', 'c01',
                   'c01-g01', true, 1, %(at)s, %(at)s, %(at)s, %(at)s
            FROM generate_series((SELECT count(*) FROM case_alert) + 1, %(size)s)
            RETURNING id, gateway, area
        )
        INSERT INTO case_alert (alert, case_id, raised_at, joined_at, reason, gateway, area)
        SELECT id, %(case)s, %(at)s, %(at)s, 'same_cell', gateway, area FROM made
        """,
        {"at": at(0.5), "size": size, "case": case},
    )


def _read(precinct: Precinct) -> int:
    """How many rows of alerts in cases this transaction has read."""
    ((read,),) = precinct.rows(
        """
        SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid))::int
               + pg_stat_get_xact_tuples_returned('case_alert'::regclass)
        FROM pg_index AS i WHERE i.indrelid = 'case_alert'::regclass
        """
    )
    return read


def test_the_worst_alert_that_becomes_less_bad_leaves_the_next(precinct: Precinct) -> None:
    """However its severity came down, what is left counts: all alerts of the case are asked."""
    precinct.ring(("c01-alarm-g01", "alarm.panic", 0), ("c01-alarm-g02", "alarm.intrusion", 1))
    precinct.rows("UPDATE alert SET severity = 'minor' WHERE rule = 'alarm.panic' RETURNING id")
    precinct.ring(("c01-gate-g01", "gate.held_open", 2))
    assert precinct.rows("SELECT severity, rule, rank FROM alert_case") == [
        ("major", "alarm.intrusion", 1)
    ]


def test_what_is_closed_while_an_alarm_is_on_its_way_swallows_nothing(precinct: Precinct) -> None:
    precinct.ring(("c01-gate-g01", "gate.forced", 0))
    precinct.rows("UPDATE alert_case SET state = 'closed', outcome = 'test' RETURNING id")
    ((alert,),) = precinct.rows("SELECT id FROM alert")
    with precinct.conn.transaction():
        change = precinct.change("c01-gate-g01", "gate.forced", 1)
        cases.attach(precinct.conn, [(alert, change)], at(1))
    assert precinct.cases() == [("crime", "major", "open", "c01-g01", ["gate.forced"])]
    assert precinct.history()[-1] == ("rule", "reopened", "raised_again")
    assert precinct.rows("SELECT version, last_at FROM alert_case") == [(2, at(1))]


@pytest.mark.parametrize("statement", ["DELETE FROM", "TRUNCATE"])
def test_history_is_kept(precinct: Precinct, statement: str) -> None:
    precinct.ring(("c01-gate-g01", "gate.forced", 0))
    with pytest.raises(psycopg.errors.RestrictViolation):
        precinct.conn.execute(f"{statement} case_history".encode())


def test_alarms_nobody_settled_become_cases_with_the_upgrade(
    database_server: Postgres, tmp_path: Path
) -> None:
    before, name = tmp_path / "before", "before_cases"
    (before / "always").mkdir(parents=True)
    for file in sorted(MIGRATIONS.glob("*.sql"))[:18]:
        shutil.copy(file, before)
    with psycopg.connect(database_server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    dsn = database_server.dsn(name)
    migrate(dsn, folder=before)
    with psycopg.connect(dsn) as conn:
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES ('city', NULL, 'city', 'city', ''),
                   ('c01', 'city', 'city.c01', 'community', '')
            """
        )
        for rule, active, acknowledged in (
            ("alarm.duress", False, False),
            ("alarm.smoke", True, True),
            ("gate.forced", False, True),  # over, and somebody took note
            ("lamp.dark", True, False),
        ):
            conn.execute(
                """
                INSERT INTO alert (id, rule, severity, kind, gateway, community, area, active,
                                   standing, acknowledged, raised_at, last_raised_at, received_at,
                                   changed_at)
                VALUES (gen_random_uuid(), %s, 'major', 'alarm', 'gw', 'c01', 'c01', %s, %s, %s,
                        now(), now(), now(), now())
                """,
                (rule, active, int(active), acknowledged),
            )
    migrate(dsn)
    with psycopg.connect(dsn) as conn:
        precinct = Precinct(dsn, conn)
        assert sorted(precinct.cases()) == [
            ("duress", "critical", "open", "c01", ["alarm.duress"]),
            ("fire", "major", "open", "c01", ["alarm.smoke"]),
        ]
        assert precinct.rows(
            """
            SELECT c.rule, c.rank, c.led_by = c.alert, m.area, m.gateway
            FROM alert_case AS c JOIN case_alert AS m ON m.case_id = c.id ORDER BY 1
            """
        ) == [("alarm.duress", 0, True, "c01", "gw"), ("alarm.smoke", 1, True, "c01", "gw")]


# -- codes, told on the event lane

NOW = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=20)


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=NOW - timedelta(hours=1))
    made = Bench(database, broker)
    yield made
    made.close()


def say(
    bench: Bench, *told: tuple[AlarmType, Phase, int], occurrence: str = "o"
) -> dict[str, object]:
    """Feed one alarm's phases, by second, each in a flush; return the case of the intrusion."""
    writer = bench.events()
    for seq, (event, phase, second) in enumerate(told, 1):
        happened = AlarmEvent(
            device="c01-alarm-001",
            at=NOW + timedelta(seconds=second),
            event=event,
            phase=phase,
            occurrence=f"{occurrence}-{event}",
        )
        feed(writer, bench.event(seq, happened))
    (case,) = bench.rows(
        """
        SELECT c.severity, c.state, c.aborted, m.under_threat, t.active
        FROM alert_case AS c
        JOIN case_alert AS m ON m.case_id = c.id
        JOIN alert AS t ON t.id = m.alert
        WHERE t.rule = 'alarm.intrusion'
        """
    )
    return case


ABORTED = {
    "severity": "minor", "state": "open", "aborted": True, "under_threat": False, "active": False,
}  # fmt: skip
STANDS = ABORTED | {"severity": "major"}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(
            [("intrusion", "raised", 0), ("intrusion", "aborted", 40)], ABORTED, id="by-code"
        ),
        pytest.param(
            [
                ("intrusion", "raised", 0),
                ("intrusion", "restored", 9),
                ("intrusion", "aborted", 40),
            ],
            ABORTED, id="after-it-was-over",
        ),
        pytest.param(
            [
                ("intrusion", "raised", 0),
                ("intrusion", "restored", 9),
                ("intrusion", "aborted", 700),
            ],
            STANDS | {"aborted": False}, id="long-after-it-was-over",
        ),
        pytest.param(
            [("intrusion", "raised", 0), ("panic", "aborted", 40), ("intrusion", "restored", 50)],
            STANDS | {"aborted": False}, id="of-another-alarm",
        ),
        pytest.param(
            [("intrusion", "raised", 0), ("intrusion", "aborted", 40), ("duress", "raised", 100)],
            STANDS | {"under_threat": True}, id="under-threat",
        ),
        pytest.param(
            [("intrusion", "raised", 0), ("duress", "raised", 1), ("intrusion", "aborted", 40)],
            STANDS | {"under_threat": True}, id="duress-was-told-first",
        ),
        pytest.param(
            [("intrusion", "raised", 0), ("intrusion", "aborted", 40), ("duress", "raised", 101)],
            ABORTED, id="duress-is-another-matter",
        ),
    ],
)  # fmt: skip
def test_code_entered_after_an_alarm(
    bench: Bench, told: list[tuple[AlarmType, Phase, int]], expected: dict[str, object]
) -> None:
    assert say(bench, *told) == expected


def test_the_alert_says_that_a_code_ended_it(bench: Bench) -> None:
    say(bench, ("intrusion", "raised", 0), ("intrusion", "aborted", 40))
    assert bench.rows("SELECT action, reason FROM alert_history ORDER BY id") == [
        {"action": "raised", "reason": "condition_met"},
        {"action": "cleared", "reason": "aborted_by_code"},
    ]
    assert bench.rows("SELECT action, reason, actor FROM case_history ORDER BY id") == [
        {"action": "opened", "reason": "alert_raised", "actor": "rule"},
        {"action": "aborted", "reason": "aborted_by_code", "actor": "rule"},
    ]


def test_raised_again_after_a_code_it_stands_anew(bench: Bench) -> None:
    say(bench, ("intrusion", "raised", 0), ("intrusion", "aborted", 40))
    writer = bench.events()
    again = AlarmEvent(
        device="c01-alarm-001",
        at=NOW + timedelta(seconds=90),
        event="intrusion",
        phase="raised",
        occurrence="o-2",
    )
    feed(writer, bench.event(3, again))
    (case,) = bench.rows("SELECT severity, aborted, version FROM alert_case")
    assert case == {"severity": "major", "aborted": False, "version": 3}


@pytest.mark.parametrize("phase", ["aborted", "restored"])
def test_no_code_ends_duress(bench: Bench, phase: Phase) -> None:
    say(bench, ("intrusion", "raised", 0), ("duress", "raised", 1), ("duress", phase, 40))
    (case,) = bench.rows("SELECT severity, state, aborted FROM alert_case WHERE nature = 'duress'")
    assert case == {"severity": "critical", "state": "open", "aborted": False}
    assert bench.value("SELECT active FROM alert WHERE rule = 'alarm.duress'") is (
        phase == "aborted"
    )
