# SPDX-License-Identifier: Apache-2.0
"""Lighting by lamp and night: uptime, lamps lit, roads, installation, day burners, energy.

A lighting day is a night, from local noon to local noon, named by the date of its dusk
(``lighting.night_span``). Everything is counted in whole numbers (microseconds, watt hours, lamps),
so sums are exact in any order. Definitions and sources of targets: domain.md, Lighting.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, NamedTuple

from ingest.indicators.definition import Definition, Target
from ingest.indicators.duration import Duration
from ingest.indicators.rate import Verdict
from ingest.indicators.rounding import half_up
from ingest.indicators.spans import Hold, Span, clip, covered, holds, length, overlap, subtract
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally, add_up

_MINUTE_US: Final = 60 * 10**6
_HOUR_US: Final = 60 * _MINUTE_US
_MILLIWATT_US_PER_WH: Final = 1_000 * _HOUR_US

UPTIME: Final = "lighting-uptime"
LIT: Final = "lamps-lit"
INSTALLED: Final = "lamps-installed"
DAY_BURNERS: Final = "day-burners"
CYCLING: Final = "lamps-cycling"
ENERGY: Final = "lamp-energy"
BURN: Final = "lamp-burn"
ROADS: Final = "roads-within-limit"
AUTONOMY: Final = "solar-autonomy"

# By inspection: assessable when seen for this much of its due time, and then lit when it was for
# this much of what was seen; percent.
ASSESSABLE_PCT: Final = 90
LIT_PCT: Final = 95
# Lit outside due time for this long in one day.
DAY_BURNER_US: Final = 15 * _MINUTE_US
# More switches than these within less than this time.
CYCLING_SWITCHES: Final = 3
CYCLING_US: Final = 10 * _MINUTE_US
# How far before a day its first energy difference may begin, where a hold does not reach further.
COUNTER_REACH_US: Final = 12 * _HOUR_US
# The contract's highest power; what one step of a counter of whole kilowatt hours is.
COUNTER_POWER_W: Final = 5_000.0
COUNTER_STEP_WH: Final = 1_000
# From how many lamps on how many may be dark; None: no rule.
ROAD_LIMITS: Final[tuple[tuple[int, int | None], ...]] = ((200, None), (150, 4), (100, 3), (0, 2))
# What a lamp's battery must have been seen to do in a night before its autonomy is told.
AUTONOMY_BURN_MIN_US: Final = 3 * _HOUR_US
AUTONOMY_FALL_MIN_PCT: Final = 5
_FULL: Final = 100 * 100  # a full battery, in hundredths of a point

INDICATORS: Final[tuple[Definition, ...]] = (
    Definition(
        id=UPTIME,
        domain="lighting",
        shape="share",
        parts="us",
        name={"zh-CN": "亮灯率（按时间）", "en": "Lighting uptime"},
        formula={
            "zh-CN": "亮灯率（按时间）= 应亮且可知时段内的亮灯时间 ÷ 应亮且可知的时间。"
            "应亮时段：所在社区日落至次日日出（含偏移）或该灯的定时方案，扣除已批准的检修。"
            "一次上报的状态有效至下一次上报，最长为三个上报周期，其后为未知："
            "下限按未知为灭计，上限按未知为亮计。下限达到目标为达标，上限低于目标为未达标，其余暂不能判定。",
            "en": "Lighting uptime (by time) = lit time within due and known time / due and known "
            "time. Due: from sunset to sunrise at the community (with offsets) or the lamp's "
            "own programme, less accepted maintenance. A report holds until the next one, at "
            "most three reporting periods; then the lamp is unknown: the lower bound counts "
            "unknown as dark, the upper bound as lit. Met when the lower bound reaches the "
            "target, not met when the upper bound is below it, otherwise undetermined.",
        },
        target=Target(0.97, "R0"),
    ),
    Definition(
        id=LIT,
        domain="lighting",
        shape="share",
        parts="devices",
        name={"zh-CN": "亮灯率（按盏数）", "en": "Lamps lit"},
        formula={
            "zh-CN": "亮灯率（按盏数）= 当夜亮灯盏数 ÷ 可判定盏数。"
            "可知时间达到应亮时间 90 % 的灯可判定；其中亮灯时间达到可知时间 95 % 的灯计为亮灯。"
            "其余的灯为未知：下限按未亮计，上限按亮灯计。"
            "整夜无应亮时间的灯（检修、未投用）不计。多夜为各夜盏数之和。"
            "道路不足 200 盏的另计灭灯盏数：150 至 199 盏不超过 4 盏，100 至 149 盏不超过 3 盏，"
            "不足 100 盏不超过 2 盏。",
            "en": "Lamps lit (by inspection) = lamps lit that night / lamps assessable. A lamp is "
            "assessable when it was known for at least 90 % of its due time, and lit when it was "
            "for at least 95 % of the known time. The others are unknown: the lower bound counts "
            "them as dark, the upper bound as lit. A lamp with no due time that night (in "
            "maintenance, not in service) does not count. Several nights: the sum of their lamps. "
            "On a road of under 200 lamps the dark ones are counted too: at most 4 of 150-199, 3 "
            "of 100-149, 2 of fewer.",
        },
        target=Target(0.97, "R0"),
    ),
    Definition(
        id=INSTALLED,
        domain="lighting",
        shape="share",
        parts="devices",
        name={"zh-CN": "装灯率", "en": "Lamps installed"},
        formula={
            "zh-CN": "装灯率 = 已安装的灯 ÷（已安装的灯 + 已规划未安装的灯）。"
            "以当日结束时的设施台账为准；已报废的灯不计。多日为各日盏数之和。",
            "en": "Lamps installed = lamps installed / (lamps installed + lamps planned). By the "
            "facility register at the end of the day; retired lamps do not count. Several days: "
            "the sum of their lamps.",
        },
        target=Target(1.0, "R0"),
    ),
    Definition(
        id=DAY_BURNERS,
        domain="lighting",
        shape="sum",
        parts="devices",
        name={"zh-CN": "白昼亮灯盏数", "en": "Day burners"},
        formula={
            "zh-CN": "白昼亮灯盏数 = 当日（正午至次日正午）在应亮时段之外"
            "已知亮灯合计达到 15 分钟的灯。检修和未投用的时间不计。多日为各日盏数之和。",
            "en": "Day burners = lamps known to be lit outside their due time for at least 15 "
            "minutes together in a day (noon to noon). Time in maintenance or not in service does "
            "not count. Several days: the sum of their lamps.",
        },
    ),
    Definition(
        id=CYCLING,
        domain="lighting",
        shape="sum",
        parts="devices",
        name={"zh-CN": "频繁开关灯盏数", "en": "Cycling lamps"},
        formula={
            "zh-CN": "频繁开关灯盏数 = 当日在不足 10 分钟内开关超过 3 次的灯。"
            "与前一次仍然有效的上报相反的上报计为一次开关。检修和未投用的时间不计。"
            "多日为各日盏数之和。",
            "en": "Cycling lamps = lamps that switched more than 3 times in less than 10 minutes "
            "in a day. A switch is a report that contradicts the one before while that still "
            "holds. Time in maintenance or not in service does not count. Several days: the sum "
            "of their lamps.",
        },
    ),
    Definition(
        id=ENERGY,
        domain="lighting",
        shape="sum",
        parts="Wh",
        name={"zh-CN": "照明用电量", "en": "Lighting energy"},
        formula={
            "zh-CN": "照明用电量 = 电能表读数之差，计入后一次读数所在的日；"
            "读数变小视为从零重新计数。"
            "没有电能表读数的灯，为上报功率乘以其有效时间（至下一次上报，最长三个上报周期）。",
            "en": "Lighting energy = differences of counter readings, in the day of the later "
            "one; a counter that runs backwards began anew from zero. Of a lamp without a counter: "
            "reported power times how long the report holds (until the next one, at most three "
            "reporting periods).",
        },
    ),
    Definition(
        id=BURN,
        domain="lighting",
        shape="sum",
        parts="us",
        name={"zh-CN": "亮灯时长", "en": "Burn hours"},
        formula={
            "zh-CN": "亮灯时长 = 各灯已知亮灯时间之和，不论是否应亮、是否检修。未知的时间不计。",
            "en": "Burn hours = the sum of the time lamps are known to be lit, due or not, in "
            "maintenance or not. Unknown time does not count.",
        },
    ),
    Definition(
        id=ROADS,
        domain="lighting",
        shape="share",
        parts="roads",
        name={"zh-CN": "道路灭灯达标率", "en": "Roads within their limit"},
        formula={
            "zh-CN": "道路灭灯达标率 = 灭灯盏数未超限的道路 ÷ 可判定的道路，按夜逐条计。"
            "当夜有应亮时间的灯不足 100 盏的道路灭灯不得超过 2 盏，100 至 149 盏不超过 3 盏，"
            "150 至 199 盏不超过 4 盏（长沙市的做法）；200 盏及以上的按亮灯率考核，不计入。"
            "灭灯：可知时间达到应亮时间 90 % 且亮灯时间不足可知时间 95 % 的灯。"
            "不可判定的灯可能使道路超限时，该道路为未知：下限按超限计，上限按未超限计。"
            "多夜为各夜道路数之和。道路属于社区，社区以下不再分。",
            "en": "Roads within their limit = roads with no more dark lamps than allowed / roads "
            "of which it can be told, each night. Allowed are 2 on a road of under 100 lamps with "
            "due time that night, 3 of 100-149, 4 of 150-199 (practice in Changsha); roads of 200 "
            "or more are judged by the share of their lamps and do not count. Dark: known for at "
            "least 90 % of its due time and lit for less than 95 % of that. A road that lamps not "
            "assessable may bring over its limit is unknown: the lower bound counts it as over, "
            "the upper bound as within. Several nights: the sum of their roads. A road belongs to "
            "a community, not to a part of it.",
        },
    ),
    Definition(
        id=AUTONOMY,
        domain="lighting",
        shape="times",
        parts="us",
        name={"zh-CN": "太阳能蓄电续航", "en": "Solar autonomy"},
        formula={
            "zh-CN": "太阳能蓄电续航 = 100 % ÷ 亮灯时单位时间的电量下降，每盏太阳能灯每夜一个数值。"
            "取当日（正午至次日正午）内已知一直亮灯的相邻两次电量上报，其间的回升抵减下降；"
            "电量取至百分之一个百分点。当夜如此亮灯不足 3 小时或下降不足 5 个百分点时不予计算。"
            "检修期间和未投用时的不计。中位数和第 90 百分位取实际出现的值（最近秩法）。",
            "en": "Solar autonomy = 100 % / fall of the battery's charge per time of burning, one "
            "value per solar lamp and night. Of each two battery reports in a row in the day (noon "
            "to noon) between which the lamp is known to be lit throughout; a rise is taken off "
            "the fall; charges are taken to a hundredth of a point. Not told of a night with under "
            "3 hours of such burning or a fall of under 5 points. Maintenance and time out of "
            "service do not count. Median and 90th percentile by nearest rank.",
        },
    ),
)


@dataclass(frozen=True, slots=True)
class LampNight:
    """One lamp in one night, as far as the night has come.

    Attributes:
        area: The finest known.
        road: The road or yard it belongs to; ``""``: none is named.
        life: At the end of the night. Only what is in service counts; of anything else the due
            time is excluded.
        due_us: Due and counted, without what is excluded.
        lit_us: Known lit within it.
        dark_us: Known dark within it; the rest is unknown.
        excluded: Due time that does not count, by reason.
    """

    device_id: int
    area: str
    road: str
    life: str
    due_us: int
    lit_us: int
    dark_us: int
    excluded: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Lamp:
    """One lamp of the register on one day; ``life`` as it was at the day's end."""

    device_id: int
    area: str
    life: str


