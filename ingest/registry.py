# SPDX-License-Identifier: Apache-2.0
"""What is registered: areas and who lives there, gateways, devices, accepted maintenance.

All or nothing, always.

Every change happens in one transaction under the lock of the one row of ``installation``, whose
``registry_revision`` tells running services to read the registry again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.range import DateRange, Range

from ingest import pki
from ingest.errors import PkiError, RegistryError
from ingest.indicators.lighting import ClockProgramme, Place, never_lights, parse_programme
from ingest.registry_files import Format, read, write
from ingest.registry_tables import (
    AREAS,
    DEVICES,
    GATEWAYS,
    LAMP_COLUMNS,
    LEVELS,
    POPULATION,
    TABLES,
    Files,
    Problems,
    Table,
)
from ingest.store import community_days

DEFAULT_TIME_ZONE: Final = "Asia/Shanghai"
# What a parent lends an area that does not say its own.
_INHERITED: Final = (("time_zone",), ("latitude", "longitude"))
# What decides when a lamp is due, and what its reports say of light.
_LIGHTING: Final = frozenset(
    {
        "in_service_from",
        "latitude",
        "longitude",
        "programme",
        "rated_power_w",
        "reporting_period_s",
        "time_zone",
    }
)

NAMES: Final = frozenset(table.name for table in TABLES)
_ORDER: Final = ("device", "gateway", "area", "from")

Values = dict[str, Any]
Rows = dict[str, Values]


@dataclass(frozen=True, slots=True)
class Change:
    """One value of one registered thing, before and after.

    Attributes:
        where: The row, or in a workbook the cell, that says so; empty where it follows from others.
    """

    table: str
    id: str
    column: str
    before: object
    after: object
    where: str = ""

    def __str__(self) -> str:
        return f"{self.table} {self.id}: {self.column}: {_show(self.before)} -> {_show(self.after)}"


@dataclass(slots=True)
class Report:
    """What an import did, or with ``dry_run`` would do.

    Attributes:
        added: Ids by table.
        rows: Where each of them stands, by table and id.
        opened: Areas whose figure in an areas file holds from today on, with that figure.
    """

    dry_run: bool = False
    added: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    rows: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    changed: list[Change] = field(default_factory=list[Change])
    opened: dict[str, int] = field(default_factory=dict[str, int])
    unchanged: int = 0

    def lines(self) -> list[str]:
        """Return the report for people: what changes in full, what is new by number and name.

        A dry run tells every single thing with its row, so that nothing happens unseen later.
        """
        would = "would be " if self.dry_run else ""
        lines: list[str] = []
        for table, ids in self.added.items():
            if self.dry_run:
                lines += [f"{self.rows[table, id]}: {table} {id}: would be added" for id in ids]
            if ids:
                lines.append(f"{table}: {len(ids)} {would}added: {_list(ids)}")
        lines += [
            f"{change.where}: {change}" if change.where else str(change) for change in self.changed
        ]
        holds = "would hold" if self.dry_run else "holds"
        lines += [
            f"population {area}: {residents} residents, {holds} from today on"
            for area, residents in self.opened.items()
        ]
        things = len({(change.table, change.id) for change in self.changed})
        lines.append(
            f"{sum(map(len, self.added.values()))} {would}added, {things} {would}changed,"
            f" {self.unchanged} unchanged"
        )
        return lines


def import_files(
    conn: psycopg.Connection, paths: Sequence[Path], *, dry_run: bool = False
) -> Report:
    """Add and update what the files say, or with ``dry_run`` find out what that would do.

    What the files do not mention stays as it is. Files may come in any order and refer to one
    another.

    Raises:
        RegistryError: With everything that is wrong; nothing was applied.
    """
    problems = Problems()
    files = read(paths, problems)
    if not files.whole:
        # What the missing rows would have said cannot be known, so nothing is held against others.
        raise RegistryError(problems.all())
    report = Report(dry_run)
    with conn.transaction():
        now = _lock(conn)
        before = {table.name: _registered(conn, table) for table in TABLES}
        after = {table.name: _merge(before[table.name], files, table, now) for table in TABLES}
        _Check(files, after, before, problems).all()
        if problems.lines:
            raise RegistryError(problems.all())
        for table in TABLES:
            _compare(table, before[table.name], after[table.name], files, report)
        _open_today(before, after, files, now, report)
        _store(conn, before, after)
        _restate(conn, report.changed, now)
        if report.changed or any(report.added.values()):
            _touch(conn)
        if dry_run:
            raise psycopg.Rollback
    return report


def export_files(
    conn: psycopg.Connection, folder: Path, *, form: Format = Format.CSV, tables: Set[str] = NAMES
) -> list[Path]:
    """Write what is registered into ``folder``; return the files. Importing them changes nothing.

    Raises:
        RegistryError: The folder cannot be written.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = {
            table: sorted(map(_for_file, _registered(conn, table).values()), key=_place_in_file)
            for table in TABLES
            if table.name in tables
        }
    return write(folder, found, form)


