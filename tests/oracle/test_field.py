# SPDX-License-Identifier: Apache-2.0
"""Equipment, gates and refuse: product and oracle agree on days that go wrong in every way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from random import Random
from typing import TypeVar

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingest.indicators import access, equipment, refuse
from ingest.indicators.spans import Hold, clip, day_span, runs
from ingest.indicators.subject import Subject
from ingest.indicators.tally import Key, Tally
from tests.oracle import access as slow_access
from tests.oracle import equipment as slow_equipment
from tests.oracle import refuse as slow_refuse
from tests.oracle.field import MINUTE_US, Device, Said, Sums, bounds

HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
# Days of 23, 24, 25 and 23.5 hours, with midnights that come twice or never; year ends.
DAYS = [
    ("Asia/Shanghai", date(2026, 11, 21)),
    ("Asia/Shanghai", date(2026, 12, 31)),
    ("Asia/Kathmandu", date(2028, 2, 29)),
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("Europe/Berlin", date(2027, 1, 1)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("America/Havana", date(2026, 3, 8)),
    ("America/Havana", date(2026, 11, 1)),
    ("America/Santiago", date(2026, 4, 4)),
    ("America/Santiago", date(2026, 9, 6)),
]
SILENCES_US = (90_000_000, 30 * MINUTE_US, 6 * HOUR_US, 30 * HOUR_US)
KINDS = ("lamp", "bin", "gate", "alarm")
AREAS = ("cell-1", "cell-2")
Row = TypeVar("Row")


@dataclass(frozen=True)
class Scene:
    """A day, how far it has come, and the devices on it."""

    day: date
    zone: str
    now_us: int
    devices: tuple[Device, ...]

    @property
    def start_us(self) -> int:
        return bounds(self.day, self.zone)[0]


def near(draw: st.DrawFn, *marks: int) -> int:
    """An instant of the day or around it, often exactly on a mark or one microsecond beside."""
    if draw(st.booleans()):
        return draw(st.sampled_from(marks)) + draw(st.sampled_from((-1, 0, 1)))
    return draw(st.integers(min(marks) - 2 * HOUR_US, max(marks) + 2 * HOUR_US))


@st.composite
def scenes(draw: st.DrawFn, kinds: Sequence[str] = KINDS, silence_us: int | None = None) -> Scene:
    zone, day = draw(st.sampled_from(DAYS))
    start, end = bounds(day, zone)
    devices: list[Device] = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        begin = draw(st.sampled_from((0, start, near(draw, start, end))))
        finish = draw(st.sampled_from((2**60, end, max(begin, near(draw, start, end)))))
        maintenance = tuple(
            (first, first + draw(st.integers(1, 12 * HOUR_US)))
            for first in (near(draw, start, end) for _ in range(draw(st.integers(0, 3))))
        )
        devices.append(
            Device(
                number,
                draw(st.sampled_from(kinds)),
                draw(st.sampled_from(AREAS)),
                zone,
                (begin, finish),
                silence_us or draw(st.sampled_from(SILENCES_US)),
                maintenance,
            )
        )
    now = draw(st.one_of(st.just(end + HOUR_US), st.builds(lambda: near(draw, start, end))))
    return Scene(day, zone, now, tuple(devices))


def instants(draw: st.DrawFn, scene: Scene, device: Device) -> list[int]:
    """When a device is heard: gaps, duplicates and equal instants among them."""
    start, end = bounds(scene.day, scene.zone)
    silence = device.max_silence_us
    marks = (start, end, scene.now_us, start - silence, device.in_service[0], start + silence)
    marks = tuple(mark for mark in marks if start - 2 * DAY_US < mark < end + 2 * DAY_US)
    found: list[int] = []
    for _ in range(draw(st.integers(0, 8))):
        if found and draw(st.booleans()):
            # After another one: at once, just within silence, on its end, or just beyond.
            step = draw(st.sampled_from((0, 1, silence // 2, silence - 1, silence, silence + 1)))
            found.append(draw(st.sampled_from(found)) + step)
        else:
            found.append(near(draw, *marks))
    return found


def delivered(draw: st.DrawFn, rows: Sequence[Row]) -> list[Row]:
    """The rows as they come: late ones after newer ones, and some twice."""
    come = [*rows, *rows[: draw(st.integers(0, 2))]]
    Random(draw(st.integers(0, 1_000))).shuffle(come)
    return come


def by_device(rows: Sequence[tuple[int, Row]]) -> Mapping[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for number, row in rows:
        found.setdefault(number, []).append(row)
    return found


def known(
    scene: Scene, told: Sequence[tuple[int, tuple[int, bool | None]]]
) -> Mapping[int, list[Hold]]:
    """What was told, as the product takes it: from when to when it was known."""
    silence_us = {device.number: device.max_silence_us for device in scene.devices}
    return {number: runs(words, silence_us[number]) for number, words in by_device(told).items()}


def works(door: str | None, fault: str | None) -> bool | None:
    if fault is not None:
        return False
    return None if door is None else door in {"closed", "open"}


def subjects(scene: Scene) -> list[Subject]:
    """The devices as the product is told of them."""
    whole = day_span(scene.day, scene.zone)
    return [
        Subject(
            device.number,
            device.kind,
            device.area,
            clip([device.in_service], whole),
            device.maintenance,
            whole,
            device.max_silence_us,
        )
        for device in scene.devices
    ]


def flat(tallies: Mapping[Key, Tally]) -> Mapping[tuple[str, str, str], tuple[int, ...]]:
    return {
        (key.indicator, key.area, key.kind): (
            tally.good,
            tally.bad,
            tally.total,
            tally.subjects,
            tally.excluded.get("maintenance", 0),
            tally.excluded.get("not_in_service", 0),
        )
        for key, tally in tallies.items()
    }


def expected(sums: Sums) -> Mapping[tuple[str, str, str], tuple[int, ...]]:
    return {
        key: (
            total.good,
            total.bad,
            total.total,
            total.subjects,
            total.maintenance,
            total.not_in_service,
        )
        for key, total in sums.of.items()
    }


@pytest.mark.parametrize(("zone", "day"), DAYS)
def test_both_find_the_same_day(zone: str, day: date) -> None:
    assert day_span(day, zone) == bounds(day, zone)


@given(st.data())
@settings(deadline=None)
def test_equipment_equals_the_oracle(data: st.DataObject) -> None:
    scene = data.draw(scenes())

    @st.composite
    def readings(draw: st.DrawFn) -> list[slow_equipment.Row]:
        rows = [
            slow_equipment.Row(device.number, at, draw(st.sampled_from((None, "lamp_failure"))))
            for device in scene.devices
            for at in instants(draw, scene, device)
        ]
        return delivered(draw, rows)

    rows = data.draw(readings())
    told = [(row.number, (row.at_us, row.fault is None)) for row in rows]

    tallies = equipment.tally(subjects(scene), known(scene, told), scene.now_us)

    slow = slow_equipment.equipment(scene.devices, rows, scene.day, scene.now_us)
    assert flat(tallies) == expected(slow)


@given(st.data())
@settings(deadline=None)
def test_gates_equal_the_oracle(data: st.DataObject) -> None:
    scene = data.draw(scenes(kinds=("gate",)))

    @st.composite
    def gate_rows(
        draw: st.DrawFn,
    ) -> tuple[list[slow_access.DoorRow], list[slow_access.EventRow]]:
        doors = [
            slow_access.DoorRow(
                device.number,
                at,
                draw(st.sampled_from((None, "closed", "open", "held", "forced"))),
                draw(st.sampled_from((None, None, "motor"))),
            )
            for device in scene.devices
            for at in instants(draw, scene, device)
        ]
        events = [
            slow_access.EventRow(
                device.number,
                at,
                draw(st.sampled_from(("forced", "held_open", "granted", "restored"))),
            )
            for device in scene.devices
            for at in instants(draw, scene, device)
        ]
        return (
            delivered(draw, doors),
            delivered(draw, events),
        )

    doors, events = data.draw(gate_rows())

    tallies = access.tally(
        subjects(scene),
        known(scene, [(row.number, (row.at_us, works(row.door, row.fault))) for row in doors]),
        by_device([(row.number, access.Passage(*row[1:])) for row in events]),
        scene.now_us,
    )

    slow = slow_access.access(scene.devices, doors, events, scene.day, scene.now_us)
    assert flat(tallies) == expected(slow)


STREAMS = st.sampled_from((None, "recyclable", "kitchen", "residual"))
# Around what is full, what is emptied, and what rounding and binary fractions make of them.
THRESHOLDS = (60.0, 60.01, 65.1, 65.11, 89.99, 89.994, 89.995, 90.0, 95.0, 95.1)
FILLS = st.one_of(st.sampled_from(THRESHOLDS), st.sampled_from(THRESHOLDS), st.floats(0, 100))
WEIGHTS = st.one_of(
    st.sampled_from((0.0, 0.0004, 0.0005, 0.0015, 1.0005, 2.675, 1e-5)), st.floats(0, 1_000)
)


def week_of_levels(draw: st.DrawFn, scene: Scene, device: Device) -> list[slow_refuse.LevelRow]:
    """A bin told evenly over the days before and after, on whole minutes, and what goes wrong."""
    start, end = bounds(scene.day, scene.zone)
    silence = device.max_silence_us // MINUTE_US
    day = 24 * 60
    back = (0, silence, silence + 1, day - 1, day, day + 1, 6 * day, 7 * day, 7 * day + 1)
    begin = -draw(st.sampled_from(back))
    step = draw(st.sampled_from((silence // 2, silence - 1, silence, silence + 1)))
    minutes = range(begin, (end - start) // MINUTE_US + silence, step)
    usual, stream = draw(FILLS), draw(STREAMS)
    told: list[tuple[int, float | None, str | None]] = [
        (minute, usual, stream) for minute in minutes
    ]
    for _ in range(draw(st.integers(0, 5))):
        index = draw(st.integers(0, len(told) - 1))
        minute, _, stream = told[index]
        minute += draw(st.sampled_from((0, 0, 1, 1 - step, silence)))
        changed = (minute, draw(st.one_of(st.none(), FILLS)), draw(STREAMS))
        told[index : index + draw(st.integers(0, 2))] = [changed]
    return [
        slow_refuse.LevelRow(device.number, start + minute * MINUTE_US, fill, stream)
        for minute, fill, stream in told
    ]


@given(st.data())
@settings(deadline=None)
def test_refuse_equals_the_oracle(data: st.DataObject) -> None:
    silence_us = data.draw(st.sampled_from((30 * MINUTE_US, 6 * HOUR_US, 30 * HOUR_US)))
    scene = data.draw(scenes(kinds=("bin",), silence_us=silence_us))

    @st.composite
    def bin_rows(
        draw: st.DrawFn,
    ) -> tuple[list[slow_refuse.LevelRow], list[slow_refuse.DepositRow]]:
        levels = [row for bin in scene.devices for row in week_of_levels(draw, scene, bin)]
        deposits = [
            slow_refuse.DepositRow(
                bin.number,
                at,
                draw(WEIGHTS),
                draw(st.sampled_from((None, True, False))),
                draw(STREAMS),
            )
            for bin in scene.devices
            for at in (
                *instants(draw, scene, bin),
                # Together with a level, whosoever's.
                *draw(st.lists(st.sampled_from([row.at_us for row in levels[-20:]]), max_size=3)),
            )
        ]
        return (
            delivered(draw, levels),
            delivered(draw, deposits),
        )

    levels, deposits = data.draw(bin_rows())
    told = by_device([(row.number, refuse.Level(*row[1:])) for row in levels])

    tallies = refuse.tally(
        subjects(scene),
        told,
        by_device([(row.number, refuse.Deposit(*row[1:])) for row in deposits]),
        scene.now_us,
    )

    slow = slow_refuse.refuse(scene.devices, levels, deposits, scene.day, scene.now_us)
    assert flat(tallies) == expected(slow)

    times = refuse.times_to_empty(subjects(scene), told, scene.now_us)

    assert sorted((one.device_id, one.at_us, one.took_us, one.finished) for one in times) == sorted(
        slow_refuse.times_to_empty(scene.devices, levels, scene.day, scene.now_us)
    )


# A bin that is full for five days, emptied, full once more, and then silent (hours, per cent).
EMPTIED_LATE = [(6 * n, 96.0) for n in range(20)] + [(120, 20.0), (126, 91.0), (133, 50.0)]


@given(
    st.lists(st.tuples(st.integers(0, 300), FILLS), max_size=30),
    st.sampled_from((30, 360, 1_800)),
)
@example([(60 * hour, fill) for hour, fill in EMPTIED_LATE], 360)
@settings(deadline=None)
def test_waits_equal_the_oracle(told: list[tuple[int, float]], silence: int) -> None:
    levels = [refuse.Level(minute * MINUTE_US, fill) for minute, fill in told]
    said = [Said(level.at_us, slow_refuse.half_up(level.fill_pct or 0, 100)) for level in levels]
    end_us = 10_001 * MINUTE_US

    _, emptied, _ = slow_refuse.watch(said, silence * MINUTE_US, 0, end_us)

    assert [
        (wait.end_us, wait.end_us - wait.full_us, wait.emptied)
        for wait in refuse.waits(levels, silence * MINUTE_US)
    ] == [(one.at_us, one.after_minutes * MINUTE_US, one.seen) for one in emptied]
