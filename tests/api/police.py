# SPDX-License-Identifier: Apache-2.0
"""The police liaison's desk as tests use it: alarms that ring in the city, officers who work."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import httpx2
import psycopg

from api.people import digest
from ingest.alerts import Raise
from ingest.indicators import security
from ingest.indicators.spans import day_span
from ingest.indicators.tally import Key, Tally
from ingest.kinds import DEFAULT_RULES
from ingest.store import alerts
from ingest.store import incidents as records
from ingest.store.alerts import Change, Subject
from tests.api.conftest import NOW, Api, session_token

LIST = "/api/v1/cases"
SHIFTS = "/api/v1/shifts"
RULES = {rule.id: rule for rule in DEFAULT_RULES}
FALSE = {"outcome": "false_alarm", "reason": "a cat"}


class Desk:
    """The api over a city, alarms that ring in it, and officers who work."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def ring(
        self, rule: str, minutes: float, *, device: str = "c01-alarm-001", cell: str = "g01"
    ) -> str:
        """Let a device say something, minutes before now; return the id of its case."""
        with psycopg.connect(self.api.dsn) as conn:
            return self.ring_within(conn, rule, minutes, device=device, cell=cell)

    def ring_within(
        self,
        conn: psycopg.Connection,
        rule: str,
        minutes: float,
        *,
        device: str = "c01-alarm-001",
        cell: str = "g01",
    ) -> str:
        """Ring in a transaction that somebody else commits."""
        at = NOW - timedelta(minutes=minutes)
        community = device.partition("-")[0]
        kind = device.split("-")[1]
        subject = Subject(kind, f"gw-{community}-a", community, f"{community}-{cell}", device)
        change = Change(RULES[rule], subject, Raise(at, "told"), at, uuid.uuid4().hex)
        ((_, alert),) = alerts.write(conn, [change], at)
        row = conn.execute("SELECT case_id FROM case_alert WHERE alert = %s", (alert,))
        found = row.fetchone()
        return "" if found is None else str(found[0])

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.api.dsn) as conn:
            return conn.execute(query.encode(), parameters).fetchall()

    def hire(self, name: str, role: str = "police", area: str = "c01") -> None:
        with psycopg.connect(self.api.dsn) as conn:
            conn.execute(
                "INSERT INTO person (username, password_hash, role, area) VALUES (%s, '', %s, %s)",
                (name, role, area),
            )
            conn.execute(
                "INSERT INTO session VALUES (%s, %s, %s, %s, %s)",
                (digest(session_token(name)), name, NOW, NOW, NOW + timedelta(hours=12)),
            )

    async def get(self, case: str, who: str = "li") -> dict[str, Any]:
        answer = await self.api.client(who).get(f"{LIST}/{case}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def tab(self, tab: str, who: str = "li", more: str = "") -> list[str]:
        answer = await self.api.client(who).get(f"{LIST}?tab={tab}{more}")
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    async def do(
        self,
        case: str,
        action: str,
        body: dict[str, Any],
        *,
        who: str = "li",
        version: int | str | None = 1,
    ) -> httpx2.Response:
        headers = {} if version is None else {"If-Match": f'"{version}"'}
        return await self.api.client(who).post(
            f"{LIST}/{case}/{action}", json=body, headers=headers
        )

    async def ok(self, case: str, action: str, body: dict[str, Any], **more: Any) -> dict[str, Any]:
        answer = await self.do(case, action, body, **more)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def tally(self) -> dict[Key, Tally]:
        """What the day's numbers are made of, of the day on which all of this is."""
        day = NOW.astimezone(ZoneInfo("Asia/Shanghai")).date()
        with psycopg.connect(self.api.dsn) as conn:
            span = day_span(day, "Asia/Shanghai")
            return security.tally(
                records.cases(conn, "c01", span), records.alarms(conn, "c01", span)
            )

    def false_alarms(self) -> tuple[int, int, int]:
        """Good (false), bad (real) and all alarms of the cell."""
        found = self.tally()[Key("false-alarms", "c01-g01")]
        return found.good, found.bad, found.total