class LampReading(NamedTuple):
    """What one reading says, as stored; None where it does not say."""

    at_us: int
    lit: bool | None = None
    power_w: float | None = None
    energy_kwh: float | None = None
    battery_pct: float | None = None


@dataclass(frozen=True, slots=True)
class LampDay:
    """One lamp in one day, and what its raw readings say of it.

    Attributes:
        subject: What counts of the day.
        road: The road or yard it belongs to; ``""``: none is named.
        life: At the end of the day. ``maintenance`` is accepted maintenance all day long; of what
            is neither that nor in service nothing counts.
        due: When its programme has it due in the day: disjoint, in order, maintenance NOT taken
            off.
        light: From when to when the lamp is known to have been lit or dark, as its readings of the
            day and those that still hold when it begins say.
        energy_wh: What it used while in service (`energy_wh`); None where nothing tells.
        charges: What its battery held at which instants of the day, per cent, in any order.
    """

    subject: Subject
    due: tuple[Span, ...]
    light: Sequence[Hold]
    energy_wh: int | None = None
    road: str = ""
    life: str = "in_service"
    charges: Sequence[tuple[int, float]] = ()


def reach_us(max_silence_us: int) -> int:
    """Return how far before a day its readings begin that still speak in it, in microseconds."""
    return max(max_silence_us, COUNTER_REACH_US)


