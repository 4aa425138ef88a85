# SPDX-License-Identifier: Apache-2.0
"""The city that is simulated: its communities, gateways and devices, and their registry files.

Sixteen communities is the size of the first requirement document (a small city's five-year plan);
each has 2 gateways, 60 lamps, 12 bins, 6 gates and 10 alarms in three grid cells.
"""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

from edge_agent.kinds.alarm import AlarmType
from simulators.chance import Draw
from simulators.errors import ScenarioError
from simulators.spans import instant, micros

TIME_ZONE: Final = "Asia/Shanghai"
REPORTING_PERIOD_S: Final = 600
STATUS_INTERVAL_S: Final = 5
COMMUNITIES_MAX: Final = 99
CELLS: Final = 3
GATEWAYS: Final = ("a", "b")
LAMPS: Final = 60
BINS: Final = 12
GATES: Final = 6
# By number: each cell has an intrusion detector, the rest stand where they are needed.
ALARMS: Final[tuple[AlarmType, ...]] = (
    "intrusion",
    "intrusion",
    "intrusion",
    "panic",
    "smoke",
    "gas",
    "fire",
    "water",
    "fire_lane_blocked",
    "duress",
)
CENTRE: Final = (30.6, 104.0)
CITY: Final = ("邻里市", "Linli City")
# Invented names; what they share with real places is chance.
_NAMES: Final = (
    ("桂园", "Guiyuan"),
    ("梧桐里", "Wutongli"),
    ("柳荫", "Liuyin"),
    ("荷塘", "Hetang"),
    ("枫林", "Fenglin"),
    ("竹溪", "Zhuxi"),
    ("杏坛", "Xingtan"),
    ("兰亭", "Lanting"),
    ("松涛", "Songtao"),
    ("海棠", "Haitang"),
    ("银杏", "Yinxing"),
    ("翠湖", "Cuihu"),
    ("春晖", "Chunhui"),
    ("和平里", "Hepingli"),
    ("安康", "Ankang"),
    ("锦绣", "Jinxiu"),
)
_DETECTORS: Final[dict[AlarmType, tuple[str, str]]] = {
    "intrusion": ("入侵探测器", "Intrusion detector"),
    "panic": ("紧急按钮", "Panic button"),
    "smoke": ("烟雾探测器", "Smoke detector"),
    "gas": ("燃气探测器", "Gas detector"),
    "fire": ("火灾手报", "Fire call point"),
    "water": ("水浸探测器", "Water detector"),
    "tamper": ("防拆探测器", "Tamper detector"),
    "fire_lane_blocked": ("消防通道探测器", "Fire lane detector"),
    "duress": ("胁迫报警器", "Duress button"),
}
#: The ``detail`` of a gate that nobody passes.
SHUT: Final = "shut"
_STREAMS: Final = ("residual", "kitchen", "recyclable")


@dataclass(frozen=True, slots=True)
class Area:
    """A node of the area tree. Degrees north and east, rounded as the registry file has them."""

    area: str
    parent: str
    level: str
    name: str
    name_en: str
    latitude: float
    longitude: float
    households: int
    residents: int


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway, and the community it stands in."""

    gateway: str
    community: str
    name: str


@dataclass(frozen=True, slots=True)
class Device:
    """A device; ``detail`` is an alarm's type, a bin's stream, or a gate's `SHUT`."""

    device: str
    kind: str
    gateway: str
    community: str
    area: str
    name: str
    name_en: str
    rated_power_w: float | None = None
    programme: str = ""
    detail: str = ""


@dataclass(frozen=True)
class City:
    """All that is registered.

    ``in_service_us``: since when everything is in service. ``reporting_period_s``: how often each
    device is heard at least; ``status_interval_s``: how often each gateway says that it is there.
    """

    areas: Sequence[Area]
    gateways: Sequence[Gateway]
    devices: Sequence[Device]
    in_service_us: int
    reporting_period_s: int = REPORTING_PERIOD_S
    status_interval_s: int = STATUS_INTERVAL_S

    @cached_property
    def by_id(self) -> dict[str, Device]:
        """The devices by id."""
        return {device.device: device for device in self.devices}

    @cached_property
    def communities(self) -> dict[str, Area]:
        """The communities by id."""
        return {area.area: area for area in self.areas if area.level == "community"}

    def behind(self, gateway: str) -> list[Device]:
        """Return the devices that report through one gateway."""
        return [device for device in self.devices if device.gateway == gateway]


def build(seed: int, communities: int, in_service_from: datetime) -> City:
    """Return the city of a seed; a larger one contains every smaller one of the same seed.

    Args:
        seed: Decides places, sizes and small differences.
        communities: 1 to `COMMUNITIES_MAX`.
        in_service_from: Since when the devices are in service.
    """
    areas = [Area("city", "", "city", *CITY, *CENTRE, 0, 0)]
    gateways: list[Gateway] = []
    devices: list[Device] = []
    for number in range(1, communities + 1):
        community = _community(seed, number)
        cells = [
            Area(
                f"{community.area}-g{cell:02d}",
                community.area,
                "cell",
                f"{community.name}第{cell}网格",
                f"{community.name_en}, cell {cell}",
                community.latitude,
                community.longitude,
                0,
                0,
            )
            for cell in range(1, CELLS + 1)
        ]
        areas += [community, *cells]
        gateways += [
            Gateway(f"gw-{community.area}-{letter}", community.area, f"{community.name}网关{mark}")
            for letter, mark in zip(GATEWAYS, "甲乙", strict=True)
        ]
        devices += _devices(seed, community)
    return City(areas, gateways, devices, micros(in_service_from))


