# SPDX-License-Identifier: Apache-2.0
"""docs/indicators.md, made from the definitions themselves.

``python -m ingest.indicators.docs`` makes it anew; a test keeps it current.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ingest.indicators.catalogue import INDICATORS, SOURCES
from ingest.indicators.definition import Definition

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
- A day is **provisional** until an hour after its end, then **final**. What comes later (a late
  reading, a corrected registry, a settled incident) restates it: the **revision** grows and what
  stood there before is kept with the reason.
- `linli-ingest indicators verify --from DAY --to DAY` computes final numbers again from raw
  readings and names every difference.
- A day of lighting is a night: from local noon to local noon, named by the date of its dusk.
"""
_PARTS: Final = {
    "us": "microseconds",
    "g": "grams",
    "Wh": "watt hours",
    "devices": "devices",
    "roads": "roads",
    "cases": "cases",
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


if __name__ == "__main__":
    FILE.write_text(render(), encoding="utf-8")
