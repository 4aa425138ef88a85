# SPDX-License-Identifier: Apache-2.0
"""What is read quickly is what the contract reads; what every gateway says is read quickly."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.kinds import CHANGED
from edge_agent.messages import PAYLOAD_BYTES_MAX, Telemetry, encode
from ingest import batches
from tests import strategies
from tests.fuzz import targets

AT: Final = "2026-11-20T12:00:00Z"
LAMP: Final = f'{{"kind":"lamp","device":"c01-lamp-001","at":"{AT}","lit":true,"power_w":40}}'


def message(*readings: str, head: str = '"v":1,"stream":"s","seq":5', sent_at: str = AT) -> bytes:
    return f'{{{head},"sent_at":"{sent_at}","readings":[{",".join(readings)}]}}'.encode()


def lamp(field: str, at: str = AT) -> bytes:
    return message(f'{{"kind":"lamp","device":"c01-lamp-001","at":"{at}",{field}}}')


@given(strategies.telemetry())
def test_what_gateways_say_is_read_quickly(told: Telemetry) -> None:
    payload = encode(told)
    quick = batches.read(payload)
    assert quick is not None
    assert (quick.stream, quick.seq) == (told.stream, told.seq)
    for reading, said in zip(quick.readings, told.readings, strict=True):
        fields = type(said).model_fields
        assert {name: getattr(reading, name) for name in fields} == said.model_dump()
    targets.batch(payload)


def test_every_class_is_read_quickly() -> None:
    for kind in CHANGED:
        payload = message(f'{{"kind":"{kind}","device":"c01-{kind}-001","at":"{AT}"}}')
        quick = batches.read(payload)
        assert quick is not None
        assert [reading.kind for reading in quick.readings] == [kind]


@settings(deadline=None)
@given(
    st.one_of(
        strategies.spoiled(strategies.telemetry().map(encode)),
        strategies.spoiled(st.just(message(LAMP, LAMP))),
    )
)
# Names twice: the last one wins, of the class too.
@example(message(LAMP[:-1] + ',"lit":false}'))
@example(message(LAMP[:-1] + ',"kind":"bin"}'))
@example(message(LAMP[:-1] + ',"power_w":"40"}'))
@example(message(LAMP, head='"v":1,"stream":"s","seq":5,"seq":6'))
@example(message(LAMP, head='"v":1,"v":2,"stream":"s","seq":5'))
@example(message(LAMP)[:-1] + b',"readings":[{}]}')
def test_what_is_taken_is_what_the_contract_takes(payload: bytes) -> None:
    targets.batch(payload)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(message(LAMP, head='"stream":"s","seq":5'), id="no-version"),
        pytest.param(message(LAMP, head='"v":2,"stream":"s","seq":5'), id="other-version"),
        pytest.param(message(LAMP, head='"v":1,"stream":"S","seq":5'), id="no-id"),
        pytest.param(message(LAMP, head='"v":1,"stream":"s\\n","seq":5'), id="line-end"),
        pytest.param(message(LAMP, head='"v":1,"stream":"s","seq":0'), id="no-number"),
        pytest.param(message(LAMP, head='"v":1,"stream":"s","seq":5.0'), id="not-whole"),
        pytest.param(message(LAMP, sent_at="2026-11-20T20:00:00+08:00"), id="offset"),
        pytest.param(message(LAMP, sent_at="2026-11-20T12:00:00"), id="naive"),
        pytest.param(message(LAMP, sent_at="1970-11-20T12:00:00Z"), id="other-century"),
        pytest.param(lamp('"lit":true', at="2026-11-20T12:00:00.1234567Z"), id="too-fine"),
        pytest.param(lamp('"lit":true', at="2026-11-20T12:00:00"), id="naive-reading"),
        pytest.param(lamp('"lit":1'), id="no-truth"),
        pytest.param(lamp('"power_w":-1'), id="too-little"),
        pytest.param(lamp('"power_w":5001'), id="too-much"),
        pytest.param(lamp('"power_w":NaN'), id="no-figure"),
        pytest.param(lamp('"power_w":1e999'), id="no-end"),
        pytest.param(lamp('"power_w":true'), id="truth-for-a-number"),
        pytest.param(lamp('"fault":"Lamp"'), id="no-code"),
        pytest.param(lamp('"fault":"lamp\\n"'), id="code-with-line-end"),
        pytest.param(lamp('"colour":"red"'), id="field-of-tomorrow"),
        pytest.param(lamp('"fault":"l\\u0061mp"'), id="escape"),
        pytest.param(message(LAMP).replace(b"lamp-001", "lä".encode()), id="letter"),
        pytest.param(message(LAMP.replace("lamp", "meter")), id="class-of-tomorrow"),
        pytest.param(message(), id="nothing-in-it"),
        pytest.param(message(*[LAMP] * 1_001), id="too-many"),
        pytest.param(message(LAMP) + b" " * PAYLOAD_BYTES_MAX, id="too-large"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"null", id="null"),
    ],
)  # fmt: skip
def test_the_rest_is_left_to_the_contract(payload: bytes) -> None:
    assert batches.read(payload) is None


def test_numbers_without_a_point_are_numbers_all_the_same() -> None:
    quick = batches.read(lamp('"power_w":40,"level_pct":-0'))
    assert quick is not None
    told = [getattr(quick.readings[0], name) for name in ("power_w", "level_pct")]
    assert told == [40.0, 0.0]
    assert [type(value) for value in told] == [float, float]
