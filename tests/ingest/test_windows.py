# SPDX-License-Identifier: Apache-2.0
"""Windows of maintenance: what one may be, and which alerts are muted while it is in force."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.rows import dict_row

from ingest import windows
from ingest.alerts import Raise
from ingest.kinds import DEFAULT_RULES
from ingest.rules import Rule
from ingest.store import alerts, connect
from ingest.store import windows as stored
from ingest.store.alerts import Change, Subject
from ingest.store.windows import Node, active, cause_of, reconcile
from ingest.windows import GRACE, LENGTH_MAX, Over, Refused, Unchanged, Window
from tests.ingest.community import found

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
MICROSECOND = timedelta(microseconds=1)

# -- what a window may be


def plan(
    begins: timedelta, ends: timedelta, reason: str = "换灯", *, afterwards: bool = False
) -> Window:
    return windows.plan(NOW + begins, NOW + ends, reason, afterwards=afterwards, now=NOW)


@pytest.mark.parametrize(
    ("begins", "ends", "afterwards"),
    [
        pytest.param(HOUR, 2 * HOUR, False, id="planned"),
        pytest.param(-GRACE, HOUR, False, id="begun-just-now"),
        pytest.param(HOUR, HOUR + MICROSECOND, False, id="short"),
        pytest.param(HOUR, HOUR + LENGTH_MAX, False, id="longest"),
        pytest.param(366 * DAY, 367 * DAY, False, id="a-year-ahead"),
        pytest.param(-3 * DAY, -2 * DAY, True, id="accepted-afterwards"),
        pytest.param(-62 * DAY, -61 * DAY, True, id="oldest"),
    ],
)
def test_what_a_window_may_be(begins: timedelta, ends: timedelta, afterwards: bool) -> None:
    window = plan(begins, ends, " 换灯 ", afterwards=afterwards)
    assert window == Window(NOW + begins, NOW + ends, "换灯")


@pytest.mark.parametrize(
    ("begins", "ends", "afterwards", "field", "rule"),
    [
        pytest.param(2 * HOUR, HOUR, False, "ends_at", "range.reversed", id="reversed"),
        pytest.param(HOUR, HOUR, False, "ends_at", "range.reversed", id="empty"),
        pytest.param(
            HOUR, HOUR + LENGTH_MAX + MICROSECOND, False, "ends_at", "range.too_long", id="endless"
        ),
        pytest.param(-2 * HOUR, -HOUR, False, "begins_at", "window.past", id="past"),
        pytest.param(-2 * HOUR, HOUR, False, "begins_at", "window.past", id="reaches-back"),
        pytest.param(-63 * DAY, -62 * DAY, True, "begins_at", "window.too_old", id="too-old"),
        pytest.param(367 * DAY, 368 * DAY, False, "begins_at", "window.too_far", id="too-far"),
    ],
)
def test_what_a_window_may_not_be(
    begins: timedelta, ends: timedelta, afterwards: bool, field: str, rule: str
) -> None:
    with pytest.raises(Refused) as caught:
        plan(begins, ends, afterwards=afterwards)
    assert (caught.value.field, caught.value.rule) == (field, rule)


def test_a_window_has_a_reason() -> None:
    with pytest.raises(Refused) as caught:
        plan(HOUR, 2 * HOUR, " ")
    assert (caught.value.field, caught.value.rule) == ("reason", "text.too_short")


# One that is in force: from two hours ago to two hours ahead.
CURRENT = Window(NOW - 2 * HOUR, NOW + 2 * HOUR, "x")


@pytest.mark.parametrize(
    ("begins", "ends", "afterwards", "refused"),
    [
        pytest.param(None, HOUR, False, None, id="cut-short"),
        pytest.param(None, -HOUR, False, None, id="was-over-an-hour-ago"),
        pytest.param(None, 5 * HOUR, False, None, id="longer"),
        pytest.param(-HOUR, None, False, None, id="began-later"),
        pytest.param(-3 * HOUR, None, False, "window.past", id="began-earlier"),
        pytest.param(-3 * HOUR, None, True, None, id="began-earlier-with-the-right"),
        pytest.param(3 * HOUR, 4 * HOUR, False, None, id="put-off"),
        pytest.param(None, -2 * HOUR, False, "range.reversed", id="nothing-left"),
        pytest.param(None, 40 * DAY, False, "range.too_long", id="endless"),
    ],
)
def test_more_of_the_past_needs_the_right_and_less_does_not(
    begins: timedelta | None, ends: timedelta | None, afterwards: bool, refused: str | None
) -> None:
    def change() -> Window:
        return windows.change(
            CURRENT,
            None if begins is None else NOW + begins,
            None if ends is None else NOW + ends,
            afterwards=afterwards,
            now=NOW,
        )

    if refused is None:
        assert change().version == 2
        return
    with pytest.raises(Refused) as caught:
        change()
    assert caught.value.rule == refused


def test_what_is_over_stays_without_the_right() -> None:
    later = NOW + 3 * HOUR
    with pytest.raises(Over):
        windows.change(CURRENT, None, NOW + HOUR, afterwards=False, now=later)
    assert windows.change(CURRENT, None, NOW + HOUR, afterwards=True, now=later).ends_at < later
    # Longer is more of the past.
    longer = windows.change(CURRENT, None, NOW + 5 * HOUR, afterwards=True, now=later)
    assert longer.phase(later) == "current"
    with pytest.raises(Unchanged):
        windows.change(CURRENT, CURRENT.begins_at, None, afterwards=False, now=NOW)


def test_called_off_before_it_began_it_never_was() -> None:
    off = windows.cancel(plan(HOUR, 2 * HOUR), annul=False, afterwards=False, now=NOW)
    assert (off.span, off.phase(NOW), off.version) == (None, "annulled", 2)
    for call in (
        lambda: windows.cancel(off, annul=True, afterwards=True, now=NOW),
        lambda: windows.change(off, None, NOW + 3 * HOUR, afterwards=True, now=NOW),
    ):
        with pytest.raises(Over):
            call()


def test_called_off_in_force_it_ends_now_or_never_was() -> None:
    off = windows.cancel(CURRENT, annul=False, afterwards=False, now=NOW)
    assert (off.span, off.phase(NOW)) == ((NOW - 2 * HOUR, NOW), "past")
    assert windows.cancel(CURRENT, annul=True, afterwards=False, now=NOW).span is None
    with pytest.raises(Over):
        windows.cancel(off, annul=True, afterwards=False, now=NOW)
    with pytest.raises(Over):
        windows.cancel(off, annul=False, afterwards=True, now=NOW)
    assert windows.cancel(off, annul=True, afterwards=True, now=NOW).span is None


HOURS = st.integers(-80 * 24, 400 * 24).map(lambda hours: NOW + hours * HOUR)


@st.composite
def windows_of_any_kind(draw: st.DrawFn) -> Window:
    begins_at = draw(HOURS)
    length = draw(st.integers(1, 31 * 24)) * HOUR
    return Window(begins_at, begins_at + length, "x", draw(st.booleans()))


@given(windows_of_any_kind(), st.none() | HOURS, st.none() | HOURS, st.booleans())
def test_no_change_excuses_more_of_the_past_without_the_right(
    before: Window, begins_at: datetime | None, ends_at: datetime | None, afterwards: bool
) -> None:
    """Whatever is wanted: hour by hour, what is out afterwards and was not before."""
    try:
        after = windows.change(before, begins_at, ends_at, afterwards=afterwards, now=NOW)
    except (Over, Unchanged, Refused):
        return
    assert timedelta() < after.ends_at - after.begins_at <= LENGTH_MAX
    differs: list[datetime] = []
    at = min(after.begins_at, before.begins_at)
    while at < max(after.ends_at, before.ends_at):
        now_out = after.begins_at <= at < after.ends_at
        was_out = before.begins_at <= at < before.ends_at
        if now_out != was_out:
            differs.append(at)
        if now_out and not was_out and not afterwards:
            assert at >= NOW - GRACE
        at += HOUR
    span = windows.restated(before, after)
    assert span is not None
    assert all(span[0] <= at < span[1] for at in differs)
    assert (span[0], span[1] - HOUR) == (differs[0], differs[-1])


# -- which alerts are muted


class Town:
    """A community in the database, its windows, and alerts put there by hand."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        found(dsn, in_service_from=NOW - 30 * DAY)
        self.conn = connect(dsn, "test")
        self.conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES ('c01-g01', 'c01', 'city.c01.c01_g01', 'cell', 'x'),
                   ('c02', 'city', 'city.c02', 'community', 'x')
            """
        )
        self.conn.execute("UPDATE device SET area = 'c01-g01' WHERE device = 'c01-lamp-001'")

    def window(
        self, node: Node, begins: timedelta = -MINUTE, ends: timedelta = HOUR, within: str = "city"
    ) -> UUID:
        async def create() -> UUID:
            async with await psycopg.AsyncConnection[Any].connect(self.dsn, autocommit=True) as c:
                return await stored.create(
                    c, node, NOW + begins, NOW + ends, within=within, actor="wang",
                    reason="换灯", afterwards=True, now=NOW,
                )  # fmt: skip

        return asyncio.run(create())

    def cancel(self, window: UUID, now: datetime, *, annul: bool = False) -> None:
        async def cancel() -> None:
            async with await psycopg.AsyncConnection[Any].connect(self.dsn, autocommit=True) as c:
                await stored.cancel(
                    c, window, within="city", actor="wang", reason="雨", annul=annul,
                    afterwards=True, expected_version=None, now=now,
                )  # fmt: skip

        asyncio.run(cancel())

    def alert(self, device: str = "c01-lamp-001", *, life_safety: bool = False) -> UUID:
        made = uuid4()
        self.conn.execute(
            """
            INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area, active,
                               standing, life_safety, raised_at, last_raised_at, received_at,
                               changed_at)
            SELECT %s, %s, 'minor', kind, device, gateway, community, area, true, 1, %s, %s, %s,
                   %s, %s
            FROM device WHERE device = %s
            """,
            (made, f"rule.{made}", life_safety, *[NOW - HOUR] * 4, device),
        )
        return made

    def clear(self, alert: UUID) -> None:
        self.conn.execute(
            "UPDATE alert SET active = false, standing = 0, cleared_at = %s WHERE id = %s",
            (NOW, alert),
        )

    def raise_again(self, alert: UUID) -> None:
        self.conn.execute("UPDATE alert SET active = true, standing = 1 WHERE id = %s", (alert,))

    def muted(self) -> set[UUID]:
        return {row[0] for row in self.conn.execute("SELECT id FROM alert WHERE quiet")}

    def history(self, alert: UUID) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(
                """
                SELECT at, actor, action, params ->> 'cause' AS cause FROM alert_history
                WHERE alert = %s ORDER BY id
                """,
                (alert,),
            ).fetchall()


@pytest.fixture
def town(database: str) -> Iterator[Town]:
    made = Town(database)
    yield made
    made.conn.close()


LAMP = Subject("lamp", "gw-c01-a", "c01", "c01-g01", "c01-lamp-001")
BIN = Subject("bin", "gw-c01-a", "c01", "c01", "c01-bin-001")
FAR = Subject("lamp", "gw-c01-b", "c01", "c01", "c01-lamp-101")
BOX = Subject("gateway", "gw-c01-a", "c01", "c01")


def test_a_window_mutes_what_lies_under_its_node_while_it_is_in_force(town: Town) -> None:
    subjects = (LAMP, BIN, FAR, BOX)
    under = {
        Node("device", "c01-lamp-001"): {LAMP},
        Node("gateway", "gw-c01-a"): {LAMP, BIN, BOX},
        Node("area", "c01-g01"): {LAMP},
        Node("area", "c01"): {LAMP, BIN, FAR, BOX},
        Node("area", "city"): {LAMP, BIN, FAR, BOX},
        Node("area", "c02"): set[Subject](),
    }
    made = {node: town.window(node, timedelta(), HOUR) for node in under}
    off = town.window(Node("area", "city"), timedelta(), HOUR)
    town.cancel(off, NOW + MINUTE, annul=True)
    for at, in_force in ((NOW, True), (NOW + HOUR - MICROSECOND, True), (NOW + HOUR, False),
                         (NOW - MICROSECOND, False)):  # fmt: skip
        causes = active(town.conn, subjects, at)
        for subject, by in zip(subjects, causes, strict=True):
            wanted = {cause_of(made[node]) for node, of in under.items() if subject in of}
            assert by == (wanted if in_force else set())
    assert active(town.conn, [], NOW) == []


def test_raised_where_a_window_is_in_force_it_is_muted_before_anybody_is_told(town: Town) -> None:
    window = town.window(Node("area", "c01-g01"), ends=HOUR)
    rule = next(rule for rule in DEFAULT_RULES if not rule.life_safety)
    danger = rule.model_copy(update={"id": "lamp.danger", "life_safety": True})

    def tell(rule: Rule, subject: Subject, key: str, now: datetime) -> UUID:
        ((_, alert),) = alerts.write(
            town.conn, [Change(rule, subject, Raise(now, "condition_met"), now, key)], now
        )
        return alert

    with town.conn.transaction():
        lamp = tell(rule, LAMP, "1", NOW)
        assert town.muted() == {lamp}
        tell(rule, BIN, "2", NOW)
        tell(danger, LAMP, "3", NOW)
    assert town.muted() == {lamp}
    assert [(one["action"], one["cause"]) for one in town.history(lamp)] == [
        ("raised", None),
        ("suppressed", cause_of(window)),
    ]
    # The same alert again is muted already; when the window is over nothing mutes it.
    assert tell(rule, LAMP, "4", NOW + MINUTE) == lamp
    assert len(town.history(lamp)) == 3
    reconcile(town.conn, NOW + HOUR)
    assert tell(rule, LAMP, "5", NOW + HOUR) == lamp
    assert town.muted() == set()


@pytest.mark.parametrize(
    ("rule", "kind"),
    [("alarm.intrusion", "alarm"), ("alarm.tamper", "alarm"), ("gate.forced", "gate"),
     ("custom.night-door", "gate")],
)  # fmt: skip
def test_what_officers_answer_for_is_muted_by_no_window(town: Town, rule: str, kind: str) -> None:
    town.window(Node("area", "c01"), ends=HOUR)
    subject = replace(BIN, kind=kind)
    with town.conn.transaction():
        change = Change(Rule(id=rule, severity="minor"), subject, Raise(NOW, "told"), NOW)
        alerts.write(town.conn, [change], NOW)
    assert town.muted() == set()
    assert reconcile(town.conn, NOW + MINUTE) == []
    assert town.muted() == set()


def test_what_stands_is_muted_as_it_begins_and_comes_back_as_it_ends(town: Town) -> None:
    lamp, elsewhere = town.alert(), town.alert("c01-lamp-101")
    smoke = town.alert(life_safety=True)
    window = town.window(Node("gateway", "gw-c01-a"), MINUTE, HOUR)
    assert reconcile(town.conn, NOW) == []
    assert reconcile(town.conn, NOW + MINUTE) == [("c01", lamp)]
    assert (town.muted(), elsewhere in town.muted()) == ({lamp}, False)
    assert reconcile(town.conn, NOW + 2 * MINUTE) == []
    assert reconcile(town.conn, NOW + HOUR) == [("c01", lamp)]
    assert reconcile(town.conn, NOW + HOUR) == []
    assert town.muted() == set()
    cause = cause_of(window)
    assert town.history(lamp) == [
        {"at": NOW + MINUTE, "actor": "design", "action": "suppressed", "cause": cause},
        {"at": NOW + HOUR, "actor": "design", "action": "unsuppressed", "cause": cause},
    ]
    assert town.history(smoke) == town.history(elsewhere) == []


def test_raised_by_who_did_not_see_the_window_it_is_muted_within_its_first_minute(
    town: Town,
) -> None:
    town.window(Node("area", "c01"), timedelta(), HOUR)
    reconcile(town.conn, NOW)
    # Its transaction began before the window was there.
    lamp = town.alert()
    reconcile(town.conn, NOW + MINUTE)
    assert town.muted() == {lamp}
    looked = "SELECT muted FROM maintenance_window"
    assert town.conn.execute(looked).fetchone() == (True,)


def test_cleared_in_its_window_it_stays_muted_until_it_is_raised_again(town: Town) -> None:
    lamp = town.alert()
    town.window(Node("area", "city"))
    reconcile(town.conn, NOW)
    town.clear(lamp)
    assert reconcile(town.conn, NOW + HOUR) == []
    assert town.muted() == {lamp}
    town.raise_again(lamp)
    assert reconcile(town.conn, NOW + 2 * HOUR) == [("c01", lamp)]
    assert town.muted() == set()


def test_of_two_windows_the_later_end_counts(town: Town) -> None:
    lamp = town.alert()
    town.window(Node("area", "city"), ends=HOUR)
    longer = town.window(Node("device", "c01-lamp-001"), ends=2 * HOUR)
    reconcile(town.conn, NOW)
    reconcile(town.conn, NOW + HOUR)
    assert town.muted() == {lamp}
    causes = town.conn.execute("SELECT suppressed_by FROM alert").fetchall()
    assert causes == [([cause_of(longer)],)]
    reconcile(town.conn, NOW + 2 * HOUR)
    assert town.muted() == set()


@pytest.mark.parametrize("annul", [False, True])
def test_called_off_in_force_it_mutes_no_longer(town: Town, annul: bool) -> None:
    lamp = town.alert()
    window = town.window(Node("area", "city"))
    reconcile(town.conn, NOW)
    assert town.muted() == {lamp}
    town.cancel(window, NOW + MINUTE, annul=annul)
    reconcile(town.conn, NOW + MINUTE)
    assert town.muted() == set()


def test_many_alerts_are_muted_a_few_at_a_time(town: Town) -> None:
    for _ in range(3):
        town.alert()
    town.window(Node("area", "city"))
    assert len(reconcile(town.conn, NOW + 2 * MINUTE, at_once=2)) == 2
    assert town.conn.execute("SELECT muted FROM maintenance_window").fetchone() == (False,)
    assert len(reconcile(town.conn, NOW + 2 * MINUTE, at_once=2)) == 1
    assert town.conn.execute("SELECT muted FROM maintenance_window").fetchone() == (True,)
    assert len(reconcile(town.conn, NOW + HOUR, at_once=2)) == 2


def test_a_node_has_no_endless_number_of_windows(town: Town) -> None:
    town.conn.execute(
        """
        INSERT INTO maintenance_window (id, area, begins_at, ends_at, reason, created_by,
                                        created_at, changed_at)
        SELECT gen_random_uuid(), 'c01', %(now)s, %(now)s + interval '1 day', 'x', 'x', %(now)s,
               %(now)s
        FROM generate_series(1, 100)
        """,
        {"now": NOW},
    )
    with pytest.raises(stored.TooMany):
        town.window(Node("area", "c01"))
    town.window(Node("area", "city"))


@pytest.mark.parametrize(
    ("node", "within"),
    [
        pytest.param(Node("area", "city"), "c01", id="above"),
        pytest.param(Node("area", "c01"), "c02", id="beside"),
        pytest.param(Node("gateway", "gw-c01-a"), "c01-g01", id="gateway-of-the-community"),
        pytest.param(Node("device", "c01-bin-001"), "c02", id="device"),
        pytest.param(Node("device", "c01"), "city", id="no-device"),
    ],
)
def test_a_window_is_for_what_its_maker_sees(town: Town, node: Node, within: str) -> None:
    with pytest.raises(stored.Missing) as caught:
        town.window(node, within=within)
    assert caught.value.what == node.type
    assert town.conn.execute("SELECT count(*) FROM maintenance_window").fetchone() == (0,)
