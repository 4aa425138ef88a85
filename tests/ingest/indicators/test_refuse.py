# SPDX-License-Identifier: Apache-2.0
"""Refuse: hand-worked deposits, full bins, missed collections and forecasts."""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.indicators import duration, refuse
from ingest.indicators.duration import Duration
from ingest.indicators.rate import Verdict, share
from ingest.indicators.refuse import (
    MISSED,
    OVERFLOW,
    RECOVERED,
    REPORTING,
    SORTED,
    Deposit,
    Forecast,
    Level,
    Wait,
)
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally

MINUTE = 60 * 10**6
HOUR = 60 * MINUTE
SILENCE = 3 * HOUR
DAY = (0, 24 * HOUR)
BIN = Subject(1, "bin", "cell-1", (DAY,), (), DAY, max_silence_us=SILENCE)
NONE = {"maintenance": 0, "not_in_service": 0}


def of(
    subject: Subject = BIN,
    levels: Sequence[Level] = (),
    deposits: Sequence[Deposit] = (),
    until: int = DAY[1],
) -> Mapping[str, Tally]:
    tallies = refuse.tally([subject], {1: levels}, {1: deposits}, until)
    return {key.indicator: tally for key, tally in tallies.items()}


def emptied(
    levels: Sequence[Level], subject: Subject = BIN, until: int = DAY[1]
) -> list[tuple[int, int, bool]]:
    """When waits of a day were over, how long they took, and whether an emptying ended them."""
    found = refuse.times_to_empty([subject], {1: levels}, until)
    assert {one.indicator for one in found} <= {"time-to-empty"}
    return [(one.at_us, one.took_us, one.finished) for one in found]


def hourly(*fills: float, start_h: int = 0) -> list[Level]:
    return [Level((start_h + n) * HOUR, fill) for n, fill in enumerate(fills)]


# Weights


def test_sorting_rate_weighs_what_was_judged_and_keeps_the_rest_unknown() -> None:
    found = of(
        deposits=[
            Deposit(HOUR, 1.5, sorted_ok=True),
            Deposit(2 * HOUR, 0.5, sorted_ok=False),
            Deposit(3 * HOUR, 0.25, sorted_ok=None),
        ]
    )[SORTED]
    assert found == Tally(1_500, 500, 2_250, 1)


def test_recovery_rate_takes_the_deposits_stream_before_the_bins() -> None:
    levels = [
        Level(0, 10, "residual"),
        Level(4 * HOUR, 20, None),
        Level(5 * HOUR, 20, "recyclable"),
    ]
    deposits = [
        Deposit(HOUR, 1, None, "recyclable"),  # although the bin is for residual waste
        Deposit(2 * HOUR, 2),  # the bin's: residual
        Deposit(5 * HOUR, 4),  # the bin's, from this instant on: recyclable
        Deposit(6 * HOUR, 8, None, "kitchen"),
    ]
    assert of(levels=levels, deposits=deposits)[RECOVERED] == Tally(5_000, 10_000, 15_000, 1)


@pytest.mark.parametrize(
    ("told_at", "known"),
    [
        pytest.param(-SILENCE, True, id="told-within-silence-before-the-day"),
        pytest.param(-SILENCE - 1, False, id="told-too-long-before-the-day"),
        pytest.param(HOUR, True, id="told-with-the-deposit"),
        pytest.param(HOUR + 1, False, id="told-only-after-it"),
    ],
)
def test_a_stream_nobody_told_by_then_is_unknown(told_at: int, known: bool) -> None:
    found = of(levels=[Level(told_at, None, "recyclable")], deposits=[Deposit(HOUR, 1)])
    assert found[RECOVERED] == Tally(1_000 if known else 0, 0, 1_000, 1)


