# SPDX-License-Identifier: Apache-2.0
"""Security: cases among people and time, false alarms, how long people take, satisfaction.

An *alarm* is what a device says, an *alert* what a rule makes of it, an *incident* what a person
confirmed (domain.md, Security). Rates count confirmed incidents, never alarms.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import inf
from typing import Final, Literal

from ingest.indicators.definition import Definition, Target
from ingest.indicators.rate import Verdict, judge
from ingest.indicators.tally import Key, Tally, add_up

Category = Literal[
    "burglary", "vehicle_theft", "other_theft", "fraud", "affray", "fire", "medical", "other"
]
CATEGORIES: Final[tuple[Category, ...]] = (
    "burglary", "vehicle_theft", "other_theft", "fraud", "affray", "fire", "medical", "other",
)  # fmt: skip
# What the target on criminal cases is about; a fire, an illness and what fits nowhere are not.
CRIMINAL: Final[frozenset[Category]] = frozenset(
    {"burglary", "vehicle_theft", "other_theft", "fraud", "affray"}
)
Disposition = Literal["open", "confirmed", "false_alarm", "test", "duplicate", "withdrawn"]
DISPOSITIONS: Final[tuple[Disposition, ...]] = (
    "open", "confirmed", "false_alarm", "test", "duplicate", "withdrawn",
)  # fmt: skip

INCIDENT_RATE: Final = "incident-rate"
FALSE_ALARMS: Final = "false-alarms"
TIME_TO_ACKNOWLEDGE: Final = "time-to-acknowledge"
TIME_TO_CLOSE: Final = "time-to-close"
SATISFACTION: Final = "satisfaction"

# A year in days, leap years included, and what a rate is told per.
YEAR_DAYS: Final = 365.25
PER_RESIDENTS: Final = 1_000
# The interval leaves this probability on either side.
TAIL: Final = 0.025
# Ratings run from 1 to 5; from here on a resident is satisfied.
SATISFIED_FROM: Final = 4

INDICATORS: Final[tuple[Definition, ...]] = (
    Definition(
        INCIDENT_RATE,
        domain="security",
        shape="rate",
        parts="cases",
        name={"zh-CN": "刑事案件发案率", "en": "Incident rate"},
        formula={
            "zh-CN": "发案率（‰/年）= 时段内已确认的刑事案件数 ÷ 时段内平均常住人口 × 1000，"
            "按每年 365.25 天折算；平均常住人口 = 逐日人口之和 ÷ 天数。刑事类：入室盗窃、"
            "盗窃机动车、其他盗窃、诈骗、斗殴；火灾、急病及其他不计；误报、测试、重复及撤回的不计。"
            "上下限为 95 % 精确泊松区间（Garwood）：下限按未结案件均不成立计，上限按均成立计。"
            "上限不高于目标为达标，下限高于目标为未达标，其余暂不能判定；任何一天人口不明则不给出数值。",
            "en": "Incident rate (per mille a year) = confirmed criminal incidents / average "
            "resident population in the window x 1000, scaled to a year of 365.25 days; average "
            "population = sum of each day's residents / days. Criminal: burglary, vehicle theft, "
            "other theft, fraud, affray; not fire, medical, other; never false alarms, tests, "
            "duplicates or what was withdrawn. Bounds: the exact (Garwood) 95 % Poisson interval, "
            "the lower one with open cases taken as nothing, the upper one as confirmed. Met when "
            "the upper bound is at or below the target, not met when the lower bound is above it, "
            "otherwise undetermined; no value where a day's population is not known.",
        },
        target=Target(1.5, "R1", "low"),
    ),
    Definition(
        FALSE_ALARMS,
        domain="security",
        shape="share",
        parts="cases",
        name={"zh-CN": "误报率", "en": "False alarms"},
        formula={
            "zh-CN": "误报率 = 认定为误报或测试的报警数 ÷ 已认定的报警数（误报、测试或属实）。"
            "尚未认定的为未知：下限按均属实计，上限按均为误报计。重复和撤回的不计。"
            "报警指报警器告警和强行开门告警。",
            "en": "False alarms = alarms settled as false or as a test / alarms settled as false, "
            "as a test or as confirmed. Those not settled are unknown: the lower bound takes them "
            "as real, the upper bound as false. Duplicates and what was withdrawn do not count. "
            "Alarms are the alerts of alarm detectors and of forced gates.",
        },
    ),
    Definition(
        TIME_TO_ACKNOWLEDGE,
        domain="security",
        shape="times",
        parts="us",
        name={"zh-CN": "报警确认用时", "en": "Time to acknowledge"},
        formula={
            "zh-CN": "自平台收到报警至有人确认的时间；"
            "中位数和第 90 百分位取实际出现的值（最近秩法）。"
            "尚未确认的：下限按至今已过的时间计，上限按无限长计。",
            "en": "From when an alarm reached us until somebody acknowledged it; median and 90th "
            "percentile by nearest rank, so each is a time that did occur. Those not acknowledged "
            "yet count in the lower bound with the time gone by, in the upper bound as endless.",
        },
    ),
    Definition(
        TIME_TO_CLOSE,
        domain="security",
        shape="times",
        parts="us",
        name={"zh-CN": "报警处置用时", "en": "Time to close"},
        formula={
            "zh-CN": "自平台收到报警至报警解除且已确认（以较晚者为准）的时间；"
            "中位数和第 90 百分位取实际出现的值（最近秩法）。"
            "尚未关闭的：下限按至今已过的时间计，上限按无限长计。",
            "en": "From when an alarm reached us until it was over and acknowledged, whichever "
            "came later; median and 90th percentile by nearest rank. Those not closed yet count "
            "in the lower bound with the time gone by, in the upper bound as endless.",
        },
    ),
    Definition(
        SATISFACTION,
        domain="security",
        shape="share",
        parts="cases",
        name={"zh-CN": "居民满意率", "en": "Resident satisfaction"},
        formula={
            "zh-CN": "满意率 = 评为 4 分或 5 分的工单数 ÷ 已评价的工单数（满分 5 分）。"
            "已办结而未评价的为未知：下限按不满意计，上限按满意计。",
            "en": "Satisfaction = tickets rated 4 or 5 of 5 / rated tickets. Closed tickets "
            "without a rating are unknown: the lower bound takes them as not satisfied, the upper "
            "bound as satisfied.",
        },
        target=Target(0.8, "R1"),
    ),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One incident as far as numbers go; it counts on the day and in the area it happened."""

    area: str
    category: Category
    disposition: Disposition


