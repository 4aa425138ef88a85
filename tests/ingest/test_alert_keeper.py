# SPDX-License-Identifier: Apache-2.0
"""A desk that neither drowns nor misses anything: the keeper of alerts over a real database."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from ingest import alert_keeper
from ingest.alert_keeper import AlertKeeper
from ingest.alerts import Action, Clear, Raise, Refused, Shelve, Suppress, TakeOut, Unshelve
from ingest.errors import Unavailable
from ingest.kinds import DEFAULT_RULES, GATEWAY_SILENT
from ingest.rules import Rule, RuleBook
from ingest.store import alerts, claim, connect
from ingest.store import hygiene as stored
from ingest.store.alerts import Change, Subject
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, found
from tests.services import until

NOW = datetime.now(UTC).replace(microsecond=0)
LAMPS = tuple(f"lamp-{number:03}" for number in range(200))
RULES = RuleBook(DEFAULT_RULES)
FIRE = Rule(id="alarm.fire", severity="critical", life_safety=True)


def rule(name: str) -> Rule:
    known = RULES.get(name)
    assert known is not None
    return known


@dataclass
class Desk:
    """What rules tell, what the keeper does about it, what people see."""

    dsn: str
    conn: psycopg.Connection
    keeper: AlertKeeper
    now: datetime = NOW

    def tell(self, *changes: Change) -> None:
        with self.conn.transaction():
            alerts.write(self.conn, changes, self.now)

    def raised(
        self, rule: Rule, device: str | None = None, *, gateway: str = GATEWAY, key: str = ""
    ) -> Change:
        kind = "gateway" if device is None else device.split("-")[-2]
        subject = Subject(kind, gateway, "c01", "c01", device)
        return Change(rule, subject, Raise(self.now, "told"), self.now, key)

    def cleared(
        self, rule: Rule, device: str | None = None, *, gateway: str = GATEWAY, key: str = ""
    ) -> Change:
        kind = "gateway" if device is None else device.split("-")[-2]
        subject = Subject(kind, gateway, "c01", "c01", device)
        return Change(rule, subject, Clear(self.now, "told"), self.now, key)

    def keep(self, *, after: timedelta = timedelta(seconds=1)) -> int:
        self.now += after
        return len(self.keeper.keep(self.conn, self.now))

    def restart(self) -> None:
        self.keeper = AlertKeeper(self.dsn, RULES)

    def rows(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query.encode(), parameters).fetchall()

    def seen(self) -> list[tuple[str, str]]:
        """The rows of the desk: open, and not kept from it."""
        found = self.rows(
            """
            SELECT rule, coalesce(device, gateway) AS subject FROM alert
            WHERE (active OR latched OR NOT acknowledged) AND NOT quiet
            ORDER BY rule, subject
            """
        )
        return [(row["rule"], row["subject"]) for row in found]

    def chatter(self, device: str, times: int, *, every_s: int = 10) -> None:
        for _ in range(times):
            self.tell(self.raised(rule("alarm.tamper"), device, key=str(self.now)))
            self.now += timedelta(seconds=every_s / 2)
            (key,) = self.rows("SELECT max(key) AS key FROM alert_occurrence WHERE active")
            self.tell(self.cleared(rule("alarm.tamper"), device, key=key["key"]))
            self.now += timedelta(seconds=every_s / 2)


@pytest.fixture
def desk(database: str) -> Iterator[Desk]:
    devices = [(lamp, "lamp", GATEWAY) for lamp in LAMPS]
    devices += [("c01-alarm-001", "alarm", GATEWAY), ("c01-lamp-999", "lamp", OTHER_GATEWAY)]
    found(database, in_service_from=NOW - timedelta(hours=1), devices=devices)
    with connect(database, "test") as conn:
        yield Desk(database, conn, AlertKeeper(database, RULES))


# -- one cause behind many


def test_a_gateway_outage_with_200_devices_is_one_row(desk: Desk) -> None:
    desk.tell(*(desk.raised(rule("lamp.dark"), lamp) for lamp in LAMPS[:100]))
    desk.tell(desk.raised(GATEWAY_SILENT))
    # Told a moment after: nobody ever sees these.
    desk.tell(*(desk.raised(rule("device.silent"), lamp) for lamp in LAMPS))
    assert len(desk.seen()) == 101
    desk.keep()
    assert desk.seen() == [("gateway.silent", GATEWAY)]


def test_a_flood_gives_no_duress_away(desk: Desk) -> None:
    duress = Rule(id="alarm.duress", severity="critical", life_safety=True)
    desk.tell(
        *(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:10]),
        desk.raised(duress, "c01-alarm-001", key="o-1"),
    )
    desk.keep()
    assert ("alerts.flood", "c01") not in desk.seen(), "ten that everybody sees are no flood"
    desk.tell(desk.raised(rule("device.fault"), LAMPS[10]))
    desk.keep()
    (flood,) = desk.rows("SELECT params FROM alert WHERE rule = 'alerts.flood'")
    assert flood["params"] == {"count": 11, "children": 11}


def test_what_still_stands_comes_back_when_the_gateway_is_heard(desk: Desk) -> None:
    desk.tell(desk.raised(GATEWAY_SILENT))
    desk.tell(*(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:3]))
    desk.keep()
    desk.tell(desk.cleared(rule("device.fault"), LAMPS[0]))
    desk.tell(desk.cleared(GATEWAY_SILENT))
    desk.restart()
    desk.keep()
    # What is over meanwhile is not told of afterwards.
    assert [row for row in desk.seen() if row[0] == "device.fault"] == [
        ("device.fault", LAMPS[1]),
        ("device.fault", LAMPS[2]),
    ]


def test_a_silent_gateway_mutes_its_own_devices_and_nothing_of_life_safety(desk: Desk) -> None:
    desk.tell(desk.raised(GATEWAY_SILENT))
    desk.tell(
        desk.raised(FIRE, "c01-alarm-001", key="o-1"),
        desk.raised(rule("alarm.intrusion"), "c01-alarm-001", key="o-2"),
        desk.raised(rule("device.fault"), "c01-alarm-001"),
        desk.raised(rule("device.fault"), "c01-lamp-999", gateway=OTHER_GATEWAY),
        desk.raised(rule("stream.lost"), None, key="s:1"),
    )
    desk.keep()
    assert desk.seen() == [
        ("alarm.fire", "c01-alarm-001"),
        ("alarm.intrusion", "c01-alarm-001"),
        ("device.fault", "c01-lamp-999"),
        ("gateway.silent", GATEWAY),
        ("stream.lost", GATEWAY),
    ]


def test_muting_survives_a_restart_in_the_middle(desk: Desk) -> None:
    """The parent is stored, then ingest dies before anything is muted."""
    desk.tell(*(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:20]))
    desk.tell(desk.raised(GATEWAY_SILENT))
    desk.restart()
    desk.keep()
    assert desk.seen() == [("gateway.silent", GATEWAY)]
    desk.restart()
    assert desk.keep() == 0, "a restart changes nothing that is as it should be"
    timeline = desk.rows(
        """
        SELECT h.actor, h.action, h.reason, h.params FROM alert_history AS h
        JOIN alert AS t ON t.id = h.alert WHERE t.device = %s ORDER BY h.id
        """,
        LAMPS[0],
    )
    assert [row["action"] for row in timeline] == ["raised", "suppressed"]
    assert (
        timeline[1] | {"actor": "design", "params": {"cause": f"gateway:{GATEWAY}"}}
        == (timeline[1])
    )


def test_a_lamp_that_moved_behind_another_gateway_is_not_muted_for_ever(desk: Desk) -> None:
    desk.tell(desk.raised(GATEWAY_SILENT), desk.raised(rule("device.fault"), LAMPS[0]))
    desk.keep()
    desk.conn.execute("UPDATE alert SET gateway = %s WHERE device = %s", (OTHER_GATEWAY, LAMPS[0]))
    desk.conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")
    desk.keep()
    assert ("device.fault", LAMPS[0]) in desk.seen()


def on_circuit(desk: Desk, lamps: Sequence[str], circuit: str = "FP-7") -> None:
    desk.conn.execute(
        "UPDATE device SET circuit = %s WHERE device = ANY (%s)", (circuit, list(lamps))
    )


def test_a_dark_circuit_is_one_row_and_its_lamps_come_back(desk: Desk) -> None:
    on_circuit(desk, LAMPS[:6])
    on_circuit(desk, LAMPS[6:12], "FP-8")
    desk.tell(*(desk.raised(rule("lamp.dark"), lamp) for lamp in LAMPS[:2]))
    desk.keep()
    assert len(desk.seen()) == 2
    desk.tell(desk.raised(rule("lamp.dark"), LAMPS[2]))
    desk.keep()
    assert desk.seen() == [("circuit.dark", LAMPS[0])]
    (told,) = desk.rows("SELECT params, raised_at FROM alert WHERE rule = 'circuit.dark'")
    assert told == {"params": {"circuit": "FP-7", "dark": 3, "lamps": 6}, "raised_at": desk.now}
    # One more of the same circuit steps back at once, one of another does not.
    desk.tell(*(desk.raised(rule("lamp.dark"), lamp) for lamp in (LAMPS[3], LAMPS[6])))
    assert desk.seen() == [("circuit.dark", LAMPS[0]), ("lamp.dark", LAMPS[6])]
    desk.tell(*(desk.cleared(rule("lamp.dark"), lamp) for lamp in LAMPS[:2]))
    desk.restart()
    desk.keep()
    active = desk.rows("SELECT rule, device FROM alert WHERE active AND NOT quiet ORDER BY device")
    assert [row["device"] for row in active] == [LAMPS[2], LAMPS[3], LAMPS[6]]


def test_a_child_and_its_parent_raised_at_the_same_time_do_not_slip_past_each_other(
    desk: Desk,
) -> None:
    """Neither transaction sees the other; whichever commits last is looked at after it."""
    for first, second in (("parent", "child"), ("child", "parent")):
        lamp = LAMPS[0] if first == "parent" else LAMPS[1]
        changes = {
            "parent": desk.raised(GATEWAY_SILENT),
            "child": desk.raised(rule("device.fault"), lamp),
        }
        with connect(desk.dsn, "one") as one, connect(desk.dsn, "other") as other:
            with one.transaction():
                alerts.write(one, [changes[first]], desk.now)
                with other.transaction():
                    alerts.write(other, [changes[second]], desk.now)
                desk.keep()
            desk.keep()
        assert ("device.fault", lamp) not in desk.seen()
        desk.tell(desk.cleared(GATEWAY_SILENT))
        desk.keep()
        assert ("device.fault", lamp) in desk.seen()


def test_an_alert_that_somebody_holds_is_waited_for_by_nobody(desk: Desk) -> None:
    desk.tell(*(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:3]))
    desk.keep()
    desk.tell(desk.raised(GATEWAY_SILENT))
    with connect(desk.dsn, "other") as other, other.transaction():
        other.execute("SELECT FROM alert WHERE device = %s FOR UPDATE", (LAMPS[1],))
        desk.keep()
        assert desk.seen() == [("device.fault", LAMPS[1]), ("gateway.silent", GATEWAY)]
    desk.keep()
    assert desk.seen() == [("gateway.silent", GATEWAY)]


def test_people_switch_the_watch_over_circuits_and_floods_off_and_on(desk: Desk) -> None:
    on_circuit(desk, LAMPS[:6])
    dark = [desk.raised(rule("lamp.dark"), lamp) for lamp in LAMPS[:6]]
    desk.tell(*dark, *(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[6:18]))
    desk.keep()

    def standing() -> set[str]:
        watched = ["circuit.dark", "alerts.flood"]
        found = desk.rows("SELECT rule FROM alert WHERE active AND rule = ANY (%s)", watched)
        return {row["rule"] for row in found}

    def say(definition: str) -> None:
        for name in ("circuit.dark", "alerts.flood"):
            desk.conn.execute(
                """
                INSERT INTO rule_version (rule, area, version, revision, definition, author,
                                          reason, at)
                SELECT %s, 'c01', rules_revision, rules_revision + 1, %s::jsonb, 'root', 'test',
                       now()
                FROM installation
                """,
                (name, definition),
            )
        desk.conn.execute("UPDATE installation SET rules_revision = rules_revision + 1")

    assert standing() == {"circuit.dark", "alerts.flood"}
    say('{"enabled": false}')
    desk.keep()
    desk.keep()
    assert standing() == set()
    reasons = desk.rows("SELECT DISTINCT reason FROM alert_history WHERE action = 'cleared'")
    assert reasons == [{"reason": "rule_off"}]
    say("{}")
    desk.keep()
    assert standing() == {"circuit.dark", "alerts.flood"}


# -- floods


def test_in_a_flood_one_row_stands_for_the_others_but_never_for_life_safety(desk: Desk) -> None:
    desk.tell(*(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:10]))
    desk.keep()
    assert len(desk.seen()) == 10, "ten are bearable"
    desk.tell(desk.raised(rule("device.fault"), LAMPS[10]))
    desk.keep()
    assert desk.seen() == [("alerts.flood", "c01")]
    desk.tell(
        desk.raised(rule("device.fault"), LAMPS[11]),
        desk.raised(FIRE, "c01-alarm-001", key="o-1"),
    )
    assert desk.seen() == [("alarm.fire", "c01-alarm-001"), ("alerts.flood", "c01")]
    desk.keep()
    (flood,) = desk.rows("SELECT params, kind, gateway FROM alert WHERE rule = 'alerts.flood'")
    assert flood == {"params": {"count": 13, "children": 12}, "kind": "community", "gateway": "c01"}
    (shown,) = desk.rows("SELECT subject, name FROM alert_view WHERE rule = 'alerts.flood'")
    assert shown == {"subject": "c01", "name": "一"}


def test_what_still_stands_comes_back_when_the_flood_is_over(desk: Desk) -> None:
    desk.tell(desk.raised(rule("device.fault"), "c01-lamp-999", gateway=OTHER_GATEWAY))
    desk.keep()
    desk.now += timedelta(minutes=11)
    desk.tell(*(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:12]))
    desk.keep()
    assert desk.seen() == [("alerts.flood", "c01"), ("device.fault", "c01-lamp-999")]
    desk.tell(*(desk.cleared(rule("device.fault"), lamp) for lamp in LAMPS[:10]))
    desk.keep(after=timedelta(minutes=5))
    assert len(desk.seen()) == 2
    desk.restart()
    desk.keep(after=timedelta(minutes=6))
    standing = desk.rows(
        "SELECT rule, device FROM alert WHERE active AND NOT quiet ORDER BY device"
    )
    assert [row["device"] for row in standing] == ["c01-lamp-999", LAMPS[10], LAMPS[11]]


def test_what_a_silent_gateway_explains_floods_nobody(desk: Desk) -> None:
    desk.tell(desk.raised(GATEWAY_SILENT))
    desk.tell(*(desk.raised(rule("device.silent"), lamp) for lamp in LAMPS))
    desk.keep()
    assert desk.seen() == [("gateway.silent", GATEWAY)]


# -- what people complain about


def test_flapping_floods_people_not_here_it_is_shelved_once_and_comes_back_by_time(
    desk: Desk,
) -> None:
    desk.chatter("c01-alarm-001", 3)
    desk.keep()
    assert desk.seen() == []
    (shelf,) = desk.rows("SELECT shelved_by, shelved_reason, shelved_until, repeats FROM alert")
    assert shelf == {
        "shelved_by": "hygiene",
        "shelved_reason": "chattering",
        "shelved_until": desk.now + timedelta(minutes=10),
        "repeats": 2,
    }
    desk.chatter("c01-alarm-001", 5)
    desk.keep()
    assert desk.seen() == []
    desk.restart()
    still = desk.raised(rule("alarm.tamper"), "c01-alarm-001", key="still")
    desk.tell(still)
    desk.keep(after=timedelta(minutes=10))
    assert desk.seen() == [("alarm.tamper", "c01-alarm-001")]
    timeline = desk.rows(
        "SELECT action, actor, reason, note FROM alert_history"
        " WHERE action LIKE '%%shelved' ORDER BY id"
    )
    assert timeline == [
        {"action": "shelved", "actor": "hygiene", "reason": "put_aside", "note": "chattering"},
        {"action": "unshelved", "actor": "hygiene", "reason": "expired", "note": None},
    ]


def test_a_nuisance_that_is_over_does_not_come_back_to_be_clicked_away(desk: Desk) -> None:
    desk.chatter("c01-alarm-001", 3)
    desk.keep()
    desk.keep(after=timedelta(minutes=10))
    assert desk.seen() == []
    assert desk.rows("SELECT acknowledged_by, quiet FROM alert") == [
        {"acknowledged_by": "hygiene", "quiet": False}
    ]
    (last,) = desk.rows("SELECT action, reason FROM alert_history WHERE action = 'acknowledged'")
    assert last == {"action": "acknowledged", "reason": "over_while_shelved"}
    # Nobody saw it: its time to be acknowledged goes on.
    assert desk.rows("SELECT FROM alert_occurrence WHERE acknowledged_at IS NOT NULL") == []
    desk.chatter("c01-alarm-001", 1)
    assert desk.seen() == [("alarm.tamper", "c01-alarm-001")], "raised again it is news"


def test_a_sensor_that_never_stops_is_shelved_no_longer_after_four_times_a_day(desk: Desk) -> None:
    lengths: list[float] = []
    for _ in range(6):
        desk.chatter("c01-alarm-001", 3)
        desk.keep()
        row = desk.rows("SELECT shelved_until FROM alert ORDER BY last_raised_at")[-1]
        if row["shelved_until"] is None:
            break
        lengths.append((row["shelved_until"] - desk.now) / timedelta(minutes=1))
        desk.keep(after=timedelta(minutes=81))
    assert lengths == [10, 20, 40, 80]
    assert desk.rows("SELECT FROM alert WHERE quiet") == [], "it stands there to be mended"


def test_what_a_person_brought_back_is_not_shelved_again_behind_their_back(desk: Desk) -> None:
    desk.chatter("c01-alarm-001", 3)
    desk.keep()
    (row,) = desk.rows("SELECT id FROM alert")
    with desk.conn.transaction():
        alerts.move(desk.conn, row["id"], Unshelve(desk.now, "wang", "person"), desk.now)
    desk.chatter("c01-alarm-001", 3)
    desk.keep()
    assert desk.seen() == [("alarm.tamper", "c01-alarm-001")]


def test_a_shelf_ends_with_its_hour_and_out_of_service_with_its_own(desk: Desk) -> None:
    desk.tell(desk.raised(rule("device.fault"), LAMPS[0]))
    (row,) = desk.rows("SELECT id FROM alert")
    with desk.conn.transaction():
        for action in (
            Shelve(desk.now, "wang", desk.now + timedelta(hours=1), "noise"),
            TakeOut(desk.now, "wang", desk.now + timedelta(hours=2), "mended"),
        ):
            alerts.move(desk.conn, row["id"], action, desk.now)
    state = "SELECT shelved_by, out_of_service_by FROM alert"
    desk.keep(after=timedelta(minutes=59))
    assert desk.rows(state) == [{"shelved_by": "wang", "out_of_service_by": "wang"}]
    desk.keep(after=timedelta(minutes=1))
    assert desk.rows(state) == [{"shelved_by": None, "out_of_service_by": "wang"}]
    desk.restart()
    desk.keep(after=timedelta(hours=1))
    assert desk.rows(state) == [{"shelved_by": None, "out_of_service_by": None}]
    assert desk.seen() == [("device.fault", LAMPS[0])]


def test_who_silenced_an_alert_and_why_is_never_hidden(desk: Desk) -> None:
    desk.tell(desk.raised(GATEWAY_SILENT), desk.raised(rule("device.fault"), LAMPS[0]))
    desk.chatter("c01-alarm-001", 3)
    desk.keep()
    for row in desk.rows("SELECT * FROM alert WHERE quiet"):
        told = desk.rows("SELECT action, actor FROM alert_history WHERE alert = %s", row["id"])
        assert row["suppressed_by"] or row["shelved_reason"]
        assert {"action": "suppressed", "actor": "design"} in told or {
            "action": "shelved",
            "actor": "hygiene",
        } in told


# -- nothing of life safety


MOVES: st.SearchStrategy[tuple[str, int]] = st.tuples(
    st.sampled_from(
        ["fire", "restored", "parent", "heard", "shelve", "out", "suppress", "sql", "keep", "flood"]
    ),
    st.integers(0, 3),
)


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(moves=st.lists(MOVES, min_size=1, max_size=12))
def test_life_safety_is_never_quiet_whatever_is_done(
    desk: Desk, moves: list[tuple[str, int]]
) -> None:
    for action, number in [("fire", 0), *moves]:
        desk.now += timedelta(seconds=1)
        key = f"{desk.now}-{number}"
        match action:
            case "fire":
                desk.tell(desk.raised(FIRE, "c01-alarm-001", key=key))
            case "restored":
                for row in desk.rows(
                    "SELECT key FROM alert_occurrence WHERE active AND rule = 'alarm.fire'"
                ):
                    desk.tell(desk.cleared(FIRE, "c01-alarm-001", key=row["key"]))
            case "parent":
                desk.tell(desk.raised(GATEWAY_SILENT))
            case "heard":
                desk.tell(desk.cleared(GATEWAY_SILENT))
            case "flood":
                desk.tell(*(desk.raised(rule("device.fault"), lamp) for lamp in LAMPS[:12]))
            case "keep":
                desk.keep()
            case "sql":
                desk.conn.execute(
                    """
                    UPDATE alert SET suppressed_by = '{flood:c01}', shelved_by = 'x',
                        shelved_until = %s
                    WHERE rule = 'alarm.fire'
                    """,
                    (desk.now + timedelta(seconds=number),),
                )
                with pytest.raises(psycopg.errors.GeneratedAlways):
                    desk.conn.execute("UPDATE alert SET quiet = true WHERE rule = 'alarm.fire'")
            case _:
                _try(desk, action)
        assert desk.rows("SELECT FROM alert WHERE rule = 'alarm.fire' AND quiet") == []
        assert len(desk.rows("SELECT FROM alert WHERE rule = 'alarm.fire' AND NOT quiet")) > 0


def _try(desk: Desk, name: str) -> None:
    until = desk.now + timedelta(minutes=5)
    actions: dict[str, Action] = {
        "shelve": Shelve(desk.now, "wang", until, "noise"),
        "out": TakeOut(desk.now, "wang", until, "mended"),
        "suppress": Suppress(desk.now, "flood:c01"),
    }
    for row in desk.rows("SELECT id FROM alert WHERE rule = 'alarm.fire'"):
        try:
            with desk.conn.transaction():
                alerts.move(desk.conn, row["id"], actions[name], desk.now)
        except Refused as refused:
            assert refused.rule == "alert.life_safety"


# -- at rest, and side by side


class Counting(psycopg.Connection[Any]):
    """A connection that counts what it is asked."""

    asked = 0

    def cursor(self, *arguments: Any, **named: Any) -> Any:
        self.asked += 1
        return super().cursor(*arguments, **named)


def test_ten_thousand_open_alerts_cost_two_statements_a_second(desk: Desk) -> None:
    desk.conn.execute("SET statement_timeout = 0")  # the product never writes so many at once
    desk.conn.execute(
        """
        WITH told AS (
            INSERT INTO alert (id, rule, severity, kind, device, gateway, community, area, active,
                               standing, raised_at, last_raised_at, received_at, changed_at)
            SELECT gen_random_uuid(), 'rule.' || n, 'minor', 'lamp', d.device, d.gateway, 'c01',
                   'c01', true, 1, now(), now(), now(), now()
            FROM device AS d, generate_series(1, 50) AS n
            RETURNING *
        )
        INSERT INTO alert_occurrence (alert, rule, gateway, device, active, raised_at, received_at,
                                      looked)
        SELECT id, rule, gateway, device, true, raised_at, received_at, true FROM told
        """
    )
    desk.conn.execute("ANALYZE alert, alert_occurrence")
    assert desk.rows("SELECT count(*) FROM alert") == [{"count": 202 * 50}]
    with Counting.connect(desk.dsn, autocommit=True) as conn:
        desk.keeper.keep(conn, NOW)
        for _ in range(3):
            conn.asked = 0
            assert desk.keeper.keep(conn, NOW) == []
            assert conn.asked == 2  # what is due, and whether a window mutes anything
    plan = "\n".join(
        line
        for (line,) in desk.conn.execute(
            b"EXPLAIN " + stored.PROBE.encode(), {"now": NOW, "flood": "alerts.flood"}
        )
    )
    assert "Seq Scan on alert" not in plan
    assert "alert_due" in plan and "alert_occurrence_news" in plan


def test_of_two_keepers_one_works_until_it_is_gone(desk: Desk) -> None:
    with connect(desk.dsn, "second") as second:
        with connect(desk.dsn, "first") as first:
            alert_keeper.claim_alerts(first)
            with pytest.raises(Unavailable, match="another ingest keeps the alerts"):
                alert_keeper.claim_alerts(second)
        until(lambda: claim(second, "alerts"), "the claim of a connection that ended")


def test_two_keepers_at_once_do_nothing_twice(desk: Desk) -> None:
    """As when one is thought dead and is not."""
    on_circuit(desk, LAMPS[:20])
    desk.tell(*(desk.raised(rule("lamp.dark"), lamp) for lamp in LAMPS[:50]))
    desk.tell(desk.raised(GATEWAY_SILENT))
    start = threading.Barrier(2)
    failed: list[BaseException] = []

    def keep() -> None:
        try:
            with connect(desk.dsn, "keeper") as conn:
                start.wait(30)
                AlertKeeper(desk.dsn, RULES).keep(conn, desk.now)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    keepers = [threading.Thread(target=keep, daemon=True) for _ in range(2)]
    for one in keepers:
        one.start()
    for one in keepers:
        one.join(30)
    assert failed == []
    desk.keep()
    assert desk.seen() == [("gateway.silent", GATEWAY)]
    assert (
        desk.rows(
            "SELECT alert FROM alert_history GROUP BY alert, action, params HAVING count(*) > 1"
        )
        == []
    )


def test_its_thread_keeps_until_it_is_stopped(desk: Desk) -> None:
    desk.tell(desk.raised(rule("device.fault"), LAMPS[0]), desk.raised(GATEWAY_SILENT))
    thread = threading.Thread(target=desk.keeper.run, daemon=True)
    thread.start()
    until(lambda: desk.seen() == [("gateway.silent", GATEWAY)], "the device's alert muted")
    desk.keeper.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_a_lost_database_is_unavailable_and_loses_nothing(desk: Desk) -> None:
    desk.tell(desk.raised(rule("device.fault"), LAMPS[0]), desk.raised(GATEWAY_SILENT))
    with connect(desk.dsn, "lost") as conn:
        desk.conn.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        with pytest.raises(Unavailable):
            desk.keeper.keep(conn, desk.now)
    desk.keep()
    assert desk.seen() == [("gateway.silent", GATEWAY)]


def test_lanes_and_keeper_side_by_side_end_in_what_is_true(desk: Desk) -> None:
    """Each lane takes alerts in an order of its own, as batches do; nobody waits in a circle."""
    lamps = LAMPS[:30]
    failed: list[BaseException] = []

    def lane(order: Sequence[str]) -> None:
        try:
            with connect(desk.dsn, "lane") as conn:
                for turn in range(10):
                    decide = desk.raised if turn % 2 == 0 else desk.cleared
                    with conn.transaction():
                        changes = [decide(rule("device.fault"), lamp) for lamp in order]
                        alerts.write(conn, changes, desk.now)
                with conn.transaction():
                    changes = [desk.raised(rule("device.fault"), lamp) for lamp in order]
                    alerts.write(conn, changes, desk.now)
        except BaseException as error:  # noqa: BLE001 - told to the test
            failed.append(error)

    lanes = [
        threading.Thread(target=lane, args=(lamps[:15],), daemon=True),
        threading.Thread(target=lane, args=(lamps[:14:-1],), daemon=True),
    ]
    for one in lanes:
        one.start()
    silent = False
    while any(one.is_alive() for one in lanes):
        silent = not silent
        desk.tell((desk.raised if silent else desk.cleared)(GATEWAY_SILENT))
        desk.keep(after=timedelta(0))
    for one in lanes:
        one.join(30)
    assert failed == []
    if not silent:
        desk.tell(desk.raised(GATEWAY_SILENT))
    desk.keep()
    assert [row for row in desk.seen() if row[0] == "device.fault"] == []
