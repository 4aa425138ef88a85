# SPDX-License-Identifier: Apache-2.0
"""The wire contract: every message between a gateway and the server, every version ever shipped.

Changes: adding an optional field, a device class or an enum member that old receivers dead-letter
and requeue is safe. Renaming a field, narrowing a range, making a field mandatory or giving a name
another meaning is never done; it needs a new ``v`` beside the old one. Golden payloads under
``tests/payloads/`` keep this honest. Duplicate JSON keys: the last one wins.

``docs/contract.md`` is made from this module; its fields are explained by their descriptions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import count
from typing import Annotated, Final, Literal, TypeVar

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
    OnErrorOmit,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.base import UNSTORABLE, Code, GatewayId, Id, Instant, Number, Text, Wire

PAYLOAD_BYTES_MAX: Final = 128 * 1024
AREAS_MAX: Final = 1_000
TALLIES_MAX: Final = 1_000
# Senders cut at 100; receivers tolerate ten times that before they refuse.
READINGS_SENT_MAX: Final = 100
READINGS_MAX: Final = 1_000
SEQ_MAX: Final = 2**53 - 1
INT_MAX: Final = 2**31 - 1
ZONE_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$"
STREAMS_MAX: Final = 16

# Not a Literal: JSON true would pass for 1.
V1 = Annotated[
    int,
    Field(strict=True, ge=1, le=1, description="version of the contract"),
    WithJsonSchema({"type": "integer", "const": 1}),
]
Lane = Literal["telemetry", "event"]
# What a server takes in by number: of gateways, and what cities tell their province.
AnyLane = Lane | Literal["aggregate"]
Seq = Annotated[int, Field(ge=1, le=SEQ_MAX, strict=True)]
Count = Annotated[int, Field(ge=0, le=SEQ_MAX, strict=True)]
ClockQuality = Literal["synchronized", "unsynchronized", "unknown"]


class Telemetry(Wire):
    """A batch of readings of any devices behind one gateway (``up/telemetry``)."""

    v: V1 = 1
    stream: Id = Field(description="one lane of one outbox file; new when the file is made anew")
    seq: Seq = Field(description="from 1, without holes, never reused within the stream")
    sent_at: Instant = Field(description="when the message was made, by the gateway's clock")
    readings: tuple[Reading, ...] = Field(
        min_length=1,
        max_length=READINGS_MAX,
        description="sorted by `at`; senders put at most 100 into one message",
    )


class GapEvent(Wire):
    """The outbox limit was reached: these messages were evicted and will never come.

    Lies in the event lane, which is never evicted before telemetry.
    """

    kind: Literal["gap"] = "gap"
    lane: Lane = Field(description="the lane that has the hole")
    stream: Id = Field(description="the stream that has the hole")
    first: Seq = Field(description="lowest seq evicted")
    last: Seq = Field(description="highest seq evicted")
    count: Seq = Field(description="messages evicted in [first, last]")
    at: Instant = Field(description="when they were evicted")

    @model_validator(mode="after")
    def _ordered(self) -> "GapEvent":
        if self.first > self.last or self.count > self.last - self.first + 1:
            raise PydanticCustomError(
                "gap_range", "first <= last and count <= last - first + 1 should hold"
            )
        return self


class EventMessage(Wire):
    """One event, sent at once (``up/event``): never batched, so that nothing waits for it."""

    v: V1 = 1
    stream: Id = Field(description="one lane of one outbox file; new when the file is made anew")
    seq: Seq = Field(description="from 1, without holes, never reused within the stream")
    sent_at: Instant = Field(description="when the message was made, by the gateway's clock")
    event: Annotated[Event | GapEvent, Field(discriminator="kind")] = Field(
        description="what happened"
    )


class StreamStatus(Wire):
    """One outbox lane as its gateway sees it."""

    lane: Lane = Field(description="what the stream carries")
    stream: Id = Field(description="the lane's present stream")
    oldest: Seq = Field(description="lowest seq still held; equals next when nothing is held")
    next: Seq = Field(description="the seq the next message will get")


class Status(Wire):
    """Birth, heartbeat and death of a gateway (``up/status``, retained; death is the will)."""

    v: V1 = 1
    state: Literal["online", "offline"] = Field(description="offline: the will, or a clean stop")
    at: Instant | None = Field(default=None, description="absent in a will, written beforehand")
    agent_version: Text | None = Field(default=None, description="of the sending program")
    streams: Annotated[tuple[StreamStatus, ...], FailFast()] = Field(
        default=(), max_length=STREAMS_MAX, description="the gateway's lanes"
    )
    outbox_messages: Count | None = Field(
        default=None, description="messages not yet known as stored"
    )
    outbox_bytes: Count | None = Field(default=None, description="what these messages hold")
    outbox_limit_bytes: Count | None = Field(
        default=None, description="what the outbox may hold before it evicts the oldest"
    )
    outbox_hours: Number | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="how long the outbox could still take in what is measured; h, absent: unknown",
    )
    clock: ClockQuality = Field(
        default="unknown", description="whether the gateway's clock is known to be right"
    )
    status_interval_s: Number | None = Field(
        default=None, gt=0, le=3_600, description="promise: the next status comes within this"
    )


# Strict: a bare JSON number is no day.
Day = Annotated[date, Field(strict=True)]
Version = Annotated[int, Field(ge=1, le=SEQ_MAX, strict=True)]
Zone = Annotated[str, StringConstraints(pattern=ZONE_PATTERN, max_length=64)]
Level = Literal["city", "district", "street", "community", "cell"]


class _AmongServers(Wire):
    """Base of what no gateway sends or takes: built when first used, so that none pays for it."""

    model_config = ConfigDict(defer_build=True)


class _ToGateway(Wire):
    """Base of what gateways take: parsed without the library's table of texts, which is 256 KiB."""

    model_config = ConfigDict(cache_strings="none")