@pytest.mark.parametrize(
    ("weight_kg", "grams"),
    [
        (0.0, 0),
        (0.0004, 0),
        (0.0005, 1),
        (0.0015, 2),
        (0.0025, 3),  # a half that banks would round down
        (1.0005, 1_001),  # in binary a little less than the half
        (2.675499, 2_675),
    ],
)
def test_weights_are_rounded_to_grams_half_up(weight_kg: float, grams: int) -> None:
    assert of(deposits=[Deposit(0, weight_kg, sorted_ok=True)])[SORTED].good == grams


@given(st.builds(Decimal.scaleb, st.integers(0, 999_999).map(Decimal), st.integers(-6, -3)))
def test_single_precision_changes_no_gram(weight: Decimal) -> None:
    # Six digits survive the table; read by a binary cursor they are no longer the same number.
    (read,) = struct.unpack("f", struct.pack("f", weight))
    grams = int((weight * 1_000).quantize(Decimal(1), ROUND_HALF_UP))
    for weight_kg in (float(weight), read):
        assert of(deposits=[Deposit(0, weight_kg, sorted_ok=True)])[SORTED].good == grams


@pytest.mark.parametrize("weight_kg", [-0.001, float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_cannot_be_is_refused_by_name(weight_kg: float) -> None:
    with pytest.raises(ValueError, match=r"device 1: not a weight: .*inf|nan|-0\.001 kg"):
        of(deposits=[Deposit(HOUR, weight_kg)])


@pytest.mark.parametrize("fill_pct", [-0.1, float("nan"), float("inf")])
def test_a_level_that_cannot_be_is_refused(fill_pct: float) -> None:
    with pytest.raises(ValueError, match="not a level"):
        of(levels=[Level(HOUR, fill_pct)])


def test_deposits_in_maintenance_or_out_of_service_are_told_apart() -> None:
    one = replace(BIN, in_service=((2 * HOUR, 24 * HOUR),), maintenance=((4 * HOUR, 6 * HOUR),))
    deposits = [Deposit(at * HOUR, 1, sorted_ok=True) for at in (1, 3, 5)]
    assert of(one, deposits=deposits)[SORTED] == Tally(
        1_000, 0, 1_000, 1, {"not_in_service": 1_000, "maintenance": 1_000}
    )


def test_only_the_days_own_deposits_count() -> None:
    deposits = [Deposit(at, 1, sorted_ok=True) for at in (-1, 0, 24 * HOUR - 1, 24 * HOUR)]
    assert of(deposits=deposits)[SORTED] == Tally(2_000, 0, 2_000, 1)
    assert of(deposits=deposits, until=HOUR)[SORTED] == Tally(1_000, 0, 1_000, 1)
    assert of(deposits=deposits, until=24 * HOUR - 1)[SORTED] == Tally(1_000, 0, 1_000, 1)


def test_a_bin_without_deposits_has_no_weight_and_no_rate() -> None:
    assert of()[SORTED] == of()[RECOVERED] == Tally()


@pytest.mark.parametrize(
    ("right_g", "wrong_g", "unjudged_g", "verdict"),
    [
        pytest.param(600, 400, 0, "met", id="60-per-cent-reach-the-target"),
        pytest.param(599, 401, 0, "not_met", id="59.9-do-not"),
        pytest.param(599, 400, 1, "undetermined", id="a-gram-that-nobody-judged-decides"),
        pytest.param(600, 0, 400, "met", id="all-the-rest-may-be-wrong"),
        pytest.param(0, 401, 599, "not_met", id="all-the-rest-may-be-right"),
    ],
)
def test_the_verdict_on_sorting_never_leans_on_what_nobody_judged(
    right_g: int, wrong_g: int, unjudged_g: int, verdict: Verdict
) -> None:
    weights = ((right_g, True), (wrong_g, False), (unjudged_g, None))
    found = of(deposits=[Deposit(0, grams / 1_000, judged) for grams, judged in weights])[SORTED]
    target = next(one.target for one in refuse.INDICATORS if one.id == SORTED)
    assert share(found, target).verdict == verdict


# Overflow and reporting


def test_overflow_is_the_time_known_to_be_full() -> None:
    # Full from 2:00 to 4:00, and from 6:00 as long as silence may last.
    levels = hourly(80, 89.9, 90, 100, 40, 60, 95)
    assert of(levels=levels)[OVERFLOW] == Tally(5 * HOUR, 0, 5 * HOUR, 1, NONE)


def test_overflow_in_maintenance_does_not_count() -> None:
    one = replace(BIN, maintenance=((HOUR, 2 * HOUR),))
    found = of(one, levels=[Level(0, 99)])[OVERFLOW]
    assert found == Tally(2 * HOUR, 0, 2 * HOUR, 1, {**NONE, "maintenance": HOUR})


def test_of_two_levels_at_one_instant_the_fuller_counts() -> None:
    assert of(levels=[Level(0, 95), Level(0, 20)])[OVERFLOW].good == SILENCE


@pytest.mark.parametrize(
    ("levels", "until", "good", "bad"),
    [
        pytest.param([Level(0, 5)], DAY[1], 1, 0, id="reported"),
        pytest.param([Level(-1, 5)], DAY[1], 0, 1, id="only-the-day-before"),
        pytest.param([Level(HOUR, None, "kitchen")], DAY[1], 0, 1, id="without-a-level"),
        pytest.param([], HOUR, 0, 0, id="not-yet"),
        pytest.param([Level(2 * HOUR, 5)], HOUR, 0, 0, id="in-the-future"),
    ],
)
def test_bins_reporting(levels: list[Level], until: int, good: int, bad: int) -> None:
    assert of(levels=levels, until=until)[REPORTING] == Tally(good, bad, 1, 1)


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        pytest.param(replace(BIN, maintenance=(DAY,)), "maintenance", id="in-maintenance"),
        pytest.param(replace(BIN, in_service=()), "not_in_service", id="not-in-service"),
    ],
)
def test_a_bin_that_does_not_count_all_day_need_not_report(subject: Subject, reason: str) -> None:
    assert of(subject)[REPORTING] == Tally(excluded={reason: 1})


