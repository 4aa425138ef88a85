# SPDX-License-Identifier: Apache-2.0
"""Gateways live as devices do: imported, exported, remembered; scrap raises nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from edge_agent.kinds.lamp import LampReading
from edge_agent.messages import Status
from ingest import pki
from ingest.errors import RegistryError
from ingest.gateways import add_gateway
from ingest.presence import Hearing
from ingest.registry import export_files, import_files
from ingest.registry_files import Format
from ingest.writer import Writer
from tests.ingest.community import GATEWAY, OTHER_GATEWAY, Bench, feed, found
from tests.services import Broker

LAMP = "c01-lamp-001"
HEADER = "gateway,community,name,life\n"


@pytest.fixture
def now() -> datetime:
    """No earlier than the test: lanes look round by the clock, too, and never twice a second."""
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def bench(database: str, broker: Broker, now: datetime) -> Iterator[Bench]:
    found(database, in_service_from=now - timedelta(hours=1))
    made = Bench(database, broker)
    yield made
    made.close()


@pytest.fixture
def conn(bench: Bench) -> Iterator[psycopg.Connection]:
    with psycopg.connect(bench.dsn, autocommit=True) as conn:
        yield conn


def written(folder: Path, **tables: str) -> list[Path]:
    paths: list[Path] = []
    for name, text in tables.items():
        paths.append(folder / f"{name}.csv")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def said(refused: pytest.ExceptionInfo[RegistryError], folder: Path) -> list[str]:
    return [line.replace(f"{folder}/", "") for line in str(refused.value).splitlines()]


def retire_devices(conn: psycopg.Connection, gateway: str = GATEWAY) -> None:
    conn.execute("UPDATE device SET life = 'retired' WHERE gateway = %s", (gateway,))


def become(conn: psycopg.Connection, life: str, gateway: str = GATEWAY) -> None:
    with conn.transaction():
        conn.execute("UPDATE gateway SET life = %s WHERE gateway = %s", (life, gateway))
        conn.execute("UPDATE installation SET registry_revision = registry_revision + 1")


# -- the registry


def test_it_is_tried_out_imported_and_exported(conn: psycopg.Connection, tmp_path: Path) -> None:
    retire_devices(conn)
    (file,) = written(tmp_path, gateways=f"{HEADER}{GATEWAY},c01,,retired\ngw-new,c01,,planned\n")
    tried = import_files(conn, {file: "gateways.csv"}, dry_run=True)
    assert f"gateways.csv:2: gateway {GATEWAY}: life: 'in_service' -> 'retired'" in tried.lines()
    assert lives(conn)[GATEWAY] == "in_service"
    import_files(conn, [file])
    assert (lives(conn)[GATEWAY], lives(conn)["gw-new"]) == ("retired", "planned")
    # A file without the column leaves it as it is; a new gateway is in service.
    (other,) = written(tmp_path, other=f"gateway,community,name\n{GATEWAY},c01,x\ngw-2,c01,\n")
    import_files(conn, [other])
    assert (lives(conn)[GATEWAY], lives(conn)["gw-2"]) == ("retired", "in_service")
    for form in Format:
        files = export_files(conn, tmp_path / form.value, form=form)
        again = import_files(conn, files)
        assert not again.changed, form
        assert not any(again.added.values()), form
    text = (tmp_path / "csv" / "gateways.csv").read_text(encoding="utf-8-sig")
    assert text.splitlines()[0] == HEADER.strip()
    assert f"{GATEWAY},c01,x,retired" in text


def lives(conn: psycopg.Connection) -> dict[str, str]:
    return dict(conn.execute("SELECT gateway, life FROM gateway").fetchall())


def test_what_is_no_life_is_refused(conn: psycopg.Connection, tmp_path: Path) -> None:
    (file,) = written(tmp_path, gateways=f"{HEADER}{GATEWAY},c01,,scrapped\n")
    with pytest.raises(RegistryError) as refused:
        import_files(conn, [file])
    assert said(refused, tmp_path) == [
        "gateways.csv:2: life: value 'scrapped': expected one of planned, installed, in_service,"
        " maintenance, retired"
    ]


def test_it_is_not_retired_while_devices_need_it(conn: psycopg.Connection, tmp_path: Path) -> None:
    retiring = f"{HEADER}{GATEWAY},c01,,retired\ngw-new,c01,,in_service\n"
    (file,) = written(tmp_path, gateways=retiring)
    behind = conn.execute("SELECT device FROM device WHERE gateway = %s", (GATEWAY,)).fetchall()
    first = min(device for (device,) in behind)
    with pytest.raises(RegistryError) as refused:
        import_files(conn, [file])
    (line,) = said(refused, tmp_path)
    assert line == (
        f"gateways.csv:2: life: value 'retired': {len(behind)} devices behind it are not retired,"
        f" such as {first!r}; retire them or put them behind another gateway"
    )
    assert "gw-new" not in lives(conn)
    # Put behind its successor in the same import they are in nobody's way.
    rows = conn.execute(
        "SELECT device, kind, area FROM device WHERE gateway = %s", (GATEWAY,)
    ).fetchall()
    moved = "".join(f"{device},{kind},gw-new,{area}\n" for device, kind, area in rows)
    devices = f"device,kind,gateway,area\n{moved}"
    import_files(conn, written(tmp_path, gateways=retiring, devices=devices))
    assert lives(conn)[GATEWAY] == "retired"


def test_one_that_was_scrapped_is_not_equipped_again(
    conn: psycopg.Connection, tmp_path: Path
) -> None:
    authority = tmp_path / "pki"
    authority.mkdir()
    pki.create_authority(authority)
    become(conn, "retired")
    with pytest.raises(RegistryError, match="is retired"):
        add_gateway(conn, authority, GATEWAY, "c01", tmp_path / "out", "127.0.0.1", 8883)
    assert not (tmp_path / "out").exists()


def test_what_it_was_is_kept_and_heartbeats_leave_none(conn: psycopg.Connection) -> None:
    for life in ("maintenance", "in_service", "retired", "retired"):
        become(conn, life)
        conn.execute(
            "UPDATE gateway SET last_seen_at = now(), silent = NOT silent WHERE gateway = %s",
            (GATEWAY,),
        )
    versions = conn.execute(
        """
        SELECT life, community, lower(during) IS NULL, upper_inf(during),
               lag(upper(during)) OVER (ORDER BY during) IS NOT DISTINCT FROM lower(during)
        FROM gateway_version WHERE gateway = %s ORDER BY during
        """,
        (GATEWAY,),
    ).fetchall()
    assert versions == [
        ("in_service", "c01", True, False, True),
        ("maintenance", "c01", False, False, True),
        ("in_service", "c01", False, False, True),
        ("retired", "c01", False, True, True),
    ]
    # One that would have lasted no time is replaced; a gateway that goes takes its own along.
    conn.execute("INSERT INTO gateway (gateway, community, life) VALUES ('gw-x', 'c01', 'planned')")
    conn.execute(
        "UPDATE gateway_version SET during = tstzrange(now() + interval '1 day', NULL)"
        " WHERE gateway = 'gw-x'"
    )
    become(conn, "in_service", "gw-x")
    of_it = "SELECT life FROM gateway_version WHERE gateway = 'gw-x'"
    assert conn.execute(of_it).fetchall() == [("in_service",)]
    conn.execute("DELETE FROM gateway WHERE gateway = 'gw-x'")
    assert conn.execute(of_it).fetchall() == []


# -- what it says


def test_what_it_says_first_in_service_is_stored(
    bench: Bench, conn: psycopg.Connection, now: datetime
) -> None:
    """Before anybody looked at the registry anew; what it said before was refused, and counted."""
    become(conn, "planned")
    writer = bench.telemetry()
    at = now - timedelta(minutes=2)
    feed(writer, bench.batch(1, LampReading(device=LAMP, at=at, lit=True)))
    assert bench.value("SELECT reason FROM dead_letter") == "gateway.planned"
    become(conn, "in_service")
    feed(writer, bench.batch(2, LampReading(device=LAMP, at=at + timedelta(minutes=1), lit=True)))
    assert bench.value("SELECT count(*) FROM dead_letter") == 1
    assert bench.value("SELECT count(*) FROM reading_lamp") == 1
    # No hole is left for what lies in the dead letters.
    assert bench.value("SELECT seen = '{[1,3)}' FROM gateway_stream")


# -- what stands


def listening(writer: Writer, now: datetime) -> Hearing:
    """The lane has been listening all the while; only the gateway says nothing."""
    feed(writer)
    writer.healthy_since = now - timedelta(hours=1)
    hearing = writer.consumer.hearing = Hearing(timedelta(hours=1))
    hearing.came_round(now - timedelta(minutes=30))
    return hearing


def tick(writer: Writer, now: datetime) -> None:
    assert writer.connection is not None
    writer.consumer.hearing.came_round(now)
    writer.tick(writer.connection, now)


def reload(writer: Writer) -> None:
    """Let the writer take up the registry that changed, as it does every few seconds."""
    assert writer.connection is not None
    assert writer._reload_registry(writer.connection)  # pyright: ignore[reportPrivateUsage]
    writer.follow_rules(writer.connection)


def timelines(bench: Bench) -> dict[str, list[tuple[str, str, str]]]:
    """Of each rule what happened to its alerts, by whom and why."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for row in bench.rows(
        """
        SELECT t.rule, h.action, h.actor, h.reason
        FROM alert_history AS h JOIN alert AS t ON t.id = h.alert
        WHERE h.action IN ('raised', 'raised_again', 'cleared') ORDER BY h.id
        """
    ):
        found.setdefault(row["rule"], []).append((row["action"], row["actor"], row["reason"]))
    return found


