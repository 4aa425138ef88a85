# SPDX-License-Identifier: Apache-2.0
"""The load generator: what it says is the contract, and it can say the same thing again."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from itertools import pairwise
from typing import Literal

import pytest

from edge_agent.config import SamplingConfig
from edge_agent.messages import Batch, parse_event, parse_status, parse_telemetry
from edge_agent.topics import up
from simulators import load
from simulators.load import Load
from simulators.messages import (
    Clock,
    Readings,
    Speaker,
    alarm,
    community_of,
    equipment,
    gateway_of,
    status,
)
from simulators.mqtt import Connection, packets, publish, topic_field
from simulators.orders import Order, Plan, Tally
from tests.services import Broker, until

DEVICES = 40
AT = "2026-03-01T10:00:00.250000Z"
TOPIC = "linli/v1/00/gw-c0001/up/telemetry"
SPEAKER = Speaker.of("c0001", topic_field(TOPIC), "t-1")


def payload_of(packet: bytes, topic: str = TOPIC) -> bytes:
    ((kind, start, end),) = packets(packet)
    assert kind & 0xF6 == 0x32  # QoS 1
    field = topic_field(topic)
    assert packet[start : start + len(field)] == field
    assert packet[start + len(field) + 2] == 0  # no properties
    assert end == len(packet)
    return packet[start + len(field) + 3 : end]


def said(readings: Readings, cursor: int, count: int, *, full_bin: bool = False) -> Batch:
    one = readings.slice(cursor, count, full_bin=full_bin)
    assert one.count == count
    return parse_telemetry(payload_of(one.packet(SPEAKER, 7, 11, AT.encode())))


def test_every_reading_keeps_the_contract_and_every_device_is_heard() -> None:
    readings = Readings(DEVICES)
    heard: Counter[str] = Counter()
    for cursor in range(0, 3 * DEVICES, 12):
        batch = said(readings, cursor, 12)
        assert (batch.stream, batch.seq, batch.rejected) == ("t-1", 11, ())
        assert all(one.at.isoformat() == "2026-03-01T10:00:00.250000+00:00"
                   for _, one in batch.readings)  # fmt: skip
        heard.update(reading.device for _, reading in batch.readings)
    assert set(heard.values()) == {3}
    assert len(heard) == DEVICES
    assert all(device.startswith("c0001-") for device in heard)


@pytest.mark.parametrize("count", [1, 2, 13, 40])
def test_a_slice_serves_one_gateway_after_the_other(count: int) -> None:
    one = Readings(DEVICES).slice(5, count, full_bin=False)
    clock = Clock()
    for number in (1, 9_999):
        speaker = Speaker.of(community_of(number), SPEAKER.topic, f"t-{number}")
        for at_us in (1_772_359_200_000_000, 1_772_359_201_000_001):
            at = clock.text(at_us)
            batch = parse_telemetry(payload_of(one.packet(speaker, 65_535, 2**40, at)))
            assert (batch.stream, batch.seq) == (f"t-{number}", 2**40)
            assert {reading.device[:5] for _, reading in batch.readings} == {community_of(number)}
            assert {int(reading.at.timestamp() * 1e6) for _, reading in batch.readings} == {at_us}


def test_one_reading_of_ten_says_something_else() -> None:
    readings = Readings(DEVICES)
    turns = [
        {
            one.device: one.model_dump(exclude={"at"})
            for _, one in said(readings, turn * DEVICES, DEVICES).readings
        }
        for turn in range(41)
    ]
    changed = sum(
        before[device] != after[device] for before, after in pairwise(turns) for device in before
    )
    assert changed == 40 * DEVICES // 10


def test_a_bin_fills_up_on_its_second_reading_and_stays_full() -> None:
    readings = Readings(DEVICES)
    full = [
        [
            one.device
            for _, one in said(readings, turn * DEVICES, DEVICES, full_bin=True).readings
            if one.kind == "bin" and (one.fill_pct or 0) >= 90
        ]
        for turn in range(120)
    ]
    assert full[0] == []
    assert len(full[1]) == 1
    assert all(one == full[1] for one in full[1:])


def test_alarms_and_statuses_keep_the_contract() -> None:
    topic = TOPIC.replace("telemetry", "event")
    packet = publish(topic_field(topic), 3, alarm(b"e-1", 4, "c0001-alarm-0001", AT.encode(), "o"))
    assert parse_event(payload_of(packet, topic)).event.kind == "alarm"
    topic = TOPIC.replace("telemetry", "status")
    told = status(AT.encode(), (b"t-1", 5, 9), (b"e-1", 3, 3), 10.0)
    packet = publish(topic_field(topic), 3, told, retain=True)
    assert packet[0] & 1
    heard = parse_status(payload_of(bytes((packet[0] & ~1,)) + packet[1:], topic))
    assert heard.state == "online"
    assert [(one.lane, one.stream, one.oldest, one.next) for one in heard.streams] == [
        ("telemetry", "t-1", 5, 9), ("event", "e-1", 3, 3),
    ]  # fmt: skip
    assert (heard.outbox_messages, heard.status_interval_s) == (4, 10.0)


def test_gateways_tell_their_status_as_often_as_an_agent() -> None:
    plan = Plan("127.0.0.1", 1, "", "", "", 1, DEVICES, "t")
    assert plan.status_s == SamplingConfig().status_interval_s


def test_equipment_is_the_same_everywhere_and_complete() -> None:
    kinds = equipment(400)
    assert Counter(kinds) == {"lamp": 273, "bin": 55, "gate": 27, "alarm": 45}
    assert kinds == equipment(400)
    assert community_of(7) == "c0007"


def test_instants_are_written_in_full() -> None:
    clock = Clock()
    assert clock.text(1_772_359_200_250_000) == AT.encode()
    assert clock.text(1_772_359_201_000_001) == b"2026-03-01T10:00:01.000001Z"


@pytest.mark.parametrize("cut", range(1, 140))
def test_packets_are_found_however_they_are_cut(cut: int) -> None:
    first, second = b"\x40\x02\x00\x07", b"\x32\x80\x01" + bytes(128)
    data = first + second
    whole = list(packets(data))
    assert whole == [(0x40, 2, 4), (0x32, 7, 135)]
    early = list(packets(data[:cut]))
    done = early[-1][2] if early else 0
    rest = data[done:]
    again = [(kind, start + done, end + done) for kind, start, end in packets(rest)]
    assert early + again == whole


class Noted(Load):
    """A load that writes down what it tells, in the pieces between which it hears."""

    def __init__(self, plan: Plan) -> None:
        # Gateway, packet id, and the message without that.
        self.pieces: list[list[tuple[str, bytes, bytes]]] = [[]]
        super().__init__(plan)

    def _put(self, connection: Connection, data: bytes) -> None:
        ((_, start, _),) = packets(data)
        topic = topic_field(up(connection.identity, "telemetry"))
        if data.startswith(topic, start):
            end = start + len(topic)
            message = data[:end] + data[end + 2 :]
            self.pieces[-1].append((connection.identity, data[end : end + 2], message))
        super()._put(connection, data)

    def _hear(self, timeout: float) -> bool:
        self.pieces.append([])
        return super()._hear(timeout)

    def times(self) -> Counter[tuple[str, bytes]]:
        """How often each message of a gateway went out."""
        return Counter((gateway, message) for part in self.pieces for gateway, _, message in part)

    @property
    def tally(self) -> Tally:
        return self._tally

    def close(self) -> None:
        for one in self._gateways:
            one.connection.socket.close()


GATEWAYS = [gateway_of(number) for number in (1, 2, 3)]


@pytest.fixture
def plan(own_broker: Broker) -> Plan:
    """Three communities at a broker where nobody else is."""
    for gateway in GATEWAYS:
        own_broker.identity(gateway)
    return Plan(
        own_broker.host, own_broker.port, str(own_broker.ca), str(own_broker.services),
        listener="", communities=len(GATEWAYS), devices=DEVICES, name="t", status_s=0,
    )  # fmt: skip


@pytest.mark.parametrize("pace", ["clock", "flow"])
def test_what_nobody_stores_is_sent_again_in_pieces(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, pace: Literal["clock", "flow"]
) -> None:
    """The same bytes under another packet id; between two pieces it hears, and says what is due."""
    monkeypatch.setattr(load, "_STALL_S", 0.2)
    monkeypatch.setattr(load, "_PIECE", piece := 5)
    # By the clock each has 20 messages a second to send: its window of eight is soon full.
    order = Order("stall", pace, seconds=1.5, window=8, limit=24, speed=150, batch=10, drain_s=0)
    with closing(Noted(plan)) as noted:
        result = noted.run(order)
        assert (result["messages"], result["stored"], result["drained"]) == (24, 0, False)
        until(lambda: noted.drain(0.1) or min(noted.times().values()) > 1, "all is sent again")
        tally, times = noted.tally, noted.times()
    assert len(times) == 24, "the same bytes"
    assert Counter(gateway for gateway, _ in times) == dict.fromkeys(GATEWAYS, 8)
    assert (tally.resent, tally.refused) == (times.total() - 24, 0)
    ids = Counter((gateway, mid) for part in noted.pieces for gateway, mid, _ in part)
    assert set(ids.values()) == {1}, "another packet id"
    known: set[bytes] = set()
    again: list[int] = []
    for part in noted.pieces:
        again.append(sum(message in known for _, _, message in part))
        known.update(message for _, _, message in part)
    assert max(again) == piece
    assert sum(count > 0 for count in again) >= 24 / piece


class Late(Noted):
    """A load that comes to itself again when all is over."""

    def _hear(self, timeout: float) -> bool:
        until(lambda: time.monotonic() > self._begin + self._order.seconds, "the end")
        return super()._hear(timeout)


def test_alarms_that_were_due_are_raised_however_late_the_load_is(plan: Plan) -> None:
    with closing(Late(plan)) as late:
        result = late.run(Order("late", seconds=0.3, events_per_s=10, drain_s=0))
    assert len(result["events"]) == 3
    assert not result["drained"], "nobody stores them"
