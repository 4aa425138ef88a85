# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Definition, Language, Parts
from ingest.indicators.rate import Verdict
from ingest.indicators.security import Disposition
from ingest.indicators.tally import Exclusion
from ingest.reports.content import Day, Missing, Status
from ingest.reports.words import (
    REASONS,
    SCALES,
    SIGN,
    bounds_text,
    figure,
    left_out,
    missing_day_text,
    missing_text,
    percent,
    printable,
    raw_unit,
    source_text,
    target_text,
    verdict_text,
    word,
)
from tests.ingest.reports.sample import (
    ACKNOWLEDGE,
    DEFINITIONS,
    INCIDENTS,
    LIGHTING,
    MONTH,
    sample,
    share,
)

DAY = Day(MONTH, 0.9, 0.8, 1.0, 0.9, 90, 10, 111, subjects=1, status="final", revision=1)
LANGUAGES: tuple[Language, ...] = ("zh-CN", "en")


def keys() -> Iterator[str]:
    yield from (f"verdict.{verdict}" for verdict in get_args(Verdict))
    yield from (f"missing.{reason}" for reason in get_args(Missing))
    yield from (f"kind.{kind}" for kind in ("lamp", "bin", "gate", "alarm"))
    yield from (f"level.{level}" for level in ("city", "district", "street", "community", "cell"))
    yield from REASONS
    yield from get_args(Status)
    yield from (scale.unit for scale in SCALES.values())


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("key", list(keys()))
def test_everything_a_report_can_say_has_a_word(key: str, language: Language) -> None:
    assert word(key, language) not in ("", key)


def test_every_reason_of_exclusion_has_its_column() -> None:
    assert set(get_args(Exclusion)) <= set(REASONS)
    assert set(get_args(Disposition)) - {"open", "confirmed"} <= set(REASONS)
    assert set(SCALES) == set(get_args(Parts))


@given(st.dictionaries(st.sampled_from([*REASONS, "flood", "storm"]), st.integers(0, 10**15)))
def test_nothing_left_out_is_lost(excluded: dict[str, int]) -> None:
    amounts = left_out(excluded)
    assert tuple(amounts) == REASONS
    assert sum(amounts.values()) == sum(excluded.values())
    assert amounts["maintenance"] == excluded.get("maintenance", 0)


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        pytest.param(None, None, "–", id="none"),
        pytest.param(6e7, 6e7, "–", id="all-is-known"),
        pytest.param(6e7, None, "≥ 1.0 min", id="may-last"),
        pytest.param(6e7, 12e7, "1.0 – 2.0 min", id="both"),
    ],
)
def test_bounds_have_an_open_end_where_nobody_can_say(
    lower: float | None, upper: float | None, text: str
) -> None:
    number = next(number for number in sample().numbers if number.indicator == ACKNOWLEDGE.id)
    assert bounds_text(replace(number, lower=lower, upper=upper), ACKNOWLEDGE, "en") == text


@pytest.mark.parametrize("parts", get_args(Parts))
def test_stored_parts_name_their_unit(parts: Parts) -> None:
    assert all(raw_unit(parts, language) for language in LANGUAGES)


@pytest.mark.parametrize(
    ("verdict", "chinese", "english"),
    [
        ("met", "✓ 达标", "✓ Met"),
        ("not_met", "✗ 未达标", "✗ Not met"),
        ("undetermined", "? 暂不能判定", "? Undetermined"),
    ],
)
def test_a_verdict_is_a_sign_and_a_word(verdict: Verdict, chinese: str, english: str) -> None:
    assert verdict_text(verdict, "zh-CN") == chinese
    assert verdict_text(verdict, "en") == english


def test_signs_differ() -> None:
    assert len(set(SIGN.values())) == len(get_args(Verdict))


@pytest.mark.parametrize(
    ("value", "target", "text"),
    [
        pytest.param(0.97, 0.97, "97.00 %", id="exactly-the-target"),
        pytest.param(0.96999, 0.97, "96.999 %", id="just-below"),
        pytest.param(0.970001, 0.97, "97.0001 %", id="just-above"),
        pytest.param(0.999999, None, "99.9999 %", id="not-quite-all"),
        pytest.param(0.000001, None, "0.0001 %", id="not-quite-nothing"),
        pytest.param(1.0, 0.97, "100.00 %", id="all"),
        pytest.param(0.0, 0.97, "0.00 %", id="nothing"),
        pytest.param(0.29, 0.29, "29.00 %", id="a-target-no-float-is"),
    ],
)
def test_rounding_never_reaches_a_target(value: float, target: float | None, text: str) -> None:
    assert percent(value, target) == text


