# SPDX-License-Identifier: Apache-2.0
"""Thirty nights of two thousand lamps: what is computed of them against what was physically true.

The simulators' lamps tell a ledger and a writer, without agents and a broker between them. On the
way messages come twice, out of order, days late or not at all, as cut links and dead lamps have it.
The ledger's settlement shares no code with the platform.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from deploy.checker import lighting
from deploy.checker.facts import Difference
from deploy.checker.spans import Span, by_subject, intersect, length
from edge_agent import topics
from edge_agent.kinds import Observation
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Telemetry, encode
from ingest.daily import DailyKeeper
from ingest.judge import Received
from ingest.store import connect
from ingest.store.devices import load_registry
from ingest.telemetry import TelemetryWriter
from simulators import scenario, truth
from simulators.fate import Fate
from simulators.faults import Fault, FaultKind
from simulators.kinds import AnyDriver, driver
from simulators.registry import LAMPS as LAMPS_A_COMMUNITY
from simulators.registry import City, Device, build
from simulators.spans import HOUR, instant, micros
from simulators.truth import Ledger, settle
from simulators.world import World
from tests.ingest.community import Bench
from tests.services import Broker, until

log = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(1_200)

SCENARIO = Path(scenario.__file__).parent / "scenarios/community_day.toml"
SEED = 1
LAMPS = 2_000
NIGHTS = 30
# In March sunset and sunrise move fastest from night to night.
FIRST = date(2026, 3, 5)
# Noon in Shanghai: with it the first night begins.
START_US = micros(datetime(2026, 3, 5, 4, tzinfo=UTC))
END_US = START_US + NIGHTS * 24 * HOUR
# Lamps tell every switching at its instant, and their state this often beside: with the usual ten
# minutes two thousand of them would say nine million things in a month, which is a load test. What
# one said holds for three of these, so whoever is to be unknown must be silent for longer.
PERIOD_S = 8 * 3_600
PERIOD_US = PERIOD_S * 1_000_000
ERROR_MAX_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message of one gateway, and the day on whose evening it gets through."""

    arrives: int
    message: Received


@dataclass(slots=True)
class Lamp:
    """A lamp that is polled every `PERIOD_S`."""

    device: Device
    driver: AnyDriver
    next_us: int


