# SPDX-License-Identifier: Apache-2.0
"""Rules by area: inherited, tuned by those who may, refused with a reason, tried on history."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import psycopg
import pytest
from httpx2 import Response

from tests.api.conftest import Api
from tests.api.locks import waited_for

WHEN = {"type": "threshold", "field": "fill_pct", "above": 50}
OWN = {
    "name": {"zh-CN": "半满", "en": "Half full"},
    "kind": "bin",
    "severity": "info",
    "when": WHEN,
}
THIS_WEEK = {"from": "2026-11-20T00:00:00Z", "to": "2026-11-22T00:00:00Z"}


async def put(
    api: Api, who: str, area: str, rule: str, definition: object, version: object = 0
) -> Response:
    return await api.client(who).put(
        f"/api/v1/areas/{area}/rules/{rule}",
        json={"definition": definition, "reason": "tuned"},
        headers={"If-Match": str(version)},
    )


async def get(api: Api, who: str, area: str, rule: str) -> dict[str, Any]:
    answer = await api.client(who).get(f"/api/v1/areas/{area}/rules/{rule}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def errors(answer: Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


def kept(api: Api) -> int:
    with psycopg.connect(api.dsn) as conn:
        row = conn.execute("SELECT count(*) FROM rule_version").fetchone()
    assert row is not None
    count: int = row[0]
    return count


async def test_each_parameter_is_inherited_by_itself(own_city: Api) -> None:
    product = await get(own_city, "root", "c01-g01", "bin.full")
    assert (product["limit"], product["clear"], product["sources"]) == (90, 70, {})
    assert (await put(own_city, "root", "city", "bin.full", {"limit": 85})).status_code == 200
    said = await put(own_city, "wang", "c01", "bin.full", {"on_delay_s": 60, "severity": "info"})
    assert (said.json()["version"], said.json()["limit"]) == (1, 85)
    cell = await get(own_city, "root", "c01-g01", "bin.full")
    assert (cell["limit"], cell["on_delay_s"], cell["severity"]) == (85, 60, "info")
    assert cell["sources"] == {"limit": "city", "on_delay_s": "c01", "severity": "c01"}
    assert (cell["version"], cell["versions"]) == (0, [])
    # What lies above is not theirs to see.
    own = await get(own_city, "wang", "c01", "bin.full")
    assert own["sources"]["limit"] == "above"
    assert [(one["version"], one["author"]) for one in own["versions"]] == [(1, "wang")]
    other = await get(own_city, "zhao", "c02", "bin.full")
    assert (other["limit"], other["on_delay_s"]) == (85, 0)
    assert own["may_change"]
    gone = await own_city.client("wang").delete(
        "/api/v1/areas/c01/rules/bin.full?reason=over", headers={"If-Match": "1"}
    )
    assert gone.status_code == 204
    back = await get(own_city, "wang", "c01", "bin.full")
    assert (back["on_delay_s"], back["limit"], back["version"]) == (0, 85, 2)
    assert [one["definition"] for one in back["versions"]] == [
        None,
        {"on_delay_s": 60.0, "severity": "info"},
    ]


async def test_who_was_first_is_told(own_city: Api) -> None:
    assert (await put(own_city, "root", "c01", "lamp.dark", {"on_delay_s": 60})).status_code == 200
    late = await put(own_city, "wang", "c01", "lamp.dark", {"on_delay_s": 90})
    assert (late.status_code, late.json()["code"]) == (412, "rule.changed")
    assert late.json()["version"] == 1
    client = own_city.client("wang")
    body = {"definition": {"on_delay_s": 90}, "reason": "tuned"}
    blind = await client.put("/api/v1/areas/c01/rules/lamp.dark", json=body)
    assert blind.status_code == 428
    assert kept(own_city) == 1


@pytest.mark.parametrize(
    ("who", "area", "rule", "definition", "status", "code"),
    [
        # Nobody lowers what is danger to life but who answers for the city.
        ("li", "c01", "alarm.smoke", {"enabled": False}, 403, "rule.life_safety"),
        ("chen", "c01-g01", "alarm.fire", {"severity": "info"}, 403, "rule.life_safety"),
        ("wang", "c01", "bin.fire", {"limit": 500}, 403, "rule.life_safety"),
        ("root", "c01", "alarm.smoke", {"reopen_s": 60}, 200, None),
        # Security is the police's, all else the property manager's.
        ("wang", "c01", "gate.forced", {"enabled": False}, 403, "role.forbidden"),
        ("li", "c01", "gate.forced", {"reopen_s": 60}, 200, None),
        ("li", "c01", "bin.full", {"limit": 80}, 403, "role.forbidden"),
        ("wang", "c01", "indicator.lighting_uptime", {"limit": 95, "clear": 96}, 200, None),
        ("li", "c01", "indicator.lighting_uptime", {"limit": 95}, 403, "role.forbidden"),
        ("wang", "c01", "custom.spy", OWN | {
            "kind": "alarm", "when": {"type": "threshold", "field": "battery_pct", "below": 9},
        }, 403, "role.forbidden"),
        ("li", "c01", "custom.half", OWN, 403, "role.forbidden"),
        ("wang", "c01", "custom.half", OWN, 200, None),
        # Another area does not exist; neither does a rule that is hidden, or none.
        ("wang", "c02", "bin.full", {"limit": 80}, 404, "not_found"),
        ("wang", "city", "bin.full", {"limit": 80}, 404, "not_found"),
        ("wang", "c01", "alarm.duress", {"enabled": False}, 404, "not_found"),
        ("root", "c01", "bin.nothing", {"limit": 80}, 404, "not_found"),
        ("root", "c01", "custom.Nothing", OWN, 404, "not_found"),
    ],
)  # fmt: skip
async def test_who_may_change_what(
    rules_city: Api, who: str, area: str, rule: str, definition: object, status: int, code: object
) -> None:
    before = kept(rules_city)
    answer = await put(rules_city, who, area, rule, definition)
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert kept(rules_city) == before + (status == 200)


LONG = "(" * 20 + "1" + ")" * 20


def own(**changes: object) -> dict[str, object]:
    return {**OWN, **changes}


def asks(**when: object) -> dict[str, object]:
    return own(when=when)


@pytest.mark.parametrize(
    ("rule", "definition", "pointer", "code"),
    [
        ("bin.full", {"on_delay_s": -1}, "/on_delay_s", "value.range"),
        ("bin.full", {"limits": 5}, "/limits", "field.unknown"),
        ("bin.full", {"life_safety": False}, "/life_safety", "field.unknown"),
        ("bin.full", {"when": WHEN}, "/when", "rule.not_settable"),
        ("lamp.dark", {"clear": 5}, "/clear", "rule.clear_alone"),
        ("custom.a", {"severity": "info"}, "/kind", "field.missing"),
        ("custom.a", own(limit=5), "/limit", "rule.not_settable"),
        ("custom.a", own(kind="toaster"), "/when", "kind.unknown"),
        ("custom.a", own(name={"en": "x"}), "/name/zh-CN", "field.missing"),
        ("custom.a", asks(type="threshold", field="fil", above=1), "/when/field", "field.unknown"),
        ("custom.a", asks(type="threshold", above=1), "/when/field", "field.missing"),
        ("custom.a", asks(type="threshold", field="fill_pct", above=101), "/when/above",
         "limit.out_of_range"),
        ("custom.a", asks(type="any", of=[WHEN, {**WHEN, "above": "x"}]), "/when/of/1/above",
         "field.type"),
        ("custom.a", asks(type="event", events=["deposit"]), "/when", "event.never_ends"),
        ("custom.a", asks(type="expression", expression="fill_pct > "), "/when/expression",
         "expression.syntax"),
        ("custom.a", asks(type="expression", expression=LONG + " > fill_pct"), "/when/expression",
         "expression.too_deep"),
        ("custom.a", asks(type="expression", expression="[1].all(x, [1].all(y, fill_pct > 1))"),
         "/when/expression", "expression.collection"),
        ("custom.a", asks(type="count", of=WHEN, times=10_000, within_s=60), "/when/times",
         "value.range"),
        ("custom.a", asks(type="equals", field="state", value="ofline"), "/when/value",
         "word.unknown"),
        ("custom.a", asks(type="any", of=[WHEN, {"type": "one_of", "field": "state",
                                                 "values": ["fault", "off"]}]),
         "/when/of/1/values/1", "word.unknown"),
        ("custom.a", asks(type="expression", expression="state == 'gone'"), "/when/expression",
         "expression.unknown_word"),
        ("custom.a", asks(type="no_data", field="state", for_s=60), "/when/field",
         "field.always_known"),
        ("custom.a", asks(type="any", of=[
            {"type": "event", "events": ["deposit"], "holds_s": 60},
            {"type": "equals", "field": "state", "value": "offline"},
        ]), "/when", "state.without_event"),
    ],
)  # fmt: skip
async def test_a_mistake_is_told_with_its_place_and_changes_nothing(
    rules_city: Api, rule: str, definition: dict[str, object], pointer: str, code: str
) -> None:
    before = kept(rules_city)
    answer = await put(rules_city, "root", "c02", rule, definition)
    assert errors(answer) == [(f"/body/definition{pointer}", code)]
    (message,) = (error["message"] for error in answer.json()["errors"])
    assert not re.search(r"[a-z]'? [a-z]", message), "no English within zh-CN"
    assert kept(rules_city) == before


async def test_a_state_that_there_is_not_is_told_with_its_position(rules_city: Api) -> None:
    asked = asks(type="expression", expression="fill_pct > 5 && state in ['fault', 'gone']")
    answer = await put(rules_city, "root", "c02", "custom.a", asked)
    (error,) = answer.json()["errors"]
    assert error == {
        "pointer": "/body/definition/when/expression",
        "code": "expression.unknown_word",
        "message": "表达式在第 35 个字符处使用了该字段没有的取值 gone",
        "position": 35,
        "found": "gone",
        "words": ["normal", "fault", "offline", "unknown", "maintenance"],
    }


async def test_too_deep_is_refused(rules_city: Api) -> None:
    deep: dict[str, Any] = WHEN
    for _ in range(300):
        deep = {"type": "not", "of": deep}
    told = await put(rules_city, "root", "c02", "custom.deep", own(when=deep))
    assert told.status_code == 422
    many = asks(type="all", of=[asks_many() for _ in range(20)])
    assert errors(await put(rules_city, "root", "c02", "custom.deep", many)) == [
        ("/body/definition/when", "condition.too_large")
    ]


def asks_many() -> dict[str, object]:
    return {"type": "any", "of": [WHEN] * 20}


async def test_an_own_rule_can_be_tuned_below_and_not_pulled_away(own_city: Api) -> None:
    assert (await put(own_city, "root", "city", "custom.half", OWN)).status_code == 200
    tuned = await put(own_city, "wang", "c01", "custom.half", {"on_delay_s": 30})
    assert tuned.json()["when"] == WHEN | {"below": None, "clear": None}
    gone = await own_city.client("root").delete(
        "/api/v1/areas/city/rules/custom.half?reason=over", headers={"If-Match": "1"}
    )
    assert (gone.status_code, gone.json()["code"]) == (409, "rule.needed_below")
    other = await put(own_city, "root", "city", "custom.half", own(kind="lamp"), 1)
    assert errors(other)[0][0] == "/body/definition/when/field"


async def test_the_list_shows_what_exists_for_the_reader(rules_city: Api) -> None:
    found: dict[str, set[str]] = {}
    for who, area in (("wang", "c01"), ("li", "c01"), ("root", "city")):
        answer = await rules_city.client(who).get(f"/api/v1/areas/{area}/rules")
        found[who] = {item["rule"] for item in answer.json()["items"]}
    assert found["li"] - found["wang"] == {"alarm.duress"}
    assert "detector.low_battery" in found["root"]


async def test_a_rule_is_tried_before_it_is_kept(rules_city: Api) -> None:
    lamp = {
        "name": {"zh-CN": "耗电", "en": "Draws"},
        "kind": "lamp",
        "severity": "info",
        "when": {"type": "threshold", "field": "power_w", "above": 40},
    }
    client, before = rules_city.client("wang"), kept(rules_city)
    path = "/api/v1/areas/c01/rules/custom.draws/dry-run"
    answer = await client.post(path, json={"definition": lamp, **THIS_WEEK})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["alerts"], told["noisiest"]) == (1, {"c01-lamp-001": 1})
    assert told["until"] == "2026-11-22T00:00:00.000Z"
    assert kept(rules_city) == before
    turned = {"from": THIS_WEEK["to"], "to": THIS_WEEK["from"]}
    wrong = await client.post(path, json={"definition": lamp, **turned})
    assert errors(wrong) == [("/body/to", "range.reversed")]
    built_in = "/api/v1/areas/c01/rules/bin.full/dry-run"
    good = {**lamp, "when": {"type": "equals", "field": "state", "value": "normal"}}
    found = (await client.post(path, json={"definition": good, **THIS_WEEK})).json()
    assert {one["device"]: one["values"]["state"] for one in found["first"]} == {
        "c01-lamp-001": "normal"
    }
    never = {**lamp, "when": {"type": "equals", "field": "state", "value": "unknown"}}
    untold = await client.post(path, json={"definition": never, **THIS_WEEK})
    assert errors(untold) == [("/body/definition/when", "state.no_history")]
    none = await client.post(built_in, json={"definition": {"limit": 80}, **THIS_WEEK})
    assert errors(none) == [("/body/definition/when", "rule.no_condition")]


async def test_a_dry_run_tells_up_to_when_history_was_asked(own_city: Api) -> None:
    with psycopg.connect(own_city.dsn, autocommit=True) as conn:
        # As with `reading_index = "after-close"`: what is not closed yet has no index.
        conn.execute(
            """
            DO $$
            DECLARE one regclass;
            BEGIN
                FOR one IN SELECT i.indexrelid
                           FROM timescaledb_information.chunks AS c
                           JOIN pg_index AS i ON i.indrelid =
                                format('%I.%I', c.chunk_schema, c.chunk_name)::regclass
                           WHERE c.hypertable_name = 'reading_lamp'
                             AND c.range_start >= '2026-11-21T00:00:00Z' LOOP
                    EXECUTE format('DROP INDEX %s', one);
                END LOOP;
            END $$
            """
        )
    lamp = {**OWN, "kind": "lamp", "when": {"type": "threshold", "field": "power_w", "above": 40}}
    path, body = "/api/v1/areas/c01/rules/custom.late/dry-run", {"definition": lamp, **THIS_WEEK}
    told = (await own_city.client("wang").post(path, json=body)).json()
    assert told["until"] == "2026-11-21T00:00:00.000Z"


async def test_the_catalogue_names_fields_types_and_units(rules_city: Api) -> None:
    told = (await rules_city.client("wang").get("/api/v1/rules/catalogue")).json()
    bins = next(kind for kind in told["kinds"] if kind["kind"] == "bin")
    fields = {field["name"]: field for field in bins["readings"]}
    assert fields["fill_pct"] == {
        "name": "fill_pct", "type": "number", "unit": "%", "words": [], "min": 0.0, "max": 100.0,
    }  # fmt: skip
    assert fields["stream"]["words"] == ["recyclable", "kitchen", "hazardous", "residual"]
    states = {field["name"]: field["words"] for field in bins["states"]}
    assert states == {
        "state": ["normal", "fault", "offline", "unknown", "maintenance"],
        "gateway": ["heard", "silent"],
    }
    assert all(field["unit"] for field in fields.values() if field["type"] == "number")


async def test_while_a_rule_is_tried_others_are_not_queued(rules_city: Api) -> None:
    lamp = {**OWN, "kind": "lamp", "when": {"type": "threshold", "field": "power_w", "above": 40}}
    client = rules_city.client("wang")
    path, body = "/api/v1/areas/c01/rules/custom.queued/dry-run", {"definition": lamp, **THIS_WEEK}
    with psycopg.connect(rules_city.dsn) as conn:
        conn.execute("LOCK TABLE device IN ACCESS EXCLUSIVE MODE")
        first = asyncio.create_task(client.post(path, json=body))
        await waited_for(conn)
        async with asyncio.timeout(8):
            second = await client.post(path, json=body)
        conn.rollback()
    assert (second.status_code, second.json()["code"]) == (429, "rule.trying")
    assert second.headers["retry-after"] == "5"
    assert (await first).status_code == 200