def _community(seed: int, number: int) -> Area:
    area = f"c{number:02d}"
    draw = Draw(seed, "registry", area)
    name, name_en = _NAMES[(number - 1) % len(_NAMES)]
    repeat = (number - 1) // len(_NAMES)
    suffix = str(repeat + 1) if repeat else ""
    households = 1_000 + draw.below(2_001)
    return Area(
        area,
        "city",
        "community",
        f"{name}{suffix}社区",
        f"{name_en} {suffix}".strip(),
        round(CENTRE[0] + draw.between(-0.06, 0.06), 4),
        round(CENTRE[1] + draw.between(-0.06, 0.06), 4),
        households,
        int(households * draw.between(2.4, 3.0)),
    )


def _devices(seed: int, community: Area) -> Iterable[Device]:
    area = community.area
    place, place_en = community.name.removesuffix("社区"), community.name_en
    draw = Draw(seed, "devices", area)

    def device(
        kind: str,
        index: int,
        name: tuple[str, str],
        *,
        rated_power_w: float | None = None,
        programme: str = "",
        detail: str = "",
    ) -> Device:
        # Neighbours in one cell report through both gateways, so that one lost link is no blackout.
        gateway = f"gw-{area}-{GATEWAYS[(index // CELLS) % len(GATEWAYS)]}"
        number = index + 1
        return Device(
            f"{area}-{kind}-{number:03d}",
            kind,
            gateway,
            area,
            f"{area}-g{index % CELLS + 1:02d}",
            f"{place}{number}号{name[0]}",
            f"{place_en} {name[1]} {number}",
            rated_power_w,
            programme,
            detail,
        )

    for index in range(LAMPS):
        underpass = index == LAMPS - 1
        programme = "always" if underpass else "sun+15-10" if index % 10 == 3 else "sun"
        rated = draw.pick((40.0, 60.0, 60.0, 80.0))
        names = ("地道灯", "underpass lamp") if underpass else ("路灯", "lamp")
        yield device("lamp", index, names, rated_power_w=rated, programme=programme)
    for index in range(BINS):
        stream = "hazardous" if index == BINS - 1 else _STREAMS[index % len(_STREAMS)]
        yield device("bin", index, ("垃圾桶", "bin"), detail=stream)
    for index in range(GATES):
        yield device("gate", index, ("门禁", "gate"))
    for index, alarm in enumerate(ALARMS):
        yield device("alarm", index, _DETECTORS[alarm], detail=alarm)


def write(city: City, folder: Path) -> list[Path]:
    """Write areas, gateways, devices and population as CSV; return the files.

    People have lived there since long before anything was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    since = instant(city.in_service_us).isoformat()
    areas = [
        (
            area.area,
            area.parent,
            area.level,
            area.name,
            area.name_en,
            TIME_ZONE,
            area.latitude,
            area.longitude,
            area.households or "",
            area.residents or "",
        )
        for area in city.areas
    ]
    devices = [
        (
            device.device,
            device.kind,
            device.gateway,
            device.area,
            device.name,
            device.name_en,
            "in_service",
            since,
            city.reporting_period_s,
            "" if device.rated_power_w is None else device.rated_power_w,
            device.programme,
        )
        for device in city.devices
    ]
    return [
        _table(
            folder / "areas.csv",
            "area,parent,level,name,name_en,time_zone,latitude,longitude,households,residents",
            areas,
        ),
        _table(
            folder / "gateways.csv",
            "gateway,community,name",
            [(row.gateway, row.community, row.name) for row in city.gateways],
        ),
        _table(
            folder / "devices.csv",
            "device,kind,gateway,area,name,name_en,life,in_service_from,reporting_period_s,"
            "rated_power_w,programme",
            devices,
        ),
        _table(
            folder / "population.csv",
            "area,from,to,residents,households",
            [
                (
                    area.area,
                    f"{instant(city.in_service_us).year - 2}-01-01",
                    "",
                    area.residents,
                    area.households,
                )
                for area in city.areas
                if area.residents
            ],
        ),
    ]


def in_service_from(folder: Path) -> datetime:
    """Return since when the devices of a folder written by `write` are in service.

    Raises:
        ScenarioError: There is no such folder, or it does not tell.
    """
    file = folder / "devices.csv"
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            first = next(csv.DictReader(stream))
        return datetime.fromisoformat(first["in_service_from"])
    except OSError as error:
        raise ScenarioError([f"{file}: {error.strerror}"]) from error
    except (StopIteration, KeyError, ValueError) as error:
        raise ScenarioError([f"{file}:2:in_service_from: no instant here"]) from error


def _table(file: Path, header: str, rows: Iterable[Sequence[object]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header.split(","))
        writer.writerows(rows)
    return file
