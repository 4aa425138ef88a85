# SPDX-License-Identifier: Apache-2.0
"""How a report speaks: labels in both languages, and figures as people read them.

A share is never shown as reaching its target, or as 0 % or 100 %, by rounding alone: it gets as
many decimals as that takes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Final

from ingest.indicators.catalogue import SOURCES
from ingest.indicators.definition import Definition, Language, Parts, Target, Text
from ingest.indicators.rate import Verdict
from ingest.reports.content import Day, Number, Report

# Never colour alone: a sign and a word stand beside it.
SIGN: Final[Mapping[Verdict, str]] = {"met": "✓", "not_met": "✗", "undetermined": "?"}
# A share that rounding would misstate gets more decimals, at most so many.
_MOST_DECIMALS: Final = 12
# Control letters but tab and new line, lone surrogates, and what XML forbids.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

_WORDS: Final[Mapping[str, Text]] = {
    "title": {"zh-CN": "社区指标月报", "en": "Monthly indicator report"},
    "summary": {"zh-CN": "汇总", "en": "Summary"},
    "daily": {"zh-CN": "逐日数据", "en": "Daily"},
    "areas": {"zh-CN": "下级区域", "en": "Areas below"},
    "inputs": {"zh-CN": "原始输入", "en": "Raw inputs"},
    "definitions": {"zh-CN": "指标定义", "en": "Definitions"},
    "area": {"zh-CN": "区域", "en": "Area"},
    "area_code": {"zh-CN": "区域编码", "en": "Area code"},
    "level": {"zh-CN": "级别", "en": "Level"},
    "above": {"zh-CN": "所属", "en": "Part of"},
    "period": {"zh-CN": "统计期", "en": "Period"},
    "made_at": {"zh-CN": "生成时间", "en": "Made at"},
    "time_zone": {"zh-CN": "时区", "en": "Time zone"},
    "indicator": {"zh-CN": "指标", "en": "Indicator"},
    "indicator_id": {"zh-CN": "指标编码", "en": "Indicator id"},
    "domain": {"zh-CN": "领域", "en": "Domain"},
    "kind": {"zh-CN": "设备类别", "en": "Device class"},
    "all_kinds": {"zh-CN": "全部", "en": "All"},
    "value": {"zh-CN": "数值", "en": "Value"},
    "unit": {"zh-CN": "单位", "en": "Unit"},
    "lower": {"zh-CN": "下限", "en": "Lower bound"},
    "upper": {"zh-CN": "上限", "en": "Upper bound"},
    "bounds": {"zh-CN": "下限至上限", "en": "Bounds"},
    "p90": {"zh-CN": "九成以内", "en": "90th percentile"},
    "coverage": {"zh-CN": "已知比例", "en": "Coverage"},
    "target": {"zh-CN": "目标", "en": "Target"},
    "source": {"zh-CN": "目标来源", "en": "Target source"},
    "no_target": {"zh-CN": "未设目标", "en": "None set"},
    "better": {"zh-CN": "方向", "en": "Better"},
    "verdict": {"zh-CN": "结论", "en": "Verdict"},
    "why": {"zh-CN": "无数值的原因", "en": "Why no value"},
    "numerator": {"zh-CN": "分子", "en": "Numerator"},
    "denominator": {"zh-CN": "分母", "en": "Denominator"},
    "good": {"zh-CN": "好（分子）", "en": "Good (numerator)"},
    "bad": {"zh-CN": "不好", "en": "Bad"},
    "total": {"zh-CN": "应计合计", "en": "All that counts"},
    "parts": {"zh-CN": "分量单位", "en": "Unit of parts"},
    "subjects": {"zh-CN": "对象数", "en": "Subjects"},
    "excluded": {"zh-CN": "不计入", "en": "Excluded"},
    "maintenance": {"zh-CN": "已批准的检修", "en": "Accepted maintenance"},
    "not_in_service": {"zh-CN": "未在用", "en": "Not in service"},
    "false_alarm": {"zh-CN": "误报", "en": "False alarm"},
    "test": {"zh-CN": "测试", "en": "Test"},
    "duplicate": {"zh-CN": "重复", "en": "Duplicate"},
    "withdrawn": {"zh-CN": "已撤回", "en": "Withdrawn"},
    "other_reasons": {"zh-CN": "其他原因", "en": "Other reasons"},
    "revision": {"zh-CN": "修订号", "en": "Revision"},
    "status": {"zh-CN": "状态", "en": "Status"},
    "provisional": {"zh-CN": "暂定", "en": "Provisional"},
    "final": {"zh-CN": "最终", "en": "Final"},
    "rule_version": {"zh-CN": "规则版本", "en": "Rule version"},
    "day": {"zh-CN": "日期", "en": "Day"},
    "formula": {"zh-CN": "定义与公式", "en": "Definition and formula"},
    "name": {"zh-CN": "名称", "en": "Name"},
    "record": {"zh-CN": "记录类型", "en": "Record"},
    "record.number": {"zh-CN": "当月", "en": "month"},
    "record.day": {"zh-CN": "逐日", "en": "day"},
    "record.child": {"zh-CN": "下级", "en": "area below"},
    "record.input": {"zh-CN": "输入", "en": "input"},
    "missing.nothing_counted": {
        "zh-CN": "无数值：本期没有应计的对象",
        "en": "No value: nothing counted in this period",
    },
    "missing.no_data": {
        "zh-CN": "无数值：没有数据（已知比例 0）",
        "en": "No value: no data (coverage 0)",
    },
    "missing.no_population": {
        "zh-CN": "无数值：没有覆盖全期的人口数",
        "en": "No value: population not known for every day",
    },
    "missing.no_cases": {
        "zh-CN": "无数值：本期没有可计的事项",
        "en": "No value: no case to count in this period",
    },
    "missing.none_finished": {
        "zh-CN": "无数值：事项均未办结",
        "en": "No value: no case is finished yet",
    },
    "missing.day": {"zh-CN": "当日没有数据", "en": "No data for this day"},
    "missing.to_come": {"zh-CN": "尚未到来", "en": "Not yet come"},
    "is_provisional": {
        "zh-CN": "暂定：本期有日期尚未结算，数值可能变动。",
        "en": "Provisional: some days are not final yet, and numbers may still change.",
    },
    "against_targets": {"zh-CN": "对照目标", "en": "Against targets"},
    "other_numbers": {"zh-CN": "其他指标", "en": "Other numbers"},
    "by_day": {"zh-CN": "{name}：逐日", "en": "{name}, day by day"},
    "by_area": {"zh-CN": "{name}：下级区域", "en": "{name}, areas below"},
    "furthest": {
        "zh-CN": "仅绘出离目标最远的 {shown} 个区域，共 {all} 个；全部见下表。",
        "en": "The {shown} areas furthest from the target of {all}; all are in the table.",
    },
    "table_cut": {
        "zh-CN": "此处列出 {shown} 个区域，共 {all} 个；全部见 XLSX 和 CSV 报表。",
        "en": "{shown} areas of {all} are listed here; the XLSX and CSV reports hold all.",
    },
    "chart_band": {"zh-CN": "下限至上限", "en": "lower to upper bound"},
    "chart_value": {"zh-CN": "数值", "en": "value"},
    "chart_target": {"zh-CN": "目标", "en": "target"},
    "chart_gap": {"zh-CN": "没有数据", "en": "no data"},
    "exclusions": {"zh-CN": "不计入的部分", "en": "What does not count"},
    "no_exclusions": {
        "zh-CN": "本期没有不计入的部分。",
        "en": "Nothing was left out in this period.",
    },
    "amount": {"zh-CN": "数量", "en": "Amount"},
    "reason": {"zh-CN": "原因", "en": "Reason"},
    "how_to_read": {
        "zh-CN": "下限把未知计为不好，上限把未知计为好；已知比例为已知部分占应计部分的比例。"
        "下限达到目标为达标，上限达不到目标为未达标，其余暂不能判定。"
        "目标越低越好的指标，按相反方向判定。案件发生率的下限和上限为其 95 % 区间的两端。",
        "en": "The lower bound counts what is unknown as bad, the upper bound as good; coverage is "
        "the known part of all that counts. Met: even the lower bound reaches the target. Not met: "
        "even the upper bound does not. Otherwise undetermined. Where lower is better, the bounds "
        "change places. The bounds of an incident rate are the ends of its 95 % interval.",
    },
    "roads": {"zh-CN": "道路灭灯", "en": "Roads"},
    "road": {"zh-CN": "道路", "en": "Road"},
    "nights": {"zh-CN": "夜数", "en": "Nights"},
    "nights_met": {"zh-CN": "达标夜数", "en": "Nights within limit"},
    "nights_not_met": {"zh-CN": "超限夜数", "en": "Nights over limit"},
    "nights_undetermined": {"zh-CN": "不能判定夜数", "en": "Nights undetermined"},
    "lamps": {"zh-CN": "灯数", "en": "Lamps"},
    "dark": {"zh-CN": "最多灭灯", "en": "Most dark"},
    "unknown_lamps": {"zh-CN": "当夜不可判定", "en": "Not assessable then"},
    "dark_max": {"zh-CN": "允许灭灯", "en": "Dark allowed"},
    "worst_night": {"zh-CN": "最差一夜", "en": "Worst night"},
    "roads_cut": {
        "zh-CN": "此处列出最差的 {shown} 条道路；其余见 XLSX 和 CSV 报表。",
        "en": "The {shown} worst roads; the XLSX and CSV reports hold more.",
    },
    "restated": {"zh-CN": "重新计算记录", "en": "Restated"},
    "restated_note": {
        "zh-CN": "结算后又重新计算的逐日数值：原值、新值和原因，最近的在前。",
        "en": "Numbers of days that changed after they were final: what they were, what they "
        "became, and why; the latest change first.",
    },
    "restated_cut": {
        "zh-CN": "此处列出最近的 {shown} 条，共 {all} 条。",
        "en": "The latest {shown} of {all} are listed here.",
    },
    "none_restated": {
        "zh-CN": "本期没有结算后重新计算的数值。",
        "en": "No number of this period was restated after it was final.",
    },
    "replaced_at": {"zh-CN": "重新计算时间", "en": "Restated at"},
    "was": {"zh-CN": "原值", "en": "Was"},
    "became": {"zh-CN": "新值", "en": "Became"},
    "was_good": {"zh-CN": "原好（分子）", "en": "Good before"},
    "was_bad": {"zh-CN": "原不好", "en": "Bad before"},
    "was_total": {"zh-CN": "原应计合计", "en": "All that counted before"},
    "reason.late": {"zh-CN": "收到补传数据", "en": "data arrived late"},
    "reason.maintenance": {"zh-CN": "检修登记有变", "en": "maintenance was changed"},
    "reason.registry": {"zh-CN": "设施台账有变", "en": "the register was changed"},
    "reason.definition": {"zh-CN": "指标口径有变", "en": "the definition was changed"},
    "reason.incident": {"zh-CN": "案事件记录有变", "en": "an incident record was changed"},
    "reason.city": {"zh-CN": "所属城市更正", "en": "its city restated it"},
    "reason.opened": {"zh-CN": "首次计算", "en": "the day was opened"},
    "reason.over": {"zh-CN": "日终结算", "en": "the day was over"},
    "reason.running": {"zh-CN": "当日更新", "en": "the day was still running"},
    "record.road": {"zh-CN": "道路", "en": "road"},
    "record.restated": {"zh-CN": "重新计算", "en": "restated"},
    "page": {"zh-CN": "第 {page} 页，共 ", "en": "Page {page} of "},
    "page_end": {"zh-CN": " 页", "en": ""},
    "unit.fraction": {"zh-CN": "%", "en": "%"},
    "unit.per_mille_year": {"zh-CN": "‰/年", "en": "‰ a year"},
    "unit.us": {"zh-CN": "小时", "en": "h"},
    "unit.minutes": {"zh-CN": "分钟", "en": "min"},
    "unit.g": {"zh-CN": "千克", "en": "kg"},
    "unit.Wh": {"zh-CN": "千瓦时", "en": "kWh"},
    "unit.devices": {"zh-CN": "台", "en": "devices"},
    "unit.roads": {"zh-CN": "条", "en": "roads"},
    "unit.cases": {"zh-CN": "件", "en": "cases"},
    "unit.person_days": {"zh-CN": "人·日", "en": "person-days"},
    "raw.fraction": {"zh-CN": "比例（0 至 1）", "en": "fraction"},
    "better.high": {"zh-CN": "越高越好", "en": "higher"},
    "better.low": {"zh-CN": "越低越好", "en": "lower"},
    "raw.us": {"zh-CN": "微秒", "en": "us"},
    "raw.g": {"zh-CN": "克", "en": "g"},
    "raw.Wh": {"zh-CN": "瓦时", "en": "Wh"},
    "domain.lighting": {"zh-CN": "照明", "en": "Lighting"},
    "domain.equipment": {"zh-CN": "设备", "en": "Equipment"},
    "domain.refuse": {"zh-CN": "垃圾", "en": "Refuse"},
    "domain.access": {"zh-CN": "门禁", "en": "Access"},
    "domain.security": {"zh-CN": "治安", "en": "Security"},
}


_OTHER: Final = "other_reasons"
# Why something does not count: the columns of the tables, in their order. Time and devices by the
# registry, cases by how they were settled.
REASONS: Final = (
    "maintenance",
    "not_in_service",
    "false_alarm",
    "test",
    "duplicate",
    "withdrawn",
    _OTHER,
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How parts are shown: divided by ``divisor``, in ``unit``, with so many decimals."""

    divisor: int
    unit: str
    decimals: int