class AreaTally(_AmongServers):
    """What one indicator of an area's day adds up to: whole numbers in the indicator's parts."""

    indicator: Id = Field(description="which indicator")
    kind: Id | None = Field(default=None, description="device class; absent: all together")
    good: Count = Field(description="known good; of a sum the sum, of a rate the cases")
    bad: Count = Field(description="known bad")
    total: Count = Field(description="known and unknown")
    subjects: Annotated[int, Field(ge=0, le=INT_MAX, strict=True)] = Field(
        description="how many devices, or cases, speak in it"
    )
    excluded: dict[Code, Count] | None = Field(
        default=None, description="how much does not count, by reason"
    )
    revision: Annotated[int, Field(ge=1, le=INT_MAX, strict=True)] = Field(
        description="how often it was final, restated and final again"
    )
    rule_version: Annotated[int, Field(ge=1, le=INT_MAX, strict=True)] = Field(
        description="by which rule it was computed"
    )

    @model_validator(mode="after")
    def _parts_of_a_whole(self) -> "AreaTally":
        if self.good + self.bad > self.total:
            raise PydanticCustomError("tally_impossible", "good + bad <= total should hold")
        return self


class AreaDay(_AmongServers):
    """All final numbers of one area's day, with all that lay below it; a later one replaces it."""

    area: Id = Field(description="which area")
    day: Day = Field(description="which day, local; of a night the date of its dusk")
    version: Version = Field(description="the greatest holds; an equal one says the same")
    computed_at: Instant = Field(description="when the latest of its numbers was computed")
    tallies: tuple[AreaTally, ...] = Field(
        max_length=TALLIES_MAX, description="one an indicator and device class"
    )


class AreaPlace(_AmongServers):
    """Where in its city's tree an area lay from an instant on."""

    since: Instant | None = Field(default=None, description="absent: from the beginning")
    path: tuple[Id, ...] = Field(
        min_length=1, max_length=16, description="areas from the city down to this one"
    )
    time_zone: Zone = Field(description="IANA name; a day of the area begins in it")


