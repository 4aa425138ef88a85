# SPDX-License-Identifier: Apache-2.0
"""What is compared: messages, the facts they carry, and how either is named.

A fact's content is its digest: SHA-256 of its canonical JSON, which `simulators.truth` defines.
The ledger keeps the digest of what an agent accepted; here the same is made of a stored row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import psycopg
from psycopg import sql

from simulators.truth import digest

# Table and columns of each class, beside device and time. Not taken from ingest: what it leaves
# out of a table shall be missed here.
READING_TABLES: Mapping[str, tuple[str, Sequence[str]]] = {
    "lamp": (
        "reading_lamp",
        (
            "lit", "level_pct", "power_w", "voltage_v", "current_a", "energy_kwh", "burn_hours",
            "lux", "battery_pct", "solar_w", "fault",
        ),
    ),
    "bin": (
        "reading_bin",
        ("fill_pct", "weight_kg", "temperature_c", "lid_open", "tilt", "stream", "fault"),
    ),
    "gate": ("reading_gate", ("door", "lock", "fault")),
    "alarm": ("reading_alarm", ("armed", "battery_pct", "fault")),
}  # fmt: skip
EVENT_TABLES: Mapping[str, tuple[str, Sequence[str]]] = {
    "bin": ("event_bin", ("event", "weight_kg", "sorted_ok", "stream")),
    "gate": ("event_gate", ("event", "direction", "credential")),
    "alarm": ("event_alarm", ("event", "phase", "occurrence", "zone")),
}
# Tells of the outbox, not of a device: stored as gaps.
GAP_KIND = "gap"


class Message(NamedTuple):
    """What names one immutable message for ever."""

    gateway: str
    stream: str
    seq: int


class Fact(NamedTuple):
    """One reading or event: of which class, which device, when."""

    kind: str
    device: str
    at_us: int


class Accepted(NamedTuple):
    """A fact an edge agent accepted, its content, and the message that carries it."""

    fact: Fact
    digest: str
    message: Message


class Stored(NamedTuple):
    """A fact as a table holds it."""

    fact: Fact
    digest: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that does not agree, for whoever looks for the reason."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


def accepted(ledger: sqlite3.Connection, lane: str) -> list[Accepted]:
    """What agents accepted in one lane, gaps left out."""
    rows = ledger.execute(
        "SELECT kind, device, at_us, digest, gateway, stream, seq FROM accepted"
        " WHERE lane = ? AND kind <> ?",
        (lane, GAP_KIND),
    )
    return [
        Accepted(Fact(kind, device, at_us), content, Message(gateway, stream, seq))
        for kind, device, at_us, content, gateway, stream, seq in rows
    ]


def stored(
    conn: psycopg.Connection, tables: Mapping[str, tuple[str, Sequence[str]]]
) -> Iterator[Stored]:
    """Every row of the tables, its content made canonical again."""
    for kind, (table, columns) in tables.items():
        statement = sql.SQL(
            """
            SELECT d.device, (extract(epoch FROM r.at) * 1000000)::bigint, r.at, {}
            FROM {} AS r
            JOIN device AS d ON d.id = r.device_id
            """
        ).format(
            sql.SQL(", ").join(sql.Identifier("r", column) for column in columns),
            sql.Identifier(table),
        )
        with conn.cursor() as cursor:
            for device, at_us, at, *values in cursor.stream(statement, size=2_000):
                item = {
                    name: value
                    for name, value in zip(columns, values, strict=True)
                    if value is not None
                }
                content = digest({**item, "kind": kind, "device": device, "at": instant(at)})
                yield Stored(Fact(kind, device, at_us), content)


def instant(at: datetime) -> str:
    """An instant in UTC as the wire writes it."""
    return at.isoformat().replace("+00:00", "Z")
