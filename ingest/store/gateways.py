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


def save_presence(conn: Connection, presence: Sequence[tuple[str, datetime | None, bool]]) -> None:
    """Write when gateways were last heard, and whether that is too long ago."""
    conn.execute(
        """
        UPDATE gateway AS g
        SET last_seen_at = greatest(g.last_seen_at, p.at), silent = p.silent
        FROM unnest(%s::text[], %s::timestamptz[], %s::bool[]) AS p (gateway, at, silent)
        WHERE g.gateway = p.gateway
        """,
        [[row[column] for row in presence] for column in range(3)],
    )


def save_heard(conn: Connection, heard: Sequence[tuple[str, datetime]]) -> None:
    """Write when gateways were heard, for the process that decides whether they are silent.

    Who is being written by that process is left out until the next time: alarms wait for its
    transaction, which is not to wait for ours, nor ours for it.
    """
    gateways = [gateway for gateway, _ in heard]
    conn.execute(
        """
        WITH free AS MATERIALIZED (
            SELECT gateway FROM gateway WHERE gateway = ANY (%s) FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE gateway AS g SET last_seen_at = h.at
        FROM free JOIN unnest(%s::text[], %s::timestamptz[]) AS h (gateway, at) USING (gateway)
        WHERE g.gateway = free.gateway AND h.at > coalesce(g.last_seen_at, '-infinity')
        """,
        (gateways, gateways, [at for _, at in heard]),
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
