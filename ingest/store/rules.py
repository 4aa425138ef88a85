# SPDX-License-Identifier: Apache-2.0
"""Rules in the database: what areas say of them, in versions, and what rules remember."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple

from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.rules import Rule, RuleBook, Version, is_custom

#: People's own rules of an installation, at most: each is asked of every device of its class.
CUSTOM_MAX: Final = 200


class MemoryKey(NamedTuple):
    """Of what something is remembered: a rule, a device or gateway, and an occurrence's key."""

    rule: str
    subject: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """A row of `rule_memory`; Any: a condition's memory is whatever it made of JSON."""

    rule: str
    subject: str
    key: str
    memory: Any
    since: datetime | None
    ending: bool
    known_until: datetime | None
    params: Mapping[str, Any]
    asked: datetime | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """One version as it is kept."""

    rule: str
    area: str
    version: int
    definition: Mapping[str, Any] | None
    author: str
    reason: str
    at: datetime


class Changed(ValueError):
    """Somebody was first: ``version`` is what the area has now, 0 where it has none."""

    def __init__(self, version: int) -> None:
        """Keep the number."""
        super().__init__(f"version is {version}")
        self.version = version


class TooMany(ValueError):
    """There are as many own rules as there may be."""


# What each area said last, up to a revision.
_LATEST: Final[LiteralString] = """
    SELECT DISTINCT ON (v.rule, v.area) v.rule, v.area, v.version, v.definition
    FROM rule_version AS v
    WHERE v.revision <= %(revision)s
    ORDER BY v.rule, v.area, v.version DESC
"""
# For each area that lies in areas with versions: these, from the root down.
_LIES: Final[LiteralString] = """
    SELECT a.area, array_agg(v.area ORDER BY nlevel(v.path)) AS within
    FROM area AS a
    JOIN (
        SELECT t.area, t.path FROM area AS t
        WHERE t.area IN (SELECT area FROM rule_version) OR t.area = %(also)s
    ) AS v ON a.path <@ v.path
    GROUP BY a.area
"""

#: What people call the rule of ``t``, a row of `alert_view`, as JSON; null for the product's own.
NAME: Final[LiteralString] = """
    CASE WHEN starts_with(t.rule, 'custom.') THEN (
        SELECT v.definition -> 'name'
        FROM rule_version AS v
        JOIN area AS n ON n.area = v.area
        WHERE v.rule = t.rule AND n.path @> t.path AND v.definition ? 'name'
        -- What holds before what a rule that was withdrawn was called once; then the nearest area.
        ORDER BY EXISTS (SELECT FROM rule_version AS l
                         WHERE l.rule = v.rule AND l.area = v.area AND l.version > v.version),
                 nlevel(n.path) DESC, v.version DESC
        LIMIT 1
    ) END
"""


def revision(conn: Connection) -> int:
    """Return the number that grows with each change of a rule."""
    row = conn.execute("SELECT rules_revision FROM installation").fetchone()
    return 0 if row is None else row[0]


def load(conn: Connection, base: RuleBook, until: int) -> RuleBook:
    """Return the rules as they were in force at a revision.

    Args:
        conn: To read from.
        base: Product and installation.
        until: The revision.
    """
    with conn.cursor(row_factory=class_row(_Row)) as cursor:
        versions = cursor.execute(_LATEST, {"revision": until}).fetchall()
    if not versions:
        return base
    return base.renewed(_versions(versions), _lies(conn.execute(_LIES, {"also": None})))


async def load_async(conn: AsyncConnection, defaults: Iterable[Rule], area: str) -> RuleBook:
    """Return the rules in force as whoever asks about ``area`` needs them.

    What the installation says is known from what ingest noted when it started.
    """
    cursor = await conn.execute("SELECT rules_configured FROM installation")
    (configured,) = await cursor.fetchone() or ({},)
    base = RuleBook(defaults, configured)
    async with conn.cursor(row_factory=class_row(_Row)) as cursor:
        await cursor.execute(_LATEST, {"revision": 2**62})
        versions = await cursor.fetchall()
    found = await conn.execute(_LIES, {"also": area})
    return base.renewed(_versions(versions), _lies(await found.fetchall()))


