# SPDX-License-Identifier: Apache-2.0
"""Registry files imported and exported: all or nothing, always.

Every change happens in one transaction under the lock of the one row of ``installation``, whose
``registry_revision`` tells running services to read the registry again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import datetime
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

import psycopg

from ingest.registry_check import Check
from ingest.registry_files import Format, read, write
from ingest.registry_report import Change, Report
from ingest.registry_store import (
    Rows,
    Values,
    lock,
    mark_days,
    mark_nights,
    registered,
    store,
    touch,
)
from ingest.registry_tables import AREAS, DEVICES, POPULATION, TABLES, Files, Problems, Table
from ingest.store import community_days

# What decides when a lamp is due, and what its reports say of light.
_LIGHTING: Final = frozenset(
    {
        "effective_programme",
        "in_service_from",
        "latitude",
        "longitude",
        "rated_power_w",
        "reporting_period_s",
        "time_zone",
    }
)

NAMES: Final = frozenset(table.name for table in TABLES)
_ORDER: Final = ("device", "gateway", "area", "from")


def import_files(
    conn: psycopg.Connection,
    paths: Sequence[Path] | Mapping[Path, str],
    *,
    dry_run: bool = False,
    root: str | None = None,
) -> Report:
    """Add and update what the files say, or with ``dry_run`` find out what that would do.

    What the files do not mention stays as it is. Files may come in any order and refer to one
    another.

    Args:
        conn: Commits, or after a mistake rolls back.
        paths: The files; where people know them by other names than their paths, with these.
        dry_run: Changes nothing.
        root: The one area that all others must lie in.

    Raises:
        RegistryError: With everything that is wrong; nothing was applied.
    """
    problems = Problems()
    named = paths if isinstance(paths, Mapping) else {path: str(path) for path in paths}
    files = read(named, problems)
    if not files.whole:
        # What the missing rows would have said cannot be known, so nothing is held against others.
        raise problems.error()
    report = Report(dry_run)
    with conn.transaction():
        now = lock(conn)
        before = {table.name: registered(conn, table) for table in TABLES}
        after = {table.name: _merge(before[table.name], files, table, now) for table in TABLES}
        Check(files, after, before, problems, root).all()
        if problems:
            raise problems.error()
        for table in TABLES:
            _compare(table, before[table.name], after[table.name], files, report)
        _open_today(before, after, files, now, report)
        store(conn, before, after)
        _restate(conn, report.changed, now)
        _count(conn, [after[DEVICES.name][id] for id in report.added[DEVICES.name]], now)
        if report.changed or any(report.added.values()):
            touch(conn)
        if dry_run:
            raise psycopg.Rollback
    return report


def export_files(
    conn: psycopg.Connection,
    folder: Path,
    *,
    form: Format = Format.CSV,
    tables: Set[str] = NAMES,
    within: str | None = None,
) -> list[Path]:
    """Write what is registered into ``folder``; return the files. Importing them changes nothing.

    Args:
        conn: Reads one moment.
        folder: Made if it is not there.
        form: How.
        tables: Only these.
        within: Path of an area (an ltree as text): only what lies in it. What it lies in itself
            is not told then, so that such files are for reading.

    Raises:
        RegistryError: The folder cannot be written.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        found = {
            table: sorted(registered(conn, table, within).values(), key=_place_in_file)
            for table in TABLES
            if table.name in tables
        }
    for row in found.get(AREAS, ()):
        if row["path"] == within:
            row["parent"] = None
    return write(folder, found, form)


def _place_in_file(row: Values) -> tuple[str, ...]:
    """Areas from the root down, the rest by id."""
    return (str(row.get("path", "")), *(str(row.get(name)) for name in _ORDER))


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
            row = conn.execute("SELECT id FROM device WHERE device = %s", (change.id,)).fetchone()
            assert row is not None
            assert isinstance(change.before, datetime)
            assert isinstance(change.after, datetime)
            start, end = sorted((change.before, change.after))
            mark_nights(conn, row[0], start, end)
            mark_days(conn, row[0], start, end, "registry")


def _count(conn: psycopg.Connection, added: Iterable[Values], now: datetime) -> None:
    """Have the days computed again in which new devices were in service already: all unknown."""
    since: dict[str, datetime] = {}
    for device in added:
        community = device["community"]
        since[community] = min(device["in_service_from"], since.get(community, now))
    for community, start in since.items():
        if start < now:
            community_days.mark_between(conn, [community], start, now, "registry")


def _merge(before: Rows, files: Files, table: Table, now: datetime) -> Rows:
    """Return the table as it shall be: what is registered, with what the files say of it."""
    after = dict(before)
    for key, row in files.rows[table.name].items():
        defaults: Values = {column.name: column.default for column in table.columns}
        if table is DEVICES:
            defaults["in_service_from"] = now
        after[key] = defaults | before.get(key, {}) | dict(row.values)
    return after


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
