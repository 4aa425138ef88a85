# SPDX-License-Identifier: Apache-2.0
"""What is published after COMMIT: watermarks and refusals to gateways, live changes to the api."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from edge_agent import topics
from edge_agent.messages import Ack, Live, LiveDevice, LiveGateway, Rejection, encode
from ingest.consumer import Consumer
from ingest.store.streams import Mark, StreamKey

# Devices changing every second are told once a second; alerts and gateways at once.
LIVE_INTERVAL_S: Final = 1.0
# Some 200 bytes each: an ack never comes near the size that a gateway refuses.
REJECTIONS_MAX: Final = 400


@dataclass(slots=True)
class _Changes:
    devices: dict[str, LiveDevice] = field(default_factory=dict[str, LiveDevice])
    alerts: list[str] = field(default_factory=list[str])
    gateways: dict[str, LiveGateway] = field(default_factory=dict[str, LiveGateway])


class Downlink:
    """Publishes through one lane's connection."""

    def __init__(self, consumer: Consumer, epoch: str) -> None:
        """Take the connection, and the database's epoch."""
        self._consumer = consumer
        self._epoch = epoch
        self._changes: defaultdict[str, _Changes] = defaultdict(_Changes)
        self._told_at = 0.0

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
        self._changes[community].devices[device.device] = device

    def alert_changed(self, community: str, alert: UUID) -> None:
        """Keep an alert's change until the next `tell`, which must follow at once."""
        self._changes[community].alerts.append(str(alert))

    def gateway_changed(self, community: str, gateway: LiveGateway) -> None:
        """Keep a gateway's change until the next `tell`, which must follow at once."""
        self._changes[community].gateways[gateway.gateway] = gateway

    def tell(self) -> None:
        """Publish live changes: alerts and gateways at once, devices once a second."""
        due = time.monotonic() - self._told_at >= LIVE_INTERVAL_S
        for community, changes in list(self._changes.items()):
            if not (due or changes.alerts or changes.gateways):
                continue
            live = Live(
                at=datetime.now(UTC),
                devices=tuple(changes.devices.values()),
                alerts=tuple(changes.alerts),
                gateways=tuple(changes.gateways.values()),
            )
            self._consumer.publish(topics.live(community), encode(live), qos=0)
            del self._changes[community]
        if due:
            self._told_at = time.monotonic()
