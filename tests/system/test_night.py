# SPDX-License-Identifier: Apache-2.0
"""A night at the police liaison's desk: what happened is seen at once, what disturbs is not.

The night is the timetable below, played by gateways with certificates against a real broker, ingest
and api. Each line waits until the desk shows what stands beside it, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal, cast
from uuid import uuid4

import httpx2
import psycopg
import pytest

from api.people import digest
from deploy.faults.city import City
from deploy.faults.ground import NotReached
from deploy.installation import module
from edge_agent.kinds.alarm import AlarmEvent, AlarmType
from edge_agent.kinds.gate import GateEvent
from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import EventMessage, Status, Telemetry, encode
from ingest import hygiene
from ingest.alert_keeper import AlertKeeper
from ingest.kinds import DEFAULT_RULES
from ingest.rules import RuleBook
from ingest.store import connect
from tests.bad_input.installation import Gateway
from tests.services import Broker, until

pytestmark = pytest.mark.timeout(180)

# At which second, where, what; how the desk's alerts change; what the real cases are then.
# "x4": so often raised and restored; without it, it stands. "name-*" is all of them.
NIGHT: Final = """
  0 | cellar    water x12                | as before                  |
  1 | gate-n    forced                   | + gate.forced gate-n       | I gate-n
  1 | hall      intrusion                | + alarm.intrusion hall     | I gate-n hall
  2 | gate-[123] held_open x4            | as before                  |
  3 | box-[123] tamper x4                | as before                  |
  4 | tank-[12] water x3                 | as before                  |
  5 | lane      fire_lane_blocked x3     | as before                  |
  6 | gate-4    held_open x2             | + gate.held_open gate-4    |
  6 | box-4     tamper x2                | + alarm.tamper box-4       |
  7 | gate-e    held_open                | + gate.held_open gate-e    |
  8 | lodge     panic                    | + alarm.panic lodge        | II lodge
  9 | gw-east   falls silent             | + gateway.silent gw-east   |
    |                                    | - gate.held_open gate-e    |
 10 | lamp-*    could be silent by now   | as before                  |
 11 | ingest    is killed, starts again  | as before                  |
 12 | gate-5    held_open x3             | as before                  |
 13 | gw-east   is back                  | + gate.held_open gate-e    |
 14 | roof-*    tamper                   | + alerts.flood c01         |
    |                                    | - gate.held_open gate-e    |
 15 | kitchen   smoke                    | + alarm.smoke kitchen      | III kitchen
 15 | cellar    water x12                | as before                  |
 16 | stairs    smoke                    | + alarm.smoke stairs       | III kitchen stairs
 17 | roof-[012]* restored               | as before                  |
"""
# Ten minutes later the flood is over. What stands is seen again, whatever it is.
STANDING: Final = {
    "gate.forced gate-n", "alarm.intrusion hall", "gate.held_open gate-e", "alarm.panic lodge",
    "alarm.smoke kitchen", "alarm.smoke stairs", "alarm.tamper roof-30",
}  # fmt: skip
NUISANCES: Final = 40
ROWS_MAX: Final = 10
DELAY_MAX: Final = timedelta(seconds=1)

LAMPS: Final = [f"lamp-{number:03d}" for number in range(1, 201)]
# Behind which gateway, each in a grid cell of its own.
PLACES: Final = {
    "north": ["gate-n", "hall"],
    "east": ["gate-e", "lodge", *LAMPS],
    "south": ["kitchen", "stairs"],
    "west": [
        "cellar", "lane", "tank-1", "tank-2",
        *(f"gate-{number}" for number in range(1, 6)),
        *(f"box-{number}" for number in range(1, 5)),
        *(f"roof-{number:02d}" for number in range(1, 31)),
    ],
}  # fmt: skip

BEAT_S: Final = 0.5
STATUS_S: Final = 2.0  # three of these, and a gateway is silent
REPORT_S: Final = 3.0  # three of these, and a lamp would be
ROUND_S: Final = 6.0  # in which ingest looks at all lamps, and a second more
PATIENCE_S: Final = 30.0
STREAM: Final = f"night-{uuid4().hex[:8]}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the timetable."""

    second: float
    where: str
    what: str
    times: int
    come: set[str] = field(default_factory=set[str])
    gone: set[str] = field(default_factory=set[str])
    case: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.second:g} s, {self.where} {self.what}"


