# SPDX-License-Identifier: Apache-2.0
"""What an import of registry files did, or would do."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime


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


def _show(value: object) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return value.isoformat() if isinstance(value, date) else repr(value)


def _list(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5])
    return f"{shown}, ..." if len(ids) > 5 else shown
