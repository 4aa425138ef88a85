# SPDX-License-Identifier: Apache-2.0
"""Which alerts must be raised: from the faults that happened and from when they were told.

Written from the definition of each rule, not from the platform's code. An alert is expected only
where it must have been raised by the end of the run; its window is in device time and as tight as
the rule: a condition counts from the first reading that shows it, and an on-delay ends when it
ends. Where the server's own clock decides (silence), the window allows for its looking every few
seconds.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from simulators.faults import Fault, FaultKind
from simulators.registry import STATUS_INTERVAL_S, City
from simulators.spans import SECOND, Span, clip, intersect, normal
from simulators.world import World, night_of

LAMP_DARK_S: Final = 300
DAY_BURNER_S: Final = 900
DEVICE_SILENT_S: Final = 60
# Of these many reporting periods, or status intervals, somebody is silent.
SILENT_AFTER: Final = 3
_NOTICED_S: Final = 10
# How late the server may look at what only time decides.
_LOOKING_US: Final = 15 * SECOND
_SLACK_US: Final = SECOND


def max_silence_us(city: City) -> int:
    """Return for how long a reading holds in a city that hears nothing after it."""
    return SILENT_AFTER * city.reporting_period_s * SECOND


def outage_min_us(status_interval_s: int = STATUS_INTERVAL_S) -> int:
    """Return for how long a link must be cut before its silence is surely noticed."""
    return (SILENT_AFTER * status_interval_s + _NOTICED_S) * SECOND


# Wherever status intervals are no longer than usual.
OUTAGE_MIN_US: Final = outage_min_us()


class Expected(NamedTuple):
    """An alert that must have been raised, with ``raised_at`` in ``[from_us, to_us]``."""

    rule: str
    subject: str
    from_us: int
    to_us: int
    cause_us: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the ledger has of the devices and gateways that had faults.

    ``readings`` and ``events``: for each device the instants of what was accepted, in order.
    ``latest``: for each gateway the last instant of anything accepted. ``outages``: links that
    were cut and mended. ``sessions``: times of live operation.
    """

    readings: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    events: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    latest: Mapping[str, int] = field(default_factory=dict[str, int])
    outages: Sequence[tuple[str, int, int]] = ()
    sessions: Sequence[Span] = ()

    def first(self, device: str, span: Span) -> int | None:
        """Return the instant of the device's first reading in a span."""
        instants = self.readings.get(device, ())
        index = bisect_left(instants, span[0])
        return instants[index] if index < len(instants) and instants[index] < span[1] else None

    def last(self, device: str, us: int) -> int | None:
        """Return the instant of the device's last reading not later than ``us``."""
        instants = self.readings.get(device, ())
        index = bisect_right(instants, us)
        return instants[index - 1] if index else None

    def has_event(self, device: str, us: int) -> bool:
        """Whether an event of the device was accepted with this instant."""
        instants = self.events.get(device, ())
        index = bisect_left(instants, us)
        return index < len(instants) and instants[index] == us


def expected_alerts(world: World, evidence: Evidence) -> list[Expected]:
    """Return the alerts that must have been raised, by their beginning."""
    alerts = [alert for fault in world.faults for alert in _of(world, fault, evidence)]
    interval_s = world.city.status_interval_s
    alerts += [
        Expected(
            "gateway.silent",
            gateway,
            # The last status came up to one interval before the cut.
            cut + ((SILENT_AFTER - 1) * interval_s - 1) * SECOND,
            cut + SILENT_AFTER * interval_s * SECOND + _LOOKING_US,
            cut,
        )
        for gateway, cut, healed in evidence.outages
        if healed - cut >= outage_min_us(interval_s)
    ]
    return sorted(alerts, key=lambda alert: (alert.from_us, alert.rule, alert.subject))


def _of(world: World, fault: Fault, evidence: Evidence) -> Iterator[Expected]:
    match fault.kind:
        case FaultKind.LAMP_BROKEN | FaultKind.LAMP_FLICKER:
            for span in _while_due(world, fault):
                yield from _held("lamp.dark", world, fault.target, span, LAMP_DARK_S, evidence)
        case FaultKind.LAMP_DAY_BURNER:
            yield from _held(
                "lamp.day_burner", world, fault.target, fault.span, DAY_BURNER_S, evidence
            )
        case FaultKind.LAMP_FAULT_CODE:
            yield from _seen("device.fault", fault, evidence)
        case FaultKind.BIN_OVERFULL:
            yield from _seen("bin.full", fault, evidence)
        case FaultKind.BIN_FIRE:
            yield from _seen("bin.fire", fault, evidence)
        case FaultKind.GATE_FORCED:
            yield from _told("gate.forced", fault, evidence)
        case FaultKind.GATE_HELD_OPEN:
            yield from _told("gate.held_open", fault, evidence)
        case FaultKind.ALARM | FaultKind.ALARM_ABORTED:
            yield from _told(f"alarm.{fault.detail}", fault, evidence)
        case FaultKind.DEVICE_DEAD:
            yield from _silent(world, fault, evidence)
        case FaultKind.ALARM_TEST | FaultKind.GATEWAY_SILENT:
            # A test alerts nobody; a cut link is expected where it really was cut.
            pass


def _while_due(world: World, fault: Fault) -> list[Span]:
    """Return the parts of a lamp's fault in which the lamp is due."""
    lamp = world.city.by_id[fault.target]
    nights = range(night_of(fault.from_us) - 1, night_of(fault.to_us) + 2)
    due = normal(span for night in nights for span in world.due(lamp, night))
    in_service = clip(due, (world.city.in_service_us, fault.to_us))
    return intersect([fault.span], in_service)


def _held(
    rule: str, world: World, device: str, span: Span, on_delay_s: int, evidence: Evidence
) -> Iterator[Expected]:
    """Yield the alert on a condition that must hold for a while."""
    cause = evidence.first(device, span)
    if cause is None:
        return
    deadline = cause + on_delay_s * SECOND
    confirmed = evidence.last(device, deadline)
    known = confirmed is not None and confirmed + max_silence_us(world.city) >= deadline
    gateway = world.city.by_id[device].gateway
    if deadline < span[1] and known and evidence.latest.get(gateway, 0) >= deadline:
        yield Expected(rule, device, deadline, deadline + _SLACK_US, cause)


def _seen(rule: str, fault: Fault, evidence: Evidence) -> Iterator[Expected]:
    """Yield the alert on a condition that the first reading of it raises."""
    cause = evidence.first(fault.target, fault.span)
    if cause is not None:
        yield Expected(rule, fault.target, cause, cause + _SLACK_US, cause)


def _told(rule: str, fault: Fault, evidence: Evidence) -> Iterator[Expected]:
    """Yield the alert on an event."""
    at = fault.from_us
    if evidence.has_event(fault.target, at):
        yield Expected(rule, fault.target, at, at + _SLACK_US, at)


def _silent(world: World, fault: Fault, evidence: Evidence) -> Iterator[Expected]:
    """Yield the alert on a device that went silent while its gateway was heard.

    Silence is measured in the server's time, so it is expected of live operation only.
    """
    for start, end in evidence.sessions:
        last = evidence.last(fault.target, fault.from_us)
        if last is None or not start < fault.from_us < end:
            continue
        noticed = last + max_silence_us(world.city) + DEVICE_SILENT_S * SECOND
        if noticed + _LOOKING_US < min(fault.to_us, end):
            yield Expected(
                "device.silent", fault.target, noticed - _SLACK_US, noticed + _LOOKING_US, last
            )