class Residents(_AmongServers):
    """How many people lived in an area, and when."""

    first: Day = Field(description="the first day of which it is true")
    end: Day | None = Field(default=None, description="the day after the last; absent: it holds")
    residents: Annotated[int, Field(ge=1, le=INT_MAX, strict=True)] = Field(description="people")
    households: Annotated[int, Field(ge=0, le=INT_MAX, strict=True)] | None = Field(
        default=None, description="households"
    )


class AreaRecord(_AmongServers):
    """One area of a city's tree; a later one replaces it."""

    area: Id = Field(description="which area")
    parent: Id | None = Field(default=None, description="what it lies in; absent: the city itself")
    level: Level = Field(description="how large an area it is")
    name: Text = Field(description="what people call it")
    name_en: Text | None = Field(default=None, description="the same in English")
    version: Version = Field(description="the greatest holds; an equal one says the same")
    places: tuple[AreaPlace, ...] = Field(
        min_length=1,
        max_length=1_000,
        description="where it lay, in order; the last holds",
    )
    population: tuple[Residents, ...] = Field(
        default=(), max_length=1_000, description="who lived there, in order"
    )


class Aggregate(_AmongServers):
    """What a city tells its province (``up/aggregate``): its areas, or final numbers of their days.

    A city connects as a gateway does. Either ``areas`` or ``days`` is there. No device, no reading,
    no alert and no person is ever named.
    """

    v: V1 = 1
    stream: Id = Field(description="one outbox of the city; new when the province begins anew")
    seq: Seq = Field(description="from 1, without holes, never reused within the stream")
    sent_at: Instant = Field(description="when the message was made, by the city's clock")
    areas: tuple[AreaRecord, ...] | None = Field(
        default=None, min_length=1, max_length=AREAS_MAX, description="parents before their areas"
    )
    days: tuple[AreaDay, ...] | None = Field(
        default=None, min_length=1, max_length=AREAS_MAX, description="of areas told before"
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> "Aggregate":
        if (self.areas is None) == (self.days is None):
            raise PydanticCustomError("too_short", "Either areas or days should be there")
        return self


class Rejection(Wire):
    """A message, or one reading of it, that was refused for ever; it lies in the dead letters.

    Named by stream and seq, or by the SHA-256 (hex) of the payload where those cannot be read.
    """

    stream: Id | None = Field(default=None, description="of the refused message")
    seq: Seq | None = Field(default=None, description="of the refused message")
    index: Annotated[int, Field(ge=0, strict=True)] | None = Field(
        default=None, description="which reading of the batch, from 0; absent: the whole message"
    )
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        default=None, description="of the payload, where stream and seq cannot be read"
    )
    reason: str = Field(description="a reason code")


class Ack(_ToGateway):
    """What is committed (``down/ack``): cumulative, so a lost one is repaired by the next."""

    v: V1 = 1
    epoch: str = Field(
        description="changes when the server's database was restored from a backup, or a standby"
        " took its place: watermarks may be lower then"
    )
    streams: dict[Id, Count] = Field(
        default_factory=dict, description="per stream the contiguous seq: all up to it are stored"
    )
    beyond: dict[Id, tuple[tuple[Seq, Seq], ...]] | None = Field(
        default=None,
        description="per stream the ranges [first, last] stored above the contiguous seq, lowest"
        " first, at most 16; nothing leaves the outbox by them, but nothing in them is sent again",
    )
    rejected: Annotated[tuple[Rejection, ...], FailFast()] = Field(
        default=(), description="refused for ever; sending it again changes nothing"
    )


class Command(_ToGateway):
    """An order to one device (``down/command``). Expiry is mandatory; executed at most once."""

    v: V1 = 1
    command: Id = Field(description="the command's own id")
    device: Id = Field(description="which device shall do it")
    action: Code = Field(description="for example switch_on, switch_off, set_level, unlock")
    parameters: dict[Code, bool | float | Text] = Field(
        default_factory=dict, description="what the action needs to know, by name"
    )
    issued_at: Instant = Field(description="when it was ordered")
    expires_at: Instant = Field(description="never begun at or after this")


