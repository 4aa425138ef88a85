# SPDX-License-Identifier: Apache-2.0
"""A night at the police liaison's desk: what happened is seen at once, what disturbs is not.

The night is the timetable below, played by the simulators (scenario ``night``): virtual devices
under real agents, against a real broker, ingest and api. Each line waits until the desk shows what
stands beside it, and nothing else.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Final

import httpx2
import psycopg
import pytest

from api.people import digest
from deploy.faults.city import SERVICES, City
from deploy.faults.ground import NotReached
from deploy.installation import environment, module
from ingest import hygiene
from ingest.alert_keeper import AlertKeeper
from ingest.kinds import DEFAULT_RULES
from ingest.registry import import_files
from ingest.rules import RuleBook
from ingest.store import connect
from simulators import play, registry
from simulators.faults import STANDING_US
from simulators.play import Line
from simulators.scenario import find, load
from simulators.town import Town
from tests.services import Broker, until

pytestmark = pytest.mark.timeout(420)

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
 12 | tank-3    water x3                 | as before                  |
 24 | lamp-*    could be silent by now   | as before                  |
 25 | ingest    is killed, starts again  | as before                  |
 27 | gw-east   is back                  | + gate.held_open gate-e    |
 28 | roof-*    tamper                   | + alerts.flood c01         |
    |                                    | - gate.held_open gate-e    |
 29 | kitchen   smoke                    | + alarm.smoke kitchen      | III kitchen
 29 | cellar    water x12                | as before                  |
 30 | stairs    smoke                    | + alarm.smoke stairs       | III kitchen stairs
 31 | roof-[012]* restored               | as before                  |
"""
# Not the hardware's doing.
IDLE: Final = "could be silent by now"
KILLED: Final = "is killed, starts again"
# Ten minutes later the flood is over. What stands is seen again, whatever it is.
STANDING: Final = {
    "gate.forced gate-n", "alarm.intrusion hall", "gate.held_open gate-e", "alarm.panic lodge",
    "alarm.smoke kitchen", "alarm.smoke stairs", "alarm.tamper roof-30",
}  # fmt: skip
NUISANCES: Final = 40
LAMPS: Final = 200
ROWS_MAX: Final = 10
# From the event to its place in a case, as it usually is; and where something else had the cores.
DELAY: Final = timedelta(seconds=1)
DELAY_MAX: Final = timedelta(seconds=20)

