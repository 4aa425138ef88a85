# SPDX-License-Identifier: Apache-2.0
"""Access gates: availability, and doors forced or held open.

Gate availability = time a gate works / (time it works + time it does not), a fraction from 0 to
1, parts in microseconds. It works while its door is closed or open and it reports no fault; it
does not while the door is held or forced or a fault stands. A reading holds until the next one,
at most ``max_silence``; after that the gate is unknown. Forced and held doors are counted by
their events. Accepted maintenance and time out of service do not count, and neither do events in
them. Source: our own definitions; no official formula was found, so no target is set.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from ingest.indicators.definition import Definition
from ingest.indicators.spans import Hold
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally, add_up

AVAILABLE: Final = "gate-available"
FORCED: Final = "gate-forced"
HELD: Final = "gate-held"
# Which event is counted by which indicator.
_COUNTED_BY: Final[Mapping[str, str]] = {"forced": FORCED, "held_open": HELD}

INDICATORS: Final[tuple[Definition, ...]] = (
    Definition(
        id=AVAILABLE,
        domain="access",
        shape="share",
        parts="us",
        name={"zh-CN": "门禁可用率", "en": "Gate availability"},
        formula={
            "zh-CN": "门禁可用率 = 在用且可知时段内正常工作的时间 ÷ 在用且可知的时间。"
            "门为关或正常开启且无故障为正常；门被撑开、被强行打开或有故障为不正常。"
            "一次上报的状态有效至下一次上报，最长为三个上报周期，其后为未知。"
            "扣除已批准的检修和未投用的时间。下限按未知为不正常计，上限按未知为正常计。",
            "en": "Gate availability = in-service and known time in working order / in-service "
            "and known time. In working order: the door is closed, or open as it may be, and no "
            "fault is reported; not: the door is held open or forced, or a fault is reported. A "
            "report holds until the next one, at most three reporting periods; then the gate is "
            "unknown. Accepted maintenance and time out of service do not count. The lower bound "
            "counts unknown as not working, the upper bound as working.",
        },
    ),
    Definition(
        id=FORCED,
        domain="access",
        shape="sum",
        parts="cases",
        name={"zh-CN": "强行开门次数", "en": "Doors forced"},
        formula={
            "zh-CN": "门未经授权被打开的事件次数；检修期间和未投用时的事件不计，另行列出。",
            "en": "Events of a door opened without a grant; those during accepted maintenance or "
            "out of service are not counted but listed beside it.",
        },
        rule_version=2,
    ),
    Definition(
        id=HELD,
        domain="access",
        shape="sum",
        parts="cases",
        name={"zh-CN": "门未关报警次数", "en": "Doors held open"},
        formula={
            "zh-CN": "门开启时间过长的事件次数；检修期间和未投用时的事件不计，另行列出。",
            "en": "Events of a door that stayed open for too long; those during accepted "
            "maintenance or out of service are not counted but listed beside it.",
        },
        rule_version=2,
    ),
)


class Passage(NamedTuple):
    """A gate's event: granted, denied, forced, held_open and so on."""

    at_us: int
    event: str


def tally(
    subjects: Sequence[Subject],
    works: Mapping[int, Sequence[Hold]],
    passages: Mapping[int, Sequence[Passage]],
    until_us: int,
) -> dict[Key, Tally]:
    """Add up one day's availability, forced and held doors by area.

    Args:
        subjects: The gates that are to be counted, heard of or not.
        works: By device id, from when to when it is known to have been in working order or not,
            as its readings of the day and those that still hold when it begins say.
        passages: By device id; those outside the day are left out. Each row is one event.
        until_us: What lies after has not come yet (a running day); the day's end or later when it
            is over.

    Returns:
        Microseconds of `AVAILABLE` (``subjects``: gates with time that counts), events of `FORCED`
        and `HELD` (``subjects``: gates heard in such time).
    """
    return add_up(_parts(subjects, works, passages, until_us))


def _parts(
    subjects: Sequence[Subject],
    works: Mapping[int, Sequence[Hold]],
    passages: Mapping[int, Sequence[Passage]],
    until_us: int,
) -> Iterator[tuple[Key, Tally]]:
    for subject in subjects:
        come = subject.until(until_us)
        counts = int(come.counted_us > 0)
        good, bad = come.settle(works.get(subject.device_id, ()))
        yield (
            Key(AVAILABLE, subject.area),
            Tally(good, bad, come.counted_us, counts, come.excluded),
        )
        heard = good + bad > 0
        for row in passages.get(subject.device_id, ()):
            if come.whole[0] <= row.at_us < come.whole[1]:
                excluded = come.why_excluded(row.at_us)
                heard = heard or excluded is None
                indicator = _COUNTED_BY.get(row.event)
                if indicator is not None:
                    yield Key(indicator, subject.area), _case(excluded)
        for indicator in (FORCED, HELD):
            # That nothing happened is told only of a gate that would have told.
            yield Key(indicator, subject.area), Tally(subjects=int(heard))


def _case(excluded: str | None) -> Tally:
    return Tally(good=1, total=1) if excluded is None else Tally(excluded={excluded: 1})