SCALES: Final[Mapping[Parts, Scale]] = {
    "us": Scale(3_600_000_000, "unit.us", 1),
    "g": Scale(1_000, "unit.g", 1),
    "Wh": Scale(1_000, "unit.Wh", 1),
    "devices": Scale(1, "unit.devices", 0),
    "roads": Scale(1, "unit.roads", 0),
    "cases": Scale(1, "unit.cases", 0),
}
MINUTES: Final = Scale(60_000_000, "unit.minutes", 1)


@cache
def _shared(language: Language) -> Mapping[str, str]:
    """Return the words that the console and the reports share."""
    text = files("ingest").joinpath("locales", f"{language}.json").read_text(encoding="utf-8")
    shared: dict[str, str] = json.loads(text)
    return shared


def word(key: str, language: Language, **values: object) -> str:
    """Return a label; a key that nobody knows, such as a new exclusion, is shown as it is."""
    text = _WORDS[key][language] if key in _WORDS else _shared(language).get(key, key)
    return text.format(**values) if values else text


def kind_name(kind: str, language: Language) -> str:
    """Return a device class for people; ``""`` is all classes together."""
    return word(f"kind.{kind}" if kind else "all_kinds", language)


def domain_name(domain: str, language: Language) -> str:
    """Return a domain for people; one without a word is shown as it is."""
    key = f"domain.{domain}"
    return word(key, language) if key in _WORDS else domain


