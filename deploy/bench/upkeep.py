# SPDX-License-Identifier: Apache-2.0
"""What it costs ingest to keep the days, beside what it costs to store the readings they are from.

All in CPU seconds of this process, which does what ingest does: a writer of telemetry stores
readings that come in time, and days of one community as the simulators build it are computed from
a whole day of them.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import psycopg

from deploy.bench.city import PROGRAMME, ZONE, name_of
from deploy.bench.ground import Ground, cpu_s
from deploy.bench.report import Measured
from edge_agent import topics
from edge_agent.kinds import Reading
from edge_agent.kinds.alarm import AlarmReading
from edge_agent.kinds.bin import BinReading
from edge_agent.kinds.gate import GateReading
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Telemetry, encode
from ingest.daily import keep_day, running_interval
from ingest.days import Places, days_over
from ingest.domains import DOMAINS
from ingest.indicators import spans
from ingest.judge import Limits, Received
from ingest.kinds import DEFAULT_RULES, KINDS
from ingest.kinds.base import Table, fields
from ingest.presence import Presence
from ingest.rules import RuleBook
from ingest.store import community_days, connect, readings
from ingest.store.community_days import FINAL_AFTER, CommunityDay
from ingest.store.devices import Device, Registry, load_registry
from ingest.telemetry import TelemetryWriter
from ingest.writer import FlushLimits

BUDGET: Final = 0.1
BATCH: Final = 50
MESSAGES: Final = 500
# A community of the city that the platform is to carry on two cores: 400 devices, each telling
# every 30 s unless asked otherwise; by class as the simulators equip one.
EQUIPMENT: Final = {"lamp": 272, "bin": 55, "gate": 27, "alarm": 46}
TELLS_EVERY_S: Final = 30
_DAY: Final = timedelta(days=1)
_DAY_S: Final = 86_400
# At which parts of a running day its computation is measured.
_STEPS: Final = 3
_STATEMENT_TIMEOUT: Final = "60s"
_MINUTES_US: Final = 4 * 60 * 10**6


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds of this process, and of the database for it."""

    process: float
    database: float

    def of(self, *, database: bool) -> float:
        """Those of ingest alone, or both together."""
        return self.process + (self.database if database else 0.0)


class Clock:
    """CPU seconds since it was made."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self._conn = conn
        self._pids = [
            pid
            for (pid,) in conn.execute(
                "SELECT pid FROM pg_stat_activity"
                " WHERE datname = current_database() AND backend_type = 'client backend'"
            )
        ]
        self._database = sum(map(cpu_s, self._pids))
        self._process = time.process_time()

    def spent(self) -> Cpu:
        """What was spent; the connections must still be those there were."""
        process = time.process_time() - self._process
        return Cpu(process, sum(map(cpu_s, self._pids)) - self._database)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds.

    Attributes:
        store: A reading stored, with all that follows from it.
        mark: Of that, asking whether it is late; of the process.
        late: A reading that is late: finding and marking its days.
        running: A community's day computed while it runs, on average over the day, all domains.
        final: The same when it is over.
        readings: How many readings a community's day has.
    """

    store: Cpu
    mark: float
    late: float
    running: Cpu
    final: Cpu
    readings: int

    def interval(self, communities: int) -> timedelta:
        """How often the keeper brings running days up to date in a city of such communities."""
        busy = communities * self.readings / _DAY_S * self.store.process
        return running_interval(communities * self.running.of(database=True), busy)

    def share(self, interval: timedelta | None, *, database: bool = False) -> float:
        """Upkeep's part of ingest's CPU, of days computed that often and once in the end.

        Args:
            interval: None: only in the end.
            database: Whether what the database does counts, for both.
        """
        times = 0 if interval is None else _DAY / interval
        computing = times * self.running.of(database=database) + self.final.of(database=database)
        upkeep = computing + self.readings * self.mark  # which is a part of storing
        return upkeep / (computing + self.readings * self.store.of(database=database))