class Result(Wire):
    """How far a command came (``up/result``)."""

    v: V1 = 1
    command: Id = Field(description="the id in the command")
    step: Literal["accepted", "applied", "refused", "expired", "failed"] = Field(
        description="accepted is followed by applied or failed; the others are final"
    )
    at: Instant = Field(description="when the command came so far")
    reason: Text | None = Field(default=None, description="why it was not applied")


class Config(_ToGateway):
    """Desired configuration of a gateway (``down/config``, retained); a higher version wins."""

    v: V1 = 1
    version: Seq = Field(description="a lower or equal one is ignored")
    heartbeat_s: Number | None = Field(
        default=None, ge=1, le=86_400, description="an unchanged reading is repeated this often"
    )
    status_interval_s: Number | None = Field(
        default=None, ge=1, le=3_600, description="a status is sent this often"
    )


DeviceState = Literal["normal", "fault", "offline", "unknown", "maintenance"]


class LiveDevice(_AmongServers):
    """A device's latest state after a commit; ``values`` are the fields of its last reading."""

    device: Id = Field(description="which device")
    kind: Id = Field(description="its class")
    state: DeviceState = Field(description="what people are shown")
    at: Instant = Field(description="of its last reading, by the device's time")
    received_at: Instant = Field(description="of its last reading, by the server's time")
    values: dict[str, bool | float | str | None] = Field(
        description="the fields of its last reading"
    )


class LiveGateway(_AmongServers):
    """Whether a gateway is heard, by its end-to-end heartbeat."""

    gateway: GatewayId = Field(description="which gateway")
    silent: bool = Field(strict=True, description="nothing came for three status intervals")
    last_seen_at: Instant | None = Field(default=None, description="absent: never heard")


class Live(_AmongServers):
    """Changes of one community, told after COMMIT on ``live/{community}``; a hint, never the truth.

    ``alerts`` are ids of alerts that changed; readers fetch them from the tables. Devices are told
    on a topic of their own.
    """

    v: V1 = 1
    at: Instant = Field(description="when it was told")
    devices: tuple[LiveDevice, ...] = Field(
        default=(), description="devices that changed: of earlier senders, still read"
    )
    alerts: tuple[str, ...] = Field(default=(), description="ids of alerts that changed")
    gateways: tuple[LiveGateway, ...] = Field(default=(), description="gateways that changed")


class LiveDevices(_AmongServers):
    """Devices of one community that changed, told once a second; a hint, never the truth."""

    v: V1 = 1
    at: Instant = Field(description="when it was told")
    devices: tuple[LiveDevice, ...] = Field(description="devices that changed")


class PayloadError(ValueError):
    """A payload that breaks the contract; ``reason`` is a stable code, the text tells people."""

    def __init__(
        self, reason: str, detail: str, stream: str | None = None, seq: int | None = None
    ) -> None:
        """Keep the code, and stream and seq where they could still be read."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.stream = stream
        self.seq = seq


# Of each half of an explanation, in characters.
_DETAIL_MAX: Final = 200
# More than as many readings as are allowed can have, each of their fields being wrong.
_ERRORS_MAX: Final = 16 * READINGS_MAX
_TOO_MANY: Final = f"/readings: at most {READINGS_MAX} allowed"


class _Envelope(_AmongServers):
    stream: Id
    seq: Seq


# How senders begin a numbered message, ours and most others.
_HEAD: Final = re.compile(rb'\{"v": ?1, ?"stream": ?"([a-z0-9-]{1,64})", ?"seq": ?([0-9]{1,16}),')


class _Salvage(Telemetry):
    """A batch in which only the good readings are left."""

    model_config = ConfigDict(defer_build=True)

    readings: tuple[OnErrorOmit[Reading], ...]


@dataclass(frozen=True, slots=True)
class ReadingRejected:
    """One reading of a batch that breaks the contract."""

    index: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A telemetry message taken apart: the good readings with their index, and the refused."""

    stream: str
    seq: int
    sent_at: datetime
    readings: Sequence[tuple[int, Reading]]
    rejected: Sequence[ReadingRejected] = ()


