# SPDX-License-Identifier: Apache-2.0
"""What is published after COMMIT: watermarks and refusals to gateways, live changes to the api."""

import time
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final
from uuid import UUID

from edge_agent import topics
from edge_agent.messages import (
    Ack,
    Live,
    LiveDevice,
    LiveDevices,
    LiveGateway,
    Rejection,
    encode,
)
from ingest.consumer import Consumer
from ingest.store.streams import Mark, StreamKey

# A watermark is cumulative, so one tells what ten would have: where a flush names more streams than
# this, each is told after so many messages or so long. An agent has more than that in flight.
ACKS_AT_ONCE: Final = 50
ACK_MESSAGES: Final = 10
ACK_DELAY_S: Final = 5.0
# Devices changing every second are told once a second; alerts and gateways at once.
LIVE_INTERVAL_S: Final = 1.0
# Of a city's communities so many a second, in turns: each message costs here, at the broker and at
# the api as much as several readings.
LIVE_MESSAGES_MAX: Final = 500
# Some 200 bytes each: an ack never comes near the size that a gateway refuses.
REJECTIONS_MAX: Final = 400


@dataclass(slots=True)
class _Changes:
    """What is told at once."""

    alerts: list[str] = field(default_factory=list[str])
    gateways: dict[str, LiveGateway] = field(default_factory=dict[str, LiveGateway])


@dataclass(slots=True)
class _Waiting:
    """A watermark that is not told yet."""

    mark: Mark
    due: float
    messages: int = 0


class Held:
    """Watermarks that wait to be told; time is monotonic, in seconds."""

    def __init__(self) -> None:
        """Start with none."""
        self._waiting: dict[StreamKey, _Waiting] = {}

    def take(
        self,
        watermarks: Mapping[StreamKey, Mark],
        counts: Mapping[StreamKey, int],
        refused: Container[str],
        now: float,
    ) -> dict[StreamKey, Mark]:
        """Hold back what a flush committed; return what is to be told at once.

        Args:
            watermarks: How far streams are committed.
            counts: How many messages of each stream the flush held.
            refused: Gateways of which something was refused: they are told at once.
            now: The present.
        """
        if len(watermarks) <= ACKS_AT_ONCE:
            due = dict(watermarks)
        else:
            due = {
                key: mark
                for key, mark in watermarks.items()
                if self._waits(key, mark, counts.get(key, 0), now) >= ACK_MESSAGES
                or mark.beyond
                or key[0] in refused
            }
        for key in due:
            self._waiting.pop(key, None)
        return due

    def overdue(self, now: float) -> dict[StreamKey, Mark]:
        """Return what waited long enough, and hold it back no more."""
        due: dict[StreamKey, Mark] = {}
        for key, waiting in self._waiting.items():  # in the order in which they began to wait
            if waiting.due > now:
                break
            due[key] = waiting.mark
        for key in due:
            del self._waiting[key]
        return due

    def _waits(self, key: StreamKey, mark: Mark, messages: int, now: float) -> int:
        waiting = self._waiting.setdefault(key, _Waiting(mark, now + ACK_DELAY_S))
        waiting.mark = mark
        waiting.messages += messages
        return waiting.messages


class Downlink:
    """Publishes through one lane's connection."""

    def __init__(self, consumer: Consumer) -> None:
        """Take the connection; `follow` says which database is behind it."""
        self._consumer = consumer
        self._epoch = ""
        self._changes: defaultdict[str, _Changes] = defaultdict(_Changes)
        # By community, in the order in which they began to wait.
        self._devices: defaultdict[str, dict[str, LiveDevice]] = defaultdict(dict)
        self._told_at = 0.0
        self._held = Held()

    def follow(self, epoch: str) -> None:
        """Speak for a database from now on, which after a failover lacks its last commits.

        What waits to be told of the one before is forgotten: gateways would delete what may not be
        stored any more.
        """
        if epoch != self._epoch:
            self._epoch = epoch
            self._held = Held()

    def acknowledge_later(
        self,
        watermarks: Mapping[StreamKey, Mark],
        rejections: Mapping[str, Iterable[Rejection]],
        counts: Mapping[StreamKey, int],
    ) -> None:
        """Tell watermarks: at once where they are few, else each after some messages or seconds.

        What is odd (refusals, holes) is told at once. ``counts`` are the flush's messages by
        stream.
        """
        due = self._held.take(watermarks, counts, rejections, time.monotonic())
        if due or rejections:
            self.acknowledge(due, rejections)

    def acknowledge(
        self,
        watermarks: Mapping[StreamKey, Mark],
        rejections: Mapping[str, Iterable[Rejection]],
    ) -> None:
        """Tell each gateway how far its streams are committed, and what was refused."""
        streams: defaultdict[str, dict[str, int]] = defaultdict(dict)
        beyond: defaultdict[str, dict[str, tuple[tuple[int, int], ...]]] = defaultdict(dict)
        for (gateway, stream), mark in watermarks.items():
            streams[gateway][stream] = mark.upto
            if mark.beyond:
                beyond[gateway][stream] = mark.beyond
        for gateway in {*streams, *rejections}:
            rejected = tuple(rejections.get(gateway, ()))
            for first in range(0, max(1, len(rejected)), REJECTIONS_MAX):
                ack = Ack(
                    epoch=self._epoch,
                    streams=streams.get(gateway, {}),
                    beyond=beyond.get(gateway),
                    rejected=rejected[first : first + REJECTIONS_MAX],
                )
                self._consumer.publish(topics.down(gateway, "ack"), encode(ack), qos=topics.QOS)

    def device_changed(self, community: str, device: LiveDevice) -> None:
        """Keep a device's latest change until the next second tells it."""
        self._devices[community][device.device] = device

    def alert_changed(self, community: str, alert: UUID) -> None:
        """Keep an alert's change until the next `tell`, which must follow at once."""
        self._changes[community].alerts.append(str(alert))

    def gateway_changed(self, community: str, gateway: LiveGateway) -> None:
        """Keep a gateway's change until the next `tell`, which must follow at once."""
        self._changes[community].gateways[gateway.gateway] = gateway

    def tell(self) -> None:
        """Publish what is due: alerts and gateways at once, devices once a second, watermarks."""
        overdue = self._held.overdue(time.monotonic())
        if overdue:
            self.acknowledge(overdue, {})
        for community, changes in self._changes.items():
            live = Live(
                at=datetime.now(UTC),
                alerts=tuple(changes.alerts),
                gateways=tuple(changes.gateways.values()),
            )
            self._consumer.publish(topics.live(community), encode(live), qos=0)
        self._changes.clear()
        if time.monotonic() - self._told_at >= LIVE_INTERVAL_S:
            self._tell_devices()
            self._told_at = time.monotonic()

    def _tell_devices(self) -> None:
        for community in list(islice(self._devices, LIVE_MESSAGES_MAX)):
            devices = tuple(self._devices.pop(community).values())
            live = LiveDevices(at=datetime.now(UTC), devices=devices)
            self._consumer.publish(topics.live_devices(community), encode(live), qos=0)
