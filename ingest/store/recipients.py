# SPDX-License-Identifier: Apache-2.0
"""Who may be told of alerts: the chains that hold somewhere, people and webhooks."""

from typing import Any

from psycopg import Connection

from ingest.notify.chains import Chain, Level, Placed, Role
from ingest.notify.recipients import Channel, Person, Preferences


def chains(conn: Connection, path: str) -> list[Placed]:
    """Return the chains of an area and of all above it."""
    return [
        Placed(str(chain), place, Chain.model_validate(content))
        for chain, place, content in conn.execute(
            """
            SELECT c.id, a.path::text, c.chain
            FROM notification_chain AS c
            JOIN area AS a ON a.area = c.area
            WHERE a.path @> %s::text::ltree
            """,
            (path,),
        )
    ]


def people(conn: Connection, path: str) -> list[Person]:
    """Return all active people whose area holds ``path``: nobody else may be told of it."""
    channels: dict[str, list[Channel]] = {}
    for username, channel, kind, enabled in conn.execute(
        """
        SELECT c.username, c.id, c.kind, c.enabled
        FROM notification_channel AS c
        JOIN person AS p ON p.username = c.username
        JOIN area AS a ON a.area = p.area
        WHERE c.removed_at IS NULL AND a.path @> %s::text::ltree
        ORDER BY c.created_at, c.id
        """,
        (path,),
    ):
        channels.setdefault(username, []).append(Channel(channel, kind, enabled))
    rows: list[tuple[str, Role, str, Level | str, dict[str, Any] | None]] = conn.execute(
        """
        SELECT p.username, p.role, a.path::text, a.level, w.wanted
        FROM person AS p
        JOIN area AS a ON a.area = p.area
        LEFT JOIN notification_preference AS w ON w.username = p.username
        WHERE p.active AND a.path @> %s::text::ltree
        ORDER BY p.username
        """,
        (path,),
    ).fetchall()
    return [
        Person(
            username,
            role,
            place,
            _level(level),
            tuple(channels.get(username, ())),
            Preferences() if wanted is None else Preferences.model_validate(wanted),
        )
        for username, role, place, level, wanted in rows
    ]


def _level(level: str) -> Level:
    match level:
        case "cell" | "community" | "street" | "district":
            return level
        case _:
            return "city"  # whatever lies above answers for it


def webhooks(conn: Connection, path: str) -> list[Channel]:
    """Return the webhooks of all areas that hold ``path``."""
    return [
        Channel(channel, "webhook", enabled, duress, place)
        for channel, enabled, duress, place in conn.execute(
            """
            SELECT c.id, c.enabled, c.duress, a.path::text
            FROM notification_channel AS c
            JOIN area AS a ON a.area = c.area
            WHERE c.removed_at IS NULL AND a.path @> %s::text::ltree
            """,
            (path,),
        )
    ]