def _for_file(row: Values) -> Values:
    """Leave out what only lamps have: other devices carry defaults that a file may not name."""
    return row if row.get("kind", "lamp") == "lamp" else row | dict.fromkeys(LAMP_COLUMNS)


def _place_in_file(row: Values) -> tuple[str, ...]:
    """Areas from the root down, the rest by id."""
    return (str(row.get("path", "")), *(str(row.get(name)) for name in _ORDER))


def add_gateway(
    conn: psycopg.Connection,
    authority: Path | pki.Authority,
    gateway: str,
    community: str,
    out: Path,
    broker_host: str,
    broker_port: int,
    *,
    name: str = "",
    reissue: bool = False,
) -> list[Path]:
    """Register a gateway and write what its agent needs into ``out``; return the files written.

    ``out`` receives ca.crt, client.crt, client.key and agent.toml. What is there is kept: an
    agent.toml always, a certificate unless ``reissue``. So doing it twice is doing it once.

    Raises:
        RegistryError: A bad id, no such community, or a gateway of another one, or revoked.
        PkiError: The authority or the certificate in ``out`` cannot be used.
    """
    authority = pki.load_authority(authority) if isinstance(authority, Path) else authority
    with conn.transaction():
        _lock(conn)
        _register_gateway(conn, gateway, community, name)
        try:
            return _equip(
                conn, authority, gateway, community, out, broker_host, broker_port, reissue
            )
        except OSError as error:
            raise RegistryError(
                f"{error.filename or out}: cannot write: {error.strerror}"
            ) from None


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
        _lock(conn)
        row = conn.execute(
            "SELECT id, community FROM device WHERE device = %s", (device,)
        ).fetchone()
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
        _touch(conn)
        community_days.mark_between(conn, [row[1]], start, end, "maintenance")
        return _mark_nights(conn, row[0], start, end)


def _lock(conn: psycopg.Connection) -> datetime:
    """Let nobody else change the registry until COMMIT; return the transaction's time."""
    row = conn.execute("SELECT now() FROM installation FOR UPDATE").fetchone()
    assert row is not None
    return row[0]


def _touch(conn: psycopg.Connection) -> None:
    conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")


def _mark_nights(conn: psycopg.Connection, device_id: int, start: datetime, end: datetime) -> int:
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


def _restate(conn: psycopg.Connection, changes: Iterable[Change], now: datetime) -> None:
    """Have the nights counted again that a change of the registry makes look different.

    A corrected start of service reaches back; all else holds from the running night on.
    """
    changed = [change for change in changes if change.column in _LIGHTING]
    conn.execute(
        """
        UPDATE lamp_night AS n
        SET dirty = true
        FROM device AS d
        WHERE d.id = n.device_id
          AND (d.device = ANY (%(devices)s) OR d.community = ANY (%(areas)s))
          AND n.due_to > %(now)s
        """,
        {
            "devices": [change.id for change in changed if change.table == DEVICES.name],
            "areas": [change.id for change in changed if change.table == AREAS.name],
            "now": now,
        },
    )
    for change in changed:
        if change.column == "in_service_from":
            row = conn.execute(
                "SELECT id, community FROM device WHERE device = %s", (change.id,)
            ).fetchone()
            assert row is not None
            assert isinstance(change.before, datetime)
            assert isinstance(change.after, datetime)
            start, end = sorted((change.before, change.after))
            _mark_nights(conn, row[0], start, end)
            community_days.mark_between(conn, [row[1]], start, end, "registry")