def test_a_day_that_has_not_come_says_nothing() -> None:
    assert of(until=0)[REPORTING] == Tally()


# Full bins and their collection


def test_a_full_bin_waits_until_its_level_has_fallen_by_thirty_points() -> None:
    levels = hourly(50, 89.99, 90, 97, 85, 67.01, 67, 10)
    assert refuse.waits(levels, SILENCE) == [Wait(2 * HOUR, 6 * HOUR, emptied=True)]
    assert emptied(levels) == [(6 * HOUR, 4 * HOUR, True)]


def test_a_fall_is_measured_as_the_numbers_are_written() -> None:
    # 95.1 - 65.1 is a little less than 30 in binary fractions.
    assert emptied(hourly(95.1, 65.1)) == [(HOUR, HOUR, True)]


def test_nobody_knows_when_a_silent_bin_was_emptied() -> None:
    levels = [Level(0, 95), Level(SILENCE + 1, 5)]
    assert refuse.waits(levels, SILENCE) == [Wait(0, SILENCE, emptied=False)]
    # It waited until then at least.
    assert emptied(levels) == [(SILENCE, SILENCE, False)]
    # Heard of just in time, it is.
    assert emptied([Level(0, 95), Level(SILENCE, 5)]) == [(SILENCE, SILENCE, True)]


def test_each_emptying_has_its_time_whatever_the_order_of_delivery() -> None:
    levels = hourly(95, 5, 50, 92, 93, 94, 0)
    assert emptied(levels[::-1]) == [(HOUR, HOUR, True), (6 * HOUR, 3 * HOUR, True)]


