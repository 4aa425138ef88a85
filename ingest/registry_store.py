# SPDX-License-Identifier: Apache-2.0
"""The registry as the database holds it: read and written as rows of files, under one lock."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.range import DateRange

from ingest.registry_tables import AREAS, DEVICES, GATEWAYS, POPULATION, TABLES, Table
from ingest.store import community_days

Values = dict[str, Any]  # Any: columns differ in type
Rows = dict[str, Values]


@dataclass(frozen=True, slots=True)
class _Field:
    """One value of a row: its name here, its column in the database, its type there."""

    name: str
    stored: str
    sql_type: str


# What follows from other rows and is stored with a row.
_DERIVED: Final[Mapping[Table, Sequence[_Field]]] = {
    AREAS: (_Field("path", "path", "ltree"),),
    DEVICES: (
        # A gateway's community decides its devices'; it is written with them.
        _Field("community", "community", "text"),
        # What a lamp goes by, its own or an area's: with it history and numbers need no tree.
        _Field("effective_programme", "programme", "text"),
    ),
}
_STORED: Final = {(DEVICES, "programme"): "own_programme"}


def _fields(table: Table) -> list[_Field]:
    own = [
        _Field(column.name, _STORED.get((table, column.name), column.name), column.sql_type)
        for column in table.columns
    ]
    return [*own, *_DERIVED.get(table, ())]


def lock(conn: psycopg.Connection) -> datetime:
    """Let nobody else change the registry until COMMIT; return the transaction's time."""
    row = conn.execute("SELECT now() FROM installation FOR UPDATE").fetchone()
    assert row is not None
    return row[0]


def touch(conn: psycopg.Connection) -> None:
    """Tell running services to read the registry again."""
    conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")


def mark_nights(conn: psycopg.Connection, device_id: int, start: datetime, end: datetime) -> int:
    """Have the lamp-nights that [start, end) touches counted again, where readings are kept."""
    return conn.execute(
        """
        UPDATE lamp_night
        SET dirty = true
        WHERE device_id = %(device_id)s
          -- A night lasts from noon to noon, an hour longer where clocks are set back.
          AND due_to > %(start)s AND due_to - INTERVAL '25 hours' < %(end)s
          AND NOT EXISTS (
              SELECT FROM raw_kept AS k
              WHERE k.domain = 'lighting' AND due_to - INTERVAL '25 hours' < k.since)
        """,
        {"device_id": device_id, "start": start, "end": end},
    ).rowcount


def mark_days(
    conn: psycopg.Connection, device_id: int, start: datetime, end: datetime, reason: str
) -> None:
    """Have the days that [start, end) touches computed again, wherever the device stood then."""
    communities = conn.execute(
        """
        SELECT DISTINCT community FROM device_version
        WHERE device_id = %(device_id)s
          -- A day is that of the community in which it ended.
          AND during && tstzrange(%(start)s, %(end)s + INTERVAL '25 hours')
        """,
        {"device_id": device_id, "start": start, "end": end},
    )
    community_days.mark_between(conn, [name for (name,) in communities], start, end, reason)


def registered(conn: psycopg.Connection, table: Table, within: str | None = None) -> Rows:
    """Return what is registered, by id: columns a file may have, and what is derived from others.

    Args:
        conn: Where to read.
        table: What.
        within: Path of an area (an ltree as text): only what lies in it.
    """
    if table is POPULATION:
        return _registered_population(conn, within)
    fields = [
        # ltree goes as text: the driver knows no form of its own for it.
        sql.SQL("{}::{} AS {}").format(
            sql.Identifier(field.stored),
            sql.Identifier(_staged(field.sql_type)),
            sql.Identifier(field.name),
        )
        for field in _fields(table)
    ]
    query = sql.SQL(
        """
        SELECT {fields} FROM {table}
        WHERE %(within)s::text IS NULL
           OR {area} IN (SELECT a.area FROM area AS a WHERE a.path <@ %(within)s::text::ltree)
        """
    ).format(
        fields=sql.SQL(", ").join(fields),
        table=sql.Identifier(table.name),
        area=sql.Identifier("community" if table is GATEWAYS else "area"),
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        return {row[table.key]: row for row in cursor.execute(query, {"within": within})}


def _registered_population(conn: psycopg.Connection, within: str | None) -> Rows:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            SELECT area, lower(valid) AS "from", upper(valid) AS "to", residents, households
            FROM area_population
            WHERE %(within)s::text IS NULL
               OR area IN (SELECT a.area FROM area AS a WHERE a.path <@ %(within)s::text::ltree)
            ORDER BY area, valid
            """,
            {"within": within},
        )
        return {POPULATION.id_of(row): row for row in rows}


def store(conn: psycopg.Connection, before: Mapping[str, Rows], after: Mapping[str, Rows]) -> None:
    """Write what is new or differs, parents before those who name them."""
    for table in TABLES:
        known = before[table.name]
        rows = [values for key, values in after[table.name].items() if known.get(key) != values]
        if rows and table is POPULATION:
            _replace_population(conn, {row["area"] for row in rows}, after[table.name])
        elif rows:
            _upsert(conn, table, rows)


def _replace_population(conn: psycopg.Connection, areas: Set[str], rows: Rows) -> None:
    """Write all figures of some areas: one may only grow when its neighbour has shrunk."""
    conn.execute("DELETE FROM area_population WHERE area = ANY (%s)", (sorted(areas),))
    with conn.cursor() as cursor:
        with cursor.copy(
            "COPY area_population (area, valid, residents, households) FROM STDIN"
        ) as copy:
            for row in rows.values():
                if row["area"] in areas:
                    valid = DateRange(row["from"], row["to"])
                    copy.write_row((row["area"], valid, row["residents"], row["households"]))


def _upsert(conn: psycopg.Connection, table: Table, rows: Iterable[Values]) -> None:
    """Write rows through a staging table: COPY takes a city's devices in seconds."""
    target, stage = sql.Identifier(table.name), sql.Identifier(f"stage_{table.name}")
    fields = _fields(table)
    columns = sql.SQL(", ").join(sql.Identifier(field.stored) for field in fields)
    conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(
            stage,
            sql.SQL(", ").join(
                sql.SQL("{} {}").format(
                    sql.Identifier(field.stored), sql.Identifier(_staged(field.sql_type))
                )
                for field in fields
            ),
        )
    )
    with conn.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(stage, columns)) as copy:
            copy.set_types([_staged(field.sql_type) for field in fields])
            for values in rows:
                copy.write_row([values[field.name] for field in fields])
    conn.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}").format(
            target,
            columns,
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(
                    sql.Identifier(field.stored), sql.Identifier(field.sql_type)
                )
                for field in fields
            ),
            stage,
            sql.Identifier(table.key),
            sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(field.stored))
                for field in fields
            ),
        )
    )


def _staged(sql_type: str) -> str:
    return "text" if sql_type == "ltree" else sql_type
