# SPDX-License-Identifier: Apache-2.0
"""What a city's readings take: messages, disk, WAL, memory, and how to set things for them.

Pure arithmetic over a few constants. Those of disk and WAL are what ``./dev bench storage``
measures (PostgreSQL 17, TimescaleDB 2.19); a test fills a database and holds the estimate against
it. Those of processors are a budget, not a measurement, and are called so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

# When a chunk of readings gets its b-tree: with its first row, or when its time is over.
ReadingIndex = Literal["always", "after-close"]

# How a community is equipped in the simulators: lamps, bins, gates, alarms.
EQUIPMENT: Final[Mapping[str, float]] = {"lamp": 60, "bin": 12, "gate": 6, "alarm": 10}
COMMUNITY_DEVICES: Final = 400

# Bytes on disk of one reading's row, by class; a class that is not known is like a lamp.
ROW_BYTES: Final[Mapping[str, float]] = {"lamp": 94, "bin": 85, "gate": 69, "alarm": 61}
# Of one reading in the index (device_id, at): pages are filled to about two thirds.
INDEX_BYTES: Final = 41
# The same of an index (at) of kind BRIN: some 24 bytes for 128 pages.
BRIN_BYTES: Final = 0.002
# WAL of one reading's row with its index, and of one update of a latest state; without the images
# of whole pages that follow a checkpoint.
ROW_WAL_BYTES: Final = 158
STATE_WAL_BYTES: Final = 150
# With their indexes: a device's latest state and its registry row with history; a lamp-night; a
# device's day in short; a number of one community, day and class.
DEVICE_BYTES: Final = 1_050
LAMP_NIGHT_BYTES: Final = 306
DEVICE_DAY_BYTES: Final = 244
AREA_DAY_BYTES: Final = 250
# Numbers of a community a day, all indicators and classes.
AREA_DAYS: Final = 33

# Resident memory of ingest: the process, and what it knows of each device.
INGEST_BYTES: Final = 90 * 10**6
INGEST_DEVICE_BYTES: Final = 2_700
# Pages of latest states and of the open chunks' indexes are what must not leave memory.
STATE_PAGE_BYTES: Final = 600
# A budget of processor time for a reading, all processes together, with 13 readings a message. Not
# measured here.
READING_US: Final = 38.0
# One ingest process ends where its interpreter does: a budget too.
PROCESS_READINGS_S: Final = 60_000.0
# What carries how many readings a second, by that budget (docs/scaling.md); the last carries all.
STEPS: Final[Sequence[tuple[float, str]]] = (
    (30_000.0, "one machine"),
    (60_000.0, "one machine, levers"),
    (250_000.0, "ingest by partition, a replica for reads"),
    (1_000_000.0, "a broker cluster, a database a district"),
    (float("inf"), "a federation of cities"),
)

# Chunks may last so long; a table never has more of them than this.
INTERVALS: Final = tuple(
    timedelta(minutes=minutes) for minutes in (10, 20, 30, 60, 120, 240, 360, 720, 1_440)
)
CHUNKS_MAX: Final = 1_000
# Without a b-tree whoever asks for one device reads all rows of the time: the less is open, the
# better.
OPEN_MAX: Final = timedelta(hours=1)
# Bytes a reading has in the index of its chunk while that is open, and how long that may be.
_OPEN_INDEX: Final[Mapping[ReadingIndex, tuple[float, timedelta]]] = {
    "always": (INDEX_BYTES, INTERVALS[-1]),
    "after-close": (BRIN_BYTES, OPEN_MAX),
}
_DAY_S: Final = 86_400
_MONTH: Final = timedelta(days=30)
_MESSAGE_READINGS_MAX: Final = 100
_GIB: Final = 2**30


def chunk_interval(
    readings_s: float,
    memory_bytes: float,
    kept: timedelta,
    reading_index: ReadingIndex = "always",
) -> timedelta:
    """Return how long a chunk should be.

    The longest for which the index of the open chunk fits into ``memory_bytes``, a day at most, or
    `OPEN_MAX` where that index is built after the close; longer where a table would else have more
    than `CHUNKS_MAX` chunks.

    Args:
        readings_s: Of all classes together, for their chunks are open at the same time.
        memory_bytes: The server's shared buffers.
        kept: How long rows stay.
        reading_index: When the index is built.
    """
    row_bytes, longest = _OPEN_INDEX[reading_index]
    fits = [
        one
        for one in INTERVALS
        if one <= longest and one.total_seconds() * readings_s * row_bytes <= memory_bytes
    ]
    enough = [one for one in INTERVALS if one * CHUNKS_MAX >= kept]
    return max(fits[-1] if fits else INTERVALS[0], enough[0] if enough else INTERVALS[-1])


@dataclass(frozen=True, slots=True)
class City:
    """What is asked about.

    Attributes:
        devices: How many, by class.
        period_s: How often each reports.
        kept: How long raw readings stay; numbers, nights and devices' days are reckoned for the
            same time, but stay for ever.
        communities: Each has a gateway, which sends a message a second at most.
        reading_index: When chunks of readings get their b-tree.
    """

    devices: Mapping[str, int]
    period_s: float
    kept: timedelta
    communities: int
    reading_index: ReadingIndex = "always"

    @property
    def total(self) -> int:
        """Devices of all classes."""
        return sum(self.devices.values())


def city_of(
    devices: int,
    period_s: float,
    months: float,
    kinds: Mapping[str, float],
    reading_index: ReadingIndex = "always",
) -> City:
    """Return a city of so many devices, divided among classes by shares of any sum."""
    whole = sum(kinds.values())
    counts = {kind: round(devices * share / whole) for kind, share in kinds.items()}
    communities = max(1, round(devices / COMMUNITY_DEVICES))
    return City(counts, period_s, months * _MONTH, communities, reading_index)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What it takes. Bytes on disk are those at the end of `City.kept`."""

    readings_s: float
    messages_s: float
    row_bytes: float
    index_bytes: float
    open_index_bytes: float
    wal_bytes_s: float
    state_bytes: float
    lamp_night_bytes: float
    device_day_bytes: float
    area_day_bytes: float
    shared_buffers_bytes: float
    ingest_bytes: float
    cores: float
    ingest_processes: int
    chunk: timedelta
    chunks: int
    step: str

    @property
    def disk_bytes(self) -> float:
        """All tables; WAL is apart."""
        return (
            self.row_bytes + self.index_bytes + self.state_bytes + self.lamp_night_bytes
            + self.device_day_bytes + self.area_day_bytes
        )  # fmt: skip


