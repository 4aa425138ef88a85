# SPDX-License-Identifier: Apache-2.0
"""A police precinct in the database: two communities with cells, officers, and alarms that ring."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from ingest.alerts import Clear, Raise
from ingest.kinds import DEFAULT_RULES
from ingest.store import alerts
from ingest.store.alerts import Change, Subject

# 22:00 in Shanghai.
NIGHT = datetime(2026, 11, 20, 14, 0, tzinfo=UTC)
RULES = {rule.id: rule for rule in DEFAULT_RULES}
PEOPLE = (
    ("li", "police", "c01"), ("qian", "police", "c01"), ("root", "admin", "city"),
    ("wang", "property", "c01"), ("zhou", "police", "c02"), ("sun", "police", "c01-g01"),
)  # fmt: skip


def at(minutes: float) -> datetime:
    return NIGHT + timedelta(minutes=minutes)


def settle(dsn: str) -> None:
    """Write areas, officers, gateways, and in each cell a detector, a gate and a lamp."""
    with psycopg.connect(dsn) as conn:
        areas: list[tuple[str, str | None, str, str]] = [("city", None, "city", "city")]
        for community in ("c01", "c02"):
            areas.append((community, "city", f"city.{community}", "community"))
            areas += [
                (f"{community}-{cell}", community, f"city.{community}.{community}_{cell}", "cell")
                for cell in ("g01", "g02", "g03", "g04")
            ]
        for area in areas:
            conn.execute(
                """
                INSERT INTO area (area, parent, path, level, name)
                VALUES (%s, %s, %s::text::ltree, %s, '')
                """,
                area,
            )
        for who in PEOPLE:
            conn.execute(
                "INSERT INTO person (username, password_hash, role, area) VALUES (%s, '', %s, %s)",
                who,
            )
        for community in ("c01", "c02"):
            for gateway in ("a", "b"):
                conn.execute(
                    "INSERT INTO gateway (gateway, community) VALUES (%s, %s)",
                    (f"gw-{community}-{gateway}", community),
                )
            for number, cell in enumerate(("g01", "g02", "g03", "g04")):
                for kind in ("alarm", "gate", "lamp"):
                    conn.execute(
                        """
                        INSERT INTO device (device, kind, gateway, community, area)
                        VALUES (%s, %s, %s, %s, %s)
                        """,
                        (
                            f"{community}-{kind}-{cell}",
                            kind,
                            f"gw-{community}-{'ab'[number // 2]}",
                            community,
                            f"{community}-{cell}",
                        ),
                    )


@dataclass(slots=True)
class Precinct:
    """A connection as ingest has it; `ring` and `still` are what devices say."""

    dsn: str
    conn: psycopg.Connection
    _keys: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def change(self, device: str, rule: str, minutes: float, *, over: str = "") -> Change:
        """One decision; a raise is an occurrence of its own, which ``over`` ends."""
        community, kind, cell = device.split("-")
        gateway = f"gw-{community}-{'a' if cell in ('g01', 'g02') else 'b'}"
        subject = Subject(kind, gateway, community, f"{community}-{cell}", device)
        when = at(minutes)
        if over:
            key = self._keys[device, rule]
            return Change(RULES[rule], subject, Clear(when, over), when, key)
        key = self._keys[device, rule] = uuid.uuid4().hex
        return Change(RULES[rule], subject, Raise(when, "condition_met"), when, key)

    def ring(self, *told: tuple[str, str, float]) -> None:
        """Let devices say these, each in a transaction of its own."""
        for device, rule, minutes in told:
            with self.conn.transaction():
                alerts.write(self.conn, [self.change(device, rule, minutes)], at(minutes))

    def still(
        self, device: str, rule: str, minutes: float, reason: str = "condition_ended"
    ) -> None:
        """Let a condition end."""
        with self.conn.transaction():
            change = self.change(device, rule, minutes, over=reason)
            alerts.write(self.conn, [change], at(minutes))

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.conn.execute(query.encode(), parameters).fetchall()

    def cases(self) -> list[tuple[str, str, str, str, Sequence[str]]]:
        """Nature, severity, state, area, and the rules of the alerts; in the order they began."""
        return [
            (nature, severity, state, area, rules)
            for nature, severity, state, area, rules in self.rows(
                """
                SELECT c.nature, c.severity, c.state, c.area,
                       array(SELECT t.rule FROM case_alert AS m JOIN alert AS t ON t.id = m.alert
                             WHERE m.case_id = c.id ORDER BY m.raised_at, t.rule)
                FROM alert_case AS c ORDER BY c.first_at, c.id
                """
            )
        ]

    def case(self) -> uuid.UUID:
        """The id of the only case."""
        ((found,),) = self.rows("SELECT id FROM alert_case")
        return found

    def history(self, case: uuid.UUID | None = None) -> list[tuple[str, str, str]]:
        """Actor, action and reason of all that happened to a case, or to the only one."""
        return [
            (actor, action, reason)
            for actor, action, reason in self.rows(
                "SELECT actor, action, reason FROM case_history WHERE case_id = %s ORDER BY id",
                case or self.case(),
            )
        ]
