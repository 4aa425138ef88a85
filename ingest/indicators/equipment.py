# SPDX-License-Identifier: Apache-2.0
"""Equipment in good condition (设备完好率): in-service time without an open confirmed fault.

Good time / (good time + faulty time), a fraction from 0 to 1, over lamps, bins, gates and alarms,
each and together; parts in microseconds. A reading says good or faulty (does it carry a fault?)
and holds until the next one, at most ``max_silence``; after that the device is unknown: a lost
link is not a fault. Accepted maintenance and time out of service do not count.
Source: domain.md, Equipment in good condition; the target of 96 % is R0's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ingest.indicators.definition import Definition, Target
from ingest.indicators.spans import Hold
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally, add_up

GOOD: Final = "equipment-good"
INDICATORS: Final[tuple[Definition, ...]] = (
    Definition(
        id=GOOD,
        domain="equipment",
        shape="share",
        parts="us",
        name={"zh-CN": "设备完好率", "en": "Equipment in good condition"},
        formula={
            "zh-CN": "设备完好率 = 在用且可知时段内无故障的时间 ÷ 在用且可知的时间，"
            "按路灯、垃圾桶、门禁、报警器分别计算，并合并计算。扣除已批准的检修和未投用的时间。"
            "一次上报的状态有效至下一次上报，最长为三个上报周期，其后为未知：断线不算故障。"
            "下限按未知为故障计，上限按未知为完好计。"
            "下限达到目标为达标，上限低于目标为未达标，其余暂不能判定。",
            "en": "Equipment in good condition = in-service and known time without an open "
            "fault / in-service and known time, over lamps, bins, gates and alarms, each and "
            "together. Accepted maintenance and time out of service do not count. A report holds "
            "until the next one, at most three reporting periods; then the device is unknown: a "
            "lost link is not a fault. The lower bound counts unknown as faulty, the upper bound "
            "as good. Met when the lower bound reaches the target, not met when the upper bound "
            "is below it, otherwise undetermined.",
        },
        target=Target(0.96, "R0"),
        by_kind=True,
    ),
)


def tally(
    subjects: Sequence[Subject], health: Mapping[int, Sequence[Hold]], until_us: int
) -> dict[Key, Tally]:
    """Add up one day's good and faulty time by area, by device class and together (``""``).

    Args:
        subjects: Every device that is to be counted, heard of or not.
        health: By device id, from when to when it is known to have been without a fault or with
            one, as its readings of the day and those that still hold when it begins say.
        until_us: What lies after has not come yet (a running day); the day's end or later when it
            is over.

    Returns:
        Microseconds; ``subjects`` counts the devices with time that counts.
    """
    return add_up(_parts(subjects, health, until_us))


def _parts(
    subjects: Sequence[Subject], health: Mapping[int, Sequence[Hold]], until_us: int
) -> Iterator[tuple[Key, Tally]]:
    for subject in subjects:
        come = subject.until(until_us)
        good, bad = come.settle(health.get(subject.device_id, ()))
        part = Tally(good, bad, come.counted_us, int(come.counted_us > 0), come.excluded)
        yield Key(GOOD, subject.area), part
        yield Key(GOOD, subject.area, subject.kind), part
