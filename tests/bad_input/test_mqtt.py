# SPDX-License-Identifier: Apache-2.0
"""Whatever a gateway sends: refused and told, and its neighbours stored as if it had not come.

Each bad message goes through the real broker to a real ingest, with a certificate of its own and
99 good messages (or readings, in one batch) around it. What is judged of it: PUBACK or
disconnection by the broker, dead letter with reason and raw bytes, `rejected` on ``down/ack``, the
counter, the neighbours, and that ingest still lives and is ready. The ids of the rows are those
of the bad-input matrix.

What has no row here: commands and configuration are not sent down yet, so a result is always one
of a command never sent (B27), and what comes down to the agent (B28) is tested with the agent.
Command claims, requeue limits and signatures have no counterpart in this release. A message on a
channel that does not exist, or below one that does (B3), reaches nobody: the broker says so to its
sender (0x10), and ingest never learns of it. The topic of another version is refused by the broker.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent import topics
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    READINGS_MAX,
    SEQ_MAX,
    STREAMS_MAX,
    EventMessage,
    GapEvent,
    Rejection,
    encode,
)
from edge_agent.topics import UpChannel
from ingest.pki import Authority
from ingest.store.streams import NEW_STREAMS_A_DAY_MAX, RANGES_MAX
from tests.bad_input.installation import (
    Gateway,
    Installation,
    digest,
    event,
    fill,
    lamp,
    passage,
    status,
    telemetry,
    user_properties,
)
from tests.bad_input.packets import (
    CONNACK,
    DISCONNECT,
    PONG,
    PUBACK,
    PUBLISH,
    Link,
    Packet,
    binary,
    connect,
    connected,
    counted,
    link,
    number,
    ping,
    publish,
    subscribe,
)
from tests.services import Broker, Identity, until

pytestmark = pytest.mark.broker

STREAM: Final = "s1"
GOOD: Final = 99
# Where the bad one stands among the good ones, from 0.
PLACE: Final = 57
STORED_S: Final = 20.0
PACKETS: Final = int(os.environ.get("LINLI_FUZZ_PACKETS", "200"))


# -- what is refused --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bad:
    """One bad input.

    Attributes:
        row: Its row in the matrix.
        content: What is wrong; of a reading its JSON, else the whole payload. Bytes go as they are.
        reason: The code it is refused with.
        channel: Where it is published; None: as one reading of a batch.
        numbered: Whether stream and seq can still be read.
    """

    row: str
    content: str | bytes
    reason: str
    channel: UpChannel | None = None
    numbered: bool = True


def _readings() -> Iterator[Bad]:
    for row, content, reason in (
        ("B10-slash", lamp(device='"lamp/1"'), "text.pattern"),
        ("B10-wildcard", lamp(device='"#"'), "text.pattern"),
        ("B10-empty", lamp(device='""'), "text.pattern"),
        ("B10-300-characters", lamp(device=f'"{"a" * 300}"'), "text.too_long"),
        ("B10-uppercase", lamp(device='"LAMP"'), "text.pattern"),
        ("B10-cyrillic", lamp(device='"l\u0430mp"'), "text.pattern"),
        ("B14-nan", lamp(power_w="NaN"), "value.not_finite"),
        ("B14-infinity", lamp(power_w="Infinity"), "value.not_finite"),
        ("B14-minus-infinity", lamp(power_w="-Infinity"), "value.not_finite"),
        ("B14-1e400", lamp(power_w="1e400"), "value.not_finite"),
        ("B14-400-digits", lamp(power_w="9" * 400), "value.not_finite"),
        ("B16-unknown-kind", lamp(kind='"water_meter"'), "kind.unknown"),
        ("B16-kind-is-null", lamp(kind="null"), "kind.unknown"),
        ("B16-enum-member", lamp(kind='"gate"', device='"@gate"', door='"ajar"'), "field.enum"),
        ("B17-nul", lamp(fault='"a\\u0000"'), "text.invalid"),
        ("B17-nul-in-kind", lamp(kind='"\\u0000"'), "kind.unknown"),
        ("B17-surrogate", lamp(fault='"\\ud800"'), "text.invalid"),
        ("B17-long", lamp(fault=f'"{"a" * 100_000}"'), "text.too_long"),
        ("B18-no-device", lamp(device=""), "field.missing"),
        ("B18-no-at", lamp(at=""), "field.missing"),
        ("B18-no-kind", lamp(kind=""), "field.missing"),
        ("B18-text-for-bool", lamp(lit='"true"'), "field.type"),
        ("B18-text-for-number", lamp(power_w='"41"'), "field.type"),
        ("B18-bool-for-number", lamp(power_w="true"), "field.type"),
        ("B18-150-percent", lamp(level_pct="150"), "value.range"),
        ("B18-gigawatt", lamp(power_w="1e9"), "value.range"),
        ("B18-negative-energy", lamp(energy_kwh="-1"), "value.range"),
        ("B18-null", "null", "field.type"),
        ("B18-array", "[]", "field.type"),
        ("B19-naive", lamp(at='"2026-11-21T10:00:00"'), "time.naive"),
        ("B19-date", lamp(at='"2026-11-21"'), "time.format"),
        ("B19-yesterday", lamp(at='"yesterday"'), "time.format"),
        ("B19-second-60", lamp(at='"2026-11-21T10:00:60Z"'), "time.format"),
        ("B19-hour-24", lamp(at='"2026-11-21T24:00:00Z"'), "time.format"),
        ("B19-number", lamp(at="1795255200"), "time.format"),
        ("B20-year-1", lamp(at='"0001-01-01T00:00:00Z"'), "time.too_old"),
        ("B20-overflow", lamp(at='"0001-01-01T00:00:00+05:00"'), "time.too_old"),
        ("B20-1970", lamp(at='"1970-01-01T00:00:09Z"'), "time.too_old"),
        ("B20-1971", lamp(at='"1971-01-01T00:00:09Z"'), "time.too_old"),
        ("B20-2099", lamp(at='"2099-12-31T23:59:59Z"'), "time.future"),
        ("B20-9999", lamp(at='"9999-12-31T23:59:59-05:00"'), "time.future"),
        ("B20-in-10-minutes", lamp(600), "time.future"),
        ("B20-31-days-ago", lamp(-31 * 86_400), "time.too_old"),
        ("B21-unknown", lamp(device='"nobody"'), "device.unknown"),
        ("B21-planned", lamp(device='"@self-planned"'), "device.planned"),
        ("B21-retired", lamp(device='"@self-retired"'), "device.retired"),
        ("B21-of-another-gateway", lamp(device='"gw-other-lamp"'), "device.wrong_gateway"),
        ("B21-other-kind", lamp(device='"@bin"'), "device.wrong_kind"),
    ):
        yield Bad(row, content, reason)


_DEPOSIT: Final = '{"kind": "bin", "device": "@bin", "at": "@at(-9)", "event": "deposit", '
_NOTHINGS: Final = ", ".join(["{}"] * 10_000)
_STREAMS: Final = ", ".join(
    f'{{"lane": "event", "stream": "s{index}", "oldest": 1, "next": 1}}' for index in range(1_000)
)


def _gap(first: int, last: int, count: int, **raw: str) -> str:
    fields = {"kind": '"gap"', "lane": '"telemetry"', "stream": '"s0"', "at": '"@at(-9)"'}
    fields |= {"first": str(first), "last": str(last), "count": str(count)} | raw
    return event("{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}")


def _result(**raw: str) -> str:
    fields = {"v": "1", "command": '"c1"', "step": '"applied"', "at": '"@at(0)"'} | raw
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"


def _messages() -> Iterator[Bad]:
    lanes: tuple[tuple[UpChannel, str], ...] = (("telemetry", telemetry()), ("event", event()))
    for channel, good in lanes:
        lane = "" if channel == "telemetry" else "event-"
        for row, content, reason in (
            ("B11-too-large", good + " " * PAYLOAD_BYTES_MAX, "payload.too_large"),
            ("B12-empty", b"", "payload.not_json"),
            ("B12-one-byte", b"\0", "payload.not_json"),
            ("B12-truncated", good[:-9], "payload.not_json"),
            ("B12-trailing", good + "x", "payload.not_json"),
            ("B12-bom", "\ufeff" + good, "payload.not_json"),
            ("B12-comment", "/**/" + good, "payload.not_json"),
            ("B12-single-quotes", good.replace('"', "'"), "payload.not_json"),
            ("B12-gzip", b"\x1f\x8b\x08\0\0", "payload.not_json"),
            ("B12-not-utf-8", b'{"v": 1, "stream": "\xff"}', "payload.not_json"),
            ("B12-array", f"[{good}]", "payload.not_object"),
            ("B12-null", "null", "payload.not_object"),
            ("B13-10000-deep", good[:-1] + ', "x": ' + "[" * 10_000 + "]" * 10_000 + "}",
             "payload.not_json"),
            ("B13-5000-digits", good[:-1] + f', "x": {"1" * 5_000}}}', "payload.not_json"),
            ("B15-0", good.replace("@seq", "0"), "seq.range"),
            ("B15-negative", good.replace("@seq", "-1"), "seq.range"),
            ("B15-2^53", good.replace("@seq", str(2**53)), "seq.range"),
            ("B15-2^63", good.replace("@seq", str(2**63)), "seq.range"),
            ("B15-text", good.replace("@seq", '"@seq"'), "seq.type"),
            ("B15-float", good.replace("@seq", "@seq.0"), "seq.type"),
            ("B15-true", good.replace("@seq", "true"), "seq.type"),
            ("B15-exponent", good.replace("@seq", "1e3"), "seq.type"),
            ("B15-null", good.replace("@seq", "null"), "seq.type"),
            ("B10-stream", good.replace("@stream", "a/b"), "text.pattern"),
            ("B18-no-stream", good.replace('"stream"', '"streem"'), "field.missing"),
            ("B18-no-seq", good.replace('"seq"', '"sequence"'), "field.missing"),
        ):  # fmt: skip
            head, _, tail = row.partition("-")
            yield Bad(f"{head}-{lane}{tail}", content, reason, channel, numbered=False)
        for row, content, reason in (
            ("B16-version-2", good.replace('"v": 1', '"v": 2'), "version.unknown"),
            ("B16-version-true", good.replace('"v": 1', '"v": true'), "version.unknown"),
            ("B18-no-version", good.replace('"v": 1, ', ""), "field.missing"),
            ("B18-no-sent-at", good.replace('"sent_at"', '"sent"'), "field.missing"),
            ("B19-sent-at", good.replace('"sent_at": "@at(0)"', '"sent_at": "now"'), "time.format"),
        ):
            head, _, tail = row.partition("-")
            yield Bad(f"{head}-{lane}{tail}", content, reason, channel)
    for row, content, reason in (
        ("B18-no-readings", telemetry(readings=""), "field.missing"),
        ("B18-null-readings", telemetry(readings="null"), "field.type"),
        ("B22-empty", telemetry(readings="[]"), "batch.empty"),
        ("B22-1001", telemetry(*[lamp()] * (READINGS_MAX + 1)), "batch.too_many"),
        ("B22-10000", telemetry(readings=f"[{_NOTHINGS}]"), "batch.too_many"),
    ):
        yield Bad(row, content, reason, "telemetry")
    for row, content, reason in (
        ("B14-event-nan", event(_DEPOSIT + '"weight_kg": NaN}'), "value.not_finite"),
        ("B14-event-1e400", event(_DEPOSIT + '"weight_kg": 1e400}'), "value.not_finite"),
        ("B16-event-kind", event(passage(kind='"lamp"')), "kind.unknown"),
        ("B16-event-enum", event(passage(event='"opened"')), "field.enum"),
        ("B17-event-nul", event(passage(credential='"\\u0000"')), "text.invalid"),
        ("B17-event-surrogate", event(passage(credential='"\\ud800"')), "text.invalid"),
        ("B18-event-range", event(_DEPOSIT + '"weight_kg": -1}'), "value.range"),
        ("B18-event-raw-card", event(passage(credential='"4711"')), "text.pattern"),
        ("B19-event-naive", event(passage(at='"2026-11-21T10:00:00"')), "time.naive"),
        ("B20-event-year-1", event(passage(at='"0001-01-01T00:00:00+05:00"')), "time.too_old"),
        ("B20-event-in-10-minutes", event(passage(600)), "time.future"),
        ("B20-event-31-days-ago", event(passage(-31 * 86_400)), "time.too_old"),
        ("B21-event-unknown", event(passage(device='"nobody"')), "device.unknown"),
        ("B21-event-of-another", event(passage(device='"gw-other-gate"')), "device.wrong_gateway"),
        ("B21-event-other-kind", event(passage(device='"@bin"')), "device.wrong_kind"),
        ("B26-reversed", _gap(9, 3, 1), "gap.range"),
        ("B26-more-than-there-are", _gap(3, 9, 8), "gap.range"),
        ("B26-from-0", _gap(0, 9, 1), "gap.range"),
        ("B26-to-2^53", _gap(1, 2**53, 1), "gap.range"),
        ("B26-lane", _gap(3, 9, 1, lane='"status"'), "field.enum"),
        ("B26-stream", _gap(3, 9, 1, stream='"#"'), "text.pattern"),
    ):
        yield Bad(row, content, reason, "event")
    for row, content, reason in (
        ("B12-status-empty", b"", "payload.not_json"),
        ("B14-status-nan", status(status_interval_s="NaN"), "value.not_finite"),
        ("B16-status-version", status(v="2"), "version.unknown"),
        ("B17-status-nul", status(agent_version='"\\u0000"'), "text.invalid"),
        ("B17-status-long", status(agent_version=f'"{"x" * 501}"'), "text.too_long"),
        ("B18-status-state", status(state='"asleep"'), "field.enum"),
        ("B18-status-interval-0", status(status_interval_s="0"), "value.range"),
        ("B18-status-negative-depth", status(outbox_messages="-1"), "value.range"),
        ("B20-status-year-1", status(at='"0001-01-01T00:00:00+05:00"'), "time.too_old"),
        ("B27-1000-streams", status(streams=f"[{_STREAMS}]"), "batch.too_many"),
        ("B27-10000-streams", status(streams=f"[{_NOTHINGS}]"), "field.missing"),
        ("B27-unknown-clock", status(clock='"<script>"'), "field.enum"),
    ):
        yield Bad(row, content, reason, "status", numbered=False)
    for row, content, reason in (
        ("B12-result-array", "[]", "payload.not_object"),
        ("B18-result-step", _result(step='"done"'), "field.enum"),
        ("B27-never-sent", _result(), "command.unknown"),
    ):
        yield Bad(row, content, reason, "result", numbered=False)


BAD: Final = [*_readings(), *_messages()]


# -- what is tolerated ------------------------------------------------------------------------


def _properties(**values: object) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


@dataclass(frozen=True, slots=True)
class Odd:
    """What is strange and does no harm; ``count`` readings or events of it are stored."""

    row: str
    content: str
    count: int = 1
    channel: UpChannel = "telemetry"
    retain: bool = False
    properties: Properties | None = None


ODD: Final = [
    Odd("B8-retained-telemetry", telemetry(), retain=True),
    Odd("B8-retained-event", event(), channel="event", retain=True),
    Odd("B9-1000-user-properties", telemetry(), properties=user_properties(1_000)),
    Odd("B9-content-type", telemetry(), properties=_properties(ContentType="image/png")),
    Odd("B9-correlation-data", telemetry(), properties=_properties(CorrelationData=b"x" * 65_000)),
    Odd("B13-150-deep", telemetry(x="[" * 150 + "]" * 150)),
    Odd(
        "B13-12000-keys",
        telemetry()[:-1] + "".join(f', "{index:x}": 0' for index in range(12_000)) + "}",
    ),
    Odd("B14-minus-zero", telemetry(lamp(power_w="-0"))),
    Odd("B14-nan-in-extra-field", telemetry(lamp(colour="NaN"))),
    Odd("B16-extra-field", telemetry(firmware='{"x": [1, null]}')),
    Odd("B16-extra-field-in-event", event(passage(colour='"\\u0000"')), channel="event"),
    Odd("B16-duplicate-key", telemetry().replace('"seq"', '"seq": "no", "seq"')),
    Odd("B17-surrogate-in-extra-field", telemetry(lamp(colour='"\\ud800"'))),
    Odd("B19-space", telemetry(lamp()).replace("@at(-100)", "@space")),
    Odd("B19-zone", telemetry(lamp()).replace("@at(-100)", "@zone")),
    Odd("B19-nanoseconds", telemetry(lamp()).replace("@at(-100)", "@nano")),
    Odd("B19-seconds-as-text", telemetry(lamp()).replace("@at(-100)", "@unix")),
    Odd("B20-in-4-minutes", telemetry(lamp(240))),
    Odd("B20-29-days-ago", telemetry(lamp(-29 * 86_400))),
    Odd("B22-101", telemetry(*(lamp(-200 + n) for n in range(101))), 101),
    Odd("B22-1000", telemetry(*(lamp(-1_000 + n) for n in range(1_000))), 1_000),
    Odd("B22-unsorted", telemetry(lamp(-1), lamp(-3), lamp(-2)), 3),
    Odd("B27-version-is-markup", status(agent_version='"<script>"'), 0, "status"),
]


# -- topics -----------------------------------------------------------------------------------

Making = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Topic:
    """A packet the broker must judge, and what it may answer: kind and reason code.

    Attributes:
        packet: Is given ``linli/v1/PARTITION/GATEWAY/up/``.
        answers: Allowed; None: it closes without a word.
    """

    row: str
    packet: Making
    answers: tuple[tuple[int, int] | None, ...]


def _to(topic: bytes) -> Making:
    return lambda _: publish(topic)


def _below(tail: bytes, **how: Any) -> Making:
    return lambda up: publish(up + tail, **how)


def _exactly(packet: bytes) -> Making:
    return lambda _: packet


_DENIED: Final = ((PUBACK, 0x87),)
_UNHEARD: Final = ((PUBACK, 0x10),)
_MALFORMED: Final = ((DISCONNECT, 0x81), None)
_PROTOCOL: Final = ((DISCONNECT, 0x82), None)

TOPICS: Final = [
    Topic("B1-another-gateway", _to(b"linli/v1/00/gw-other/up/event"), _DENIED),
    Topic("B3-up", lambda up: publish(up[:-1]), _UNHEARD),
    Topic("B3-empty-level", _below(b"/telemetry"), _UNHEARD),
    Topic("B3-below-a-channel", _below(b"telemetry/x"), _UNHEARD),
    Topic("B3-unknown-channel", _below(b"nonsense"), _UNHEARD),
    Topic("B3-190-levels", _below(b"/".join([b"a"] * 190)), _UNHEARD),
    Topic("B3-300-levels", _below(b"/".join([b"a"] * 300)), _MALFORMED),
    Topic("B3-version-9", lambda up: publish(up.replace(b"v1", b"v9") + b"event"), _DENIED),
    Topic("B3-no-version", lambda up: publish(up.replace(b"v1/", b"") + b"event"), _DENIED),
    Topic("B4-system", _to(b"$SYS/broker/version"), _DENIED),
    Topic("B4-control", _to(b"$CONTROL/dynamic-security/v1"), _DENIED),
    Topic("B4-shared", lambda up: publish(b"$share/g/" + up + b"event"), _DENIED),
    Topic("B4-live", _to(b"linli/v1/live/c01"), _DENIED),
    Topic("B4-down", lambda up: publish(up.replace(b"/up/", b"/down/") + b"ack"), _DENIED),
    Topic("B4-probe", _to(b"linli/v1/probe/ingest-event-00"), _DENIED),
    Topic("B5-nul", _below(b"tele\0metry"), _MALFORMED),
    Topic("B5-not-utf-8", _below(b"\xff\xfe"), _MALFORMED),
    Topic("B5-surrogate", _below(b"\xed\xa0\x80"), _MALFORMED),
    Topic("B5-empty", _to(b""), _MALFORMED),
    Topic("B5-plus", _below(b"+"), _MALFORMED),
    Topic("B5-hash", _to(b"linli/v1/#"), _MALFORMED),
    Topic("B5-65535-bytes", _to(b"a" * 65_535), _DENIED),
    Topic("B9-qos-2", _below(b"telemetry", qos=2), ((DISCONNECT, 0x9B), None)),
    Topic("B9-qos-3", _below(b"telemetry", qos=3), _MALFORMED),
    Topic("B9-no-packet-id", _below(b"telemetry", mid=0), _PROTOCOL),
    Topic(
        "B9-packet-too-large",
        _below(b"telemetry", payload=b" " * 139_264),
        ((DISCONNECT, 0x95), None),
    ),
    Topic(
        "B9-alias-11",
        _below(b"telemetry", properties=b"\x23" + number(11)),
        ((DISCONNECT, 0x94), None),
    ),
    Topic("B9-alias-0", _below(b"telemetry", properties=b"\x23\0\0"), _PROTOCOL),
    Topic("B9-alias-never-set", lambda _: publish(b"", properties=b"\x23\0\5"), _PROTOCOL),
    Topic("B9-unknown-property", _below(b"event", properties=b"\x7e\0"), _MALFORMED),
    Topic(
        "B9-response-topic-wildcard",
        _below(b"event", properties=b"\x08" + binary(b"a/#")),
        _PROTOCOL,
    ),
    Topic("B9-second-connect", _exactly(connect()), _PROTOCOL),
    Topic("B9-reserved-packet", _exactly(b"\0\0"), _PROTOCOL),
    Topic(
        "B9-length-without-end",
        _exactly(b"\x32\xff\xff\xff\xff\xff"),
        (*_MALFORMED, *_PROTOCOL),
    ),
    Topic(
        "B9-subscribe-to-nothing",
        _exactly(b"\x82" + counted(number(1) + b"\0")),
        (*_MALFORMED, *_PROTOCOL),
    ),
]


# -- who there is -----------------------------------------------------------------------------


def _names(prefix: str, rows: Sequence[Bad] | Sequence[Odd] | Sequence[Topic]) -> dict[str, str]:
    """A gateway for each row."""
    names = {one.row: f"gw-{prefix}-{index:03}" for index, one in enumerate(rows)}
    assert len(names) == len(rows), "two rows of one name"
    return names


GATEWAYS: Final = _names("bad", BAD) | _names("odd", ODD) | _names("topic", TOPICS)
# The gateways of the tests below, which are about more than one message.
ALONE: Final = (
    "gw-other", "gw-revoked", "gw-b2", "gw-b3", "gw-b6", "gw-b6-b",
    "gw-b7", "gw-b8", "gw-b9", "gw-b10", "gw-b10-b", "gw-b21", "gw-b21-b", "gw-b22-a", "gw-b22-c",
    "gw-b23", "gw-b23-b", "gw-b24", "gw-b25-a", "gw-b25-b", "gw-b25-c", "gw-b26", "gw-b26-b",
    "gw-b26-c", "gw-b27", "gw-mutant",
)  # fmt: skip
MANY_LAMPS: Final = 500


@pytest.fixture(scope="module")
def running(
    module_database: str, module_broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    made = Installation(module_database, module_broker, tmp_path_factory.mktemp("bad-input"))
    lamps = [(f"many-lamp-{index:03}", "lamp", "gw-b22-c") for index in range(MANY_LAMPS)]
    for life in ("planned", "retired"):
        gateway = GATEWAYS[f"B21-{life}"]
        lamps.append((f"{gateway}-{life}", "lamp", gateway))
    made.found([*GATEWAYS.values(), *ALONE], lamps)
    made.execute("UPDATE device SET life = 'planned' WHERE device LIKE '%-planned'")
    made.execute("UPDATE device SET life = 'retired' WHERE device LIKE '%-retired'")
    made.execute("UPDATE gateway SET status = 'revoked' WHERE gateway = 'gw-revoked'")
    made.start()
    yield made
    made.close()


@pytest.fixture
def installation(running: Installation) -> Iterator[Installation]:
    """Ingest, which lives and is ready after each test."""
    yield running
    running.check()


@contextmanager
def refusing(installation: Installation, *reasons: str) -> Generator[None]:
    """Within this, just these refusals are counted."""
    before = Counter(installation.refused())
    yield
    counted_since = Counter(installation.refused()) - before
    assert counted_since == Counter(reasons)


def good(channel: UpChannel, gateway: str, seq: int, stream: str = STREAM) -> bytes:
    """The good message with number ``seq``, each of another instant."""
    text = telemetry(lamp(-1_000 + seq)) if channel == "telemetry" else event(passage(-1_000 + seq))
    return fill(text, gateway, stream=stream, seq=seq)


def stored_up_to(gateway: Gateway, upto: int, stream: str = STREAM) -> None:
    until(
        lambda: gateway.upto(stream) >= upto,
        f"{gateway.name} is told that {upto} messages are stored",
        timeout_s=STORED_S,
        every_s=0.005,
    )
    assert gateway.upto(stream) == upto


# -- tests ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [pytest.param(one, id=one.row) for one in BAD])
def test_bad_message_is_set_apart_and_told(installation: Installation, bad: Bad) -> None:
    name = GATEWAYS[bad.row]
    lane: UpChannel = "telemetry" if bad.channel in (None, "telemetry") else "event"
    with refusing(installation, bad.reason), installation.gateway(name) as gateway:
        if bad.channel is None:
            assert isinstance(bad.content, str)
            readings = [lamp(-1_000 + index) for index in range(GOOD)]
            readings.insert(PLACE, bad.content)
            payload = fill(telemetry(*readings), name, stream=STREAM, seq=1)
            gateway.publish("telemetry", payload)
            seq, upto = 1, 1
        else:
            payload, seq, upto = b"", PLACE + 1, GOOD + bad.numbered
            for number_ in range(1, upto + 1):
                if number_ == seq:
                    payload = fill(bad.content, name, stream=STREAM, seq=seq)
                    gateway.publish(bad.channel, payload)
                if number_ != seq or not bad.numbered:
                    gateway.publish(lane, good(lane, name, number_))
        stored_up_to(gateway, upto)
        until(lambda: gateway.rejected, "it is told", every_s=0.005)
        sent = 1 if bad.channel is None else GOOD + 1
        until(lambda: len(gateway.reasons) == sent, "every PUBACK came", every_s=0.005)
    index = PLACE if bad.channel is None else None
    if bad.numbered:
        told = Rejection(stream=STREAM, seq=seq, index=index, reason=bad.reason)
    else:
        told = Rejection(sha256=digest(payload), reason=bad.reason)
    assert gateway.rejected == [told]
    assert not any(reason.is_failure for reason in gateway.reasons.values())
    (letter,) = installation.letters(name)
    assert letter["reason"] == bad.reason
    assert bytes(letter["raw"]) == payload
    assert letter["sha256"].hex() == digest(payload)
    assert (letter["stream"], letter["seq"]) == (told.stream, told.seq)
    assert letter["at_index"] == index
    assert letter["topic"] == topics.up(name, bad.channel or "telemetry")
    assert installation.stored(name) == GOOD


@pytest.mark.parametrize("odd", [pytest.param(one, id=one.row) for one in ODD])
def test_what_does_no_harm_is_stored(installation: Installation, odd: Odd) -> None:
    name = GATEWAYS[odd.row]
    lane: UpChannel = "telemetry" if odd.channel == "telemetry" else "event"
    at = datetime.now(UTC) - timedelta(seconds=100)
    shapes = {
        "space": at.isoformat(" "),
        "zone": at.astimezone(timezone(timedelta(hours=8))).isoformat(),
        "nano": at.strftime("%Y-%m-%dT%H:%M:%S.123456789Z"),
        "unix": str(int(at.timestamp())),
    }
    with refusing(installation), installation.gateway(name) as gateway:
        upto = GOOD + (odd.channel == lane)
        for seq in range(1, upto + 1):
            if seq == PLACE + 1:
                payload = fill(odd.content, name, stream=STREAM, seq=seq, **shapes)
                gateway.publish(odd.channel, payload, retain=odd.retain, properties=odd.properties)
            if seq != PLACE + 1 or odd.channel != lane:
                gateway.publish(lane, good(lane, name, seq))
        stored_up_to(gateway, upto)
    assert not gateway.rejected
    assert installation.letters(name) == []
    assert installation.stored(name) == GOOD + odd.count


@pytest.mark.parametrize("topic", [pytest.param(one, id=one.row) for one in TOPICS])
def test_packet_is_refused_by_the_broker(installation: Installation, topic: Topic) -> None:
    name = GATEWAYS[topic.row]
    identity = installation.broker.identity(name)
    own = topics.up(name, "telemetry").encode()
    packet = topic.packet(own.removesuffix(b"telemetry"))
    messages = [
        publish(own, good("telemetry", name, seq), mid=seq + 1) for seq in range(1, GOOD + 1)
    ]
    with refusing(installation):
        with connected(installation.broker.port, identity) as link_:
            link_.send(*messages[:PLACE], packet, *messages[PLACE:])
            answers = [link_.hear()]
            while answers[-1] is not None and answers[-1].kind == PUBACK and len(answers) <= GOOD:
                answers.append(link_.hear())
        unusual = [
            None if answer is None else (answer.kind, answer.reason)
            for answer in answers
            if answer is None or (answer.kind, answer.reason) != (PUBACK, 0)
        ]
        assert len(unusual) == 1, unusual
        assert unusual[0] in topic.answers
        if unusual[0] is None or unusual[0][0] == DISCONNECT:
            # As the outbox does it: all again, and what is known is stored once.
            with connected(installation.broker.port, identity) as link_:
                link_.send(*messages)
                for _ in messages:
                    assert (answer := link_.hear()) is not None
                    assert (answer.kind, answer.reason) == (PUBACK, 0)
        until(lambda: installation.stored(name) == GOOD, "neighbours are stored")
    assert installation.letters(name) == []


def publish_good(gateway: Gateway, first: int, last: int, *, stream: str = STREAM) -> None:
    for seq in range(first, last + 1):
        gateway.publish("telemetry", good("telemetry", gateway.name, seq, stream))


def test_b2_wrong_partition_is_set_apart(installation: Installation) -> None:
    own = topics.partition("gw-b2")
    others = [f"{number_:02x}" for number_ in range(topics.PARTITIONS) if f"{number_:02x}" != own]
    strange = [others[0], others[-1], "40", "7", "000", "x", "%", "NaN", "\u0660\u0661"]
    with (
        refusing(installation, *["topic.partition"] * len(strange)),
        installation.gateway("gw-b2") as gateway,
    ):
        publish_good(gateway, 1, PLACE)
        for place in strange:
            topic = f"linli/v1/{place}/gw-b2/up/telemetry"
            gateway.publish("telemetry", good("telemetry", "gw-b2", 500), topic=topic)
        publish_good(gateway, PLACE + 1, GOOD)
        stored_up_to(gateway, GOOD)
    letters = installation.letters("gw-b2")
    assert [letter["reason"] for letter in letters] == ["topic.partition"] * len(strange)
    assert [letter["topic"].split("/")[2] for letter in letters] == strange
    assert all(bytes(letter["raw"]).startswith(b'{"v": 1') for letter in letters)
    # Whose it is cannot be told, so nobody is told.
    assert not gateway.rejected
    assert installation.stored("gw-b2") == GOOD


@contextmanager
def without_acl(broker: Broker) -> Generator[None]:
    """Let everybody say and hear everything: the broker's part of the defence is gone."""
    server = broker.server
    canary = broker.identity("gw-b3")

    def load(acl: str, answer: int) -> None:
        server.userland.give(server.folder / "acl", "mosquitto", acl)
        server.process.popen.send_signal(signal.SIGHUP)

        def in_force() -> bool:
            with connected(broker.port, canary) as one:
                one.send(publish(b"elsewhere"))
                heard = one.hear()
            return heard is not None and heard.reason == answer

        until(in_force, "the rights are in force")

    rights = (server.folder / "acl").read_text()
    load("pattern readwrite #\n", 0x10)
    try:
        yield
    finally:
        load(rights, 0x87)


