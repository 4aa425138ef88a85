# SPDX-License-Identifier: Apache-2.0
"""The registry as ingest needs it in memory, and the latest state of each device."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.indicators import lighting


@dataclass(frozen=True, slots=True)
class Gateway:
    """A registered gateway."""

    gateway: str
    community: str
    status: str
    last_seen_at: datetime | None
    silent: bool
    status_interval_s: float | None


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device, with what lighting needs of a lamp."""

    id: int
    device: str
    kind: str
    gateway: str
    community: str
    area: str
    life: str
    max_silence: timedelta
    rated_power_w: float | None
    programme: lighting.Programme
    place: lighting.Place
    in_service_from_us: int
    maintenance: tuple[lighting.Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Registry:
    """All gateways and devices at one revision."""

    revision: int
    gateways: Mapping[str, Gateway] = field(default_factory=dict[str, Gateway])
    devices: Mapping[str, Device] = field(default_factory=dict[str, Device])


@dataclass(frozen=True, slots=True)
class State:
    """A device's latest state; ``reading`` holds the fields that say something."""

    at: datetime
    received_at: datetime
    since: datetime
    reading: Mapping[str, Any]
    fault: str | None = None
    silent: bool = False
    lit: bool | None = None
    lit_at: datetime | None = None


def registry_revision(conn: Connection) -> int:
    """Return the number that grows with each change of the registry."""
    row = conn.execute("SELECT registry_revision FROM installation").fetchone()
    return 0 if row is None else row[0]


def load_registry(conn: Connection) -> Registry:
    """Read gateways and devices, consistent with each other."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        revision = registry_revision(conn)
        with conn.cursor(row_factory=class_row(Gateway)) as cursor:
            gateways = cursor.execute(
                """
                SELECT gateway, community, status, last_seen_at, silent, status_interval_s
                FROM gateway
                """
            ).fetchall()
        devices = conn.execute(
            """
            SELECT d.id, d.device, d.kind, d.gateway, d.community, d.area, d.life,
                   d.reporting_period_s, d.rated_power_w, d.programme, d.in_service_from,
                   c.latitude, c.longitude, c.time_zone,
                   ARRAY(SELECT ARRAY[lower(m.during), upper(m.during)] FROM maintenance AS m
                         WHERE m.device_id = d.id ORDER BY m.during)
            FROM device AS d
            JOIN area AS c ON c.area = d.community
            """
        ).fetchall()
    return Registry(
        revision,
        {gateway.gateway: gateway for gateway in gateways},
        {row[1]: _device(row) for row in devices},
    )


def _device(row: Sequence[Any]) -> Device:
    (
        device_id, device, kind, gateway, community, area, life,
        period_s, rated_power_w, programme, in_service_from,
        latitude, longitude, time_zone, maintenance,
    ) = row  # fmt: skip
    return Device(
        device_id,
        device,
        kind,
        gateway,
        community,
        area,
        life,
        timedelta(seconds=period_s) * lighting.SILENCE_PERIODS,
        rated_power_w,
        lighting.parse_programme(programme),
        lighting.Place(latitude or 0.0, longitude or 0.0, time_zone),
        lighting.to_us(in_service_from),
        tuple((lighting.to_us(start), lighting.to_us(end)) for start, end in maintenance),
    )


def load_states(conn: Connection) -> dict[int, State]:
    """Read the latest state of every device, by device id."""
    rows = conn.execute(
        """
        SELECT device_id, at, received_at, since, reading, fault, silent, lit, lit_at
        FROM device_state
        """
    ).fetchall()
    return {device_id: State(*rest) for device_id, *rest in rows}


def save_states(conn: Connection, states: Iterable[tuple[int, State]]) -> None:
    """Write the latest states; one row version a device."""
    conn.execute(
        """
        CREATE TEMPORARY TABLE IF NOT EXISTS stage_state
            (LIKE device_state INCLUDING DEFAULTS) ON COMMIT DELETE ROWS
        """
    )
    with conn.cursor() as cursor:
        with cursor.copy(
            """
            COPY stage_state (device_id, at, received_at, since, silent, fault, lit, lit_at,
                reading) FROM STDIN (FORMAT BINARY)
            """
        ) as copy:
            copy.set_types(
                ["int4", *["timestamptz"] * 3, "bool", "text", "bool", "timestamptz", "jsonb"]
            )
            for device_id, state in states:
                copy.write_row(
                    (
                        device_id,
                        state.at,
                        state.received_at,
                        state.since,
                        state.silent,
                        state.fault,
                        state.lit,
                        state.lit_at,
                        Jsonb(state.reading),
                    )
                )
    conn.execute(
        """
        INSERT INTO device_state AS d
            (device_id, at, received_at, since, silent, fault, lit, lit_at, reading)
        SELECT device_id, at, received_at, since, silent, fault, lit, lit_at, reading
        FROM stage_state
        ORDER BY device_id
        ON CONFLICT (device_id) DO UPDATE SET
            at = excluded.at, received_at = excluded.received_at, since = excluded.since,
            silent = excluded.silent, fault = excluded.fault, lit = excluded.lit,
            lit_at = excluded.lit_at, reading = excluded.reading
        """
    )
