# SPDX-License-Identifier: Apache-2.0
"""Repair clocks: product and oracle agree on weekends, holidays and days of 23 and 25 hours."""

from datetime import UTC, date, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.indicators import repairs
from ingest.indicators.repairs import FAULT_CLASSES, Fault, FaultClass
from ingest.indicators.security import times
from ingest.indicators.spans import to_us
from ingest.indicators.tally import Tally
from tests.oracle import repairs as slow

HOUR_US = 3_600 * 10**6
ZONES = ("Asia/Shanghai", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia")
START = to_us(datetime(2026, 1, 1, tzinfo=UTC))
END = to_us(datetime(2027, 2, 1, tzinfo=UTC))
INSTANTS = st.one_of(
    st.integers(START, END),
    # Whole hours: midnights, changes of clocks.
    st.integers(0, (END - START) // HOUR_US).map(lambda hours: START + hours * HOUR_US),
)
HOLIDAYS = st.sets(
    st.integers(0, 400).map(lambda days: date(2026, 1, 1) + timedelta(days=days)), max_size=12
)


@given(INSTANTS, st.sampled_from(FAULT_CLASSES), st.sampled_from(ZONES), HOLIDAYS)
@settings(max_examples=500, deadline=None)
def test_deadlines_equal_the_oracle(
    raised: int, fault_class: repairs.FaultClass, zone: str, holidays: set[date]
) -> None:
    found = repairs.deadline_us(raised, fault_class, zone, holidays)
    assert found == slow.deadline(raised, fault_class, zone, holidays)
    assert found > raised


CODES: dict[str, FaultClass] = {"spark": "emergency", "dim": "ordinary", "cable": "major"}


@given(st.data(), st.integers(0, 8), HOLIDAYS)
@settings(deadline=None)
def test_repairs_equal_the_oracle(data: st.DataObject, count: int, holidays: set[date]) -> None:
    now = data.draw(INSTANTS)
    faults: list[Fault] = []
    for _ in range(count):
        code, zone = data.draw(st.sampled_from(sorted(CODES))), data.draw(st.sampled_from(ZONES))
        raised = now - data.draw(st.one_of(st.integers(0, 8 * 24), st.just(1))) * HOUR_US
        end = slow.deadline(raised, CODES[code], zone, holidays)
        near = st.sampled_from((None, end - 1, end, end + 1, now, now + 1, raised - HOUR_US))
        why = data.draw(st.sampled_from((None, None, "maintenance", "not_in_service")))
        faults.append(Fault("lamp", code, zone, raised, data.draw(near), why))

    tally = repairs.tally(faults, now, CODES, holidays)
    found = repairs.repair_times(faults, now)

    verdicts: list[bool | None] = []
    done: list[int] = []
    going_on: list[int] = []
    for fault in (fault for fault in faults if fault.excluded is None):
        end = slow.deadline(fault.raised_us, CODES[fault.code], fault.time_zone, holidays)
        verdicts.append(slow.in_time(fault.raised_us, fault.cleared_us, now, end))
        if fault.cleared_us is None or fault.cleared_us > now:
            going_on.append(now - fault.raised_us)
        else:
            done.append(max(0, fault.cleared_us - fault.raised_us))
    excluded = [fault.excluded for fault in faults if fault.excluded is not None]
    assert tally == Tally(
        verdicts.count(True),
        verdicts.count(False),
        len(verdicts),
        len(verdicts),
        {why: excluded.count(why) for why in set(excluded)},
    )
    assert found == times(done, going_on)
