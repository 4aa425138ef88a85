# SPDX-License-Identifier: Apache-2.0
"""Which alerts make one case, by table; what happens to a case, against a naive model."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingest.cases import (
    NATURES,
    PARTS,
    SEVERITIES,
    Abort,
    Action,
    AlreadyDone,
    Assign,
    Case,
    Close,
    Confirm,
    DoStep,
    Join,
    MergeInto,
    Note,
    Outcome,
    Outline,
    Rate,
    Refused,
    Reopen,
    Signal,
    SplitOff,
    Take,
    Threaten,
    apply,
    belongs,
    check_duplicate,
    check_merge,
    part_of,
)
from ingest.kinds import DEFAULT_RULES
from ingest.rules import Severity

START = datetime(2026, 11, 21, 18, tzinfo=UTC)
OUTCOMES: tuple[Outcome, ...] = (
    "false_alarm", "test", "duplicate", "equipment_fault", "withdrawn",
)  # fmt: skip


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def signal(
    rule_id: str = "alarm.intrusion",
    minutes: float = 0,
    *,
    area: str = "c01-g01",
    gateway: str = "gw-a",
    device: str | None = None,
    severity: Severity = "major",
    number: int | None = None,
) -> Signal:
    alert = uuid.uuid4() if number is None else uuid.UUID(int=number)
    device = device or f"d-{alert}"
    return Signal(
        alert, rule_id, severity, "c01", area, gateway, device, at(minutes), at(minutes)
    )  # fmt: skip


class TestBelongs:
    @pytest.mark.parametrize(
        ("second", "expected"),
        [
            pytest.param(signal(minutes=10), "same_cell", id="same-cell"),
            pytest.param(signal(minutes=-10), "same_cell", id="told-out-of-order"),
            pytest.param(signal(minutes=10.1), None, id="same-cell-too-late"),
            pytest.param(signal(minutes=3, area="c01-g02"), "same_gateway", id="next-door"),
            pytest.param(signal(minutes=3.1, area="c01-g02"), None, id="next-door-too-late"),
            pytest.param(signal(area="c01-g02", gateway="gw-b"), None, id="elsewhere"),
            pytest.param(
                signal(area="c01", gateway="gw-b"), None, id="a-community-is-no-place"
            ),
            pytest.param(
                signal(minutes=9, area="c01-g02", gateway="gw-b", device="d-1"), "same_device",
                id="same-device-behind-another-gateway",
            ),
            pytest.param(signal("gate.forced", 1), "same_cell", id="forced-gate"),
            pytest.param(signal("gate.held_open", 1), "same_cell", id="evidence"),
            pytest.param(signal("alarm.tamper", 1), "same_cell", id="tampering-is-evidence"),
            pytest.param(signal("alarm.smoke"), None, id="fire-is-another-matter"),
            pytest.param(signal("alarm.water"), None, id="water-is-another-matter"),
            pytest.param(signal("alarm.duress"), None, id="duress-is-alone"),
            pytest.param(signal("lamp.dark"), None, id="not-of-security"),
            pytest.param(
                replace(signal(), community="c02"), None, id="another-community"
            ),
        ],
    )  # fmt: skip
    def test_by_place_time_and_nature(self, second: Signal, expected: str | None) -> None:
        first = signal(device="d-1", number=1)
        assert belongs(Case((first,)), second) == expected

    @pytest.mark.parametrize(
        "worse",
        [
            "alarm.intrusion",
            "gate.forced",
            "alarm.panic",
            "alarm.smoke",
            "alarm.fire",
            "alarm.gas",
            "alarm.duress",
        ],
    )
    @pytest.mark.parametrize("nuisance", ["alarm.water", "alarm.tamper", "alarm.fire_lane_blocked"])
    def test_danger_never_hides_in_a_nuisance(self, nuisance: str, worse: str) -> None:
        assert belongs(Case((signal(nuisance),)), signal(worse)) is None

    def test_nothing_joins_duress_or_what_is_closed(self) -> None:
        for name in ("alarm.duress", "alarm.intrusion", "gate.held_open"):
            assert belongs(Case((signal("alarm.duress"),)), signal(name)) is None
            closed = Case((signal(),), state="closed", outcome="false_alarm")
            assert belongs(closed, signal(name)) is None

    def test_a_case_does_not_go_on_for_ever(self) -> None:
        case = Case((signal(),))
        joined = 0
        for minutes in range(9, 400, 9):
            one = signal(minutes=minutes)
            if belongs(case, one) is not None:
                case = apply(case, Join(at(minutes), one, "same_cell"))
                joined += 1
        assert joined == 13  # two hours of them
        assert case.last_at - case.first_at <= timedelta(hours=2)

    def test_every_alarm_opens_a_case_so_that_each_is_judged(self) -> None:
        for one in DEFAULT_RULES:
            part = part_of(one.id)
            if one.id.startswith("alarm.") or one.id == "gate.forced":
                assert part is not None, one.id
                assert part.opens, one.id

    def test_only_rules_that_exist_have_a_part_in_cases(self) -> None:
        assert PARTS.keys() <= {one.id for one in DEFAULT_RULES}
        assert part_of("alarm.glass_break") is None


_SIGNALS = st.builds(
    signal,
    st.sampled_from(["alarm.intrusion", "alarm.panic", "gate.forced", "alarm.tamper"]),
    st.floats(0, 20),
    area=st.sampled_from(["c01", "c01-g01", "c01-g02"]),
    gateway=st.sampled_from(["gw-a", "gw-b"]),
    device=st.sampled_from(["d-1", "d-2", "d-3"]),
    severity=st.sampled_from(SEVERITIES),
).flatmap(
    lambda one: st.builds(
        replace,
        st.just(one),
        aborted_at=st.sampled_from([None, at(30)]),
        under_threat=st.booleans(),
    )
)


def in_short(case: Case, joining: Signal) -> Case:
    """The case as ingest has it at hand for an alert that may join."""
    near = (
        [one for one in case.signals if one.device == joining.device][:1],
        [one for one in case.signals if one.area == joining.area != one.community][:1],
        [one for one in case.signals if one.gateway == joining.gateway][:1],
    )
    rest = Outline(case.nature, case.area, case.first_at, case.last_at, case.aborted)
    kept = {one.alert: one for found in (*near, [case.leading]) for one in found}
    return replace(case, signals=tuple(kept.values()), rest=rest)


@given(
    st.lists(_SIGNALS, min_size=1, max_size=12),
    _SIGNALS,
    st.sampled_from([None, *SEVERITIES]),
)
def test_a_case_in_short_decides_as_the_whole_one_does(
    signals: list[Signal], joining: Signal, severity_set: Severity | None
) -> None:
    whole = Case(tuple(signals), severity_set=severity_set)
    short = in_short(whole, joining)
    assert belongs(short, joining) == belongs(whole, joining)
    join = Join(joining.raised_at, joining, "same_cell")
    for one, other in ((short, whole), (apply(short, join), apply(whole, join))):
        for told in ("nature", "severity", "rank", "leading", "area", "first_at", "last_at",
                     "aborted", "severity_set", "version"):  # fmt: skip
            assert getattr(one, told) == getattr(other, told), told


class TestSeverity:
    def test_it_is_the_worst_of_the_alerts(self) -> None:
        case = Case((signal(severity="minor"), signal(severity="critical"), signal()))
        assert case.severity == "critical"
        assert case.leading is case.signals[1]

    def test_an_abort_lowers_it_unless_another_alarm_stands(self) -> None:
        first, second = signal(number=1), signal(number=2)
        alone = apply(Case((first,)), Abort(at(1), first.alert))
        assert (alone.severity, alone.aborted, alone.state) == ("minor", True, "open")
        both = apply(Case((first, second)), Abort(at(1), first.alert))
        assert (both.severity, both.aborted) == ("major", True)

    def test_duress_takes_the_lowering_back(self) -> None:
        one = signal(number=1)
        aborted = apply(Case((one,)), Abort(at(1), one.alert))
        threatened = apply(aborted, Threaten(at(1.5), one.alert))
        assert (threatened.severity, threatened.aborted) == ("major", True)

    def test_a_person_has_the_last_word(self) -> None:
        one = signal(number=1)
        rated = apply(Case((one,)), Rate(at(1), "li", "looked", "major"))
        assert apply(rated, Abort(at(2), one.alert)).severity == "major"
        assert apply(rated, Rate(at(2), "li", "as told", None)).severity_set is None

    def test_but_not_on_what_came_to_be_known_later(self) -> None:
        rated = apply(Case((signal(),)), Rate(at(1), "li", "the cat", "info"))
        same = apply(rated, Join(at(2), signal(), "same_cell"))
        assert same.severity == "info"
        worse = apply(rated, Join(at(2), signal("alarm.panic", severity="critical"), "same_cell"))
        assert worse.severity == "critical"

    def test_duress_stays_critical(self) -> None:
        case = Case((signal("alarm.duress", severity="minor"),))
        assert case.severity == "critical"
        with pytest.raises(Refused, match=r"case\.duress"):
            apply(case, Rate(at(1), "li", "calm", "minor"))
        with pytest.raises(Refused, match=r"case\.duress"):
            apply(case, MergeInto(at(1), "li", "same", uuid.uuid4()))

    def test_area_is_the_cell_or_else_the_community(self) -> None:
        assert Case((signal(), signal())).area == "c01-g01"
        assert Case((signal(), signal(area="c01-g02"))).area == "c01"


ONE, OTHER = uuid.UUID(int=71), uuid.UUID(int=72)


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        pytest.param((ONE, Case((signal(),))), (ONE, Case((signal(),))), "case.same", id="itself"),
        pytest.param(
            (ONE, Case((signal(),))), (OTHER, Case((replace(signal(), community="c02"),))),
            "case.elsewhere", id="elsewhere",
        ),
        pytest.param(
            (ONE, Case((signal(),))), (OTHER, Case((signal(),), "closed", "test")), "case.closed",
            id="target-closed",
        ),
        pytest.param(
            (ONE, Case((signal(),), "closed", "test")), (OTHER, Case((signal(),))), "case.closed",
            id="source-closed",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_one_case(
    source: tuple[uuid.UUID, Case], target: tuple[uuid.UUID, Case], code: str
) -> None:
    with pytest.raises(Refused, match=code):
        check_merge(source, target)


def test_duplicates_lead_to_something() -> None:
    duplicate = Case((signal(),), "closed", "duplicate", uuid.uuid4())
    with pytest.raises(Refused, match=r"case\.duplicate"):
        check_duplicate((ONE, Case((signal(),))), (OTHER, duplicate))
    check_duplicate((ONE, Case((signal(),))), (OTHER, Case((signal(),), "closed", "test")))


@pytest.mark.parametrize(
    ("chosen", "code"),
    [
        pytest.param([], "alerts.none_left", id="none"),
        pytest.param([1, 2, 3], "alert.pinned", id="with-the-one-its-record-stands-for"),
        pytest.param([1], "alert.pinned", id="the-one-its-record-stands-for"),
        pytest.param([2, 9], "alert.unknown", id="another-cases"),
    ],
)
def test_split_that_cannot_be(chosen: list[int], code: str) -> None:
    signals = tuple(signal(number=number) for number in (1, 2, 3))
    case = Case(signals, pinned=signals[0].alert)
    with pytest.raises(Refused, match=code):
        apply(case, SplitOff(START, "li", "two", frozenset(uuid.UUID(int=one) for one in chosen)))


class Naive(RuleBasedStateMachine):
    """Remember every move that was made; answer each question by going through all of them."""

    def __init__(self) -> None:
        super().__init__()
        first = signal(number=1)
        self.case = Case((first,))
        self.log: list[Action] = [Join(START, first, "same_cell")]
        self.minute = 0

    def _now(self) -> datetime:
        self.minute += 1
        return at(self.minute)

    def _try(self, action: Action) -> None:
        closed = self._state() == "closed"
        merged = any(isinstance(one, MergeInto) for one in self.log)
        free = isinstance(action, Confirm | Close | Reopen | Note | DoStep)
        try:
            after = apply(self.case, action)
        except AlreadyDone:
            assert not merged
            return
        except Refused as refused:
            if merged:
                assert refused.rule == "case.merged"
            elif closed and not free:
                assert refused.rule == "case.closed"
            return
        assert not merged
        assert free or not closed
        self.case = after
        self.log.append(action)

    # What is asked of the log, in the slowest way.

    def _state(self) -> str:
        state = "open"
        for one in self.log:
            match one:
                case Confirm():
                    state = "confirmed"
                case Close() | MergeInto():
                    state = "closed"
                case Reopen():
                    state = "open"
                case _:
                    pass
        return state

    def _alerts(self) -> dict[uuid.UUID, int]:
        """The rank of each alert by now."""
        ranks: dict[uuid.UUID, int] = {}
        aborted: set[uuid.UUID] = set()
        threatened: set[uuid.UUID] = set()
        for one in self.log:
            match one:
                case Join(_, told) | Take(_, _, _, _, (told,)):
                    ranks[told.alert] = SEVERITIES.index(told.severity)
                    aborted.discard(told.alert)
                    threatened.discard(told.alert)
                case Abort(_, alert):
                    aborted.add(alert)
                case Threaten(_, alert):
                    threatened.add(alert)
                case SplitOff(_, _, _, gone):
                    for alert in gone:
                        del ranks[alert]
                case _:
                    pass
        return {
            alert: min(3, rank + (alert in aborted and alert not in threatened))
            for alert, rank in ranks.items()
        }

    @rule(number=st.integers(1, 4), severity=st.sampled_from(SEVERITIES))
    def join(self, number: int, severity: Severity) -> None:
        now = self._now()
        one = signal(minutes=self.minute, number=number, severity=severity)
        self._try(Join(now, one, "same_cell"))

    @rule(number=st.integers(1, 4))
    def abort(self, number: int) -> None:
        self._try(Abort(self._now(), uuid.UUID(int=number)))

    @rule(number=st.integers(1, 4))
    def threaten(self, number: int) -> None:
        self._try(Threaten(self._now(), uuid.UUID(int=number)))

    @rule()
    def confirm(self) -> None:
        self._try(Confirm(self._now(), "li", "seen"))

    @rule(outcome=st.sampled_from(OUTCOMES), of=st.sampled_from([None, ONE]))
    def close(self, outcome: Outcome, of: uuid.UUID | None) -> None:
        self._try(Close(self._now(), "li", "seen", outcome, of))

    @rule()
    def reopen(self) -> None:
        self._try(Reopen(self._now(), "li", "again"))

    @rule(to=st.sampled_from([None, "li", "root"]))
    def assign(self, to: str | None) -> None:
        self._try(Assign(self._now(), "li", "yours", to))

    @rule(severity=st.sampled_from([None, *SEVERITIES]))
    def rate(self, severity: Severity | None) -> None:
        self._try(Rate(self._now(), "li", "looked", severity))

    @rule(note=st.sampled_from(["a", "b"]))
    def note(self, note: str) -> None:
        self._try(Note(self._now(), "li", note))

    @rule(number=st.integers(5, 7), severity=st.sampled_from(SEVERITIES))
    def take(self, number: int, severity: Severity) -> None:
        now = self._now()
        one = signal(minutes=self.minute, number=number, severity=severity)
        self._try(Take(now, "li", "same", OTHER, (one,)))

    @rule(numbers=st.frozensets(st.integers(1, 7), max_size=3))
    def split(self, numbers: frozenset[int]) -> None:
        self._try(SplitOff(self._now(), "li", "two", frozenset(uuid.UUID(int=n) for n in numbers)))

    @precondition(lambda self: self.minute > 15)
    @rule()
    def merge(self) -> None:
        self._try(MergeInto(self._now(), "li", "same", OTHER))

    @invariant()
    def agrees(self) -> None:
        case = self.case
        assert case.version == len(self.log)
        assert case.state == self._state()
        assert (case.outcome is not None) == (case.state == "closed")
        ranks = self._alerts()
        assert {one.alert: one.rank for one in case.signals} == ranks
        assert case.rank == min(ranks.values())
        assigned = [one.to for one in self.log if isinstance(one, Assign)]
        assert case.assignee == (assigned[-1] if assigned else None)
        assert case.severity == (case.severity_set or SEVERITIES[case.rank])
        rated = [one.severity for one in self.log if isinstance(one, Rate)]
        assert case.severity_set is None or case.severity_set == rated[-1]
        assert case.nature in NATURES


Naive.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAgainstNaiveModel = Naive.TestCase