def test_a_wait_counts_on_the_day_of_the_emptying() -> None:
    levels = hourly(*[95] * 20, 5, start_h=-10)
    yesterday = (-24 * HOUR, 0)
    before = replace(BIN, in_service=(yesterday,), whole=yesterday)
    assert emptied(levels, before, until=DAY[1]) == []
    assert emptied(levels) == [(10 * HOUR, 20 * HOUR, True)]
    # While its day runs the bin still waits: so long it took at least.
    assert emptied(levels, until=4 * HOUR) == [(4 * HOUR, 14 * HOUR, False)]
    assert emptied(levels, before, until=-HOUR) == [(-HOUR, 9 * HOUR, False)]


def test_an_emptying_in_maintenance_does_not_count() -> None:
    levels = hourly(95, 95, 5)
    assert emptied(levels, replace(BIN, maintenance=((2 * HOUR, 3 * HOUR),))) == []
    assert emptied(levels, replace(BIN, maintenance=((0, 2 * HOUR),))) == [
        (2 * HOUR, 2 * HOUR, True)
    ]


def test_times_add_up_so_that_what_is_restated_shows() -> None:
    times = [
        Duration("time-to-empty", "cell-1", 1, 5, 100),
        Duration("time-to-empty", "cell-1", 1, 9, 30),
        Duration("time-to-empty", "cell-1", 2, 9, 50, finished=False),
        Duration("time-to-empty", "cell-2", 3, 9, 7),
    ]
    assert duration.tally(times) == {
        Key("time-to-empty", "cell-1"): Tally(130, 0, 180, 2),
        Key("time-to-empty", "cell-2"): Tally(7, 0, 7, 1),
    }


@pytest.mark.parametrize(
    ("emptied_after_h", "missed"),
    [
        pytest.param(24, 0, id="emptied-within-24-hours"),
        pytest.param(25, 1, id="emptied-after-25-hours"),
        pytest.param(48, 1, id="emptied-within-48-hours"),
        pytest.param(49, 2, id="emptied-after-49-hours"),
    ],
)
def test_every_24_hours_of_waiting_are_one_missed_collection(
    emptied_after_h: int, missed: int
) -> None:
    levels = [*hourly(*[95] * emptied_after_h), Level(emptied_after_h * HOUR, 10)]
    whole = (0, 96 * HOUR)
    found = of(replace(BIN, in_service=(whole,), whole=whole), levels, until=whole[1])
    assert found[MISSED] == Tally(missed, 0, missed, 1)


def test_a_missed_collection_counts_on_the_day_on_which_its_24_hours_are_over() -> None:
    # Full since 18:00 three days before, with a dip that is no emptying.
    levels = hourly(*[95] * 10, *[70] * 10, *[96] * 60, start_h=-54)
    for day, missed in ((-3, 0), (-2, 1), (-1, 1), (0, 1), (1, 0)):
        whole = (day * 24 * HOUR, (day + 1) * 24 * HOUR)
        found = of(replace(BIN, in_service=(whole,), whole=whole), levels, until=whole[1])
        assert found[MISSED].good == missed, day


def test_24_hours_over_at_midnight_belong_to_the_day_that_begins() -> None:
    levels = hourly(*[95] * 30, start_h=-24)
    assert of(levels=levels)[MISSED].good == 1
    yesterday = (-24 * HOUR, 0)
    one = replace(BIN, in_service=(yesterday,), whole=yesterday)
    assert of(one, levels, until=0)[MISSED].good == 0


def test_a_full_bin_is_followed_for_a_week() -> None:
    # Full since noon, its seventh day of waiting ends with an emptying in the morning.
    levels = [*hourly(*[95] * (6 * 24 + 18), start_h=-6 * 24 - 12), Level(6 * HOUR, 5)]
    assert of(levels=levels)[MISSED].good == 0


