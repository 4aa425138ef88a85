# SPDX-License-Identifier: Apache-2.0
"""The wire contract: what was ever shipped parses for ever, what breaks it is told apart."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import messages
from edge_agent.kinds.base import Wire
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import (
    PAYLOAD_BYTES_MAX,
    READINGS_MAX,
    REASONS,
    PayloadError,
    Telemetry,
    encode,
    parse_ack,
    parse_aggregate,
    parse_command,
    parse_config,
    parse_event,
    parse_live,
    parse_live_devices,
    parse_result,
    parse_status,
    parse_telemetry,
)
from tests import strategies

PAYLOADS: Final = Path(__file__).parents[1] / "payloads" / "v1"
GOLDEN: Final = sorted(path.name for path in PAYLOADS.glob("*.json"))


def telemetry_of(payload: bytes) -> Telemetry:
    """Parse telemetry of which every reading must be good."""
    batch = parse_telemetry(payload)
    assert not batch.rejected
    assert [index for index, _ in batch.readings] == list(range(len(batch.readings)))
    return Telemetry(
        stream=batch.stream,
        seq=batch.seq,
        sent_at=batch.sent_at,
        readings=tuple(reading for _, reading in batch.readings),
    )


PARSERS: Final[Mapping[str, Callable[[bytes], Wire]]] = {
    "telemetry": telemetry_of,
    "event": parse_event,
    "status": parse_status,
    "result": parse_result,
    "aggregate": parse_aggregate,
    "ack": parse_ack,
    "command": parse_command,
    "config": parse_config,
    "live": parse_live,
    "devices": parse_live_devices,
}


def parse_golden(name: str) -> Wire:
    return PARSERS[name.removesuffix(".json").partition("-")[0]]((PAYLOADS / name).read_bytes())


# Golden payloads


def test_shipped_payloads_are_never_changed_or_removed() -> None:
    lines = (PAYLOADS / "SHA256SUMS").read_text().splitlines()
    shipped = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    present = {name: hashlib.sha256((PAYLOADS / name).read_bytes()).hexdigest() for name in GOLDEN}
    assert present == shipped, (
        "a shipped payload stays as it is; a new one is added to SHA256SUMS (sha256sum FILE)"
    )


@pytest.mark.parametrize("name", GOLDEN)
def test_shipped_payload_still_parses(name: str) -> None:
    message = parse_golden(name)
    again = PARSERS[name.removesuffix(".json").partition("-")[0]](encode(message))
    assert again == message


@pytest.mark.parametrize("name", [name for name in GOLDEN if "tolerated" not in name])
def test_shipped_payload_is_what_we_send(name: str) -> None:
    assert json.loads(encode(parse_golden(name))) == json.loads((PAYLOADS / name).read_bytes())


def _models(model: type[Wire]) -> Iterator[type[Wire]]:
    for below in model.__subclasses__():
        if below.__module__.startswith("edge_agent.") and below.__name__[0] != "_":
            yield below
            yield from _models(below)


def _parts(value: object) -> Iterator[Wire]:
    if isinstance(value, Wire):
        yield value
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name))
    elif isinstance(value, tuple):
        for inner in cast("tuple[object, ...]", value):
            yield from _parts(inner)


def test_golden_payloads_show_every_field_and_every_enum_member() -> None:
    shown: set[tuple[str, str, object]] = set()
    for name in GOLDEN:
        for part in _parts(parse_golden(name)):
            for field in type(part).model_fields:
                value: object = getattr(part, field)
                if value is not None:
                    shown.add((type(part).__name__, field, None))
                    shown.add((type(part).__name__, field, repr(value)))
    expected: set[tuple[str, str, object]] = set()
    for model in _models(Wire):
        # Abstract: what is on the wire has a kind or stands in a message of its own.
        if model.__name__ in ("ReadingBase", "EventBase"):
            continue
        for field, schema in model.model_json_schema()["properties"].items():
            expected.add((model.__name__, field, None))
            for choice in (schema, *schema.get("anyOf", ())):
                for member in choice.get("enum", ()):
                    expected.add((model.__name__, field, repr(member)))
    assert expected - shown == set()


# What is refused, and with which code


GOOD: Final = (
    '{"kind": "lamp", "device": "c01-lamp-001", "at": "2026-11-21T10:00:00Z", "lit": true}'
)
HEAD: Final = {"v": "1", "stream": '"s1"', "seq": "7", "sent_at": '"2026-11-21T10:00:01Z"'}
PLACE: Final = 57


def reading(**raw: str) -> str:
    """A lamp reading as JSON, with fields given as raw JSON; an empty one takes the field away."""
    fields = {"kind": '"lamp"', "device": '"c01-lamp-002"', "at": '"2026-11-21T10:00:00Z"'} | raw
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items() if text) + "}"


def among_good(bad: str) -> bytes:
    """A batch with 99 good readings and one that is to be judged."""
    readings = [GOOD] * PLACE + [bad] + [GOOD] * (99 - PLACE)
    return telemetry(readings=f"[{', '.join(readings)}]")


def telemetry(**raw: str) -> bytes:
    fields = HEAD | {"readings": f"[{GOOD}]"} | raw
    return ("{" + ", ".join(f'"{k}": {text}' for k, text in fields.items() if text) + "}").encode()


def event(**raw: str) -> bytes:
    """An event message with a gate event, whose own fields are those given."""
    fields = {
        "kind": '"gate"',
        "device": '"c01-gate-01"',
        "at": '"2026-11-21T10:00:00Z"',
        "event": '"granted"',
    } | raw
    inner = "{" + ", ".join(f'"{k}": {text}' for k, text in fields.items() if text) + "}"
    return (
        "{" + ", ".join(f'"{k}": {v}' for k, v in HEAD.items()) + f', "event": {inner}}}'
    ).encode()


def gap(first: str, last: str, count: str) -> bytes:
    return event(
        kind='"gap"', lane='"telemetry"', stream='"s0"', first=first, last=last, count=count
    )


@pytest.mark.parametrize(
    ("bad", "reason", "pointer"),
    [
        pytest.param(reading(power_w="NaN"), "value.not_finite", "/power_w", id="B14-nan"),
        pytest.param(reading(power_w="Infinity"), "value.not_finite", "/power_w", id="B14-inf"),
        pytest.param(reading(power_w="-Infinity"), "value.not_finite", "/power_w", id="B14-ninf"),
        pytest.param(reading(power_w="1e400"), "value.not_finite", "/power_w", id="B14-1e400"),
        pytest.param(reading(power_w="9" * 400), "value.not_finite", "/power_w", id="B14-digits"),
        pytest.param(reading(kind='"water_meter"'), "kind.unknown", "/kind", id="B16-kind"),
        pytest.param(reading(kind="null"), "kind.unknown", "/kind", id="B16-kind-null"),
        pytest.param(reading(kind="[]"), "kind.unknown", "/kind", id="B16-kind-array"),
        pytest.param(reading(kind='"\\u0000"'), "kind.unknown", "/kind", id="B16-kind-nul"),
        pytest.param(
            reading(kind='"gate"', door='"ajar"'), "field.enum", "/door", id="B16-enum-member"
        ),
        pytest.param(reading(fault='"a\\u0000"'), "text.invalid", "/fault", id="B17-nul"),
        pytest.param(reading(fault='"\\ud800"'), "text.invalid", "/fault", id="B17-high-alone"),
        pytest.param(reading(fault='"\\udc80x"'), "text.invalid", "/fault", id="B17-low-alone"),
        pytest.param(reading(fault=f'"{"a" * 100_000}"'), "text.too_long", "/fault", id="B17-long"),
        pytest.param(reading(device=""), "field.missing", "/device", id="B18-no-device"),
        pytest.param(reading(at=""), "field.missing", "/at", id="B18-no-at"),
        pytest.param(reading(kind=""), "field.missing", "/kind", id="B18-no-kind"),
        pytest.param(reading(lit='"true"'), "field.type", "/lit", id="B18-text-for-bool"),
        pytest.param(reading(lit="1"), "field.type", "/lit", id="B18-number-for-bool"),
        pytest.param(reading(power_w='"41"'), "field.type", "/power_w", id="B18-text-for-number"),
        pytest.param(reading(power_w="true"), "field.type", "/power_w", id="B18-bool-for-number"),
        pytest.param(reading(level_pct="150"), "value.range", "/level_pct", id="B18-150-percent"),
        pytest.param(reading(power_w="1e9"), "value.range", "/power_w", id="B18-gigawatt"),
        pytest.param(reading(energy_kwh="-1"), "value.range", "/energy_kwh", id="B18-negative"),
        pytest.param("null", "field.type", "", id="B18-null"),
        pytest.param("[]", "field.type", "", id="B18-array"),
        pytest.param("1", "field.type", "", id="B18-number"),
        pytest.param(reading(device='"lamp/1"'), "text.pattern", "/device", id="B10-slash"),
        pytest.param(reading(device='"gw+"'), "text.pattern", "/device", id="B10-plus"),
        pytest.param(reading(device='"#"'), "text.pattern", "/device", id="B10-hash"),
        pytest.param(reading(device='""'), "text.pattern", "/device", id="B10-empty"),
        pytest.param(reading(device=f'"{"a" * 300}"'), "text.too_long", "/device", id="B10-300"),
        pytest.param(reading(device='"a.b:c"'), "text.pattern", "/device", id="B10-dots"),
        pytest.param(reading(device='"Lamp"'), "text.pattern", "/device", id="B10-uppercase"),
        pytest.param(reading(device='"l\u0430mp"'), "text.pattern", "/device", id="B10-cyrillic"),
        pytest.param(reading(device='"lamp\\n"'), "text.pattern", "/device", id="B10-newline"),
        pytest.param(reading(at='"2026-11-21T10:00:00"'), "time.naive", "/at", id="B19-naive"),
        pytest.param(reading(at='"2026-11-21"'), "time.format", "/at", id="B19-date"),
        pytest.param(reading(at='"yesterday"'), "time.format", "/at", id="B19-word"),
        pytest.param(reading(at='"2026-11-21T10:00:60Z"'), "time.format", "/at", id="B19-60"),
        pytest.param(reading(at='"2026-11-21T24:00:00Z"'), "time.format", "/at", id="B19-24h"),
        pytest.param(reading(at='"2026-02-30T10:00:00Z"'), "time.format", "/at", id="B19-30-feb"),
        pytest.param(reading(at="1795255200"), "time.format", "/at", id="B19-number"),
        pytest.param(reading(at="null"), "time.format", "/at", id="B19-null"),
        pytest.param(reading(at='"0001-01-01T00:00:00Z"'), "time.too_old", "/at", id="B20-1"),
        pytest.param(
            reading(at='"0001-01-01T00:00:00+05:00"'), "time.too_old", "/at", id="B20-overflow"
        ),
        pytest.param(reading(at='"1970-01-01T00:00:09Z"'), "time.too_old", "/at", id="B20-1970"),
        pytest.param(
            reading(at='"9999-12-31T23:59:59-05:00"'), "time.future", "/at", id="B20-9999"
        ),
    ],
)
def test_bad_reading_is_set_apart_and_its_neighbours_survive(
    bad: str, reason: str, pointer: str
) -> None:
    batch = parse_telemetry(among_good(bad))
    assert (batch.stream, batch.seq) == ("s1", 7)
    assert [index for index, _ in batch.readings] == [i for i in range(100) if i != PLACE]
    assert {reading.device for _, reading in batch.readings} == {"c01-lamp-001"}
    (rejected,) = batch.rejected
    assert (rejected.index, rejected.reason) == (PLACE, reason)
    assert rejected.detail.startswith(f"/readings/{PLACE}{pointer}: ")
    assert "\0" not in rejected.detail


def parse_batch(payload: bytes) -> object:
    return parse_telemetry(payload)


@pytest.mark.parametrize(
    ("parse", "payload", "reason"),
    [
        pytest.param(parse_batch, b" " * (PAYLOAD_BYTES_MAX + 1), "payload.too_large", id="B11"),
        pytest.param(parse_batch, b"", "payload.not_json", id="B12-empty"),
        pytest.param(parse_batch, b"\0", "payload.not_json", id="B12-one-byte"),
        pytest.param(parse_batch, telemetry()[:-9], "payload.not_json", id="B12-truncated"),
        pytest.param(parse_batch, telemetry() + b"x", "payload.not_json", id="B12-trailing"),
        pytest.param(parse_batch, b"\xef\xbb\xbf" + telemetry(), "payload.not_json", id="B12-bom"),
        pytest.param(parse_batch, b"/**/" + telemetry(), "payload.not_json", id="B12-comment"),
        pytest.param(
            parse_batch, telemetry().replace(b'"', b"'"), "payload.not_json", id="B12-quotes"
        ),
        pytest.param(parse_batch, b"\x1f\x8b\x08\0\0", "payload.not_json", id="B12-gzip"),
        pytest.param(
            parse_batch,
            telemetry().replace(b"s1", b"\xff1"),
            "payload.not_json",
            id="B12-not-utf-8",
        ),
        pytest.param(parse_batch, b"[" + telemetry() + b"]", "payload.not_object", id="B12-array"),
        pytest.param(parse_batch, b"null", "payload.not_object", id="B12-null"),
        pytest.param(parse_event, b"7", "payload.not_object", id="B12-event-number"),
        pytest.param(
            parse_batch, telemetry(x="[" * 10_000 + "]" * 10_000), "payload.not_json", id="B13-deep"
        ),
        pytest.param(parse_batch, telemetry(x="1" * 5_000), "payload.not_json", id="B13-digits"),
        pytest.param(parse_batch, telemetry(seq="0"), "seq.range", id="B15-0"),
        pytest.param(parse_batch, telemetry(seq="-1"), "seq.range", id="B15-negative"),
        pytest.param(parse_batch, telemetry(seq=str(2**53)), "seq.range", id="B15-2^53"),
        pytest.param(parse_batch, telemetry(seq=str(2**63)), "seq.range", id="B15-2^63"),
        pytest.param(parse_batch, telemetry(seq='"7"'), "seq.type", id="B15-text"),
        pytest.param(parse_batch, telemetry(seq="7.0"), "seq.type", id="B15-float"),
        pytest.param(parse_batch, telemetry(seq="true"), "seq.type", id="B15-true"),
        pytest.param(parse_batch, telemetry(seq="1e3"), "seq.type", id="B15-exponent"),
        pytest.param(parse_batch, telemetry(seq="null"), "seq.type", id="B15-null"),
        pytest.param(parse_batch, telemetry(seq="NaN"), "seq.type", id="B15-nan"),
        pytest.param(parse_batch, telemetry(v="2"), "version.unknown", id="B16-v-2"),
        pytest.param(parse_batch, telemetry(v="true"), "version.unknown", id="B16-v-true"),
        pytest.param(parse_batch, telemetry(v='"1"'), "version.unknown", id="B16-v-text"),
        pytest.param(parse_batch, telemetry(v="1.0"), "version.unknown", id="B16-v-float"),
        pytest.param(parse_batch, telemetry(v=""), "field.missing", id="B18-no-v"),
        pytest.param(
            parse_batch,
            telemetry(v="", readings="[{}]"),
            "field.missing",
            id="B18-no-v-bad-reading",
        ),
        pytest.param(parse_status, b'{"state": "online"}', "field.missing", id="B18-status-no-v"),
        pytest.param(parse_batch, telemetry(stream=""), "field.missing", id="B18-no-stream"),
        pytest.param(parse_batch, telemetry(seq=""), "field.missing", id="B18-no-seq"),
        pytest.param(parse_batch, telemetry(sent_at=""), "field.missing", id="B18-no-sent-at"),
        pytest.param(parse_batch, telemetry(readings=""), "field.missing", id="B18-no-readings"),
        pytest.param(parse_batch, telemetry(readings="null"), "field.type", id="B18-null-readings"),
        pytest.param(
            parse_batch, telemetry(stream='"a/b"'), "text.pattern", id="B10-stream-with-slash"
        ),
        pytest.param(
            parse_batch, telemetry(sent_at='"2026-11-21T10:00:00"'), "time.naive", id="B19-sent-at"
        ),
        pytest.param(
            parse_batch, telemetry(sent_at='"1970-01-01T00:00:00Z"'), "time.too_old", id="B20-1970"
        ),
        pytest.param(parse_batch, telemetry(readings="[]"), "batch.empty", id="B22-empty"),
        pytest.param(
            parse_batch,
            telemetry(readings=f"[{', '.join([GOOD] * (READINGS_MAX + 1))}]"),
            "batch.too_many",
            id="B22-1001",
        ),
        pytest.param(
            parse_batch,
            telemetry(readings=f"[{', '.join(['{}'] * (READINGS_MAX + 1))}]"),
            "batch.too_many",
            id="B22-1001-bad",
        ),
        pytest.param(
            parse_batch,
            telemetry(readings=f"[{','.join('1' * 60_000)}]"),
            "batch.too_many",
            id="B22-60000-bad",
        ),
        pytest.param(parse_event, event(kind='"siren"'), "kind.unknown", id="B16-event-kind"),
        pytest.param(parse_event, event(kind=""), "field.missing", id="B18-event-no-kind"),
        pytest.param(parse_event, event(event='"blown_up"'), "field.enum", id="B16-event-member"),
        pytest.param(parse_event, event(event=""), "field.missing", id="B18-event-no-event"),
        pytest.param(
            parse_event, event(credential='"0012345678"'), "text.pattern", id="raw-credential"
        ),
        pytest.param(parse_event, gap("5", "4", "1"), "gap.range", id="B26-reversed"),
        pytest.param(parse_event, gap("1", "4", "5"), "gap.range", id="B26-count-too-large"),
        pytest.param(parse_event, gap("1", str(2**53), "1"), "gap.range", id="B26-2^53"),
        pytest.param(parse_event, gap("0", "1", "1"), "gap.range", id="B26-from-0"),
        pytest.param(parse_event, gap('"1"', "2", "1"), "field.type", id="B26-text"),
        pytest.param(
            parse_status,
            json.dumps(
                {
                    "v": 1,
                    "state": "online",
                    "streams": [{"lane": "event", "stream": "s", "oldest": 1, "next": 1}] * 10_000,
                }
            ).encode(),
            "payload.too_large",
            id="B27-10000-streams",
        ),
        pytest.param(
            parse_status,
            json.dumps(
                {
                    "v": 1,
                    "state": "online",
                    "streams": [{"lane": "event", "stream": "s", "oldest": 1, "next": 1}] * 17,
                }
            ).encode(),
            "batch.too_many",
            id="B27-17-streams",
        ),
        pytest.param(
            parse_status,
            b'{"v": 1, "state": "online", "clock": "fine"}',
            "field.enum",
            id="B27-clock",
        ),
        pytest.param(
            parse_status,
            b'{"v": 1, "state": "online", "status_interval_s": "10"}',
            "field.type",
            id="B27-text-for-number",
        ),
        pytest.param(
            parse_status,
            b'{"v": 1, "state": "online", "agent_version": "\\u0000"}',
            "text.invalid",
            id="B17-text",
        ),
        pytest.param(
            parse_status,
            f'{{"v": 1, "state": "online", "agent_version": "{"a" * 501}"}}'.encode(),
            "text.too_long",
            id="B17-501-characters",
        ),
        pytest.param(
            parse_result,
            b'{"v": 1, "command": "c", "step": "done", "at": "2026-11-21T10:00:00Z"}',
            "field.enum",
            id="B27-step",
        ),
        pytest.param(
            parse_ack,
            b'{"v": 1, "epoch": "e", "streams": {"s": -1}}',
            "value.range",
            id="B28-ack-negative",
        ),
        pytest.param(
            parse_ack,
            b'{"v": 1, "epoch": "e", "streams": {"s/#": 1}}',
            "text.pattern",
            id="B28-ack-stream",
        ),
        pytest.param(
            parse_command,
            b'{"v": 1, "command": "c", "device": "d", "action": "unlock",'
            b' "issued_at": "2026-11-21T10:00:00Z"}',
            "field.missing",
            id="B28-command-without-expiry",
        ),
        pytest.param(
            parse_config,
            b'{"v": 1, "version": 2, "heartbeat_s": 0}',
            "value.range",
            id="B28-config-range",
        ),
        pytest.param(parse_live, b'{"v": 1}', "field.missing", id="live-without-at"),
    ],
)
def test_bad_message_is_refused_with_its_reason(
    parse: Callable[[bytes], object], payload: bytes, reason: str
) -> None:
    with pytest.raises(PayloadError) as refused:
        parse(payload)
    assert refused.value.reason == reason
    assert reason in REASONS


def test_refusal_names_stream_and_seq_where_they_can_be_read() -> None:
    with pytest.raises(PayloadError) as refused:
        parse_telemetry(telemetry(v="2", readings='"encoded otherwise"'))
    assert (refused.value.stream, refused.value.seq) == ("s1", 7)
    with pytest.raises(PayloadError) as refused:
        parse_telemetry(telemetry(seq="0"))
    assert (refused.value.stream, refused.value.seq) == (None, None)


def test_event_refusal_points_into_the_document() -> None:
    with pytest.raises(PayloadError, match=r"field\.enum: /event/event: "):
        parse_event(event(event='"blown_up"'))
    with pytest.raises(PayloadError, match=r"kind\.unknown: /event/kind: "):
        parse_event(event(kind='"siren"'))


def test_batch_of_bad_readings_only_is_taken_apart_too() -> None:
    batch = parse_telemetry(telemetry(readings=f"[{reading(lit='1')}, {reading(at='')}]"))
    assert (batch.stream, batch.seq, len(batch.readings)) == ("s1", 7, 0)
    assert [(item.index, item.reason) for item in batch.rejected] == [
        (0, "field.type"),
        (1, "field.missing"),
    ]


def test_explanation_is_short_and_can_be_stored() -> None:
    batch = parse_telemetry(among_good(reading(kind=f'"\\u0000{"x" * 90_000}"')))
    (rejected,) = batch.rejected
    assert rejected.reason == "kind.unknown"
    assert len(rejected.detail) < 500
    assert "\0" not in rejected.detail


def test_every_code_of_a_refusal_is_explained() -> None:
    assert set(messages._REASONS.values()) <= set(REASONS)  # pyright: ignore[reportPrivateUsage] - the table behind the codes


# What is tolerated


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        pytest.param("2026-11-21 10:00:00Z", "2026-11-21T10:00:00+00:00", id="space"),
        pytest.param("2026-11-21T18:00:00+08:00", "2026-11-21T10:00:00+00:00", id="zone"),
        pytest.param("2026-11-21t10:00:00z", "2026-11-21T10:00:00+00:00", id="lower-case"),
        pytest.param("2026-11-21T10:00Z", "2026-11-21T10:00:00+00:00", id="no-seconds"),
        pytest.param(
            "2026-11-21T10:00:00.123456789Z", "2026-11-21T10:00:00.123456+00:00", id="nanoseconds"
        ),
        pytest.param("1795255200", "2026-11-21T10:00:00+00:00", id="seconds-as-text"),
        pytest.param("1795255200000", "2026-11-21T10:00:00+00:00", id="milliseconds-as-text"),
    ],
)
def test_instant_is_normalised_to_utc_microseconds(text: str, instant: str) -> None:
    batch = parse_telemetry(among_good(reading(at=f'"{text}"')))
    assert not batch.rejected
    assert batch.readings[PLACE][1].at.isoformat() == instant


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(telemetry(firmware='{"x": [1, null]}'), id="B16-extra-field"),
        pytest.param(among_good(reading(colour='"\\ud800"')), id="B17-surrogate-in-extra-field"),
        pytest.param(among_good(reading(colour='"\\u0000"')), id="B17-nul-in-extra-field"),
        pytest.param(among_good(reading(colour="NaN")), id="B14-nan-in-extra-field"),
        pytest.param(among_good(reading(power_w="-0")), id="B14-minus-zero"),
        pytest.param(among_good(reading(power_w="null")), id="null-says-nothing"),
        pytest.param(telemetry(x="[" * 150 + "]" * 150), id="B13-150-deep"),
        pytest.param(telemetry(readings=f"[{', '.join([GOOD] * READINGS_MAX)}]"), id="B22-1000"),
        pytest.param(telemetry(seq=str(2**53 - 1)), id="B15-2^53-1"),
    ],
)
def test_what_does_no_harm_is_tolerated(payload: bytes) -> None:
    assert not parse_telemetry(payload).rejected


def test_of_duplicate_keys_the_last_one_wins() -> None:
    assert parse_telemetry(telemetry().replace(b'"seq": 7', b'"seq": 7, "seq": 9')).seq == 9
    good_last = telemetry().replace(b'"readings"', b'"readings": [{}], "readings"')
    assert not parse_telemetry(good_last).rejected
    bad_last = telemetry()[:-1] + b', "readings": [{}]}'
    assert [item.index for item in parse_telemetry(bad_last).rejected] == [0]


def test_escaped_text_is_not_taken_for_a_surrogate() -> None:
    payload = (
        b'{"v": 1, "command": "c", "step": "failed", "at": "2026-11-21T10:00:00Z",'
        b' "reason": "\\ud83d\\ude80 \\\\ud800"}'
    )
    assert parse_result(payload).reason == "\U0001f680 \\ud800"


def test_whole_number_is_a_number() -> None:
    value = parse_telemetry(among_good(reading(power_w="41"))).readings[PLACE][1]
    assert isinstance(value, LampReading)
    assert repr(value.power_w) == "41.0"


def test_message_is_immutable() -> None:
    message = parse_golden("event-gate-granted.json")
    with pytest.raises(ValueError, match="frozen"):
        message.seq = 2  # pyright: ignore[reportAttributeAccessIssue] - the point of the test


# Whatever comes


@given(strategies.telemetry() | strategies.event_messages() | strategies.statuses())
def test_what_a_gateway_reports_survives_the_wire(message: Wire) -> None:
    name = {"Telemetry": "telemetry", "EventMessage": "event", "Status": "status"}
    assert PARSERS[name[type(message).__name__]](encode(message)) == message


@given(
    strategies.acks()
    | strategies.commands()
    | strategies.configs()
    | strategies.results()
    | strategies.lives()
)
def test_what_is_ordered_and_told_survives_the_wire(message: Wire) -> None:
    assert PARSERS[type(message).__name__.lower()](encode(message)) == message


@given(
    st.binary(max_size=200)
    | strategies.json_values.map(lambda value: json.dumps(value).encode())
    | strategies.spoiled(strategies.payloads())
)
def test_nothing_but_a_payload_error_comes_of_any_bytes(payload: bytes) -> None:
    for parse in (parse_batch, *PARSERS.values()):
        if parse is not telemetry_of:
            with suppress(PayloadError):
                parse(payload)


@given(strategies.spoiled(strategies.telemetry().map(encode)))
def test_every_reading_of_a_spoiled_batch_is_accounted_for(payload: bytes) -> None:
    with suppress(PayloadError):
        batch = parse_telemetry(payload)
        found = [index for index, _ in batch.readings] + [item.index for item in batch.rejected]
        assert sorted(found) == list(range(len(json.loads(payload)["readings"])))
        assert all(item.reason in REASONS for item in batch.rejected)