def night_of(lamp: LampDay, until_us: int | None = None) -> LampNight:
    """Return one lamp's night.

    What is due counts where the lamp is in service and not in maintenance.

    Args:
        lamp: The lamp; its ``due`` is that of the night.
        until_us: What lies after has not come yet; None where the night is over.
    """
    subject = _subject(lamp, until_us)
    due = clip(lamp.due, subject.whole)
    in_service = _intersect(due, subject.in_service)
    counted = _intersect(due, subject.counted)
    excluded = {
        "maintenance": length(in_service) - length(counted),
        "not_in_service": length(due) - length(in_service),
    }
    return LampNight(
        subject.device_id,
        subject.area,
        lamp.road,
        lamp.life,
        length(counted),
        covered(counted, lamp.light, good=True),
        covered(counted, lamp.light, good=False),
        {reason: time_us for reason, time_us in excluded.items() if time_us},
    )


def tally_nights(nights: Sequence[LampNight]) -> dict[Key, Tally]:
    """Add up one night by area: how long lamps were lit, and how many.

    ``lighting-uptime``, microseconds: lit time / (lit + dark time) within due time; the rest of
    the due time is unknown. ``lamps-lit``, lamps: a lamp is assessable when it was seen for at
    least 90 % of its due time, and lit when it was for at least 95 % of what was seen; one that is
    not assessable is unknown. A lamp with nothing due counts in neither.

    Returns:
        ``subjects`` counts the lamps with due time that counts.

    Raises:
        ValueError: A lamp was lit and dark for longer than it was due.
    """
    return add_up(_night_parts(nights))


