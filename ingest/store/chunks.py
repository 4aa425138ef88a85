# SPDX-License-Identifier: Apache-2.0
"""Chunks of the reading tables, and how each is indexed: for who reads, or for who writes.

A reading table has a b-tree ``(device_id, at)``, of which TimescaleDB gives each new chunk a copy.
A chunk may have a BRIN ``(at)`` instead: next to nothing to keep up, and all it finds is a time.
The table itself always keeps the b-tree: dropped there, it would be dropped in every chunk.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, LiteralString, NamedTuple

import psycopg
from psycopg import Connection, sql

from ingest.kinds import KINDS

Method = Literal["btree", "brin"]

READINGS: Final = tuple(kind.readings.name for kind in KINDS.values())
_COLUMNS: Final[dict[Method, LiteralString]] = {"btree": "(device_id, at)", "brin": "(at)"}
_NAMES: Final[dict[Method, str]] = {"btree": "device_at", "brin": "brin"}
# The two a chunk `c` may have; any other is an operator's own. From tables of the catalogue alone:
# what asks the server's caches (a regclass, pg_get_indexdef) fails for a chunk dropped meanwhile.
_INDEXES: Final = sql.SQL("""
    SELECT n.relname AS name, m.amname AS method, x.indisvalid AS is_valid
    FROM pg_namespace AS s
    JOIN pg_class AS t ON t.relnamespace = s.oid
    JOIN pg_index AS x ON x.indrelid = t.oid
    JOIN pg_class AS n ON n.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = n.relam
    WHERE s.nspname = c.chunk_schema AND t.relname = c.chunk_name AND x.indpred IS NULL
      AND (m.amname, ARRAY(SELECT a.attname::text
                           FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
                           JOIN pg_attribute AS a
                               ON a.attrelid = x.indrelid AND a.attnum = k.attnum
                           ORDER BY k.place))
          IN (('btree', '{device_id,at}'), ('brin', '{at}'))
""")
# A build waits for everybody who read before it, a backup among them; it is tried again later.
_BUILD_WAIT: Final = "2min"
_BUILD_TIMEOUT: Final = "30min"
# Sooner than a statement that waits ends the autovacuum that is in its way (deadlock_timeout).
_BRIEFLY: Final = "100ms"
_IN_THE_WAY: Final = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
    psycopg.errors.DeadlockDetected,
)
_LOOK_INTERVAL: Final = timedelta(minutes=1)


class Index(NamedTuple):
    """One of the two indexes that a chunk may have; an interrupted build leaves an invalid one."""

    name: str
    method: Method
    is_valid: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one table from ``start`` until before ``end``, and which of the indexes there are."""

    table: str
    schema: str
    name: str
    start: datetime
    end: datetime
    indexes: tuple[Index, ...] = ()

    def has(self, method: Method) -> bool:
        """Return whether it has this index and no other."""
        return [(one.method, one.is_valid) for one in self.indexes] == [(method, True)]


def load(conn: Connection, tables: Sequence[str] = READINGS) -> list[Chunk]:
    """Return the chunks of tables with the indexes they have, the oldest first."""
    rows = conn.execute(
        sql.SQL("""
        SELECT c.hypertable_name, c.chunk_schema, c.chunk_name, c.range_start, c.range_end,
               i.name, i.method, i.is_valid
        FROM timescaledb_information.chunks AS c
        LEFT JOIN LATERAL ({}) AS i ON true
        WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = ANY (%(tables)s)
        ORDER BY c.range_start, c.hypertable_name, i.name
        """).format(_INDEXES),
        {"tables": list(tables)},
    )
    chunks: dict[str, Chunk] = {}
    for table, schema, name, start, end, index, method, is_valid in rows:
        chunk = chunks.setdefault(name, Chunk(table, schema, name, start, end))
        if index is not None:
            one = Index(index, method, is_valid)
            chunks[name] = replace(chunk, indexes=(*chunk.indexes, one))
    return list(chunks.values())


def may_index(conn: Connection) -> bool:
    """Return whether this user may make indexes where TimescaleDB keeps chunks.

    That they own the table is not enough; those that come with a chunk need no leave.
    """
    row = conn.execute("SELECT has_schema_privilege('_timescaledb_internal', 'CREATE')").fetchone()
    return row is not None and row[0]


