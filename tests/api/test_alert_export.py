# SPDX-License-Identifier: Apache-2.0
"""Alerts as files: the same as the list has, whole, in both languages, safe in a spreadsheet."""

from __future__ import annotations

import csv
import io
from typing import Any

import psycopg
import pytest

from api import alert_export
from tests.api.conftest import Api
from tests.api.desk import point
from tests.api.test_rules import OWN, put

EXPORT = "/api/v1/alerts/export"


def rows(text: str) -> list[dict[str, str]]:
    assert text.startswith("\ufeff")
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline="")))


@pytest.mark.parametrize(
    "query", ["", "status=history", "status=desk", "severity=critical", "area=c01-g02", "rule=none"]
)
async def test_file_holds_what_the_list_holds(city: Api, query: str) -> None:
    client = city.client("li")
    listed = (await client.get(f"/api/v1/alerts?{query}")).json()["items"]
    answer = await client.get(f"{EXPORT}?{query}&format=json")
    assert answer.json() == listed
    assert answer.headers["Content-Type"] == "application/json"
    answer = await client.get(f"{EXPORT}?{query}&language=en", headers={"Accept": "text/csv"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="linli-alerts.csv"'
    assert [row["Alert"] for row in rows(answer.text)] == [alert["id"] for alert in listed]


@pytest.mark.parametrize("status", ["open", "desk"])
async def test_many_pages_are_one_file(
    module_city: Api, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    for severity in ("critical", "minor", "critical", "info", "minor"):
        point(module_city, severity=severity)
    monkeypatch.setattr(alert_export, "_ROWS", 2)
    client = module_city.client("root")
    listed = (await client.get(f"/api/v1/alerts?status={status}")).json()["items"]
    assert len(listed) > 6
    answer = await client.get(f"{EXPORT}?status={status}&format=json")
    assert answer.json() == listed
    file = rows((await client.get(f"{EXPORT}?status={status}&language=en")).text)
    assert [row["Alert"] for row in file] == [alert["id"] for alert in listed]


async def test_words_are_in_the_readers_language(module_city: Api) -> None:
    made = point(module_city)
    body = {"minutes": 30, "reason": "换灯"}
    await module_city.client("wang").post(f"{made.path}/shelve", json=body)
    client = module_city.client("li")
    query = f"{EXPORT}?status=shelved&rule={made.rule.id}"
    (row,) = rows((await client.get(query)).text)
    expected = {
        "告警编号": str(made.id), "级别": "一般", "类别": "路灯", "对象名称": "lamp 号 001",
        "持续中": "是", "已确认": "否", "搁置至": "2026-11-21T02:30:00.000Z", "搁置人": "wang",
        "搁置原因": "换灯", "停用至": "", "重复次数": "0",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    (row,) = rows((await client.get(f"{query}&language=en")).text)
    assert (row["Severity"], row["Class"], row["Name"]) == ("Minor", "Lamps", "Lamp 001")
    assert (row["Active"], row["Shelved by"], row["Kept from the desk"]) == ("yes", "wang", "yes")


@pytest.mark.parametrize("note", ["=1+1", "+1", "-1", "@x", "\t=1", " =HYPERLINK(1)", "＝1"])
async def test_no_spreadsheet_runs_what_a_person_wrote(module_city: Api, note: str) -> None:
    made = point(module_city)
    # The api strips what stands around; the database may hold what came another way.
    await module_city.client("li").post(f"{made.path}/note", json={"note": f"x{note}"})
    with psycopg.connect(module_city.dsn) as conn:
        conn.execute("UPDATE alert SET note = substr(note, 2) WHERE id = %s", (made.id,))
    query = f"{EXPORT}?rule={made.rule.id}&language=en"
    (row,) = rows((await module_city.client("li").get(query)).text)
    assert row["Note"] == f"'{note}"


async def test_nobody_is_given_what_is_hidden(city: Api) -> None:
    for who, sees in (("wang", False), ("li", True), ("zhao", False)):
        text = (await city.client(who).get(f"{EXPORT}?status=history&language=en")).text
        assert any(row["Rule"] == "alarm.duress" for row in rows(text)) is sees
        communities = {row["Community"] for row in rows(text)}
        assert communities == {"c02" if who == "zhao" else "c01"}


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ("format=xlsx", 422, "/query/format"),
        ("language=fr", 422, "/query/language"),
        ("limit=5", 422, "/query/limit"),
        ("from=2026-11-21T00:00:00Z", 422, "/query/from"),
        ("area=c02", 404, None),
    ],
)
async def test_bad_question_is_a_problem_not_a_file(
    city: Api, query: str, status: int, pointer: str | None
) -> None:
    answer = await city.client("li").get(f"{EXPORT}?{query}")
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    errors: list[dict[str, Any]] = answer.json().get("errors", [])
    assert [error["pointer"] for error in errors] == ([] if pointer is None else [pointer])


async def test_a_rule_of_peoples_own_is_called_what_they_call_it(module_city: Api) -> None:
    made = point(module_city, "custom")
    assert (await put(module_city, "wang", "c01", made.rule.id, OWN)).status_code == 200
    query = f"{EXPORT}?rule={made.rule.id}"
    client = module_city.client("li")
    (chinese,) = rows((await client.get(query)).text)
    (english,) = rows((await client.get(f"{query}&language=en")).text)
    assert (chinese["告警"], english["What"]) == ("半满", "Half full")
    (told,) = (await client.get(f"{query}&format=json")).json()
    assert told["rule_name"] == OWN["name"]
