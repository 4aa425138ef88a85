# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: each target takes any bytes, and raises only when something is wrong with us.

Hypothesis and the coverage-guided fuzzer share them. What a target allows is what its callers
handle: a `PayloadError` with a known code, a list of problems, a judgement. Anything else, text
that no database column can hold and thinking for too long are defects.
"""

from __future__ import annotations

import gc
import os
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import api.config
import api.errors
import edge_agent.config
import edge_agent.errors
import ingest.config
import ingest.errors
from edge_agent import topics
from edge_agent.kinds.base import ID_PATTERN, UNSTORABLE, YEAR_MAX, YEAR_MIN, Wire
from edge_agent.messages import (
    REASONS,
    PayloadError,
    encode,
    parse_ack,
    parse_command,
    parse_config,
    parse_event,
    parse_live,
    parse_live_devices,
    parse_result,
    parse_status,
    parse_telemetry,
)
from edge_agent.topics import UP_CHANNELS, TopicError, parse_up
from ingest import batches, registry_csv
from ingest.indicators.lighting import Place, parse_programme
from ingest.judge import Judge, Limits, Received
from ingest.store.devices import Device, Gateway, Registry

Target = Callable[[bytes], None]

# Processor time. Nothing takes 0.1 s on a machine of its own; the rest is for shared cores, where
# the same work takes longer.
THINKING_MAX_S: Final = 10.0
GATEWAY: Final = "gw-c01-a"
DEVICES: Final = {
    "c01-lamp-001": ("lamp", GATEWAY, "in_service"),
    "c01-bin-001": ("bin", GATEWAY, "in_service"),
    "c01-gate-001": ("gate", GATEWAY, "in_service"),
    "c01-alarm-001": ("alarm", GATEWAY, "in_service"),
    "c01-lamp-002": ("lamp", GATEWAY, "retired"),
    "c01-lamp-101": ("lamp", "gw-c01-b", "in_service"),
}


@contextmanager
def thinking(again: Callable[[], object]) -> Generator[None]:
    """Fail if what is within takes too long, and ``again`` does: once may be a collection's."""
    started = time.thread_time()
    try:
        yield
    finally:
        if time.thread_time() - started > THINKING_MAX_S:
            thought_s = min(_thought_s(again) for _ in range(3))
            assert thought_s <= THINKING_MAX_S, f"takes {thought_s:.3f} s"


def _thought_s(call: Callable[[], object]) -> float:
    gc.collect()
    started = time.thread_time()
    with suppress(PayloadError):
        call()
    return time.thread_time() - started


def _storable(*texts: str | None) -> None:
    for text in texts:
        assert text is None or not UNSTORABLE.search(text), f"no column can hold {text!r}"


def topic(data: bytes) -> None:
    """`parse_up`: the very topics of the contract pass, no other."""
    text = data.decode(errors="surrogateescape")
    try:
        parsed = parse_up(text)
    except TopicError as error:
        assert error.reason in REASONS
        _storable(str(error))
    else:
        assert topics.up(parsed.gateway, parsed.channel) == text


def _refused(error: PayloadError) -> None:
    assert error.reason in REASONS, error
    assert (error.stream is None) == (error.seq is None)
    assert len(str(error)) < 500
    _storable(str(error), error.stream)


def telemetry(data: bytes) -> None:
    """`parse_telemetry`: every reading is either good or set apart with a code."""
    try:
        with thinking(lambda: parse_telemetry(data)):
            batch = parse_telemetry(data)
    except PayloadError as error:
        _refused(error)
        return
    indices = [index for index, _ in batch.readings] + [item.index for item in batch.rejected]
    assert sorted(indices) == list(range(len(indices)))
    for item in batch.rejected:
        assert item.reason in REASONS
        assert len(item.detail) < 500
        _storable(item.detail)
    for _, reading in batch.readings:
        _storable(reading.device, reading.fault)
        assert reading.at.tzinfo is UTC


def batch(data: bytes) -> None:
    """`batches.read`: what it takes, the contract takes too, and for the same.

    But for ids of devices that nobody can register, and instants without UTC or of another century:
    those the judge gives to the contract.
    """
    quick = batches.read(data)
    if quick is None:
        return
    whole = parse_telemetry(data)
    assert (quick.stream, quick.seq) == (whole.stream, whole.seq)
    good = dict(whole.readings)
    for index, reading in enumerate(quick.readings):
        is_id = re.fullmatch(ID_PATTERN, reading.device) is not None
        is_instant = reading.at.tzinfo is UTC and YEAR_MIN < reading.at.year < YEAR_MAX
        assert (index in good) is (is_id and is_instant) or reading.at.tzinfo is not UTC
        if index in good:
            fields = type(good[index]).model_fields
            told = {name: getattr(reading, name) for name in fields}
            assert told == {name: getattr(good[index], name) for name in fields}
            assert [type(value) for value in told.values()] == [
                type(getattr(good[index], name)) for name in fields
            ]


