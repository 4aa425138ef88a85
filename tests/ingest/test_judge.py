# SPDX-License-Identifier: Apache-2.0
"""What is stored already is known by its number alone, and nothing else is taken for it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent import topics
from edge_agent.messages import PAYLOAD_BYTES_MAX, Telemetry, guess_number
from ingest.judge import Judge, Judged, Limits, Received
from ingest.store.devices import Gateway, Registry
from tests import strategies

GATEWAY: Final = "gw-c01-a"
NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
READING: Final = b'{"kind":"lamp","device":"c01-lamp-001","at":"2026-11-20T11:59:59Z","lit":true}'
USUAL: Final = b'{"v":1,"stream":"s","seq":5,"sent_at":"2026-11-20T12:00:00Z","readings":[%b]}'

# Each as it is written, right or wrong.
_FIELDS: Final[dict[bytes, tuple[bytes, ...]]] = {
    b'"v"': (b"1", b"1.0", b"2", b"true"),
    b'"stream"': (b'"s"', b'"t"', rb'"\u0073"', rb'"\ud800"', b'"S"', b'""', b"null"),
    b'"seq"': (
        b"5", b"6", b"05", b"5.0", b"5e0", b"-5", b"0", b"true", b'"5"', b"[5]",
        b"9007199254740991", b"9007199254740992", b"1" * 30,
    ),
    b'"sent_at"': (b'"2026-11-20T12:00:00Z"', b'"2026-11-20T12:00:00"'),
    b'"readings"': (
        b"[%b]" % READING, b"[]", b"[{}]", b"[%b,{}]" % READING, b"[NaN]",
        b'[{"seq":7,"stream":"u"}]', b"[" * 300 + b"]" * 300,
    ),
    b'"more"': (rb'"\ud800"', b'"\xff"', b"{"),
    rb'"s\u0065q"': (b"5", b"6"),
}  # fmt: skip
_USUAL_FIELDS: Final = [(name, values[0]) for name, values in list(_FIELDS.items())[:5]]


@st.composite
def numbered(draw: st.DrawFn) -> bytes:
    """A message as a gateway writes it, of which fields are put in, exchanged or mixed up."""
    fields = list(_USUAL_FIELDS)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from(list(_FIELDS)))
        place = draw(st.integers(0, len(fields)))
        end = place + draw(st.integers(0, 1))
        fields[place:end] = [(name, draw(st.sampled_from(_FIELDS[name])))]
    if draw(st.integers(0, 9)) == 0:
        fields = draw(st.permutations(fields))
    colon, comma = draw(st.sampled_from(((b":", b","), (b": ", b", "), (b" :\n", b"\t,"))))
    return b"{" + comma.join(name + colon + value for name, value in fields) + b"}"


def _judge(payload: bytes, *, is_stored: bool) -> Judged:
    registry = Registry(1, {GATEWAY: Gateway(GATEWAY, "c01", "active", None, False, None)})
    message = Received(0, 1, 1, topics.up(GATEWAY, "telemetry"), payload, False, False, NOW)
    return Judge(registry, Limits()).judge(
        message, (lambda gateway, stream, seq: True) if is_stored else None
    )


@settings(deadline=None)
@given(
    st.one_of(
        numbered(),
        strategies.spoiled(st.just(USUAL % READING)),
        strategies.spoiled(strategies.payloads()),
        strategies.telemetry().map(lambda message: message.model_dump_json().encode()),
    )
)
@example(USUAL % READING + b" ")
@example(USUAL % READING + b"}")
@example((USUAL % READING)[:-1] + b',"seq":6}')
@example((USUAL % READING)[:-1] + b',"stream":"t","seq":"6"}')
@example(USUAL % READING + b" " * PAYLOAD_BYTES_MAX)
@example(USUAL[:-1] % READING)
def test_number_read_alone_is_the_number_of_the_message_parsed(payload: bytes) -> None:
    parsed = _judge(payload, is_stored=False)
    quick = _judge(payload, is_stored=True)
    if quick.is_stored:
        assert (quick.gateway, quick.stream, quick.seq) == (GATEWAY, parsed.stream, parsed.seq)
        assert not quick.readings
        assert not quick.letters
    else:
        assert quick == parsed


@settings(max_examples=20, deadline=None)
@given(strategies.telemetry(readings_max=2))
def test_messages_as_agents_write_them_need_no_parsing_again(message: Telemetry) -> None:
    payload = message.model_dump_json(exclude_none=True).encode()
    assert guess_number(payload) == (message.stream, message.seq)
    assert _judge(payload, is_stored=True).is_stored
