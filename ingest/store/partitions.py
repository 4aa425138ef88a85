# SPDX-License-Identifier: Apache-2.0
"""Who writes which partition of a lane: locks of the database, which end with their connection.

No process ever has to be declared dead: what it held is free as soon as PostgreSQL sees that it is
gone.
"""

from collections.abc import Collection, Mapping

from psycopg import Connection

from ingest.partitions import ALL, NAMES, Partitions


def claim(conn: Connection, lane: str, partitions: Collection[str]) -> Partitions:
    """Claim partitions of a lane until the connection ends; return those that others hold.

    A caller who was refused some closes the connection: it holds the rest.
    """
    rows = conn.execute(
        """
        SELECT number FROM unnest(%(numbers)s::int[]) AS p (number)
        -- A name of two halves: the lane, the partition.
        WHERE NOT pg_try_advisory_lock(hashtext('linli ingest ' || %(lane)s::text), number)
        """,
        {"lane": lane, "numbers": [int(name, 16) for name in sorted(partitions)]},
    ).fetchall()
    return frozenset(NAMES[int(number)] for (number,) in rows)


def owners(conn: Connection, lane: str) -> Mapping[str, str]:
    """Return who holds which partition of a lane: the name of the holder's connection."""
    rows = conn.execute(
        """
        SELECT l.objid::int, coalesce(a.application_name, '')
        FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a USING (pid)
        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.classid::bigint = hashtext('linli ingest ' || %(lane)s::text)::bigint & 4294967295
        """,
        {"lane": lane},
    )
    return {NAMES[number]: name for number, name in rows if number < len(NAMES)}


def forget_member(conn: Connection, row: str) -> bool:
    """Forget what is kept of a member of ingest that runs no more (`ingest.partitions.member_row`).

    Returns:
        False, and nothing is forgotten: it was killed while it held states back, and part of the
        telemetry has no writer yet, who would look for them.
    """
    held = conn.execute(
        "SELECT FROM ingest_lane WHERE lane = %s AND held_since IS NOT NULL", (row,)
    ).fetchone()
    # Whoever writes a partition bears the bound of whoever did before, from the start.
    if held is not None and ALL - owners(conn, "telemetry").keys():
        return False
    conn.execute("DELETE FROM ingest_lane WHERE lane = %s", (row,))
    return True
