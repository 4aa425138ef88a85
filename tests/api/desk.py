# SPDX-License-Identifier: Apache-2.0
"""Alerts as ingest makes them, each test its own, for what people do with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import psycopg

from ingest.alerts import Clear, Raise
from ingest.rules import Rule
from ingest.store.alerts import Change, Subject, write
from tests.api.conftest import NOW, Api

_NUMBERS = count()


@dataclass(frozen=True, slots=True)
class Point:
    """A rule of its own on a device, whose condition may come and go."""

    api: Api
    rule: Rule
    subject: Subject
    id: UUID

    @property
    def path(self) -> str:
        return f"/api/v1/alerts/{self.id}"

    def decide(self, decision: Raise | Clear, **params: Any) -> UUID:
        with psycopg.connect(self.api.dsn) as conn:
            change = Change(self.rule, self.subject, decision, decision.at, params=params)
            ((_, alert),) = write(conn, [change], decision.at)
        return alert

    def rise(self, at: datetime, **params: Any) -> UUID:
        return self.decide(Raise(at, "condition_met"), **params)

    def fall(self, at: datetime) -> UUID:
        return self.decide(Clear(at, "condition_ended"))


def point(
    api: Api,
    prefix: str = "lamp",
    *,
    community: str = "c01",
    raised_at: datetime = NOW - timedelta(minutes=10),
    **rule: Any,
) -> Point:
    """An alert of a rule that nobody else has, raised on a lamp; ``prefix`` begins its name."""
    made = Rule.model_validate({"id": f"{prefix}.t{next(_NUMBERS)}", "severity": "minor", **rule})
    subject = Subject(
        "lamp", f"gw-{community}-a", community, f"{community}-g01", f"{community}-lamp-001"
    )
    alert = Point(api, made, subject, UUID(int=0)).rise(raised_at, power_w=0.4)
    return Point(api, made, subject, alert)
