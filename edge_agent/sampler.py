# SPDX-License-Identifier: Apache-2.0
"""What is worth sending: polls drivers, reports by exception and by heartbeat, cuts batches.

Also mints alarm occurrence ids and makes credentials pseudonyms. Keeps no file and no clock.
Telemetry is repeated until `Sampler.keep` says that it was accepted; an event is told once, and
whoever takes a step must see it accepted.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from operator import attrgetter
from typing import Any, Final

from edge_agent.clock import credible
from edge_agent.kinds import CHANGED, Driver, Event, Observation, Reading
from edge_agent.kinds.alarm import AlarmEvent, AlarmSignal
from edge_agent.kinds.base import ReadingBase
from edge_agent.kinds.bin import DepositEvent
from edge_agent.kinds.gate import GateEvent, Passage
from edge_agent.lanes import AlarmKey, Draft, new_id
from edge_agent.messages import READINGS_SENT_MAX, EventMessage, Telemetry

log = logging.getLogger(__name__)

# No reading of any class is longer (a test builds the longest), so a full batch of
# READINGS_SENT_MAX always fits into PAYLOAD_BYTES_MAX and nothing has to be measured and cut again.
READING_BYTES_MAX: Final = 1_024
_TICK: Final = timedelta(microseconds=1)
_AT: Final = attrgetter("at")


@dataclass(frozen=True, slots=True)
class Sent:
    """A device's last reading that was sent, and the instant the driver gave it."""

    reading: Reading
    at: datetime


@dataclass(frozen=True, slots=True)
class Step:
    """What one sampling step found worth sending, not yet accepted by anybody."""

    events: Sequence[Event]
    telemetry: Sequence[Draft]
    latest: Mapping[str, Sent]
    occurrences: Mapping[AlarmKey, str | None]


@dataclass(slots=True)
class _Device:
    driver: Driver
    # Any: a reading of this driver's class, see CHANGED.
    changed: Callable[[Any, Any], bool]
    sent: Sent | None = None
    failing: bool = False


@dataclass(slots=True)
class _Round:
    """What is collected during one step."""

    readings: list[Reading] = field(default_factory=list[Reading])
    events: list[Event] = field(default_factory=list[Event])
    latest: dict[str, Sent] = field(default_factory=dict[str, Sent])
    occurrences: dict[AlarmKey, str | None] = field(default_factory=dict[AlarmKey, str | None])


