# SPDX-License-Identifier: Apache-2.0
"""The registry as ingest needs it in memory, with its history, and each device's latest state."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, Final, LiteralString, NamedTuple, cast

from psycopg import Connection
from psycopg.rows import class_row
from psycopg.types.json import Jsonb
from pydantic_core import to_json

from ingest.indicators import lighting, spans
from ingest.store import exclusions
from ingest.store.exclusions import Stood


@dataclass(frozen=True, slots=True)
class Gateway:
    """A registered gateway, or a city that tells us its numbers as a gateway tells readings.

    ``status`` is ``active``, ``revoked``, or what its life says: ``planned`` or ``retired``.
    """

    gateway: str
    community: str
    status: str
    last_seen_at: datetime | None
    silent: bool
    status_interval_s: float | None
    is_city: bool = False

    @property
    def is_away(self) -> bool:
        """Whether it is not there yet, or not any more: nothing is expected of it."""
        return self.status in ("planned", "retired")


# Later than any instant: the end of what holds still.
_FOR_EVER: Final = 2**63


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device, with what lighting needs of a lamp.

    What is corrected for all time (start of service, accepted maintenance) has no history; all else
    that an indicator depends on is kept as it was, and `at` returns it.

    Attributes:
        history: What it was before, only where that differs: until when (microseconds, exclusive),
            in order, and the device as it was. A device of the past has no history of its own.
    """

    id: int
    device: str
    kind: str
    gateway: str
    community: str
    area: str
    life: str
    max_silence: timedelta
    rated_power_w: float | None
    programme: lighting.Programme
    place: lighting.Place
    in_service_from_us: int
    #: A day that ended before, and before the start of service, does not know it; 0: it always was.
    registered_us: int = 0
    maintenance: tuple[spans.Span, ...] = ()
    road: str | None = None
    history: tuple[tuple[int, "Device"], ...] = ()

    def at(self, instant_us: int) -> "Device":
        """Return the device as it was registered at an instant (microseconds since 1970).

        Before it was first registered it is what it was registered as first. A day or a night is
        counted by what held at its end: ``device.at(end - 1)``, since the end is not part of it.
        """
        for until_us, device in self.history:
            if instant_us < until_us:
                return device
        return self


@dataclass(frozen=True, slots=True)
class Registry:
    """All gateways and devices at one revision."""

    revision: int
    gateways: Mapping[str, Gateway] = field(default_factory=dict[str, Gateway])
    devices: Mapping[str, Device] = field(default_factory=dict[str, Device])


# One state is made of each reading: without what a NamedTuple does beside it.
_tuple: Final = cast("Any", tuple).__new__


class State(NamedTuple):
    """A device's latest state; ``reading`` holds the fields that say something.

    ``stored_at`` is set where the state is held back: the table has the state of that instant, and
    lamp-nights have light up to there. ``write_by`` is the instant from which a reading is written
    whatever it says, None where that is still to be found. A tuple, because one is made of each
    reading.
    """

    at: datetime
    received_at: datetime
    since: datetime
    reading: Mapping[str, Any]
    fault: str | None = None
    silent: bool = False
    lit: bool | None = None
    lit_at: datetime | None = None
    stored_at: datetime | None = None
    # The same as `reading`, quick to compare: all fields of the class. Empty where it was read from
    # the table.
    said: tuple[object, ...] = ()
    write_by: datetime | None = None

    def held_back(
        self,
        at: datetime,
        received_at: datetime,
        reading: Mapping[str, Any],
        said: tuple[object, ...] = (),
        write_by: datetime | None = None,
    ) -> "State":
        """Return the state after a reading that says the same but for numbers, held back."""
        return State(
            at,
            received_at,
            self.since,
            reading,
            self.fault,
            self.silent,
            self.lit,
            None if self.lit is None else at,
            self.stored_at or self.at,
            said,
            write_by,
        )

    def goes_on(self, at: datetime, received_at: datetime) -> "State":
        """Return a state that is held back after a reading that says the same."""
        return _tuple(
            State,
            (
                at,
                received_at,
                self.since,
                self.reading,
                self.fault,
                self.silent,
                self.lit,
                None if self.lit is None else at,
                self.stored_at,
                self.said,
                self.write_by,
            ),
        )

    def written(self) -> "State":
        """Return the state as one that the table has."""
        return State(*self[:8], None, self.said)


