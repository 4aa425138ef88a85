# SPDX-License-Identifier: Apache-2.0
"""Two who come at once: the first is a test's own connection, the second waits for it."""

from __future__ import annotations

import asyncio

import psycopg

from tests.services import until


async def waited_for(holder: psycopg.Connection, count: int = 1) -> None:
    """Return once so many connections wait for what this one holds."""

    def they_wait() -> bool:
        cursor = holder.execute(
            """
            SELECT count(DISTINCT pid) >= %s FROM pg_locks
            WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))
            """,
            (count,),
        )
        return cursor.fetchone() == (True,)

    await asyncio.to_thread(until, they_wait, f"{count} wait for what is held", timeout_s=30)