def index(conn: Connection, chunk: Chunk, method: Method) -> bool:
    """Have a chunk indexed one way alone, while it is read and written.

    It always has one of the two, what an interrupted build left is dropped.

    Args:
        conn: Not in a transaction.
        chunk: As it was loaded.
        method: Which way.

    Returns:
        False where somebody was in the way for too long: to be tried again later.
    """
    try:
        with _limits(conn, _BUILD_WAIT, _BUILD_TIMEOUT):
            for statement in _statements(chunk, method, sql.SQL("CONCURRENTLY ")):
                conn.execute(statement)
    except _IN_THE_WAY:
        return False
    return True


def index_new(conn: Connection, table: str, at: datetime, method: Method) -> None:
    """Have the chunk of an instant indexed one way alone, before anybody else sees it.

    Args:
        conn: In the transaction that made the chunk.
        table: Of readings.
        at: The instant.
        method: Which way.
    """
    for chunk in load(conn, [table]):
        if chunk.start <= at < chunk.end:
            for statement in _statements(chunk, method, sql.SQL("")):
                conn.execute(statement)


def _statements(chunk: Chunk, method: Method, way: sql.SQL) -> list[sql.Composed]:
    """Return what has a chunk indexed one way alone, ``CONCURRENTLY`` or not."""
    invalid = [one for one in chunk.indexes if not one.is_valid]
    valid = [one for one in chunk.indexes if one.is_valid]
    wanted = [one for one in valid if one.method == method]
    create = sql.SQL("CREATE INDEX {}{} ON {} USING {} {}").format(
        way,
        sql.Identifier(f"{chunk.name}_{_NAMES[method]}"),
        sql.Identifier(chunk.schema, chunk.name),
        sql.SQL(method),
        sql.SQL(_COLUMNS[method]),
    )

    def drop(one: Index) -> sql.Composed:
        return sql.SQL("DROP INDEX {}{}").format(way, sql.Identifier(chunk.schema, one.name))

    return [
        *map(drop, invalid),
        *([] if wanted else [create]),
        *(drop(one) for one in valid if one not in wanted[:1]),
    ]


def summarise(conn: Connection, chunk: Chunk) -> None:
    """Have a chunk's BRIN know the pages filled since, unless the chunk is being vacuumed.

    Pages it does not know are read by whoever looks for anything.
    """
    try:
        with _limits(conn, _BRIEFLY, _BUILD_TIMEOUT):
            for one in chunk.indexes:
                if one.method == "brin" and one.is_valid:
                    conn.execute(
                        "SELECT brin_summarize_new_values(format('%%I.%%I', %s::text, %s::text))",
                        (chunk.schema, one.name),
                    )
    except _IN_THE_WAY:
        return


# The start of the first chunk of tables without a b-tree; null: all of them have one.
INDEXED_UNTIL: Final = sql.SQL("""
    SELECT min(c.range_start)
    FROM timescaledb_information.chunks AS c
    WHERE c.hypertable_schema = current_schema() AND c.hypertable_name = ANY (%(tables)s)
      AND NOT EXISTS (
          SELECT FROM ({}) AS i WHERE i.method = 'btree' AND i.is_valid)
""").format(_INDEXES)


@contextmanager
def _limits(conn: Connection, wait: str, statement: str) -> Generator[None]:
    """Wait for locks, and work on one statement, for so long and no longer."""
    names = ("lock_timeout", "statement_timeout")
    before = conn.execute("SELECT current_setting(%s), current_setting(%s)", names).fetchone()
    assert before is not None, "there is always one row"
    setting = "SELECT set_config(%s, %s, false), set_config(%s, %s, false)"
    conn.execute(setting, (names[0], wait, names[1], statement))
    try:
        yield
    finally:
        conn.execute(setting, (names[0], before[0], names[1], before[1]))


class Indexed:
    """Until when readings of one device are found by an index; looked up once a minute.

    Who asks for readings device by device asks no further: in a chunk without the b-tree each
    device would cost a look at all rows of the time.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._until: datetime | None = None
        self._looked_at = datetime.min.replace(tzinfo=UTC)

    def until(self, conn: Connection, now: datetime) -> datetime | None:
        """Return the start of the first chunk without; None: all of them have one."""
        if not now - _LOOK_INTERVAL < self._looked_at <= now:
            self._looked_at = now
            row = conn.execute(INDEXED_UNTIL, {"tables": list(READINGS)}).fetchone()
            assert row is not None, "an aggregate always has a row"
            self._until = row[0]
        return self._until
