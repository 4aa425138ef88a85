# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from datetime import date, datetime

import pytest

from ingest.indicators.definition import Definition
from ingest.reports.content import Missing, Number
from tests.ingest.reports.sample import (
    ACKNOWLEDGE,
    EQUIPMENT,
    INCIDENTS,
    LIGHTING,
    sample,
    share,
)


def test_a_month_begins_on_its_first_day() -> None:
    with pytest.raises(ValueError, match="first day"):
        replace(sample(), month=date(2026, 10, 2))


def test_the_time_it_was_made_has_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        replace(sample(), made_at=datetime(2026, 11, 2))  # noqa: DTZ001


def test_every_number_is_defined_in_the_report_itself() -> None:
    with pytest.raises(ValueError, match="lighting-uptime"):
        replace(sample(), definitions=sample().definitions[1:])


@pytest.mark.parametrize(
    ("month", "last"),
    [
        pytest.param(date(2024, 2, 1), date(2024, 2, 29), id="leap-year"),
        pytest.param(date(2026, 2, 1), date(2026, 2, 28), id="february"),
        pytest.param(date(2026, 12, 1), date(2026, 12, 31), id="year-end"),
    ],
)
def test_a_month_has_its_own_length(month: date, last: date) -> None:
    report = replace(sample(), month=month)
    assert report.last_day == last
    assert (report.days[0], report.days[-1], len(report.days)) == (month, last, last.day)


def test_one_provisional_number_makes_the_report_provisional() -> None:
    report = sample()
    assert not report.provisional
    first, *rest = report.numbers
    numbers = (replace(first, status="provisional"), *rest)
    assert replace(report, numbers=numbers).provisional


def empty(definition: Definition, total: int | None) -> Number:
    return Number(
        definition.id, "", None, None, None, None, None, None, total, "fraction",
        definition.target, "undetermined", revision=1, status="final",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "definition", "reason"),
    [
        pytest.param(share(LIGHTING, 1, 1, 2), LIGHTING, None, id="there-is-a-value"),
        pytest.param(share(LIGHTING, 0, 5, 5), LIGHTING, None, id="zero-is-a-value"),
        pytest.param(share(LIGHTING, 0, 0, 5), LIGHTING, "no_data", id="nothing-heard"),
        pytest.param(share(EQUIPMENT, 0, 0, 0), EQUIPMENT, "nothing_counted", id="nothing-there"),
        pytest.param(empty(INCIDENTS, None), INCIDENTS, "no_population", id="no-population"),
        pytest.param(empty(ACKNOWLEDGE, 0), ACKNOWLEDGE, "no_cases", id="no-case"),
        pytest.param(empty(ACKNOWLEDGE, 2), ACKNOWLEDGE, "none_finished", id="none-finished"),
    ],
)
def test_a_number_without_value_says_why(
    number: Number, definition: Definition, reason: Missing | None
) -> None:
    assert number.missing(definition) == reason
