# SPDX-License-Identifier: Apache-2.0
"""Cases on the live stream: told at once to officers who have the area, never to managers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest

from api import live
from api.cases import CaseRow
from api.live_channels import Changes, Channel, Viewer
from api.people import Principal, digest
from api.places import Place
from api.scope import Role, Scope
from tests.api.conftest import ALERTS, NOW, PEOPLE, running, session_token
from tests.api.locks import waited_for
from tests.api.police import FALSE, SHIFTS, Desk
from tests.services import Broker

PATHS = {"city": "city", "c01": "city.c01", "c01-g01": "city.c01.c01_g01"}


class Watcher:
    """An open stream, read event by event; ``raw`` is all that came over it."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self.raw = b""

    async def delta(self) -> dict[str, Any]:
        """The next change of an alert or a case."""
        async with asyncio.timeout(30):
            while True:
                item = await self.viewer.queue.get()
                assert item is not None, "the stream ended"
                self.raw += item
                told = _data(item)
                if item.startswith(b"event: delta") and (
                    told["alerts"] or told["cases"] or told["cases_gone"]
                ):
                    return told

    async def cases(self, *wanted: str) -> dict[str, dict[str, Any]]:
        """What is told of cases until each of these was told."""
        found: dict[str, dict[str, Any]] = {}
        while not found.keys() >= set(wanted):
            found |= {case["id"]: case for case in (await self.delta())["cases"]}
        return found


