# SPDX-License-Identifier: Apache-2.0
"""What gateways say of themselves, and whether they are heard."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from psycopg import Connection

from edge_agent.messages import Status


def save_status(conn: Connection, statuses: Mapping[str, tuple[Status, datetime]]) -> None:
    """Write the latest status of each gateway; a will says only that the link broke."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            UPDATE gateway
            SET status_at = %s, agent_version = %s, outbox_messages = %s, clock = %s,
                status_interval_s = %s, outbox_bytes = %s, outbox_limit_bytes = %s,
                outbox_hours = %s
            WHERE gateway = %s
            """,
            [
                (
                    received_at,
                    status.agent_version,
                    status.outbox_messages,
                    status.clock,
                    status.status_interval_s,
                    status.outbox_bytes,
                    status.outbox_limit_bytes,
                    status.outbox_hours,
                    gateway,
                )
                for gateway, (status, received_at) in statuses.items()
                if status.state == "online"
            ],
        )
    conn.execute(
        """
        UPDATE city AS c
        SET status_at = s.at, agent_version = s.version, waiting = s.waiting,
            status_interval_s = s.interval_s
        FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::bigint[], %s::float8[])
            AS s (city, at, version, waiting, interval_s)
        WHERE c.city = s.city
        """,
        _columns(
            5,
            [
                (
                    city,
                    received_at,
                    status.agent_version,
                    status.outbox_messages,
                    status.status_interval_s,
                )
                for city, (status, received_at) in statuses.items()
                if status.state == "online"
            ],
        ),
    )


def _columns(count: int, rows: Sequence[Sequence[object]]) -> list[list[object]]:
    return [[row[column] for row in rows] for column in range(count)]


def save_presence(conn: Connection, presence: Sequence[tuple[str, datetime | None, bool]]) -> None:
    """Write when gateways and cities were last heard, and whether that is too long ago."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """
            UPDATE gateway SET last_seen_at = greatest(last_seen_at, %s), silent = %s
            WHERE gateway = %s
            """,
            [(last_seen_at, silent, gateway) for gateway, last_seen_at, silent in presence],
        )
    conn.execute(
        """
        UPDATE city AS c SET last_seen_at = greatest(c.last_seen_at, p.at), silent = p.silent
        FROM unnest(%s::text[], %s::timestamptz[], %s::bool[]) AS p (city, at, silent)
        WHERE c.city = p.city
        """,
        _columns(3, presence),
    )


def save_heard(conn: Connection, heard: Sequence[tuple[str, datetime]]) -> None:
    """Write when gateways were heard, for the process that decides whether they are silent."""
    conn.execute(
        """
        UPDATE gateway AS g SET last_seen_at = h.at
        FROM unnest(%s::text[], %s::timestamptz[]) AS h (gateway, at)
        WHERE g.gateway = h.gateway AND h.at > coalesce(g.last_seen_at, '-infinity')
        """,
        ([gateway for gateway, _ in heard], [at for _, at in heard]),
    )


def load_heard(conn: Connection, gateways: Sequence[str]) -> list[tuple[str, datetime]]:
    """Return when gateways were last heard, by any process; those that never were are left out."""
    return conn.execute(
        """
        SELECT gateway, last_seen_at FROM gateway
        WHERE gateway = ANY (%s) AND last_seen_at IS NOT NULL
        """,
        (list(gateways),),
    ).fetchall()