@dataclass(frozen=True, slots=True)
class _Row:
    rule: str
    area: str
    version: int
    definition: Mapping[str, Any] | None


def _versions(rows: Iterable[_Row]) -> list[Version]:
    return [Version(row.rule, row.area, row.version, row.definition) for row in rows]


def _lies(rows: Iterable[Sequence[Any]]) -> dict[str, tuple[str, ...]]:
    # Thousands of areas lie in the same few.
    once: dict[tuple[str, ...], tuple[str, ...]] = {}
    return {area: once.setdefault(tuple(within), tuple(within)) for area, within in rows}


def followed(conn: Connection, member: str) -> int | None:
    """Return up to which revision a writer has cleared what changed rules had standing."""
    row = conn.execute(
        "SELECT revision FROM rules_followed WHERE member = %s", (member,)
    ).fetchone()
    return None if row is None else row[0]


def save_configured(conn: Connection, said: Mapping[str, Mapping[str, object]]) -> None:
    """Note what the installation's configuration says of rules, for those who show them."""
    conn.execute(
        """
        UPDATE installation SET rules_configured = %(said)s
        WHERE rules_configured IS DISTINCT FROM %(said)s
        """,
        {"said": Jsonb(said)},
    )


def save_followed(conn: Connection, member: str, until: int) -> None:
    """Note it, in the transaction that cleared them."""
    conn.execute(
        """
        INSERT INTO rules_followed (member, revision) VALUES (%s, %s)
        ON CONFLICT (member) DO UPDATE SET revision = excluded.revision
        """,
        (member, until),
    )


async def save(
    conn: AsyncConnection,
    rule: str,
    area: str,
    definition: Mapping[str, Any] | None,
    *,
    expected: int | None,
    author: str,
    reason: str,
    now: datetime,
) -> int:
    """Write what an area says of a rule from now on; return the version's number.

    Args:
        conn: Within a transaction, which it serialises with every other one that saves a rule.
        rule: Which.
        area: Where, and in everything below.
        definition: The parameters it sets; None: back to what is inherited.
        expected: The version that was seen, 0 where there was none; None: whatever it is.
        author: Who says so.
        reason: Why, in their words.
        now: When.

    Raises:
        Changed: It is not the version that was seen.
        TooMany: A further rule of people's own is one too many.
    """
    cursor = await conn.execute(
        "UPDATE installation SET rules_revision = rules_revision + 1 RETURNING rules_revision"
    )
    (number,) = await cursor.fetchone() or (0,)
    cursor = await conn.execute(
        "SELECT coalesce(max(version), 0) FROM rule_version WHERE rule = %s AND area = %s",
        (rule, area),
    )
    (last,) = await cursor.fetchone() or (0,)
    if expected is not None and expected != last:
        raise Changed(last)
    if is_custom(rule) and definition is not None:
        cursor = await conn.execute(
            """
            SELECT count(DISTINCT l.rule)
            FROM (SELECT DISTINCT ON (rule, area) rule, definition FROM rule_version
                  WHERE rule <> %s AND starts_with(rule, 'custom.')
                  ORDER BY rule, area, version DESC) AS l
            WHERE l.definition IS NOT NULL
            """,
            (rule,),
        )
        (others,) = await cursor.fetchone() or (0,)
        if others >= CUSTOM_MAX:
            raise TooMany(rule)
    await conn.execute(
        """
        INSERT INTO rule_version (rule, area, version, revision, definition, author, reason, at)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
        """,
        (
            rule,
            area,
            last + 1,
            number,
            None if definition is None else Jsonb(dict(definition)),
            author,
            reason,
            now,
        ),
    )
    return last + 1


