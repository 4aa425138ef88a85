# SPDX-License-Identifier: Apache-2.0
"""What each condition says, as tables of what it is told."""

from __future__ import annotations

from typing import Any, Final, get_args

import pytest

from edge_agent.kinds.alarm import Phase
from ingest.conditions import Told
from ingest.conditions.models import Event
from tests.ingest.conditions.telling import CHENGDU, Asking, at, event, reading

FULL = {"type": "threshold", "field": "fill_pct", "above": 90.0, "clear": 70.0}
LID = {"type": "equals", "field": "lid_open", "value": True}
FORCED = {"type": "event", "events": ["forced"]}
FORCED_UNTIL_RESTORED = {**FORCED, "ends": {"events": ["restored"]}}
NIGHT = {"type": "schedule", "by": "sun", "part": "night"}


def answers(asking: Asking, told: list[Told]) -> list[bool | None]:
    return [asking.ask(one) for one in told]


@pytest.mark.parametrize(
    ("kind", "said", "values", "expected"),
    [
        pytest.param("bin", {**FULL, "clear": None}, {"fill_pct": 90.0}, True, id="at-the-limit"),
        pytest.param("bin", {**FULL, "clear": None}, {"fill_pct": 89.9}, False, id="below-it"),
        pytest.param("bin", FULL, {"fill_pct": 80.0}, None, id="alone-between-its-limits"),
        pytest.param("bin", FULL, {}, None, id="not-told"),
        pytest.param(
            "lamp",
            {"type": "threshold", "field": "voltage_v", "below": 190.0, "clear": 200.0},
            {"voltage_v": 201.0},
            False,
            id="below-and-cleared-above",
        ),
        pytest.param("bin", LID, {"lid_open": True}, True, id="truth"),
        pytest.param("bin", LID, {}, None, id="truth-not-told"),
        pytest.param(
            "gate",
            {"type": "one_of", "field": "door", "values": ["held", "forced"]},
            {"door": "held"},
            True,
            id="one-of",
        ),
        pytest.param(
            "gate",
            {"type": "one_of", "field": "door", "values": ["held", "forced"]},
            {"door": "open"},
            False,
            id="none-of",
        ),
        pytest.param(
            "gate", {"type": "equals", "field": "fault", "value": "motor"}, {}, False, id="no-fault"
        ),
        pytest.param("gate", {"type": "present", "field": "fault"}, {}, False, id="good-condition"),
        pytest.param(
            "gate", {"type": "present", "field": "fault"}, {"fault": "motor"}, True, id="any-fault"
        ),
        pytest.param(
            "lamp",
            {"type": "expression", "expression": "power_w > 20 && !lit"},
            {"power_w": 21.0, "lit": False},
            True,
            id="expression",
        ),
        pytest.param(
            "lamp",
            {"type": "expression", "expression": "power_w > 20 || lit"},
            {"lit": True},
            True,
            id="expression-that-needs-no-more",
        ),
        pytest.param(
            "lamp",
            {"type": "expression", "expression": "power_w > 20 && lit"},
            {"lit": True},
            None,
            id="expression-that-cannot-know",
        ),
        pytest.param(
            "lamp",
            {"type": "expression", "expression": "fault != ''"},
            {},
            False,
            id="no-fault-code",
        ),
    ],
)
def test_one_reading(
    kind: str, said: dict[str, Any], values: dict[str, Any], expected: bool | None
) -> None:
    asking = Asking(kind, said)
    assert asking.ask(reading(kind, 0, **values)) is expected
    assert asking.memory is None, "nothing to remember costs nothing"


def test_a_band_within_a_whole_is_what_it_was_last() -> None:
    asking = Asking("bin", {"type": "all", "of": [FULL, LID]})
    told = [(95.0, False), (80.0, True), (60.0, True), (80.0, True), (90.0, True)]
    assert answers(
        asking,
        [reading("bin", n, fill_pct=fill, lid_open=lid) for n, (fill, lid) in enumerate(told)],
    ) == [False, True, False, False, True]


def test_what_a_power_meter_says_of_light_counts_as_light() -> None:
    asking = Asking("lamp", {"type": "equals", "field": "lit", "value": False})
    metered = Told("lamp-1", "lamp", "cell-1", CHENGDU, at(0), {"power_w": 3.0}, lit=False)
    assert asking.ask(metered) is True
    assert asking.compiled.names == {"lit", "power_w"}