def trouble(bench: Bench, now: datetime) -> Writer:
    """A gateway whose outbox fills, then it falls silent."""
    writer = bench.events()
    listening(writer, now)
    for second in range(0, 901, 300):
        at = now + timedelta(seconds=second)
        told: dict[str, Any] = {
            "state": "online", "outbox_bytes": 90, "outbox_limit_bytes": 100,
            "clock": "synchronized", "status_interval_s": 300,
        }  # fmt: skip
        feed(writer, bench.status(Status.model_validate(told), at=at))
        tick(writer, at + timedelta(seconds=1))
    # Soon enough for what it said to count still.
    tick(writer, now + timedelta(seconds=900 + 3 * 300 + 1))
    return writer


@pytest.mark.parametrize("runs", [True, False], ids=["live", "while ingest was down"])
def test_what_stands_ends_with_its_gateway(
    bench: Bench, conn: psycopg.Connection, now: datetime, runs: bool
) -> None:
    writer = trouble(bench, now)
    assert {rule: steps[-1][0] for rule, steps in timelines(bench).items()} == {
        "gateway.outbox_filling": "raised",
        "gateway.silent": "raised",
    }
    retire_devices(conn)
    become(conn, "retired")
    after = now + timedelta(seconds=1_900)
    if runs:
        reload(writer)
    else:
        writer = bench.events()
        listening(writer, after)
    tick(writer, after)
    retired = [("cleared", "rule", "gateway_retired")]
    assert {rule: steps[1:] for rule, steps in timelines(bench).items()} == {
        "gateway.outbox_filling": retired,
        "gateway.silent": retired,
    }
    assert bench.value("SELECT silent FROM gateway WHERE gateway = %s", GATEWAY) is False
    # Silent for ever, and nobody is told.
    for hour in range(1, 4):
        tick(writer, after + timedelta(minutes=50 * hour))
    assert bench.value("SELECT count(*) FROM alert WHERE active") == 0
    # Put back, its silence is news again.
    become(conn, "in_service")
    reload(writer)
    tick(writer, after + timedelta(minutes=160))
    assert timelines(bench)["gateway.silent"][2:] == [
        (timelines(bench)["gateway.silent"][2][0], "rule", "gateway_silent")
    ]


