# SPDX-License-Identifier: Apache-2.0
"""What a received message is worth, before anything is written: readings, an event, or a refusal.

The second line of defence behind the broker's ACL: the topic's gateway must be registered, and
every device must be its own (invariant 4). Nothing here touches the database.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.base import UNSTORABLE
from edge_agent.messages import (
    REASONS,
    Aggregate,
    EventMessage,
    GapEvent,
    PayloadError,
    Rejection,
    Status,
    guess_number,
    parse_aggregate,
    parse_event,
    parse_result,
    parse_status,
    parse_telemetry,
    read_number,
)
from edge_agent.topics import TopicError, UpTopic, parse_up
from ingest import batches
from ingest.errors import Rejected
from ingest.store.dead_letters import DeadLetter
from ingest.store.devices import Device, Gateway, Registry

_REFUSED_LIVES = {"planned": "device.planned", "retired": "device.retired"}

_UNKNOWN = frozenset(
    {"gateway.unknown", "gateway.planned", "gateway.retired", "device.unknown"}
    | {*_REFUSED_LIVES.values()}
)


@dataclass(frozen=True, slots=True)
class Received:
    """One PUBLISH as it came; ``generation`` tells the broker connection it came on."""

    generation: int
    mid: int
    qos: int
    topic: str
    payload: bytes
    retain: bool
    dup: bool
    received_at: datetime

    @property
    def sha256(self) -> bytes:
        """Digest of the payload: its name where its number cannot be read."""
        return hashlib.sha256(self.payload).digest()


@dataclass(slots=True)
class Judged:
    """What a message is worth. Without ``stream`` its number could not be read.

    Of what ``is_stored``, under its number, nothing but that was read.
    """

    message: Received
    gateway: str | None = None
    stream: str | None = None
    seq: int | None = None
    is_stored: bool = False
    readings: list[tuple[Device, Reading]] = field(default_factory=list[tuple[Device, Reading]])
    # Beside each reading: its place in the batch.
    places: list[int] = field(default_factory=list[int])
    event: tuple[Device, Event] | GapEvent | None = None
    status: Status | None = None
    aggregate: Aggregate | None = None
    letters: list[DeadLetter] = field(default_factory=list[DeadLetter])
    rejections: list[Rejection] = field(default_factory=list[Rejection])
    # Beside each letter: the gateway's own device that is to blame, or None for the gateway.
    blamed: list[Device | None] = field(default_factory=list["Device | None"])

    @property
    def is_stranger(self) -> bool:
        """Whether a newer registry might judge otherwise."""
        return any(letter.reason in _UNKNOWN for letter in self.letters)

    def keep_only(self, place: int) -> None:
        """Forget all but the reading at ``place``: the others were stored long ago."""
        kept = [n for n, at in enumerate(self.places) if at == place]
        self.readings = [self.readings[n] for n in kept]
        self.places = [place] * len(kept)
        self.letters = [letter for letter in self.letters if letter.at_index in {place, None}]
        if self.aggregate is not None:
            parts = {"areas": self.aggregate.areas, "days": self.aggregate.days}
            kept_parts = {name: part and part[place : place + 1] for name, part in parts.items()}
            self.aggregate = self.aggregate.model_copy(update=kept_parts)

    def refuse_all(self, reason: str, detail: str) -> None:
        """Refuse the whole message after all, whatever was judged good of it."""
        self.readings.clear()
        self.places.clear()
        self.event = self.status = self.aggregate = None
        self.forgive()
        self.refuse(reason, detail)

    def forgive(self) -> None:
        """Forget what was refused of it."""
        self.letters.clear()
        self.rejections.clear()
        self.blamed.clear()

    def refuse(
        self, reason: str, detail: str, index: int | None = None, device: Device | None = None
    ) -> None:
        """Set the message, or its reading ``index``, apart for the dead letters.

        Args:
            reason: A code of the contract.
            detail: For people.
            index: Which reading; None refuses the whole message.
            device: Whose fault it is, where that is known.
        """
        assert reason in REASONS or reason.startswith("db."), reason
        message = self.message
        digest = message.sha256
        self.blamed.append(device)
        self.letters.append(
            DeadLetter(
                message.received_at,
                self.gateway,
                UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", message.topic),
                reason,
                detail,
                digest,
                None if self.letters else message.payload,
                self.stream,
                self.seq,
                index,
            )
        )
        if self.stream is not None and self.seq is not None:
            rejection = Rejection(stream=self.stream, seq=self.seq, index=index, reason=reason)
        else:
            rejection = Rejection(sha256=digest.hex(), reason=reason)
        self.rejections.append(rejection)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a device's clock may be off, either way."""

    future: timedelta = timedelta(minutes=5)
    late: timedelta = timedelta(days=30)


