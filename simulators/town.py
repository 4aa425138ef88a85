# SPDX-License-Identifier: Apache-2.0
"""A town that a scenario describes itself: one community, its cells, a gateway in each.

For a script that needs to know who stands where. What happens in it is in the scenario's timetable
only: nobody passes its gates by himself, and its lamps are always due.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Final, NamedTuple, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from edge_agent.kinds.alarm import AlarmType
from edge_agent.kinds.base import Id
from simulators.registry import CENTRE, CITY, SHUT, Area, City, Device, Gateway
from simulators.spans import micros

COMMUNITY: Final = "c01"
LAMP_W: Final = 60.0
CLASSES: Final = ("lamp", "gate", *get_args(AlarmType))
# "lamp-001..200": from which number to which, with as many digits.
_NUMBERED: Final = re.compile(r"([a-z-]+-)(\d+)\.\.(\d+)")
_ID: Final = re.compile(r"[a-z][a-z0-9-]*")
_DEVICES_MAX: Final = 500


class Row(NamedTuple):
    """One device of a cell; ``what`` is one of `CLASSES`, ``through`` whose gateway, if not its."""

    device: str
    what: str
    name: str
    name_en: str
    through: str = ""


def _rows(text: object) -> object:
    """Read a cell's table, one device or row of them a line.

    ``id | class | name | English name``, and after another bar the cell through whose gateway it
    reports, if not through that of its own.

    Raises:
        ValueError: A line says something else.
    """
    if not isinstance(text, str):
        return text
    rows: list[Row] = []
    for line in text.strip().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) not in {4, 5} or not all(cells):
            raise ValueError(
                f"{line.strip()!r}: expected id | class | name | English name [| cell]"
            )
        ids, what, name, name_en, through = *cells, *[""] * (5 - len(cells))
        if what not in CLASSES:
            raise ValueError(f"{what!r}: expected one of {', '.join(CLASSES)}")
        rows += _numbered(Row(ids, what, name, name_en, through))
    return tuple(rows)


def _numbered(row: Row) -> Iterable[Row]:
    if _ID.fullmatch(row.device):
        return [row]
    match = _NUMBERED.fullmatch(row.device)
    if match is None or not 0 <= int(match[3]) - int(match[2]) < _DEVICES_MAX:
        raise ValueError(f"{row.device!r}: expected an id, or some as in lamp-001..200")
    prefix, first, last = match.groups()
    return [
        row._replace(
            device=f"{prefix}{number:0{len(first)}}",
            name=f"{number}号{row.name}",
            name_en=f"{row.name_en} {number}",
        )
        for number in range(int(first), int(last) + 1)
    ]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Cell(_Table):
    """A part of the town, and what stands in it."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    name_en: Annotated[str, Field(min_length=1, max_length=100)]
    devices: Annotated[
        tuple[Row, ...], BeforeValidator(_rows), Field(min_length=1, max_length=_DEVICES_MAX)
    ]


class Town(_Table):
    """The one community of a scenario's own city.

    Attributes:
        reporting_period_s: How often each device is heard at least.
        status_interval_s: How often each gateway says that it is there.
        cells: Its parts by name; the gateway of ``north`` is ``gw-north``.
    """

    name: Annotated[str, Field(min_length=1, max_length=100)]
    name_en: Annotated[str, Field(min_length=1, max_length=100)]
    residents: Annotated[int, Field(ge=1, le=100_000)]
    reporting_period_s: Annotated[int, Field(ge=3, le=3_600)]
    status_interval_s: Annotated[int, Field(ge=1, le=60)]
    cells: Annotated[dict[Id, Cell], Field(min_length=1, max_length=16)]

    @field_validator("cells")
    @classmethod
    def _unique(cls, cells: Mapping[str, Cell]) -> Mapping[str, Cell]:
        seen: set[str] = set()
        for row in (row for cell in cells.values() for row in cell.devices):
            if row.device in seen:
                raise ValueError(f"{row.device} stands in it twice")
            seen.add(row.device)
            if row.through and row.through not in cells:
                raise ValueError(f"{row.device}: there is no cell {row.through}")
        return cells

    def build(self, in_service_from: datetime) -> City:
        """Return it as a city of one community, in service since an aware instant."""
        place = CENTRE
        areas = [
            Area("city", "", "city", *CITY, *place, 0, 0),
            Area(
                COMMUNITY, "city", "community", self.name, self.name_en, *place,
                max(1, self.residents * 2 // 5), self.residents,
            ),
            *(
                Area(cell, COMMUNITY, "cell", one.name, one.name_en, *place, 0, 0)
                for cell, one in self.cells.items()
            ),
        ]  # fmt: skip
        gateways = [
            Gateway(f"gw-{cell}", COMMUNITY, f"{one.name}网关") for cell, one in self.cells.items()
        ]
        devices = [_device(cell, row) for cell, one in self.cells.items() for row in one.devices]
        return City(
            areas,
            gateways,
            devices,
            micros(in_service_from),
            self.reporting_period_s,
            self.status_interval_s,
        )


def _device(cell: str, row: Row) -> Device:
    place = f"gw-{row.through or cell}", COMMUNITY, cell, row.name, row.name_en
    match row.what:
        case "lamp":
            return Device(row.device, "lamp", *place, rated_power_w=LAMP_W, programme="always")
        case "gate":
            return Device(row.device, "gate", *place, detail=SHUT)
        case alarm:
            return Device(row.device, "alarm", *place, detail=alarm)