def test_b1_b3_without_the_brokers_rights_ingest_still_refuses(installation: Installation) -> None:
    own = good("telemetry", "gw-b3", 500)
    tries = {
        f"linli/v1/{topics.partition('gw-other')}/gw-other/up/telemetry": "device.wrong_gateway",
        f"linli/v1/{topics.partition('gw-nobody')}/gw-nobody/up/telemetry": "gateway.unknown",
        "linli/v1/00/GW-B3/up/telemetry": "topic.malformed",
        "linli/v1/00//up/event": "topic.malformed",
        "linli/v1/00/$SYS/up/status": "topic.malformed",
        f"linli/v1/00/{'a' * 41}/up/result": "topic.malformed",
    }
    with (
        without_acl(installation.broker),
        refusing(installation, *tries.values()),
        installation.gateway("gw-b3") as gateway,
    ):
        publish_good(gateway, 1, PLACE)
        for topic in tries:
            gateway.publish("telemetry", own, topic=topic)
        publish_good(gateway, PLACE + 1, GOOD)
        stored_up_to(gateway, GOOD)
        # Another lane than the neighbours': it is there when it is counted.
        until(lambda: _kept(installation, own) == len(tries), "all of them are set apart")
    assert installation.stored("gw-b3") == GOOD
    assert installation.stored("gw-other") == 0