def tally_installed(lamps: Sequence[Lamp]) -> dict[Key, Tally]:
    """Add up ``lamps-installed`` of one day by area: installed / (installed + planned), lamps.

    Installed is what is neither planned nor retired. A retired lamp belongs to no plan any more
    and does not count. The register is known, so nothing is unknown.
    """
    return add_up(
        (
            Key(INSTALLED, lamp.area),
            Tally(good=0, bad=1, total=1, subjects=1)
            if lamp.life == "planned"
            else Tally(good=1, bad=0, total=1, subjects=1),
        )
        for lamp in lamps
        if lamp.life != "retired"
    )


def tally_days(lamps: Sequence[LampDay], until_us: int | None = None) -> dict[Key, Tally]:
    """Add up what lamps did in one day, by area; all four are sums.

    - ``day-burners``, lamps: known lit outside due time for at least 15 minutes together.
    - ``lamps-cycling``, lamps: more than three switches in less than ten minutes. A switch is a
      reading that contradicts the one before while that still holds, at its own instant: what
      happened in silence is not known.
    - ``lamp-energy``, watt hours: see ``_energy_wh``.
    - ``lamp-burn``, microseconds: known lit, due or not, in maintenance or not.

    The first two count time in service without maintenance, where technicians switch lamps; the
    last two what was used and worn, all time in service.

    Args:
        lamps: Every lamp that is to be counted, heard of or not.
        until_us: What lies after has not come yet; None where the day is over.

    Returns:
        ``subjects`` counts the lamps of which something is known: 0 of 0 is no good news.
        ``excluded``, of the first two, the lamps of which no time counts.
    """
    return add_up(_day_parts(lamps, until_us))


def _night_parts(nights: Iterable[LampNight]) -> Iterator[tuple[Key, Tally]]:
    for night in map(_in_service, nights):
        due_us, excluded = night.due_us, night.excluded
        if due_us:
            yield (
                Key(UPTIME, night.area),
                Tally(night.lit_us, night.dark_us, due_us, 1, excluded),
            )
            lit = lit_by_inspection(night)
            yield (
                Key(LIT, night.area),
                Tally(good=int(lit is True), bad=int(lit is False), total=1, subjects=1),
            )
        elif any(excluded.values()):
            yield Key(UPTIME, night.area), Tally(excluded=excluded)
            yield Key(LIT, night.area), Tally(excluded={_main_reason(excluded): 1})


