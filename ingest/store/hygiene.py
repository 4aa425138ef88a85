# SPDX-License-Identifier: Apache-2.0
"""What hygiene asks of the tables: what mutes an alert now, what there is to look at, what is due.

All of it is in rows, so nothing has to be remembered over a restart. A parent (a silent gateway, a
dark circuit, a flood) is an occurrence that stands; what it mutes follows from that alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from ingest.alerts import Action, Suppress, Unsuppress
from ingest.cases import DURESS
from ingest.hygiene import (
    ACTOR,
    CIRCUIT_DARK,
    FLEETING_WITHIN,
    FLOOD,
    FLOOD_TIME,
    GATEWAY_SILENT,
    LAMP_DARK,
    NEVER_MUTED,
    SHELVES_WITHIN,
    Cycle,
)
from ingest.rules import Severity

#: Of one look; a flood is looked at in several.
NEWS_MAX: Final = 1_000
CircuitKey = tuple[str, str]  # community, name of the circuit

# What should mute the alert `t`, if anything may (`ingest.hygiene.may_mute`): once for a raise, and
# once for the keeper, so that both say the same.
_CAUSES: Final = sql.SQL(
    """
    ARRAY (
        SELECT 'gateway:' || o.gateway
        FROM alert_occurrence AS o
        WHERE o.active AND o.rule = {gateway_silent} AND o.gateway = t.gateway
          AND coalesce(o.device, '') = '' AND t.device IS NOT NULL
        UNION
        SELECT 'circuit:' || d.community || '/' || d.circuit
        FROM device AS d, alert_occurrence AS o
        JOIN alert AS p ON p.id = o.alert
        WHERE d.device = t.device AND t.rule <> {circuit_dark}
          AND o.active AND o.rule = {circuit_dark}
          AND p.community = d.community AND o.params ->> 'circuit' = d.circuit
        UNION
        SELECT 'flood:' || o.gateway
        FROM alert_occurrence AS o
        WHERE o.active AND o.rule = {flood} AND o.gateway = t.community
          AND t.rule <> {circuit_dark}
          AND EXISTS (
              SELECT FROM alert_occurrence AS c
              WHERE c.alert = t.id AND c.received_at >= o.raised_at - {flood_time}::interval)
    )
    """
).format(
    gateway_silent=GATEWAY_SILENT,
    circuit_dark=CIRCUIT_DARK,
    flood=FLOOD,
    flood_time=FLOOD_TIME,
)
_MAY_MUTE: Final = sql.SQL(
    "(NOT t.life_safety AND t.severity <> 'critical' AND t.rule <> ALL ({never}))"
).format(never=list(NEVER_MUTED))
_OURS: Final = ("gateway:", "circuit:", "flood:")

_CAUSES_OF: Final = sql.SQL(
    """
    SELECT t.id, t.suppressed_by, CASE WHEN {may_mute} THEN {causes} ELSE '{{}}' END AS wanted
    FROM alert AS t
    WHERE t.id = ANY (%s)
    """
).format(may_mute=_MAY_MUTE, causes=_CAUSES)
_MUTING: Final = sql.SQL(
    """
    WITH candidate AS (
        SELECT id FROM unnest(%(alerts)s::uuid[]) AS id
        UNION
        SELECT t.id FROM alert AS t
        WHERE t.gateway = ANY (%(gateways)s) AND (t.active OR t.latched)
        UNION
        SELECT t.id FROM unnest(%(circuits_of)s::text[], %(circuits)s::text[])
            AS k (community, circuit)
        JOIN device AS d ON d.community = k.community AND d.circuit = k.circuit
        JOIN alert AS t ON t.gateway = d.gateway AND t.device = d.device
        WHERE t.active OR t.latched
        UNION
        SELECT t.id FROM alert AS t
        WHERE t.community = ANY (%(communities)s) AND (t.active OR t.latched)
        UNION
        SELECT t.id FROM alert AS t WHERE %(all)s AND t.suppressed_by <> '{{}}'
    )
    SELECT t.id, t.suppressed_by, CASE WHEN {may_mute} THEN {causes} ELSE '{{}}' END AS wanted
    FROM candidate
    JOIN alert AS t USING (id)
    -- What is over stays as it was when it ended: nobody needs to be told of it now.
    WHERE t.active OR t.latched
    """
).format(may_mute=_MAY_MUTE, causes=_CAUSES)


@dataclass(frozen=True, slots=True)
class Muting:
    """What mutes an alert, and what should."""

    id: UUID
    suppressed_by: list[str]
    wanted: list[str]

    @property
    def come(self) -> list[str]:
        """The causes that are missing."""
        return sorted(set(self.wanted) - set(self.suppressed_by))

    @property
    def gone(self) -> list[str]:
        """The causes that are gone: of those that are hygiene's, not a window of maintenance."""
        return sorted(
            cause for cause in set(self.suppressed_by) - set(self.wanted) if cause.startswith(_OURS)
        )

    def actions(self, now: datetime) -> list[Action]:
        """What brings the one to the other."""
        come: list[Action] = [Suppress(now, cause) for cause in self.come]
        return [*come, *(Unsuppress(now, cause) for cause in self.gone)]


