# SPDX-License-Identifier: Apache-2.0
"""The time that windows of maintenance take out of indicators, and what it makes different.

A window is kept as a range on a node of the tree and joined to devices where the registry is read,
so that one for a city is one row: a device's time is out while it stood under the node, by the
registry's history, whatever moves in or out meanwhile. Days and nights that were counted otherwise
are marked a few thousand devices at a time.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, LiteralString, NamedTuple

from psycopg import Connection
from psycopg.types.range import TimestamptzRange

from ingest.indicators.spans import Span, clip, to_us
from ingest.store import community_days

# Why a day is computed anew, as for maintenance of a single device.
_REASON: Final = "maintenance"
_MARKED_AT_ONCE: Final = 2_000
_LONGEST_DAY: Final = timedelta(hours=25)
_FOR_EVER: Final = 2**63

_Spans = Mapping[str, Sequence[Span]]


class Stood(NamedTuple):
    """Where a device was registered until an instant (microseconds, exclusive)."""

    until_us: int
    area: str
    gateway: str


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What all windows take out, by node; of areas wherever they lay in the tree then."""

    areas: _Spans = field(default_factory=dict[str, Sequence[Span]])
    gateways: _Spans = field(default_factory=dict[str, Sequence[Span]])
    devices: _Spans = field(default_factory=dict[str, Sequence[Span]])
    _known: dict[tuple[str, str], tuple[Span, ...]] = field(
        default_factory=dict[tuple[str, str], tuple[Span, ...]]
    )

    def of(
        self, device: str, area: str, gateway: str, past: Sequence[Stood] = ()
    ) -> tuple[Span, ...]:
        """Return what windows take out of a device, in order; spans may overlap.

        Args:
            device: Its id.
            area: Where it stands now.
            gateway: Behind which it stands now.
            past: Where it stood before, in order.
        """
        own = self.devices.get(device, ())
        if not own and not past:
            return self._under(area, gateway)
        found = set(own)
        since = -_FOR_EVER
        for until, *place in (*past, Stood(_FOR_EVER, area, gateway)):
            found.update(clip(self._under(*place), (since, until)))
            since = until
        return tuple(sorted(found))

    def _under(self, area: str, gateway: str) -> tuple[Span, ...]:
        # What many devices have in common is found, and held, once: a city's are a million.
        known = self._known.get((area, gateway))
        if known is None:
            found = {*self.areas.get(area, ()), *self.gateways.get(gateway, ())}
            known = self._known[area, gateway] = tuple(sorted(found))
        return known


def load(conn: Connection) -> Exclusions:
    """Read what all windows take out."""
    nodes, gateways, devices = (defaultdict[str, list[Span]](list) for _ in range(3))
    for area, gateway, device, start, end in conn.execute(
        """
        SELECT area, gateway, device, lower(during), upper(during)
        FROM maintenance_window
        WHERE NOT isempty(during)
        """
    ):
        span = (to_us(start), to_us(end))
        if area is not None:
            nodes[area].append(span)
        elif gateway is not None:
            gateways[gateway].append(span)
        else:
            devices[device].append(span)
    return Exclusions(_by_area(conn, nodes) if nodes else {}, gateways, devices)


def _by_area(conn: Connection, nodes: _Spans) -> dict[str, list[Span]]:
    """Return by area what is taken out at it and above it, by where it lay in the tree then."""
    found = defaultdict[str, list[Span]](list)
    for area, path, since, until in conn.execute(
        "SELECT area, path::text, lower(during), upper(during) FROM area_version"
    ):
        lay = (
            -_FOR_EVER if since is None else to_us(since),
            _FOR_EVER if until is None else to_us(until),
        )
        for label in path.split("."):
            spans = nodes.get(label.replace("_", "-"))
            if spans:
                found[area] += clip(spans, lay)
    return dict(found)


def restate(conn: Connection, at_once: int = _MARKED_AT_ONCE) -> bool:
    """Mark days and nights that windows make different, some of one window; return whether any.

    Each device that stood under the window's node in the time that counts otherwise: its lamp
    nights, and the days of the communities it stood in.

    Args:
        conn: Not in a transaction.
        at_once: How many devices at most, so that it stays short.
    """
    with conn.transaction():
        row = conn.execute(
            """
            SELECT id, restate, restate_after
            FROM maintenance_window
            WHERE NOT isempty(restate)
            ORDER BY changed_at, id
            LIMIT 1
            FOR UPDATE SKIP LOCKED
            """
        ).fetchone()
        if row is None:
            return False
        window, during, after = row
        devices = [
            device
            for (device,) in conn.execute(
                _UNDER, {"window": window, "after": after, "limit": at_once}
            )
        ]
        _mark(conn, devices, during)
        if len(devices) < at_once:
            conn.execute(
                "UPDATE maintenance_window SET restate = 'empty', restate_after = 0 WHERE id = %s",
                (window,),
            )
        else:
            conn.execute(
                "UPDATE maintenance_window SET restate_after = %s WHERE id = %s",
                (devices[-1], window),
            )
    return True


# Devices in the order of their ids: a city's are found by the index, a few thousand at a time.
_UNDER: Final[LiteralString] = """
    WITH w AS (
        SELECT area, gateway, device, restate FROM maintenance_window WHERE id = %(window)s
    ), below AS MATERIALIZED (
        SELECT DISTINCT v.area
        FROM w
        JOIN area_version AS v ON v.during && w.restate
        WHERE lies_in(v.path, w.area)
    )
    SELECT DISTINCT v.device_id
    FROM device_version AS v
    JOIN device AS d ON d.id = v.device_id
    CROSS JOIN w
    WHERE v.device_id > %(after)s AND v.during && w.restate
      AND (d.device = w.device OR v.gateway = w.gateway
           OR v.area IN (SELECT area FROM below))
    ORDER BY v.device_id
    LIMIT %(limit)s
"""


def _mark(conn: Connection, devices: Sequence[int], during: TimestamptzRange) -> None:
    start, end = during.lower, during.upper
    assert isinstance(start, datetime), "a window has a begin"
    assert isinstance(end, datetime), "and an end"
    conn.execute(
        """
        UPDATE lamp_night AS n
        SET dirty = true
        WHERE n.device_id = ANY (%(devices)s)
          AND n.due_to > %(start)s AND n.due_to - %(day)s < %(end)s
          AND NOT EXISTS (
              SELECT FROM raw_kept AS k
              WHERE k.domain = 'lighting' AND n.due_to - %(day)s < k.since)
        """,
        {"devices": list(devices), "start": start, "end": end, "day": _LONGEST_DAY},
    )
    communities = conn.execute(
        """
        SELECT DISTINCT community
        FROM device_version
        WHERE device_id = ANY (%(devices)s)
          -- A day is that of the community in which it ended.
          AND during && tstzrange(%(start)s, %(end)s::timestamptz + %(day)s)
        """,
        {"devices": list(devices), "start": start, "end": end, "day": _LONGEST_DAY},
    ).fetchall()
    community_days.mark_between(conn, [name for (name,) in communities], start, end, _REASON)