@dataclass(frozen=True, slots=True)
class Alarm:
    """One alert that calls for an officer; it counts on the day it reached us.

    Attributes:
        area: The finest known.
        received_us: When ingest received it, microseconds.
        acknowledged_us: When somebody took note; None: nobody has.
        cleared_us: When its condition ended, device time; None: it stands.
        disposition: What its incident was found to be; None: it has none.
    """

    area: str
    received_us: int
    acknowledged_us: int | None = None
    cleared_us: int | None = None
    disposition: Disposition | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """One closed ticket; ``rating`` is 1 to 5, None where the resident gave none."""

    area: str
    rating: int | None = None


def tally(
    cases: Sequence[Case], alarms: Sequence[Alarm], tickets: Sequence[Ticket] = ()
) -> dict[Key, Tally]:
    """Return one day's counts by area; unit: cases.

    ``incident-rate``: good is confirmed criminal cases, the rest of the total open ones.
    ``false-alarms``: good is false or test, bad is real, the rest of the total not settled.
    ``satisfaction``: good is rated 4 or 5, bad is rated lower, the rest not rated. What does not
    count is excluded by its disposition. Source: domain.md, Security; People and tickets.

    Raises:
        ValueError: A rating outside 1 to 5.
    """
    return add_up(
        chain(
            ((Key(INCIDENT_RATE, case.area), part) for case in cases for part in _case(case)),
            ((Key(FALSE_ALARMS, alarm.area), _alarm(alarm)) for alarm in alarms),
            ((Key(SATISFACTION, ticket.area), _ticket(ticket)) for ticket in tickets),
        )
    )


def _case(case: Case) -> Iterable[Tally]:
    if case.category not in CRIMINAL:
        return
    match case.disposition:
        case "confirmed":
            yield Tally(good=1, total=1, subjects=1)
        case "open":
            yield Tally(total=1, subjects=1)
        case reason:
            yield Tally(excluded={reason: 1})


def _alarm(alarm: Alarm) -> Tally:
    match alarm.disposition:
        case "false_alarm" | "test":
            return Tally(good=1, total=1, subjects=1)
        case "confirmed":
            return Tally(bad=1, total=1, subjects=1)
        case "open" | None:
            return Tally(total=1, subjects=1)
        case reason:
            return Tally(excluded={reason: 1})


def _ticket(ticket: Ticket) -> Tally:
    if ticket.rating is None:
        return Tally(total=1, subjects=1)
    if not 1 <= ticket.rating <= 5:
        raise ValueError(f"not a rating from 1 to 5: {ticket.rating}")
    satisfied = ticket.rating >= SATISFIED_FROM
    return Tally(good=int(satisfied), bad=int(not satisfied), total=1, subjects=1)


@dataclass(frozen=True, slots=True)
class CaseRate:
    """Cases per mille residents a year, with the interval that chance alone would explain.

    ``residents`` is the average of the window, ``coverage`` the share of its days whose
    population is known. Without all of them there is neither value nor bound nor verdict.
    """

    value: float | None
    lower: float | None
    upper: float | None
    coverage: float | None
    verdict: Verdict
    cases: int
    open_cases: int
    residents: float | None