class Judge:
    """Judges messages against one registry."""

    def __init__(self, registry: Registry, limits: Limits) -> None:
        """Take the registry in force."""
        self._registry = registry
        self._limits = limits

    def judge(
        self, message: Received, is_stored: Callable[[str, str, int], bool] | None = None
    ) -> Judged:
        """Return what ``message`` is worth; a refusal is a result, never an exception.

        Args:
            message: What was received.
            is_stored: Whether a number (gateway, stream, seq) is stored for certain: then its
                telemetry need not be parsed once more.
        """
        judged = Judged(message)
        try:
            topic = parse_up(message.topic)
            judged.gateway = topic.gateway
            gateway = self._gateway(topic)
            if is_stored is not None and topic.channel == "telemetry":
                number = guess_number(message.payload)
                # The guess may be wrong, but decides only whether it is worth while to look.
                if (
                    number is not None
                    and is_stored(topic.gateway, *number)
                    and read_number(message.payload) == number
                ):
                    judged.stream, judged.seq = number
                    judged.is_stored = True
                    return judged
            _HANDLERS[topic.channel](self, judged, gateway)
        except TopicError as error:
            judged.refuse(error.reason, str(error))
        except PayloadError as error:
            judged.stream, judged.seq = error.stream, error.seq
            judged.refuse(error.reason, str(error))
        except Rejected as error:
            if error.reason == "gateway.planned":
                # Its numbers are used up: else they would be missed once it is in service.
                judged.stream, judged.seq = read_number(message.payload) or (None, None)
            judged.refuse(error.reason, error.detail)
        return judged

    def _gateway(self, topic: UpTopic) -> Gateway:
        gateway, channel = topic.gateway, topic.channel
        known = self._registry.gateways.get(gateway)
        if known is None:
            raise Rejected("gateway.unknown", gateway)
        if known.status != "active":
            raise Rejected(f"gateway.{known.status}", gateway)
        if channel != "status" and known.is_city != (channel == "aggregate"):
            raise Rejected("gateway.wrong_role", f"{gateway}: {channel}")
        return known

    def telemetry(self, judged: Judged, gateway: Gateway) -> None:
        """Judge a batch reading by reading: the good are stored, the bad set apart."""
        message = judged.message
        first = message.received_at - self._limits.late
        last = message.received_at + self._limits.future
        if self._take_plain(judged, gateway, first, last):
            return
        batch = parse_telemetry(message.payload)
        judged.stream, judged.seq = batch.stream, batch.seq
        for rejected in batch.rejected:
            judged.refuse(rejected.reason, rejected.detail, rejected.index)
        for index, reading in batch.readings:
            try:
                device = self._device(
                    reading.device, reading.kind, reading.at, gateway, first, last
                )
            except Rejected as error:
                judged.refuse(error.reason, error.detail, index, self._own(reading.device, gateway))
            else:
                judged.readings.append((device, reading))
                judged.places.append(index)

    def _take_plain(
        self, judged: Judged, gateway: Gateway, first: datetime, last: datetime
    ) -> bool:
        """Take a batch of which all is plain and good, as nearly all are; return whether it is."""
        batch = batches.read(judged.message.payload)
        if batch is None:
            return False
        name, devices = gateway.gateway, self._registry.devices
        taken: list[tuple[Device, Reading]] = []
        for reading in batch.readings:
            device, at = devices.get(reading.device), reading.at
            if (
                device is None
                or device.gateway != name
                or device.kind != reading.kind
                or device.life in _REFUSED_LIVES
                or at.tzinfo is not UTC
                or not first <= at <= last
            ):
                return False  # why not is told by who reads it anew
            taken.append((device, reading))
        judged.stream, judged.seq = batch.stream, batch.seq
        judged.readings, judged.places = taken, list(range(len(taken)))
        return True

    def event(self, judged: Judged, gateway: Gateway) -> None:
        """Judge one event."""
        message: EventMessage = parse_event(judged.message.payload)
        judged.stream, judged.seq = message.stream, message.seq
        event = message.event
        if isinstance(event, GapEvent):
            judged.event = event
            return
        received_at = judged.message.received_at
        device = self._device(
            event.device,
            event.kind,
            event.at,
            gateway,
            received_at - self._limits.late,
            received_at + self._limits.future,
        )
        judged.event = (device, event)

    def status(self, judged: Judged, gateway: Gateway) -> None:
        """Judge a birth, heartbeat or death."""
        del gateway
        judged.status = parse_status(judged.message.payload)

    def result(self, judged: Judged, gateway: Gateway) -> None:
        """Judge a command's result: no command was ever sent, so none can have one."""
        del gateway
        result = parse_result(judged.message.payload)
        raise Rejected("command.unknown", result.command)

    def aggregate(self, judged: Judged, gateway: Gateway) -> None:
        """Judge what a city tells; whose its areas are is known to the tables only."""
        del gateway
        message = parse_aggregate(judged.message.payload)
        judged.stream, judged.seq = message.stream, message.seq
        judged.aggregate = message

    def _own(self, device: str, gateway: Gateway) -> Device | None:
        known = self._registry.devices.get(device)
        return known if known is not None and known.gateway == gateway.gateway else None

    def _device(
        self,
        device: str,
        kind: str,
        at: datetime,
        gateway: Gateway,
        first: datetime,
        last: datetime,
    ) -> Device:
        # Time first: nothing else may compute with an impossible instant.
        if at > last:
            raise Rejected("time.future", f"{device}: {at.isoformat()}")
        if at < first:
            raise Rejected("time.too_old", f"{device}: {at.isoformat()}")
        known = self._registry.devices.get(device)
        if known is None:
            raise Rejected("device.unknown", device)
        if known.gateway != gateway.gateway:
            raise Rejected("device.wrong_gateway", f"{device} is not behind {gateway.gateway}")
        if known.kind != kind:
            raise Rejected("device.wrong_kind", f"{device} is a {known.kind}, not a {kind}")
        if (reason := _REFUSED_LIVES.get(known.life)) is not None:
            raise Rejected(reason, device)
        return known


_HANDLERS: dict[str, Callable[[Judge, Judged, Gateway], None]] = {
    "telemetry": Judge.telemetry,
    "event": Judge.event,
    "status": Judge.status,
    "result": Judge.result,
    "aggregate": Judge.aggregate,
}