def test_silence_starts_the_clock_anew() -> None:
    levels = hourly(*[95] * 20, start_h=-20) + hourly(*[95] * 20, start_h=SILENCE // HOUR + 1)
    assert of(levels=levels)[MISSED].good == 0
    # Without the hour too many, it counts.
    levels = hourly(*[95] * 20, start_h=-20) + hourly(*[95] * 20, start_h=SILENCE // HOUR - 1)
    assert of(levels=levels)[MISSED].good == 1


def test_a_collection_missed_in_maintenance_is_told_apart() -> None:
    one = replace(BIN, maintenance=((5 * HOUR, 7 * HOUR),))
    found = of(one, levels=hourly(*[95] * 40, start_h=-18))[MISSED]
    assert found == Tally(0, 0, 0, 1, {"maintenance": 1})


@given(
    st.lists(st.floats(0, 60), min_size=0, max_size=60),
    st.lists(st.floats(0, 100), min_size=0, max_size=24),
)
def test_the_days_before_matter_to_full_bins_only(before: list[float], today: list[float]) -> None:
    # What the database need not be asked for: a bin at 60 % or less waits for nothing.
    earlier = hourly(*[95] * 40, start_h=-48 - len(before)) if before else []
    history = earlier + hourly(*before, start_h=-len(before))
    lately = [level for level in history if level.at_us >= -SILENCE]
    levels = hourly(*today)
    assert of(levels=history + levels) == of(levels=lately + levels)


# Forecast


def test_a_forecast_follows_the_rise_since_the_bin_was_emptied() -> None:
    # One point every hour from 10 % on; what came before the emptying does not count.
    levels = hourly(80, 90, 95, 10, 11, 12, 13, 14, 15, 16)
    found = refuse.forecast(levels, now_us=9 * HOUR)
    assert found == Forecast(93 * HOUR, 24.0, readings=7, latest_us=9 * HOUR)


def test_single_wrong_levels_do_not_move_a_forecast() -> None:
    fills = [float(n) for n in range(10, 34)]
    fills[5], fills[11] = 44.0, 2.0
    found = refuse.forecast(hourly(*fills), now_us=24 * HOUR)
    assert found is not None
    assert found.full_us == pytest.approx(90 * HOUR, abs=HOUR // 10)
    assert found.readings == 24


def test_a_bin_already_beyond_its_line_is_full_now() -> None:
    levels = hourly(70, 75, 80, 85, 90, 95, 100)
    found = refuse.forecast(levels, now_us=8 * HOUR)
    assert found is not None
    assert found.full_us == 8 * HOUR


@pytest.mark.parametrize(
    "levels",
    [
        pytest.param([], id="nothing-told"),
        pytest.param(hourly(10, 20, 30, 40, 50), id="too-few"),
        pytest.param([Level(n * MINUTE, 10 + n) for n in range(20)], id="too-short"),
        pytest.param(hourly(*[40] * 20), id="no-rise"),
        pytest.param(hourly(*range(40, 25, -1)), id="falling"),
        pytest.param(hourly(*(n / 100 for n in range(40))), id="too-far-ahead"),
        pytest.param(hourly(10, 20, 30, 40, 50, 60, 70, 80, 90, 5, 6), id="just-emptied"),
        pytest.param([Level((50 + n) * HOUR, 10 + n) for n in range(9)], id="yet-to-come"),
    ],
)
def test_without_ground_there_is_no_forecast(levels: list[Level]) -> None:
    assert refuse.forecast(levels, now_us=45 * HOUR) is None


def test_many_levels_are_thinned_and_keep_the_latest() -> None:
    levels = [Level(n * 10 * MINUTE, n / 10) for n in range(950)]
    found = refuse.forecast(levels, now_us=950 * 10 * MINUTE)
    assert found is not None
    assert found.latest_us == levels[-1].at_us
    assert refuse.FORECAST_READINGS_MAX / 2 < found.readings <= refuse.FORECAST_READINGS_MAX
    assert found.full_us == pytest.approx(1_000 * 10 * MINUTE, abs=MINUTE)