def _parser(parse: Callable[[bytes], Wire]) -> Target:
    def target(data: bytes) -> None:
        try:
            with thinking(lambda: parse(data)):
                message = parse(data)
        except PayloadError as error:
            _refused(error)
        else:
            assert parse(encode(message)) == message

    return target


def _registry() -> Registry:
    place = Place(30.6, 104.0, "Asia/Shanghai")
    gateways = {name: Gateway(name, "c01", "active", None, False, None) for name in (GATEWAY,)}
    gateways["gw-c01-b"] = Gateway("gw-c01-b", "c01", "revoked", None, False, None)
    devices = {
        name: Device(
            number,
            name,
            kind,
            gateway,
            "c01",
            "c01",
            life,
            timedelta(minutes=30),
            60.0 if kind == "lamp" else None,
            parse_programme("always"),
            place,
            0,
        )
        for number, (name, (kind, gateway, life)) in enumerate(DEVICES.items(), start=1)
    }
    return Registry(1, gateways, devices)


_UP: Final = topics.up(GATEWAY, "event").removesuffix("event")
_JUDGE: Final = Judge(_registry(), Limits())


def judge(data: bytes) -> None:
    """`Judge.judge`: a refusal is a result, never an exception; and nothing goes unaccounted.

    The first byte chooses the topic: one of the contract, or what stands up to the first line end.
    """
    choice = data[0] % (len(UP_CHANNELS) + 2) if data else 0
    if choice < len(UP_CHANNELS):
        topic_, payload = f"{_UP}{UP_CHANNELS[choice]}", data[1:]
    elif choice == len(UP_CHANNELS):
        topic_, payload = topics.up("gw-c01-b", "telemetry"), data[1:]
    else:
        head, _, payload = data[1:].partition(b"\n")
        topic_ = head.decode(errors="replace")
    received = Received(0, 1, 1, topic_, payload, False, False, datetime.now(UTC))
    with thinking(lambda: _JUDGE.judge(received)):
        judged = _JUDGE.judge(received)
    assert len(judged.letters) == len(judged.rejections) == len(judged.blamed)
    for letter, rejection in zip(judged.letters, judged.rejections, strict=True):
        assert letter.reason == rejection.reason
        assert letter.reason in REASONS
        _storable(letter.gateway, letter.topic, letter.detail, letter.stream)
    if judged.letters:
        assert judged.letters[0].raw == payload
        assert all(letter.raw is None for letter in judged.letters[1:])
    told = judged.readings or judged.event or judged.status or judged.letters
    assert told, "neither stored nor refused"


# In memory, without a name: nothing is left behind, however the process ends.
_DESCRIPTOR: Final = os.memfd_create("linli-fuzz")
_FILE: Final = Path(f"/proc/self/fd/{_DESCRIPTOR}")


def _file(data: bytes) -> Path:
    os.ftruncate(_DESCRIPTOR, 0)
    os.pwrite(_DESCRIPTOR, data, 0)
    return _FILE


def _environment(data: bytes) -> dict[str, str]:
    """A variable, where the last line looks like one."""
    last = data.rpartition(b"\n")[2].decode(errors="replace").replace("\0", "")
    name, equals, value = last.partition("=")
    return {name: value} if equals and name.startswith("LINLI_") else {}


def agent_config(data: bytes) -> None:
    """The agent's configuration: loaded, or every mistake named."""
    try:
        config = edge_agent.config.load(_file(data), _environment(data))
    except edge_agent.errors.ConfigError as error:
        assert error.problems
        assert all(error.problems)
    else:
        assert edge_agent.config.render(config)


def server_config(data: bytes) -> None:
    """The server's configuration as ingest reads it: loaded, or every mistake named."""
    try:
        ingest.config.load(_file(data), _environment(data))
    except ingest.errors.ConfigError as error:
        assert error.problems
        assert all(problem.startswith((str(_FILE), "LINLI_")) for problem in error.problems)


def api_config(data: bytes) -> None:
    """The server's configuration as the api reads it: loaded, or every mistake named."""
    with suppress(api.errors.ConfigError):
        api.config.load(_file(data), _environment(data))


def registry(data: bytes) -> None:
    """A registry file: every row is taken, or named as wrong."""
    problems = registry_csv.Problems()
    files = registry_csv.read([_file(data)], problems)
    if not files.whole:
        assert problems.all()
    for table in registry_csv.TABLES:
        for row in files.rows[table.name].values():
            for column in table.columns:
                value = row.values.get(column.name)
                if isinstance(value, str):
                    _storable(value)
                if column.sql_type == "int4" and isinstance(value, int):
                    assert -(2**31) <= value < 2**31, (column.name, value)


TARGETS: Final[Mapping[str, Target]] = {
    "topic": topic,
    "telemetry": telemetry,
    "batch": batch,
    "event": _parser(parse_event),
    "status": _parser(parse_status),
    "result": _parser(parse_result),
    "ack": _parser(parse_ack),
    "command": _parser(parse_command),
    "config": _parser(parse_config),
    "live": _parser(parse_live),
    "devices": _parser(parse_live_devices),
    "judge": judge,
    "agent_config": agent_config,
    "server_config": server_config,
    "api_config": api_config,
    "registry": registry,
}