def read(timetable: str) -> list[Line]:
    lines: list[Line] = []
    for text in timetable.strip().splitlines():
        second, happens, desk, *case = (cell.strip() for cell in text.split("|"))
        if happens:
            where, what = happens.split(maxsplit=1)
            what, _, times = what.partition(" x")
            names = tuple(case[0].split()) if case else ()
            lines.append(Line(float(second), where, what, int(times or 0), case=names))
        if desk.startswith("+"):
            lines[-1].come.add(desk[2:])
        elif desk.startswith("-"):
            lines[-1].gone.add(desk[2:])
    return lines


def kind_of(device: str) -> Literal["lamp", "gate", "alarm"]:
    prefix = device.partition("-")[0]
    return "lamp" if prefix == "lamp" else "gate" if prefix == "gate" else "alarm"


class Box:
    """A gateway: tells events, and every half second that it is there, with what its lamps do."""

    def __init__(self, broker: Broker, name: str, devices: list[str]) -> None:
        self.name, self.devices = name, devices
        self._broker = broker
        self._lamps = [device for device in devices if kind_of(device) == "lamp"]
        self._told = 0
        self._batches = count(1)
        self._standing: dict[str, tuple[str, str]] = {}
        self.appear()

    def appear(self) -> None:
        """Connect, and be heard from now on."""
        self._gateway = Gateway(self._broker, self.name)
        self._gone = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def vanish(self) -> None:
        """Fall silent."""
        self._gone.set()
        self._beats.join()
        self._gateway.close()

    def _beat(self) -> None:
        while not self._gone.is_set():
            now = datetime.now(UTC)
            status = Status(state="online", at=now, status_interval_s=STATUS_S)
            self._gateway.publish("status", encode(status), retain=True)
            for first in range(0, len(self._lamps), 100):
                lamps = self._lamps[first : first + 100]
                message = Telemetry(
                    stream=f"{STREAM}-telemetry",
                    seq=next(self._batches),
                    sent_at=now,
                    readings=tuple(LampReading(device=lamp, at=now, lit=True) for lamp in lamps),
                )
                self._gateway.publish("telemetry", encode(message))
            self._gone.wait(BEAT_S)

    def tell(self, device: str, what: str, times: int) -> None:
        """Let something happen to a device: so often and over, or (0) once and it stands."""
        for _ in range(times or 1):
            if what != "restored":
                self._standing[device] = (what, uuid4().hex)
                self._say(device, what, "raised")
            if what == "restored" or times:
                self._say(device, self._standing[device][0], "restored")

    @property
    def is_heard(self) -> bool:
        """Whether all events it told are stored, as far as it knows."""
        return self._gateway.upto(f"{STREAM}-event") == self._told

    def _say(self, device: str, what: str, phase: Literal["raised", "restored"]) -> None:
        now = datetime.now(UTC)
        if kind_of(device) == "gate":
            event = GateEvent.model_validate(
                {"device": device, "at": now, "event": what if phase == "raised" else phase}
            )
        else:
            event = AlarmEvent(
                device=device,
                at=now,
                event=cast("AlarmType", what),
                phase=phase,
                occurrence=self._standing[device][1],
            )
        self._told += 1
        message = EventMessage(stream=f"{STREAM}-event", seq=self._told, sent_at=now, event=event)
        self._gateway.publish("event", encode(message))


@dataclass(slots=True)
class Desk:
    """What the police liaison sees."""

    client: httpx2.Client

    def get(self, path: str, **parameters: str | int) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=parameters)
        assert answer.is_success, answer.text
        return answer.json()

    def alerts(self, status: str = "desk") -> list[dict[str, Any]]:
        page = self.get("alerts", status=status, limit=200)
        assert page["next_cursor"] is None
        return page["items"]

    def rows(self, status: str = "desk") -> list[str]:
        return sorted(f"{one['rule']} {one['subject']}" for one in self.alerts(status))

    def cases(self) -> list[dict[str, Any]]:
        """All there are, whole, what began first first."""
        listed = self.get("cases", limit=200)["items"]
        return [self.get(f"cases/{one['id']}") for one in reversed(listed)]

    def real(self) -> list[list[str]]:
        """Of what cases are that are more than a nuisance: devices, as they came to be in it."""
        return [
            [one["subject"] for one in sorted(case["alerts"], key=lambda one: one["raised_at"])]
            for case in self.cases()
            if case["nature"] != "nuisance"
        ]