def _kept(installation: Installation, payload: bytes) -> int:
    return installation.value("SELECT count(*) FROM dead_letter WHERE raw = %s", payload)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param("#", id="B6-all"),
        pytest.param("linli/v1/+/+/up/#", id="B6-up"),
        pytest.param("linli/v1/+/+/down/#", id="B6-down"),
        pytest.param("linli/v1/+/gw-b6-b/down/#", id="B6-down-of-another"),
        pytest.param("linli/v1/live/#", id="B6-live"),
        pytest.param("linli/v1/probe/#", id="B6-probe"),
        pytest.param("$SYS/#", id="B6-system"),
        pytest.param("$share/g/linli/v1/+/+/up/#", id="B6-shared"),
    ],
)
def test_gateway_hears_its_own_alone(installation: Installation, wanted: str) -> None:
    stream = f"s{sum(wanted.encode())}"
    with (
        refusing(installation),
        installation.gateway("gw-b6") as listener,
        installation.gateway("gw-b6-b") as other,
    ):
        listener.subscribe(wanted)
        publish_good(other, 1, GOOD, stream=stream)
        stored_up_to(other, GOOD, stream)
        # What may be heard is said last: the broker keeps the order.
        publish_good(listener, 1, 1, stream=stream)
        stored_up_to(listener, 1, stream)
    assert {topic for topic, _ in listener.heard} == {topics.down("gw-b6", "ack")}
    assert {known for ack in listener.acks for known in ack.streams} == {stream}