class TestEvents:
    def test_an_event_holds_until_another_ends_it(self) -> None:
        asking = Asking("gate", FORCED_UNTIL_RESTORED)
        told = ["granted", "forced", "denied", "restored", "granted"]
        assert answers(asking, [event("gate", n, name) for n, name in enumerate(told)]) == [
            None, True, True, False, False,
        ]  # fmt: skip

    def test_an_event_holds_for_its_time(self) -> None:
        asking = Asking("gate", {**FORCED, "holds_s": 60.0})
        answer = asking.answer(event("gate", 0, "forced"))
        assert (answer.holds, answer.until) == (True, at(60))
        assert asking.wait(59) is True
        assert asking.wait(60) is False

    def test_a_test_is_no_alarm(self) -> None:
        said = {"type": "event", "events": ["smoke"], "phases": ["raised"], "holds_s": 9.0}
        asking = Asking("alarm", said)
        assert asking.ask(event("alarm", 0, "smoke", phase="test")) is None
        assert asking.ask(event("alarm", 1, "smoke", phase="raised")) is True

    @pytest.mark.parametrize("phase", get_args(Phase))
    def test_every_phase_of_an_alarm_can_be_asked_for(self, phase: str) -> None:
        said = {"type": "event", "events": ["smoke"], "phases": [phase], "holds_s": 9.0}
        asking = Asking("alarm", said)
        assert asking.ask(event("alarm", 0, "smoke", phase=phase)) is True
        assert phase in (Event.model_fields["phases"].description or "")

    def test_an_expression_reads_an_event(self) -> None:
        asking = Asking("bin", {"type": "expression", "expression": "event.weight_kg > 20"})
        assert asking.ask(event("bin", 0, "deposit", weight_kg=25.0)) is True
        assert asking.ask(event("bin", 1, "deposit", weight_kg=2.0)) is False
        assert asking.ask(reading("bin", 2, fill_pct=3.0)) is None
        assert asking.compiled.listens == "events"


class TestSchedules:
    @pytest.mark.parametrize(
        ("hours", "holds"),
        [
            pytest.param(0, True, id="two-at-night"),
            pytest.param(5, True, id="seven-before-sunrise"),
            pytest.param(6, False, id="eight"),
            pytest.param(15, False, id="five-in-the-afternoon"),
            pytest.param(17, True, id="seven-in-the-evening"),
        ],
    )
    def test_the_sun(self, hours: int, holds: bool) -> None:
        told = reading("bin", hours * 3_600)
        assert Asking("bin", NIGHT).ask(told) is holds
        assert Asking("bin", {**NIGHT, "part": "day"}).ask(told) is not holds

    @pytest.mark.parametrize(
        ("start", "end", "weekdays", "hours", "holds"),
        [
            pytest.param("22:00", "06:00", ["fri"], 0, True, id="friday-night-is-on-till-saturday"),
            pytest.param("22:00", "06:00", ["sat"], 0, False, id="saturday-night-is-still-to-come"),
            pytest.param("01:00", "02:00", ["sat"], 0, False, id="its-end-is-not-part-of-it"),
            pytest.param("02:00", "03:00", ["sat"], 0, True, id="its-beginning-is"),
            pytest.param("00:00", "00:00", ["sat"], 21.9, True, id="the-whole-day"),
            pytest.param("00:00", "00:00", ["sat"], 22, False, id="and-no-more"),
        ],
    )
    def test_the_clock(
        self, start: str, end: str, weekdays: list[str], hours: float, holds: bool
    ) -> None:
        said = {
            "type": "schedule", "by": "clock", "start": start, "end": end, "weekdays": weekdays,
        }  # fmt: skip
        assert Asking("bin", said).ask(reading("bin", hours * 3_600)) is holds

    def test_it_says_when_to_ask_again(self) -> None:
        said = {"type": "schedule", "by": "clock", "start": "22:00", "end": "06:00"}
        assert Asking("bin", said).answer(reading("bin", 0)).until == at(4 * 3_600)

    def test_nobody_need_ask_again_while_something_else_stands_against_it(self) -> None:
        asking = Asking("bin", {"type": "all", "of": [{**FULL, "clear": None}, NIGHT]})
        assert asking.answer(reading("bin", 0, fill_pct=10.0)).until is None
        assert asking.answer(reading("bin", 1, fill_pct=95.0)).until is not None

    def test_a_lamps_own_programme(self) -> None:
        said = {"type": "schedule", "by": "programme", "due": True}
        told = reading("lamp", 0, lit=True)._replace(due=True, due_until=at(60))
        answer = Asking("lamp", said).answer(told)
        assert (answer.holds, answer.until) == (True, at(60))
        assert Asking("lamp", said).ask(told._replace(due=None)) is None


