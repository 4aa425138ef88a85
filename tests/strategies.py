# SPDX-License-Identifier: Apache-2.0
"""Messages to generate: all that the contract allows, and payloads that are nearly such.

Each function returns the strategy of one model; optional fields are sometimes left out.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from typing import Any, TypeVar, cast, get_args

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from edge_agent.kinds import Event, Reading
from edge_agent.kinds.alarm import AlarmEvent, AlarmReading, AlarmType, Phase
from edge_agent.kinds.base import CODE_PATTERN, GATEWAY_PATTERN, ID_PATTERN, YEAR_MAX, YEAR_MIN
from edge_agent.kinds.bin import BinReading, DepositEvent, RefuseStream
from edge_agent.kinds.gate import Door, GateAction, GateEvent, GateReading
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import (
    SEQ_MAX,
    Ack,
    Aggregate,
    AreaDay,
    AreaPlace,
    AreaRecord,
    AreaTally,
    ClockQuality,
    Command,
    Config,
    EventMessage,
    GapEvent,
    Lane,
    Level,
    Live,
    LiveDevice,
    LiveDevices,
    LiveGateway,
    Rejection,
    Residents,
    Result,
    Status,
    StreamStatus,
    Telemetry,
    encode,
)

_T = TypeVar("_T")


def maybe(strategy: SearchStrategy[_T]) -> SearchStrategy[_T | None]:
    """What may be left out: None is not written to the wire."""
    return st.none() | strategy


def numbers(low: float, high: float) -> SearchStrategy[float]:
    return st.floats(low, high)


ids = st.from_regex(ID_PATTERN.replace("$", r"\Z"))
gateway_ids = st.from_regex(GATEWAY_PATTERN.replace("$", r"\Z"))
codes = st.from_regex(CODE_PATTERN.replace("$", r"\Z"))
pseudonyms = st.from_regex(r"^p1-[a-z2-7]{26}\Z")
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
flags = maybe(st.booleans())
percents = maybe(numbers(0, 100))
seqs = st.integers(1, SEQ_MAX)
counts = st.integers(0, SEQ_MAX)
lanes: SearchStrategy[Lane] = st.sampled_from(get_args(Lane))
# A day within the limits, so that a test may write an instant in any other zone as well.
instants = st.datetimes(
    datetime(YEAR_MIN + 1, 1, 2),  # noqa: DTZ001 - hypothesis wants its limits without a zone
    datetime(YEAR_MAX - 1, 12, 30),  # noqa: DTZ001 - as above
    timezones=st.just(UTC),
)


def lamp_readings() -> SearchStrategy[LampReading]:
    return st.builds(
        LampReading,
        device=ids,
        at=instants,
        fault=maybe(codes),
        lit=flags,
        level_pct=percents,
        power_w=maybe(numbers(0, 5_000)),
        voltage_v=maybe(numbers(0, 1_000)),
        current_a=maybe(numbers(0, 100)),
        energy_kwh=maybe(numbers(0, 1e7)),
        burn_hours=maybe(numbers(0, 1e6)),
        lux=maybe(numbers(0, 200_000)),
        battery_pct=percents,
        solar_w=maybe(numbers(0, 5_000)),
    )


def bin_readings() -> SearchStrategy[BinReading]:
    return st.builds(
        BinReading,
        device=ids,
        at=instants,
        fault=maybe(codes),
        fill_pct=percents,
        weight_kg=maybe(numbers(0, 5_000)),
        temperature_c=maybe(numbers(-60, 600)),
        lid_open=flags,
        tilt=flags,
        stream=maybe(st.sampled_from(get_args(RefuseStream))),
    )


def gate_readings() -> SearchStrategy[GateReading]:
    return st.builds(
        GateReading,
        device=ids,
        at=instants,
        fault=maybe(codes),
        door=maybe(st.sampled_from(get_args(Door))),
        lock=maybe(st.sampled_from(("locked", "unlocked"))),
    )


def alarm_readings() -> SearchStrategy[AlarmReading]:
    return st.builds(
        AlarmReading,
        device=ids,
        at=instants,
        fault=maybe(codes),
        armed=flags,
        battery_pct=percents,
    )


def readings() -> SearchStrategy[Reading]:
    return st.one_of(lamp_readings(), bin_readings(), gate_readings(), alarm_readings())


def deposits() -> SearchStrategy[DepositEvent]:
    return st.builds(
        DepositEvent,
        device=ids,
        at=instants,
        weight_kg=numbers(0, 1_000),
        sorted_ok=flags,
        stream=maybe(st.sampled_from(get_args(RefuseStream))),
    )


def gate_events() -> SearchStrategy[GateEvent]:
    return st.builds(
        GateEvent,
        device=ids,
        at=instants,
        event=st.sampled_from(get_args(GateAction)),
        direction=maybe(st.sampled_from(("in", "out"))),
        credential=maybe(pseudonyms),
    )


def alarm_events() -> SearchStrategy[AlarmEvent]:
    return st.builds(
        AlarmEvent,
        device=ids,
        at=instants,
        event=st.sampled_from(get_args(AlarmType)),
        phase=st.sampled_from(get_args(Phase)),
        occurrence=ids,
        zone=maybe(ids),
    )


@st.composite
def gaps(draw: st.DrawFn) -> GapEvent:
    first = draw(seqs)
    last = draw(st.integers(first, SEQ_MAX))
    return GapEvent(
        lane=draw(lanes),
        stream=draw(ids),
        first=first,
        last=last,
        count=draw(st.integers(1, last - first + 1)),
        at=draw(instants),
    )


def events() -> SearchStrategy[Event | GapEvent]:
    return st.one_of(deposits(), gate_events(), alarm_events(), gaps())


def telemetry(*, readings_max: int = 8) -> SearchStrategy[Telemetry]:
    return st.builds(
        Telemetry,
        stream=ids,
        seq=seqs,
        sent_at=instants,
        readings=st.lists(readings(), min_size=1, max_size=readings_max).map(tuple),
    )


def event_messages() -> SearchStrategy[EventMessage]:
    return st.builds(EventMessage, stream=ids, seq=seqs, sent_at=instants, event=events())


def statuses() -> SearchStrategy[Status]:
    stream = st.builds(StreamStatus, lane=lanes, stream=ids, oldest=seqs, next=seqs)
    return st.builds(
        Status,
        state=st.sampled_from(("online", "offline")),
        at=maybe(instants),
        agent_version=maybe(texts),
        streams=st.lists(stream, max_size=4).map(tuple),
        outbox_messages=maybe(counts),
        outbox_bytes=maybe(counts),
        clock=st.sampled_from(get_args(ClockQuality)),
        status_interval_s=maybe(numbers(0.001, 3_600)),
    )


def acks() -> SearchStrategy[Ack]:
    rejection = st.builds(
        Rejection,
        stream=maybe(ids),
        seq=maybe(seqs),
        index=maybe(st.integers(0, 999)),
        sha256=maybe(st.from_regex(r"^[0-9a-f]{64}\Z")),
        reason=texts,
    )
    return st.builds(
        Ack,
        epoch=texts,
        streams=st.dictionaries(ids, counts, max_size=4),
        rejected=st.lists(rejection, max_size=4).map(tuple),
    )


def commands() -> SearchStrategy[Command]:
    value = st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts
    return st.builds(
        Command,
        command=ids,
        device=ids,
        action=codes,
        parameters=st.dictionaries(codes, value, max_size=4),
        issued_at=instants,
        expires_at=instants,
    )


def results() -> SearchStrategy[Result]:
    return st.builds(
        Result,
        command=ids,
        step=st.sampled_from(("accepted", "applied", "refused", "expired", "failed")),
        at=instants,
        reason=maybe(texts),
    )


def configs() -> SearchStrategy[Config]:
    return st.builds(
        Config,
        version=seqs,
        heartbeat_s=maybe(numbers(1, 86_400)),
        status_interval_s=maybe(numbers(1, 3_600)),
    )


def _live_devices() -> SearchStrategy[LiveDevice]:
    value = st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts
    return st.builds(
        LiveDevice,
        device=ids,
        kind=ids,
        state=st.sampled_from(("normal", "fault", "offline", "unknown", "maintenance")),
        at=instants,
        received_at=instants,
        values=st.dictionaries(texts, value, max_size=4),
    )


def live_devices() -> SearchStrategy[LiveDevices]:
    return st.builds(
        LiveDevices, at=instants, devices=st.lists(_live_devices(), max_size=4).map(tuple)
    )


def lives() -> SearchStrategy[Live]:
    gateway = st.builds(
        LiveGateway, gateway=gateway_ids, silent=st.booleans(), last_seen_at=maybe(instants)
    )
    return st.builds(
        Live,
        at=instants,
        devices=st.lists(_live_devices(), max_size=4).map(tuple),
        alerts=st.lists(texts, max_size=4).map(tuple),
        gateways=st.lists(gateway, max_size=4).map(tuple),
    )


# JSON as it might come from anywhere, the numbers that JSON does not have included.
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield every place in a JSON document: what holds it, and its key or index there."""
    items: Iterable[tuple[Any, object]] = ()
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
    elif isinstance(value, list):
        items = enumerate(cast("list[object]", value))
    for key, inner in items:
        yield value, key
        yield from _places(inner)


