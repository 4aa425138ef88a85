# SPDX-License-Identifier: Apache-2.0
"""What is worth sending, and in what order and shape."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, get_args

import pytest

from edge_agent.kinds import Observation, Reading
from edge_agent.kinds.alarm import AlarmEvent, AlarmReading, AlarmSignal, AlarmType, Phase
from edge_agent.kinds.base import ReadingBase
from edge_agent.kinds.bin import BinReading, DepositEvent
from edge_agent.kinds.gate import GateEvent, GateReading, Passage
from edge_agent.kinds.lamp import LampReading
from edge_agent.lanes import AlarmKey
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    READINGS_SENT_MAX,
    SEQ_MAX,
    EventMessage,
    Telemetry,
    encode,
)
from edge_agent.pseudonyms import Pseudonymizer
from edge_agent.sampler import READING_BYTES_MAX, Sampler, Step, event_draft
from tests.edge_agent.rig import T0, Script, lamp

CARD = "04A2B9C1"
SECOND = timedelta(seconds=1)
NOTHING: list[LampReading] = []


def sampler_of(*scripts: Script, occurrences: Mapping[AlarmKey, str] | None = None) -> Sampler:
    numbers = count(1)
    return Sampler(
        scripts,
        heartbeat=timedelta(seconds=60),
        pseudonym=Pseudonymizer(b"k" * 32).pseudonym,
        occurrences=occurrences or {},
        mint=lambda _: f"o-{next(numbers)}",
    )


def readings(step: Step) -> list[Reading]:
    found: list[Reading] = []
    for draft in step.telemetry:
        message = draft.make("s", 1)
        assert isinstance(message, Telemetry)
        found.extend(message.readings)
    return found


def events(step: Step) -> list[Any]:
    return list(step.events)


def take(sampler: Sampler, now: datetime = T0) -> Step:
    step = sampler.take(now)
    sampler.keep(step)
    return step


def seen(seconds: float, **fields: Any) -> LampReading:
    return lamp("lamp-1", T0 + timedelta(seconds=seconds), **fields)


def offsets(found: Sequence[Reading]) -> list[float]:
    return [(one.at - T0) / SECOND for one in found]


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        pytest.param([[seen(0)], [seen(1)], [seen(59)]], [0], id="unchanged-is-not-repeated"),
        pytest.param(
            [[seen(0)], [seen(60)], [seen(119)], [seen(120)]], [0, 60, 120], id="heartbeat"
        ),
        pytest.param([[seen(0)], [seen(1, lit=True)]], [0, 1], id="change-is-sent-at-once"),
        pytest.param(
            [[seen(0)], [seen(1, power_w=2.0)], [seen(2, power_w=2.5)]],
            [0, 2],
            id="deadband-is-measured-from-what-was-sent",
        ),
        pytest.param([[seen(0)], [seen(1, fault="driver")]], [0, 1], id="fault-is-a-change"),
        pytest.param(
            [[seen(0)], [seen(1.5, lit=True), seen(2.25), seen(3)]],
            [0, 1.5, 2.25],
            id="hardware-with-a-memory-keeps-its-instants",
        ),
        pytest.param(
            [[seen(0)], [seen(3), seen(1.5, lit=True), seen(2)]],
            [0, 1.5, 2],
            id="out-of-order-is-put-in-order",
        ),
        pytest.param([[seen(0)], [seen(0)]], [0], id="exact-repetition-is-dropped"),
        pytest.param(
            [[seen(0), seen(0, lit=True), seen(0)]],
            [0, 1e-6, 2e-6],
            id="other-values-at-one-instant-are-moved-apart",
        ),
        pytest.param(
            [[seen(0)], [seen(0, lit=True)], [seen(1e-6)]],
            [0, 1e-6, 2e-6],
            id="moved-apart-across-steps-too",
        ),
        pytest.param(
            [[seen(0)], [seen(-3600)], [seen(-3599)], [seen(-3540)]],
            [0, -3600, -3540],
            id="clock-set-back-is-passed-on-and-heartbeat-follows",
        ),
        pytest.param([NOTHING, [seen(1)]], [1], id="silent-driver-is-no-failure"),
    ],
)
def test_report_by_exception(polls: list[list[LampReading]], expected: list[float]) -> None:
    script = Script("lamp-1")
    script.next = list(polls)
    sampler = sampler_of(script)
    found = [one for _ in polls for one in readings(take(sampler))]
    assert offsets(found) == pytest.approx(expected, abs=1e-7)


def test_what_was_not_accepted_is_reported_again() -> None:
    script = Script("lamp-1")
    sampler = sampler_of(script)
    assert len(readings(sampler.take(T0))) == 1
    assert len(readings(sampler.take(T0 + SECOND))) == 1
    assert len(readings(take(sampler, T0 + 2 * SECOND))) == 1
    assert readings(take(sampler, T0 + 3 * SECOND)) == []


def test_batch_is_sorted_over_devices_and_cut_at_the_limit() -> None:
    scripts = [Script(f"lamp-{number:03d}") for number in range(130)]
    for number, script in enumerate(scripts):
        script.next = [
            [
                lamp(script.device, T0 - timedelta(seconds=number), lit=True),
                lamp(script.device, T0),
            ]
        ]
    step = sampler_of(*scripts).take(T0)
    messages = [draft.make("s", 1) for draft in step.telemetry]
    assert all(isinstance(message, Telemetry) for message in messages)
    sizes = [len(message.readings) for message in messages if isinstance(message, Telemetry)]
    # The first lamp's two readings share an instant: the second is moved, none is lost.
    assert sizes == [100, 100, 60]
    found = readings(step)
    assert [one.at for one in found] == sorted(one.at for one in found)


def test_nothing_to_send_is_no_message() -> None:
    sampler = sampler_of(Script("gate-1", "gate"))
    step = take(sampler)
    assert not step.telemetry
    assert not step.events


def test_each_event_is_a_message_of_its_own_in_order() -> None:
    first, second = Script("gate-1", "gate"), Script("bin-1", "bin")
    first.next = [[Passage("gate-1", T0 + SECOND, "granted"), Passage("gate-1", T0, "denied")]]
    second.next = [
        [DepositEvent(device="bin-1", at=T0 + timedelta(milliseconds=500), weight_kg=1.5)]
    ]
    step = take(sampler_of(first, second))
    drafts = [event_draft(one, T0) for one in step.events]
    assert [draft.lane for draft in drafts] == ["event"] * 3
    messages = [draft.make("s", 1) for draft in drafts]
    assert [one.event for one in messages if isinstance(one, EventMessage)] == events(step)
    assert [one.event for one in events(step)] == ["denied", "deposit", "granted"]


def test_credential_becomes_a_pseudonym() -> None:
    script = Script("gate-1", "gate")
    script.next = [
        [
            Passage("gate-1", T0, "granted", "in", CARD),
            Passage("gate-1", T0 + SECOND, "granted", "out", CARD),
            Passage("gate-1", T0 + 2 * SECOND, "forced"),
        ]
    ]
    step = take(sampler_of(script))
    first, second, third = events(step)
    assert isinstance(first, GateEvent)
    assert first.credential == second.credential == Pseudonymizer(b"k" * 32).pseudonym(CARD)
    assert first.direction == "in"
    assert third.credential is None
    assert CARD.encode() not in b"".join(encode(one) for one in step.events)


Signals = list[tuple[AlarmType, Phase]]


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        pytest.param(
            [("smoke", "raised"), ("smoke", "restored"), ("smoke", "raised")],
            ["o-1", "o-1", "o-2"],
            id="one-occurrence-from-raise-to-restoral",
        ),
        pytest.param(
            [("smoke", "raised"), ("smoke", "raised"), ("smoke", "restored")],
            ["o-1"] * 3,
            id="raise-while-raised-is-the-same-alarm",
        ),
        pytest.param(
            [("smoke", "raised"), ("gas", "raised"), ("smoke", "restored"), ("gas", "restored")],
            ["o-1", "o-2", "o-1", "o-2"],
            id="types-apart",
        ),
        pytest.param(
            [("smoke", "raised"), ("smoke", "test"), ("smoke", "restored")],
            ["o-1", "o-2", "o-1"],
            id="test-while-raised-ends-nothing",
        ),
        pytest.param(
            [("panic", "raised"), ("panic", "aborted"), ("panic", "restored"), ("panic", "raised")],
            ["o-1", "o-1", "o-2", "o-3"],
            id="a-code-ends-an-alarm",
        ),
        pytest.param([("smoke", "restored")], ["o-1"], id="restored-without-raise"),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["one-step", "many-steps"])
def test_occurrences(signals: Signals, expected: list[str], *, together: bool) -> None:
    script = Script("alarm-1", "alarm")
    made: list[Observation] = [
        AlarmSignal("alarm-1", T0 + number * SECOND, event, phase, "z1")
        for number, (event, phase) in enumerate(signals)
    ]
    script.next = [made] if together else [[one] for one in made]
    sampler = sampler_of(script)
    found = [one for _ in range(len(script.next)) for one in events(take(sampler))]
    assert [one.occurrence for one in found] == expected
    assert all(isinstance(one, AlarmEvent) and one.zone == "z1" for one in found)


def test_restoral_after_a_restart_repeats_the_occurrence() -> None:
    script = Script("alarm-1", "alarm")
    script.next = [[AlarmSignal("alarm-1", T0, "panic", "restored")]]
    sampler = sampler_of(script, occurrences={AlarmKey("alarm-1", "panic", ""): "before"})
    step = take(sampler)
    assert events(step)[0].occurrence == "before"
    assert step.occurrences == {AlarmKey("alarm-1", "panic", ""): None}


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(TimeoutError("no answer on the bus"), id="hardware-does-not-answer"),
        pytest.param(ValueError("power_w: 70000"), id="hardware-answers-nonsense"),
    ],
)
def test_failing_driver_is_told_when_it_begins_and_ends_and_others_go_on(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = Script("lamp-1"), Script("lamp-2")
    bad.next = [failure, failure, failure]
    sampler = sampler_of(bad, good)
    caplog.set_level(logging.INFO)
    for number in range(4):
        step = take(sampler, T0 + number * 60 * SECOND)
        assert "lamp-2" in {one.device for one in readings(step)}
        assert sampler.failing() == (["lamp-1"] if number < 3 else [])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_signal_that_fits_no_message_is_the_drivers_failure() -> None:
    bad, good = Script("alarm-1", "alarm"), Script("lamp-2")
    bad.next = [[AlarmSignal("alarm-1", T0, "smoke", "raised", "Zone 1/A#")]]
    sampler = sampler_of(bad, good)
    step = take(sampler)
    assert sampler.failing() == ["alarm-1"]
    assert len(readings(step)) == 1
    assert not step.events


def test_only_the_named_devices_are_polled() -> None:
    one, other = Script("lamp-1"), Script("lamp-2")
    sampler_of(one, other).take(T0, {"lamp-2"})
    assert (one.polls, other.polls) == (0, 1)


def test_two_drivers_for_one_device_are_refused() -> None:
    with pytest.raises(ValueError, match="two drivers"):
        sampler_of(Script("lamp-1"), Script("lamp-1"))


LONGEST: dict[str, Any] = {"device": "d" * 64, "at": T0.replace(microsecond=123_457)}
NUMBER = 12.3456789012345678e-300  # as many characters as a float can take


@pytest.mark.parametrize(
    "reading",
    [
        LampReading(
            **LONGEST,
            fault="f" * 64,
            lit=False,
            level_pct=NUMBER,
            power_w=NUMBER,
            voltage_v=NUMBER,
            current_a=NUMBER,
            energy_kwh=NUMBER,
            burn_hours=NUMBER,
            lux=NUMBER,
            battery_pct=NUMBER,
            solar_w=NUMBER,
        ),
        BinReading(
            **LONGEST,
            fault="f" * 64,
            fill_pct=NUMBER,
            weight_kg=NUMBER,
            temperature_c=-NUMBER,
            lid_open=False,
            tilt=False,
            stream="recyclable",
        ),
        GateReading(**LONGEST, fault="f" * 64, door="closed", lock="unlocked"),
        AlarmReading(**LONGEST, fault="f" * 64, armed=False, battery_pct=NUMBER),
    ],
    ids=lambda one: one.kind,
)
def test_longest_reading_of_each_class_leaves_room_for_a_full_batch(reading: Reading) -> None:
    unset = {name for name in type(reading).model_fields if getattr(reading, name) is None}
    assert not unset, "the longest reading has every field"
    assert len(encode(reading)) <= READING_BYTES_MAX
    batch = Telemetry(
        stream="s" * 64, seq=SEQ_MAX, sent_at=T0, readings=(reading,) * READINGS_SENT_MAX
    )
    assert len(encode(batch)) < PAYLOAD_BYTES_MAX


def test_every_class_is_measured() -> None:
    classes: tuple[type[ReadingBase], ...] = get_args(get_args(Reading)[0])
    assert set(classes) == {LampReading, BinReading, GateReading, AlarmReading}


@pytest.mark.parametrize("kind", ["gate", "alarm"])
def test_event_of_a_device_whose_clock_was_never_set_gets_the_instant_of_the_poll(
    kind: str,
) -> None:
    script = Script("d-1", kind)
    never_set = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    seen = {
        "gate": Passage("d-1", never_set, "forced"),
        "alarm": AlarmSignal("d-1", never_set, "smoke", "raised"),
    }
    script.next = [[seen[kind]]]
    (event,) = events(take(sampler_of(script)))
    assert event.at == T0