class TestNoData:
    SAID: Final = {"type": "no_data", "field": "power_w", "for_s": 3_600.0}

    def test_a_field_that_goes_on_missing(self) -> None:
        asking = Asking("lamp", self.SAID)
        hour = 3_600
        told = [reading("lamp", 0, power_w=40.0), reading("lamp", 600, lit=True)]
        assert answers(asking, told) == [False, False]
        assert asking.ask(reading("lamp", hour, lit=True)) is False
        assert asking.ask(reading("lamp", 600 + hour, lit=True)) is True
        assert asking.ask(reading("lamp", 900 + hour, lit=True, power_w=40.0)) is False
        assert asking.memory is None

    def test_a_device_that_falls_silent_is_not_its_business(self) -> None:
        asking = Asking("lamp", self.SAID)
        assert asking.answer(reading("lamp", 0, power_w=40.0)).until is None
        assert asking.wait(9_000) is False

    def test_it_is_noticed_without_another_reading(self) -> None:
        asking = Asking("lamp", self.SAID)
        assert asking.answer(reading("lamp", 600, lit=True)).until == at(4_200)
        assert asking.wait(4_200) is True

    def test_it_is_not_missed_by_day_where_only_nights_count(self) -> None:
        asking = Asking("lamp", {**self.SAID, "during": NIGHT})
        hour = 3_600
        # From half past seven until six in the evening the sun is up.
        told = [reading("lamp", hours * hour, lit=True) for hours in (5, 7, 12, 15, 16.3, 17.5)]
        assert answers(asking, told) == [False, False, False, False, False, True]


class TestRates:
    SAID: Final = {
        "type": "rate", "field": "temperature_c", "above": 2.0, "per": "minute", "within_s": 600.0,
    }  # fmt: skip

    def test_a_fire_is_told_from_noise(self) -> None:
        asking = Asking("bin", self.SAID)
        told = [(0, 20.0), (1, 30.0), (299, 60.0), (300, 31.0), (600, 40.0), (720, 29.0)]
        assert answers(
            asking, [reading("bin", seconds, temperature_c=value) for seconds, value in told]
        ) == [None, None, None, True, True, False]

    def test_a_fall_has_a_negative_limit(self) -> None:
        said = {**self.SAID, "above": None, "below": -1.0}
        asking = Asking("bin", said)
        told = [reading("bin", 0, temperature_c=30.0), reading("bin", 600, temperature_c=20.0)]
        assert answers(asking, told) == [None, True]

    def test_time_alone_is_no_reading(self) -> None:
        asking = Asking("bin", self.SAID)
        asking.ask(reading("bin", 0, temperature_c=20.0))
        before = asking.memory
        asking.wait(300)
        assert asking.memory == before

    def test_a_window_of_a_thousand_readings_stays_small(self) -> None:
        asking = Asking("bin", self.SAID)
        for second in range(1_000):
            asking.ask(reading("bin", second, temperature_c=20.0))
        assert asking.memory is not None
        assert len(asking.memory["of"]["0"]) <= 17


