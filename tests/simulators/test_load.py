# SPDX-License-Identifier: Apache-2.0
"""The load generator: what it says is the contract, and it can say the same thing again."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from edge_agent.messages import Batch, parse_telemetry
from simulators.load import Clock, Plan, Readings, community_of, equipment, packets

DEVICES = 40
AT = "2026-03-01T10:00:00.250000Z"


def plan(devices: int = DEVICES) -> Plan:
    return Plan("127.0.0.1", 1, "", "", "", 1, devices, "t")


def said(readings: Readings, cursor: int, count: int, *, full_bin: bool = False) -> Batch:
    text = readings.text(cursor, count, full_bin=full_bin)
    body = text.replace(b"\x00C", b"c0001").replace(b"\x00A", AT.encode())
    return parse_telemetry(
        b'{"v":1,"stream":"s-1","seq":1,"sent_at":"%b","readings":[%b]}' % (AT.encode(), body)
    )


def test_every_reading_keeps_the_contract_and_every_device_is_heard() -> None:
    readings = Readings(plan())
    heard: Counter[str] = Counter()
    for cursor in range(0, 3 * DEVICES, 12):
        batch = said(readings, cursor, 12)
        assert not batch.rejected
        heard.update(reading.device for _, reading in batch.readings)
    assert set(heard.values()) == {3}
    assert len(heard) == DEVICES


def test_one_reading_of_ten_says_something_else() -> None:
    readings = Readings(plan())
    turns = [
        {
            one.device: one.model_dump(exclude={"at"})
            for _, one in said(readings, turn * DEVICES, DEVICES).readings
        }
        for turn in range(41)
    ]
    changed = sum(
        before[device] != after[device] for before, after in pairwise(turns) for device in before
    )
    assert changed == 40 * DEVICES // 10


def test_a_bin_fills_up_on_its_second_reading_and_stays_full() -> None:
    readings = Readings(plan())
    full = [
        [
            one.device
            for _, one in said(readings, turn * DEVICES, DEVICES, full_bin=True).readings
            if one.kind == "bin" and (one.fill_pct or 0) >= 90
        ]
        for turn in range(120)
    ]
    assert full[0] == []
    assert len(full[1]) == 1
    assert all(one == full[1] for one in full[1:])


def test_equipment_is_the_same_everywhere_and_complete() -> None:
    kinds = equipment(400)
    assert Counter(kinds) == {"lamp": 273, "bin": 55, "gate": 27, "alarm": 45}
    assert kinds == equipment(400)
    assert community_of(7) == "c0007"


def test_instants_are_written_in_full() -> None:
    clock = Clock()
    assert clock.text(1_772_359_200_250_000) == AT.encode()
    assert clock.text(1_772_359_201_000_001) == b"2026-03-01T10:00:01.000001Z"


@pytest.mark.parametrize("cut", range(1, 140))
def test_packets_are_found_however_they_are_cut(cut: int) -> None:
    first, second = b"\x40\x02\x00\x07", b"\x32\x80\x01" + bytes(128)
    data = first + second
    whole = list(packets(data))
    assert whole == [(0x40, 2, 4), (0x32, 7, 135)]
    early = list(packets(data[:cut]))
    done = early[-1][2] if early else 0
    rest = data[done:]
    again = [(kind, start + done, end + done) for kind, start, end in packets(rest)]
    assert early + again == whole
