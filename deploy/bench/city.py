# SPDX-License-Identifier: Apache-2.0
"""A city with a month of indicators, as the keeper of days leaves it, and what it adds up to.

The first community has the lamps; all have a month of daily numbers of every indicator that is
stored. The last night still runs. Every sum is kept in Python while rows are made, so what the
database answers is compared with something that no query took part in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from ingest.domains import DOMAINS
from ingest.durations import TOLD_BY_ALERTS
from ingest.indicators.catalogue import INDICATORS
from ingest.indicators.lighting_nights import UPTIME
from ingest.kinds import KINDS

ZONE: Final = "Asia/Shanghai"
NIGHTS: Final = 30
LAMPS_A_GATEWAY: Final = 100
PROGRAMME: Final = "18:00-06:00"
PERIOD_S: Final = 600
# And one more for each number of a community, so that no two have the same.
RESIDENTS: Final = 2_500
_HOUR_US: Final = 3_600 * 10**6
_DAY: Final = timedelta(days=1)
# The running night: all lamps last told at five to eleven, and it is eleven.
_DUSK: Final = time(18)
_DAWN: Final = time(6)
_TOLD: Final = time(22, 55)
_NOW: Final = time(23)
_DUE_US: Final = 12 * _HOUR_US
_ROWS_A_WRITE: Final = 2_000
#: Every so many lamps one is dark in the running night; every so many rows leave something out.
_DARK_EVERY: Final = 97
_EXCLUDED_EVERY: Final = 41


class Parts(NamedTuple):
    """Good, bad and all of something."""

    good: int
    bad: int
    total: int

    def plus(self, other: Parts) -> Parts:
        """Both together."""
        return Parts(self.good + other.good, self.bad + other.bad, self.total + other.total)


NOTHING: Final = Parts(0, 0, 0)
SumKey = tuple[str, str, int]  # indicator, class, number of the community


def name_of(number: int) -> str:
    """Return a community's id, which is its path label as well."""
    return f"c{number:04d}"


def month_before(now: datetime) -> datetime:
    """Return the end of the latest month of `NIGHTS` days that was over by then."""
    end = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    while (end - (end - _DAY).replace(day=1)).days != NIGHTS:
        end = (end - _DAY).replace(day=1)
    return end


