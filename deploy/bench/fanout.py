# SPDX-License-Identifier: Apache-2.0
"""Many who watch: how many events an api delivers, and what they cost ingest.

First one community's viewers are told of an alert again and again, as fast as all of them hear it:
the alert changes in the table, its id goes out on the live topic, as ingest does it. Beside it, in
turns, an app of the same server that tells its viewers something of the same size and does nothing
else (W0). Then ingest stores as fast as it can, with viewers and without.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import psycopg

from deploy.bench import differences, sampling
from deploy.bench.ingest import DENSE, WRONG_SHOWN, Bench
from deploy.bench.runs import Run, short
from deploy.bench.stage import Loading, Stage, live_client
from deploy.bench.viewers import DELTA, Audience
from deploy.faults.ground import until
from deploy.installation import module
from deploy.services import HOST, free_port
from edge_agent import topics
from simulators.messages import community_of, gateway_of

VIEWERS: Final = 1_000
_QUICK_VIEWERS: Final = 40
_WATCHED: Final = 20  # communities, while ingest stores
_OUTSTANDING: Final = 3
_SETTLE_S: Final = 60.0
_PATIENCE_S: Final = 30.0
#: Deliveries a second, and a second of the server's processor.
Rates = tuple[float, float]
_VERSION: Final = re.compile(rb'"version":(\d+)')


def fanout(bench: Bench, load: Loading) -> None:
    """Deliveries beside the empty app's, then ingest with and without viewers."""
    settings, result, stage = bench.settings, bench.result, bench.stage
    count = VIEWERS if settings.comparable else _QUICK_VIEWERS
    tokens = stage.tokens(count + 1, "fanout")
    watched = min(_WATCHED, settings.town.communities)
    one = [(token, _path(community_of(1))) for token in tokens]
    many = [(token, _path(community_of(n % watched + 1))) for n, token in enumerate(tokens[1:])]
    ours: list[Rates] = []
    empty: list[Rates] = []
    without: list[float] = []
    beside: list[float] = []
    for turn in range(1, settings.rounds + 1):
        bench.tell(f"round {turn}: {count} viewers of one community")
        with _teller(stage) as tell:
            ours.append(_told(bench, one, tell))
        bench.tell(f"round {turn}: W0, an empty broadcast to {count}")
        empty.append(_empty(bench, count))
        bench.tell(f"round {turn}: ingest without viewers")
        without.append(_stored(bench, load, "Linli without viewers"))
        bench.tell(f"round {turn}: ingest and {count} viewers")
        beside.append(_watched(bench, load, many))
    for place, goal in enumerate(("15 deliveries/s / W0", "15 deliveries a CPU second / W0")):
        result.compare(goal, [one[place] for one in ours], [one[place] for one in empty], 0.5)
    # At most a tenth slower.
    result.compare(f"15 readings/s beside {count} viewers / without", beside, without, 0.9)
    with psycopg.connect(stage.dsn) as conn:
        found = differences.missing_seqs(conn, load.ledger())
        found += differences.missing_readings(conn, load.ledger())
    result.wrong += found[:WRONG_SHOWN]


def _path(area: str) -> str:
    return f"/api/v1/stream?area={area}"


# -- deliveries -----------------------------------------------------------------------------------


def _told(bench: Bench, wanted: Sequence[tuple[str, str]], tell: Callable[[], int]) -> Rates:
    """Have all but the first of ``wanted`` hear of an alert as often as they can."""
    stage = bench.stage
    audience = Audience(f"{HOST}:{stage.api_port}", wanted[1:])
    try:
        seated = audience.seated()
        with socket.create_connection((HOST, stage.api_port), timeout=_PATIENCE_S) as sentinel:
            token, path = wanted[0]
            sentinel.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n"
                "Accept: text/event-stream\r\n\r\n".encode()
            )
            heard = 0
            while not heard:  # the snapshot
                heard = _newest(sentinel.recv(1 << 20), heard)
            told = heard
            window = _Window(bench, audience, {"api": stage.processes["api"].pid})
            while time.monotonic() < window.end:
                if told - heard < _OUTSTANDING:
                    told = tell()
                else:
                    heard = _newest(sentinel.recv(1 << 20), heard)
            rates = window.close("api: deliveries")
            bench.result.runs[-1].told = {**bench.result.runs[-1].told, **seated}
            # Whoever was told last of all: everybody has heard the same, and nobody was cut off.
            until(lambda: _alike(audience), "all viewers heard the same", timeout_s=_SETTLE_S,
                  every_s=0.2)  # fmt: skip
            while heard < told:
                heard = _newest(sentinel.recv(1 << 20), heard)
        return rates
    finally:
        audience.leave()


def _newest(data: bytes, heard: int) -> int:
    if not data:
        raise RuntimeError("the api ended a stream")
    return max([heard, *(int(one) for one in _VERSION.findall(data))])