def lit_by_inspection(night: LampNight) -> bool | None:
    """Return whether a lamp counts as lit that night; None where too little of it was seen.

    Assessable: lit + dark >= 90 % of due. Lit: lit >= 95 % of lit + dark.

    Raises:
        ValueError: Nothing was due, so there is nothing to inspect.
    """
    if night.due_us <= 0:
        raise ValueError(f"nothing was due: {night}")
    seen_us = night.lit_us + night.dark_us
    if seen_us * 100 < ASSESSABLE_PCT * night.due_us:
        return None
    return night.lit_us * 100 >= LIT_PCT * seen_us


def _in_service(night: LampNight) -> LampNight:
    """Return a night of which only a lamp in service keeps its due time."""
    if night.life == "in_service" or not night.due_us:
        return night
    reason = "maintenance" if night.life == "maintenance" else "not_in_service"
    excluded = {**night.excluded, reason: night.excluded.get(reason, 0) + night.due_us}
    return replace(night, due_us=0, lit_us=0, dark_us=0, excluded=excluded)


def _main_reason(excluded: Mapping[str, int]) -> str:
    """Return why most of it does not count."""
    return max(sorted(excluded), key=lambda reason: excluded[reason])


def _day_parts(lamps: Iterable[LampDay], until_us: int | None) -> Iterator[tuple[Key, Tally]]:
    for lamp in lamps:
        subject = _subject(lamp, until_us)
        light = lamp.light
        counted, area = subject.counted, subject.area
        if counted:
            outside = subtract(counted, lamp.due)
            known_us = covered(outside, light, good=True) + covered(outside, light, good=False)
            burning = covered(outside, light, good=True) >= DAY_BURNER_US
            yield Key(DAY_BURNERS, area), _sum(int(burning), heard=known_us > 0)
            heard = any(overlap(counted, hold.start, hold.end) for hold in light)
            yield Key(CYCLING, area), _sum(int(_cycles(light, counted)), heard=heard)
        elif any(subject.excluded.values()):
            excluded = {_main_reason(dict(subject.excluded)): 1}
            yield Key(DAY_BURNERS, area), Tally(excluded=excluded)
            yield Key(CYCLING, area), Tally(excluded=excluded)
        if subject.in_service:
            yield Key(ENERGY, area), _sum(lamp.energy_wh or 0, heard=lamp.energy_wh is not None)
            heard = any(overlap(subject.in_service, hold.start, hold.end) for hold in light)
            burn_us = covered(subject.in_service, light, good=True)
            yield Key(BURN, area), _sum(burn_us, heard=heard)


def _sum(amount: int, *, heard: bool) -> Tally:
    return Tally(good=amount, total=amount, subjects=int(heard))


def _subject(lamp: LampDay, until_us: int | None) -> Subject:
    """Return what counts of a lamp's day as far as it has come, by its stage of life."""
    subject = lamp.subject if until_us is None else lamp.subject.until(until_us)
    match lamp.life:
        case "in_service":
            return subject
        case "maintenance":
            return replace(subject, maintenance=(subject.whole,))
        case _:
            return replace(subject, in_service=())


def _intersect(spans: Sequence[Span], others: Iterable[Span]) -> tuple[Span, ...]:
    return tuple(part for other in others for part in clip(spans, other))


def _cycles(light: Iterable[Hold], counted: Sequence[Span]) -> bool:
    switches = [
        after.start
        for before, after in pairwise(light)
        if before.end == after.start
        and before.good is not after.good
        and any(start <= after.start < end for start, end in counted)
    ]
    return any(
        last - first < CYCLING_US
        for first, last in zip(switches, switches[CYCLING_SWITCHES:], strict=False)
    )