class Station:
    """A desk, and those who watch it."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.hub = desk.api.services.hub

    async def join(self, who: str, area: str = "c01") -> Watcher:
        """Open a stream as somebody who is logged in."""
        role, home = PEOPLE[who]
        place = Place(area, None, PATHS[area], "community", "", None, "Asia/Shanghai", 0)
        credential = digest(session_token(who))
        principal = Principal(
            who, cast(Role, role), home, "", PATHS[home], None, credential, is_service=False
        )  # fmt: skip
        return Watcher(await self.hub.join(principal, place))

    async def watch(self, who: str, area: str = "c01") -> tuple[Watcher, dict[str, Any]]:
        """Open a stream as somebody who is logged in; return it and what it begins with."""
        watcher = await self.join(who, area)
        (snapshot,) = await self.hub.begin(watcher.viewer, None)
        watcher.raw += snapshot
        return watcher, _data(snapshot)

    def ring(self, rule: str, **more: str) -> tuple[str, UUID]:
        """Let an alarm ring, and ingest say so on the live topic; return its case and alert."""
        case = self.desk.ring(rule, 0, **more)
        ((alert,),) = self.desk.rows(
            "SELECT alert FROM case_alert WHERE case_id = %s ORDER BY alert DESC LIMIT 1", case
        )
        self.hub.tell_alert(alert)
        return case, alert


@pytest.fixture
async def station(
    own_database: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Station]:
    """Where nothing is told but what somebody says: tables are not asked what moved."""
    monkeypatch.setattr(live, "NEWS_EVERY_S", 600.0)
    monkeypatch.setattr(live, "RECONCILE_EVERY_S", 600.0)
    async with running(own_database, broker) as api:
        yield Station(Desk(api))


@pytest.fixture
async def looking(
    own_database: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Station]:
    """Where tables are asked every second what moved, and not what is there."""
    monkeypatch.setattr(live, "RECONCILE_EVERY_S", 600.0)
    async with running(own_database, broker) as api:
        yield Station(Desk(api))


async def test_a_case_is_told_with_the_alert_that_opens_it(station: Station) -> None:
    officer, _ = await station.watch("li")
    case, alert = station.ring("alarm.intrusion")
    told = await officer.delta()
    assert [one["id"] for one in told["alerts"]] == [str(alert)]
    shown = await station.desk.get(case)
    for name in ("alerts", "timeline", "plan", "plan_version"):
        del shown[name]
    assert told["cases"] == [shown]
    assert (shown["state"], shown["alert_count"], shown["version"]) == ("open", 1, 1)
    joined, _ = station.ring("gate.forced", device="c01-gate-001")
    assert joined == case
    (again,) = (await officer.delta())["cases"]
    assert (again["alert_count"], again["version"]) == (2, 2)


async def test_what_officers_do_is_told_to_others_at_once(station: Station) -> None:
    officer, _ = await station.watch("root", "city")
    desk = station.desk
    case, _ = station.ring("alarm.intrusion")
    await officer.cases(case)
    for version, (action, body, field, expected) in enumerate(
        (
            ("assign", {"to": "li"}, "assignee", "li"),
            ("rate", {"severity": "critical", "reason": "armed"}, "severity", "critical"),
            ("notes", {"note": "门卫说没有人"}, "note_count", 1),
            ("steps/call_back", {}, "version", 5),
            ("confirm", {"category": "burglary"}, "state", "confirmed"),
            ("reopen", {"reason": "again"}, "state", "open"),
            ("close", FALSE, "outcome", "false_alarm"),
        ),
        start=1,
    ):
        answer = await desk.ok(case, action, body, version=version)
        told = (await officer.cases(case))[case]
        assert told[field] == expected, action
        assert told == {name: answer[name] for name in told}


async def test_a_case_that_follows_its_record_is_told(station: Station) -> None:
    officer, _ = await station.watch("root", "city")
    case, alert = station.ring("alarm.intrusion")
    await officer.cases(case)
    client = station.desk.api.client("li")
    report = {
        "category": "burglary", "area": "c01-g01", "occurred_at": "2026-11-21T01:59:00Z",
        "disposition": "confirmed", "alert": str(alert),
    }  # fmt: skip
    made = (await client.post("/api/v1/incidents", json=report)).json()
    told = (await officer.cases(case))[case]
    assert (told["state"], told["incident"]) == ("confirmed", made["id"])
    answer = await client.patch(
        f"/api/v1/incidents/{made['id']}",
        json={"disposition": "test", "reason": "a drill"},
        headers={"If-Match": "1"},
    )
    assert answer.status_code == 200, answer.text
    assert (await officer.cases(case))[case]["outcome"] == "test"


async def test_of_a_merge_and_a_split_both_cases_are_told(station: Station) -> None:
    officer, _ = await station.watch("li")
    desk = station.desk
    first, _ = station.ring("alarm.intrusion")
    _, gate = station.ring("gate.forced", device="c01-gate-001", cell="g02")
    body = {"alerts": [str(gate)], "reason": "two"}
    second = (await desk.ok(first, "split", body, version=2))["id"]
    told = await officer.cases(first, second)
    assert (told[first]["alert_count"], told[second]["split_from"]) == (1, first)
    body = {"into": first, "into_version": 3, "reason": "one"}
    await desk.ok(second, "merge", body, version=1)
    told = await officer.cases(first, second)
    assert (told[second]["state"], told[second]["merged_into"]) == ("closed", first)
    assert (told[first]["alert_count"], told[second]["alert_count"]) == (2, 0)


async def test_a_shift_that_is_taken_over_is_told(station: Station) -> None:
    desk = station.desk
    case, _ = station.ring("alarm.intrusion")
    await desk.ok(case, "assign", {"to": "li"})
    officer, begun = await station.watch("li")
    assert [(one["id"], one["assignee"]) for one in begun["cases"]] == [(case, "li")]
    made = await desk.api.client("li").post(SHIFTS, json={"to": "root"})
    taken = await desk.api.client("root").post(f"{SHIFTS}/{made.json()['id']}/accept")
    assert taken.status_code == 200, taken.text
    assert (await officer.cases(case))[case]["assignee"] == "root"


async def test_managers_are_told_of_no_case_and_of_nothing_of_duress(station: Station) -> None:
    before, _ = station.ring("alarm.duress", cell="g02")
    manager, begun = await station.watch("wang")
    officer, seen = await station.watch("li")
    assert (begun["cases"], [one["id"] for one in seen["cases"]]) == ([], [before])
    case, alert = station.ring("alarm.intrusion")
    duress, secret = station.ring("alarm.duress", cell="g02")
    await station.desk.ok(case, "notes", {"note": "seen"})
    await station.desk.ok(duress, "assign", {"to": "li"}, version=1)
    told = await officer.cases(case, duress)
    assert told[duress]["nature"] == "duress"
    # What a manager is told last, so that all of it has come.
    marker = ALERTS["dark"]
    answer = await station.desk.api.client("wang").post(
        f"/api/v1/alerts/{marker}/acknowledge", json={}
    )
    assert answer.status_code == 200
    alerts: set[str] = set()
    while str(marker) not in alerts:
        delta = await manager.delta()
        assert (delta["cases"], delta["cases_gone"]) == ([], [])
        alerts |= {one["id"] for one in delta["alerts"]}
    assert alerts == {str(alert), str(marker)}
    for hidden in (before, case, duress, str(secret), "duress"):
        assert hidden.encode() not in manager.raw, hidden
    assert before.encode() in officer.raw


async def test_a_case_that_leaves_the_cell_is_told_to_be_gone(station: Station) -> None:
    near, _ = await station.watch("root", "c01-g01")
    case, _ = station.ring("alarm.intrusion")
    assert [one["id"] for one in (await near.delta())["cases"]] == [case]
    joined, foreign = station.ring("gate.forced", device="c01-gate-001", cell="g02")
    assert joined == case
    told = await near.delta()
    assert (told["cases"], told["cases_gone"], told["alerts"]) == ([], [case], [])
    assert str(foreign).encode() not in near.raw
    await station.desk.ok(case, "notes", {"note": "seen"}, version=2)
    marker = station.ring("alarm.smoke")[0]
    told = await near.delta()
    assert ([one["id"] for one in told["cases"]], told["cases_gone"]) == ([marker], [])


async def test_a_case_that_moves_without_a_message_is_told(looking: Station) -> None:
    """As a code entered after the alarm was over moves it, or another process of the api."""
    officer, _ = await looking.watch("li")
    case = looking.desk.ring("alarm.intrusion", 0)
    assert (await officer.cases(case))[case]["version"] == 1
    looking.desk.rows(
        "UPDATE alert_case SET version = 2, aborted = true WHERE id = %s RETURNING id", case
    )
    assert (await officer.cases(case))[case]["aborted"]


async def test_what_one_transaction_did_is_told_together_without_a_message(
    looking: Station,
) -> None:
    officer, _ = await looking.watch("li")
    with psycopg.connect(looking.desk.api.dsn) as slow:
        slow.execute("LOCK TABLE alert_case IN ACCESS EXCLUSIVE MODE")
        await waited_for(slow)  # who looks for what moved is in the middle of it
        case = looking.desk.ring_within(slow, "alarm.intrusion", 0)
    told = await officer.delta()
    assert [one["id"] for one in told["cases"]] == [case]
    assert [one["rule"] for one in told["alerts"]] == ["alarm.intrusion"]


# -- who comes while others are told


async def test_who_comes_a_little_later_shares_the_snapshot_and_misses_nothing(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SNAPSHOT_SHARED_S", 600.0)
    first, second = await station.join("li"), await station.join("li")
    (begun,) = await station.hub.begin(first.viewer, None)
    case, _ = station.ring("alarm.intrusion")
    await first.cases(case)
    shared, *missed = await station.hub.begin(second.viewer, None)
    assert shared == begun
    assert b"".join(missed).startswith(first.raw)
    later, _ = station.ring("alarm.smoke", cell="g02")
    assert list(await second.cases(later)) == [later]


async def test_who_comes_while_it_is_looked_for_what_moved_is_told_of_it(
    own_database: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RECONCILE_EVERY_S", 600.0)
    async with running(own_database, broker) as api:
        station = Station(Desk(api))
        case = station.desk.ring("alarm.intrusion", 0)
        with psycopg.connect(own_database) as moving:
            moving.execute("LOCK TABLE alert_case IN ACCESS EXCLUSIVE MODE")
            await waited_for(moving)  # nobody watches: what is found would be told to nobody
            officer = await station.join("li")
            moving.execute("UPDATE alert_case SET version = 2 WHERE id = %s", (case,))
            moving.commit()
        assert (await officer.cases(case))[case]["version"] == 2


async def test_who_comes_while_an_alert_is_told_never_sees_less_than_before(
    station: Station,
) -> None:
    officer, _ = await station.watch("li")
    with psycopg.connect(station.desk.api.dsn) as slow:
        _, alert = station.ring("alarm.intrusion")
        slow.execute("LOCK TABLE alert_case IN ACCESS EXCLUSIVE MODE")
        await waited_for(slow)  # the alert was read, its case is still to come
        move = "UPDATE alert SET version = 2, acknowledged = true WHERE id = %s RETURNING id"
        station.desk.rows(move, alert)
        manager, begun = await station.watch("wang")
        slow.commit()
    (shown,) = [one for one in begun["alerts"] if one["id"] == str(alert)]
    assert shown["version"] == 2
    await officer.delta()
    station.hub.tell_alert(alert)
    (told,) = (await manager.delta())["alerts"]
    assert (told["id"], told["version"]) == (str(alert), 2)


async def test_who_comes_while_a_case_is_read_has_its_latest_and_what_follows(
    station: Station,
) -> None:
    officer, _ = await station.watch("li")
    case, _ = station.ring("alarm.intrusion")
    await officer.cases(case)
    move = b"UPDATE alert_case SET version = version + 1 WHERE id = %s"
    with psycopg.connect(station.desk.api.dsn) as slow:
        slow.execute(move, (case,))
        slow.commit()
        slow.execute("LOCK TABLE case_history IN ACCESS EXCLUSIVE MODE")
        station.hub.tell_case(UUID(case))
        await waited_for(slow)  # that it moved was read, not yet what it is now
        coming = asyncio.create_task(station.watch("root", "city"))
        await waited_for(slow, 2)
        slow.execute(move, (case,))
        slow.commit()
    admin, begun = await coming
    assert [(one["id"], one["version"]) for one in begun["cases"]] == [(case, 3)]
    station.hub.tell_case(UUID(case))
    for watcher in (officer, admin):
        assert (await watcher.cases(case))[case]["version"] == 3
    await station.desk.ok(case, "assign", {"to": "li"}, version=3)
    for watcher in (officer, admin):
        told = (await watcher.cases(case))[case]
        while told["version"] == 3:  # told twice does no harm
            told = (await watcher.cases(case))[case]
        assert (told["version"], told["assignee"]) == (4, "li")


async def test_what_is_told_while_a_snapshot_is_read_comes_after_it(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SNAPSHOT_SHARED_S", 0.0)
    manager, _ = await station.watch("wang")
    officer, _ = await station.watch("li")
    dark = ALERTS["dark"]
    with psycopg.connect(station.desk.api.dsn) as slow:
        slow.execute("LOCK TABLE case_history IN ACCESS EXCLUSIVE MODE")
        coming = asyncio.create_task(station.watch("li"))
        await waited_for(slow)
        station.desk.rows("UPDATE alert SET version = 2 WHERE id = %s RETURNING id", dark)
        station.hub.tell_alert(dark)
        # Others are told at once, the officers of this area when all of them can be.
        assert [one["version"] for one in (await manager.delta())["alerts"]] == [2]
        assert officer.viewer.queue.empty()
        slow.rollback()
    second, _ = await coming
    for watcher in (officer, second):
        assert [one["version"] for one in (await watcher.delta())["alerts"]] == [2]


def test_nobody_is_told_less_of_a_case_than_a_snapshot_showed() -> None:
    place = Place("c01", None, "city.c01", "community", "", None, "Asia/Shanghai", 0)
    channel = Channel(place, (), "epoch", Scope("admin", "c01", "city.c01"), with_devices=True)
    key = UUID(int=1)

    def told(asked: int, *found: int) -> tuple[list[int], list[UUID]]:
        cases = [CaseRow.model_construct(id=key, version=one, changed_at=NOW) for one in found]
        _, cases, gone = channel.note(Changes([], cases, {key: (asked, NOW.timestamp())}))
        return [case.version for case in cases], gone

    assert told(1) == ([], [])
    assert told(3, 3) == ([3], [])
    assert told(2, 2) == ([], [])
    assert told(2) == ([], [])
    assert told(3, 3) == ([3], [])
    assert told(4) == ([], [key])
    assert told(4) == ([], [])


def _data(item: bytes) -> dict[str, Any]:
    return json.loads(item.partition(b"data: ")[2])