async def versions_of(
    conn: AsyncConnection, rule: str, area: str, scope: str, most: int
) -> list[Saved]:
    """Return what an area within a scope (an ltree) said of a rule, the latest first."""
    async with conn.cursor(row_factory=class_row(Saved)) as cursor:
        await cursor.execute(
            """
            SELECT v.rule, v.area, v.version, v.definition, v.author, v.reason, v.at
            FROM rule_version AS v
            JOIN area AS a ON a.area = v.area
            WHERE v.rule = %(rule)s AND v.area = %(area)s
              AND a.path <@ %(scope)s::ltree  -- invariant 9
            ORDER BY v.version DESC
            LIMIT %(most)s
            """,
            {"rule": rule, "area": area, "scope": scope, "most": most},
        )
        return await cursor.fetchall()


async def last_versions(conn: AsyncConnection, area: str, scope: str) -> dict[str, int]:
    """Return the number of the last version of each rule that an area within a scope has."""
    cursor = await conn.execute(
        """
        SELECT v.rule, max(v.version)
        FROM rule_version AS v
        JOIN area AS a ON a.area = v.area
        WHERE v.area = %(area)s
          AND a.path <@ %(scope)s::ltree  -- invariant 9
        GROUP BY v.rule
        """,
        {"area": area, "scope": scope},
    )
    return dict(await cursor.fetchall())


def load_memory(conn: Connection, lane: str) -> list[MemoryRow]:
    """Read what a lane's rules remember."""
    with conn.cursor(row_factory=class_row(MemoryRow)) as cursor:
        return cursor.execute(
            """
            SELECT rule, subject, key, memory, since, ending, known_until, params, asked
            FROM rule_memory WHERE lane = %s
            """,
            (lane,),
        ).fetchall()


def save_memory(conn: Connection, lane: str, memory: Mapping[MemoryKey, MemoryRow | None]) -> None:
    """Write what a lane's rules remember from now on; None: nothing.

    Args:
        conn: Within the transaction of what made it so.
        lane: Whose.
        memory: What changed.
    """
    ended: list[MemoryKey] = []
    kept: list[tuple[object, ...]] = []
    for key, row in memory.items():
        if row is None:
            ended.append(key)
        else:
            told = None if row.memory is None else Jsonb(row.memory)
            kept.append(
                (
                    *key,
                    lane,
                    told,
                    row.since,
                    row.ending,
                    row.known_until,
                    Jsonb(dict(row.params)),
                    row.asked,
                )
            )
    if ended:
        conn.execute(
            """
            DELETE FROM rule_memory AS m
            USING unnest(%s::text[], %s::text[], %s::text[]) AS k (rule, subject, key)
            WHERE m.rule = k.rule AND m.subject = k.subject AND m.key = k.key
            """,
            tuple(map(list, zip(*ended, strict=True))),
        )
    if kept:
        conn.execute(
            """
            INSERT INTO rule_memory (rule, subject, key, lane, memory, since, ending, known_until,
                                     params, asked)
            SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[],
                                 %s::timestamptz[], %s::boolean[], %s::timestamptz[], %s::jsonb[],
                                 %s::timestamptz[])
            ON CONFLICT (rule, subject, key) DO UPDATE
            SET lane = excluded.lane, memory = excluded.memory, since = excluded.since,
                ending = excluded.ending, known_until = excluded.known_until,
                params = excluded.params, asked = excluded.asked
            """,
            tuple(map(list, zip(*kept, strict=True))),
        )


def load_pending(conn: Connection) -> set[MemoryKey]:
    """Read of which built-in conditions on readings a delay runs (`alert_pending`)."""
    return {
        MemoryKey(*row)
        for row in conn.execute(
            """
            SELECT p.rule, d.device
            FROM alert_pending AS p
            JOIN device AS d ON d.id = p.device_id
            """
        )
    }


def forget_pending(conn: Connection, names: Iterable[MemoryKey]) -> None:
    """Let delays of built-in conditions end that a changed rule began."""
    keys = [(name.rule, name.subject) for name in names]
    if keys:
        conn.execute(
            """
            DELETE FROM alert_pending AS p
            USING unnest(%s::text[], %s::text[]) AS k (rule, device)
            JOIN device AS d ON d.device = k.device
            WHERE p.rule = k.rule AND p.device_id = d.id
            """,
            tuple(map(list, zip(*keys, strict=True))),
        )