@dataclass(slots=True)
class City:
    """What to make, and what it came to.

    Attributes:
        elsewhere: Lamps of every community but the first, each with its running night.
        sums: What a month adds up to, by indicator, class and community.
        nights: The same for lighting by lamp-night, over the nights that are final.
    """

    communities: int
    lamps: int
    elsewhere: int
    end: date
    sums: defaultdict[SumKey, Parts] = field(
        default_factory=lambda: defaultdict[SumKey, Parts](lambda: NOTHING)
    )
    nights: Parts = NOTHING
    area_days: int = 0
    lamp_nights: int = 0
    _uptime_by_day: defaultdict[date, Parts] = field(
        default_factory=lambda: defaultdict[date, Parts](lambda: NOTHING)
    )

    @property
    def first(self) -> date:
        """The date of the first night's dusk."""
        return self.end - NIGHTS * _DAY

    @property
    def running(self) -> date:
        """The night that still runs."""
        return self.end - _DAY

    @property
    def now(self) -> datetime:
        """The moment that everything is read at."""
        return _local(self.running, _NOW)

    @property
    def rows(self) -> int:
        """How many rows are going to be written, for a progress bar."""
        return self.communities * NIGHTS * len(_STORED) + self.lamps * NIGHTS

    def fill(self, conn: psycopg.Connection) -> Iterator[int]:
        """Write everything, telling how many rows were written since it was last told."""
        conn.execute("SET synchronous_commit = off")
        self._register(conn)
        yield from self._lamp_nights(conn)
        yield from self._area_days(conn)
        conn.execute("VACUUM ANALYZE")

    # -- the registry -----------------------------------------------------------------------------

    def _register(self, conn: psycopg.Connection) -> None:
        numbers = range(1, self.communities + 1)
        _copy(
            conn,
            "area",
            "area, parent, path, level, name, time_zone, latitude, longitude",
            [
                f"city\t\\N\tcity\tcity\t城\t{ZONE}\t\\N\t\\N\n",
                *(
                    f"{name_of(one)}\tcity\tcity.{name_of(one)}\tcommunity\t社区{one}\t{ZONE}\t"
                    f"{30.6 + one % 50 / 1000:.3f}\t{104 + one % 47 / 1000:.3f}\n"
                    for one in numbers
                ),
            ],
        )
        _copy(
            conn,
            "area_population",
            "area, valid, residents",
            [
                f"{name_of(one)}\t[{self.first - 300 * _DAY},)\t{RESIDENTS + one}\n"
                for one in numbers
            ],
        )
        lamps = list(self._lamps())
        gateways = sorted({(gateway, community) for _, gateway, community in lamps})
        _copy(conn, "gateway", "gateway, community", ["\t".join(row) + "\n" for row in gateways])
        since = _local(self.first, time(12)) - 90 * _DAY
        _copy(
            conn,
            "device",
            "device, kind, gateway, community, area, in_service_from, reporting_period_s, "
            "rated_power_w, programme",
            [
                f"{device}\tlamp\t{gateway}\t{community}\t{community}\t{since}\t{PERIOD_S}\t60\t"
                f"{PROGRAMME}\n"
                for device, gateway, community in lamps
            ],
        )

    def _lamps(self) -> Iterator[tuple[str, str, str]]:
        for number in range(1, self.communities + 1):
            community = name_of(number)
            for lamp in range(self.lamps if number == 1 else self.elsewhere):
                gateway = f"gw-{community}-{lamp // LAMPS_A_GATEWAY:03d}"
                yield f"{community}-lamp-{lamp:05d}", gateway, community

    # -- lighting ---------------------------------------------------------------------------------

    def _lamp_nights(self, conn: psycopg.Connection) -> Iterator[int]:
        rows = conn.execute(
            "SELECT id, community, right(community, 4)::int FROM device ORDER BY id"
        ).fetchall()
        told = _local(self.running, _TOLD)
        _copy(
            conn,
            "device_state",
            "device_id, at, received_at, since, lit, lit_at, reading",
            [
                f"{lamp}\t{told}\t{told}\t{told}\t{_shines(lamp)}\t{told}\t{{}}\n"
                for lamp, _, _ in rows
            ],
        )
        columns = "device_id, night, community, due, due_us, due_to, lit_us, dark_us, status"
        for day in (self.first + days * _DAY for days in range(NIGHTS)):
            start, end = _local(day, _DUSK), _local(day + _DAY, _DAWN)
            due = f"{{[{start},{end})}}\t{_DUE_US}\t{_local(day + _DAY, time(12))}"
            final = day != self.running
            lines: list[str] = []
            for lamp, community, number in rows:
                if final and number != 1:
                    continue
                night = self._night(lamp, day)
                status = "final" if final else "provisional"
                lines.append(
                    f"{lamp}\t{day}\t{community}\t{due}\t{night.good}\t{night.bad}\t{status}\n"
                )
                if final:
                    self.nights = self.nights.plus(night)
                    self._uptime_by_day[day] = self._uptime_by_day[day].plus(night)
                else:
                    self._add(UPTIME, "", number, _so_far(lamp))
            _copy(conn, "lamp_night", columns, lines)
            self.lamp_nights += len(lines)
            yield min(len(lines), self.lamps)

    def _night(self, lamp: int, day: date) -> Parts:
        if day == self.running:
            settled = 4 * _HOUR_US + 55 * _HOUR_US // 60
            return Parts(settled, 0, 0) if _shines(lamp) == "t" else Parts(0, settled, 0)
        chance = _chance(lamp, day.toordinal())
        dark_us = chance % 1_000_003 * 1_000 if chance % 29 == 0 else 0
        unknown_us = chance % 500_009 * 7_000 if chance % 31 == 0 else 0
        return Parts(_DUE_US - dark_us - unknown_us, dark_us, _DUE_US)

    # -- all indicators by day --------------------------------------------------------------------

    def _area_days(self, conn: psycopg.Connection) -> Iterator[int]:
        computed = self.now - timedelta(minutes=10)
        for day in (self.first + days * _DAY for days in range(NIGHTS)):
            final = day != self.running
            status = "final" if final else "provisional"
            lines: list[str] = []
            for indicator, kind in _STORED:
                version = INDICATORS[indicator].rule_version
                for number in range(1, self.communities + 1):
                    parts = self._parts(indicator, kind, number, day)
                    if parts is None:
                        continue
                    if final or indicator != UPTIME:
                        self._add(indicator, kind, number, parts)
                    left_out = (
                        '{"maintenance": 1}' if (number + day.day) % _EXCLUDED_EVERY == 0 else "{}"
                    )
                    lines.append(
                        f"{indicator}\t{day}\t{name_of(number)}\t{kind}\t{parts.good}\t{parts.bad}"
                        f"\t{parts.total}\t60\t{left_out}\t{status}\t{version}\t{computed}\n"
                    )
                yield self.communities
            _copy(
                conn,
                "area_day",
                "indicator, day, area, kind, good, bad, total, subjects, excluded, status, "
                "rule_version, computed_at",
                lines,
            )
            self.area_days += len(lines)
            # A lighting night ends at noon, every other day at midnight.
            ends = {
                domain: _local(day + _DAY, time(12) if domain == "lighting" else time())
                for domain in DOMAINS
            }
            _copy(
                conn,
                "community_day",
                "domain, day, community, ends_at, status, computed_at",
                [
                    f"{domain}\t{day}\t{name_of(number)}\t{ends[domain]}\t{status}\t{computed}\n"
                    for domain in DOMAINS
                    for number in range(1, self.communities + 1)
                ],
            )

    def _parts(self, indicator: str, kind: str, number: int, day: date) -> Parts | None:
        """What one community's day comes to; None where nothing is stored of it."""
        chance = _chance(number, day.toordinal(), len(indicator), len(kind))
        definition = INDICATORS[indicator]
        if indicator == UPTIME and number == 1 and day != self.running:
            return self._uptime_by_day[day]
        match definition.shape:
            case "rate":
                # Nothing happens on most days; what is not settled is in the total only.
                return Parts(1, 0, 1 + chance % 2) if chance % 11 == 0 else None
            case "sum":
                return Parts(chance % 9_973, 0, chance % 9_973)
            case _:
                total = 60 * _DUE_US if definition.parts == "us" else 60
                bad = chance % (total // 20)
                unknown = chance % 7 * (total // 60)
                return Parts(total - bad - unknown, bad, total)

    def _add(self, indicator: str, kind: str, number: int, parts: Parts) -> None:
        key = indicator, kind, number
        self.sums[key] = self.sums[key].plus(parts)

    # -- what it adds up to -----------------------------------------------------------------------

    def expected(self, communities: Iterable[int]) -> Mapping[tuple[str, str], Parts]:
        """Return what a month of some communities together comes to, by indicator and class."""
        wanted = set(communities)
        found: defaultdict[tuple[str, str], Parts] = defaultdict(lambda: NOTHING)
        for (indicator, kind, number), parts in self.sums.items():
            if number in wanted:
                found[indicator, kind] = found[indicator, kind].plus(parts)
        return found

    def person_days(self, communities: Iterable[int]) -> int:
        """Return the residents of some communities, summed over the month."""
        return sum(NIGHTS * (RESIDENTS + number) for number in communities)


def _stored() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for one in INDICATORS.values():
        if one.shape != "times" and one.id not in TOLD_BY_ALERTS:
            found += [(one.id, kind) for kind in ("", *(KINDS if one.by_kind else ()))]
    return found


_STORED: Final = _stored()


def _shines(lamp: int) -> str:
    return "f" if lamp % _DARK_EVERY == 0 else "t"


def _so_far(lamp: int) -> Parts:
    """A lamp of the running night at eleven: what it said at five to is still held."""
    return (
        Parts(5 * _HOUR_US, 0, 5 * _HOUR_US)
        if _shines(lamp) == "t"
        else Parts(0, 5 * _HOUR_US, 5 * _HOUR_US)
    )


def _chance(*numbers: int) -> int:
    """The same number for the same numbers, on every machine: Knuth's multiplicative hash."""
    found = 0
    for number in numbers:
        found = (found + number + 1) * 2_654_435_761 % 2**32
    return found >> 3


def _local(day: date, clock: time) -> datetime:
    return datetime.combine(day, clock, ZoneInfo(ZONE)).astimezone(UTC)


def _copy(conn: psycopg.Connection, table: str, columns: str, lines: list[str]) -> None:
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns.split(", ")))
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for index in range(0, len(lines), _ROWS_A_WRITE):
            copy.write("".join(lines[index : index + _ROWS_A_WRITE]))