class Sampler:
    """Decides, for the devices of one gateway, what of their observations is sent.

    Readings of one device never share an instant: an exact repetition at the same instant is
    dropped, another value at the same instant is moved 1 µs later, so that both stay, in order. An
    instant before the last one sent (the clock was set back) is passed on as it is: a late reading
    is welcome, an invented instant is not.
    """

    def __init__(
        self,
        drivers: Sequence[Driver],
        *,
        heartbeat: timedelta,
        pseudonym: Callable[[str], str],
        occurrences: Mapping[AlarmKey, str],
        mint: Callable[[datetime], str] = new_id,
    ) -> None:
        """Take the drivers; each device id once.

        Args:
            heartbeat: An unchanged reading is repeated when this much device time has passed.
            pseudonym: Makes a raw credential a pseudonym.
            occurrences: Alarms raised and not yet restored when the agent last stopped.
            mint: Makes an occurrence id.
        """
        self.heartbeat = heartbeat
        self._pseudonym = pseudonym
        self._mint = mint
        self._occurrences = dict(occurrences)
        self._devices = {driver.device: _Device(driver, CHANGED[driver.kind]) for driver in drivers}
        if len(self._devices) != len(drivers):
            raise ValueError("two drivers for one device")

    def take(self, now: datetime, devices: Collection[str] | None = None) -> Step:
        """Poll the drivers (of ``devices``, or all) and return what is worth sending.

        A driver that fails is left out of this step and logged when it begins and ends to fail.
        """
        found = _Round()
        for name, device in self._devices.items():
            if devices is not None and name not in devices:
                continue
            self._look(device, now, found)
        found.readings.sort(key=_AT)
        found.events.sort(key=_AT)
        return Step(
            events=found.events,
            telemetry=[
                Draft(
                    "telemetry", partial(_telemetry, found.readings[i : i + READINGS_SENT_MAX], now)
                )
                for i in range(0, len(found.readings), READINGS_SENT_MAX)
            ],
            latest=found.latest,
            occurrences=found.occurrences,
        )

    def keep(self, step: Step) -> None:
        """Remember that the step's telemetry was accepted; else it is reported anew."""
        for name, sent in step.latest.items():
            self._devices[name].sent = sent

    def failing(self) -> list[str]:
        """Return the devices whose drivers failed when they were last polled."""
        return [name for name, device in self._devices.items() if device.failing]

    def _look(self, device: _Device, now: datetime, found: _Round) -> None:
        """Poll one device into ``found``; a device that fails is logged when it begins and ends."""
        try:
            self._collect(device, device.driver.poll(now), now, found)
        # OSError: the hardware does not answer. ValueError: it answers what no message can hold.
        except (OSError, ValueError) as error:
            if not device.failing:
                device.failing = True
                text = " ".join(str(error).split())
                log.warning("device fails device=%s error=%s", device.driver.device, text)
        else:
            if device.failing:
                device.failing = False
                log.info("device works again device=%s", device.driver.device)

    def _collect(
        self, device: _Device, observations: Sequence[Observation], now: datetime, found: _Round
    ) -> None:
        sent = device.sent
        for one in sorted((_dated(one, now) for one in observations), key=_AT):
            match one:
                case ReadingBase():
                    due = self._due(device.changed, sent, one)
                    if due is not None:
                        sent = due
                        found.readings.append(due.reading)
                        found.latest[device.driver.device] = due
                case Passage():
                    found.events.append(self._gate_event(one))
                case AlarmSignal():
                    found.events.append(self._alarm_event(one, found.occurrences))
                case DepositEvent():
                    found.events.append(one)

    def _due(
        self, changed: Callable[[Any, Any], bool], sent: Sent | None, reading: Reading
    ) -> Sent | None:
        """Return what of ``reading`` is to be sent after ``sent``; None: nothing."""
        if sent is None or reading.at < sent.at:
            return Sent(reading, reading.at)
        if not (changed(sent.reading, reading) or reading.at - sent.reading.at >= self.heartbeat):
            return None
        if reading.at > sent.reading.at:
            return Sent(reading, reading.at)
        moved = reading.model_copy(update={"at": sent.reading.at + _TICK})
        return Sent(moved, reading.at)

    def _gate_event(self, seen: Passage) -> GateEvent:
        credential = seen.credential
        return GateEvent(
            device=seen.device,
            at=seen.at,
            event=seen.event,
            direction=seen.direction,
            credential=self._pseudonym(credential) if credential else None,
        )

    def _alarm_event(
        self, seen: AlarmSignal, occurrences: dict[AlarmKey, str | None]
    ) -> AlarmEvent:
        """Return the event with its occurrence: one from the first raise until it is over.

        A raise while raised repeats the occurrence; a test, and a restoral or an abort of what does
        not stand, get one of their own.
        """
        key = AlarmKey(seen.device, seen.event, seen.zone or "")
        standing = None if seen.phase == "test" else self._occurrences.get(key)
        event = AlarmEvent(
            device=seen.device,
            at=seen.at,
            event=seen.event,
            phase=seen.phase,
            occurrence=standing or self._mint(seen.at),
            zone=seen.zone,
        )
        if seen.phase == "raised":
            self._occurrences[key] = occurrences[key] = event.occurrence
        elif seen.phase in ("restored", "aborted"):
            self._occurrences.pop(key, None)
            occurrences[key] = None
        return event


def event_draft(event: Event, sent_at: datetime) -> Draft:
    """Return the message of one event, sent at once."""
    return Draft("event", partial(_event_message, event, sent_at))


def _dated(one: Observation, now: datetime) -> Observation:
    """Return an event with the instant of the poll where the device's own clock was never set."""
    match one:
        case Passage() | AlarmSignal() if not credible(one.at):
            return replace(one, at=now)
        case _:
            return one


def _event_message(event: Event, sent_at: datetime, stream: str, seq: int) -> EventMessage:
    return EventMessage(stream=stream, seq=seq, sent_at=sent_at, event=event)


def _telemetry(readings: Sequence[Reading], sent_at: datetime, stream: str, seq: int) -> Telemetry:
    return Telemetry(stream=stream, seq=seq, sent_at=sent_at, readings=tuple(readings))