def estimate(city: City) -> Estimate:
    """Return what a city takes."""
    kept_s, days = city.kept.total_seconds(), city.kept / timedelta(days=1)
    readings_s = city.total / city.period_s
    by_gateway = readings_s / city.communities
    # One message a second or a hundred readings, whichever is first; never more than readings.
    messages_s = city.communities * min(by_gateway, max(1, by_gateway / _MESSAGE_READINGS_MAX))
    rows = {kind: count * kept_s / city.period_s for kind, count in city.devices.items()}
    processes = max(1, -int(-readings_s // PROCESS_READINGS_S))
    # A quarter of a machine's memory; the smallest machine that holds the hot pages twice over.
    open_bytes, _ = _OPEN_INDEX[city.reading_index]
    hot = city.total * STATE_PAGE_BYTES + readings_s * 1_200 * open_bytes
    buffers = max(128 * 2**20, _power_of_two(hot))
    chunk = chunk_interval(readings_s, buffers, city.kept, city.reading_index)
    # Of the rows that are kept those of the open chunk, at most, have that index alone.
    open_rows = readings_s * min(chunk, city.kept).total_seconds()
    return Estimate(
        readings_s=readings_s,
        messages_s=messages_s,
        row_bytes=sum(
            count * ROW_BYTES.get(kind, ROW_BYTES["lamp"]) for kind, count in rows.items()
        ),
        index_bytes=sum(rows.values()) * INDEX_BYTES - open_rows * (INDEX_BYTES - open_bytes),
        open_index_bytes=open_rows * open_bytes,
        wal_bytes_s=readings_s * (ROW_WAL_BYTES + STATE_WAL_BYTES),
        state_bytes=city.total * DEVICE_BYTES,
        lamp_night_bytes=city.devices.get("lamp", 0) * days * LAMP_NIGHT_BYTES,
        device_day_bytes=city.total * days * DEVICE_DAY_BYTES,
        area_day_bytes=city.communities * AREA_DAYS * days * AREA_DAY_BYTES,
        shared_buffers_bytes=buffers,
        ingest_bytes=processes * INGEST_BYTES + city.total * INGEST_DEVICE_BYTES,
        cores=readings_s * READING_US / 1e6,
        ingest_processes=processes,
        chunk=chunk,
        chunks=max(1, -int(-city.kept // chunk)),
        step=next(name for limit, name in STEPS if readings_s <= limit),
    )


def _power_of_two(size: float) -> float:
    power = 1
    while power < size:
        power *= 2
    return power


def lines(city: City) -> Sequence[tuple[str, str]]:
    """Return the estimate as names and values for people."""
    found = estimate(city)
    day = _DAY_S * found.readings_s
    per_row = (found.row_bytes + found.index_bytes) / max(1.0, city.kept / timedelta(days=1))
    return [
        ("devices", f"{city.total:,} in {city.communities:,} communities,"
                    f" every {city.period_s:g} s"),
        ("readings", f"{found.readings_s:,.1f}/s, {day:,.0f} a day"),
        ("messages", f"{found.messages_s:,.1f}/s"),
        ("raw readings", f"{_size(found.row_bytes)} kept, indexes {_size(found.index_bytes)},"
                         f" {_size(per_row)} a day"),
        ("open chunks", f"{_size(found.open_index_bytes)} of index, {city.reading_index}"),
        ("WAL", f"{_size(found.wal_bytes_s)}/s, {_size(found.wal_bytes_s * _DAY_S)} a day"),
        ("devices and states", _size(found.state_bytes)),
        ("lamp-nights", _size(found.lamp_night_bytes)),
        ("devices' days", _size(found.device_day_bytes)),
        ("area days", _size(found.area_day_bytes)),
        ("disk", f"{_size(found.disk_bytes)}, and room for WAL and a backup"),
        ("memory", f"database {_size(4 * found.shared_buffers_bytes)}, of it shared_buffers"
                   f" {_size(found.shared_buffers_bytes)}; ingest {_size(found.ingest_bytes)}"),
        ("processors", f"{found.cores:,.1f} busy by budget, {found.ingest_processes} ingest"
                       " processes by partition"),
        ("chunk interval", f"{found.chunk.total_seconds() / 60:g} min, {found.chunks:,} chunks a"
                           " table"),
        ("step", found.step),
    ]  # fmt: skip


def _size(size: float) -> str:
    for unit, factor in (("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size / 1_000:,.1f} kB"


def table(sizes: Sequence[int], period_s: float, months: float) -> list[str]:
    """Return estimates of cities of several sizes as lines of a Markdown table."""
    rows = [
        "| devices | readings/s | messages/s | disk a day, raw | disk, all kept | WAL a day"
        " | cores | ingest processes | step |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for devices in sizes:
        city = city_of(devices, period_s, months, EQUIPMENT)
        found = estimate(city)
        raw = (found.row_bytes + found.index_bytes) * (timedelta(days=1) / city.kept)
        rows.append(
            f"| {devices:,} | {found.readings_s:,.0f} | {found.messages_s:,.0f} | {_size(raw)}"
            f" | {_size(found.disk_bytes)} | {_size(found.wal_bytes_s * _DAY_S)}"
            f" | {found.cores:,.1f} | {found.ingest_processes} | {found.step} |"
        )
    return rows
