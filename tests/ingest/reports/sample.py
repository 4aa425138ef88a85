# SPDX-License-Identifier: Apache-2.0
"""A month to write: reached and missed targets, nights without data, an area nobody heard of."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from random import Random
from typing import Final

from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.definition import Definition, Language, Target
from ingest.indicators.rate import share as rate_of
from ingest.indicators.tally import Tally
from ingest.reports.content import ChildRow, Day, InputRow, Number, Report, Restated
from ingest.store.road_nights import RoadNights

MONTH: Final = date(2026, 10, 1)
MADE_AT: Final = datetime(2026, 11, 2, 1, 30, 15, tzinfo=UTC)
HOUR_US: Final = 3_600_000_000
NO_DATA_NIGHTS: Final = (date(2026, 10, 12), date(2026, 10, 13), date(2026, 10, 20))

LIGHTING: Final = Definition(
    "lighting-uptime",
    "lighting",
    "share",
    "us",
    {"zh-CN": "亮灯率(按时间)", "en": "Lighting uptime (by time)"},
    INDICATORS["lighting-uptime"].formula,
    Target(0.97, "R0"),
)
EQUIPMENT: Final = Definition(
    "equipment-good",
    "equipment",
    "share",
    "us",
    {"zh-CN": "设备完好率", "en": "Equipment in good condition"},
    {
        "zh-CN": "在用且已知的时间中没有故障的时间 ÷ 在用且已知的时间,扣除已批准的检修。",
        "en": "Time in service without a fault / time in service and known, less accepted "
        "maintenance.",
    },
    Target(0.96, "R0"),
    by_kind=True,
)
SORTED: Final = Definition(
    "refuse-sorted",
    "refuse",
    "share",
    "g",
    {"zh-CN": "垃圾分类率", "en": "Refuse collected sorted"},
    {"zh-CN": "分类正确的重量 ÷ 投放重量。", "en": "Weight sorted correctly / weight deposited."},
    Target(0.6, "R0"),
)
OVERFLOW: Final = Definition(
    "bin-overflow",
    "refuse",
    "sum",
    "us",
    {"zh-CN": "满溢时长", "en": "Overflow time"},
    {"zh-CN": "满溢度达到 90 % 的已知时间。", "en": "Known time at a fill of 90 % or more."},
)
ENERGY: Final = Definition(
    "lamp-energy",
    "lighting",
    "sum",
    "Wh",
    {"zh-CN": "照明用电", "en": "Lighting energy"},
    {"zh-CN": "电能计数之差。", "en": "Differences of the energy counters."},
)
INCIDENTS: Final = Definition(
    "incident-rate",
    "security",
    "rate",
    "cases",
    {"zh-CN": "刑事案件发生率", "en": "Incident rate"},
    {
        "zh-CN": "经确认的刑事案件数 ÷ 平均常住人口,折算为一年,× 1000;区间为精确泊松 95 % 区间。",
        "en": "Confirmed criminal incidents / average residents, scaled to a year, x 1000; with "
        "the exact Poisson 95 % interval.",
    },
    Target(1.5, "R1", "low"),
)
ACKNOWLEDGE: Final = Definition(
    "time-to-acknowledge",
    "security",
    "times",
    "us",
    {"zh-CN": "告警确认用时", "en": "Time to acknowledge"},
    {"zh-CN": "从触发到确认的时长:中位数与九成以内。", "en": "From raise to acknowledgement."},
)
DEFINITIONS: Final = (LIGHTING, EQUIPMENT, SORTED, OVERFLOW, ENERGY, INCIDENTS, ACKNOWLEDGE)


ROADS: Final = (
    RoadNights("community-0", "龙腾街", 31, 20, 9, 2, 40, 6, 1, 2, date(2026, 10, 8)),
    RoadNights("community-4", "=1+1", 31, 30, 0, 1, 120, 3, 2, 3, date(2026, 10, 9)),
    RoadNights("elsewhere", "Ring Road", 31, 0, 0, 0, 240, 11, 0, None, date(2026, 10, 10)),
)
RESTATED: Final = (
    Restated(
        LIGHTING.id, date(2026, 10, 5), "community-0", "", 2, 9 * HOUR_US, HOUR_US, 12 * HOUR_US,
        11 * HOUR_US, HOUR_US, 12 * HOUR_US, datetime(2026, 10, 8, 16, 30, tzinfo=UTC), "late",
    ),
    Restated(
        EQUIPMENT.id, date(2026, 10, 5), "community-0", "lamp", 1, 0, 0, 24 * HOUR_US,
        23 * HOUR_US, HOUR_US, 24 * HOUR_US, datetime(2026, 10, 8, 1, 2, tzinfo=UTC), "registry",
    ),
    Restated(
        ENERGY.id, date(2026, 10, 4), "community-9", "", 1, 1_200, 0, 1_200, 1_450, 0, 1_450,
        datetime(2026, 10, 7, 1, 2, tzinfo=UTC), "somebody-knows",
    ),
)  # fmt: skip


def share(definition: Definition, good: int, bad: int, total: int, kind: str = "") -> Number:
    """A share as the platform computes it."""
    assert definition.target is not None
    rate = rate_of(Tally(good, bad, total), definition.target)
    return Number(
        definition.id,
        kind,
        rate.value,
        rate.lower,
        rate.upper,
        rate.coverage,
        good,
        good + bad,
        total,
        "fraction",
        definition.target,
        rate.verdict,
        revision=1,
        status="final",
        subjects=120,
    )


def days(definition: Definition, seed: int, level: float) -> tuple[Day, ...]:
    """A month of days, a little unknown on each; three without any data."""
    rng = Random(seed)
    made: list[Day] = []
    for offset in range(31):
        day = MONTH + timedelta(days=offset)
        total = 120 * 11 * HOUR_US
        unknown = total if day in NO_DATA_NIGHTS else int(total * rng.uniform(0.0, 0.02))
        good = int((total - unknown) * min(1.0, level + rng.uniform(-0.012, 0.012)))
        bad = total - unknown - good
        assert definition.target is not None
        rate = rate_of(Tally(good, bad, total), definition.target)
        made.append(
            Day(
                day, rate.value, rate.lower, rate.upper, rate.coverage, good, bad, total,
                subjects=120, status="final", revision=1 + (offset == 4),
                excluded={"maintenance": 2 * HOUR_US} if offset == 7 else {},
            )
        )  # fmt: skip
    return tuple(made)


def over_month(definition: Definition, daily: Sequence[Day], kind: str = "") -> Number:
    """The month that days add up to."""
    good, bad, total = (
        sum(parts) for parts in zip(*((d.good, d.bad, d.total) for d in daily), strict=True)
    )
    number = share(definition, good, bad, total, kind)
    return replace(number, excluded={"maintenance": 2 * HOUR_US, "not_in_service": 0})


def sample(language: Language = "zh-CN", *, children: int = 6) -> Report:
    """A street with communities below it."""
    nights, equipment = days(LIGHTING, 1, 0.976), days(EQUIPMENT, 2, 0.945)
    refuse = tuple(replace(day, excluded={}) for day in days(SORTED, 3, 0.7))
    rng = Random(4)
    below = tuple(_child(n, rng) for n in range(children))
    return Report(
        area_id="huilongguan",
        area_name={"zh-CN": "回龙观街道", "en": "Huilongguan Street"},
        path_names=(
            {"zh-CN": "北京市", "en": "Beijing"},
            {"zh-CN": "昌平区", "en": "Changping District"},
        ),
        level="street",
        month=MONTH,
        time_zone="Asia/Shanghai",
        made_at=MADE_AT,
        language=language,
        numbers=(
            over_month(LIGHTING, nights),
            over_month(EQUIPMENT, equipment),
            over_month(EQUIPMENT, equipment, "lamp"),
            share(EQUIPMENT, 0, 0, 50 * HOUR_US, "gate"),
            share(EQUIPMENT, 0, 0, 0, "alarm"),
            replace(over_month(SORTED, refuse), excluded={}),
            _other("incident-rate", 1.7241, "per_mille_year", lower=0.9, upper=2.98),
            _other("bin-overflow", 93.25 * HOUR_US, "us"),
            _other("lamp-energy", 18_250_400, "Wh"),
            replace(_other("time-to-acknowledge", 95_000_000, "us"), p90=412_000_000.0),
        ),
        daily={LIGHTING.id: nights, EQUIPMENT.id: equipment, SORTED.id: refuse},
        children=below,
        inputs=tuple(row for day in nights for row in _inputs(day)),
        definitions=DEFINITIONS,
        roads=ROADS,
        restated=RESTATED,
        restated_count=len(RESTATED),
    )  # fmt: skip


def _inputs(day: Day) -> list[InputRow]:
    """Six communities that add up to the day."""
    rows: list[InputRow] = []
    for n in range(6):
        good, bad, total = (
            parts // 6 + (parts % 6 if n == 0 else 0) for parts in (day.good, day.bad, day.total)
        )
        excluded = day.excluded if n == 0 else dict[str, int]()
        rows.append(
            InputRow(
                LIGHTING.id, day.day, f"community-{n}", "", good, bad, total, 20, excluded,
                day.revision, day.status, 1,
            )
        )  # fmt: skip
    return rows


def _child(n: int, rng: Random) -> ChildRow:
    total = 20 * 31 * 11 * HOUR_US
    unknown = total if n == 3 else int(total * rng.uniform(0, 0.015))
    good = int((total - unknown) * rng.uniform(0.945, 0.995))
    bad = total - unknown - good
    names = ("龙跃苑", "云趣园", "风雅园", "龙腾苑", "和谐家园", "北店嘉园")
    return ChildRow(
        f"community-{n}",
        {
            "zh-CN": f"{names[n % 6]}{n // 6 + 1}社区",
            "en": f"{('Longyue', 'Yunqu', 'Fengya')[n % 3]} Garden {n + 1}",
        },
        "community",
        (share(LIGHTING, good, bad, total), share(EQUIPMENT, good, bad, total)),
    )


def _other(
    indicator: str, value: float, unit: str, lower: float | None = None, upper: float | None = None
) -> Number:
    definition = next(known for known in DEFINITIONS if known.id == indicator)
    assert unit in ("us", "Wh", "per_mille_year")
    rate = definition.shape == "rate"
    return Number(
        indicator,
        "",
        value,
        lower,
        upper,
        1.0 if rate else None,
        5 if rate else int(value),
        1_058_400 if rate else None,
        None,
        unit,
        definition.target,
        "undetermined" if rate else None,
        revision=1,
        status="final",
        subjects=12,
    )