def causes(conn: Connection, alerts: Sequence[UUID]) -> list[Muting]:
    """Return what should mute these alerts, which were just raised.

    A parent that is raised or cleared at the same time in another transaction is not seen here: the
    keeper looks at every occurrence again once it is committed.
    """
    with conn.cursor(row_factory=class_row(Muting)) as cursor:
        return cursor.execute(_CAUSES_OF, (list(alerts),)).fetchall()


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether there is anything to do at all."""

    due: bool
    news: bool
    floods: list[str]
    registry_revision: int
    rules_revision: int


#: One statement a second, however many alerts are open: each part of it reads an index of few rows.
PROBE: Final[LiteralString] = """
    SELECT EXISTS (
               SELECT FROM alert
               WHERE (shelved_until IS NOT NULL OR out_of_service_until IS NOT NULL)
                 AND least(shelved_until, out_of_service_until) <= %(now)s) AS due,
           EXISTS (SELECT FROM alert_occurrence WHERE NOT looked) AS news,
           ARRAY (SELECT gateway FROM alert_occurrence
                  WHERE active AND rule = %(flood)s ORDER BY gateway) AS floods,
           (SELECT registry_revision FROM installation) AS registry_revision,
           (SELECT rules_revision FROM installation) AS rules_revision
"""


def probe(conn: Connection, now: datetime) -> Probe:
    """Return whether there is anything to do."""
    with conn.cursor(row_factory=class_row(Probe)) as cursor:
        row = cursor.execute(PROBE, {"now": now, "flood": FLOOD}).fetchone()
    assert row is not None
    return row


def due(conn: Connection, now: datetime, count: int) -> list[tuple[UUID, bool, bool, bool]]:
    """Return alerts whose time aside is over: of the shelf, out of service.

    And whether hygiene itself shelved it, and nobody has to do with it any more but to take note.
    """
    return conn.execute(
        """
        SELECT id, coalesce(shelved_until <= %(now)s, false),
               coalesce(out_of_service_until <= %(now)s, false),
               coalesce(shelved_by = %(actor)s, false) AND NOT (active OR latched OR acknowledged)
        FROM alert
        WHERE (shelved_until IS NOT NULL OR out_of_service_until IS NOT NULL)
          AND least(shelved_until, out_of_service_until) <= %(now)s
        ORDER BY least(shelved_until, out_of_service_until)
        LIMIT %(count)s
        """,
        {"now": now, "count": count, "actor": ACTOR},
    ).fetchall()


@dataclass(frozen=True, slots=True)
class News:
    """An occurrence that was raised, or cleared, since hygiene looked at it last."""

    id: int
    alert: UUID
    rule: str
    gateway: str
    device: str | None
    community: str
    active: bool
    # Of the device it is about; of `circuit.dark` the circuit itself.
    circuit: str | None


def news(conn: Connection) -> list[News]:
    """Return what hygiene has not looked at, the oldest first."""
    with conn.cursor(row_factory=class_row(News)) as cursor:
        return cursor.execute(
            """
            SELECT o.id, o.alert, o.rule, o.gateway, o.device, t.community, o.active,
                   CASE o.rule WHEN %(circuit_dark)s THEN o.params ->> 'circuit'
                               WHEN %(lamp_dark)s THEN d.circuit END AS circuit
            FROM alert_occurrence AS o
            JOIN alert AS t ON t.id = o.alert
            LEFT JOIN device AS d ON d.device = o.device
            WHERE NOT o.looked
            ORDER BY o.id
            LIMIT %(count)s
            """,
            {"circuit_dark": CIRCUIT_DARK, "lamp_dark": LAMP_DARK, "count": NEWS_MAX},
        ).fetchall()


def look(conn: Connection, seen: Sequence[News]) -> None:
    """Note that these were looked at, unless they changed meanwhile.

    It waits for nobody: what another transaction holds is looked at once more.
    """
    conn.execute(
        """
        UPDATE alert_occurrence AS o
        SET looked = true, quiet = coalesce(o.quiet, t.quiet)
        FROM alert AS t
        WHERE t.id = o.alert
          AND o.id IN (
              SELECT n.id
              FROM unnest(%s::bigint[], %s::boolean[]) AS k (id, active)
              JOIN alert_occurrence AS n ON n.id = k.id AND n.active = k.active
              FOR UPDATE OF n SKIP LOCKED)
        """,
        ([one.id for one in seen], [one.active for one in seen]),
    )


def mutings(
    conn: Connection,
    *,
    alerts: Sequence[UUID] = (),
    gateways: Sequence[str] = (),
    circuits: Sequence[CircuitKey] = (),
    communities: Sequence[str] = (),
    everything: bool = False,
) -> list[Muting]:
    """Return whose muting is not what it should be.

    Args:
        conn: Where to ask.
        alerts: Look at these,
        gateways: at all behind these,
        circuits: at those of the lamps of these,
        communities: at all in these,
        everything: and at all that are muted.
    """
    with conn.cursor(row_factory=class_row(Muting)) as cursor:
        rows = cursor.execute(
            _MUTING,
            {
                "alerts": list(alerts),
                "gateways": list(gateways),
                "circuits_of": [community for community, _ in circuits],
                "circuits": [circuit for _, circuit in circuits],
                "communities": list(communities),
                "all": everything,
            },
        ).fetchall()
    return [row for row in rows if row.come or row.gone]


def parents(conn: Connection) -> list[News]:
    """Return all parents that stand: what a start, or a changed registry, has to look at."""
    with conn.cursor(row_factory=class_row(News)) as cursor:
        return cursor.execute(
            """
            SELECT o.id, o.alert, o.rule, o.gateway, o.device, t.community, o.active,
                   o.params ->> 'circuit' AS circuit
            FROM alert_occurrence AS o
            JOIN alert AS t ON t.id = o.alert
            WHERE o.active AND o.rule = ANY (%s)
            """,
            ([GATEWAY_SILENT, CIRCUIT_DARK, FLOOD],),
        ).fetchall()


@dataclass(frozen=True, slots=True)
class Circuit:
    """A circuit, and whether people were told that it is dark.

    ``device``, ``gateway`` and ``area`` are those of its first lamp, which stands for it; None
    where it has none any more. ``told_device`` and ``told_gateway`` are those of the alert.
    """

    community: str
    circuit: str
    lamps: int
    dark: int
    device: str | None
    gateway: str | None
    area: str | None
    told_device: str | None
    told_gateway: str | None


def dark_circuits(conn: Connection) -> list[CircuitKey]:
    """Return the circuits that have a dark lamp."""
    return conn.execute(
        """
        SELECT DISTINCT d.community, d.circuit
        FROM alert_occurrence AS o
        JOIN device AS d ON d.device = o.device
        WHERE o.active AND o.rule = %s AND d.circuit IS NOT NULL
        """,
        (LAMP_DARK,),
    ).fetchall()


def circuits(conn: Connection, keys: Sequence[CircuitKey]) -> list[Circuit]:
    """Return how these circuits are."""
    with conn.cursor(row_factory=class_row(Circuit)) as cursor:
        return cursor.execute(
            """
            SELECT k.community, k.circuit, l.lamps, l.dark, f.device, f.gateway, f.area,
                   told.device AS told_device, told.gateway AS told_gateway
            FROM unnest(%(communities)s::text[], %(circuits)s::text[]) AS k (community, circuit)
            CROSS JOIN LATERAL (
                SELECT count(*) AS lamps, count(o.id) AS dark
                FROM device AS d
                LEFT JOIN alert_occurrence AS o
                    ON o.active AND o.rule = %(lamp_dark)s AND o.gateway = d.gateway
                    AND coalesce(o.device, '') = d.device
                WHERE d.community = k.community AND d.circuit = k.circuit AND d.kind = 'lamp'
                  AND d.life = 'in_service'
            ) AS l
            LEFT JOIN LATERAL (
                SELECT d.device, d.gateway, d.area
                FROM device AS d
                WHERE d.community = k.community AND d.circuit = k.circuit AND d.kind = 'lamp'
                  AND d.life = 'in_service'
                ORDER BY d.id
                LIMIT 1
            ) AS f ON true
            LEFT JOIN LATERAL (
                SELECT o.device, o.gateway
                FROM alert_occurrence AS o
                JOIN alert AS t ON t.id = o.alert
                WHERE o.active AND o.rule = %(circuit_dark)s
                  AND t.community = k.community AND o.params ->> 'circuit' = k.circuit
                LIMIT 1
            ) AS told ON true
            """,
            {
                "communities": [community for community, _ in keys],
                "circuits": [circuit for _, circuit in keys],
                "lamp_dark": LAMP_DARK,
                "circuit_dark": CIRCUIT_DARK,
            },
        ).fetchall()


@dataclass(frozen=True, slots=True)
class Noisy:
    """An alert that was cleared, and the cycles of its rule on its subject lately."""

    id: UUID
    rule: str
    severity: Severity
    cycles: list[Cycle]


def noisy(conn: Connection, alerts: Sequence[UUID]) -> list[Noisy]:
    """Return the latest cycles of those of these alerts that hygiene might shelve.

    What came in late is no nuisance now. Cycles are those of the rule on the subject, whether they
    are one alert or several.
    """
    found: dict[UUID, Noisy] = {}
    rows = conn.execute(
        """
        SELECT t.id, t.rule, t.severity, o.raised_at, o.cleared_at
        FROM alert AS t
        JOIN alert AS p
            ON p.rule = t.rule AND p.gateway = t.gateway
            AND coalesce(p.device, '') = coalesce(t.device, '')
            AND p.last_raised_at > t.last_raised_at - %(within)s::interval
        JOIN alert_occurrence AS o
            ON o.alert = p.id AND o.raised_at > t.last_raised_at - %(within)s::interval
        WHERE t.id = ANY (%(alerts)s)
          AND NOT t.life_safety AND t.shelved_until IS NULL AND t.out_of_service_until IS NULL
          AND t.rule <> ALL (%(never)s)
          AND o.cleared_at IS NOT NULL AND NOT o.late
        ORDER BY t.id, o.raised_at, o.id
        """,
        {
            "alerts": list(alerts),
            "within": FLEETING_WITHIN,
            "never": [GATEWAY_SILENT, CIRCUIT_DARK, FLOOD],
        },
    )
    for alert, rule, severity, raised_at, cleared_at in rows:
        one = found.setdefault(alert, Noisy(alert, rule, severity, []))
        one.cycles.append(Cycle(raised_at, cleared_at))
    return list(found.values())


def shelves(conn: Connection, alert: UUID, now: datetime) -> tuple[bool, int, bool]:
    """Return what was done about a noisy alert so far.

    Returns:
        Whether a person ever took note of it; how often hygiene shelved it of late, alerts of the
        same rule on the same subject included; whether a person brought one back of late, and so
        wants to see it.
    """
    row = conn.execute(
        """
        SELECT coalesce(bool_or(h.action = 'acknowledged' AND h.actor <> %(actor)s), false),
               count(*) FILTER (WHERE h.action = 'shelved' AND h.actor = %(actor)s
                                  AND h.at > %(since)s),
               coalesce(bool_or(h.action = 'unshelved' AND h.reason = 'person'
                                AND h.at > %(since)s), false)
        FROM alert AS t
        JOIN alert AS p
            ON p.rule = t.rule AND p.gateway = t.gateway
            AND coalesce(p.device, '') = coalesce(t.device, '')
            AND p.last_raised_at > t.last_raised_at - %(within)s::interval
        JOIN alert_history AS h ON h.alert = p.id
        WHERE t.id = %(alert)s
          AND h.action IN ('acknowledged', 'shelved', 'unshelved')
        """,
        {
            "alert": alert,
            "actor": ACTOR,
            "since": now - SHELVES_WITHIN,
            "within": SHELVES_WITHIN,
        },
    ).fetchone()
    assert row is not None, "an aggregate without groups has one row"
    return row


@dataclass(frozen=True, slots=True)
class Incoming:
    """How many alerts came to a community within `FLOOD_TIME`, and how many a flood folds."""

    community: str
    is_flood: bool
    alerts: int
    folded: int


def incoming(conn: Connection, communities: Sequence[str], now: datetime) -> list[Incoming]:
    """Return what comes in, by community.

    What was muted for another cause than a flood, or is put aside, floods nobody. Nor is duress
    counted: the flood's alert is shown to people who must not learn of it.
    """
    with conn.cursor(row_factory=class_row(Incoming)) as cursor:
        return cursor.execute(
            """
            SELECT k.community, f.is_flood, coalesce(i.alerts, 0) AS alerts, f.folded
            FROM unnest(%(communities)s::text[]) AS k (community)
            LEFT JOIN (
                SELECT t.community, count(DISTINCT t.id) AS alerts
                FROM alert_occurrence AS o
                JOIN alert AS t ON t.id = o.alert
                WHERE o.received_at > %(since)s AND t.community = ANY (%(communities)s)
                  AND t.rule <> ALL (%(uncounted)s)
                  AND t.shelved_until IS NULL AND t.out_of_service_until IS NULL
                  AND NOT EXISTS (SELECT FROM unnest(t.suppressed_by) AS c (cause)
                                  WHERE c.cause NOT LIKE 'flood:%%')
                GROUP BY t.community
            ) AS i USING (community)
            CROSS JOIN LATERAL (
                SELECT EXISTS (SELECT FROM alert_occurrence AS o
                               WHERE o.active AND o.rule = %(flood)s
                                 AND o.gateway = k.community) AS is_flood,
                       (SELECT count(*) FROM alert AS t
                        WHERE t.community = k.community AND (t.active OR t.latched)
                          AND t.suppressed_by @> ARRAY['flood:' || k.community]) AS folded
            ) AS f
            """,
            {
                "communities": list(communities),
                "since": now - FLOOD_TIME,
                "flood": FLOOD,
                "uncounted": [FLOOD, DURESS],
            },
        ).fetchall()


def tell_flood(conn: Connection, now: Incoming) -> None:
    """Keep on the flood's alert how much it folds; whoever reads it next sees that."""
    conn.execute(
        """
        UPDATE alert AS t
        SET params = t.params || %(params)s
        FROM alert_occurrence AS o
        WHERE o.active AND o.rule = %(flood)s AND o.gateway = %(community)s AND t.id = o.alert
          AND NOT t.params @> %(params)s
        """,
        {
            "community": now.community,
            "params": Jsonb({"count": now.alerts, "children": now.folded}),
            "flood": FLOOD,
        },
    )
