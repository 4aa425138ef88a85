# SPDX-License-Identifier: Apache-2.0
"""Expressions: what fits and what is refused, with position and reason; no bomb gets through."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.conditions.expression import (
    DEPTH_MAX,
    NODES_MAX,
    ExpressionError,
    Program,
    read,
)
from ingest.conditions.fields import KINDS, fields_of
from tests.ingest.conditions.telling import condition

LAMP: Final = fields_of("lamp")


@pytest.mark.parametrize(
    ("kind", "expression", "position", "rule"),
    [
        pytest.param("lamp", "powr_w > 20", 0, "expression.unknown_field", id="unknown-field"),
        pytest.param("lamp", "lit && fill_pct > 1", 7, "expression.unknown_field", id="of-a-bin"),
        pytest.param("lamp", "event.event == 'x'", 6, "expression.unknown_field", id="no-events"),
        pytest.param("bin", "event.wieght_kg > 1", 6, "expression.unknown_field", id="event-field"),
        pytest.param("gate", "door.state == 'x'", 5, "expression.unknown_field", id="no-object"),
        pytest.param(
            "gate", "event.credential == 'p1-x'", 6, "expression.unknown_field", id="no-persons"
        ),
        pytest.param("lamp", "device == 'lamp-1'", 0, "expression.unknown_field", id="no-device"),
        pytest.param("lamp", "now > 5", 0, "expression.unknown_field", id="no-time"),
        pytest.param("lamp", "power_w > 'much'", 10, "expression.type", id="number-and-word"),
        pytest.param("lamp", "lit > 1", 0, "expression.type", id="truth-is-no-number"),
        pytest.param("lamp", "lit == 1", 7, "expression.type", id="nor-equal-to-one"),
        pytest.param("lamp", "power_w && lit", 0, "expression.type", id="number-is-no-truth"),
        pytest.param("lamp", "1 < power_w < 5", 0, "expression.type", id="no-chains"),
        pytest.param("lamp", "!power_w", 1, "expression.type", id="not-of-a-number"),
        pytest.param("lamp", "lit ? lit : 5", 12, "expression.type", id="two-types"),
        pytest.param("lamp", "power_w + 5", 0, "expression.not_boolean", id="number"),
        pytest.param("lamp", " fault", 1, "expression.not_boolean", id="word"),
        pytest.param("gate", "door == 'broken'", 8, "expression.unknown_word", id="word-of-none"),
        pytest.param("gate", "door in ['open', 'shut']", 17, "expression.unknown_word", id="in"),
        pytest.param("lamp", "power_w >", 9, "expression.syntax", id="ends-early"),
        pytest.param("lamp", "", 0, "expression.syntax", id="nothing"),
        pytest.param("lamp", "lit lit", 4, "expression.syntax", id="two"),
        pytest.param("lamp", "(lit", 4, "expression.syntax", id="open"),
        pytest.param("lamp", "lit = true", 4, "expression.syntax", id="assignment"),
        pytest.param("lamp", "power_w > 0x10", 11, "expression.syntax", id="hexadecimal"),
        pytest.param("lamp", "fault == null", 9, "expression.syntax", id="null"),
        pytest.param("lamp", "fault == 'a\\'b'", 9, "expression.syntax", id="escape"),
        pytest.param("lamp", "lit\x00", 3, "expression.syntax", id="control-character"),
        pytest.param("lamp", "ｌit", 0, "expression.syntax", id="look-alike"),
        pytest.param("lamp", "power_w > 1e999", 10, "expression.number", id="endless-number"),
        pytest.param("lamp", "power_w in [power_w]", 12, "expression.literal", id="list-of-fields"),
        pytest.param("lamp", "fault.contains(fault)", 15, "expression.literal", id="grows"),
        # Bombs.
        pytest.param(
            "lamp", "[1,2,3].map(x, [1,2,3].map(y, x * y)).size() > 1", 0,
            "expression.collection", id="nested-map",
        ),
        pytest.param("lamp", "fault.all(c, c == 'a')", 6, "expression.macro", id="macro"),
        pytest.param("lamp", "has(lit)", 0, "expression.macro", id="has"),
        pytest.param(
            "lamp", "fault.matches('(a+)+$')", 6, "expression.regex", id="regular-expression"
        ),
        pytest.param("lamp", "fault + fault == 'aa'", 6, "expression.text_sum", id="sum-of-texts"),
        pytest.param("lamp", "'a' * 9 == fault", 4, "expression.text_sum", id="text-repeated"),
        pytest.param("lamp", "fault[0] == 'a'", 5, "expression.index", id="index"),
        pytest.param("lamp", "{'a': 1}.a > 0", 0, "expression.collection", id="map-literal"),
        pytest.param("lamp", "size(fault) > 1", 0, "expression.unknown_function", id="function"),
        pytest.param("lamp", "power_w % 2 > 1", 8, "expression.operator", id="remainder"),
        pytest.param(
            "lamp", "(" * 500 + "lit" + ")" * 500, DEPTH_MAX, "expression.too_deep", id="nesting"
        ),
        pytest.param("lamp", "!" * 500 + "lit", DEPTH_MAX, "expression.too_deep", id="negations"),
        pytest.param(
            "lamp", "lit ? true : " * 60 + "lit", 13 * DEPTH_MAX, "expression.too_deep", id="if"
        ),
        pytest.param(
            "lamp", "lit" + "||lit" * 180, 0, "expression.too_large", id="a-long-chain"
        ),
        pytest.param(
            "lamp", f"power_w in [{'1,' * 300}1]", 12 + 2 * (NODES_MAX - 1),
            "expression.too_large", id="a-long-list",
        ),
    ],
)  # fmt: skip
def test_refused_with_position_and_reason(
    kind: str, expression: str, position: int, rule: str
) -> None:
    with pytest.raises(ExpressionError) as refused:
        read(expression, fields_of(kind))
    assert (refused.value.rule, refused.value.position) == (rule, position)


def test_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="1000 characters"):
        condition({"type": "expression", "expression": "lit || " * 200 + "lit"})


@pytest.mark.parametrize(
    ("expression", "values", "expected"),
    [
        ("power_w > 20", {"power_w": 20.0}, False),
        ("power_w * 2 - -3 >= 4.3e1", {"power_w": 20.0}, True),
        ("-power_w < -5", {"power_w": 6.0}, True),
        ("!!lit", {"lit": True}, True),
        ("level_pct in [50, 100]", {"level_pct": 50.0}, True),
        ("level_pct in [-1, .5]", {"level_pct": 50.0}, False),
        ("fault.startsWith('driver') || fault == \"lamp\"", {"fault": "driver_hot"}, True),
        ("fault.endsWith('hot') && fault.contains('_')", {"fault": "driver_hot"}, True),
        ("lit ? power_w < 5 : power_w > 50", {"lit": False, "power_w": 60.0}, True),
        ("power_w / 0 > 1e300", {"power_w": 6.0}, True),
        ("power_w > 20 || lit", {"lit": False}, None),
        ("power_w > 20 && lit", {"lit": False}, False),
    ],
)
def test_means_what_cel_says(
    expression: str, values: dict[str, Any], expected: bool | None
) -> None:
    assert Program(read(expression, LAMP)).ask(values, None) is expected


def test_names_what_it_reads() -> None:
    typed = read("weight_kg > 5 && event.weight_kg < 1 && event.sorted_ok", fields_of("bin"))
    assert typed.names == {"weight_kg"}
    assert typed.event_names == {"weight_kg", "sorted_ok"}


Values = dict[str, Any]
# An expression, and what it means: reckoned here by hand, None for what cannot be known.
Pair = tuple[str, Callable[[Values], Any]]
_SUMS: Final[dict[str, Callable[[float, float], float]]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul,
}  # fmt: skip
_COMPARED: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


def _field(name: str) -> Pair:
    return name, lambda values: values.get(name)


def _literal(value: float) -> Pair:
    return repr(value), lambda values: value


def _two(signs: dict[str, Any], sign: str, left: Pair, right: Pair) -> Pair:
    def means(values: Values) -> Any:
        one, other = left[1](values), right[1](values)
        return None if one is None or other is None else signs[sign](one, other)

    return f"({left[0]} {sign} {right[0]})", means


def _in(number: Pair, others: list[int]) -> Pair:
    def means(values: Values) -> bool | None:
        one = number[1](values)
        return None if one is None else one in others

    return f"{number[0]} in {others}", means


def _neither(inner: Pair) -> Pair:
    def means(values: Values) -> bool | None:
        holds = inner[1](values)
        return None if holds is None else not holds

    return f"!({inner[0]})", means


def _logic(sign: str, left: Pair, right: Pair) -> Pair:
    decides = sign == "||"

    def means(values: Values) -> bool | None:
        said = left[1](values), right[1](values)
        return decides if decides in said else None if None in said else not decides

    return f"(({left[0]}) {sign} ({right[0]}))", means


def _choice(asked: Pair, yes: Pair, no: Pair) -> Pair:
    def means(values: Values) -> bool | None:
        holds = asked[1](values)
        return None if holds is None else (yes if holds else no)[1](values)

    return f"({asked[0]} ? {yes[0]} : {no[0]})", means


_NUMBER: Final = st.one_of(
    st.sampled_from(["power_w", "level_pct", "lux"]).map(_field),
    st.floats(0, 1e9).map(_literal),
    st.integers(0, 99).map(_literal),
)
_NUMBERS: Final = st.recursive(
    _NUMBER,
    lambda inner: st.builds(_two, st.just(_SUMS), st.sampled_from("+-*"), inner, inner),
    max_leaves=4,
)
_TRUTHS: Final = st.recursive(
    st.one_of(
        st.just("lit").map(_field),
        st.builds(_two, st.just(_COMPARED), st.sampled_from(list(_COMPARED)), _NUMBERS, _NUMBERS),
        st.builds(_in, _NUMBER, st.lists(st.integers(-9, 99), min_size=1, max_size=3)),
    ),
    lambda inner: st.one_of(
        st.builds(_logic, st.sampled_from(["&&", "||"]), inner, inner),
        inner.map(_neither),
        st.builds(_choice, inner, inner, inner),
    ),
    max_leaves=5,
)


@settings(deadline=None)
@given(
    pair=_TRUTHS,
    values=st.fixed_dictionaries(
        {},
        optional={
            "power_w": st.floats(0, 5_000),
            "level_pct": st.integers(0, 100).map(float),
            "lux": st.floats(0, 200_000),
            "lit": st.booleans(),
        },
    ),
)
def test_what_fits_means_what_it_says(pair: Pair, values: Values) -> None:
    expression, means = pair
    assert Program(read(expression, LAMP)).ask(values, None) == means(values)


_WORDS: Final = [
    "power_w",
    "lit",
    "fault",
    "event",
    "event.",
    "device",
    "&&",
    "||",
    "!",
    "==",
    "!=",
    "<",
    "in",
    "[",
    "]",
    "(",
    ")",
    "?",
    ":",
    ",",
    ".",
    "1",
    "2.5",
    "'x'",
    '"',
    "-",
    "+",
    "*",
    "/",
    "map(",
    "has(",
    "size(",
    "matches(",
    "true",
    "null",
    "{",
]
_SCRAPS: Final = st.lists(st.sampled_from(_WORDS), max_size=30).map(" ".join)


@given(expression=st.one_of(st.text(max_size=60), _SCRAPS), kind=st.sampled_from(KINDS))
def test_anything_else_is_refused_and_never_breaks(expression: str, kind: str) -> None:
    try:
        typed = read(expression, fields_of(kind))
    except ExpressionError as refused:
        assert 0 <= refused.position <= len(expression)
        return
    Program(typed)
