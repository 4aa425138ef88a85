# SPDX-License-Identifier: Apache-2.0
"""The police liaison's desk: cases listed and told, settled, merged, split; shifts handed over."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import httpx2
import psycopg
import pytest

from deploy.services import Postgres
from ingest.indicators.tally import Key, Tally
from tests.api.conftest import PEOPLE, Api, clone, dsn_of, running
from tests.api.police import FALSE, LIST, SHIFTS, Desk
from tests.api.test_problems import is_problem
from tests.services import Broker


@pytest.fixture(scope="module")
async def station(
    database_server: Postgres, city_template: str, broker: Broker
) -> AsyncIterator[Api]:
    """The api over a city that `desk` empties."""
    name = "api_cases"
    clone(database_server, city_template, name)
    async with running(dsn_of(database_server, name), broker) as api:
        yield api


@pytest.fixture
def desk(station: Api) -> Desk:
    """An empty desk, and the officers of the city."""
    with psycopg.connect(station.dsn) as conn:
        kept = ("case_history", "incident_history", "incident")
        for table in kept:
            conn.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER".encode())
        for table in ("community_day", "shift", "case_history", "case_step", "case_alert",
                      "alert_case", "incident_history", "incident", "alert_history",
                      "alert_occurrence", "alert"):  # fmt: skip
            conn.execute(f"DELETE FROM {table}".encode())
        for table in kept:
            conn.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER".encode())
        conn.execute("DELETE FROM person WHERE NOT username = ANY (%s)", (list(PEOPLE),))
    return Desk(station)


# -- seen


async def test_tabs(desk: Desk) -> None:
    first = desk.ring("gate.forced", 100, device="c01-gate-001")
    second = desk.ring("alarm.smoke", 60)
    third = desk.ring("alarm.intrusion", 20)
    assert await desk.tab("open") == [third, second, first]
    await desk.ok(second, "assign", {"to": "li"})
    await desk.ok(first, "confirm", {"category": "burglary"})
    await desk.ok(third, "close", FALSE)
    assert await desk.tab("open") == [second]
    assert await desk.tab("mine") == [second]
    assert await desk.tab("mine", "root") == []
    assert await desk.tab("unassigned") == []
    assert await desk.tab("confirmed") == [first]
    assert await desk.tab("closed") == [third]
    assert await desk.tab("all") == [third, second, first]
    assert await desk.tab("all", more="&severity=critical") == [second]
    assert await desk.tab("all", more="&nature=crime") == [third, first]
    page = (await desk.api.client("li").get(f"{LIST}?tab=all&limit=2")).json()
    rest = await desk.tab("all", more=f"&limit=2&cursor={page['next_cursor']}")
    assert [item["id"] for item in page["items"]] + rest == [third, second, first]


async def test_a_case_is_told_whole(desk: Desk) -> None:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    assert desk.ring("alarm.intrusion", 9) == case
    told = await desk.get(case)
    assert {key: told[key] for key in ("nature", "rule", "severity", "state", "area")} == {
        "nature": "crime", "rule": "gate.forced", "severity": "major", "state": "open",
        "area": "c01-g01",
    }  # fmt: skip
    assert [(one["rule"], one["rule_name"], one["joined_by"]) for one in told["alerts"]] == [
        ("gate.forced", None, "opened"), ("alarm.intrusion", None, "same_cell"),
    ]  # fmt: skip
    assert [one["action"] for one in told["timeline"]] == ["opened", "joined"]
    assert [one["version"] for one in told["timeline"]] == [1, 2]
    assert [one["step"] for one in told["plan"]] == ["look", "call_guard", "dispatch", "settle"]
    assert all(one["text"]["en"] and one["text"]["zh-CN"] for one in told["plan"])


async def test_the_plan_fits_what_it_is(desk: Desk) -> None:
    case = desk.ring("alarm.duress", 10)
    steps = [one["step"] for one in (await desk.get(case))["plan"]]
    assert steps[0] == "keep_silent"
    done = await desk.ok(case, "steps/keep_silent", {"note": "radio only"})
    assert [one["step"] for one in done["plan"] if one["done_by"]] == ["keep_silent"]
    assert (done["plan"][0]["done_by"], done["plan"][0]["note"]) == ("li", "radio only")
    again = await desk.do(case, "steps/keep_silent", {}, version=2)
    is_problem(again, 409, "case.unchanged")
    is_problem(await desk.do(case, "steps/dance", {}, version=2), 404, "not_found")


async def test_property_learns_nothing_of_cases(desk: Desk) -> None:
    case = desk.ring("alarm.duress", 10)
    shift = str(uuid.uuid4())
    client = desk.api.client("wang")
    for path in (LIST, f"{LIST}/{case}", SHIFTS):
        is_problem(await client.get(path), 403, "role.forbidden")
    for action, body in ACTIONS.items():
        answer = await desk.do(case, action, body, who="wang")
        is_problem(answer, 403, "role.forbidden")
    is_problem(await client.post(SHIFTS, json={"to": "li"}), 403, "role.forbidden")
    is_problem(await client.post(f"{SHIFTS}/{shift}/accept"), 403, "role.forbidden")
    is_problem(await desk.api.client().get(LIST), 401, "session.required")


ACTIONS: dict[str, dict[str, Any]] = {
    "confirm": {"category": "burglary"},
    "close": FALSE,
    "reopen": {"reason": "again"},
    "assign": {"to": None},
    "rate": {"severity": "info", "reason": "a cat"},
    "notes": {"note": "seen"},
    "merge": {"into": str(uuid.UUID(int=1)), "into_version": 1, "reason": "same"},
    "split": {"alerts": [str(uuid.UUID(int=1))], "reason": "two"},
    "steps/look": {},
}


@pytest.mark.parametrize("who", ["zhou", "sun"])
async def test_another_area_s_case_does_not_exist(desk: Desk, who: str) -> None:
    """For an officer of another community, and of another cell."""
    desk.hire("zhou", area="c02")
    desk.hire("sun", area="c01-g02")
    case = desk.ring("alarm.intrusion", 10)
    client = desk.api.client(who)
    assert (await client.get(f"{LIST}?tab=all")).json()["items"] == []
    is_problem(await client.get(f"{LIST}/{case}"), 404, "not_found")
    is_problem(await client.get(f"{LIST}?area=c01-g01"), 404, "not_found")
    for action, body in ACTIONS.items():
        is_problem(await desk.do(case, action, body, who=who), 404, "not_found")
    assert (await desk.get(case))["version"] == 1


async def test_a_case_of_two_cells_is_their_community_s(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    assert await desk.tab("open", "chen") == [case]
    desk.ring("gate.forced", 9, device="c01-gate-001", cell="g02")
    assert await desk.tab("open", "chen") == []
    assert await desk.tab("open", "li") == [case]


# -- settled


async def test_confirmed_it_is_an_incident_and_counts(desk: Desk) -> None:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    desk.ring("alarm.intrusion", 9)
    rate = Key("incident-rate", "c01-g01")
    before = desk.tally().get(rate, Tally()).good
    told = await desk.ok(case, "confirm", {"category": "burglary", "note": "门被撬"}, version=2)
    assert (told["state"], told["version"]) == ("confirmed", 3)
    incident = (await desk.api.client("li").get(f"/api/v1/incidents/{told['incident']}")).json()
    assert (incident["category"], incident["disposition"], incident["confirmed_by"]) == (
        "burglary", "confirmed", "li",
    )  # fmt: skip
    assert (incident["area"], incident["note"]) == ("c01-g01", "门被撬")
    assert incident["alert"] == told["alerts"][0]["id"]
    assert desk.tally()[rate].good == before + 1
    assert desk.false_alarms() == (0, 2, 2)
    assert all(one["acknowledged"] for one in told["alerts"])
    day = date(2026, 11, 21)
    assert desk.rows("SELECT DISTINCT day, dirty FROM community_day") == [(day, "incident")]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param("false_alarm", (2, 0, 2), id="false"),
        pytest.param("equipment_fault", (2, 0, 2), id="a-device-that-failed-is-false"),
        pytest.param("test", (2, 0, 2), id="test"),
        pytest.param("withdrawn", (0, 0, 0), id="withdrawn-counts-nowhere"),
    ],
)
async def test_closed_every_alarm_of_it_counts_as_that(
    desk: Desk, outcome: str, expected: tuple[int, int, int]
) -> None:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    desk.ring("alarm.intrusion", 9)
    assert desk.false_alarms() == (0, 0, 2)
    told = await desk.ok(case, "close", {"outcome": outcome, "reason": "seen"}, version=2)
    assert (told["state"], told["outcome"]) == ("closed", outcome)
    assert desk.false_alarms() == expected
    reopened = await desk.ok(case, "reopen", {"reason": "looked again"}, version=3)
    assert (reopened["state"], reopened["outcome"]) == ("open", None)
    assert desk.false_alarms() == (0, 0, 2)


async def test_what_comes_after_it_was_settled_is_another(desk: Desk) -> None:
    first = desk.ring("alarm.intrusion", 10)
    await desk.ok(first, "close", FALSE)
    second = desk.ring("alarm.intrusion", 8)
    assert second not in ("", first)
    assert desk.false_alarms() == (1, 0, 2)


async def test_duplicate_names_the_other(desk: Desk) -> None:
    first = desk.ring("alarm.intrusion", 100)
    second = desk.ring("gate.forced", 10, device="c01-gate-001")
    body = {"outcome": "duplicate", "reason": "same"}
    for of, code in (
        (None, "field.missing"), (second, "case.same"), (str(uuid.uuid4()), "case.unknown"),
    ):  # fmt: skip
        answer = await desk.do(second, "close", body | ({} if of is None else {"of": of}))
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == ("/body/of", code)
    told = await desk.ok(second, "close", body | {"of": first})
    assert told["duplicate_of"] == first
    assert desk.false_alarms() == (0, 0, 1)
    answer = await desk.do(first, "close", body | {"of": second})
    (error,) = is_problem(answer, 422, "request.invalid")["errors"]
    assert error["code"] == "case.duplicate"


async def test_a_record_written_elsewhere_is_the_case_s(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    client = desk.api.client("li")
    alert = (await desk.get(case))["alerts"][0]["id"]
    report = {
        "category": "burglary", "area": "c01-g01", "occurred_at": "2026-11-21T01:50:00Z",
        "disposition": "confirmed", "alert": alert,
    }  # fmt: skip
    made = (await client.post("/api/v1/incidents", json=report)).json()
    told = await desk.get(case)
    assert (told["state"], told["incident"]) == ("confirmed", made["id"])
    amended = await client.patch(
        f"/api/v1/incidents/{made['id']}",
        json={"disposition": "false_alarm", "reason": "the owner's key"},
        headers={"If-Match": "1"},
    )
    assert amended.status_code == 200, amended.text
    told = await desk.get(case)
    assert (told["state"], told["outcome"]) == ("closed", "false_alarm")
    assert [(one["actor"], one["action"], one["reason"]) for one in told["timeline"][1:]] == [
        ("li", "confirmed", "reported"), ("li", "closed", "the owner's key"),
    ]  # fmt: skip
    confirmed = await desk.ok(case, "confirm", {"category": "affray"}, version=told["version"])
    assert confirmed["incident"] == made["id"]
    assert desk.rows("SELECT category, disposition FROM incident WHERE alert = %s", alert) == [
        ("affray", "confirmed")
    ]


async def test_a_record_that_does_not_fit_changes_nothing(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    for body, pointer, code in (
        ({"area": "c02"}, "/body/area", "area.unknown"),
        ({"occurred_at": "2026-11-18T00:00:00Z"}, "/body/occurred_at", "time.unfitting"),
        ({"occurred_at": "2026-11-22T00:00:00Z"}, "/body/occurred_at", "time.future"),
        ({"category": "murder"}, "/body/category", "field.enum"),
    ):
        answer = await desk.do(case, "confirm", {"category": "burglary", **body})
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == (pointer, code)
    told = await desk.get(case)
    assert (told["state"], told["version"], told["incident"]) == ("open", 1, None)
    assert not told["alerts"][0]["acknowledged"]


# -- worked on by several


async def test_the_second_officer_sees_who_was_first(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    await desk.ok(case, "close", FALSE)
    late = await desk.do(case, "confirm", {"category": "burglary"}, who="root")
    problem = is_problem(late, 412, "case.changed")
    told = ("version", "state", "outcome", "changed_by", "action")
    assert {key: problem[key] for key in told} == {
        "version": 2, "state": "closed", "outcome": "false_alarm", "changed_by": "li",
        "action": "closed",
    }  # fmt: skip


async def test_of_many_at_once_one_settles(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    answers = await asyncio.gather(
        *(
            desk.do(case, action, body, who=who)
            for action, body in (("confirm", ACTIONS["confirm"]), ("close", FALSE))
            for who in ("li", "root")
        )
    )
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412]
    assert desk.rows("SELECT count(*) FROM incident WHERE alert IS NOT NULL") == [(1,)]


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [
        (None, 428, "if_match.missing"),
        ("x", 400, "if_match.invalid"),
        ("*", 400, "if_match.invalid"),
    ],
)
async def test_nobody_moves_what_they_did_not_see(
    desk: Desk, version: str | None, status: int, code: str
) -> None:
    case = desk.ring("alarm.intrusion", 10)
    for action, body in ACTIONS.items():
        is_problem(await desk.do(case, action, body, version=version), status, code)


@pytest.mark.parametrize(
    ("to", "fits"),
    [
        pytest.param("li", True, id="officer"),
        pytest.param("root", True, id="admin-of-all"),
        pytest.param("chen", True, id="admin-of-the-cell"),
        pytest.param("wang", False, id="property"),
        pytest.param("zhou", False, id="officer-of-another-community"),
        pytest.param("sun", False, id="officer-of-another-cell"),
        pytest.param("gone", False, id="left"),
        pytest.param("nobody", False, id="nobody"),
    ],
)
async def test_assigned_only_to_who_has_the_area(desk: Desk, to: str, fits: bool) -> None:
    desk.hire("zhou", area="c02")
    desk.hire("sun", area="c01-g02")
    desk.hire("gone")
    with psycopg.connect(desk.api.dsn) as conn:
        conn.execute("UPDATE person SET active = false WHERE username = 'gone'")
    case = desk.ring("alarm.intrusion", 10)
    answer = await desk.do(case, "assign", {"to": to})
    if fits:
        assert answer.json()["assignee"] == to
        return
    (error,) = is_problem(answer, 422, "request.invalid")["errors"]
    assert (error["pointer"], error["code"]) == ("/body/to", "person.unfit")
    assert (await desk.get(case))["version"] == 1


async def test_severity_is_a_person_s_word(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    told = await desk.ok(case, "rate", {"severity": "critical", "reason": "armed"})
    assert (told["severity"], told["severity_set"]) == ("critical", True)
    assert told["plan"][0]["step"] == "call_back"
    told = await desk.ok(case, "rate", {"severity": None, "reason": "no"}, version=2)
    assert (told["severity"], told["severity_set"]) == ("major", False)
    duress = desk.ring("alarm.duress", 9)
    answer = await desk.do(duress, "rate", {"severity": "info", "reason": "calm"})
    is_problem(answer, 409, "case.duress")


async def test_notes_stand_in_the_timeline(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 10)
    told = await desk.ok(case, "notes", {"note": "门卫说没有人"})
    assert (told["timeline"][-1]["actor"], told["timeline"][-1]["note"]) == ("li", "门卫说没有人")
    assert told["note_count"] == 1
    is_problem(await desk.do(case, "notes", {"note": " "}, version=2), 422, "request.invalid")


# -- merged and split


async def test_merged_the_other_is_over_and_its_record_a_duplicate(desk: Desk) -> None:
    first = desk.ring("alarm.intrusion", 100)
    second = desk.ring("gate.forced", 10, device="c01-gate-001")
    await desk.ok(second, "confirm", {"category": "burglary"})
    await desk.ok(first, "confirm", {"category": "burglary"})
    body = {"into": first, "into_version": 2, "reason": "the same burglar"}
    merged = await desk.ok(second, "merge", body, version=2)
    assert (merged["state"], merged["merged_into"], merged["alerts"]) == ("closed", first, [])
    told = await desk.get(first)
    assert [(one["rule"], one["joined_by"]) for one in told["alerts"]] == [
        ("alarm.intrusion", "opened"), ("gate.forced", "merged"),
    ]  # fmt: skip
    assert told["timeline"][-1]["params"]["case"] == second
    assert desk.rows("SELECT disposition FROM incident WHERE alert IS NOT NULL ORDER BY 1") == [
        ("confirmed",), ("duplicate",),
    ]  # fmt: skip
    assert desk.false_alarms() == (0, 2, 2)
    for action, more in ACTIONS.items():
        if action not in ("merge", "assign"):
            answer = await desk.do(second, action, more, version=merged["version"])
            is_problem(answer, 409, "case.merged")
    answer = await desk.do(second, "assign", {"to": "li"}, version=merged["version"])
    is_problem(answer, 409, "case.merged")


async def test_a_case_of_another_area_is_not_even_named(desk: Desk) -> None:
    """A cell's case that went into one of the whole community, for who has the cell alone."""
    wide = desk.ring("alarm.intrusion", 100)
    desk.ring("gate.forced", 99, device="c01-gate-001", cell="g02")
    near, copy = desk.ring("alarm.panic", 50), desk.ring("alarm.smoke", 10)
    await desk.ok(near, "merge", {"into": wide, "into_version": 2, "reason": "one burglar"})
    await desk.ok(copy, "close", {"outcome": "duplicate", "of": wide, "reason": "the same"})
    for who, named in (("li", wide), ("chen", None)):
        merged, told = await desk.get(near, who), await desk.get(copy, who)
        assert (merged["merged_into"], merged["duplicate_of"]) == (named, named)
        assert (told["duplicate_of"], told["outcome"]) == (named, "duplicate")
        assert merged["timeline"][-1]["params"].get("case") == named
        assert told["timeline"][-1]["params"].get("of") == named
        listed = (await desk.api.client(who).get(f"{LIST}?tab=closed")).json()["items"]
        assert {item["merged_into"] for item in listed} == {named, None}
    split = {"alerts": [(await desk.get(wide))["alerts"][0]["id"]], "reason": "two"}
    made = await desk.ok(wide, "split", split, version=3)
    assert made["split_from"] == wide
    assert (await desk.get(made["id"], "chen"))["split_from"] is None