def measure(
    ground: Ground,
    communities: int,
    batches: int,
    rounds: int,
    tell: Callable[[str], None],
    period_s: int = TELLS_EVERY_S,
) -> list[Measured]:
    """Measure storing and computing in turns; the registry must have lamps in community 1.

    Args:
        ground: A database of its own.
        communities: How many like the measured one the upkeep is reckoned for.
        batches: Of `BATCH` readings each, stored in each round.
        rounds: After one to warm up.
        tell: What is measured now.
        period_s: How often each of the community's devices tells, seconds.
    """
    registered(ground.dsn, period_s)
    with connect(ground.dsn, "bench") as conn:
        conn.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'")
        registry = load_registry(conn)
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        day = (midnight - 3 * _DAY).date()
        tell("upkeep: a day is written")
        count = told(conn, registry, day, period_s)
        wrong: list[str] = []
        costs: list[Cost] = []
        for turn in range(rounds + 1):
            tell("upkeep: readings stored")
            store, mark, late = _storing(ground, conn, registry, batches, turn)
            tell("upkeep: days computed")
            running, final = _computing(conn, Places(registry), day)
            wrong += _check(conn, registry, day)
            if turn:  # the first one warms up
                costs.append(Cost(store, mark, late, running, final, count))
    return [
        Measured(f"upkeep: share of ingest's CPU, {communities:,} communities", "",
                 [one.share(one.interval(communities)) for one in costs], BUDGET, wrong[:5]),
        Measured("upkeep: the same with what the database does for either", "",
                 [one.share(one.interval(communities), database=True) for one in costs]),
        Measured("upkeep: running days are computed every", "s",
                 [one.interval(communities).total_seconds() for one in costs]),
        Measured("upkeep: of a hundred such communities every", "s",
                 [one.interval(100).total_seconds() for one in costs]),
        Measured("upkeep: of sixteen every", "s",
                 [one.interval(16).total_seconds() for one in costs]),
        Measured("upkeep: share, only in the end", "", [one.share(None) for one in costs]),
        _told("a reading stored", "us", 1e6, [one.store for one in costs]),
        _told("a running day computed", "ms", 1e3, [one.running for one in costs]),
        _told("a day computed in the end", "ms", 1e3, [one.final for one in costs]),
        Measured("upkeep: is a reading late?", "us", [1e6 * one.mark for one in costs]),
        Measured("upkeep: a late one, its days marked", "us", [1e6 * one.late for one in costs]),
        Measured("upkeep: readings of that day", "readings", [one.readings for one in costs]),
    ]  # fmt: skip


def _told(name: str, unit: str, scale: float, spent: Sequence[Cpu]) -> Measured:
    return Measured(
        f"upkeep: {name}",
        unit,
        [scale * one.process for one in spent],
        cpu={
            "python": 1e3 * statistics.median(one.process for one in spent),
            "database": 1e3 * statistics.median(one.database for one in spent),
        },
    )


# -- the community whose days are computed --------------------------------------------------------


