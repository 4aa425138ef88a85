# SPDX-License-Identifier: Apache-2.0
"""What rows of the registry say about one another: the tree, who stands where."""

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Final, Literal

from ingest.indicators.lighting import ClockProgramme, Place, never_lights, parse_programme
from ingest.registry_rules import Expected
from ingest.registry_store import Rows, Values
from ingest.registry_tables import (
    AREAS,
    DEFAULT_PROGRAMME,
    DEVICES,
    GATEWAYS,
    LEVELS,
    POPULATION,
    Files,
    Problems,
    Table,
)

DEFAULT_TIME_ZONE: Final = "Asia/Shanghai"
# What a parent lends an area that does not say its own.
_INHERITED: Final = (("time_zone",), ("latitude", "longitude"))


class Check:
    """The tree, who stands where, by which programme lamps go, what must not change."""

    def __init__(
        self,
        files: Files,
        after: Mapping[str, Rows],
        before: Mapping[str, Rows],
        problems: Problems,
        root: str | None = None,
    ) -> None:
        """Take what files say, everything as it shall be, and as it is.

        Args:
            files: What they say.
            after: All rows by table, as they shall be; checking completes them.
            before: All rows by table, as they are registered.
            problems: Receives what is wrong.
            root: The one area that all others must lie in.
        """
        self._files = files
        self._areas = after[AREAS.name]
        self._gateways = after[GATEWAYS.name]
        self._devices = after[DEVICES.name]
        self._population = after[POPULATION.name]
        self._before = before
        self._problems = problems
        # With a gap in the tree nobody can be said to stand outside of anything.
        self._sound = not files.refused[AREAS.name]
        self._root = root
        self._paths: dict[str, tuple[str, ...]] = {}
        # Whose programme lamps in an area go by that have none of their own.
        self._lenders: dict[str, str] = {}
        self._blamed: set[tuple[str, str]] = set()

    def all(self) -> None:
        """Check everything; fill in what follows from other rows, and open ends."""
        for area in self._areas:
            self._descend(area)
        for area in sorted(self._areas, key=lambda area: len(self._paths[area])):
            self._check_area(area)
        for area, values in self._areas.items():
            if values["programme"] and self._sound:
                self._check_lent(area)
        for gateway, values in self._gateways.items():
            self._check_gateway(gateway, values)
        for device, values in self._devices.items():
            self._check_device(device, values)
        self._check_retired()
        self._check_population()

    def _say(self, table: Table, key: str, column: str, expected: Expected) -> None:
        row = self._files.rows[table.name].get(key)
        if row is not None and column in row.cells:
            self._problems.add(row.where, expected, column=column, value=row.cells[column])
        else:
            self._problems.add(f"registered {table.name} {key}", expected, column=column)

    def _missing(self, table: Table, key: str, column: str, named: Table, id: str) -> None:
        """Report that ``id`` does not exist, unless its own row was already reported."""
        if id not in self._files.refused[named.name]:
            self._say(table, key, column, Expected(f"{named.name}.unknown"))

    def _descend(self, area: str) -> None:
        """Note the ids from the root down to ``area``; a cycle is cut where it was found."""
        trail: list[str] = []
        current: str | None = area
        while current is not None and current not in self._paths:
            if current in trail:
                cycle = " > ".join([*trail[trail.index(current) :], current])
                self._say(AREAS, current, "parent", Expected("area.circle", circle=cycle))
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
                self._say(AREAS, area, "level", Expected("area.level", level=parent["level"]))
            for group in _INHERITED:
                if values[group[0]] is None:
                    values.update({column: parent[column] for column in group})
        if self._root is not None and (area == self._root) != (values["parent"] is None):
            self._say(AREAS, area, "parent", Expected("area.outside", root=self._root))
        lender = area if values["programme"] else self._lenders.get(values["parent"] or "")
        if lender is not None:
            self._lenders[area] = lender
        values["time_zone"] = values["time_zone"] or DEFAULT_TIME_ZONE

    def _check_gateway(self, gateway: str, values: Values) -> None:
        community = self._areas.get(values["community"])
        if community is None:
            self._missing(GATEWAYS, gateway, "community", AREAS, values["community"])
        elif community["level"] != "community":
            expected = Expected("gateway.community", level=community["level"])
            self._say(GATEWAYS, gateway, "community", expected)

    def _check_retired(self) -> None:
        """Refuse to retire a gateway that devices still need: they would be unknown for ever."""
        behind: defaultdict[str, list[str]] = defaultdict(list)
        for device, values in self._devices.items():
            gateway = self._gateways.get(values["gateway"])
            if gateway is not None and gateway["life"] == "retired" != values["life"]:
                behind[values["gateway"]].append(device)
        for gateway, devices in behind.items():
            expected = Expected("gateway.needed", count=len(devices), device=min(devices))
            self._say(GATEWAYS, gateway, "life", expected)

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
            self._say(DEVICES, device, "kind", Expected("device.kind", kind=known["kind"]))
        if gateway is None or area is None:
            return
        community: str = gateway["community"]
        values["community"] = community
        if community not in self._areas or not self._sound:
            return
        if community not in area:
            self._say(DEVICES, device, "area", Expected("device.outside", community=community))
        if values["kind"] == "lamp":
            self._check_lamp(device, values)
        else:
            values["effective_programme"] = DEFAULT_PROGRAMME

    def _check_lamp(self, device: str, values: Values) -> None:
        """Note the programme a lamp goes by, its own or the nearest area's, and check it there."""
        lender = None if values["programme"] else self._lenders.get(values["area"])
        lent: str | None = None if lender is None else self._areas[lender]["programme"]
        programme: str = values["programme"] or lent or DEFAULT_PROGRAMME
        values["effective_programme"] = programme
        community: str = values["community"]
        fault = self._fault(programme, community)
        if fault is None:
            return
        row = self._files.rows[AREAS.name].get(lender or "")
        if lender is None or row is None or "programme" not in row.cells:
            self._say(DEVICES, device, "programme", fault)
        elif (lender, community) not in self._blamed:
            # Once, not for each of ten thousand lamps.
            self._blamed.add((lender, community))
            self._say(AREAS, lender, "programme", fault)

    def _check_lent(self, area: str) -> None:
        """Check an area's own programme where it stands, whether lamps go by it yet or not."""
        level, path = self._areas[area]["level"], self._paths[area]
        # A cell's lamps go by the sun of its community.
        place = next((a for a in path if self._areas[a]["level"] == "community"), area)
        if level in ("community", "cell") or self._areas[place]["latitude"] is not None:
            fault = self._fault(self._areas[area]["programme"], place)
            if fault is not None:
                self._blamed.add((area, place))
                self._say(AREAS, area, "programme", fault)

    def _fault(self, text: str, area: str) -> Expected | None:
        """Return why lamps in ``area`` cannot go by a programme, None where they can."""
        values = self._areas[area]
        key = (text, values["latitude"], values["longitude"], values["time_zone"])
        lacks = _fault(*key)
        if lacks is None:
            return None
        return Expected(f"programme.{lacks}", level=values["level"], area=area)

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
                    first, last = str(values["from"]), str(values["to"])
                    expected = Expected("population.overlap", first=first, last=last)
                    self._say(POPULATION, later, "from", expected)
                elif values["to"] > begin:
                    expected = Expected("population.overlap_later", first=str(begin))
                    self._say(POPULATION, key, "to", expected)


@lru_cache(maxsize=10_000)
def _fault(
    text: str, latitude: float | None, longitude: float | None, time_zone: str
) -> Literal["place", "night"] | None:
    """Return what a programme lacks at a place: the place itself, or a night to light."""
    programme = parse_programme(text)
    if isinstance(programme, ClockProgramme):
        return None
    if latitude is None or longitude is None:
        return "place"
    return "night" if never_lights(programme, Place(latitude, longitude, time_zone)) else None
