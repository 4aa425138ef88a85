# SPDX-License-Identifier: Apache-2.0
"""Incidents: the rules, the record in the real database, and the command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingest.incidents import (
    ALERT_DISTANCE_MAX,
    FUTURE_MAX,
    OCCURRED_MIN,
    AlertFacts,
    Change,
    Incident,
    Refused,
    Site,
    Unchanged,
    change,
    report,
)
from ingest.indicators import security
from ingest.indicators.officers import recommend
from ingest.indicators.security import CATEGORIES, CRIMINAL, DISPOSITIONS, Disposition
from ingest.indicators.spans import day_span, to_us
from ingest.indicators.tally import Key, Tally
from ingest.store import incidents as stored
from ingest.store.incidents import AlertTaken, Draft, Missing, Stale, Wanted
from ingest.store.population import Population

# 10:00 in Shanghai.
NOW = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
HERE = Site("c01-g01", "c01")


def burglary(**changes: object) -> Incident:
    whole = Incident("burglary", HERE, NOW - HOUR)
    return replace(whole, **changes)  # pyright: ignore[reportArgumentType] - fields by name


# -- the rules


class TestReport:
    @pytest.mark.parametrize("disposition", ["open", "confirmed"])
    def test_confirmed_one_is_signed(self, disposition: Disposition) -> None:
        made = report(burglary(disposition=disposition), None, actor="li", now=NOW)
        signed = ("li", NOW) if disposition == "confirmed" else (None, None)
        assert (made.confirmed_by, made.confirmed_at) == signed

    @pytest.mark.parametrize(
        ("occurred_at", "rule"),
        [
            pytest.param(NOW + FUTURE_MAX, None, id="clock-a-little-ahead"),
            pytest.param(NOW + FUTURE_MAX + timedelta(microseconds=1), "time.future", id="future"),
            pytest.param(OCCURRED_MIN, None, id="as-early-as-any"),
            pytest.param(
                OCCURRED_MIN - timedelta(microseconds=1), "time.too_early", id="last-century"
            ),
        ],
    )
    def test_time_is_bounded(self, occurred_at: datetime, rule: str | None) -> None:
        incident = burglary(occurred_at=occurred_at)
        if rule is None:
            assert report(incident, None, actor="li", now=NOW).occurred_at == occurred_at
            return
        with pytest.raises(Refused) as refused:
            report(incident, None, actor="li", now=NOW)
        assert (refused.value.field, refused.value.rule) == ("occurred_at", rule)
        assert len(refused.value.bounds) == 1

    @pytest.mark.parametrize(
        ("community", "distance", "field"),
        [
            pytest.param("c01", timedelta(0), None, id="at-the-same-time"),
            pytest.param("c01", ALERT_DISTANCE_MAX, None, id="a-day-before"),
            pytest.param("c01", -ALERT_DISTANCE_MAX, None, id="a-day-after"),
            pytest.param("c01", ALERT_DISTANCE_MAX + HOUR, "occurred_at", id="long-before"),
            pytest.param("c01", -ALERT_DISTANCE_MAX - HOUR, "occurred_at", id="long-after"),
            pytest.param("c02", timedelta(0), "area", id="elsewhere"),
        ],
    )
    def test_alert_must_fit(self, community: str, distance: timedelta, field: str | None) -> None:
        occurred_at = NOW - timedelta(days=9)
        alert = AlertFacts(uuid.uuid4(), community, occurred_at + distance)
        incident = burglary(occurred_at=occurred_at, alert=alert.id)
        if field is None:
            assert report(incident, alert, actor="li", now=NOW) == incident
            return
        with pytest.raises(Refused) as refused:
            report(incident, alert, actor="li", now=NOW)
        assert refused.value.field == field


class TestChange:
    @pytest.mark.parametrize("before", DISPOSITIONS)
    @pytest.mark.parametrize("after", DISPOSITIONS)
    def test_any_disposition_may_follow_any_other(
        self, before: Disposition, after: Disposition
    ) -> None:
        record = report(burglary(disposition=before), None, actor="li", now=NOW - HOUR)
        wanted = Change(disposition=after)
        if before == after:
            with pytest.raises(Unchanged):
                change(record, wanted, None, actor="root", now=NOW)
            return
        changed = change(record, wanted, None, actor="root", now=NOW)
        assert changed.changes == {"disposition": (before, after)}
        assert (changed.incident.disposition, changed.incident.version) == (after, 2)
        signed = ("root", NOW) if after == "confirmed" else (None, None)
        assert (changed.incident.confirmed_by, changed.incident.confirmed_at) == signed

    def test_correction_keeps_who_confirmed(self) -> None:
        record = report(burglary(disposition="confirmed"), None, actor="li", now=NOW)
        changed = change(
            record, Change(category="fraud", note="by phone"), None, actor="root", now=NOW + HOUR
        )
        assert changed.incident.confirmed_by == "li"
        assert changed.changes == {
            "category": ("burglary", "fraud"),
            "note": (None, "by phone"),
        }

    def test_empty_note_removes_it_and_none_leaves_it(self) -> None:
        record = burglary(note="a name")
        removed = change(record, Change(note=""), None, actor="li", now=NOW)
        assert removed.incident.note is None
        left = change(record, Change(category="fraud"), None, actor="li", now=NOW)
        assert left.incident.note == "a name"

    def test_change_is_held_to_the_same_rules(self) -> None:
        alert = AlertFacts(uuid.uuid4(), "c01", NOW)
        record = burglary(alert=alert.id)
        for wanted, field in (
            (Change(occurred_at=NOW + HOUR), "occurred_at"),
            (Change(occurred_at=NOW - timedelta(days=2)), "occurred_at"),
            (Change(site=Site("c02", "c02")), "area"),
        ):
            with pytest.raises(Refused) as refused:
                change(record, wanted, alert, actor="li", now=NOW)
            assert refused.value.field == field


# -- the record


@dataclass(frozen=True, slots=True)
class Town:
    """Two communities of a city, one with cells; an alarm in each."""

    dsn: str
    conn: psycopg.AsyncConnection

    async def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        cursor = await self.conn.execute(query.encode(), parameters)
        return await cursor.fetchall()

    async def rows_done(self, statement: str) -> None:
        await self.conn.execute(statement.encode())

    async def report(self, within: str = "city", **changes: object) -> uuid.UUID:
        draft = Draft("burglary", "c01-g01", NOW - HOUR)
        return await stored.report(
            self.conn,
            replace(draft, **changes),  # pyright: ignore[reportArgumentType] - fields by name
            within=within,
            actor="li",
            reason="seen",
            now=NOW,
        )

    async def change(
        self,
        incident: uuid.UUID,
        within: str = "city",
        expected_version: int | None = None,
        **wanted: object,
    ) -> None:
        await stored.change(
            self.conn,
            incident,
            Wanted(**wanted),  # pyright: ignore[reportArgumentType] - fields by name
            within=within,
            actor="root",
            reason="looked again",
            expected_version=expected_version,
            now=NOW + HOUR,
        )


ALARM, FOREIGN_ALARM = uuid.UUID(int=1), uuid.UUID(int=2)


def settle_town(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        for area, parent, path, level in (
            ("city", None, "city", "city"),
            ("c01", "city", "city.c01", "community"),
            ("c01-g01", "c01", "city.c01.c01_g01", "cell"),
            ("c01-g02", "c01", "city.c01.c01_g02", "cell"),
            ("c02", "city", "city.c02", "community"),
        ):
            conn.execute(
                """
                INSERT INTO area (area, parent, path, level, name)
                VALUES (%s, %s, %s::text::ltree, %s, '')
                """,
                (area, parent, path, level),
            )
        for who, role, area in (
            ("li", "police", "c01"), ("root", "admin", "city"), ("wang", "property", "c01"),
        ):  # fmt: skip
            conn.execute(
                "INSERT INTO person (username, password_hash, role, area) VALUES (%s, '', %s, %s)",
                (who, role, area),
            )
        for alert, area in ((ALARM, "c01-g01"), (FOREIGN_ALARM, "c02")):
            insert_alarm(conn, alert, area)


def insert_alarm(
    conn: psycopg.Connection,
    alert: uuid.UUID,
    area: str,
    *,
    rule: str = "alarm.intrusion",
    received_at: datetime = NOW - HOUR,
    acknowledged_at: datetime | None = None,
    cleared_at: datetime | None = None,
) -> None:
    conn.execute(
        """
        WITH alert AS (
            INSERT INTO alert (id, rule, severity, kind, gateway, community, area, active, standing,
                               acknowledged, raised_at, last_raised_at, received_at,
                               acknowledged_at, cleared_at, changed_at)
            VALUES (%(alert)s, %(rule)s, 'major', 'alarm', 'gw', left(%(area)s, 3), %(area)s,
                    %(active)s, %(active)s::int, %(acknowledged)s, %(received_at)s,
                    %(received_at)s, %(received_at)s, %(acknowledged_at)s, %(cleared_at)s, %(now)s)
        )
        INSERT INTO alert_occurrence (alert, rule, gateway, key, active, raised_at, received_at,
                                      acknowledged_at, cleared_at)
        VALUES (%(alert)s, %(rule)s, 'gw', %(alert)s::text, %(active)s, %(received_at)s,
                %(received_at)s, %(acknowledged_at)s, %(cleared_at)s)
        """,
        {
            "alert": alert,
            "rule": rule,
            "area": area,
            "active": cleared_at is None,
            "acknowledged": acknowledged_at is not None,
            "received_at": received_at,
            "acknowledged_at": acknowledged_at,
            "cleared_at": cleared_at,
            "now": NOW,
        },
    )


@pytest.fixture
async def town(database: str) -> AsyncIterator[Town]:
    settle_town(database)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as conn:
        yield Town(database, conn)


async def test_report_is_written_with_its_history(town: Town) -> None:
    made = await town.report(disposition="confirmed", alert=ALARM, note="门被撬")
    (row,) = await town.rows(
        """
        SELECT category, criminal, area, community, occurred_at, disposition, alert, confirmed_by,
               confirmed_at, note, reported_by, reported_at, version
        FROM incident WHERE id = %s
        """,
        made,
    )
    assert row == (
        "burglary", True, "c01-g01", "c01", NOW - HOUR, "confirmed", ALARM, "li", NOW, "门被撬",
        "li", NOW, 1,
    )  # fmt: skip
    (entry,) = await town.rows(
        "SELECT at, actor, action, reason, changes, version FROM incident_history"
    )
    assert entry == (
        NOW,
        "li",
        "reported",
        "seen",
        {
            "category": [None, "burglary"],
            "area": [None, "c01-g01"],
            "occurred_at": [None, "2026-11-21T01:00:00+00:00"],
            "disposition": [None, "confirmed"],
            "note": [None, "门被撬"],
        },
        1,
    )


async def test_change_tells_who_what_and_why(town: Town) -> None:
    made = await town.report()
    await town.change(made, disposition="confirmed", area="c01-g02", expected_version=1)
    (row,) = await town.rows(
        "SELECT area, disposition, confirmed_by, confirmed_at, changed_at, version FROM incident"
    )
    assert row == ("c01-g02", "confirmed", "root", NOW + HOUR, NOW + HOUR, 2)
    entries = await town.rows("SELECT actor, reason, changes, version FROM incident_history")
    assert entries[1] == (
        "root",
        "looked again",
        {"disposition": ["open", "confirmed"], "area": ["c01-g01", "c01-g02"]},
        2,
    )


async def test_community_is_where_the_area_belongs(town: Town) -> None:
    for area, community in (("c01", "c01"), ("c01-g02", "c01"), ("c02", "c02")):
        made = await town.report(area=area)
        assert await town.rows("SELECT community FROM incident WHERE id = %s", made) == [
            (community,)
        ]


@pytest.mark.parametrize(
    ("within", "changes", "what"),
    [
        pytest.param("c01", {"area": "c02"}, "area", id="other-community"),
        pytest.param("c01-g02", {}, "area", id="other-cell"),
        pytest.param("c01-g01", {"area": "c01"}, "area", id="wider-than-sight"),
        pytest.param("city", {"area": "city"}, "area", id="above-communities"),
        pytest.param("city", {"area": "c99"}, "area", id="no-such-area"),
        pytest.param("nowhere", {}, "area", id="sees-nothing"),
        pytest.param("c01", {"alert": FOREIGN_ALARM}, "alert", id="alert-of-others"),
        pytest.param("c01-g02", {"area": "c01-g02", "alert": ALARM}, "alert", id="other-cells"),
        pytest.param("city", {"alert": uuid.UUID(int=99)}, "alert", id="no-such-alert"),
    ],
)
async def test_what_is_out_of_sight_is_missing(
    town: Town, within: str, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(Missing) as missing:
        await town.report(within, **changes)
    assert missing.value.what == what
    assert await town.rows("SELECT id FROM incident") == []
    assert await town.rows("SELECT day FROM community_day") == []


async def test_hidden_alert_is_missing(town: Town) -> None:
    with pytest.raises(Missing) as missing:
        await stored.report(
            town.conn,
            Draft("affray", "c01", NOW, alert=ALARM),
            within="city",
            hidden_rules=["alarm.intrusion"],
            actor="li",
            reason="seen",
            now=NOW,
        )
    assert missing.value.what == "alert"


async def test_record_out_of_sight_is_not_changed(town: Town) -> None:
    made = await town.report()
    for within in ("c02", "c01-g02", "nowhere"):
        with pytest.raises(Missing) as missing:
            await town.change(made, within, disposition="confirmed")
        assert missing.value.what == "incident"
    with pytest.raises(Missing) as missing:
        await town.change(made, "c01", area="c02")
    assert missing.value.what == "area"
    with pytest.raises(Missing):
        await town.change(uuid.uuid4(), disposition="confirmed")
    assert await town.rows("SELECT version, area FROM incident") == [(1, "c01-g01")]


async def test_refused_change_changes_nothing(town: Town) -> None:
    made = await town.report(alert=ALARM)
    before = await town.rows("SELECT * FROM incident")
    for wanted, error in (
        ({"occurred_at": NOW + timedelta(days=3)}, Refused),
        ({"area": "c02"}, Refused),
        ({"disposition": "open"}, Unchanged),
        ({"disposition": "confirmed", "expected_version": 7}, Stale),
    ):
        with pytest.raises(error):
            await town.change(made, **wanted)  # pyright: ignore[reportArgumentType] - by name
    assert await town.rows("SELECT * FROM incident") == before
    assert len(await town.rows("SELECT id FROM incident_history")) == 1


async def test_of_many_at_once_one_settles(town: Town) -> None:
    made = await town.report()

    async def settle(disposition: Disposition) -> bool:
        async with await psycopg.AsyncConnection.connect(town.dsn, autocommit=True) as conn:
            try:
                await Town(town.dsn, conn).change(made, disposition=disposition, expected_version=1)
            except Stale as stale:
                assert stale.version == 2
                return False
            return True

    wanted: list[Disposition] = ["confirmed", "false_alarm", "test", "withdrawn"]
    assert sum(await asyncio.gather(*map(settle, wanted))) == 1
    assert await town.rows("SELECT version FROM incident") == [(2,)]
    assert len(await town.rows("SELECT id FROM incident_history")) == 2


async def test_alert_has_one_record_and_duplicates(town: Town) -> None:
    first = await town.report(alert=ALARM)
    with pytest.raises(AlertTaken):
        await town.report(alert=ALARM)
    assert await town.rows("SELECT id FROM incident") == [(first,)]
    await town.change(first, disposition="duplicate")
    second = await town.report(alert=ALARM)
    with pytest.raises(AlertTaken):
        await town.change(first, disposition="confirmed")
    await town.change(second, disposition="withdrawn")
    await town.change(first, disposition="confirmed")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM incident",
        "DELETE FROM incident WHERE false",
        "TRUNCATE incident, incident_history CASCADE",
        "DELETE FROM incident_history",
        "UPDATE incident_history SET actor = 'nobody'",
    ],
)
async def test_nothing_is_ever_removed(town: Town, statement: str) -> None:
    await town.report()
    with pytest.raises(psycopg.errors.RestrictViolation, match="never removed"):
        await town.rows_done(statement)
    assert len(await town.rows("SELECT id FROM incident_history")) == 1


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param("UPDATE incident SET disposition = 'confirmed'", id="confirmed-by-nobody"),
        pytest.param("UPDATE incident SET confirmed_by = 'li'", id="signed-while-open"),
        pytest.param("UPDATE incident SET category = 'murder'", id="no-such-category"),
        pytest.param("UPDATE incident SET disposition = 'lost'", id="no-such-disposition"),
        pytest.param("UPDATE incident SET occurred_at = '1999-12-31'", id="last-century"),
    ],
)
async def test_database_refuses_what_cannot_be(town: Town, statement: str) -> None:
    await town.report()
    with pytest.raises(psycopg.errors.CheckViolation):
        await town.rows_done(statement)


async def test_database_agrees_on_what_is_criminal(town: Town) -> None:
    for category in CATEGORIES:
        await town.report(category=category)
    rows = await town.rows("SELECT category FROM incident WHERE criminal")
    assert {category for (category,) in rows} == CRIMINAL


# -- what is computed from it


async def test_days_it_touches_are_computed_anew(town: Town) -> None:
    # Half past midnight in Shanghai is still the day before in UTC.
    made = await town.report(occurred_at=datetime(2026, 11, 19, 16, 30, tzinfo=UTC))
    marked = "SELECT day::text, community, ends_at, dirty, marks FROM community_day ORDER BY day"
    ends_at = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
    assert await town.rows(marked) == [("2026-11-20", "c01", ends_at, "incident", 1)]
    await town.rows_done("UPDATE community_day SET dirty = NULL, status = 'final'")
    await town.change(made, occurred_at=datetime(2026, 11, 18, 15, 0, tzinfo=UTC), area="c02")
    assert [row[:2] + row[3:] for row in await town.rows(marked)] == [
        ("2026-11-18", "c02", "incident", 1),
        ("2026-11-20", "c01", "incident", 2),
    ]


async def test_day_of_its_alarm_is_computed_anew(town: Town) -> None:
    await town.report(alert=ALARM, occurred_at=NOW - timedelta(hours=20))
    days = await town.rows("SELECT day::text FROM community_day WHERE dirty = 'incident'")
    assert sorted(days) == [("2026-11-20",), ("2026-11-21",)]


async def test_mark_that_stands_keeps_its_reason(town: Town) -> None:
    await town.rows_done(
        """
        INSERT INTO community_day (domain, day, community, ends_at, dirty)
        VALUES ('security', '2026-11-21', 'c01', '2026-11-21T16:00:00Z', 'late_readings')
        """
    )
    await town.report()
    assert await town.rows("SELECT dirty, marks FROM community_day") == [("late_readings", 2)]


async def test_cases_and_alarms_of_a_day_add_up(town: Town) -> None:
    midnight, _ = day_span((NOW + 8 * HOUR).date(), "Asia/Shanghai")
    span = (midnight, midnight + 24 * 3_600_000_000)
    start = datetime.fromtimestamp(midnight / 1_000_000, UTC)
    await town.report(occurred_at=start, disposition="confirmed")
    await town.report(occurred_at=start + HOUR, area="c01")
    await town.report(occurred_at=start - timedelta(microseconds=1), disposition="confirmed")
    await town.report(occurred_at=start, category="fire", disposition="confirmed")
    await town.report(occurred_at=start, area="c02", disposition="confirmed")
    false = await town.report(alert=ALARM, category="other", occurred_at=start + HOUR)
    await town.change(false, disposition="false_alarm")
    with psycopg.connect(town.dsn) as conn:
        insert_alarm(conn, uuid.uuid4(), "c01", rule="gate.forced")
        insert_alarm(conn, uuid.uuid4(), "c01", rule="lamp.dark")
        insert_alarm(conn, uuid.uuid4(), "c01", received_at=start - HOUR)
        found = security.tally(stored.cases(conn, "c01", span), stored.alarms(conn, "c01", span))
    assert found == {
        Key("incident-rate", "c01-g01"): Tally(good=1, total=1, subjects=1),
        Key("incident-rate", "c01"): Tally(total=1, subjects=1),
        Key("false-alarms", "c01-g01"): Tally(good=1, total=1, subjects=1),
        Key("false-alarms", "c01"): Tally(total=1, subjects=1),
    }


async def test_alarm_is_what_its_standing_record_says(town: Town) -> None:
    span = (to_us(NOW - 24 * HOUR), to_us(NOW + HOUR))

    def disposition() -> Disposition | None:
        with psycopg.connect(town.dsn) as conn:
            (alarm,) = stored.alarms(conn, "c01", span)
        return alarm.disposition

    assert disposition() is None
    first = await town.report(alert=ALARM)
    assert disposition() == "open"
    await town.change(first, disposition="duplicate")
    assert disposition() == "duplicate"
    await town.report(alert=ALARM, disposition="confirmed")
    assert disposition() == "confirmed"


async def test_alarm_times_are_exact(town: Town) -> None:
    received = NOW + timedelta(microseconds=123_457)
    alert = uuid.uuid4()
    with psycopg.connect(town.dsn) as conn:
        insert_alarm(
            conn, alert, "c01", received_at=received,
            acknowledged_at=received + timedelta(microseconds=1),
            cleared_at=received + timedelta(microseconds=2),
        )  # fmt: skip
        at = to_us(received)
        assert stored.alarms(conn, "c01", (at, at + 1)) == [
            security.Alarm("c01", at, at + 1, at + 2)
        ]
        assert stored.alarms(conn, "c01", (at + 1, at + 9)) == []


async def test_alarms_of_a_subtree_keep_to_the_scope(town: Town) -> None:
    async def areas(area: str, scope: str, hidden: list[str]) -> list[object]:
        cursor = await town.conn.execute(
            stored.ALARMS_BELOW,
            {
                "area": area,
                "scope": scope,
                "hidden": hidden,
                "start": NOW - 24 * HOUR,
                "end": NOW,
            },
        )
        return sorted([row[1] async for row in cursor])

    assert await areas("city", "city", []) == ["c01-g01", "c02"]
    assert await areas("city.c01", "city", []) == ["c01-g01"]
    assert await areas("city.c02", "city.c02", []) == ["c02"]
    assert await areas("city", "city.c02", []) == []
    assert await areas("city", "city", ["alarm.intrusion"]) == []


async def test_officer_counts_lead_to_a_recommendation(town: Town) -> None:
    local_midnight = datetime(2026, 11, 19, 16, 0, tzinfo=UTC)
    for _ in range(6):
        await town.report(occurred_at=local_midnight, disposition="confirmed")
    await town.report(occurred_at=local_midnight + 9 * HOUR)
    await town.report(occurred_at=local_midnight, category="medical", disposition="confirmed")
    await town.report(occurred_at=local_midnight, area="c02", disposition="confirmed")
    await town.report(occurred_at=local_midnight + 48 * HOUR - 24 * HOUR)
    with psycopg.connect(town.dsn) as conn:
        counts = stored.officer_counts(conn, "city.c01", local_midnight, local_midnight + 24 * HOUR)
    assert (counts.cases, counts.city_cases, counts.open_cases) == (6, 7, 1)
    assert counts.cases_by_hour == [6, *[0] * 23]
    here, city = Population(2_000, 1, 1), Population(100_000, 1, 1)
    found = recommend(counts.situation(here, city))
    assert found.officers == 3
    assert found.reasons[0].code == "rate_far_above_city"
    assert found.reasons[2].numbers["share"] == 1


@pytest.mark.parametrize(
    ("here", "city"),
    [
        pytest.param(Population(0, 0, 1), Population(9_000, 1, 1), id="here-unknown"),
        pytest.param(Population(2_000, 1, 1), Population(0, 0, 1), id="city-unknown"),
        pytest.param(Population(2_000, 1, 1), Population(1_000, 1, 1), id="part-over-the-whole"),
    ],
)
def test_unknown_population_compares_nothing(here: Population, city: Population) -> None:
    counts = stored.OfficerCounts(9, 9, 0, [9, *[0] * 23])
    found = recommend(counts.situation(here, city))
    assert found.reasons[0].code == "population_unknown"


async def test_officer_counts_of_a_quiet_place_are_zero(town: Town) -> None:
    with psycopg.connect(town.dsn) as conn:
        counts = stored.officer_counts(conn, "city.c02", NOW - HOUR, NOW)
    assert counts == stored.OfficerCounts(0, 0, 0, [0] * 24)


@pytest.mark.parametrize("who", ["wang", "gone", "nobody"])
async def test_officers_are_active_police_or_admins(town: Town, who: str) -> None:
    await town.rows_done(
        """
        INSERT INTO person (username, password_hash, role, area, active)
        VALUES ('gone', '', 'police', 'c01', false)
        """
    )
    assert await stored.find_officer(town.conn, "li") == stored.Officer("li", "c01")
    assert await stored.find_officer(town.conn, "root") == stored.Officer("root", "city")
    with pytest.raises(Missing, match="person"):
        await stored.find_officer(town.conn, who)


# -- the command line


@dataclass(frozen=True, slots=True)
class Desk:
    """A configured folder over the town; commands run in it."""

    folder: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "ingest", "incident", *arguments],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(Path.cwd()), "COLUMNS": "200", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def desk(database: str, tmp_path: Path) -> Desk:
    settle_town(database)
    (tmp_path / "linli.toml").write_text(
        f"""
        database.dsn = {json.dumps(database)}
        broker.ca = "pki/ca.crt"
        ingest.certificates = "pki/services"
        """
    )
    return Desk(tmp_path)


ADD = ("add", "--area", "c01-g01", "--category", "burglary", "--at", "2026-01-03T08:00+08:00")


def test_operator_reports_lists_and_settles(desk: Desk) -> None:
    made = desk.ok(*ADD, "--by", "li", "--note", "门被撬").strip()
    desk.ok("settle", made, "confirmed", "--by", "root", "--reason", "seen", "--version", "1")
    header, row = desk.ok("list", "--area", "c01").splitlines()
    assert header.split() == [
        "id", "occurred_at", "area", "category", "disposition", "confirmed_by", "version",
    ]  # fmt: skip
    assert row.split() == [
        made, "2026-01-03T00:00:00.000+00:00", "c01-g01", "burglary", "confirmed", "root", "2",
    ]  # fmt: skip
    for nothing in (["--area", "c02"], ["--disposition", "open"], ["--to", "2026-01-03T00:00Z"]):
        assert desk.ok("list", *nothing).splitlines()[1:] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["--by", "wang"], "--by: no active person of that name", id="property"),
        pytest.param(["--by", "nobody"], "--by: no active person of that name", id="nobody"),
        pytest.param(["--by", "li", "--area", "c02"], "--area: no such", id="not-theirs"),
        pytest.param(["--by", "li", "--area", "c99"], "--area: no such", id="no-such-area"),
        pytest.param(["--by", "root", "--area", "city"], "--area: no such", id="too-wide"),
        pytest.param(
            ["--by", "li", "--at", "2099-01-01T00:00Z"], "occurred_at: time.future max=20",
            id="future",
        ),
        pytest.param(
            ["--by", "li", "--at", "1999-01-01T00:00Z"],
            "occurred_at: time.too_early min=2000-01-01", id="last-century",
        ),
        pytest.param(["--by", "li", "--at", "yesterday"], "--at: value 'yesterday'", id="time"),
        pytest.param(["--by", "li", "--at", "2026-01-01T00:00"], "--at: value", id="naive"),
        pytest.param(
            ["--by", "li", "--category", "murder"],
            "--category: value 'murder': write one of burglary, ", id="category",
        ),
        pytest.param(["--by", "li", "--alert", "7"], "--alert: value '7'", id="alert"),
        pytest.param(
            ["--by", "li", "--alert", str(FOREIGN_ALARM)], "--alert: no such", id="alert-of-others"
        ),
        pytest.param(
            ["--by", "li", "--alert", str(ALARM)], "occurred_at: time.unfitting", id="other-time"
        ),
        pytest.param(["--by", "li", "--reason", " "], "--reason: write 1 to 500", id="reason"),
        pytest.param(["--by", "li", "--note", "x" * 2_001], "--note: write at most", id="note"),
        pytest.param(["--by", "li", "--note", "a\udcffb"], "is not UTF-8", id="encoding"),
    ],
)  # fmt: skip
def test_mistake_is_a_plain_sentence_and_writes_nothing(
    desk: Desk, arguments: list[str], told: str
) -> None:
    done = desk.run(*ADD, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(told) or told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert desk.ok("list").splitlines()[1:] == []


def test_settling_what_cannot_be_is_told(desk: Desk) -> None:
    made = desk.ok(*ADD, "--by", "li").strip()
    by = ("--by", "li", "--reason", "seen")
    for arguments, told in (
        (("settle", made, "open", *by), "nothing would change"),
        (("settle", made, "lost", *by), "DISPOSITION: value 'lost'"),
        (("settle", str(uuid.uuid4()), "test", *by), "ID: no such incident"),
        (("settle", "7", "test", *by), "ID: value '7'"),
        (("settle", made, "test", "--version", "3", *by), "--version: it is version 1 by now"),
    ):
        done = desk.run(*arguments)
        assert done.returncode == 2
        assert told in done.stderr