def city() -> City:
    """As many lamps as wanted, of as many communities as it takes; nothing else."""
    made = build(SEED, -(-LAMPS // LAMPS_A_COMMUNITY), instant(START_US))
    lamps = [device for device in made.devices if device.kind == "lamp"][:LAMPS]
    return City(made.areas, made.gateways, lamps, made.in_service_us, PERIOD_S)


@dataclass(slots=True)
class Month:
    """A world with its faults, told gateway by gateway and day by day."""

    ledger: Ledger
    world: World = field(default_factory=lambda: World(SEED, city()))
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    silent: dict[str, Span] = field(default_factory=dict[str, Span])
    cut: dict[str, range] = field(default_factory=dict[str, range])
    duplicated: int = 0
    late: int = 0
    readings: int = 0

    def __post_init__(self) -> None:
        fate = Fate(self.world)
        a_day = {
            word: rate
            for word, rate in scenario.load(SCENARIO).history.a_day.items()
            if word.startswith("lamp_") or word == FaultKind.DEVICE_DEAD
        }
        faults = fate.past((START_US, END_US), a_day)
        # Those last an hour or two; some are dead for so long that nobody can say what they did.
        taken = {one.target for one in faults}
        free = [one.device for one in self.world.city.devices if one.device not in taken]
        for device in self.chance.sample(free, 60):
            start = START_US + self.chance.randrange(HOUR, 26 * 24 * HOUR)
            end = start + self.chance.randrange(26 * HOUR, 72 * HOUR)
            faults.append(Fault(start, end, FaultKind.DEVICE_DEAD, device))
        self.ledger.add_faults(faults)
        self.world.add(faults)
        gateways = [one.gateway for one in self.world.city.gateways]
        for gateway in self.chance.sample(gateways, 6):
            # No power: what happened meanwhile nobody will ever tell. What comes after it comes
            # late: the first word of a night that nothing reached before.
            start = START_US + self.chance.randrange(6 * HOUR, 26 * 24 * HOUR)
            self.silent[gateway] = start, start + self.chance.randrange(26 * HOUR, 60 * HOUR)
            self.ledger.black_out(gateway, self.silent[gateway])
        for gateway in self.chance.sample(gateways, 6):
            day = self.chance.randrange(NIGHTS - 4)
            self.cut[gateway] = range(day, day + self.chance.randrange(1, 4))

    def parcels(self) -> Iterator[list[Parcel]]:
        """Yield day by day what gateways send, written down before it is sent."""
        behind: defaultdict[str, list[Lamp]] = defaultdict(list)
        for number, device in enumerate(self.world.city.devices):
            stagger_us = number * 97_000_003 % PERIOD_US
            lamp = Lamp(device, driver(self.world, device), START_US + stagger_us)
            lamp.driver.resume(instant(START_US))
            behind[device.gateway].append(lamp)
        # Until each has been heard after the last noon.
        for day in range(NIGHTS + 1):
            until_us = min(START_US + (day + 1) * 24 * HOUR, END_US + PERIOD_US)
            yield [
                parcel
                for gateway, lamps in behind.items()
                for parcel in self._parcels(gateway, lamps, day, until_us)
            ]
            self.ledger.commit()

    def _parcels(
        self, gateway: str, lamps: Sequence[Lamp], day: int, until_us: int
    ) -> Iterator[Parcel]:
        readings = [one for lamp in lamps for one in self._told(lamp, until_us)]
        if not readings:
            return
        self.readings += len(readings)
        stream, seq = f"s-{gateway}", day + 1
        readings.sort(key=lambda one: one.at)
        payload = encode(
            Telemetry(stream=stream, seq=seq, sent_at=readings[-1].at, readings=tuple(readings))
        )
        self.ledger.accept(gateway, "telemetry", stream, seq, payload)
        arrives = day
        if day in self.cut.get(gateway, ()):
            arrives = self.cut[gateway].stop  # all of it, in order, when the link is mended
        elif day == self._back(gateway):
            arrives += 2
            self.late += 1
        elif day < NIGHTS and self.chance.random() < 0.01:
            arrives += self.chance.choice((2, 3, NIGHTS))  # after what was sent later
            self.late += 1
        message = Received(
            0, 1, 1, topics.up(gateway, "telemetry"), payload, False, False, instant(until_us)
        )
        yield Parcel(arrives, message)
        if self.chance.random() < 0.05:
            self.duplicated += 1
            yield Parcel(arrives + self.chance.choice((0, 1, NIGHTS)), message)

    def _back(self, gateway: str) -> int:
        """Return the day on which the power is back; -1 where it always was there."""
        _, end = self.silent.get(gateway, (0, 0))
        return (end - START_US) // (24 * HOUR) if end else -1

    def _told(self, lamp: Lamp, until_us: int) -> Iterator[LampReading]:
        off_us, on_us = self.silent.get(lamp.device.gateway, (2 * END_US, 2 * END_US))
        while lamp.next_us < until_us:
            at_us, lamp.next_us = lamp.next_us, lamp.next_us + PERIOD_US
            yield from _poll(lamp, at_us)
            if at_us == off_us - 1:
                # The last moment before the power goes; the next word is the first with it back.
                lamp.driver.resume(instant(on_us - 1))
                lamp.next_us = on_us
            elif at_us < off_us <= lamp.next_us:
                lamp.next_us = off_us - 1


def _poll(lamp: Lamp, at_us: int) -> Iterator[LampReading]:
    told: Sequence[Observation]
    try:
        told = lamp.driver.poll(instant(at_us))
    except OSError:
        return  # it is dead
    for one in told:
        assert isinstance(one, LampReading)
        yield one


def found(dsn: str, city: City) -> None:
    """Register a city of the simulators."""
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        path = {"": ""}
        for area in city.areas:
            prefix = f"{path[area.parent]}." if area.parent else ""
            path[area.area] = prefix + area.area.replace("-", "_")
            cursor.execute(
                """
                INSERT INTO area (area, parent, path, level, name, time_zone, latitude, longitude)
                VALUES (%s, %s, %s, %s, %s, 'Asia/Shanghai', %s, %s)
                """,
                (area.area, area.parent or None, path[area.area], area.level, area.name,
                 area.latitude, area.longitude),
            )  # fmt: skip
        cursor.executemany(
            "INSERT INTO gateway (gateway, community) VALUES (%s, %s)",
            [(one.gateway, one.community) for one in city.gateways],
        )
        cursor.executemany(
            """
            INSERT INTO device (device, kind, gateway, community, area, in_service_from,
                                reporting_period_s, rated_power_w, programme)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (one.device, one.kind, one.gateway, one.community, one.area, instant(START_US),
                 PERIOD_S, one.rated_power_w, one.programme)
                for one in city.devices
            ],
        )  # fmt: skip


def store(writer: TelemetryWriter, month: Month) -> Iterator[int]:
    """Store the month as it arrives; tell when only what is very late is still to come."""
    waiting: defaultdict[int, list[Parcel]] = defaultdict(list)
    for day, parcels in enumerate(month.parcels()):
        for parcel in parcels:
            waiting[parcel.arrives].append(parcel)
        writer.persist([parcel.message for parcel in waiting.pop(day, ())])
    yield sum(len(parcels) for parcels in waiting.values())
    for day in sorted(waiting):
        writer.persist([parcel.message for parcel in waiting[day]])


def keep(dsn: str, now: datetime) -> None:
    """Compute all days that are due."""
    with connect(dsn, "test") as conn:
        registry = load_registry(conn)
        keeper = DailyKeeper(dsn, lambda: registry)
        while keeper.keep(conn, now):
            pass


def settled(bench: Bench, writer: TelemetryWriter) -> None:
    """Wait until the writer restated what late readings made dirty; it does so by and by."""

    def clean() -> bool:
        writer.persist(())
        return bench.value("SELECT count(*) FROM lamp_night WHERE dirty") == 0

    until(clean, "every late night restated", timeout_s=300, every_s=0.2)


def test_every_lamp_night_of_a_month_is_what_it_was(
    database: str, broker: Broker, tmp_path: Path
) -> None:
    begun = time.process_time()
    bench = Bench(database, broker)
    with closing(Ledger(tmp_path / truth.FILE)) as ledger:
        month = Month(ledger)
        found(database, month.world.city)
        writer = bench.telemetry()
        now = datetime.now(UTC)
        for very_late in store(writer, month):
            assert very_late, "nothing came after its days were final"
            keep(database, now)
        settled(bench, writer)
        bench.close()
        keep(database, now + timedelta(minutes=5))
        settlement = settle(ledger, month.world)
        assert settlement.lamps == LAMPS

    # Nothing of this went through without what makes it hard.
    assert min(month.late, month.duplicated, len(month.silent), len(month.cut)) > 0
    assert bench.value("SELECT count(*) FROM reading_lamp") == month.readings == ledger.accepted
    assert bench.value("SELECT count(*) FROM dead_letter") == 0
    assert bench.value("SELECT count(*) FROM area_day_revision WHERE reason = 'late'") > 0
    assert bench.value("SELECT count(*) FROM lamp_night WHERE revision > 1") > 0

    differences: list[Difference] = []
    with (
        closing(sqlite3.connect(ledger.file)) as true,
        psycopg.connect(database) as conn,
    ):
        result = lighting.compare(true, conn, differences)
        assert differences == []
        assert result.ok
        # Without those of which nobody knows anything, here or there; they count in the days below.
        assert result.lamp_nights > 0.97 * LAMPS * NIGHTS
        assert result.uptime is not None
        assert 0.9 < result.uptime < 1
        wrong, compared = days_against(true, conn, month.world.city)
        assert wrong == []
        assert compared == len({one.area for one in month.world.city.devices}) * NIGHTS
    assert bench.value("SELECT count(*) FROM lamp_night WHERE lit_us + dark_us < due_us") > 100
    log.info(
        "%d readings, %d lamp-nights, at most %.3f s off, %.1f s of CPU",
        month.readings,
        result.lamp_nights,
        result.max_abs_error_s,
        time.process_time() - begun,
    )


def days_against(
    ledger: sqlite3.Connection, conn: psycopg.Connection, city: City
) -> tuple[list[str], int]:
    """Compare the daily numbers of areas with the ledger, and to the microsecond with lamp-nights.

    Returns:
        What differs, and how many numbers were compared.
    """
    area_of = {one.device: one.area for one in city.devices}
    lit = by_subject(ledger.execute("SELECT device, from_us, to_us FROM lit"))
    observed = by_subject(ledger.execute("SELECT device, from_us, to_us FROM observed"))
    seen = {device: intersect(spans, observed[device]) for device, spans in lit.items()}
    last = (FIRST + NIGHTS * timedelta(days=1)).isoformat()
    true: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    devices: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for device, night, *span in ledger.execute(
        "SELECT device, night, from_us, to_us FROM due WHERE night < ?", (last,)
    ):
        due = [(span[0], span[1])]
        key = area_of[device], night
        parts = true[key]
        known_us, lit_us = (
            length(intersect(due, spans.get(device, ()))) for spans in (observed, seen)
        )
        for index, value in enumerate((lit_us, known_us - lit_us, length(due))):
            parts[index] += value
        devices[key].add(device)
    wrong: list[str] = []
    rows = conn.execute(
        """
        SELECT d.area, d.day::text, d.good, d.bad, d.total, d.subjects, d.status,
               n.lit_us::bigint, n.dark_us::bigint
        FROM area_day AS d
        LEFT JOIN (
            SELECT v.area, l.night, sum(l.lit_us) AS lit_us, sum(l.dark_us) AS dark_us
            FROM lamp_night AS l JOIN device AS v ON v.id = l.device_id
            GROUP BY v.area, l.night
        ) AS n ON n.area = d.area AND n.night = d.day
        WHERE d.indicator = 'lighting-uptime' AND d.day >= %s AND d.day < %s
        ORDER BY d.area, d.day
        """,
        (FIRST, last),
    ).fetchall()
    for area, night, good, bad, total, subjects, status, *lamp_nights in rows:
        key = area, night
        # Not their due time: a night that was over before anybody ran has no row of a dead lamp.
        if [good, bad] != lamp_nights:
            wrong.append(f"{key}: {good}, {bad}, its lamp-nights {lamp_nights}")
        off = max(abs(a - b) for a, b in zip((good, bad, total), true[key], strict=True))
        if off > ERROR_MAX_US * len(devices[key]) or subjects != len(devices[key]):
            wrong.append(f"{key}: {good}, {bad}, {total} of {subjects}, in truth {true[key]}")
        if status != "final":
            wrong.append(f"{key}: {status}")
    return wrong, len(rows)
