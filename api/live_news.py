# SPDX-License-Identifier: Apache-2.0
"""Which alerts and cases moved, and what of that nobody was told yet.

A message names alerts only; the case of an alert that moved is looked at with it. So nothing of
cases is on the live topic, and ingest need not say twice what one transaction did.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row

from api.alerts import COLUMNS, Alert, stale_before
from api.live_channels import Channel, Told, Version, version_of
from api.state import Connection


@dataclass(slots=True)
class Moved:
    """Alerts and cases by id."""

    alerts: set[UUID] = field(default_factory=set[UUID])
    cases: set[UUID] = field(default_factory=set[UUID])

    def __len__(self) -> int:
        """Return how many of both."""
        return len(self.alerts) + len(self.cases)

    def add(self, other: "Moved") -> None:
        """Add others."""
        self.alerts |= other.alerts
        self.cases |= other.cases


class Versions(NamedTuple):
    """Up to which version alerts and cases moved, or were told."""

    alerts: Mapping[UUID, Version]
    cases: Mapping[UUID, Version]


class News:
    """What is to be told: ``wanted`` is set while there is anything."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.wanted = asyncio.Event()
        self._moved = Moved()
        self._alerts_told = Told()
        self._cases_told = Told()

    def add(self, moved: Moved) -> None:
        """Have these told, as far as they are news."""
        self._moved.add(moved)
        if self._moved:
            self.wanted.set()

    def take(self) -> Moved:
        """Return what is to be told, once."""
        self.wanted.clear()
        taken, self._moved = self._moved, Moved()
        return taken

    def untold(self, moved: Versions) -> Moved:
        """Return what of this nobody was told of yet."""
        return Moved(
            self._alerts_told.news(moved.alerts),
            self._cases_told.news(moved.cases),
        )

    async def alerts(
        self, conn: Connection, wanted: Collection[UUID], now: datetime
    ) -> list[tuple[str, Alert]]:
        """Return those of some alerts that are news, each with its place in the tree.

        Who may be told of them is decided channel by channel.
        """
        cursor = await conn.execute(
            "SELECT id, path::text FROM alert_view WHERE id = ANY (%s)", (list(wanted),)
        )
        paths: dict[UUID, str] = {alert: path async for alert, path in cursor}
        return [
            (paths[alert.id], alert)
            for alert in await _read_alerts(conn, list(paths), now=now)
            if self._alerts_told.is_news(alert.id, version_of(alert))
        ]

    async def cases(self, conn: Connection, moved: Moved) -> dict[UUID, tuple[str, Version]]:
        """Return the cases that are news, among those that moved or have an alert that did.

        Each with its place in the tree.
        """
        cursor = await conn.execute(
            """
            SELECT c.id, c.version, c.changed_at, a.path::text
            FROM alert_case AS c
            JOIN area AS a ON a.area = c.area
            -- One list, so that it is read by index.
            WHERE c.id = ANY (%(cases)s::uuid[] || ARRAY(
                SELECT m.case_id FROM case_alert AS m WHERE m.alert = ANY (%(alerts)s::uuid[])))
            """,
            {"cases": list(moved.cases), "alerts": list(moved.alerts)},
        )
        rows = await cursor.fetchall()
        paths = {key: path for key, _, _, path in rows}
        return {
            key: (paths[key], version)
            for key, version in _versions(row[:3] for row in rows).items()
            if self._cases_told.is_news(key, version)
        }

    def note(self, told: Versions) -> None:
        """Remember that these are told."""
        self._alerts_told.note(told.alerts)
        self._cases_told.note(told.cases)


async def moved_since(conn: Connection, since: datetime) -> Versions:
    """Return which alerts and cases moved since then.

    Alerts are asked for last: with an alert its case is told, with a case no alert. So what one
    transaction did to both is told together, even if it is committed between the two questions.
    """
    cursor = await conn.execute(
        "SELECT id, version, changed_at FROM alert_case WHERE changed_at > %s", (since,)
    )
    cases = _versions(await cursor.fetchall())
    cursor = await conn.execute("SELECT id, version FROM alert WHERE changed_at > %s", (since,))
    return Versions({alert: (version, 0.0) async for alert, version in cursor}, cases)


async def read_alerts_of(
    conn: Connection, channel: Channel, *, open_only: bool, count: int, now: datetime
) -> list[Alert]:
    """Return the newest alerts of a channel: the open ones, or those that changed last.

    What is quiet is neither: it is kept from the desk.
    """
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            sql.SQL(
                """
                SELECT {columns}
                FROM alert_view AS t
                WHERE t.path <@ %(scope)s::ltree  -- invariant 9
                  AND NOT t.rule = ANY (%(hidden)s)
                  AND NOT t.quiet
                  AND (NOT %(open_only)s OR t.active OR t.latched OR NOT t.acknowledged)
                ORDER BY CASE WHEN %(open_only)s THEN t.raised_at ELSE t.changed_at END DESC,
                         t.id DESC
                LIMIT %(count)s
                """
            ).format(columns=COLUMNS),
            {
                "scope": channel.scope.path,
                "hidden": list(channel.hidden_rules),
                "open_only": open_only,
                "count": count,
                "stale": stale_before(now),
            },
        )
        return await cursor.fetchall()


async def _read_alerts(conn: Connection, ids: list[UUID], *, now: datetime) -> list[Alert]:
    """Return alerts by id; who may be told of them is decided channel by channel."""
    async with conn.cursor(row_factory=class_row(Alert)) as cursor:
        await cursor.execute(
            sql.SQL("SELECT {} FROM alert_view AS t WHERE t.id = ANY (%(ids)s)").format(COLUMNS),
            {"ids": ids, "stale": stale_before(now)},
        )
        return await cursor.fetchall()


def _versions(rows: Iterable[tuple[UUID, int, datetime]]) -> dict[UUID, Version]:
    return {key: (version, changed_at.timestamp()) for key, version, changed_at in rows}