@st.composite
def spoiled(draw: st.DrawFn, payloads: SearchStrategy[bytes]) -> bytes:
    """A payload of which some bytes, or one value, were replaced or taken away."""
    payload = draw(payloads)
    if draw(st.booleans()):
        start = draw(st.integers(0, len(payload)))
        end = draw(st.integers(start, min(start + 8, len(payload))))
        return payload[:start] + draw(st.binary(max_size=8)) + payload[end:]
    document = json.loads(payload)
    holder, key = draw(st.sampled_from(list(_places(document))))
    if draw(st.booleans()):
        holder[key] = draw(json_values)
    else:
        del holder[key]
    return json.dumps(document).encode()


versions = st.integers(1, SEQ_MAX)
days = st.dates(date(1990, 1, 1), date(2099, 12, 31))
zones = st.sampled_from(("Asia/Shanghai", "UTC", "America/Argentina/Ushuaia"))


@st.composite
def tallies(draw: st.DrawFn) -> AreaTally:
    good, bad, unknown = (draw(st.integers(0, 2**51)) for _ in range(3))
    return AreaTally(
        indicator=draw(ids),
        kind=draw(maybe(ids)),
        good=good,
        bad=bad,
        total=good + bad + unknown,
        subjects=draw(st.integers(0, 2**31 - 1)),
        excluded=draw(maybe(st.dictionaries(codes, st.integers(0, SEQ_MAX), max_size=2))),
        revision=draw(st.integers(1, 2**31 - 1)),
        rule_version=draw(st.integers(1, 9)),
    )