def garwood(cases: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a Poisson mean of which ``cases`` were seen.

    Lower: the 0.025 quantile of chi-square with 2n degrees of freedom, halved (0 for n = 0);
    upper: the 0.975 quantile with 2n + 2, halved. Source: F. Garwood, Fiducial limits for the
    Poisson distribution, Biometrika 28, 1936.

    Raises:
        ValueError: A negative number.
    """
    # Here, not above: only who asks for a rate pays for loading it. Half a chi-square of 2n
    # degrees is a gamma of shape n, and this module a third of the size of scipy.stats.
    from scipy.special import (  # pyright: ignore[reportMissingTypeStubs] - there are none
        gammaincinv,
    )

    if cases < 0:
        raise ValueError(f"not a number of cases: {cases}")
    lower = float(gammaincinv(cases, TAIL)) if cases else 0.0
    return lower, float(gammaincinv(cases + 1, 1 - TAIL))


def incident_rate(
    cases: int,
    open_cases: int,
    *,
    person_days: int,
    days_covered: int,
    days: int,
    target: float,
) -> CaseRate:
    """Return confirmed criminal cases per mille residents a year (domain.md, Security).

    Rate = cases / (person_days / days) x (365.25 / days) x 1000; the number of days cancels out.

    Args:
        cases: Confirmed in the window.
        open_cases: Criminal by category and not settled yet: they may still count.
        person_days: Residents summed over the days of the window.
        days_covered: Days of the window whose population is known.
        days: Days of the window.
        target: Per mille a year; ``met`` when the upper bound is at or below it, ``not_met`` when
            the lower bound is above it.

    Raises:
        ValueError: Something is negative, or more days are covered than there are.
    """
    if min(cases, open_cases, person_days, days_covered) < 0 or days_covered > days:
        raise ValueError(f"not a window: {cases=} {open_cases=} {person_days=} {days_covered=}")
    coverage = days_covered / days if days else None
    if not days or days_covered < days or not person_days:
        return CaseRate(None, None, None, coverage, "undetermined", cases, open_cases, None)
    scale = YEAR_DAYS * PER_RESIDENTS / person_days
    lower, upper = garwood(cases)[0] * scale, garwood(cases + open_cases)[1] * scale
    verdict = judge(lower, upper, Target(target, "", "low"))
    return CaseRate(
        cases * scale, lower, upper, coverage, verdict, cases, open_cases, person_days / days
    )


@dataclass(frozen=True, slots=True)
class Quantile:
    """A time that one share of all stays within, microseconds.

    ``value`` is that of the finished ones, or more where the unfinished prove more; ``upper`` is
    None where it may grow without end. None throughout: there is nothing.
    """

    value: int | None
    lower: int | None
    upper: int | None


@dataclass(frozen=True, slots=True)
class Times:
    """How long something took: how many are finished, how many are not, median and p90."""

    finished: int
    unfinished: int
    median: Quantile
    p90: Quantile


def times(finished_us: Sequence[int], unfinished_us: Sequence[int] = ()) -> Times:
    """Return median and 90th percentile by nearest rank.

    That is the smallest time that at least this share of all does not exceed; never a time in
    between two that occurred.

    Args:
        finished_us: How long each took, microseconds, in any order.
        unfinished_us: How long each has taken so far. ``lower`` takes that for its end, ``upper``
            takes it for endless.
    """
    done = sorted(finished_us)
    so_far = sorted((*finished_us, *unfinished_us))
    endless = [*done, *(inf for _ in unfinished_us)]
    return Times(
        len(finished_us),
        len(unfinished_us),
        *(_quantile(done, so_far, endless, percent) for percent in (50, 90)),
    )


def _quantile(
    done: Sequence[int], so_far: Sequence[int], endless: Sequence[float], percent: int
) -> Quantile:
    if not so_far:
        return Quantile(None, None, None)
    lower, upper = (ordered[_rank(len(so_far), percent)] for ordered in (so_far, endless))
    return Quantile(
        max(int(lower), done[_rank(len(done), percent)]) if done else None,
        int(lower),
        None if upper == inf else int(upper),
    )


def _rank(count: int, percent: int) -> int:
    """Return the index of rank ceil(count x percent / 100), in whole numbers."""
    return (count * percent + 99) // 100 - 1


def time_to_acknowledge(alarms: Iterable[Alarm], now_us: int) -> Times:
    """Return how long alarms waited to be acknowledged, microseconds; see `times`."""
    return _times(((alarm.received_us, alarm.acknowledged_us) for alarm in alarms), now_us)


def time_to_close(alarms: Iterable[Alarm], now_us: int) -> Times:
    """Return how long alarms took to be over and acknowledged, microseconds; see `times`."""
    return _times(((alarm.received_us, _closed(alarm)) for alarm in alarms), now_us)


def _closed(alarm: Alarm) -> int | None:
    if alarm.acknowledged_us is None or alarm.cleared_us is None:
        return None
    return max(alarm.acknowledged_us, alarm.cleared_us)


def _times(spans: Iterable[tuple[int, int | None]], now_us: int) -> Times:
    finished: list[int] = []
    unfinished: list[int] = []
    for start, end in spans:
        # Clocks may be set back: a time is never negative.
        if end is None or end > now_us:
            unfinished.append(max(0, now_us - start))
        else:
            finished.append(max(0, end - start))
    return times(finished, unfinished)
