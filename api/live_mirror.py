# SPDX-License-Identifier: Apache-2.0
"""The mirror of the watched communities: what was told last of their devices and gateways.

The live topic changes it at once, the tables bring it up to what was missed.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from api.answers import Scalar
from api.devices import values_of
from api.live_channels import Channel, DeviceChange, GatewayChange
from api.scope import is_within
from api.state import Connection
from edge_agent.messages import Live, LiveDevice, LiveDevices, LiveGateway


@dataclass(slots=True)
class _Known:
    """A device of a watched community: where it is, and what was told of it last."""

    path: str
    change: DeviceChange


@dataclass(slots=True)
class _Community:
    """The mirror of one community: latest wins."""

    path: str
    devices: dict[str, _Known] = field(default_factory=dict[str, _Known])
    gateways: dict[str, GatewayChange] = field(default_factory=dict[str, GatewayChange])


class Mirror:
    """Knows what viewers know of devices and gateways, and gives channels what is news."""

    def __init__(
        self,
        channels: Callable[[], Collection[Channel]],
        watch: Callable[[Collection[str]], None],
    ) -> None:
        """Begin empty.

        Args:
            channels: Returns those that are told.
            watch: Called with the communities whose devices are to be heard.
        """
        self._channels = channels
        self._watch_devices = watch
        self._communities: dict[str, _Community] = {}

    def changes(self) -> Iterator[tuple[str, DeviceChange]]:
        """Yield the latest of each device, with its place in the tree."""
        for mirror in self._communities.values():
            for known in mirror.devices.values():
                yield known.path, known.change

    def take(self, community: str, message: Live | LiveDevices) -> None:
        """Take in what is told of a community; of one that is not watched, nothing."""
        mirror = self._communities.get(community)
        if mirror is not None:
            if isinstance(message, Live):
                self._gateways_told(mirror, message.gateways)
            self._devices_told(mirror, message.devices)

    def forget_unwatched(self) -> None:
        """Forget what no channel tells any more, and hear it no more."""
        if not self._channels():
            self._communities.clear()
        shown = [channel for channel in self._channels() if channel.with_devices]
        for mirror in self._communities.values():
            if not any(
                channel.covers(mirror.path) or is_within(channel.place.path, mirror.path)
                for channel in shown
            ):
                mirror.devices.clear()
        self._watch()

    async def read(self, conn: Connection, channels: Collection[Channel]) -> int:
        """Bring the mirror up to the tables; returns how many changes nobody had told."""
        paths = [channel.place.path for channel in channels if channel.with_devices]
        found: dict[str, _Community] = {}
        healed = 0
        cursor = await conn.execute(
            """
            SELECT d.community, d.community_path::text, d.path::text, d.device, d.kind, d.state,
                   d.at, d.received_at, d.reading::text, d.area, d.name, d.name_en
            FROM device_view AS d
            WHERE d.community IN (
                SELECT o.area FROM area AS o
                WHERE o.path <@ ANY (%(paths)s::ltree[]) OR o.path @> ANY (%(paths)s::ltree[]))
              AND d.life IN ('in_service', 'maintenance')
            """,
            {"paths": paths},
        )
        async for community, community_path, path, *rest in cursor:
            mirror = found.setdefault(community, _Community(community_path))
            known = self._communities.get(community)
            before = known.devices.get(rest[0]) if known is not None else None
            is_news, entry = _compare(before, path, rest)
            mirror.devices[rest[0]] = entry
            # Of a community whose devices nobody watched until now, nothing was missed.
            if is_news and known is not None and known.devices:
                healed += 1
                self._device_changed(entry)
        cursor = await conn.execute(
            """
            SELECT g.community, a.path::text, g.gateway, g.silent, g.last_seen_at
            FROM gateway AS g
            JOIN area AS a ON a.area = g.community
            WHERE g.life NOT IN ('planned', 'retired')
              AND (a.path <@ ANY (%(paths)s::ltree[]) OR a.path @> ANY (%(paths)s::ltree[]))
            """,
            {"paths": [channel.place.path for channel in channels]},
        )
        async for community, community_path, gateway, silent, last_seen_at in cursor:
            mirror = found.setdefault(community, _Community(community_path))
            known = self._communities.get(community)
            before_gateway = known.gateways.get(gateway) if known is not None else None
            change = GatewayChange(gateway=gateway, silent=silent, last_seen_at=last_seen_at)
            if before_gateway is not None and _is_older(last_seen_at, before_gateway.last_seen_at):
                change = before_gateway
            mirror.gateways[gateway] = change
            if known is not None and change != before_gateway:
                self._gateway_changed(community_path, change)
        self._communities.update(found)
        self._watch()
        return healed

    def _device_changed(self, known: _Known) -> None:
        for channel in self._channels():
            if channel.with_devices and channel.covers(known.path):
                channel.devices[known.change.device] = known.change

    def _gateway_changed(self, community_path: str, change: GatewayChange) -> None:
        for channel in self._channels():
            if channel.covers(community_path):
                channel.gateways[change.gateway] = change

    def _watch(self) -> None:
        """Hear the devices of the communities that are mirrored."""
        self._watch_devices([name for name, mirror in self._communities.items() if mirror.devices])

    def _devices_told(self, mirror: _Community, devices: Iterable[LiveDevice]) -> None:
        for device in devices:
            known = mirror.devices.get(device.device)
            if known is None:
                continue  # registered a moment ago; the next reading of the tables finds it
            before = known.change
            if _is_older(device.at, before.at):
                continue
            change = before.model_copy(
                update={
                    "state": device.state,
                    "at": device.at,
                    "received_at": device.received_at,
                    "values": values_of(device.kind, device.values),
                }
            )
            if change != before:
                known.change = change
                self._device_changed(known)

    def _gateways_told(self, mirror: _Community, gateways: Iterable[LiveGateway]) -> None:
        for gateway in gateways:
            told = GatewayChange(
                gateway=gateway.gateway, silent=gateway.silent, last_seen_at=gateway.last_seen_at
            )
            if mirror.gateways.get(gateway.gateway) != told:
                mirror.gateways[gateway.gateway] = told
                self._gateway_changed(mirror.path, told)


def _is_older(at: datetime | None, than: datetime | None) -> bool:
    return than is not None and (at is None or at < than)


def _compare(before: _Known | None, path: str, row: list[Any]) -> tuple[bool, _Known]:
    """Return whether a device's row is news, and what is known from now on.

    Any: the row's columns differ in type. The reading is parsed only where something changed.
    """
    device, kind, state, at, received_at, reading, area, name, name_en = row
    if before is not None:
        old = before.change
        same_place = before.path == path and (old.name, old.name_en) == (name, name_en)
        if same_place and (_is_older(at, old.at) or (old.state, old.at) == (state, at)):
            return False, before
    values: Mapping[str, Scalar] = json.loads(reading) if reading else {}
    change = DeviceChange(
        device=device,
        kind=kind,
        state=state,
        at=at,
        received_at=received_at,
        values=values_of(kind, values),
        area=area,
        name=name,
        name_en=name_en,
    )
    return before is not None, _Known(path, change)