_ENVELOPE: Final = TypeAdapter(_Envelope)
_TELEMETRY: Final = TypeAdapter(Telemetry)
_SALVAGE: Final = TypeAdapter(_Salvage)
_EVENT: Final = TypeAdapter(EventMessage)
_STATUS: Final = TypeAdapter(Status)
_RESULT: Final = TypeAdapter(Result)
_AGGREGATE: Final = TypeAdapter(Aggregate)
_ACK: Final = TypeAdapter(Ack)
_COMMAND: Final = TypeAdapter(Command)
_CONFIG: Final = TypeAdapter(Config)
_LIVE: Final = TypeAdapter(Live)
_LIVE_DEVICES: Final = TypeAdapter(LiveDevices)

_M = TypeVar("_M", bound=Wire)


def parse_telemetry(payload: bytes) -> Batch:
    """Parse ``up/telemetry``; readings that break the contract are set apart, not the batch.

    Raises:
        PayloadError: The message as a whole breaks the contract.
    """
    payload = _readable(payload)
    try:
        message = _TELEMETRY.validate_json(payload)
    except ValidationError as error:
        return _take_apart(payload, error)
    _require_version(message, payload)
    return Batch(message.stream, message.seq, message.sent_at, tuple(enumerate(message.readings)))


def parse_event(payload: bytes) -> EventMessage:
    """Parse ``up/event``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_EVENT, payload)


def parse_status(payload: bytes) -> Status:
    """Parse ``up/status``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_STATUS, payload)


def parse_result(payload: bytes) -> Result:
    """Parse ``up/result``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_RESULT, payload)


def parse_aggregate(payload: bytes) -> Aggregate:
    """Parse ``up/aggregate``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_AGGREGATE, payload)


def parse_ack(payload: bytes) -> Ack:
    """Parse ``down/ack``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_ACK, payload)


def parse_command(payload: bytes) -> Command:
    """Parse ``down/command``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_COMMAND, payload)


def parse_config(payload: bytes) -> Config:
    """Parse ``down/config``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_CONFIG, payload)


def parse_live(payload: bytes) -> Live:
    """Parse ``live/{community}``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_LIVE, payload)


def parse_live_devices(payload: bytes) -> LiveDevices:
    """Parse ``live/{community}/devices``.

    Raises:
        PayloadError: The payload breaks the contract.
    """
    return _parse(_LIVE_DEVICES, payload)


def encode(message: Wire) -> bytes:
    """Return the payload of ``message``: UTF-8 JSON without the fields that say nothing."""
    return message.model_dump_json(exclude_none=True).encode()


# Escapes in JSON: pairs of surrogates and escaped backslashes (group 1), or a surrogate alone.
_SURROGATE: Final = re.compile(
    rb"(\\\\|\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w)|\\u[dD][89a-fA-F]\w\w"
)