class TestCounts:
    def test_three_within_a_minute(self) -> None:
        said = {"type": "count", "of": FORCED, "times": 3, "within_s": 60.0}
        asking = Asking("gate", said)
        told = [event("gate", seconds, "forced") for seconds in (0, 30, 61, 70)]
        assert answers(asking, told) == [False, False, False, True]
        assert asking.answer(event("gate", 75, "granted")).until == at(90)
        assert asking.wait(90) is False

    def test_a_condition_counts_when_it_becomes_true(self) -> None:
        said = {"type": "count", "of": LID, "times": 2, "within_s": 60.0}
        asking = Asking("bin", said)
        told = [True, True, None, True, False, True]
        assert answers(
            asking,
            [
                reading("bin", n, **({} if lid is None else {"lid_open": lid}))
                for n, lid in enumerate(told)
            ],
        ) == [False, False, False, False, False, True]

    def test_an_event_that_goes_on_is_counted_once(self) -> None:
        said = {"type": "count", "of": FORCED_UNTIL_RESTORED, "times": 2, "within_s": 60.0}
        asking = Asking("gate", said)
        told = ["forced", "granted", "denied", "restored", "forced"]
        assert answers(asking, [event("gate", n, name) for n, name in enumerate(told)]) == [
            False, False, False, False, True,
        ]  # fmt: skip


class TestSequences:
    CELL: Final = {
        "type": "sequence",
        "first": {"type": "event", "kind": "gate", "events": ["forced"]},
        "then": {"type": "event", "kind": "alarm", "events": ["intrusion"], "phases": ["raised"]},
        "within_s": 60.0,
        "where": "cell",
    }

    def test_gate_forced_then_intrusion_in_the_same_cell(self) -> None:
        asking = Asking("alarm", self.CELL)
        assert (asking.compiled.memory_of, asking.compiled.listens) == ("cell", "events")
        assert asking.compiled.kinds == {"alarm", "gate"}
        assert asking.ask(event("gate", 0, "forced")) is False
        answer = asking.answer(event("alarm", 60, "intrusion", phase="raised"))
        assert (answer.holds, answer.until) == (True, at(120))
        assert asking.wait(120) is False

    @pytest.mark.parametrize(
        ("told", "expected"),
        [
            pytest.param([(0, "forced"), (61, "intrusion")], False, id="too-late"),
            pytest.param([(5, "intrusion"), (10, "forced")], False, id="the-wrong-order"),
            pytest.param([(60, "intrusion"), (0, "forced")], True, id="the-first-arrives-late"),
            pytest.param([(7, "forced"), (7, "intrusion")], True, id="at-one-instant"),
        ],
    )
    def test_order_is_that_of_instants(self, told: list[tuple[int, str]], expected: bool) -> None:
        asking = Asking("alarm", self.CELL)
        said = [
            event("gate", seconds, name)
            if name == "forced"
            else event("alarm", seconds, name, phase="raised")
            for seconds, name in told
        ]
        assert answers(asking, said)[-1] is expected

    def test_one_message_is_not_its_own_successor(self) -> None:
        said = {"type": "sequence", "first": FORCED, "then": FORCED, "within_s": 60.0}
        asking = Asking("gate", said)
        told = [event("gate", 0, "forced"), event("gate", 9, "forced")]
        assert answers(asking, told) == [False, True]


def test_what_is_late_never_moves_memory_back() -> None:
    asking = Asking("bin", {"type": "all", "of": [FULL, LID]})
    assert asking.ask(reading("bin", 10, fill_pct=95.0, lid_open=True)) is True
    assert asking.ask(reading("bin", 5, fill_pct=10.0, lid_open=True)) is None
    assert asking.ask(reading("bin", 11, fill_pct=80.0, lid_open=True)) is True


@pytest.mark.parametrize(
    ("kind", "said", "is_calm", "listens"),
    [
        ("bin", {"type": "any", "of": [FULL, LID]}, True, "readings"),
        ("bin", {"type": "all", "of": [FULL, NIGHT]}, False, "readings"),
        ("bin", TestRates.SAID, False, "readings"),
        ("lamp", TestNoData.SAID, False, "readings"),
        ("gate", FORCED_UNTIL_RESTORED, False, "events"),
        (
            "gate",
            {
                "type": "all",
                "of": [FORCED_UNTIL_RESTORED, {"type": "equals", "field": "door", "value": "open"}],
            },
            False,
            "both",
        ),
    ],
)
def test_what_it_has_to_be_told(
    kind: str, said: dict[str, Any], is_calm: bool, listens: str
) -> None:
    made = Asking(kind, said).compiled
    assert (made.is_calm, made.listens, made.memory_of) == (is_calm, listens, "device")
