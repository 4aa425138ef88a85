# SPDX-License-Identifier: Apache-2.0
"""What was stored of some devices, in the order in which they saw it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from itertools import count
from typing import Any, Final, NamedTuple

from psycopg import Connection, sql

from ingest.conditions.fields import DURESS, fields_of
from ingest.indicators import lighting
from ingest.kinds import KINDS
from ingest.kinds.base import Table

# Rows fetched at once: a device's morning.
_BATCH: Final = 2_000
_names: Final = count()


@dataclass(frozen=True, slots=True)
class Watched:
    """A device as it is registered now, with what its conditions ask of it."""

    id: int
    device: str
    kind: str
    cell: str
    max_silence: timedelta
    rated_power_w: float | None
    programme: lighting.Programme
    place: lighting.Place


class Row(NamedTuple):
    """A stored reading or event: the fields that say something."""

    at: datetime
    is_event: bool
    device_id: int
    said: dict[str, Any]


def watched(conn: Connection, area: str, kinds: Sequence[str]) -> list[Watched]:
    """Return the devices of some classes in an area and all below it, cell by cell."""
    return [
        Watched(
            device_id,
            device,
            kind,
            cell,
            timedelta(seconds=period_s) * lighting.SILENCE_PERIODS,
            rated_power_w,
            lighting.parse_programme(programme),
            lighting.Place(latitude or 0.0, longitude or 0.0, time_zone),
        )
        for (
            device_id, device, kind, cell, period_s, rated_power_w, programme,
            latitude, longitude, time_zone,
        ) in conn.execute(
            """
            SELECT d.id, d.device, d.kind, d.area, d.reporting_period_s, d.rated_power_w,
                   d.programme, c.latitude, c.longitude, c.time_zone
            FROM device AS d
            JOIN area AS a ON a.area = d.area
            JOIN area AS c ON c.area = d.community
            WHERE a.path <@ (SELECT s.path FROM area AS s WHERE s.area = %s)
              AND d.kind = ANY (%s) AND d.life <> 'planned'
            ORDER BY d.area, d.id
            """,
            (area, list(kinds)),
        )
    ]  # fmt: skip


def stored(
    conn: Connection,
    devices: Sequence[Watched],
    start: datetime,
    end: datetime,
    *,
    readings: bool,
    events: bool,
) -> Iterator[Row]:
    """Yield what devices told from ``start`` on and before ``end``, in the order of its instants.

    Streamed, within a transaction: no more than some thousand rows are held. Only what a condition
    can ask for: no credentials, and nothing of duress.
    """
    by_kind: dict[str, list[int]] = {}
    for device in devices:
        by_kind.setdefault(device.kind, []).append(device.id)
    sources: list[Iterator[Row]] = []
    for kind, ids in by_kind.items():
        tables = KINDS[kind]
        if readings:
            names = fields_of(kind).readings
            sources.append(_rows(conn, tables.readings, names, False, ids, start, end))
        if events and tables.events is not None:
            names = fields_of(kind).events
            sources.append(_rows(conn, tables.events, names, True, ids, start, end))
    yield from merge(*sources, key=_when)


def _when(row: Row) -> tuple[datetime, bool, int]:
    return row[:3]


def _rows(
    conn: Connection,
    table: Table,
    names: Iterable[str],
    is_event: bool,
    ids: Sequence[int],
    start: datetime,
    end: datetime,
) -> Iterator[Row]:
    asked = set(names)
    columns = [name for name in table.columns if name in asked]
    query = sql.SQL(
        """
        SELECT at, device_id, {columns} FROM {table}
        WHERE device_id = ANY (%s) AND at >= %s AND at < %s
        ORDER BY at, device_id
        """
    ).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        table=sql.Identifier(table.name),
    )
    with conn.cursor(name=f"history-{next(_names)}") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query, (list(ids), start, end))
        for at, device_id, *said in cursor:
            told = {
                name: value for name, value in zip(columns, said, strict=True) if value is not None
            }
            if not (is_event and told["event"] == DURESS):
                yield Row(at, is_event, device_id, told)
