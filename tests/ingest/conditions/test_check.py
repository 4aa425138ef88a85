# SPDX-License-Identifier: Apache-2.0
"""What is refused before a rule is kept, with its place."""

from __future__ import annotations

from typing import Any, Final

import pytest
from pydantic import ValidationError

from ingest.conditions import ConditionError, Mistake, check, compile_condition
from ingest.conditions.fields import KINDS, fields_of
from tests.ingest.conditions.telling import CONDITIONS, condition

LID: Final = {"type": "equals", "field": "lid_open", "value": True}
FORCED: Final = {"type": "event", "events": ["forced"]}


def nested(depth: int) -> dict[str, Any]:
    said: dict[str, Any] = LID
    for _ in range(depth - 1):
        said = {"type": "not", "of": said}
    return said


@pytest.mark.parametrize(
    ("kind", "said", "pointer", "rule"),
    [
        pytest.param("meter", LID, "", "kind.unknown", id="kind"),
        pytest.param(
            "lamp", {"type": "all", "of": [LID]}, "/of/0/field", "field.unknown", id="field"
        ),
        pytest.param(
            "bin", {"type": "threshold", "field": "tilt", "above": 1.0}, "/field", "field.type",
            id="a-limit-of-a-truth",
        ),
        pytest.param(
            "bin", {"type": "rate", "field": "stream", "above": 1.0, "within_s": 60.0}, "/field",
            "field.type", id="the-rate-of-a-word",
        ),
        pytest.param(
            "bin", {"type": "one_of", "field": "tilt", "values": ["a"]}, "/field", "field.type",
            id="words-of-a-truth",
        ),
        pytest.param(
            "bin", {"type": "threshold", "field": "fill_pct", "above": 150.0}, "/above",
            "limit.out_of_range", id="never-reached",
        ),
        pytest.param(
            "bin", {"type": "threshold", "field": "fill_pct", "above": 50.0, "clear": -1.0},
            "/clear", "limit.out_of_range", id="never-cleared",
        ),
        pytest.param(
            "bin", {"type": "equals", "field": "lid_open", "value": 1}, "/value", "value.type",
            id="one-is-no-truth",
        ),
        pytest.param(
            "gate", {"type": "equals", "field": "door", "value": "ajar"}, "/value", "word.unknown",
            id="word",
        ),
        pytest.param(
            "gate", {"type": "one_of", "field": "door", "values": ["open", "ajar"]}, "/values/1",
            "word.unknown", id="one-word-of-two",
        ),
        pytest.param(
            "bin", {"type": "schedule", "by": "programme"}, "/by", "schedule.lamps_only",
            id="bins-have-no-programme",
        ),
        pytest.param("gate", FORCED, "", "event.never_ends", id="never-ends"),
        pytest.param(
            "gate",
            {"type": "any", "of": [FORCED, {**FORCED, "holds_s": 9.0}]}, "/of/0",
            "event.never_ends", id="never-ends-within-a-whole",
        ),
        pytest.param(
            "gate", {**FORCED, "ends": {"events": ["restored", "forced"]}}, "/ends",
            "event.ends_itself", id="its-own-end",
        ),
        pytest.param(
            "gate", {"type": "event", "events": ["smoke"], "holds_s": 9.0}, "/events/0",
            "word.unknown", id="event",
        ),
        pytest.param(
            "gate", {**FORCED, "phases": ["raised"], "holds_s": 9.0}, "/phases", "field.unknown",
            id="gates-have-no-phases",
        ),
        pytest.param(
            "alarm", {"type": "event", "events": ["duress"], "holds_s": 9.0}, "/events/0",
            "word.unknown", id="duress-is-told-to-its-own-rule-alone",
        ),
        pytest.param("lamp", {**FORCED, "holds_s": 9.0}, "", "event.none", id="lamps-tell-none"),
        pytest.param(
            "alarm", {**FORCED, "kind": "gate", "holds_s": 9.0}, "/kind", "kind.other",
            id="one-device-is-no-other",
        ),
        pytest.param(
            "gate",
            {
                "type": "sequence", "first": FORCED, "where": "cell", "within_s": 9.0,
                "then": {"type": "equals", "field": "door", "value": "open"},
            },
            "/then", "cell.events_only", id="readings-of-a-cell",
        ),
        pytest.param(
            "gate",
            {
                "type": "count", "of": {**FORCED, "holds_s": 9.0}, "where": "cell",
                "within_s": 9.0, "times": 2,
            },
            "/of", "cell.instants_only", id="what-goes-on-in-a-cell",
        ),
        pytest.param(
            "lamp", {"type": "expression", "expression": "lit && powr > 5"}, "/expression",
            "expression.unknown_field", id="expression",
        ),
        pytest.param(
            "lamp", {"type": "expression", "expression": "1 < 2"}, "/expression",
            "expression.constant", id="says-nothing",
        ),
        pytest.param("bin", nested(9), "", "condition.too_deep", id="deep"),
        pytest.param(
            "bin",
            {"type": "all", "of": [{"type": "any", "of": [LID] * 17}] * 3}, "",
            "condition.too_large", id="large",
        ),
    ],
)  # fmt: skip
def test_mistakes_have_a_place(kind: str, said: dict[str, Any], pointer: str, rule: str) -> None:
    mistakes = check(condition(said), kind)
    assert [(one.pointer, one.rule) for one in mistakes] == [(pointer, rule)]
    with pytest.raises(ConditionError) as refused:
        compile_condition(condition(said), kind)
    assert list(refused.value.mistakes) == mistakes