def test_b7_will_on_anothers_topic_is_not_delivered(installation: Installation) -> None:
    will = fill(status(agent_version='"of-a-stranger"'), "gw-b7")
    topic = topics.up("gw-other", "status").encode()
    identity = installation.broker.identity("gw-b7")
    with refusing(installation):
        with link(installation.broker.port, identity) as one:
            one.send(connect(will=(topic, will)))
            welcome = one.hear()
            assert welcome is not None
            assert (welcome.kind, welcome.reason) == (CONNACK, 0)
        # The next connection of this name ends the first, if that has not ended yet, will and all.
        with installation.gateway("gw-b7") as gateway:
            publish_good(gateway, 1, GOOD)
            gateway.publish("status", fill(status(), "gw-b7"))
            stored_up_to(gateway, GOOD)
            until(lambda: _version_of(installation, "gw-b7") is not None, "its status is stored")
    assert _version_of(installation, "gw-other") is None
    assert installation.stored("gw-b7") == GOOD


def _version_of(installation: Installation, gateway: str) -> datetime | None:
    return installation.value("SELECT status_at FROM gateway WHERE gateway = %s", gateway)


def test_b8_what_was_retained_is_not_stored_again(installation: Installation) -> None:
    payloads = {
        "telemetry": good("telemetry", "gw-b8", 1),
        "event": good("event", "gw-b8", 1, "s2"),
    }
    with refusing(installation), installation.gateway("gw-b8") as gateway:
        gateway.publish("telemetry", payloads["telemetry"], retain=True)
        gateway.publish("event", payloads["event"], retain=True)
        stored_up_to(gateway, 1)
        stored_up_to(gateway, 1, "s2")
    installation.stop()
    installation.start()
    with refusing(installation), installation.gateway("gw-b8") as gateway:
        publish_good(gateway, 2, GOOD)
        gateway.publish("event", good("event", "gw-b8", 2, "s2"))
        stored_up_to(gateway, GOOD)
        stored_up_to(gateway, 2, "s2")
    assert installation.stored("gw-b8") == GOOD + 2