def energy_wh(
    readings: Sequence[LampReading], subject: Subject, rated_power_w: float | None = None
) -> int | None:
    """Return what a lamp used in a day, whole watt hours, or None where nothing tells.

    By its counter: the difference of each two readings in a row counts where the later lies, the
    first one from at most ``reach_us`` before the day; so days add up to what the counter ran,
    silence or not. A counter that runs backwards began anew, from zero. A difference beyond twice
    the rated power (5 kW where it is not known) for the time between, and a kilowatt hour more,
    which is the step of a coarse counter, is another counter's: it does not count. Without two
    counter readings, by its power: each word holds until the next, at most ``max_silence``;
    rounded half up.

    Args:
        readings: In any order. From ``reach_us`` before the day to its end; others are ignored.
        subject: The lamp's day, as far as it has come.
        rated_power_w: None where it is not known.

    Raises:
        ValueError: A counter or a power is negative or not finite.
    """
    by_counter = _counted_wh(readings, subject, rated_power_w)
    return _metered_wh(readings, subject) if by_counter is None else by_counter


def _counted_wh(
    readings: Sequence[LampReading], subject: Subject, rated_power_w: float | None
) -> int | None:
    start, end = subject.whole
    reached = start - reach_us(subject.max_silence_us)
    counter: dict[int, int] = {}
    for at_us, _, _, energy_kwh, _ in readings:
        if energy_kwh is not None and reached <= at_us < end:
            value_wh = _thousandths(energy_kwh)
            counter[at_us] = max(value_wh, counter.get(at_us, 0))
    power_mw = _thousandths(COUNTER_POWER_W if rated_power_w is None else rated_power_w)
    used_wh: int | None = None
    for (before, from_wh), (at, to_wh) in pairwise(sorted(counter.items())):
        if not any(begin <= at < stop for begin, stop in subject.in_service):
            continue  # before the day, or not in service
        step_wh = to_wh - from_wh if to_wh >= from_wh else to_wh
        if (step_wh - COUNTER_STEP_WH) * _MILLIWATT_US_PER_WH <= 2 * power_mw * (at - before):
            used_wh = (used_wh or 0) + step_wh
    return used_wh


def _metered_wh(readings: Sequence[LampReading], subject: Subject) -> int | None:
    start, end = subject.whole
    start -= subject.max_silence_us
    power: dict[int, int] = {}
    for at_us, _, power_w, _, _ in readings:
        if power_w is not None and start <= at_us < end:
            power[at_us] = max(_thousandths(power_w), power.get(at_us, 0))
    known_us = used = 0
    for hold in _held(power, subject.max_silence_us):
        overlapped = overlap(subject.in_service, hold.start, hold.end)
        known_us += overlapped
        used += overlapped * power[hold.start]
    return (2 * used + _MILLIWATT_US_PER_WH) // (2 * _MILLIWATT_US_PER_WH) if known_us else None


def _held(instants: Iterable[int], max_silence_us: int) -> Iterator[Hold]:
    """Yield how long what was said at each instant holds, the last one too."""
    ordered = [(at, True) for at in sorted(instants)]
    if ordered:
        ordered.append((ordered[-1][0] + max_silence_us, True))
    return holds(ordered, max_silence_us)


def _thousandths(value: float) -> int:
    """Return watts as milliwatts, kilowatt hours as watt hours; rounded half up."""
    if not 0 <= value < math.inf:
        raise ValueError(f"not a measure of energy or power: {value}")
    return math.floor(value * 1_000 + 0.5)


# -- roads ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RoadNight:
    """A road in one night by inspection; ``lamps`` are those with due time that counts.

    Attributes:
        limit: How many may be dark; None where the rule does not apply (200 lamps or more).
        verdict: None where the rule does not apply.
    """

    road: str
    lamps: int
    lit: int
    dark: int
    limit: int | None
    verdict: Verdict | None

    @property
    def assessable(self) -> int:
        """Lamps that were seen for long enough to be judged; the others may be dark."""
        return self.lit + self.dark


def dark_lamps_max(lamps: int) -> int | None:
    """Return how many of a road's lamps may be dark: practice in Changsha (domain.md, Lighting).

    4 at 150-199 lamps, 3 at 100-149, 2 under 100; from 200 on the share decides: None.
    """
    return next((limit for least, limit in ROAD_LIMITS if lamps >= least), None)