def _alike(audience: Audience) -> bool:
    heard = audience.heard()
    return heard["least"] == heard["most"] > 0


class _Window:
    """What is delivered and spent from its making to `close`."""

    def __init__(self, bench: Bench, audience: Audience, pids: dict[str, int]) -> None:
        self._bench = bench
        self._audience = audience
        self._pids = pids | {"viewers": audience.pid}
        self._heard = audience.heard("mark")
        self._cpu = self._spent()
        self._begun = time.monotonic()
        self.end = self._begun + bench.settings.round_s

    def _spent(self) -> dict[str, float]:
        return {name: sampling.family_cpu_s(pid) for name, pid in self._pids.items()}

    def close(self, name: str) -> tuple[float, float]:
        """Write down the run; return its deliveries a second, and a CPU second of the server."""
        heard, seconds = self._audience.heard(), time.monotonic() - self._begun
        spent = {one: after - self._cpu[one] for one, after in self._spent().items()}
        result = self._bench.result
        deliveries = heard["deltas"]
        if heard["resets"] or heard["ended"] or not deliveries:
            result.wrong.append(f"{name}: {heard}")
        run = Run(name, seconds, 0, 0, 0, cores={one: s / seconds for one, s in spent.items()})
        run.told = {
            "deliveries": deliveries,
            "deliveries_per_s": round(deliveries / seconds),
            "bytes_a_delivery": round(heard["bytes"] / max(1, deliveries)),
            "cpu_us_a_delivery": {
                one: short(1e6 * s / max(1, deliveries)) for one, s in spent.items()
            },
        }
        result.runs.append(run)
        (server, *_) = self._pids
        return deliveries / seconds, deliveries / max(spent[server], 1e-9)


@contextmanager
def _teller(stage: Stage) -> Generator[Callable[[], int]]:
    """Yield what changes an alert and says so on the live topic; it returns the new version."""
    community, alert = community_of(1), uuid4()
    with psycopg.connect(stage.dsn, autocommit=True) as conn, live_client(stage) as client:
        # What is measured is how an alert is told, not how soon it is on disk.
        conn.execute("SET synchronous_commit = off")
        conn.execute(
            "INSERT INTO alert (id, rule, severity, kind, gateway, community, area, active,"
            " standing, raised_at, last_raised_at, received_at, changed_at)"
            " VALUES (%s, 'gateway.silent', 'minor', 'gateway', %s, %s, %s, true, 1,"
            " now(), now(), now(), now())",
            (alert, gateway_of(1), community, community),
        )

        def tell() -> int:
            row = conn.execute(
                "UPDATE alert SET version = version + 1, changed_at = now() WHERE id = %s"
                " RETURNING version",
                (alert,),
            ).fetchone()
            assert row is not None
            message = {"v": 1, "at": datetime.now(UTC).isoformat(), "alerts": [str(alert)]}
            client.publish(topics.live(community), json.dumps(message), qos=topics.LIVE_QOS)
            return row[0]

        try:
            yield tell
        finally:
            conn.execute("DELETE FROM alert WHERE id = %s", (alert,))


def _empty(bench: Bench, count: int) -> Rates:
    """Return the deliveries of an app that does nothing but deliver."""
    port = free_port()
    last = bench.result.runs[-1].told["bytes_a_delivery"]
    told = {"host": HOST, "port": port, "bytes": max(1, last - len(DELTA))}
    app = bench.stage.program(
        "broadcast",
        module("deploy.bench.baselines", "broadcast"),
        {"LINLI_BENCH": json.dumps(told)},
    )
    audience = Audience(f"{HOST}:{port}", [("", "/")] * count)
    try:
        audience.seated()
        window = _Window(bench, audience, {"W0": app.pid})
        time.sleep(bench.settings.round_s)
        return window.close("W0: deliveries")
    finally:
        audience.leave()
        app.kill()


# -- ingest beside them ---------------------------------------------------------------------------


def _stored(bench: Bench, load: Loading, name: str) -> float:
    run, rate = bench.flow(load, DENSE)
    run.name = name
    bench.result.runs.append(run)
    return rate


def _watched(bench: Bench, load: Loading, wanted: Sequence[tuple[str, str]]) -> float:
    audience = Audience(f"{HOST}:{bench.stage.api_port}", wanted)
    bench.pids["viewers"] = audience.pid
    try:
        audience.seated()
        begun = time.monotonic()
        rate = _stored(bench, load, f"Linli and {len(wanted)} viewers")
        heard, seconds = audience.heard(), time.monotonic() - begun
        hertz = heard["deltas"] / seconds / len(wanted)
        bench.result.runs[-1].told = {
            "viewers": len(wanted), "told_hz": short(hertz), "viewer_bytes": heard["bytes"],
        }  # fmt: skip
        if not heard["deltas"]:
            bench.result.wrong.append("viewers were told nothing while ingest stored")
        return rate
    finally:
        bench.pids.pop("viewers")
        audience.leave()