@pytest.mark.parametrize("life", ["retired", "planned"])
def test_what_it_says_all_the_same_is_refused(
    bench: Bench, conn: psycopg.Connection, now: datetime, life: str
) -> None:
    become(conn, life)
    writer = bench.telemetry()
    for seq in range(1, 200):
        feed(writer, bench.batch(seq, LampReading(device=LAMP, at=now, lit=True)))
    assert bench.rows("SELECT DISTINCT reason FROM dead_letter") == [{"reason": f"gateway.{life}"}]
    assert bench.value("SELECT count(*) FROM reading_lamp") == 0
    # That one speaks before its time is worth a look; that scrap does is not.
    refused = bench.value("SELECT count(*) FROM alert WHERE rule = 'gateway.refused'")
    assert refused == (1 if life == "planned" else 0)


def test_a_loss_that_is_looked_for_ends_with_its_gateway(
    bench: Bench, conn: psycopg.Connection, now: datetime
) -> None:
    writer = bench.events()
    listening(writer, now)
    for seq in (1, 3):
        feed(bench_telemetry := bench.telemetry(), bench.batch(
            seq, LampReading(device=LAMP, at=now, lit=True)
        ))  # fmt: skip
        bench_telemetry.close()
    writer = bench.events()
    listening(writer, now)
    for minute in range(0, 40, 2):
        tick(writer, now + timedelta(minutes=minute))
    assert [step[0] for step in timelines(bench)["stream.hole"]] == ["raised"]
    retire_devices(conn)
    become(conn, "retired")
    reload(writer)
    for minute in range(40, 60, 2):
        tick(writer, now + timedelta(minutes=minute))
    assert timelines(bench)["stream.hole"][1:] == [("cleared", "rule", "gateway_retired")]


def test_others_go_on(bench: Bench, conn: psycopg.Connection, now: datetime) -> None:
    become(conn, "retired", OTHER_GATEWAY)
    trouble(bench, now)
    assert set(timelines(bench)) == {"gateway.outbox_filling", "gateway.silent"}
    assert not any(step[0] == "cleared" for steps in timelines(bench).values() for step in steps)