def road_verdict(lamps: int, dark: int, unknown: int = 0) -> Verdict | None:
    """Return what a road's dark lamps come to; None from 200 lamps on, where no rule applies.

    Args:
        lamps: All of the road.
        dark: Known dark.
        unknown: Not assessable: they may be dark. ``met`` only where the limit holds even so,
            ``not_met`` where it is broken without them, otherwise ``undetermined``.

    Raises:
        ValueError: The parts are negative or exceed the whole.
    """
    if min(dark, unknown) < 0 or dark + unknown > lamps or lamps < 1:
        raise ValueError(f"not parts of a road: {dark} dark and {unknown} unknown of {lamps} lamps")
    limit = dark_lamps_max(lamps)
    if limit is None:
        return None
    if dark > limit:
        return "not_met"
    return "met" if dark + unknown <= limit else "undetermined"


def by_road(nights: Sequence[LampNight]) -> list[RoadNight]:
    """Return one community's roads in one night, in order of their names.

    Only lamps in service with due time count, and only those that name a road.
    """
    roads: dict[str, list[bool | None]] = {}
    for night in map(_in_service, nights):
        if night.road and night.due_us:
            roads.setdefault(night.road, []).append(lit_by_inspection(night))
    return [
        RoadNight(
            road,
            len(lamps),
            lamps.count(True),
            lamps.count(False),
            dark_lamps_max(len(lamps)),
            road_verdict(len(lamps), lamps.count(False), lamps.count(None)),
        )
        for road, lamps in sorted(roads.items())
    ]


def tally_roads(roads: Iterable[RoadNight], community: str) -> dict[Key, Tally]:
    """Add up ``roads-within-limit`` of one community's night: within / (within + over), roads.

    What cannot be told is the rest of the total; a road to which no rule applies does not count.
    ``subjects`` counts the lamps of those that do.
    """
    judged = [road for road in roads if road.verdict is not None]
    if not judged:
        return {}
    verdicts = [road.verdict for road in judged]
    lamps = sum(road.lamps for road in judged)
    tally = Tally(verdicts.count("met"), verdicts.count("not_met"), len(judged), lamps)
    return {Key(ROADS, community): tally}


# -- solar lamps ----------------------------------------------------------------------------------


def autonomies(lamps: Iterable[LampDay], until_us: int | None = None) -> list[Duration]:
    """Return the autonomy of each lamp whose battery tells of it in one day.

    Args:
        lamps: Those that are to be counted; most have no battery.
        until_us: What lies after has not come yet; None where the day is over.
    """
    found: list[Duration] = []
    for lamp in lamps:
        subject = _subject(lamp, until_us)
        took_us = solar_autonomy_us(lamp, subject)
        if took_us is not None:
            found.append(
                Duration(AUTONOMY, subject.area, subject.device_id, subject.whole[1], took_us)
            )
    return found


def solar_autonomy_us(lamp: LampDay, subject: Subject) -> int | None:
    """Return how long a solar lamp's full battery keeps it burning, microseconds, or None.

    100 % / (fall of ``battery_pct`` per time of burning), rounded half up, over all pairs of
    battery readings in a row within the day and time that counts between which the lamp is known
    to have been lit throughout; a rise in between is taken off the fall. Charges are rounded to
    hundredths of a point; of two readings with one instant the lower charge counts.

    Args:
        lamp: Its day.
        subject: What counts of the day, as far as it has come.

    Returns:
        None where under three hours of burning or a fall of under five points (what a battery
        reading may be off) were seen: too little to tell by.
    """
    start, end = subject.whole
    charge: dict[int, int] = {}
    for at_us, battery_pct in lamp.charges:
        if start <= at_us < end:
            level = half_up(battery_pct, 2)
            charge[at_us] = min(level, charge.get(at_us, level))
    if len(charge) < 2:  # the common case: it has no battery
        return None
    burning = [
        (max(run.start, begin), min(run.end, stop))
        for run in lamp.light
        if run.good
        for begin, stop in subject.counted
    ]
    fall = burned_us = 0
    for (before, from_level), (after, to_level) in pairwise(sorted(charge.items())):
        if any(begin <= before and after <= stop for begin, stop in burning):
            fall += from_level - to_level
            burned_us += after - before
    if burned_us < AUTONOMY_BURN_MIN_US or fall < 100 * AUTONOMY_FALL_MIN_PCT:
        return None
    return (2 * _FULL * burned_us + fall) // (2 * fall)