def _registered(conn: psycopg.Connection, table: Table) -> Rows:
    """Return what is registered, by id, in the columns a file may have."""
    if table is POPULATION:
        return _registered_population(conn)
    # A gateway's community decides its devices'; it is written with them.
    own = [sql.Identifier(column.name) for column in table.columns]
    extra = {AREAS.name: [sql.SQL("path::text")], DEVICES.name: [sql.SQL("community")]}
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join([*own, *extra.get(table.name, [])]), sql.Identifier(table.name)
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        return {row[table.key]: row for row in cursor.execute(query)}


def _registered_population(conn: psycopg.Connection) -> Rows:
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            SELECT area, lower(valid) AS "from", upper(valid) AS "to", residents, households
            FROM area_population
            ORDER BY area, valid
            """
        )
        return {POPULATION.id_of(row): row for row in rows}


def _merge(before: Rows, files: Files, table: Table, now: datetime) -> Rows:
    """Return the table as it shall be: what is registered, with what the files say of it."""
    after = dict(before)
    for key, row in files.rows[table.name].items():
        defaults: Values = {column.name: column.default for column in table.columns}
        if table is DEVICES:
            defaults["in_service_from"] = now
        after[key] = defaults | before.get(key, {}) | dict(row.values)
    return after


class _Check:
    """What rows say about one another: the tree, who stands where, what must not change."""

    def __init__(
        self,
        files: Files,
        after: Mapping[str, Rows],
        before: Mapping[str, Rows],
        problems: Problems,
    ) -> None:
        self._files = files
        self._areas = after[AREAS.name]
        self._gateways = after[GATEWAYS.name]
        self._devices = after[DEVICES.name]
        self._population = after[POPULATION.name]
        self._before = before
        self._problems = problems
        # With a gap in the tree nobody can be said to stand outside of anything.
        self._sound = not files.refused[AREAS.name]
        self._paths: dict[str, tuple[str, ...]] = {}

    def all(self) -> None:
        """Check everything; fill in paths, what parents lend, devices' communities, open ends."""
        for area in self._areas:
            self._descend(area)
        for area in sorted(self._areas, key=lambda area: len(self._paths[area])):
            self._check_area(area)
        for gateway, values in self._gateways.items():
            self._check_gateway(gateway, values)
        for device, values in self._devices.items():
            self._check_device(device, values)
        self._check_population()

    def _say(self, table: Table, key: str, column: str, expected: str) -> None:
        row = self._files.rows[table.name].get(key)
        if row is not None and column in row.cells:
            self._problems.add(row.where, expected, column=column, value=row.cells[column])
        else:
            self._problems.add(f"registered {table.name} {key}", expected, column=column)

    def _missing(self, table: Table, key: str, column: str, named: Table, id: str) -> None:
        """Report that ``id`` does not exist, unless its own row was already reported."""
        if id not in self._files.refused[named.name]:
            self._say(table, key, column, f"no such {named.name}")

    def _descend(self, area: str) -> None:
        """Note the ids from the root down to ``area``; a cycle is cut where it was found."""
        trail: list[str] = []
        current: str | None = area
        while current is not None and current not in self._paths:
            if current in trail:
                cycle = " > ".join([*trail[trail.index(current) :], current])
                self._say(AREAS, current, "parent", f"the areas form a circle: {cycle}")
                self._sound = False
                break
            trail.append(current)
            parent: str | None = self._areas[current]["parent"]
            if parent is not None and parent not in self._areas:
                self._missing(AREAS, current, "parent", AREAS, parent)
                self._sound = False
                parent = None
            current = parent
        above = self._paths.get(current or "", ())
        for link in reversed(trail):
            above = self._paths[link] = (*above, link)

    def _check_area(self, area: str) -> None:
        values = self._areas[area] = dict(self._areas[area])
        values["path"] = ".".join(link.replace("-", "_") for link in self._paths[area])
        parent = self._areas.get(values["parent"] or "")
        if parent is not None:
            if LEVELS.index(values["level"]) <= LEVELS.index(parent["level"]):
                self._say(
                    AREAS, area, "level", f"must lie below its parent's, which is {parent['level']}"
                )
            for group in _INHERITED:
                if values[group[0]] is None:
                    values.update({column: parent[column] for column in group})
        values["time_zone"] = values["time_zone"] or DEFAULT_TIME_ZONE

    def _check_gateway(self, gateway: str, values: Values) -> None:
        community = self._areas.get(values["community"])
        if community is None:
            self._missing(GATEWAYS, gateway, "community", AREAS, values["community"])
        elif community["level"] != "community":
            self._say(GATEWAYS, gateway, "community", f"is a {community['level']}, not a community")

    def _check_device(self, device: str, values: Values) -> None:
        values = self._devices[device] = dict(values)
        gateway = self._gateways.get(values["gateway"])
        if gateway is None:
            self._missing(DEVICES, device, "gateway", GATEWAYS, values["gateway"])
        area = self._paths.get(values["area"])
        if area is None:
            self._missing(DEVICES, device, "area", AREAS, values["area"])
        known = self._before[DEVICES.name].get(device)
        if known is not None and known["kind"] != values["kind"]:
            self._say(
                DEVICES,
                device,
                "kind",
                f"is registered as a {known['kind']}; give the new device an id of its own",
            )
        if gateway is None or area is None:
            return
        community: str = gateway["community"]
        values["community"] = community
        if community not in self._areas or not self._sound:
            return
        if community not in area:
            self._say(
                DEVICES, device, "area", f"lies outside its gateway's community {community!r}"
            )
        if values["kind"] == "lamp":
            self._check_programme(device, values["programme"], community)

    def _check_programme(self, device: str, text: str, community: str) -> None:
        programme = parse_programme(text)
        if isinstance(programme, ClockProgramme):
            return
        place = self._areas[community]
        if place["latitude"] is None:
            expected = f"follows the sun, but community {community!r} has no latitude and longitude"
            self._say(DEVICES, device, "programme", expected)
        elif never_lights(
            programme, Place(place["latitude"], place["longitude"], place["time_zone"])
        ):
            expected = f"never lights: no night at community {community!r} is long enough"
            self._say(DEVICES, device, "programme", expected)

    def _check_population(self) -> None:
        """Let a row without end hold until the next one begins; two must not hold at once."""
        by_area: defaultdict[str, list[str]] = defaultdict(list)
        for key, values in self._population.items():
            by_area[values["area"]].append(key)
            if values["area"] not in self._areas:
                self._missing(POPULATION, key, "area", AREAS, values["area"])
        for keys in by_area.values():
            keys.sort(key=lambda key: self._population[key]["from"])
            for key, later in pairwise(keys):
                values, begin = self._population[key], self._population[later]["from"]
                if values["to"] is None:
                    self._population[key] = values | {"to": begin}
                elif values["to"] > begin and later in self._files.rows[POPULATION.name]:
                    expected = f"overlaps the figure from {values['from']} to {values['to']}"
                    self._say(POPULATION, later, "from", expected)
                elif values["to"] > begin:
                    self._say(POPULATION, key, "to", f"overlaps the figure from {begin}")