class Night:
    """The timetable's world, and whoever plays it."""

    def __init__(self, city: City, broker: Broker, desk: Desk) -> None:
        self.city, self.desk = city, desk
        self.boxes = {
            f"gw-{cell}": Box(broker, f"gw-{cell}", devices) for cell, devices in PLACES.items()
        }

    def close(self) -> None:
        for box in self.boxes.values():
            box.vanish()

    def happen(self, line: Line) -> None:
        match line.what:
            case "falls silent":
                self.boxes[line.where].vanish()
            case "is back":
                self.boxes[line.where].appear()
            case "is killed, starts again":
                assert self.city.ingest is not None
                before = self.desk.alerts("history")
                self.city.ingest.kill()
                self.city.start_ingest()
                assert self.desk.alerts("history") == before
            case "could be silent by now":
                until(self._lamps_are_unheard, str(line), timeout_s=PATIENCE_S)
            case what:
                found = [
                    (box, device)
                    for box in self.boxes.values()
                    for device in box.devices
                    if fnmatch(device, line.where)
                ]
                assert found, line
                for box, device in found:
                    box.tell(device, what, line.times)
                until(
                    lambda: all(box.is_heard for box, _ in found), str(line), timeout_s=PATIENCE_S
                )
        until(self._is_looked_at, str(line), timeout_s=PATIENCE_S)

    def _is_looked_at(self) -> bool:
        """Whether hygiene has seen all there is: what does not change now stays as it is."""
        with psycopg.connect(self.city.dsn) as conn:
            query = "SELECT count(*) FROM alert_occurrence WHERE NOT looked"
            return conn.execute(query).fetchone() == (0,)

    def _lamps_are_unheard(self) -> bool:
        """Whether every lamp was not heard for so long that it would be silent, were it not for
        its gateway, and then for as long as ingest takes to look at all of them."""
        limit = timedelta(seconds=3 * REPORT_S + ROUND_S)
        query = """
            SELECT count(*) FROM device_state AS s JOIN device AS d ON d.id = s.device_id
            WHERE d.kind = 'lamp' AND s.received_at < %s
        """
        with psycopg.connect(self.city.dsn) as conn:
            row = conn.execute(query, (datetime.now(UTC) - limit,)).fetchone()
        return row == (len(LAMPS),)

    def nothing_of_life_safety_is_hidden(self) -> None:
        raised = {one["id"] for one in self.desk.alerts("history") if one["life_safety"]}
        assert raised <= {one["id"] for one in self.desk.alerts()}
        assert raised <= {one["id"] for case in self.desk.cases() for one in case["alerts"]}


@pytest.fixture
def night(database: str, own_broker: Broker, tmp_path: Path) -> Iterator[Night]:
    with psycopg.connect(database) as conn:
        register(conn)
    # The moment that a lamp is silent it would be told, not a minute later.
    city = City(database, own_broker, tmp_path, rules={"device.silent": {"on_delay_s": 0}})
    for identity in ("ingest-telemetry-00", "ingest-event-00", "api-live-00"):
        own_broker.identity(identity)
    city.write_config()
    client = httpx2.Client(
        base_url=city.url, cookies={"linli_session": "session-of-li"}, timeout=PATIENCE_S
    )
    made: Night | None = None
    try:
        city.start_ingest()
        api = city.start("api", module("api", "serve", "--config", str(city.config)))

        def ready() -> bool:
            assert api.running, api.tail()
            try:
                return client.get("/readyz").is_success
            except httpx2.TransportError:
                return False

        until(ready, "the api is ready", timeout_s=PATIENCE_S)
        made = Night(city, own_broker, Desk(client))
        yield made
    finally:
        if made is not None:
            made.close()
        client.close()
        city.close()


def register(conn: psycopg.Connection) -> None:
    """One community of four cells, a gateway in each, and the officer on duty."""
    now = datetime.now(UTC)
    areas = [("city", None, "city", "city"), ("c01", "city", "city.c01", "community")]
    areas += [(cell, "c01", f"city.c01.{cell}", "cell") for cell in PLACES]
    for area, parent, path, level in areas:
        conn.execute(
            "INSERT INTO area (area, parent, path, level, name, latitude, longitude)"
            " VALUES (%s, %s, %s::text::ltree, %s, %s, 30.6, 104.0)",
            (area, parent, path, level, area),
        )
    for cell, devices in PLACES.items():
        conn.execute("INSERT INTO gateway (gateway, community) VALUES (%s, 'c01')", (f"gw-{cell}",))
        for device in devices:
            kind = kind_of(device)
            conn.execute(
                """
                INSERT INTO device (device, kind, gateway, community, area, in_service_from,
                                    reporting_period_s, rated_power_w, programme)
                VALUES (%s, %s, %s, 'c01', %s, %s, %s, %s, 'always')
                """,
                (
                    device, kind, f"gw-{cell}", cell, now - timedelta(days=30),
                    REPORT_S if kind == "lamp" else 600, 100.0 if kind == "lamp" else None,
                ),
            )  # fmt: skip
    conn.execute("INSERT INTO person VALUES ('li', 'none', 'police', 'c01')")
    conn.execute(
        "INSERT INTO session VALUES (%s, 'li', %s, %s, %s)",
        (digest("session-of-li"), now, now, now + timedelta(hours=12)),
    )