def registered(dsn: str, period_s: int) -> None:
    """Put the simulators' equipment into community 2."""
    community = name_of(2)
    gateway = f"gw-{community}-day"
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("INSERT INTO gateway (gateway, community) VALUES (%s, %s)",
                       (gateway, community))  # fmt: skip
        cursor.executemany(
            """
            INSERT INTO device (device, kind, gateway, community, area, in_service_from,
                                reporting_period_s, rated_power_w, programme)
            VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            [
                (f"{community}-day-{kind}-{number:03d}", kind, gateway, community, community,
                 datetime.now(UTC) - 90 * _DAY, period_s, 60.0 if kind == "lamp" else None,
                 PROGRAMME)
                for kind, count in EQUIPMENT.items()
                for number in range(count)
            ],
        )  # fmt: skip


def told(conn: psycopg.Connection, registry: Registry, day: date, period_s: int) -> int:
    """Store the community's readings of a day and a half to either side; return a day's count."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC) - _DAY
    kept = [one for one in registry.devices.values() if "-day-" in one.device]
    for kind in EQUIPMENT:
        table = KINDS[kind].readings
        devices = [one for one in kept if one.kind == kind]
        said: dict[tuple[int, int], Sequence[object]] = {}  # by device and hour
        readings.copy_in(
            conn,
            table,
            (
                (device.id, at, at, *_values(device, at, table, said))
                for step in range(3 * _DAY_S // period_s)
                for at in [start + timedelta(seconds=step * period_s)]
                for device in devices
            ),
        )
    conn.execute("ANALYZE")
    return len(kept) * _DAY_S // period_s


def _values(
    device: Device, at: datetime, table: Table, said: dict[tuple[int, int], Sequence[object]]
) -> Sequence[object]:
    """What a device tells at an instant: the same for an hour, but a lamp's counter, which runs."""
    key = device.id, at.hour + 24 * at.toordinal()
    values = said.get(key)
    if values is None:
        values = said[key] = tuple(fields(_reading(device, at), table))
    return values


def _reading(device: Device, at: datetime) -> Reading:
    match device.kind:
        case "lamp":
            lit = 10 <= at.hour < 22  # six in the evening until six in the morning there
            return LampReading(
                device=device.device, at=at, lit=lit, level_pct=100 if lit else 0,
                power_w=60.1 if lit else 0.4, voltage_v=228.4, current_a=0.27,
                energy_kwh=at.timestamp() // 3_600 / 10, burn_hours=4_000,
            )  # fmt: skip
        case "bin":
            return BinReading(device=device.device, at=at, fill_pct=40.0, weight_kg=12.5,
                              temperature_c=21.0, stream="kitchen")  # fmt: skip
        case "gate":
            return GateReading(device=device.device, at=at, door="closed", lock="locked")
        case _:
            return AlarmReading(device=device.device, at=at, battery_pct=90.0, armed=True)


# -- storing --------------------------------------------------------------------------------------


def _storing(
    ground: Ground, conn: psycopg.Connection, registry: Registry, batches: int, turn: int
) -> tuple[Cpu, float, float]:
    """CPU seconds for each reading: stored in time; asked whether it is late; marked as late."""
    writer = TelemetryWriter(
        dsn=ground.dsn,
        consumer=ground.consumer("ingest-telemetry-00"),
        rules=RuleBook(DEFAULT_RULES, {}),
        limits=Limits(),
        flush=FlushLimits(0.0, MESSAGES, 16_000_000),
        presence=Presence(),
    )
    # What a start costs (the registry, the nights to open) is no part of a reading's cost.
    writer.persist(())
    lamps = [one for one in registry.devices.values() if one.community == name_of(1)]
    messages = list(_messages(lamps, batches, turn))
    clock = Clock(conn)
    for index in range(0, len(messages), MESSAGES):
        writer.persist([one for _, one in messages[index : index + MESSAGES]])
    spent = clock.spent()
    writer.close()
    known = [(device, spans.from_us(at_us)) for pairs, _ in messages for device, at_us in pairs]
    now = datetime.now(UTC)
    begun = time.process_time()
    days_over(known, now)
    asked = time.process_time() - begun
    later = [(device, at - 2 * _DAY) for device, at in known]
    begun = time.process_time()
    late = days_over(later, now)
    with conn.transaction(force_rollback=True):
        community_days.mark(conn, late.items(), "late")
    marked = time.process_time() - begun
    stored = Cpu(spent.process / len(known), spent.database / len(known))
    return stored, asked / len(known), marked / len(known)


def _messages(
    lamps: Sequence[Device], batches: int, turn: int
) -> Iterator[tuple[list[tuple[Device, int]], Received]]:
    """Batches of lamps that tell their state, one after the other, within the last minutes."""
    now = datetime.now(UTC)
    start_us = spans.to_us(now) - _MINUTES_US
    by_gateway: dict[str, list[Device]] = {}
    for lamp in lamps:
        by_gateway.setdefault(lamp.gateway, []).append(lamp)
    portions = [
        (gateway, members[index : index + BATCH])
        for gateway, members in sorted(by_gateway.items())
        for index in range(0, len(members), BATCH)
    ]
    seqs: Counter[str] = Counter()
    for number in range(batches):
        gateway, members = portions[number % len(portions)]
        at_us = start_us + number * _MINUTES_US // batches
        at = spans.from_us(at_us)
        seqs[gateway] += 1
        message = Telemetry(
            stream=f"bench-{turn}",
            seq=seqs[gateway],
            sent_at=at,
            readings=tuple(_reading(one, at) for one in members),
        )
        payload = encode(message)
        yield (
            [(one, at_us) for one in members],
            Received(0, number + 1, 1, topics.up(gateway, "telemetry"), payload, False, False, now),
        )


# -- computing ------------------------------------------------------------------------------------


def _computing(conn: psycopg.Connection, places: Places, day: date) -> tuple[Cpu, Cpu]:
    """CPU seconds for a day of all domains: while it runs, on average; when it is over."""
    running: list[Cpu] = []
    final: list[Cpu] = []
    for domain in DOMAINS.values():
        start_us, end_us = domain.span(day, ZONE)
        for step in range(_STEPS + 1):
            over = step == _STEPS
            # In the middle of each part of the day.
            now = spans.from_us(
                end_us if over else start_us + (2 * step + 1) * (end_us - start_us) // (2 * _STEPS)
            )
            asked = CommunityDay(domain.name, day, name_of(2), "running", 1, over)
            clock = Clock(conn)
            keep_day(conn, places, asked, now + FINAL_AFTER if over else now)
            (final if over else running).append(clock.spent())
    return _sum(running, _STEPS), _sum(final, 1)


def _sum(parts: Sequence[Cpu], times: int) -> Cpu:
    return Cpu(
        sum(one.process for one in parts) / times, sum(one.database for one in parts) / times
    )


def _check(conn: psycopg.Connection, registry: Registry, day: date) -> list[str]:
    """Whether the computed day is what its readings say: all lamps lit, everything in order."""
    rows: dict[tuple[str, str], tuple[Any, ...]] = {
        (indicator, kind): tuple(parts)
        for indicator, kind, *parts in conn.execute(
            "SELECT indicator, kind, good, bad, total FROM area_day WHERE area = %s AND day = %s",
            (name_of(2), day),
        )
    }
    known = sum(EQUIPMENT.values())
    # Lamps that were never heard are due all the same.
    unheard = sum(one.community == name_of(2) for one in registry.devices.values()) - known
    wanted = {
        (indicator, ""): (count * time_us, 0, (count + unheard) * time_us)
        for indicator, count, time_us in (
            ("lighting-uptime", EQUIPMENT["lamp"], _DAY_S // 2 * 10**6),
            ("equipment-good", known, _DAY_S * 10**6),
        )
    }
    return [
        f"{key} of {day}: {rows.get(key)}, not {parts}"
        for key, parts in wanted.items()
        if rows.get(key) != parts
    ]
