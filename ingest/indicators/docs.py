# SPDX-License-Identifier: Apache-2.0
"""docs/indicators.md, made from the definitions themselves.

``python -m ingest.indicators.docs`` makes it anew; a test keeps it current.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final

from ingest.indicators.catalogue import INDICATORS, SOURCES
from ingest.indicators.definition import Definition
from ingest.indicators.officers import DEFAULT_RULE
from ingest.indicators.repairs import (
    DEFAULT_CLASSES,
    EMERGENCY_LIMIT,
    MAJOR_WORKING_DAYS,
    ORDINARY_LIMIT,
    FaultClass,
)

FILE: Final = Path("docs/indicators.md")

_HEAD: Final = """\
# Indicators: what every number means

This page is made from the definitions in `ingest/indicators/` by `python -m
ingest.indicators.docs`; the api serves the same texts at `/api/v1/indicators`, and the console
shows them one click from each number.

## How to read a number

- A **share** is known good / known (good and bad). What is unknown is neither: the **lower** bound
  takes all of it as bad, the **upper** bound as good, and **coverage** is known / all that counts.
- The **verdict** is `met` or `not_met` only where both bounds lie on one side of the target;
  otherwise it is `undetermined`, because what is unknown could still change it.
- A **sum** adds up whole numbers. A **rate** puts cases before people and time, with the exact
  95 % Poisson interval as its bounds. **Times** are medians and 90th percentiles by nearest rank,
  taken over every single time of the area and period, with how many there are; what has not ended
  counts in the lower bound with the time gone by, in the upper bound as endless.
- Numbers are kept by day and finest area, and added up: microseconds, grams, watt hours, things
  counted, all whole numbers, so that sums are exact in any order. Times of devices are kept one by
  one, with a tally of their sum; times of alarms and repairs, and whether repairs were in time, are
  read from the alerts themselves, for what is open changes with the clock.
- Time of accepted maintenance, by device or by a window on any node of the tree, does not count
  and stands beside the number as **excluded**, by reason; docs/registry.md says who may set one.
- A day is **provisional** until an hour after its end, then **final**. What comes later (a late
  reading, a corrected registry, a settled incident) restates it: the **revision** grows and what
  stood there before is kept with the reason.
- `linli-ingest indicators verify --from DAY --to DAY` computes final numbers again from raw
  readings and names every difference.
- A day of lighting is a night: from local noon to local noon, named by the date of its dusk.
"""
_HOUR: Final = timedelta(hours=1)
_PARTS: Final = {
    "us": "microseconds",
    "g": "grams",
    "Wh": "watt hours",
    "devices": "devices",
    "roads": "roads",
    "cases": "cases",
}


_LIMITS: Final[Mapping[FaultClass, str]] = {
    "emergency": f"{EMERGENCY_LIMIT / _HOUR:g} h",
    "ordinary": f"{ORDINARY_LIMIT / _HOUR:g} h",
    "major": f"{MAJOR_WORKING_DAYS} working days",
}


def render() -> str:
    """Return the page as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "## All of them"
    yield ""
    yield "| indicator | name | 名称 | shape | parts | target | source | by class | rule |"
    yield "|---|---|---|---|---|---|---|---|--:|"
    for one in INDICATORS.values():
        target = "-"
        if one.target is not None:
            target = f"{'>=' if one.target.better == 'high' else '<='} {one.target.value:g}"
        yield (
            f"| [`{one.id}`](#{one.id}) | {one.name['en']} | {one.name['zh-CN']}"
            f" | {one.shape} | {_PARTS[one.parts]} | {target}"
            f" | {one.target.source if one.target else '-'} | {'yes' if one.by_kind else '-'}"
            f" | {one.rule_version} |"
        )
    yield ""
    for one in INDICATORS.values():
        yield from _section(one)
    yield from _repairs()
    yield from _officers()
    yield "## Sources of the targets"
    yield ""
    for source, texts in SOURCES.items():
        yield f"- **{source}**: {texts['en']} ({texts['zh-CN']})"
    yield ""


def _section(one: Definition) -> Iterator[str]:
    yield f"### {one.id}"
    yield ""
    yield f"**{one.name['en']}** ({one.name['zh-CN']}), domain `{one.domain}`."
    yield ""
    yield one.formula["en"]
    yield ""
    yield one.formula["zh-CN"]
    yield ""


def _repairs() -> Iterator[str]:
    """Tell by which clock each fault is to be repaired."""
    yield "## Faults and their clocks"
    yield ""
    yield "What `[ingest.faults]` does not name otherwise; any other code is `ordinary`."
    yield ""
    yield "| class | to be repaired within | fault codes |"
    yield "|---|---|---|"
    for name, limit in _LIMITS.items():
        codes = [f"`{code}`" for code, other in DEFAULT_CLASSES.items() if other == name]
        yield f"| `{name}` | {limit} | {', '.join(sorted(codes)) or '-'} |"
    yield ""


def _officers() -> Iterator[str]:
    """Tell the rule by which officers are recommended, with its limits."""
    rule = DEFAULT_RULE
    yield "## How many officers a community is recommended"
    yield ""
    yield (
        "A recommendation about posts with all its reasons (`/api/v1/areas/{area}/officers`), never"
        " a verdict on people; it reads counts alone. Every community begins with one (R2); each"
        " of these speaks for one more, and more than two more is told as `3`, for people to"
        " decide (R0, R1):"
    )
    yield ""
    yield (
        f"- its rate of confirmed criminal incidents ({rule.cases_min} at least) lies above that"
        f" of the rest of the city beyond what chance explains: exact test, p <= {rule.p_above:g};"
    )
    yield (
        f"- it lies far above it: p <= {rule.p_far:g}, and at least {rule.ratio_far:g} times as"
        " high; this counts once more;"
    )
    yield f"- more than {rule.open_cases_max} cases are open;"
    yield (
        f"- of {rule.night_cases_min} cases or more, {rule.night_share:.0%} or more happened"
        f" between {rule.night_from}:00 and {rule.night_to}:00."
    )
    yield ""
    yield (
        "每个社区先配一名民警。以下每项各增一名，增加两名以上的记为“三名及以上”，由人决定："
        f"已确认刑事案件不少于 {rule.cases_min} 起、案发率高于全市其余社区且非偶然"
        f"（精确检验 p ≤ {rule.p_above:g}）；远高于全市（p ≤ {rule.p_far:g} 且不低于"
        f" {rule.ratio_far:g} 倍）再增一名；未结案件超过 {rule.open_cases_max} 起；"
        f"不少于 {rule.night_cases_min} 起案件中有 {rule.night_share:.0%} 以上发生在"
        f" {rule.night_from} 时至次日 {rule.night_to} 时。"
    )
    yield ""


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
