# SPDX-License-Identifier: Apache-2.0
"""Readings and events into their hypertables, by binary COPY."""

from collections.abc import Iterable, Sequence

from psycopg import Connection, sql

from ingest.kinds.base import Table


def copy_in(conn: Connection, table: Table, rows: Iterable[Sequence[object]]) -> None:
    """Append rows ``(device_id, at, received_at, *table.columns)``."""
    columns = sql.SQL(", ").join(
        map(sql.Identifier, ("device_id", "at", "received_at", *table.columns))
    )
    statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(
        sql.Identifier(table.name), columns
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(["int4", "timestamptz", "timestamptz", *table.types])
        for row in rows:
            copy.write_row(row)