def _compare(table: Table, before: Rows, after: Rows, files: Files, report: Report) -> None:
    """Note what is new and what differs."""
    added = report.added.setdefault(table.name, [])
    rows = files.rows[table.name]
    for key, values in after.items():
        known = before.get(key)
        if known is None:
            added.append(key)
            report.rows[table.name, key] = str(rows[key].where)
        elif known == values:
            report.unchanged += 1
        else:
            row = rows.get(key)
            for column, value in values.items():
                if known[column] != value:
                    where = "" if row is None or column not in row.cells else row.where.cell(column)
                    report.changed.append(
                        Change(table.name, key, column, known[column], value, where)
                    )


def _open_today(
    before: Mapping[str, Rows],
    after: Mapping[str, Rows],
    files: Files,
    now: datetime,
    report: Report,
) -> None:
    """Let a new figure of an areas file hold from today on, local date of the area.

    What a population file says of the same area in the same import comes first. A figure taken
    away from an areas file changes nothing: a population file says until when one held.
    """
    population = after[POPULATION.name]
    told = {row.values["area"] for row in files.rows[POPULATION.name].values()}
    by_area: defaultdict[str, list[Values]] = defaultdict(list)
    for row in population.values():
        by_area[row["area"]].append(row)
    for area in files.rows[AREAS.name]:
        values, known = after[AREAS.name][area], before[AREAS.name].get(area)
        figure = {name: values[name] for name in ("residents", "households")}
        same = known is not None and all(known[name] == value for name, value in figure.items())
        if same or values["residents"] is None or area in told:
            continue
        today = now.astimezone(ZoneInfo(values["time_zone"])).date()
        until = None
        for row in by_area[area]:
            if row["from"] <= today and (row["to"] is None or today < row["to"]):
                until = row["to"]
                population[POPULATION.id_of(row)] = row | {"to": today}
            elif today < row["from"]:
                until = row["from"] if until is None else min(until, row["from"])
        row = {"area": area, "from": today, "to": until, **figure}
        population[POPULATION.id_of(row)] = row
        report.opened[area] = values["residents"]