@given(
    bad=st.integers(0, 10**9),
    total=st.integers(1, 10**9),
    target=st.sampled_from([0.3, 0.6, 0.96, 0.97, 1.0]),
)
@example(bad=30_000_001, total=10**9, target=0.97)
def test_what_is_shown_lies_on_the_same_side_of_the_target(
    bad: int, total: int, target: float
) -> None:
    value = max(0, total - bad) / total
    shown = float(percent(value, target).removesuffix(" %"))
    for limit in (0.0, target, 1.0):
        at = round(100 * limit, 10)
        assert (shown > at, shown < at) == (value > limit, value < limit)
    assert shown == pytest.approx(100 * value, abs=0.0051)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_value_is_a_reason_and_never_zero(language: Language) -> None:
    text = missing_text(share(LIGHTING, 0, 0, 10), LIGHTING, language)
    assert text == word("missing.no_data", language)
    assert missing_text(share(LIGHTING, 0, 10, 10), LIGHTING, language) == ""


@pytest.mark.parametrize(
    ("day", "definition", "key"),
    [
        pytest.param(DAY, LIGHTING, None, id="there-is-a-value"),
        pytest.param(None, LIGHTING, "missing.day", id="no-row"),
        pytest.param(replace(DAY, value=None), LIGHTING, "missing.day", id="nothing-heard"),
        pytest.param(
            replace(DAY, value=None, total=0), LIGHTING, "missing.nothing_counted", id="none-there"
        ),
        pytest.param(
            replace(DAY, value=None), INCIDENTS, "missing.no_population", id="no-population"
        ),
        pytest.param(replace(DAY, value=None), ACKNOWLEDGE, "missing.no_cases", id="no-case"),
    ],
)
def test_a_day_without_value_says_why(
    day: Day | None, definition: Definition, key: str | None
) -> None:
    text = missing_day_text(sample("en"), MONTH, day, definition)
    assert text == ("" if key is None else word(key, "en"))


def test_a_day_that_has_not_come_is_not_missing() -> None:
    report = replace(sample("en"), made_at=datetime(2026, 9, 30, 15, 59, tzinfo=UTC))
    assert missing_day_text(report, MONTH, None, LIGHTING) == word("missing.to_come", "en")
    begun = replace(report, made_at=datetime(2026, 9, 30, 16, 0, tzinfo=UTC))
    assert missing_day_text(begun, MONTH, None, LIGHTING) == word("missing.day", "en")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_source_names_its_document(language: Language) -> None:
    for definition in INDICATORS.values():
        if definition.target is not None:
            source = definition.target.source
            assert len(source_text(source, language)) > len(source) + 2
    assert source_text("byelaw 7", language) == "byelaw 7"


def test_figures_are_told_in_units_of_people() -> None:
    told = {
        number.indicator: figure(number.value, number, definition, "en")
        for number in sample().numbers
        for definition in DEFINITIONS
        if definition.id == number.indicator and number.value is not None and not number.kind
    }
    assert told == {
        "lighting-uptime": "97.57 %",
        "equipment-good": "94.56 %",
        "refuse-sorted": "70.19 %",
        "incident-rate": "1.72 ‰ a year",
        "bin-overflow": "93.2 h",
        "lamp-energy": "18,250.4 kWh",
        "time-to-acknowledge": "1.6 min",
    }


@pytest.mark.parametrize(
    ("indicator", "text"),
    [
        ("lighting-uptime", "≥ 97 % (R0)"),
        ("incident-rate", "≤ 1.5 ‰ a year (R1)"),
        ("lamp-energy", "–"),
    ],
)
def test_a_target_says_its_direction_and_source(indicator: str, text: str) -> None:
    number = next(number for number in sample().numbers if number.indicator == indicator)
    definition = sample().definition(indicator)
    assert target_text(number, definition, "en") == text


@given(st.text())
def test_what_is_printable_stays(text: str) -> None:
    cleaned = printable(text)
    assert len(cleaned) == len(text)
    cleaned.encode()
    assert all(after in (before, "\ufffd") for before, after in zip(text, cleaned, strict=True))


@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\r", "\x7f", "\ud800", "\uffff"])
def test_control_letters_and_half_letters_are_replaced(letter: str) -> None:
    assert printable(f"a{letter}b") == "a\ufffdb"