def test_b9_nothing_is_published_to_a_topic_taken_from_a_message(
    installation: Installation,
) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = topics.down("gw-b9", "command")
    properties.CorrelationData = b"x" * 1_000
    with refusing(installation), installation.gateway("gw-b9") as gateway:
        for seq in range(1, GOOD + 1):
            payload = good("telemetry", "gw-b9", seq)
            gateway.publish("telemetry", payload, properties=properties)
        stored_up_to(gateway, GOOD)
    assert {topic for topic, _ in gateway.heard} == {topics.down("gw-b9", "ack")}


def test_b9_receive_maximum_0_is_refused(installation: Installation) -> None:
    with link(installation.broker.port, installation.broker.identity("gw-b9")) as one:
        one.send(connect(properties=b"\x21\0\0"))
        answer = one.hear()
    assert answer is None or answer.kind == DISCONNECT


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gw+", id="B10-plus"),
        pytest.param("+", id="B10-plus-alone"),
        pytest.param("#", id="B10-hash"),
        pytest.param("gw-other/x", id="B10-slash"),
        pytest.param("gw-other/up/telemetry", id="B10-levels"),
        pytest.param("GW-OTHER", id="B10-uppercase"),
        pytest.param("gw-\u043ether", id="B10-cyrillic"),
        pytest.param("gw.other:x", id="B10-dots"),
        pytest.param("x" * 300, id="B10-300-characters"),
        pytest.param("gw-other\0", id="B10-nul"),
        pytest.param("", id="B10-empty"),
    ],
)
@pytest.mark.filterwarnings("ignore:Attribute's length must:UserWarning")
def test_certificate_of_an_impossible_name_has_no_rights(
    installation: Installation, name: str, tmp_path: Path
) -> None:
    """Enrolment refuses such names (tests of the authority); this one was made elsewhere."""
    identity = _certificate(installation.broker.authority, name, tmp_path)
    before = installation.refused()
    with (
        link(installation.broker.port, identity) as one,
        installation.gateway("gw-b10") as gateway,
    ):
        one.send(connect())
        welcome = one.hear()
        publish_good(gateway, 1, PLACE, stream="s2")
        if welcome is not None and welcome.reason == 0:
            one.send(subscribe("linli/v1/+/+/down/#"), subscribe("#"))
            for place in {name, "gw-b10-b", name.strip("/+#")} - {""}:
                topic = f"linli/v1/{topics.partition('gw-b10-b')}/{place}/up/telemetry".encode()
                one.send(publish(topic, good("telemetry", "gw-b10-b", 1)))
        publish_good(gateway, PLACE + 1, GOOD, stream="s2")
        stored_up_to(gateway, GOOD, "s2")
        one.send(ping())
        heard = list(iter(one.hear, None)) if welcome is None else _until_pong(one)
    assert PUBLISH not in {packet.kind for packet in heard}
    assert installation.stored("gw-b10-b") == 0
    assert not installation.rows("SELECT 1 FROM gateway_stream WHERE gateway = 'gw-b10-b'")
    # Where the broker let it speak under its own name, ingest knows no such name.
    counted_since = Counter(installation.refused()) - Counter(before)
    assert set(counted_since) <= {"topic.malformed"}