def area_days() -> SearchStrategy[AreaDay]:
    return st.builds(
        AreaDay,
        area=ids,
        day=days,
        version=versions,
        computed_at=instants,
        tallies=st.lists(tallies(), max_size=3).map(tuple),
    )


def area_records() -> SearchStrategy[AreaRecord]:
    return st.builds(
        AreaRecord,
        area=ids,
        parent=maybe(ids),
        level=st.sampled_from(get_args(Level)),
        name=texts,
        name_en=maybe(texts),
        version=versions,
        places=st.lists(
            st.builds(
                AreaPlace,
                since=maybe(instants),
                path=st.lists(ids, min_size=1, max_size=4).map(tuple),
                time_zone=zones,
            ),
            min_size=1,
            max_size=2,
        ).map(tuple),
        population=st.lists(
            st.builds(
                Residents,
                first=days,
                end=maybe(days),
                residents=st.integers(1, 2**31 - 1),
                households=maybe(st.integers(0, 2**31 - 1)),
            ),
            max_size=2,
        ).map(tuple),
    )


def aggregates() -> SearchStrategy[Aggregate]:
    """What a city tells: areas, or days."""
    parts: tuple[SearchStrategy[dict[str, Any]], ...] = (
        st.lists(area_days(), min_size=1, max_size=3).map(lambda some: {"days": tuple(some)}),
        st.lists(area_records(), min_size=1, max_size=3).map(lambda some: {"areas": tuple(some)}),
    )
    return st.tuples(ids, seqs, instants, st.one_of(parts)).map(
        lambda one: Aggregate(stream=one[0], seq=one[1], sent_at=one[2], **one[3])
    )


def payloads() -> SearchStrategy[bytes]:
    """Any message, encoded."""
    return st.one_of(
        telemetry(),
        event_messages(),
        statuses(),
        acks(),
        commands(),
        results(),
        configs(),
        lives(),
        aggregates(),
    ).map(encode)