def test_a_mistake_says_what_would_be_allowed() -> None:
    (mistake,) = check(condition({"type": "threshold", "field": "fill_pct", "above": 150.0}), "bin")
    bounds = {"found": 150.0, "min": 0.0, "max": 100.0}
    assert mistake == Mistake("/above", "limit.out_of_range", bounds)
    (mistake,) = check(
        condition({"type": "all", "of": [{"type": "expression", "expression": "lit && x"}]}), "lamp"
    )
    assert mistake.pointer == "/of/0/expression"
    assert mistake.bounds["position"] == 7


def test_all_mistakes_are_told_at_once() -> None:
    said = {"type": "all", "of": [{**LID, "field": name} for name in ("a", "b", "c")]}
    assert [one.pointer for one in check(condition(said), "bin")] == [
        "/of/0/field", "/of/1/field", "/of/2/field",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        pytest.param({"type": "python", "code": "1"}, id="another-type"),
        pytest.param({**LID, "note": "x"}, id="another-member"),
        pytest.param({"type": "all", "of": []}, id="nothing-to-hold"),
        pytest.param({"type": "threshold", "field": "fill_pct"}, id="no-limit"),
        pytest.param({"type": "threshold", "field": "x", "above": 1, "below": 0}, id="two-limits"),
        pytest.param(
            {"type": "threshold", "field": "x", "above": 70, "clear": 90}, id="clear-beyond-limit"
        ),
        pytest.param({"type": "threshold", "field": "x", "above": float("nan")}, id="nan"),
        pytest.param({"type": "threshold", "field": "x", "above": "90"}, id="a-text-for-a-number"),
        pytest.param({"type": "no_data", "field": "x", "for_s": 0}, id="no-time-at-all"),
        pytest.param({"type": "no_data", "field": "x", "for_s": 9e9}, id="an-endless-window"),
        pytest.param({"type": "count", "of": FORCED, "times": 1, "within_s": 9}, id="once"),
        pytest.param({"type": "count", "of": FORCED, "times": 10**9, "within_s": 9}, id="often"),
        pytest.param({"type": "schedule", "by": "clock", "start": "7", "end": "8:00"}, id="clock"),
        pytest.param(
            {"type": "schedule", "by": "clock", "start": 25_200, "end": "08:00"}, id="seconds"
        ),
        pytest.param({"type": "schedule", "by": "moon"}, id="by-the-moon"),
        pytest.param(nested(3_000), id="nested-without-end"),
    ],
)
def test_what_is_no_condition_is_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        condition(said)


def test_a_condition_survives_json() -> None:
    said = condition(
        {
            "type": "all",
            "of": [
                {"type": "schedule", "by": "clock", "start": "22:00", "end": "06:00"},
                {"type": "no_data", "field": "lit", "for_s": 60, "during": {
                    "type": "schedule", "by": "sun", "part": "night"}},
            ],
        }
    )  # fmt: skip
    assert CONDITIONS.validate_json(CONDITIONS.dump_json(said)) == said
    assert b'"22:00"' in CONDITIONS.dump_json(said)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_class_has_a_type(kind: str) -> None:
    fields = fields_of(kind)
    assert "fault" in fields.readings
    for name, type_ in {**fields.readings, **fields.events}.items():
        assert name not in {"device", "at", "kind", "credential", "occurrence"}
        assert type_.is_a in {"number", "truth", "word"}
