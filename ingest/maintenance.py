# SPDX-License-Identifier: Apache-2.0
"""Accepted maintenance of devices: time that is neither due nor counted."""

from datetime import datetime

import psycopg
from psycopg.types.range import Range

from ingest.errors import RegistryError
from ingest.registry_store import lock, mark_days, mark_nights, touch


def add_maintenance(
    conn: psycopg.Connection, device: str, start: datetime, end: datetime, reason: str
) -> int:
    """Accept maintenance of ``device`` in [start, end): it is not due and not counted.

    Nights already counted are marked to be counted again. The same maintenance twice is one.

    Returns:
        How many nights were marked.

    Raises:
        RegistryError: No such device, an empty time, or no reason.
    """
    problems: list[str] = []
    if start >= end:
        problems.append(f"maintenance: from {start.isoformat()} must lie before {end.isoformat()}")
    if not reason.strip():
        problems.append("maintenance: a reason is needed")
    with conn.transaction():
        lock(conn)
        row = conn.execute("SELECT id FROM device WHERE device = %s", (device,)).fetchone()
        if row is None:
            problems.append(f"device {device!r}: is not registered")
        if row is None or problems:
            raise RegistryError(problems)
        key = {"device_id": row[0], "during": Range(start, end), "reason": reason.strip()}
        added = conn.execute(
            """
            INSERT INTO maintenance (device_id, during, reason)
            SELECT %(device_id)s, %(during)s::tstzrange, %(reason)s
            WHERE NOT EXISTS (
                SELECT FROM maintenance
                WHERE device_id = %(device_id)s AND during = %(during)s::tstzrange
            )
            """,
            key,
        ).rowcount
        if not added:
            return 0
        touch(conn)
        mark_days(conn, row[0], start, end, "maintenance")
        return mark_nights(conn, row[0], start, end)