async def test_what_cannot_be_merged(desk: Desk) -> None:
    case = desk.ring("alarm.intrusion", 100)
    duress = desk.ring("alarm.duress", 50)
    foreign = desk.ring("alarm.intrusion", 10, device="c02-alarm-001")
    closed = desk.ring("alarm.smoke", 10)
    await desk.ok(closed, "close", FALSE)

    async def merge(source: str, into: str, who: str = "root", version: int = 1) -> httpx2.Response:
        body = {"into": into, "into_version": version, "reason": "same"}
        return await desk.do(source, "merge", body, who=who)

    for into, code, who in (
        (case, "case.same", "root"),
        (foreign, "case.elsewhere", "root"),
        (foreign, "case.unknown", "li"),
        (str(uuid.uuid4()), "case.unknown", "root"),
    ):
        (error,) = is_problem(await merge(case, into, who), 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == ("/body/into", code)
    is_problem(await merge(duress, case), 409, "case.duress")
    is_problem(await merge(case, closed, version=2), 409, "case.closed")
    is_problem(await merge(case, duress, version=7), 412, "case.changed")
    assert desk.rows("SELECT count(*) FROM case_alert") == [(4,)]
    for one in (case, duress):
        assert (await desk.get(one))["version"] == 1


async def test_split_off_it_is_open_and_severe_by_itself(desk: Desk) -> None:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    desk.ring("alarm.panic", 9)
    told = await desk.get(case)
    gate, panic = (one["id"] for one in told["alerts"])
    assert told["severity"] == "critical"
    body = {"alerts": [panic], "reason": "a fall on the stairs"}
    answer = await desk.do(case, "split", body, version=2)
    made = answer.json()
    assert answer.headers["location"] == f"{LIST}/{made['id']}"
    assert (made["severity"], made["state"], made["split_from"]) == ("critical", "open", case)
    assert [one["action"] for one in made["timeline"]] == ["split_off"]
    left = await desk.get(case)
    assert ([one["id"] for one in left["alerts"]], left["severity"]) == ([gate], "major")
    for alerts_of, code in (([panic], "alert.unknown"), ([gate], "alerts.none_left")):
        answer = await desk.do(case, "split", {"alerts": alerts_of, "reason": "x"}, version=3)
        (error,) = is_problem(answer, 422, "request.invalid")["errors"]
        assert (error["pointer"], error["code"]) == ("/body/alerts", code)


async def test_the_alert_of_the_record_stays(desk: Desk) -> None:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    desk.ring("alarm.intrusion", 9)
    told = await desk.ok(case, "confirm", {"category": "burglary"}, version=2)
    first = told["alerts"][0]["id"]
    answer = await desk.do(case, "split", {"alerts": [first], "reason": "x"}, version=3)
    (error,) = is_problem(answer, 422, "request.invalid")["errors"]
    assert error["code"] == "alert.pinned"


async def test_alarms_that_ring_meanwhile_are_not_settled_unseen(desk: Desk) -> None:
    case = desk.ring("gate.forced", 10, device="c01-gate-001")
    seen = (await desk.get(case))["version"]
    desk.ring("alarm.intrusion", 9)
    problem = is_problem(await desk.do(case, "close", FALSE, version=seen), 412, "case.changed")
    assert (problem["changed_by"], problem["action"]) == ("rule", "joined")


async def test_officers_and_alarms_at_once_end_in_one_state(desk: Desk) -> None:
    """Alarms ring while officers settle, merge and reopen: nothing is lost, nobody waits."""
    case = desk.ring("gate.forced", 10, device="c01-gate-001")

    async def ring(number: int) -> None:
        await asyncio.to_thread(desk.ring, "alarm.intrusion", 9 - number / 10)

    async def work(action: str, body: dict[str, Any], who: str) -> None:
        for _ in range(4):
            version = (await desk.get(case))["version"]
            answer = await desk.do(case, action, body, who=who, version=version)
            assert answer.status_code in (200, 409, 412), answer.text

    await asyncio.gather(
        work("close", FALSE, "li"),
        work("confirm", ACTIONS["confirm"], "root"),
        work("reopen", ACTIONS["reopen"], "chen"),
        *(ring(number) for number in range(6)),
    )
    for key, state, version in desk.rows("SELECT id, state, version FROM alert_case"):
        told = desk.rows(
            "SELECT action, version FROM case_history WHERE case_id = %s ORDER BY version", key
        )
        assert [number for _, number in told] == list(range(1, version + 1))
        last = [name for name, _ in told if name in ("opened", "confirmed", "closed", "reopened")]
        expected = {"confirmed": "confirmed", "closed": "closed"}.get(last[-1], "open")
        assert state == expected
    assert desk.rows(
        """
        SELECT count(*) FROM alert AS t
        WHERE NOT EXISTS (SELECT FROM case_alert AS m WHERE m.alert = t.id)
        """
    ) == [(0,)]
    assert (
        desk.rows(
            """
        SELECT c.state, i.disposition FROM alert_case AS c JOIN incident AS i ON i.id = c.incident
        WHERE (c.state, i.disposition) NOT IN
              (('open', 'open'), ('confirmed', 'confirmed'), ('closed', 'false_alarm'))
        """
        )
        == []
    )


# -- shifts


async def test_a_shift_is_handed_over_with_what_is_open(desk: Desk) -> None:
    desk.hire("qian")
    mine, free = desk.ring("alarm.intrusion", 100), desk.ring("alarm.smoke", 10)
    closed = desk.ring("alarm.water", 5)
    await desk.ok(mine, "assign", {"to": "li"})
    await desk.ok(closed, "close", FALSE)
    answer = await desk.api.client("li").post(SHIFTS, json={"to": "qian", "note": "看好 3 号楼"})
    assert answer.status_code == 201
    shift = answer.json()
    assert answer.headers["location"] == f"{SHIFTS}/{shift['id']}"
    assert [(one["case"], one["assignee"]) for one in shift["cases"]] == [
        (mine, "li"),
        (free, None),
    ]
    assert (shift["area"], shift["given_by"], shift["accepted_at"]) == ("c01", "li", None)
    accept = f"{SHIFTS}/{shift['id']}/accept"
    for who in ("li", "root"):
        is_problem(await desk.api.client(who).post(accept), 403, "role.forbidden")
    taken = (await desk.api.client("qian").post(accept)).json()
    assert taken["accepted_at"] == "2026-11-21T02:00:00.000Z"
    is_problem(await desk.api.client("qian").post(accept), 409, "shift.accepted")
    assert ((await desk.get(mine))["assignee"], (await desk.get(free))["assignee"]) == (
        "qian",
        None,
    )
    last = (await desk.get(mine))["timeline"][-1]
    assert (last["actor"], last["action"], last["reason"]) == ("qian", "assigned", "shift_accepted")
    assert last["params"] == {"from": "li", "to": "qian"}
    client = desk.api.client("li")
    for query, count in (("", 1), ("?waiting=true", 0), ("?waiting=false", 1)):
        assert len((await client.get(f"{SHIFTS}{query}")).json()["items"]) == count


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        pytest.param({"to": "li"}, "/body/to", "person.unfit", id="to-oneself"),
        pytest.param({"to": "wang"}, "/body/to", "person.unfit", id="property"),
        pytest.param({"to": "zhou"}, "/body/to", "person.unfit", id="another-community"),
        pytest.param({"to": "chen"}, "/body/to", "person.unfit", id="only-a-part-of-it"),
        pytest.param({"to": "root", "area": "c02"}, "/body/area", "area.unknown", id="not-theirs"),
        pytest.param({"to": "root", "area": "city"}, "/body/area", "area.unknown", id="too-wide"),
    ],
)
async def test_shift_that_cannot_be_handed_over(
    desk: Desk, body: dict[str, Any], pointer: str, code: str
) -> None:
    desk.hire("zhou", area="c02")
    answer = await desk.api.client("li").post(SHIFTS, json=body)
    (error,) = is_problem(answer, 422, "request.invalid")["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)
    assert desk.rows("SELECT id FROM shift") == []


async def test_shifts_of_another_area_do_not_exist(desk: Desk) -> None:
    desk.hire("zhou", area="c02")
    shift = (await desk.api.client("li").post(SHIFTS, json={"to": "root"})).json()
    client = desk.api.client("zhou")
    assert (await client.get(SHIFTS)).json()["items"] == []
    is_problem(await client.post(f"{SHIFTS}/{shift['id']}/accept"), 404, "not_found")
    is_problem(await client.post(f"{SHIFTS}/7/accept"), 404, "not_found")
