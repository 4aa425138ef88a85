# SPDX-License-Identifier: Apache-2.0
"""The comparison itself is tested on runs that went wrong in known ways."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.checker.alerts import Alerts, pair
from deploy.checker.delivery import Delivery
from deploy.checker.facts import Message, instant
from deploy.checker.gaps import Gaps
from deploy.checker.lighting import Recomputed
from deploy.checker.spans import Span, clip, intersect, join, length
from deploy.verify import Terms, Verdict, compare, contains, outages, percentile
from simulators.truth import Ledger, digest

DUSK = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
DAWN = DUSK + timedelta(hours=13)
NIGHT = "2026-11-20"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def us(instant: datetime) -> int:
    return (instant - EPOCH) // timedelta(microseconds=1)


class Run:
    """A database and a ledger that agree, until a test makes them differ."""

    def __init__(self, dsn: str, truth: Path) -> None:
        self.dsn, self.truth = dsn, truth
        Ledger(truth).close()
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.ledger = sqlite3.connect(truth, isolation_level=None)
        self.conn.execute(
            "INSERT INTO area (area, path, level, name) VALUES ('c01', 'c01', 'community', 'C')"
        )
        self.conn.execute("INSERT INTO gateway (gateway, community) VALUES ('gw-a', 'c01')")
        for kind in ("lamp", "alarm"):
            self.conn.execute(
                """
                INSERT INTO device (device, kind, gateway, community, area, reporting_period_s)
                VALUES (%s, %s, 'gw-a', 'c01', 'c01', 3600)
                """,
                (f"{kind}-1", kind),
            )
        for seq in range(1, 4):
            self.accept("telemetry", seq, "lamp", DUSK + timedelta(hours=seq))
            self.store_reading(DUSK + timedelta(hours=seq))
        self.accept("event", 1, "alarm", DUSK)
        self.store_event(DUSK)
        self.expect_alert(DUSK, DUSK)
        self.raise_alert(DUSK)
        self._light()

    def accept(self, lane: str, seq: int, kind: str, at: datetime, **changed: object) -> None:
        item = {
            "lamp": {"lit": True, "power_w": 41},
            "alarm": {"event": "smoke", "phase": "raised", "occurrence": "o"},
        }[kind]
        content = digest(
            {**item, "kind": kind, "device": f"{kind}-1", "at": instant(at), **changed}
        )
        self.ledger.execute(
            "INSERT INTO accepted VALUES (?, 'gw-a', ?, ?, ?, ?, ?, ?)",
            (lane, f"s-{lane}", seq, kind, f"{kind}-1", us(at), content),
        )
        self.mark(lane, seq)

    def mark(self, lane: str, seq: int) -> None:
        """The platform's own note that a message is done."""
        self.conn.execute(
            """
            INSERT INTO gateway_stream (gateway, stream, lane, seen)
            VALUES ('gw-a', %(stream)s, %(lane)s, int8multirange(int8range(%(seq)s, %(seq)s, '[]')))
            ON CONFLICT (gateway, stream) DO UPDATE SET seen = gateway_stream.seen + excluded.seen
            """,
            {"stream": f"s-{lane}", "lane": lane, "seq": seq},
        )

    def evict(self, first: int, last: int, count: int) -> None:
        self.ledger.execute(
            "INSERT INTO gap VALUES ('gw-a', 'telemetry', 's-telemetry', ?, ?, ?)",
            (first, last, count),
        )

    def record_gap(self, first: int, last: int, count: int, cause: str = "evicted") -> None:
        self.conn.execute(
            """
            INSERT INTO stream_gap (stream_id, first, last, count, cause, at, received_at)
            SELECT id, %s, %s, %s, %s, now(), now() FROM gateway_stream
            WHERE stream = 's-telemetry'
            """,
            (first, last, count, cause),
        )

    def store_reading(self, at: datetime) -> None:
        self.conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, lit, power_w)
            SELECT %(at)s, %(at)s, id, true, 41 FROM device WHERE device = 'lamp-1'
            """,
            {"at": at},
        )

    def store_event(self, at: datetime) -> None:
        self.conn.execute(
            """
            INSERT INTO event_alarm (at, received_at, device_id, event, phase, occurrence)
            SELECT %(at)s, %(at)s, id, 'smoke', 'raised', 'o' FROM device WHERE device = 'alarm-1'
            """,
            {"at": at},
        )

    def expect_alert(self, start: datetime, end: datetime) -> None:
        self.ledger.execute(
            "INSERT INTO expected_alert VALUES ('alarm.smoke', 'alarm-1', ?, ?, ?)",
            (us(start), us(end), us(start)),
        )

    def raise_alert(self, at: datetime, key: str = "o") -> None:
        self.conn.execute(
            """
            WITH raised AS (
                INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area,
                                   active, standing, raised_at, last_raised_at, received_at,
                                   changed_at)
                VALUES (gen_random_uuid(), 'alarm.smoke', 'critical', 'alarm', 'alarm-1', 'gw-a',
                        'c01', 'c01', true, 1, %(at)s, %(at)s, %(at)s, %(at)s)
                RETURNING id
            ), occurred AS (
                INSERT INTO alert_occurrence (alert, rule, gateway, device, key, active, raised_at,
                                              received_at)
                SELECT id, 'alarm.smoke', 'gw-a', 'alarm-1', %(key)s, true, %(at)s, %(at)s
                FROM raised
                RETURNING id, alert
            )
            INSERT INTO alert_history (alert, at, actor, action, reason, occurrence)
            SELECT alert, %(at)s, 'rule', 'raised', 'r', id FROM occurred
            """,
            {"at": at, "key": key},
        )

    def _light(self) -> None:
        # Due 13 h; known from one hour on, until the latest reading 3 h after dusk.
        spans: dict[str, Sequence[datetime]] = {
            "lit": (DUSK - timedelta(minutes=1), DAWN),
            "observed": (DUSK + timedelta(hours=1), DUSK + timedelta(hours=5)),
        }
        for table, (start, end) in spans.items():
            self.ledger.execute(
                f"INSERT INTO {table} VALUES ('lamp-1', ?, ?)", (us(start), us(end))
            )
        self.ledger.execute(
            "INSERT INTO due VALUES ('lamp-1', ?, ?, ?)", (NIGHT, us(DUSK), us(DAWN))
        )
        self.conn.execute(
            """
            INSERT INTO lamp_night (device_id, night, community, due, due_us, due_to, lit_us)
            SELECT id, %(night)s, 'c01', tstzmultirange(tstzrange(%(dusk)s, %(dawn)s)), %(due)s,
                   %(dawn)s, %(lit)s
            FROM device WHERE device = 'lamp-1'
            """,
            {
                "night": NIGHT,
                "due": 13 * 3600 * 10**6,
                "dusk": DUSK,
                "dawn": DAWN,
                "lit": 2 * 3600 * 10**6,
            },
        )
        self.conn.execute(
            """
            INSERT INTO device_state (device_id, at, received_at, since, lit, lit_at, reading)
            SELECT id, %(at)s, %(at)s, %(at)s, true, %(at)s, '{}'
            FROM device WHERE device = 'lamp-1'
            """,
            {"at": DUSK + timedelta(hours=3)},
        )

    def compare(self) -> Verdict:
        return compare(self.truth, self.dsn)


@pytest.fixture
def run(database: str, tmp_path: Path) -> Iterator[Run]:
    made = Run(database, tmp_path / "truth.sqlite")
    with closing(made.conn), closing(made.ledger):
        yield made


def test_a_run_without_faults_is_ok(run: Run) -> None:
    verdict = run.compare()
    assert verdict.ok
    assert not verdict.differences
    assert verdict.readings == Delivery(3, 3, 0, 0, 0)
    assert verdict.events == Delivery(1, 1, 0, 0, 0)
    assert verdict.lighting is not None
    assert verdict.lighting.lamp_nights == 1
    assert verdict.lighting.uptime == verdict.lighting.truth == 1
    assert verdict.alerts == Alerts(1, 1, 0, 0)


def test_a_lost_reading_is_found_and_named(run: Run) -> None:
    run.accept("telemetry", 4, "lamp", DUSK + timedelta(hours=2, seconds=1))
    verdict = run.compare()
    assert verdict.readings == Delivery(4, 3, 1, 0, 0)
    assert not verdict.ok
    assert [one.what for one in verdict.differences] == ["reading lost"]
    assert "seq=4" in verdict.differences[0].detail


def test_a_reading_stored_twice_is_found(run: Run) -> None:
    run.store_reading(DUSK + timedelta(hours=1))
    verdict = run.compare()
    assert verdict.readings == Delivery(3, 4, 0, 1, 0)
    assert not verdict.ok


def test_an_invented_event_is_a_phantom(run: Run) -> None:
    run.store_event(DUSK + timedelta(seconds=1))
    verdict = run.compare()
    assert verdict.events == Delivery(1, 2, 0, 0, 0, phantom=1)
    assert not verdict.ok
    assert verdict.differences[0].what == "event never accepted"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("power_w = 41.01", id="another-value"),
        pytest.param("power_w = NULL", id="a-field-dropped"),
        pytest.param("fault = 'driver'", id="a-field-invented"),
        pytest.param("lit = NULL", id="unknown-for-known"),
    ],
)
def test_an_altered_reading_is_found(run: Run, change: str) -> None:
    run.conn.execute(
        f"UPDATE reading_lamp SET {change} WHERE at = %s".encode(), (DUSK + timedelta(hours=3),)
    )
    verdict = run.compare()
    assert verdict.readings == Delivery(3, 3, 1, 0, 0, phantom=1, altered=1)
    assert not verdict.ok
    assert verdict.differences[0].what == "reading altered"


def test_a_number_keeps_what_its_column_keeps(run: Run) -> None:
    for seconds, power_w, kwh in ((1, 41.123456789, 1234.123456789), (2, 0.1, 0.1), (3, 40, 7)):
        at = DUSK + timedelta(hours=2, seconds=seconds)
        run.accept("telemetry", 3 + seconds, "lamp", at, power_w=power_w, energy_kwh=kwh)
        run.conn.execute(
            """
            INSERT INTO reading_lamp (at, received_at, device_id, lit, power_w, energy_kwh)
            SELECT %(at)s, %(at)s, id, true, %(power_w)s, %(kwh)s
            FROM device WHERE device = 'lamp-1'
            """,
            {"at": at, "power_w": power_w, "kwh": kwh},
        )
    assert run.compare().readings == Delivery(6, 6, 0, 0, 0)


def test_a_message_that_its_stream_does_not_know_is_found(run: Run) -> None:
    run.conn.execute("UPDATE gateway_stream SET seen = seen - int8multirange(int8range(2, 3))")
    verdict = run.compare()
    assert [one.what for one in verdict.differences] == ["message not marked as stored"]
    assert "seq=2" in verdict.differences[0].detail
    assert not verdict.ok


class TestGaps:
    """Messages 4 to 6 were evicted on the edge."""

    @pytest.fixture
    def run(self, run: Run) -> Run:
        for seq in range(4, 7):
            run.accept("telemetry", seq, "lamp", DUSK + timedelta(hours=2, seconds=seq))
        run.evict(4, 6, 3)
        return run

    def test_recorded_as_it_happened(self, run: Run) -> None:
        run.record_gap(4, 6, 3)
        verdict = run.compare()
        assert verdict.ok, verdict.differences
        assert verdict.readings == Delivery(6, 3, 0, 0, 0, evicted=3)
        assert verdict.gaps == Gaps(records=1, evicted=3, vanished=0, wrong=0)

    @pytest.mark.parametrize(
        ("gaps", "what"),
        [
            pytest.param([], "gap not recorded", id="none"),
            pytest.param([(4, 6, 3), (4, 6, 3)], "gap recorded too often", id="twice"),
            pytest.param([(4, 6, 2)], "gap miscounted", id="too-few"),
            pytest.param([(4, 6, 3), (1, 2, 2)], "gap never told", id="invented"),
        ],
    )
    def test_recorded_otherwise(
        self, run: Run, gaps: Sequence[tuple[int, int, int]], what: str
    ) -> None:
        for gap in gaps:
            run.record_gap(*gap)
        verdict = run.compare()
        assert what in [one.what for one in verdict.differences]
        assert not verdict.ok

    def test_a_message_given_up_without_a_record_of_the_edge_is_lost(self, run: Run) -> None:
        run.accept("telemetry", 7, "lamp", DUSK + timedelta(hours=2, seconds=7))
        run.record_gap(4, 6, 3)
        run.record_gap(7, 7, 1, cause="vanished")
        verdict = run.compare()
        assert verdict.gaps.vanished == 1
        assert verdict.readings.lost == 1

    def test_evicted_events_are_not_allowed(self, run: Run) -> None:
        run.record_gap(4, 6, 3)
        run.ledger.execute("INSERT INTO gap VALUES ('gw-a', 'event', 's-event', 2, 2, 1)")
        run.mark("event", 2)
        run.conn.execute(
            """
            INSERT INTO stream_gap (stream_id, first, last, count, cause, at, received_at)
            SELECT id, 2, 2, 1, 'evicted', now(), now() FROM gateway_stream
            WHERE stream = 's-event'
            """
        )
        assert "events evicted" in [one.what for one in run.compare().differences]


def test_what_was_destroyed_on_purpose_is_not_lost(run: Run) -> None:
    run.accept("telemetry", 4, "lamp", DUSK + timedelta(hours=2, seconds=4))
    message = Message("gw-a", "s-telemetry", 4)
    verdict = compare(run.truth, run.dsn, Terms(forfeited={message}))
    assert verdict.ok
    assert verdict.readings == Delivery(4, 3, 0, 0, 0, forfeited=1)


@pytest.mark.parametrize(
    ("index", "lost", "dead_lettered"),
    [
        pytest.param(None, 0, 2, id="whole-message-excuses-all"),
        pytest.param(1, 1, 1, id="one-reading-excuses-one"),
    ],
)
def test_dead_letters_are_not_lost(
    run: Run, index: int | None, lost: int, dead_lettered: int
) -> None:
    for second in range(2):
        run.accept("telemetry", 9, "lamp", DUSK + timedelta(hours=2, seconds=second + 1))
    run.conn.execute(
        """
        INSERT INTO dead_letter (received_at, gateway, topic, reason, detail, stream, seq, at_index,
                                 sha256)
        VALUES (now(), 'gw-a', 't', 'r', 'd', 's-telemetry', 9, %s, '\\x00')
        """,
        (index,),
    )
    readings = run.compare().readings
    assert (readings.lost, readings.dead_lettered) == (lost, dead_lettered)


def test_a_lamp_night_beyond_one_second_is_found(run: Run) -> None:
    run.conn.execute("UPDATE lamp_night SET lit_us = lit_us - 1500000")
    verdict = run.compare()
    assert verdict.lighting is not None
    assert verdict.lighting.max_abs_error_s == 1.5
    assert not verdict.ok
    run.conn.execute("UPDATE lamp_night SET lit_us = lit_us + 1400000")
    verdict = run.compare()
    assert verdict.lighting is not None
    assert verdict.lighting.max_abs_error_s == pytest.approx(0.1)
    # Against physics a second is nothing; against its own readings not even a microsecond is.
    assert [one.what for one in verdict.differences] == ["lamp-night against its readings"]


def test_a_microsecond_against_the_readings_is_found(run: Run) -> None:
    run.conn.execute("UPDATE lamp_night SET lit_us = lit_us - 1, dark_us = dark_us + 1")
    assert run.compare().recomputed == Recomputed(lamp_nights=1, states=1, differing=1)


def test_a_latest_state_that_is_not_the_latest_is_found(run: Run) -> None:
    run.conn.execute("UPDATE device_state SET at = at - interval '1 hour'")
    verdict = run.compare()
    assert [one.what for one in verdict.differences] == ["latest state"]


def test_a_reading_holds_no_longer_than_three_reporting_periods(run: Run) -> None:
    run.conn.execute("UPDATE device SET reporting_period_s = 600")
    run.conn.execute("UPDATE lamp_night SET lit_us = %s", (2 * 1800 * 10**6,))
    assert run.compare().recomputed.ok


def test_a_missing_lamp_night_is_found(run: Run) -> None:
    run.conn.execute("DELETE FROM lamp_night")
    verdict = run.compare()
    assert verdict.lighting is not None
    assert verdict.lighting.lamp_nights == 1
    assert not verdict.ok


def test_wrong_due_time_is_found(run: Run) -> None:
    run.conn.execute("UPDATE lamp_night SET due_us = due_us + 60000000")
    lighting = run.compare().lighting
    assert lighting is not None
    assert lighting.max_abs_error_s == 60


def test_a_night_that_has_not_begun_does_not_count(run: Run) -> None:
    day = timedelta(days=1)
    run.ledger.execute(
        "INSERT INTO due VALUES ('lamp-1', '2026-11-21', ?, ?)", (us(DUSK + day), us(DAWN + day))
    )
    lighting = run.compare().lighting
    assert lighting is not None
    assert lighting.lamp_nights == 1


def test_a_missing_and_a_late_alert_are_found(run: Run) -> None:
    run.expect_alert(DUSK + timedelta(minutes=1), DUSK + timedelta(minutes=2))
    verdict = run.compare()
    assert verdict.alerts == Alerts(2, 1, 1, 0)
    run.raise_alert(DUSK + timedelta(minutes=3), "o2")
    verdict = run.compare()
    assert verdict.alerts == Alerts(2, 2, 1, 1)
    assert not verdict.ok


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        pytest.param(
            "INSERT INTO alert_history (alert, at, actor, action, reason, occurrence)"
            " SELECT alert, now(), 'rule', 'raised_again', 'r', id FROM alert_occurrence",
            "alert history",
            id="raised-twice",
        ),
        pytest.param("DELETE FROM alert_history", "alert history", id="never-raised"),
        pytest.param(
            "UPDATE alert_occurrence SET active = false", "alert history", id="cleared-silently"
        ),
        pytest.param(
            "UPDATE alert_occurrence SET key = 'p'", "alarm without its alert", id="alarm-unheard"
        ),
    ],
)
def test_alerts_open_and_close_once(run: Run, statement: str, what: str) -> None:
    run.conn.execute(statement.encode())
    verdict = run.compare()
    assert what in [one.what for one in verdict.differences]
    assert not verdict.once.ok


def test_rules_beside_physics_are_not_compared_with_it(run: Run) -> None:
    run.conn.execute("UPDATE alert_occurrence SET rule = 'stream.hole', key = ''")
    run.ledger.execute("DELETE FROM expected_alert")
    assert run.compare().alerts == Alerts(0, 1, 0, 1)
    verdict = compare(run.truth, run.dsn, Terms(beside={"stream.hole"}))
    assert verdict.alerts == Alerts(0, 0, 0, 0)


def test_a_ledger_with_a_hole_proves_nothing(run: Run) -> None:
    run.ledger.execute("INSERT INTO unrecorded VALUES ('event', 'gw-a', 's-event', 2)")
    assert not run.compare().ok


def test_outages_are_those_that_were_mended(run: Run) -> None:
    run.ledger.execute("INSERT INTO outage VALUES ('gw-a', 10, 20), ('gw-a', 30, NULL)")
    cut = outages(run.truth)
    assert cut == {"gw-a": [(10, 20)]}
    assert [contains(cut["gw-a"], instant) for instant in (9, 10, 20, 21)] == [
        False,
        True,
        True,
        False,
    ]


def test_nothing_accepted_proves_nothing(run: Run) -> None:
    verdict = run.compare()
    empty = Delivery(0, 0, 0, 0, 0)
    assert not empty.ok
    assert not replace(verdict, readings=empty).ok


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


def _slowly(some: Sequence[Span]) -> set[int]:
    return {moment for start, end in some for moment in range(start, end)}


@given(spans, spans, st.integers(0, 30))
def test_spans_agree_with_sets_of_moments(a: list[Span], b: list[Span], until: int) -> None:
    both = intersect(join(a), join(b))
    assert _slowly(both) == _slowly(a) & _slowly(b)
    assert length(join(a)) == len(_slowly(a))
    assert _slowly(clip(join(a), until)) == {moment for moment in _slowly(a) if moment < until}


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda s: (min(s), max(s))), max_size=4
    ),
    st.lists(st.integers(0, 6), max_size=4),
)
def test_pairing_leaves_as_few_over_as_any_pairing(
    windows: list[Span], instants: list[int]
) -> None:
    def best(free: list[Span], rest: list[int]) -> int:
        if not rest:
            return 0
        used = [
            1 + best(free[:index] + free[index + 1 :], rest[1:])
            for index, (start, end) in enumerate(free)
            if start <= rest[0] <= end
        ]
        return max([best(free, rest[1:]), *used])

    unmet, extra = pair(windows, instants)
    assert len(windows) - len(unmet) == len(instants) - len(extra) == best(windows, instants)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([], 0.5, None, id="none"),
        pytest.param([7.0], 0.99, 7.0, id="one"),
        pytest.param([4.0, 1.0, 3.0, 2.0], 0.5, 2.0, id="median-is-a-value"),
        pytest.param([float(n) for n in range(1, 101)], 0.99, 99.0, id="ninety-ninth"),
    ],
)
def test_percentile(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected
