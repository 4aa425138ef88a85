# SPDX-License-Identifier: Apache-2.0
"""What is kept of the states that devices were in.

Life and gateway are in the history of the registry; silence is in the occurrences of
``device.silent`` and ``gateway.silent``, as long as these are kept and the rules were on. Faults
are in the readings. When a device was heard for the first time is kept nowhere.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from psycopg import Connection

from ingest.kinds import DEVICE_SILENT, GATEWAY_SILENT

Span = tuple[datetime, datetime | None]


class Known(NamedTuple):
    """What was known of a device from an instant on."""

    at: datetime
    life: str
    silent: bool
    gateway_silent: bool


class _Version(NamedTuple):
    begin: datetime
    life: str
    gateway: str


class Past:
    """What is kept of some devices, over some time."""

    def __init__(
        self,
        start: datetime,
        end: datetime,
        versions: Mapping[int, Sequence[_Version]],
        silent: Mapping[str, Sequence[Span]],
        gateways: Mapping[str, Sequence[Span]],
    ) -> None:
        """Take what `load` found."""
        self._start, self._end = start, end
        self._versions, self._silent, self._gateways = versions, silent, gateways

    def of(self, device_id: int, device: str) -> list[Known]:
        """Return what was known of a device: from the start on, and after each change."""
        versions = self._versions.get(device_id, ())
        silent = self._silent.get(device, ())
        spans = [*silent, *(one for v in versions for one in self._gateways.get(v.gateway, ()))]
        instants = {self._start, *(one.begin for one in versions)}
        instants |= {instant for span in spans for instant in span if instant is not None}
        found: list[Known] = []
        for at in sorted(one for one in instants if self._start <= one < self._end):
            now = bisect_right(versions, at, key=_begin) - 1
            if now < 0:
                continue  # not registered yet
            gateway = self._gateways.get(versions[now].gateway, ())
            found.append(Known(at, versions[now].life, _within(silent, at), _within(gateway, at)))
        # What only another span of the same silence began is no change.
        return [next(same) for _, same in groupby(found, key=_known)]


def load(conn: Connection, device_ids: Sequence[int], start: datetime, end: datetime) -> Past:
    """Return what is kept of devices from ``start`` on and before ``end``, in two statements."""
    versions: defaultdict[int, list[_Version]] = defaultdict(list)
    for device_id, begin, life, gateway in conn.execute(
        """
        SELECT device_id, greatest(lower(during), %(start)s), life, gateway
        FROM device_version
        WHERE device_id = ANY (%(ids)s) AND during && tstzrange(%(start)s, %(end)s)
        ORDER BY device_id, during
        """,
        {"ids": list(device_ids), "start": start, "end": end},
    ):
        versions[device_id].append(_Version(begin, life, gateway))
    silent: defaultdict[str, list[Span]] = defaultdict(list)
    gateways: defaultdict[str, list[Span]] = defaultdict(list)
    for device, gateway, raised_at, cleared_at in conn.execute(
        """
        SELECT o.device, o.gateway, o.raised_at, o.cleared_at
        FROM alert_occurrence AS o
        WHERE (o.rule = %(device)s
               AND o.device IN (SELECT device FROM device WHERE id = ANY (%(ids)s))
               OR o.rule = %(gateway)s AND o.gateway = ANY (%(gateways)s))
          AND o.raised_at < %(end)s
          AND (o.cleared_at > %(start)s OR o.active)
        ORDER BY o.raised_at, o.id
        """,
        {
            "device": DEVICE_SILENT.id,
            "gateway": GATEWAY_SILENT.id,
            "ids": list(device_ids),
            "gateways": sorted({one.gateway for of in versions.values() for one in of}),
            "start": start,
            "end": end,
        },
    ):
        if device is None:
            gateways[gateway].append((raised_at, cleared_at))
        else:
            silent[device].append((raised_at, cleared_at))
    return Past(start, end, versions, silent, gateways)


def _begin(version: _Version) -> datetime:
    return version.begin


def _known(one: Known) -> tuple[str, bool, bool]:
    return one[1:]


def _within(spans: Iterable[Span], at: datetime) -> bool:
    return any(begin <= at and (end is None or at < end) for begin, end in spans)