def raw_unit(parts: Parts, language: Language) -> str:
    """Return what parts are counted in, as they are stored."""
    key = f"raw.{parts}"
    return word(key if key in _WORDS else f"unit.{parts}", language)


def unit_name(definition: Definition, language: Language) -> str:
    """Return what exact values of the indicator are told in."""
    match definition.shape:
        case "share":
            return word("raw.fraction", language)
        case "rate":
            return word("unit.per_mille_year", language)
        case "sum" | "times":
            return raw_unit(definition.parts, language)


def area_name(report: Report, area: str) -> str:
    """Return the name of the area or of one right below it; of others only the code is known."""
    if area == report.area_id:
        return report.area_name[report.language]
    names = (child.name[report.language] for child in report.children if child.area == area)
    return next(names, "")


def path_text(report: Report) -> str:
    """Return the areas above and the area itself, from the city down."""
    names = [*report.path_names, report.area_name]
    return printable(" / ".join(name[report.language] for name in names))


def period_text(report: Report) -> str:
    """Return the first and the last day."""
    return f"{report.month:%Y-%m-%d} – {report.last_day:%Y-%m-%d}"


def title(report: Report) -> str:
    """Return what the file is called by its own metadata."""
    name, label = report.area_name[report.language], word("title", report.language)
    return printable(f"{name} {label} {report.month:%Y-%m}")


def made_text(report: Report) -> str:
    """Return when the report was made, by local clocks, with the zone it is told in."""
    return f"{report.made_local:%Y-%m-%d %H:%M} ({report.time_zone})"


def verdict_text(verdict: Verdict, language: Language) -> str:
    """Return the verdict's sign and word."""
    return f"{SIGN[verdict]} {word(f'verdict.{verdict}', language)}"


def honest(value: float, limits: tuple[float, ...], decimals: int = 2) -> str:
    """Return a figure with as many decimals as keep it on its side of every limit."""
    text = ""
    for places in range(decimals, _MOST_DECIMALS + 1):
        text = f"{value:.{places}f}"
        shown = float(text)
        if all(
            (shown < limit, shown > limit) == (value < limit, value > limit) for limit in limits
        ):
            break
    return text


def percent(value: float, target: float | None = None) -> str:
    """Return a fraction as percent that does not claim, by rounding, what is not so."""
    limits = (0.0, 1.0) if target is None else (0.0, 1.0, target)
    # A target such as 0.29 is 29 %, whatever a float makes of 100 times it.
    return f"{honest(round(100 * value, 13), tuple(round(100 * at, 10) for at in limits))} %"


def figure(
    value: float, number: Number, definition: Definition, language: Language, *, unit: bool = True
) -> str:
    """Return a value or bound of this number with its unit."""
    match number.unit:
        case "fraction":
            return percent(value, None if number.target is None else number.target.value)
        case "per_mille_year":
            text = honest(value, () if number.target is None else (number.target.value,))
            return f"{text} {word('unit.per_mille_year', language)}" if unit else text
        case parts:
            scale = MINUTES if definition.shape == "times" else SCALES[parts]
            return amount(value, scale, language, unit=unit)


def amount(value: float, scale: Scale, language: Language, *, unit: bool = True) -> str:
    """Return parts as people count them: hours rather than microseconds."""
    text = f"{value / scale.divisor:,.{scale.decimals}f}"
    return f"{text} {word(scale.unit, language)}" if unit else text


def target_text(number: Number, definition: Definition, language: Language) -> str:
    """Return the target with its direction and source; a dash where none is set."""
    target = number.target
    if target is None:
        return "–"
    return f"{_limit(target, number, definition, language)} ({target.source})"


def _limit(target: Target, number: Number, definition: Definition, language: Language) -> str:
    sign = "≥" if target.better == "high" else "≤"
    if number.unit == "fraction":
        return f"{sign} {100 * target.value:g} %"
    if number.unit == "per_mille_year":
        return f"{sign} {target.value:g} {word('unit.per_mille_year', language)}"
    return f"{sign} {figure(target.value, number, definition, language)}"


def missing_text(number: Number, definition: Definition, language: Language) -> str:
    """Return why there is no value; empty where there is one."""
    reason = number.missing(definition)
    return "" if reason is None else word(f"missing.{reason}", language)


def missing_day_text(report: Report, day: date, known: Day | None, definition: Definition) -> str:
    """Return why a day has no value; empty where it has one."""
    if known is not None and known.value is not None:
        return ""
    reason = "day"
    if report.is_to_come(day):
        reason = "to_come"
    elif known is not None and definition.shape == "rate":
        reason = "no_population"
    elif known is not None and definition.shape == "times":
        reason = "no_cases"
    elif known is not None and known.total == 0:
        reason = "nothing_counted"
    return word(f"missing.{reason}", report.language)


def left_out(excluded: Mapping[str, int]) -> dict[str, int]:
    """Return how much does not count for each of `REASONS`; a reason unknown here is another."""
    amounts = {reason: excluded.get(reason, 0) for reason in REASONS}
    amounts[_OTHER] += sum(much for reason, much in excluded.items() if reason not in amounts)
    return amounts


def bounds_text(number: Number, definition: Definition, language: Language) -> str:
    """Return how low and how high the value can be; an open end where nobody can say."""
    if number.lower is None or number.lower == number.upper:
        return "–"
    low = figure(number.lower, number, definition, language)
    if number.upper is None:
        return f"≥ {low}"
    high = figure(number.upper, number, definition, language, unit=number.unit != "per_mille_year")
    low = figure(number.lower, number, definition, language, unit=False)
    return f"{low.removesuffix(' %')} – {high}"


def reason_text(reason: str, language: Language) -> str:
    """Return why a number was restated; a code that nobody knows is shown as it is."""
    key = f"reason.{reason}"
    return word(key, language) if key in _WORDS else reason


def stated(definition: Definition, good: int, bad: int) -> float | None:
    """Return what one stored day says by itself: a share where it is one, else the amount."""
    if definition.shape != "share":
        return good
    return good / (good + bad) if good + bad else None


def stated_text(definition: Definition, good: int, bad: int, language: Language) -> str:
    """Return what one stored day says by itself, as people read it."""
    value = stated(definition, good, bad)
    if value is None:
        return word("chart_gap", language)
    if definition.shape == "share":
        return percent(value, None if definition.target is None else definition.target.value)
    return amount(value, SCALES[definition.parts], language)


def source_text(source: str, language: Language) -> str:
    """Return where a target is written: the short sign, and the document where we know it."""
    document = SOURCES.get(source)
    return source if document is None else f"{source}: {document[language]}"


def printable(text: str) -> str:
    """Return text without what no file format of ours can hold: control and half letters."""
    return _UNPRINTABLE.sub("\ufffd", text)