def _until_pong(one: Link) -> list[Packet]:
    heard: list[Packet] = []
    while (packet := one.hear()) is not None and packet.kind != PONG:
        heard.append(packet)
    return heard


def _certificate(authority: Authority, name: str, folder: Path) -> Identity:
    """Sign what `issue_client` would refuse."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Unvalidated: a common name has at most 64 characters, and some of these have more.
    subject = x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([subject]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(authority.key, hashes.SHA256())
    )
    (folder / "made.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "made.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Identity(name, authority.folder / "ca.crt", folder / "made.crt", folder / "made.key")


def test_b21_revoked_gateway_is_refused_and_others_are_not(installation: Installation) -> None:
    with (
        refusing(installation, *["gateway.revoked"] * 3),
        installation.gateway("gw-revoked") as revoked,
        installation.gateway("gw-b21-b") as other,
    ):
        publish_good(other, 1, PLACE)
        payload = good("telemetry", "gw-revoked", 1)
        revoked.publish("telemetry", payload)
        revoked.publish("event", event_payload := good("event", "gw-revoked", 1))
        revoked.publish("status", status_payload := fill(status(), "gw-revoked"))
        publish_good(other, PLACE + 1, GOOD)
        stored_up_to(other, GOOD)
        until(lambda: len(revoked.rejected) == 3, "it is told")
    assert {(item.sha256, item.reason) for item in revoked.rejected} == {
        (digest(one), "gateway.revoked") for one in (payload, event_payload, status_payload)
    }
    assert installation.stored("gw-revoked") == 0
    assert installation.rows("SELECT 1 FROM gateway_stream WHERE gateway = 'gw-revoked'") == []


def test_b21_what_is_refused_often_raises_one_alert(installation: Installation) -> None:
    with (
        refusing(installation, *["device.wrong_kind"] * 9, *["device.unknown"] * 9),
        installation.gateway("gw-b21") as gateway,
    ):
        for seq in range(1, 10):
            own_device, nobodys = lamp(-seq, device='"@bin"'), lamp(-seq, device='"nobody"')
            payload = telemetry(lamp(-seq), own_device, nobodys)
            gateway.publish("telemetry", fill(payload, "gw-b21", stream=STREAM, seq=seq))
        publish_good(gateway, 10, GOOD)
        stored_up_to(gateway, GOOD)
        until(lambda: len(gateway.rejected) == 18, "each is told")
    alerts = installation.rows(
        "SELECT rule, device, active FROM alert WHERE gateway = 'gw-b21' ORDER BY rule"
    )
    assert alerts == [
        {"rule": "device.refused", "device": "gw-b21-bin", "active": True},
        {"rule": "gateway.refused", "device": None, "active": True},
    ]
    assert installation.stored("gw-b21") == GOOD


def test_b22_same_number_twice_in_one_flush_is_stored_once(installation: Installation) -> None:
    with refusing(installation), installation.gateway("gw-b22-a") as gateway:
        for seq in range(1, GOOD + 1):
            payload = good("telemetry", "gw-b22-a", seq)
            gateway.publish("telemetry", payload)
            gateway.publish("telemetry", payload)
        stored_up_to(gateway, GOOD)
        until(lambda: len(gateway.reasons) == 2 * GOOD, "every PUBACK came")
    assert installation.stored("gw-b22-a") == GOOD


def test_b22_readings_of_500_devices_are_stored(installation: Installation) -> None:
    name = "gw-b22-c"
    with refusing(installation), installation.gateway(name) as gateway:
        publish_good(gateway, 1, PLACE)
        readings = [lamp(device=f'"many-lamp-{index:03}"') for index in range(MANY_LAMPS)]
        gateway.publish("telemetry", fill(telemetry(*readings), name, stream=STREAM, seq=PLACE + 1))
        publish_good(gateway, PLACE + 2, GOOD + 1)
        stored_up_to(gateway, GOOD + 1)
    assert installation.stored(name) == GOOD + MANY_LAMPS


def test_b23_first_telemetry_of_a_number_wins(installation: Installation) -> None:
    with refusing(installation), installation.gateway("gw-b23") as gateway:
        publish_good(gateway, 1, PLACE)
        stored_up_to(gateway, PLACE)
        other = telemetry(lamp(-5, lit="false", power_w="41"))
        gateway.publish("telemetry", fill(other, "gw-b23", stream=STREAM, seq=PLACE))
        publish_good(gateway, PLACE + 1, GOOD)
        stored_up_to(gateway, GOOD)
    assert installation.stored("gw-b23") == GOOD
    assert installation.rows("SELECT 1 FROM reading_lamp WHERE power_w = 41") == []


def test_b23_other_event_under_a_known_number_is_a_conflict(installation: Installation) -> None:
    with (
        refusing(installation, "event.conflict"),
        installation.gateway("gw-b23-b") as gateway,
    ):
        for seq in range(1, PLACE + 1):
            gateway.publish("event", good("event", "gw-b23-b", seq))
        stored_up_to(gateway, PLACE)
        # The same bytes again are no conflict, other bytes are.
        other = fill(event(passage(event='"forced"')), "gw-b23-b", stream=STREAM, seq=PLACE)
        gateway.publish("event", other)
        for seq in range(PLACE + 1, GOOD + 1):
            gateway.publish("event", good("event", "gw-b23-b", seq))
        stored_up_to(gateway, GOOD)
        until(lambda: gateway.rejected, "it is told")
    (rejection,) = gateway.rejected
    assert (rejection.stream, rejection.seq) == (STREAM, PLACE)
    (letter,) = installation.letters("gw-b23-b")
    assert bytes(letter["raw"]) == other
    assert installation.stored("gw-b23-b") == GOOD
    assert installation.rows("SELECT 1 FROM event_gate WHERE event = 'forced'") == []


def test_b24_replay_is_stored_once_and_under_a_new_stream_makes_no_second_alarm(
    installation: Installation,
) -> None:
    smoke = (
        '{"kind": "alarm", "device": "@alarm", "at": "@at(-60)", "event": "smoke",'
        ' "phase": "raised", "occurrence": "b24"}'
    )
    first = fill(event(smoke), "gw-b24", stream="s2", seq=1)
    again = first.replace(b'"s2"', b'"s3"')
    with refusing(installation), installation.gateway("gw-b24") as gateway:
        publish_good(gateway, 1, GOOD)
        captured = good("telemetry", "gw-b24", PLACE)
        for payload in (first, first, again):
            gateway.publish("event", payload)
        gateway.publish("telemetry", captured)
        stored_up_to(gateway, GOOD)
        stored_up_to(gateway, 1, "s2")
        stored_up_to(gateway, 1, "s3")
    # The gateway says it under a new number, so it is kept as said: two events, and one alarm.
    assert installation.stored("gw-b24") == GOOD + 2
    alerts = installation.rows(
        "SELECT rule, key FROM alert_occurrence WHERE device = 'gw-b24-alarm'"
    )
    assert alerts == [{"rule": "alarm.smoke", "key": "b24"}]


def test_b25_stream_full_of_holes_is_frozen_and_others_are_not(installation: Installation) -> None:
    name, more = "gw-b25-a", 600
    with installation.gateway(name) as gateway, installation.gateway("gw-b25-b") as other:
        publish_good(other, 1, PLACE)
        before = installation.refused().get("stream.too_sparse", 0)
        for index in range(RANGES_MAX + more):
            payload = telemetry(lamp(-0.5 * index))
            gateway.publish("telemetry", fill(payload, name, stream=STREAM, seq=2 * index + 1))
        publish_good(other, PLACE + 1, GOOD)
        stored_up_to(other, GOOD)
        until(lambda: gateway.rejected, "it is told", timeout_s=STORED_S)
        until(
            lambda: installation.stored(name) + len(gateway.rejected) == RANGES_MAX + more,
            "every message is stored or refused",
            timeout_s=STORED_S,
        )
        assert installation.refused()["stream.too_sparse"] - before == len(gateway.rejected)
        # A stream of its own goes on.
        publish_good(gateway, 1, GOOD, stream="s2")
        stored_up_to(gateway, GOOD, "s2")
    assert {item.reason for item in gateway.rejected} == {"stream.too_sparse"}
    assert gateway.upto(STREAM) == 1
    # One flush more than the limit at most.
    ranges = installation.value(
        "SELECT count(*) FROM gateway_stream, unnest(seen) WHERE gateway = %s AND stream = %s",
        name, STREAM,
    )  # fmt: skip
    assert RANGES_MAX < ranges <= RANGES_MAX + 500
    assert installation.rows(
        "SELECT active FROM alert WHERE gateway = %s AND rule = 'gateway.refused'", name
    ) == [{"active": True}]


def test_b25_endless_new_streams_are_refused(installation: Installation) -> None:
    more = 5
    with (
        refusing(installation, *["stream.too_many"] * more),
        installation.gateway("gw-b25-c") as gateway,
    ):
        for index in range(NEW_STREAMS_A_DAY_MAX + more):
            publish_good(gateway, 1, 1, stream=f"s{index}")
        until(lambda: len(gateway.rejected) == more, "it is told")
        publish_good(gateway, 2, GOOD, stream="s0")
        stored_up_to(gateway, GOOD, "s0")
    assert {item.reason for item in gateway.rejected} == {"stream.too_many"}
    streams = installation.value(
        "SELECT count(*) FROM gateway_stream WHERE gateway = %s", "gw-b25-c"
    )
    assert streams == NEW_STREAMS_A_DAY_MAX
    assert installation.stored("gw-b25-c") == NEW_STREAMS_A_DAY_MAX + GOOD - 1


def _evicted(seq: int, first: int, last: int, *, stream: str = STREAM) -> bytes:
    now = datetime.now(UTC)
    gap = GapEvent(
        lane="telemetry", stream=stream, first=first, last=last, count=last - first + 1, at=now
    )
    return encode(EventMessage(stream="s-event", seq=seq, sent_at=now, event=gap))


def test_b26_gap_over_stored_messages_records_what_is_missing(installation: Installation) -> None:
    with refusing(installation), installation.gateway("gw-b26") as gateway:
        publish_good(gateway, 1, 3)
        publish_good(gateway, 7, 7)
        stored_up_to(gateway, 3)
        until(lambda: installation.stored("gw-b26") == 4, "the readings are stored")
        gateway.publish("event", _evicted(1, 2, 9))
        gateway.publish("event", _evicted(2, 2, 9))
        stored_up_to(gateway, 2, "s-event")
        publish_good(gateway, 10, GOOD + 5)
        stored_up_to(gateway, GOOD + 5)
    gaps = installation.rows(
        """
        SELECT first, last, count FROM stream_gap JOIN gateway_stream AS s ON s.id = stream_id
        WHERE gateway = 'gw-b26'
        """
    )
    assert gaps == [{"first": 2, "last": 9, "count": 5}]
    assert installation.stored("gw-b26") == GOOD


def test_b26_gaps_in_endless_new_streams_are_bounded(installation: Installation) -> None:
    with installation.gateway("gw-b26-b") as gateway:
        for index in range(4 * NEW_STREAMS_A_DAY_MAX):
            gateway.publish("event", _evicted(index + 1, 1, 9, stream=f"s{index}"))
        publish_good(gateway, 1, GOOD)
        until(lambda: gateway.upto("s-event") == 4 * NEW_STREAMS_A_DAY_MAX, "all is judged")
    streams = installation.value(
        "SELECT count(*) FROM gateway_stream WHERE gateway = %s", "gw-b26-b"
    )
    assert streams <= NEW_STREAMS_A_DAY_MAX


def test_b26_gaps_that_leave_endless_holes_are_bounded(installation: Installation) -> None:
    more = 300
    with installation.gateway("gw-b26-c") as gateway:
        for index in range(RANGES_MAX + more):
            gateway.publish("event", _evicted(index + 1, 2 * index + 2, 2 * index + 2))
        publish_good(gateway, 1, 1)
        until(
            lambda: gateway.upto("s-event") == RANGES_MAX + more,
            "all is judged",
            timeout_s=STORED_S,
        )
    ranges = installation.value(
        "SELECT count(*) FROM gateway_stream, unnest(seen) WHERE gateway = %s AND stream = %s",
        "gw-b26-c", STREAM,
    )  # fmt: skip
    assert ranges <= RANGES_MAX + 50


def test_b27_status_is_kept_as_text_and_makes_no_streams(installation: Installation) -> None:
    streams = ", ".join(
        f'{{"lane": "telemetry", "stream": "s{index}", "oldest": 1, "next": {SEQ_MAX}}}'
        for index in range(STREAMS_MAX)
    )
    payload = status(
        streams=f"[{streams}]",
        agent_version='"<script>alert(1)</script>"',
        outbox_messages=str(SEQ_MAX),
        clock='"unsynchronized"',
    )
    with refusing(installation), installation.gateway("gw-b27") as gateway:
        gateway.publish("status", fill(payload, "gw-b27"))
        until(lambda: gateway.acks, "its streams are answered")
        publish_good(gateway, 1, GOOD)
        stored_up_to(gateway, GOOD)
    assert gateway.acks[0].streams == {f"s{index}": 0 for index in range(STREAMS_MAX)}
    (row,) = installation.rows(
        "SELECT agent_version, outbox_messages, clock FROM gateway WHERE gateway = 'gw-b27'"
    )
    assert row == {
        "agent_version": "<script>alert(1)</script>",
        "outbox_messages": SEQ_MAX,
        "clock": "unsynchronized",
    }
    known = installation.rows("SELECT stream FROM gateway_stream WHERE gateway = 'gw-b27'")
    assert known == [{"stream": STREAM}]


def test_b20_no_impossible_instant_made_a_chunk(installation: Installation) -> None:
    (row,) = installation.rows(
        """
        SELECT min(range_start) AS first, max(range_end) AS last
        FROM timescaledb_information.chunks
        """
    )
    now = datetime.now(UTC)
    assert row["first"] is None or row["first"] > now - timedelta(days=32)
    assert row["last"] is None or row["last"] < now + timedelta(days=2)


def test_mutated_packets_leave_broker_and_ingest_alive(installation: Installation) -> None:
    """``LINLI_FUZZ_PACKETS`` sets how many connections are tried, 200 otherwise.

    ``LINLI_FUZZ_SEED`` repeats a run whose seed was printed.
    """
    seed = int(os.environ.get("LINLI_FUZZ_SEED") or random.SystemRandom().randrange(2**32))
    print(f"seed={seed}")  # noqa: T201 - shown with a failure
    chance = random.Random(seed)
    identity = installation.broker.identity("gw-mutant")
    own = topics.up("gw-mutant", "telemetry").encode()
    before = installation.memory_bytes()
    for _ in range(PACKETS):
        packets = connect() + b"".join(
            publish(own, good("telemetry", "gw-mutant", seq), mid=seq) for seq in range(1, 4)
        )
        for _ in range(chance.randrange(1, 4)):
            start = chance.randrange(len(packets))
            word = chance.choice((b"", b"\0", b"\xff", b"\x7f\xff", chance.randbytes(4)))
            packets = packets[:start] + word + packets[start + chance.choice((0, 1, 2, 5)) :]
        with link(installation.broker.port, identity, timeout_s=0.2) as one:
            one.send(packets, ping())
            # Where a length was spoilt, the broker waits for more.
            with suppress(TimeoutError):
                one.hear()
    assert installation.broker.server.process.running
    with installation.gateway("gw-mutant") as gateway:
        publish_good(gateway, 1, GOOD, stream="s2")
        stored_up_to(gateway, GOOD, "s2")
    assert installation.memory_bytes() - before < 20 * 2**20