def _store(conn: psycopg.Connection, before: Mapping[str, Rows], after: Mapping[str, Rows]) -> None:
    """Write what is new or differs, parents before those who name them."""
    extra = {AREAS.name: {"path": "ltree"}, DEVICES.name: {"community": "text"}}
    for table in TABLES:
        known = before[table.name]
        rows = [values for key, values in after[table.name].items() if known.get(key) != values]
        if rows and table is POPULATION:
            _replace_population(conn, {row["area"] for row in rows}, after[table.name])
        elif rows:
            types = {column.name: column.sql_type for column in table.columns}
            _upsert(conn, table, types | extra.get(table.name, {}), rows)


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


def _upsert(
    conn: psycopg.Connection, table: Table, types: Mapping[str, str], rows: Iterable[Values]
) -> None:
    """Write rows through a staging table: COPY takes a city's devices in seconds."""
    target, stage = sql.Identifier(table.name), sql.Identifier(f"stage_{table.name}")
    columns = sql.SQL(", ").join(map(sql.Identifier, types))
    conn.execute(
        sql.SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DROP").format(
            stage,
            sql.SQL(", ").join(
                # ltree goes as text: the driver knows no binary or text form of its own for it.
                sql.SQL("{} {}").format(sql.Identifier(name), sql.Identifier(_staged(sql_type)))
                for name, sql_type in types.items()
            ),
        )
    )
    with conn.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(stage, columns)) as copy:
            copy.set_types([_staged(sql_type) for sql_type in types.values()])
            for values in rows:
                copy.write_row([values[name] for name in types])
    conn.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}").format(
            target,
            columns,
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Identifier(name), sql.Identifier(sql_type))
                for name, sql_type in types.items()
            ),
            stage,
            sql.Identifier(table.key),
            sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name)) for name in types
            ),
        )
    )


def _staged(sql_type: str) -> str:
    return "text" if sql_type == "ltree" else sql_type


def _register_gateway(conn: psycopg.Connection, gateway: str, community: str, name: str) -> None:
    """Make the gateway's row if there is none; refuse to move or revive one."""
    column, _, named = GATEWAYS.columns
    try:
        key = column.parse(gateway)
    except ValueError as error:
        raise RegistryError(f"gateway {gateway!r}: {error}") from None
    try:
        name = str(named.parse(name.strip()))
    except ValueError as error:
        raise RegistryError(f"name {name!r}: {error}") from None
    area = conn.execute("SELECT level FROM area WHERE area = %s", (community,)).fetchone()
    if area is None:
        raise RegistryError(f"community {community!r}: no such area; import areas first")
    if area[0] != "community":
        raise RegistryError(f"community {community!r}: is a {area[0]}, not a community")
    known = conn.execute(
        "SELECT community, status, name FROM gateway WHERE gateway = %s", (key,)
    ).fetchone()
    if known is None:
        conn.execute(
            "INSERT INTO gateway (gateway, community, name) VALUES (%s, %s, %s)",
            (key, community, name),
        )
        _touch(conn)
        return
    if known[0] != community:
        raise RegistryError(f"gateway {gateway!r}: belongs to community {known[0]!r}")
    if known[1] != "active":
        raise RegistryError(f"gateway {gateway!r}: is {known[1]}")
    if name and name != known[2]:
        conn.execute("UPDATE gateway SET name = %s WHERE gateway = %s", (name, key))
        _touch(conn)