def registry_revision(conn: Connection) -> int:
    """Return the number that grows with each change of the registry."""
    row = conn.execute("SELECT registry_revision FROM installation").fetchone()
    return 0 if row is None else row[0]


# A city is read by this many rows: no statement takes long, and who watches sees that it goes on.
_BATCH: Final = 20_000


def _all(gateway: str) -> bool:
    del gateway
    return True


def _nothing() -> None:
    pass


def load_registry(
    conn: Connection,
    owns: Callable[[str], bool] = _all,
    progress: Callable[[], None] = _nothing,
) -> Registry:
    """Read gateways and devices, consistent with each other.

    Args:
        conn: Outside a transaction.
        owns: Which gateways, with the devices behind them, are wanted.
        progress: Called now and then while it goes on.
    """
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        revision = registry_revision(conn)
        with conn.cursor(row_factory=class_row(Gateway)) as cursor:
            gateways = [
                gateway
                for gateway in cursor.execute(
                    """
                    SELECT gateway, community,
                           CASE WHEN life IN ('planned', 'retired') THEN life ELSE status END
                               AS status,
                           last_seen_at, silent, status_interval_s, false AS is_city
                    FROM gateway
                    UNION ALL
                    SELECT city, area, status, last_seen_at, silent, status_interval_s, true
                    FROM city
                    """
                )
                if owns(gateway.gateway)
            ]
        past = _load_past(conn)
        excluded = exclusions.load(conn)
        # What many devices have in common is held once: a city's are a million.
        once = _Once()
        devices: dict[str, Device] = {}
        for row in _stream(
            conn,
            """
            SELECT d.id, d.device, d.kind, d.gateway, d.community, d.area, d.life,
                   d.reporting_period_s, d.rated_power_w, d.programme, d.road, d.in_service_from,
                   CASE WHEN isfinite(d.registered_at) THEN d.registered_at END,
                   c.latitude, c.longitude, c.time_zone,
                   ARRAY(SELECT ARRAY[lower(m.during), upper(m.during)] FROM maintenance AS m
                         WHERE m.device_id = d.id ORDER BY m.during)
            FROM device AS d
            JOIN area AS c ON c.area = d.community
            WHERE d.gateway = ANY (%s)
            """,
            ([gateway.gateway for gateway in gateways],),
            progress,
        ):
            out = excluded.of(row[1], area=row[5], gateway=row[3], past=past.stood(row[0]))
            devices[row[1]] = past.add_history(_device(row, once, out))
    return Registry(revision, {gateway.gateway: gateway for gateway in gateways}, devices)


def _stream(
    conn: Connection, query: LiteralString, values: Sequence[object], progress: Callable[[], None]
) -> Iterator[Sequence[Any]]:
    """Read what may be a million rows, within a transaction."""
    with conn.cursor(name="stream") as cursor:
        cursor.itersize = _BATCH
        cursor.execute(query, values)
        for number, row in enumerate(cursor):
            if number % _BATCH == 0:
                progress()
            yield row
    progress()


class _Once(dict[Any, Any]):
    """Returns for each value the first one that was equal to it."""

    def __missing__(self, value: object) -> object:
        self[value] = value
        return value