def _readable(payload: bytes) -> bytes:
    """Return ``payload``, a lone surrogate made U+0000, which text refuses and the rest ignores.

    The parser takes no lone surrogates: one of them in one reading would cost the whole batch.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise PayloadError(
            "payload.too_large", f"{len(payload)} bytes, {PAYLOAD_BYTES_MAX} allowed"
        )
    if b"\\u" in payload:
        return _SURROGATE.sub(lambda found: found[1] or rb"\u0000", payload)
    return payload


def _parse(adapter: TypeAdapter[_M], payload: bytes) -> _M:
    payload = _readable(payload)
    try:
        message = adapter.validate_json(payload)
    except ValidationError as error:
        raise _refusal(payload, *_explain(_details(error)[0])) from None
    _require_version(message, payload)
    return message


def _require_version(message: Wire, payload: bytes) -> None:
    """Refuse a message without ``v``: our own constructors may leave it out, the wire may not."""
    if "v" not in message.model_fields_set:
        raise _refusal(payload, "field.missing", "/v: Field required")


def _take_apart(payload: bytes, error: ValidationError) -> Batch:
    """Return what is good of a batch whose first parse failed with ``error``."""
    # Counted first, because to list the errors of 128 KiB of nonsense takes 0.1 s.
    if error.error_count() > _ERRORS_MAX:
        raise _refusal(payload, "batch.too_many", _TOO_MANY)
    rejected: dict[int, ReadingRejected] = {}
    for item in _details(error):
        match item["loc"]:
            case ("readings", int(index), *_):
                if index not in rejected:
                    rejected[index] = ReadingRejected(index, *_explain(item))
            # Said of the good ones: a batch of which none is left was not empty.
            case ("readings",) if item["type"] == "too_short" and rejected:
                pass
            case _:
                raise _refusal(payload, *_explain(item))
    message = _SALVAGE.validate_json(payload)
    _require_version(message, payload)
    if len(message.readings) + len(rejected) > READINGS_MAX:
        raise _refusal(payload, "batch.too_many", _TOO_MANY)
    indices = (index for index in count() if index not in rejected)
    good = tuple(zip(indices, message.readings, strict=False))
    return Batch(message.stream, message.seq, message.sent_at, good, tuple(rejected.values()))


def _refusal(payload: bytes, reason: str, detail: str) -> PayloadError:
    stream, seq = _number(payload) or (None, None)
    return PayloadError(reason, detail, stream, seq)


def _number(payload: bytes) -> tuple[str, int] | None:
    try:
        envelope = _ENVELOPE.validate_json(payload)
    except ValidationError:
        return None
    return envelope.stream, envelope.seq


def guess_number(payload: bytes) -> tuple[str, int] | None:
    """Return the stream and seq with which a payload seems to begin; None where it looks unusual.

    A guess, for next to nothing: what follows may contradict it, or be no JSON at all.
    """
    head = _HEAD.match(payload)
    return None if head is None else (head[1].decode(), int(head[2]))


def read_number(payload: bytes) -> tuple[str, int] | None:
    """Return the stream and seq of a numbered message; None where it has none.

    Whatever else is wrong with the message, this is the number it is stored or refused under; a
    fraction of what parsing costs.
    """
    try:
        return _number(_readable(payload))
    except PayloadError:
        return None


# What `reason` may say in a rejection and in the dead letters, and what it means. Codes are never
# renamed: people filter by them, and gateways count them.
REASONS: Final[Mapping[str, str]] = {
    "payload.too_large": f"more than {PAYLOAD_BYTES_MAX} bytes",
    "payload.not_json": "not JSON in UTF-8; also deeper than 200 levels, or digits without end",
    "payload.not_object": "JSON, but not an object",
    "version.unknown": "`v` is not a version this receiver knows",
    "kind.unknown": "`kind` is not a device class (or event) this receiver knows",
    "field.missing": "a mandatory field is absent",
    "field.type": "a field has the wrong JSON type",
    "field.enum": "a field is none of the values allowed",
    "value.range": "a number outside the range allowed",
    "value.not_finite": "NaN, an infinity, or a number too large to be held",
    "text.pattern": "an id or code with other characters than allowed",
    "text.too_long": "longer than allowed",
    "text.invalid": "text with U+0000 or a lone surrogate, which no database column can hold",
    "time.format": "not an RFC 3339 instant",
    "time.naive": "an instant without a zone",
    "time.future": "later than the receiver's clock allows",
    "time.too_old": "older than readings are taken",
    "seq.range": f"`seq` outside 1 to {SEQ_MAX}",
    "seq.type": "`seq` is not an integer",
    "gap.range": "a gap whose numbers contradict each other, or reach further than any stream",
    "batch.empty": "no readings",
    "batch.too_many": "more entries in a list than allowed",
    "topic.malformed": "not a topic of the contract, or not a gateway id in it",
    "topic.version": "a topic of a version this receiver does not know",
    "topic.partition": "the partition in the topic is not the gateway's",
    "topic.unknown_lane": "no such channel",
    "gateway.unknown": "no such gateway is registered",
    "gateway.planned": "the gateway is not in service yet",
    "gateway.retired": "the gateway is out of service for ever",
    "gateway.revoked": "the gateway may not report any more",
    "device.unknown": "no such device is registered",
    "device.wrong_gateway": "the device is behind another gateway",
    "device.wrong_kind": "the device is registered as another class",
    "device.planned": "the device is not installed yet",
    "device.retired": "the device is out of service for ever",
    "stream.too_sparse": "the stream has more holes than an honest gateway leaves",
    "stream.too_many": "the gateway began more streams in a day than any should",
    "event.conflict": "another content under the number of an event that is stored",
    "process.crashed": "the receiver ended unexpectedly, again and again, while it took this",
    "tally.impossible": "parts of a tally that are more than the whole",
    "area.unknown": "an area, or one it lies in, was never told",
    "area.foreign": "the area belongs to another city, or to the province itself",
    "area.impossible": "where the area lies, and at which level, cannot be",
    "aggregate.conflict": "another content under the version of an area or day that is stored",
    "gateway.wrong_role": "a gateway tells no aggregates, a city nothing else",
    "command.unknown": "a result for a command that was never sent to this gateway",
}

# pydantic's error types, and the codes under which the contract names them.
_REASONS: Final = {
    "json_invalid": "payload.not_json",
    "finite_number": "value.not_finite",
    "datetime_type": "time.format",
    "datetime_parsing": "time.format",
    "datetime_object_invalid": "time.format",
    "timezone_aware": "time.naive",
    "time_too_old": "time.too_old",
    "time_future": "time.future",
    "string_too_long": "text.too_long",
    "string_pattern_mismatch": "text.pattern",
    "string_unicode": "text.invalid",
    "text_invalid": "text.invalid",
    "gap_range": "gap.range",
    "tally_impossible": "tally.impossible",
    "date_type": "time.format",
    "date_parsing": "time.format",
    "date_from_datetime_parsing": "time.format",
    "date_from_datetime_inexact": "time.format",
    "union_tag_invalid": "kind.unknown",
    "union_tag_not_found": "field.missing",
    "missing": "field.missing",
    "literal_error": "field.enum",
    "too_long": "batch.too_many",
    "too_short": "batch.empty",
    "greater_than": "value.range",
    "greater_than_equal": "value.range",
    "less_than": "value.range",
    "less_than_equal": "value.range",
}


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False)


def _explain(item: ErrorDetails) -> tuple[str, str]:
    """Return the stable code and the text of one thing that is wrong, with a pointer to it."""
    location, kind = list(item["loc"]), item["type"]
    # pydantic puts the class of a reading or event into the location; the document does not.
    match location:
        case ["readings", int(), _, *_]:
            del location[2]
        case ["event", _, *_]:
            del location[1]
        case _:
            pass
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        location.append("kind")
    reason = _REASONS.get(kind, "field.type")
    match location[-1] if location else None:
        case None if reason == "field.type":
            reason = "payload.not_object"
        case "v" if reason != "field.missing":
            reason = "version.unknown"
        case "seq" if reason != "field.missing":
            reason = "seq.range" if reason == "value.range" else "seq.type"
        case "first" | "last" | "count" if reason == "value.range":
            reason = "gap.range"
        case _ if reason == "text.pattern" and UNSTORABLE.search(item["input"]):
            reason = "text.invalid"
        case _:
            pass
    # Cut and cleaned: the text repeats parts of the payload, and is itself stored.
    pointer = "/" + "/".join(str(part) for part in location)
    detail = UNSTORABLE.sub("\ufffd", f"{pointer[:_DETAIL_MAX]}: {item['msg'][:_DETAIL_MAX]}")
    return reason, detail