def _equip(
    conn: psycopg.Connection,
    authority: pki.Authority,
    gateway: str,
    community: str,
    out: Path,
    broker_host: str,
    broker_port: int,
    reissue: bool,
) -> list[Path]:
    """Write certificate, key, the authority's certificate and a configuration into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    certificate, key = out / "client.crt", out / "client.key"
    if reissue or not certificate.exists():
        issued = pki.issue_client(authority, gateway, out=out, stem="client")
        written += [issued.certificate, issued.key]
    ca = out / "ca.crt"
    if not ca.exists() or reissue:
        pki.write(ca, pki.encode(authority.certificate))
        written.append(ca)
    problems = pki.check(certificate, key, ca, identity=gateway)
    if problems:
        raise PkiError([*problems, "use --reissue for a new certificate"])
    agent = out / "agent.toml"
    if not agent.exists():
        devices = conn.execute(
            """
            SELECT device, kind FROM device
            WHERE gateway = %s AND life <> 'retired'
            ORDER BY kind, device
            """,
            (gateway,),
        ).fetchall()
        text = agent_config(gateway, community, broker_host, broker_port, devices)
        pki.write(agent, text.encode())
        written.append(agent)
    return written


def agent_config(
    gateway: str, community: str, host: str, port: int, devices: Sequence[tuple[str, str]]
) -> str:
    """Return a configuration for the gateway's agent, to be completed by whoever knows the wiring.

    Args:
        gateway: Its id.
        community: The community it stands in.
        host: The broker's address.
        port: The broker's port.
        devices: Id and class of what is registered behind it.
    """
    examples = devices or [("street-lamp-001", "lamp")]
    known = (
        f"# Registered behind this gateway: {len(devices)}. Take away the # once it has its driver."
        if devices
        else "# Nothing is registered behind this gateway yet; devices.csv brings it in."
    )
    blocks = "\n".join(
        f'# [[devices]]\n# device = "{device}"\n# kind = "{kind}"\n'
        f'# driver = "your_drivers.{kind}:make"\n# options = {{ }}\n'
        for device, kind in examples
    )
    return f"""\
# The edge agent of gateway {gateway}. Next steps:
#
# 1. Copy this folder to the gateway. client.key is its identity: keep it mode 0600, in one place
#    only; whoever holds it can speak for this gateway. Lost it? Issue another one with
#    `linli-ingest gateway add {gateway} --community {community} --out DIR --reissue`.
# 2. Say below which driver reads which device: "module:function" of any installed Python package;
#    function(device, options) returns the driver (edge_agent.kinds.Driver says what that is).
# 3. Start it: linli-edge run --config agent.toml

gateway = "{gateway}"
community = "{community}"
data = "data"                    # where the outbox lies; it must survive a power cut

[broker]
host = "{host}"
port = {port}
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"

[sampling]
poll_interval_s = 1.0
heartbeat_s = 60.0               # an unchanged reading is repeated this often
status_interval_s = 10.0

[pseudonym]
# Turns card numbers into pseudonyms. Made at the first start; gateways of one community share it,
# so copy the first one's to the others if a person shall be one pseudonym at all their gates.
key_file = "pseudonym.key"

{known}
#
{blocks}"""


def _show(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return value.isoformat() if isinstance(value, date) else repr(value)


def _list(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5])
    return f"{shown}, ..." if len(ids) > 5 else shown