def await_equal(actual: Callable[[], object], expected: object, what: str) -> None:
    """Wait until it is as expected, and fail with what it is instead."""
    with suppress(NotReached):
        until(lambda: actual() == expected, what, timeout_s=PATIENCE_S, every_s=0.1)
    assert actual() == expected, what


def test_the_desk_shows_what_happened_and_nothing_of_life_safety_is_ever_hidden(
    night: Night,
) -> None:
    desk, rows, cases = night.desk, set[str](), dict[str, list[str]]()
    begun = time.monotonic()
    for line in read(NIGHT):
        until(
            lambda line=line: time.monotonic() - begun >= line.second,
            str(line),
            timeout_s=PATIENCE_S,
        )
        night.happen(line)
        assert line.gone <= rows, line
        rows = rows - line.gone | line.come
        await_equal(desk.rows, sorted(rows), str(line))
        if line.case:
            number, *devices = line.case
            cases[number] = devices
        await_equal(desk.real, list(cases.values()), str(line))
        night.nothing_of_life_safety_is_hidden()

    assert len(desk.alerts()) <= ROWS_MAX
    within_a_second(desk.cases())
    told = desk.alerts("history")
    for alert in told:
        explained(desk.get(f"alerts/{alert['id']}"))
    assert not [one for one in told if one["rule"] == "device.silent"]
    nuisances(told)

    ten_minutes_later(night)
    assert set(desk.rows()) >= STANDING
    assert set(desk.rows("active")) == STANDING
    night.nothing_of_life_safety_is_hidden()


def nuisances(told: list[dict[str, Any]]) -> None:
    """The night disturbed as often as it was to."""
    names = ("gate-[1-5]", "box-*", "tank-*", "lane")
    small = [one for one in told if any(fnmatch(one["subject"], name) for name in names)]
    assert sum(1 + one["repeats"] for one in small) == NUISANCES
    assert len({one["subject"] for one in small}) == 12
    assert len({one["rule"] for one in small}) == 4


def within_a_second(cases: list[dict[str, Any]]) -> None:
    """Each alert of the three was in its case within a second of what it tells of.

    By the times that the device and ingest wrote down, not by when this test came to look.
    """
    real = [case for case in cases if case["nature"] != "nuisance"]
    assert [case["nature"] for case in real] == ["crime", "crime", "fire"]
    assert len(cases) == len(real) + 1, "what disturbs is one case at most"
    opened = [case["opened_at"] for case in real]
    assert opened == sorted(opened)
    for case in real:
        delays = [(case["opened_at"], case["first_at"])]
        delays += [(one["joined_at"], one["raised_at"]) for one in case["alerts"]]
        for ours, theirs in delays:
            delay = datetime.fromisoformat(ours) - datetime.fromisoformat(theirs)
            assert timedelta(0) <= delay <= DELAY_MAX, case["alerts"]


def explained(alert: dict[str, Any]) -> None:
    """An alert's timeline begins with its raise and says how it came to be as it is."""
    done = [step["action"] for step in alert["timeline"]]
    assert done[0] == "raised"
    assert all(step["actor"] and step["reason"] for step in alert["timeline"])
    raised = done.count("raised") + done.count("raised_again")
    assert raised == alert["occurrence_count"] == alert["repeats"] + 1
    assert raised - done.count("cleared") == alert["standing"]
    assert done.count("suppressed") - done.count("unsuppressed") == len(alert["suppressed_by"])
    assert done.count("shelved") - done.count("unshelved") == (alert["shelved"] is not None)


def ten_minutes_later(night: Night) -> None:
    """Let the keeper look when nothing came for so long that a flood is over."""
    assert night.city.ingest is not None
    night.city.ingest.stop()
    later = datetime.now(UTC) + hygiene.FLOOD_TIME + timedelta(seconds=1)
    with connect(night.city.dsn, "later") as conn:
        keeper = AlertKeeper(night.city.dsn, RuleBook(DEFAULT_RULES, {}))
        until(lambda: not keeper.keep(conn, later), "all is done", timeout_s=PATIENCE_S)
