# SPDX-License-Identifier: Apache-2.0
"""Which alerts follow from which faults, and when they must have been raised."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from simulators.expect import Evidence, Expected, expected_alerts
from simulators.faults import Fault, FaultKind
from simulators.spans import HOUR, MINUTE, SECOND
from simulators.world import day_start, night_of
from tests.simulators.town import NOON, device, fault, world

LAMP, ALWAYS, BIN, GATE, ALARM = (
    "c01-lamp-001",
    "c01-lamp-060",
    "c01-bin-001",
    "c01-gate-001",
    "c01-alarm-005",
)
MIDNIGHT = day_start(night_of(NOON) + 1)
END = MIDNIGHT + 20 * HOUR


def expected(
    one: Fault,
    *,
    readings: Sequence[int] = (),
    events: Sequence[int] = (),
    latest: int = END,
    sessions: Sequence[tuple[int, int]] = (),
) -> list[Expected]:
    town = world([one])
    gateways = {gateway.gateway: latest for gateway in town.city.gateways}
    return expected_alerts(
        town,
        Evidence({one.target: readings}, {one.target: events}, gateways, sessions=sessions),
    )


def heartbeats(first: int, one: Fault, step_us: int = 10 * MINUTE) -> list[int]:
    """A reading at each step, at each edge of the fault, and at the end."""
    return sorted({*range(first, END, step_us), one.from_us, one.to_us, END})


def test_dark_for_longer_than_the_on_delay() -> None:
    one = fault(FaultKind.LAMP_BROKEN, LAMP, MIDNIGHT + 7, 3_600)
    (alert,) = expected(one, readings=heartbeats(MIDNIGHT - HOUR, one))
    assert alert == Expected(
        "lamp.dark",
        LAMP,
        one.from_us + 300 * SECOND,
        one.from_us + 301 * SECOND,
        one.from_us,
    )


def test_a_lamp_that_never_came_on_counts_from_its_first_reading_when_due() -> None:
    town = world()
    ((dusk, dawn),) = town.due(device(town, LAMP), night_of(NOON))
    one = Fault(dusk - HOUR, dawn + HOUR, FaultKind.LAMP_BROKEN, LAMP)
    beats = heartbeats(NOON, one)
    (alert,) = expected(one, readings=beats)
    assert alert.cause_us == next(us for us in beats if us >= dusk)
    assert alert.from_us == alert.cause_us + 300 * SECOND


def test_dark_by_day_is_no_matter() -> None:
    one = fault(FaultKind.LAMP_BROKEN, LAMP, NOON + HOUR, 7_200)
    assert expected(one, readings=heartbeats(NOON, one)) == []
    one = fault(FaultKind.LAMP_BROKEN, ALWAYS, NOON + HOUR, 7_200)
    assert len(expected(one, readings=heartbeats(NOON, one))) == 1


def test_dark_for_a_moment() -> None:
    one = fault(FaultKind.LAMP_FLICKER, LAMP, MIDNIGHT, 200)
    assert expected(one, readings=heartbeats(MIDNIGHT - HOUR, one)) == []


def test_not_before_the_gateway_has_come_so_far() -> None:
    one = fault(FaultKind.LAMP_BROKEN, LAMP, MIDNIGHT, 3_600)
    beats = [us for us in heartbeats(MIDNIGHT - HOUR, one) if us < MIDNIGHT + 299 * SECOND]
    assert expected(one, readings=beats, latest=MIDNIGHT + 299 * SECOND) == []
    assert expected(one, readings=beats, latest=MIDNIGHT + 300 * SECOND)


def test_what_was_never_told_alerts_nobody() -> None:
    for kind, name in (
        (FaultKind.LAMP_BROKEN, LAMP),
        (FaultKind.LAMP_FAULT_CODE, LAMP),
        (FaultKind.BIN_FIRE, BIN),
        (FaultKind.GATE_FORCED, GATE),
        (FaultKind.ALARM, ALARM),
        (FaultKind.DEVICE_DEAD, BIN),
    ):
        one = fault(kind, name, MIDNIGHT, 3_600, "smoke")
        outside = [one.from_us - 1, one.to_us + 1]
        assert expected(one, readings=outside, events=outside) == []


def test_lit_by_day() -> None:
    one = fault(FaultKind.LAMP_DAY_BURNER, LAMP, NOON + HOUR, 7_200)
    (alert,) = expected(one, readings=heartbeats(NOON, one))
    assert (alert.rule, alert.from_us) == ("lamp.day_burner", one.from_us + 900 * SECOND)


@pytest.mark.parametrize(
    ("kind", "name", "rule"),
    [
        (FaultKind.LAMP_FAULT_CODE, LAMP, "device.fault"),
        (FaultKind.BIN_OVERFULL, BIN, "bin.full"),
        (FaultKind.BIN_FIRE, BIN, "bin.fire"),
    ],
)
def test_the_first_reading_raises(kind: FaultKind, name: str, rule: str) -> None:
    one = fault(kind, name, MIDNIGHT, 3_600)
    (alert,) = expected(one, readings=heartbeats(NOON, one))
    assert alert == Expected(rule, name, one.from_us, one.from_us + SECOND, one.from_us)


@pytest.mark.parametrize(
    ("kind", "name", "detail", "rule"),
    [
        (FaultKind.GATE_FORCED, GATE, "", "gate.forced"),
        (FaultKind.GATE_HELD_OPEN, GATE, "", "gate.held_open"),
        (FaultKind.ALARM, ALARM, "smoke", "alarm.smoke"),
        (FaultKind.ALARM, ALARM, "tamper", "alarm.tamper"),
        (FaultKind.ALARM_ABORTED, ALARM, "intrusion", "alarm.intrusion"),
    ],
)
def test_an_event_raises(kind: FaultKind, name: str, detail: str, rule: str) -> None:
    one = fault(kind, name, MIDNIGHT, 3_600, detail)
    (alert,) = expected(one, events=[NOON, one.from_us, one.to_us])
    assert alert == Expected(rule, name, one.from_us, one.from_us + SECOND, one.from_us)


def test_a_test_raises_nothing() -> None:
    one = fault(FaultKind.ALARM_TEST, ALARM, MIDNIGHT, 60, "smoke")
    assert expected(one, events=[one.from_us]) == []


@pytest.mark.parametrize(("lasts_s", "alerts"), [(1_200, 0), (1_700, 0), (2_400, 1), (7_200, 1)])
def test_silence_of_a_device_counts_while_live(lasts_s: int, alerts: int) -> None:
    one = fault(FaultKind.DEVICE_DEAD, BIN, MIDNIGHT, lasts_s)
    beats = [us for us in heartbeats(NOON, one, MINUTE) if not one.from_us <= us < one.to_us]
    live = [(MIDNIGHT - HOUR, END)]
    found = expected(one, readings=beats, sessions=live)
    assert len(found) == alerts
    for alert in found:
        assert alert.from_us <= alert.cause_us + 1_860 * SECOND <= alert.to_us
    # Replayed, a whole day passes in a minute: nothing is silent for long.
    assert expected(one, readings=beats, sessions=[(END - HOUR, END)]) == []


def test_a_line_that_was_really_cut() -> None:
    one = fault(FaultKind.GATEWAY_SILENT, "gw-c01-a", MIDNIGHT, 60)
    town = world([one])
    cut = MIDNIGHT + 3
    assert expected_alerts(town, Evidence()) == []
    long = Evidence(outages=[("gw-c01-a", cut, cut + MINUTE)])
    (alert,) = expected_alerts(town, long)
    assert (alert.rule, alert.subject, alert.cause_us) == ("gateway.silent", "gw-c01-a", cut)
    assert alert.from_us < cut + 15 * SECOND < alert.to_us
    short = Evidence(outages=[("gw-c01-a", cut, cut + 10 * SECOND)])
    assert expected_alerts(town, short) == []


@pytest.mark.parametrize(("status_interval_s", "shortest_s"), [(5, 25), (2, 16)])
def test_a_link_cut_for_as_long_as_its_gateway_needs_to_be_missed(
    status_interval_s: int, shortest_s: int
) -> None:
    town = world()
    town.city = replace(town.city, status_interval_s=status_interval_s)
    long, short = (NOON, NOON + shortest_s * SECOND), (NOON, NOON + shortest_s * SECOND - 1)
    outages = [("gw-c01-a", *long), ("gw-c01-b", *short)]
    (alert,) = expected_alerts(town, Evidence(outages=outages))
    assert (alert.rule, alert.subject, alert.cause_us) == ("gateway.silent", "gw-c01-a", NOON)
    silent_us = NOON + 3 * status_interval_s * SECOND
    assert silent_us - (status_interval_s + 1) * SECOND == alert.from_us
    assert silent_us + 15 * SECOND == alert.to_us