SCENARIO: Final = "night"
OFFICER: Final = "li"
SESSION: Final = "session-of-li"
ROUND_S: Final = 6.0  # in which ingest looks at all lamps, and a second more
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the timetable, and what the desk shows then."""

    line: Line
    come: set[str] = field(default_factory=set[str])
    gone: set[str] = field(default_factory=set[str])
    case: tuple[str, ...] = ()


def rows(timetable: str) -> list[Row]:
    read: list[Row] = []
    for text in timetable.strip().splitlines():
        second, happens, desk, *case = (cell.strip() for cell in text.split("|"))
        if happens:
            (line,) = play.read(f"{second} | {happens}")
            read.append(Row(line, case=tuple(case[0].split()) if case else ()))
        if desk.startswith("+"):
            read[-1].come.add(desk[2:])
        elif desk.startswith("-"):
            read[-1].gone.add(desk[2:])
    return read


class Hardware:
    """The simulators' own program, with a real agent for each gateway; it plays on cue."""

    def __init__(self, city: City) -> None:
        self._city = city
        self._out = city.folder / "told.jsonl"
        command = module(
            "simulators", "run", SCENARIO, "--on-cue",
            "--broker-host", city.broker.host, "--broker-port", str(city.broker.port),
            "--ca", str(city.broker.ca), "--certificates", str(city.broker.services),
            "--data", str(city.data), "--registry", str(city.folder / "registry"),
        )  # fmt: skip
        with self._out.open("ab") as out, (city.folder / "simulators.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=log, env=environment()
            )

    def await_live(self) -> None:
        """Wait until its agents measure."""
        self._await(lambda: "live" in self._phases(), "the town is live")

    def play(self) -> str:
        """Have the next line of its timetable happen; return how it tells of it."""
        before = len(self._played())
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        self._await(lambda: len(self._played()) > before, "the next line is played")
        self._await(self._all_is_told, "the agents have told of it")
        return self._played()[-1]

    def stop(self) -> dict[str, Any]:
        """Let it deliver what is left; return its last words."""
        self.process.terminate()
        self._await(lambda: "stopped" in self._phases(), "all is delivered")
        assert self.process.wait(PATIENCE_S) == 0
        return self._told()[-1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()

    def _told(self) -> list[dict[str, Any]]:
        lines = self._out.read_text().splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def _phases(self) -> set[str]:
        return {one["phase"] for one in self._told()}

    def _played(self) -> list[str]:
        return [one["line"] for one in self._told() if one["phase"] == "timetable"]

    def _all_is_told(self) -> bool:
        """Whether an agent accepted an event of each beginning and each end so far."""
        with closing(sqlite3.connect(f"file:{self._city.truth}?mode=ro", uri=True)) as ledger:
            query = """
                SELECT count(*) FROM (
                    SELECT target, from_us AS at_us FROM fault
                    UNION ALL SELECT target, to_us FROM fault WHERE to_us <> ?
                ) AS edge
                WHERE NOT EXISTS (
                    SELECT 1 FROM accepted AS a
                    WHERE a.lane = 'event' AND a.device = edge.target AND a.at_us = edge.at_us
                )
            """
            return ledger.execute(query, (STANDING_US,)).fetchone() == (0,)

    def _await(self, check: Callable[[], bool], what: str) -> None:
        def reached() -> bool:
            found = check()
            assert found or self.process.poll() is None, self._city.log("simulators")
            return found

        until(reached, what, timeout_s=PATIENCE_S)


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

    def __init__(self, city: City, town: Town, desk: Desk) -> None:
        self.city, self.desk, self.town = city, desk, town
        self.hardware = Hardware(city)
        self._cut: set[str] = set()

    def happen(self, line: Line) -> None:
        match line.what:
            case play.FALLS_SILENT:
                self._cut.add(line.where)
                self._play(line)
            case play.IS_BACK:
                self._cut.remove(line.where)
                self._play(line)
            case what if what == KILLED:
                assert self.city.ingest is not None
                before = self.desk.alerts("history")
                self.city.ingest.kill()
                self.city.start_ingest()
                assert self.desk.alerts("history") == before
            case what if what == IDLE:
                until(self._lamps_are_unheard, str(line), timeout_s=PATIENCE_S)
            case _:
                self._play(line)
        until(self._is_looked_at, str(line), timeout_s=PATIENCE_S)

    def _play(self, line: Line) -> None:
        """Have it happen, and all that agents accepted stored, but where the network is gone."""
        assert self.hardware.play() == str(line), "the simulators' night is another one"
        for gateway in self.city.gateways:
            due = self.city.recorded(gateway)
            if gateway not in self._cut:
                until(lambda due=due: self.city.covers(due), str(line), timeout_s=PATIENCE_S)
            elif line.what != play.FALLS_SILENT:
                assert not self.city.covers(due), "it is not cut off at all"

    def _is_looked_at(self) -> bool:
        """Whether hygiene has seen all there is: what does not change now stays as it is."""
        with psycopg.connect(self.city.dsn) as conn:
            query = "SELECT count(*) FROM alert_occurrence WHERE NOT looked"
            return conn.execute(query).fetchone() == (0,)

    def _lamps_are_unheard(self) -> bool:
        """Whether every lamp was not heard for so long that it would be silent, were it not for
        its gateway, and then for as long as ingest takes to look at all of them."""
        limit = timedelta(seconds=3 * self.town.reporting_period_s + ROUND_S)
        query = """
            SELECT count(*) FROM device_state AS s JOIN device AS d ON d.id = s.device_id
            WHERE d.kind = 'lamp' AND s.received_at < %s
        """
        with psycopg.connect(self.city.dsn) as conn:
            row = conn.execute(query, (datetime.now(UTC) - limit,)).fetchone()
        return row == (LAMPS,)

    def nothing_of_life_safety_is_hidden(self) -> None:
        raised = {one["id"] for one in self.desk.alerts("history") if one["life_safety"]}
        assert raised <= {one["id"] for one in self.desk.alerts()}
        assert raised <= {one["id"] for case in self.desk.cases() for one in case["alerts"]}


@pytest.fixture
def night(database: str, own_broker: Broker, tmp_path: Path) -> Iterator[Night]:
    # The moment that a lamp is silent it would be told, not a minute later.
    city = City(database, own_broker, tmp_path, rules={"device.silent": {"on_delay_s": 0}})
    town = register(city)
    client = httpx2.Client(
        base_url=city.url, cookies={"linli_session": SESSION}, timeout=PATIENCE_S
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
        made = Night(city, town, Desk(client))
        made.hardware.await_live()
        yield made
    finally:
        if made is not None:
            made.hardware.close()
        client.close()
        city.close()


def register(city: City) -> Town:
    """The scenario's town, who may say what in it, and the officer on duty."""
    town = load(find(SCENARIO)).town
    assert town is not None
    now = datetime.now(UTC)
    built = town.build(now - timedelta(days=1))
    files = registry.write(built, city.folder / "registry")
    city.gateways = [one.gateway for one in built.gateways]
    for identity in (*city.gateways, *SERVICES):
        city.broker.identity(identity)
    city.write_config()
    with psycopg.connect(city.dsn) as conn:
        import_files(conn, files)
        conn.execute("INSERT INTO person VALUES (%s, 'none', 'police', 'c01')", (OFFICER,))
        conn.execute(
            "INSERT INTO session VALUES (%s, %s, %s, %s, %s)",
            (digest(SESSION), OFFICER, now, now, now + timedelta(hours=12)),
        )
    return town


def await_equal(actual: Callable[[], object], expected: object, what: str) -> None:
    """Wait until it is as expected, and fail with what it is instead."""
    with suppress(NotReached):
        until(lambda: actual() == expected, what, timeout_s=PATIENCE_S, every_s=0.1)
    assert actual() == expected, what


def test_the_desk_shows_what_happened_and_nothing_of_life_safety_is_ever_hidden(
    night: Night,
) -> None:
    desk, seen, cases = night.desk, set[str](), dict[str, list[str]]()
    then, second = time.monotonic(), 0.0
    for row in rows(NIGHT):
        line = row.line
        # After a line that took its time the others keep their distances.
        due = then + line.second - second
        until(lambda due=due: time.monotonic() >= due, str(line), timeout_s=PATIENCE_S)
        then, second = time.monotonic(), line.second
        night.happen(line)
        assert row.gone <= seen, line
        seen = seen - row.gone | row.come
        await_equal(desk.rows, sorted(seen), str(line))
        if row.case:
            number, *devices = row.case
            cases[number] = devices
        await_equal(desk.real, list(cases.values()), str(line))
        night.nothing_of_life_safety_is_hidden()

    assert len(desk.alerts()) <= ROWS_MAX
    at_once(night.city, desk.cases())
    told = desk.alerts("history")
    for alert in told:
        explained(desk.get(f"alerts/{alert['id']}"))
    assert not [one for one in told if one["rule"] == "device.silent"]
    nuisances(told)

    ten_minutes_later(night)
    assert set(desk.rows()) >= STANDING
    assert set(desk.rows("active")) == STANDING
    night.nothing_of_life_safety_is_hidden()
    nothing_is_lost_or_doubled(night)


def nuisances(told: list[dict[str, Any]]) -> None:
    """The night disturbed as often as it was to."""
    names = ("gate-[1-4]", "box-*", "tank-*", "lane")
    small = [one for one in told if any(fnmatch(one["subject"], name) for name in names)]
    assert sum(1 + one["repeats"] for one in small) == NUISANCES
    assert len({one["subject"] for one in small}) == 12
    assert len({one["rule"] for one in small}) == 4


def at_once(city: City, cases: list[dict[str, Any]]) -> None:
    """Each alert of the three was in its case with its raise, and that within a second.

    By the times that the device and ingest wrote down, not by when this test came to look.
    """
    real = [case for case in cases if case["nature"] != "nuisance"]
    with psycopg.connect(city.dsn) as conn:
        together = conn.execute(
            """
            SELECT h.xmin = m.xmin
            FROM case_alert AS m JOIN alert_history AS h ON h.alert = m.alert
            WHERE h.action = 'raised' AND m.case_id = ANY (%s::uuid[])
            """,
            ([case["id"] for case in real],),
        ).fetchall()
    assert together == [(True,)] * sum(len(case["alerts"]) for case in real)
    assert [case["nature"] for case in real] == ["crime", "crime", "fire"]
    assert len(cases) == len(real) + 1, "what disturbs is one case at most"
    opened = [case["opened_at"] for case in real]
    assert opened == sorted(opened)
    times = [
        *((case["opened_at"], case["first_at"]) for case in real),
        *((one["joined_at"], one["raised_at"]) for case in real for one in case["alerts"]),
    ]
    delays = sorted(
        datetime.fromisoformat(ours) - datetime.fromisoformat(theirs) for ours, theirs in times
    )
    assert timedelta(0) <= delays[0], delays
    assert delays[len(delays) // 2] <= DELAY, delays
    assert delays[-1] <= DELAY_MAX, delays


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


def nothing_is_lost_or_doubled(night: Night) -> None:
    """What agents accepted is what is stored, and each alarm was one occurrence."""
    night.city.start_ingest()
    assert night.hardware.stop()["drained"]
    assert night.city.ingest is not None
    night.city.ingest.stop()
    verdict = night.city.compare()
    assert verdict.ok, verdict


def ten_minutes_later(night: Night) -> None:
    """Let the keeper look when nothing came for so long that a flood is over."""
    assert night.city.ingest is not None
    night.city.ingest.stop()
    later = datetime.now(UTC) + hygiene.FLOOD_TIME + timedelta(seconds=1)
    with connect(night.city.dsn, "later") as conn:
        keeper = AlertKeeper(night.city.dsn, RuleBook(DEFAULT_RULES, {}))
        until(lambda: not keeper.keep(conn, later), "all is done", timeout_s=PATIENCE_S)