def _device(row: Sequence[Any], once: _Once, out: tuple[spans.Span, ...]) -> Device:
    """Return a device; windows of maintenance take ``out`` of it."""
    (
        device_id, device, kind, gateway, community, area, life,
        period_s, rated_power_w, programme, road, in_service_from, registered_at,
        latitude, longitude, time_zone, maintenance,
    ) = row  # fmt: skip
    return Device(
        device_id,
        device,
        once[kind],
        once[gateway],
        once[community],
        once[area],
        once[life],
        once[timedelta(seconds=period_s) * lighting.SILENCE_PERIODS],
        rated_power_w,
        lighting.parse_programme(programme),
        once[lighting.Place(latitude or 0.0, longitude or 0.0, time_zone)],
        spans.to_us(in_service_from),
        0 if registered_at is None else spans.to_us(registered_at),
        once[tuple(sorted({*out, *_spans(maintenance)}))] if maintenance else out,
        road,
    )


def _spans(pairs: Sequence[tuple[datetime, datetime]]) -> Iterator[spans.Span]:
    return ((spans.to_us(start), spans.to_us(end)) for start, end in pairs)


@dataclass(frozen=True, slots=True)
class _Version:
    """What a device was until an instant (exclusive)."""

    until_us: int
    gateway: str
    community: str
    area: str
    life: str
    max_silence: timedelta
    rated_power_w: float | None
    programme: lighting.Programme
    road: str | None

    def of(self, device: Device) -> Device:
        """Return what ``device`` was then, but for its place."""
        return replace(
            device,
            gateway=self.gateway,
            community=self.community,
            area=self.area,
            life=self.life,
            max_silence=self.max_silence,
            rated_power_w=self.rated_power_w,
            programme=self.programme,
            road=self.road,
        )


@dataclass(frozen=True, slots=True)
class _Past:
    """Versions of devices that are over; the places that communities had, the last one for ever."""

    versions: Mapping[int, Sequence[_Version]]
    places: Mapping[str, Sequence[tuple[int, lighting.Place]]]

    def stood(self, device_id: int) -> list[Stood]:
        """Return where a device stood before."""
        closed = self.versions.get(device_id, ())
        return [Stood(version.until_us, version.area, version.gateway) for version in closed]

    def add_history(self, device: Device) -> Device:
        """Return the device with its history; the same object where it has none."""
        closed = self.versions.get(device.id, ())
        if not closed and len(self.places[device.community]) == 1:
            return device
        history: list[tuple[int, Device]] = []
        start_us = -_FOR_EVER
        for then, until_us in [(version.of(device), version.until_us) for version in closed] + [
            (device, _FOR_EVER)
        ]:
            for place_until_us, place in self.places[then.community]:
                if place_until_us > start_us:
                    history.append((min(until_us, place_until_us), replace(then, place=place)))
                if place_until_us >= until_us:
                    break
            start_us = until_us
        # What only followed from a change elsewhere in the tree is no other version.
        merged = [
            now for now, later in pairwise([*history, (_FOR_EVER, None)]) if now[1] != later[1]
        ]
        return replace(device, history=tuple(merged[:-1])) if len(merged) > 1 else device


def _load_past(conn: Connection) -> _Past:
    versions: defaultdict[int, list[_Version]] = defaultdict(list)
    for device_id, until, *rest in conn.execute(
        """
        SELECT device_id, upper(during), gateway, community, area, life, reporting_period_s,
               rated_power_w, programme, road
        FROM device_version
        WHERE NOT upper_inf(during)
        ORDER BY device_id, upper(during)
        """
    ):
        versions[device_id].append(_version(until, rest))
    places: defaultdict[str, list[tuple[int, lighting.Place]]] = defaultdict(list)
    for area, until, latitude, longitude, time_zone in conn.execute(
        """
        SELECT area, upper(during), latitude, longitude, time_zone
        FROM area_version
        WHERE area IN (SELECT community FROM device
                       UNION SELECT community FROM device_version WHERE NOT upper_inf(during))
        ORDER BY area, during
        """
    ):
        place = lighting.Place(latitude or 0.0, longitude or 0.0, time_zone)
        until_us = _FOR_EVER if until is None else spans.to_us(until)
        if places[area] and places[area][-1][1] == place:
            places[area].pop()
        places[area].append((until_us, place))
    return _Past(versions, places)


def _version(until: datetime, row: Sequence[Any]) -> _Version:
    gateway, community, area, life, period_s, rated_power_w, programme, road = row
    return _Version(
        spans.to_us(until),
        gateway,
        community,
        area,
        life,
        timedelta(seconds=period_s) * lighting.SILENCE_PERIODS,
        rated_power_w,
        lighting.parse_programme(programme),
        road,
    )


def load_states(
    conn: Connection,
    gateways: Sequence[str] | None = None,
    progress: Callable[[], None] = _nothing,
) -> dict[int, State]:
    """Read the latest state of every device, by device id; of those behind some gateways if said.

    Args:
        conn: Outside a transaction.
        gateways: Whose devices; None for all.
        progress: Called now and then while it goes on.
    """
    query: LiteralString = """
        SELECT s.device_id, s.at, s.received_at, s.since, s.reading, s.fault, s.silent, s.lit,
               s.lit_at
        FROM device_state AS s
        """
    values: tuple[object, ...] = ()
    if gateways is not None:
        query += "JOIN device AS d ON d.id = s.device_id AND d.gateway = ANY (%s)"
        values = (list(gateways),)
    with conn.transaction():
        rows = _stream(conn, query, values, progress)
        return {device_id: State(*rest) for device_id, *rest in rows}


def latest(conn: Connection, device_id: int) -> State | None:
    """Return a device's latest state as the table has it; None where it was never heard."""
    row = conn.execute(
        """
        SELECT at, received_at, since, reading, fault, silent, lit, lit_at
        FROM device_state WHERE device_id = %s
        """,
        (device_id,),
    ).fetchone()
    return None if row is None else State(*row)


def have_states(conn: Connection, ids: Sequence[int]) -> bool:
    """Return whether any of these devices was ever heard."""
    row = conn.execute(
        "SELECT EXISTS (SELECT FROM device_state WHERE device_id = ANY (%s))", (list(ids),)
    ).fetchone()
    return row is not None and row[0]


def save_states(conn: Connection, states: Collection[tuple[int, State]]) -> None:
    """Write the latest states, within a transaction; one row version a device."""
    conn.execute(
        """
        CREATE TEMPORARY TABLE IF NOT EXISTS stage_state
            (LIKE device_state INCLUDING DEFAULTS) ON COMMIT DELETE ROWS
        """
    )
    with conn.cursor() as cursor:
        with cursor.copy(
            """
            COPY stage_state (device_id, at, received_at, since, silent, fault, lit, lit_at,
                reading) FROM STDIN (FORMAT BINARY)
            """
        ) as copy:
            copy.set_types(
                ["int4", *["timestamptz"] * 3, "bool", "text", "bool", "timestamptz", "jsonb"]
            )
            for device_id, state in states:
                copy.write_row(
                    (
                        device_id,
                        state.at,
                        state.received_at,
                        state.since,
                        state.silent,
                        state.fault,
                        state.lit,
                        state.lit_at,
                        Jsonb(state.reading, dumps=to_json),
                    )
                )
    # A temporary table has no statistics: with any other join a million rows might be read.
    conn.execute(_JOINS, {"others": "off"})
    updated = conn.execute(
        """
        UPDATE device_state AS d
        SET at = s.at, received_at = s.received_at, since = s.since, silent = s.silent,
            fault = s.fault, lit = s.lit, lit_at = s.lit_at, reading = s.reading
        FROM stage_state AS s
        WHERE d.device_id = s.device_id
        """
    ).rowcount
    conn.execute(_JOINS, {"others": "on"})
    if updated < len(states):  # some are heard for the first time
        conn.execute(
            """
            INSERT INTO device_state
                (device_id, at, received_at, since, silent, fault, lit, lit_at, reading)
            SELECT device_id, at, received_at, since, silent, fault, lit, lit_at, reading
            FROM stage_state
            ORDER BY device_id
            ON CONFLICT (device_id) DO NOTHING
            """
        )


_JOINS: Final = """
    SELECT set_config('enable_hashjoin', %(others)s, true),
           set_config('enable_mergejoin', %(others)s, true)
"""
