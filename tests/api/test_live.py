# SPDX-License-Identifier: Apache-2.0
"""The live stream over a real socket, a real broker and a real database."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiomqtt
import httpx2
import psycopg
import pytest
from psycopg.types.json import Jsonb

from api import live
from api.live import STREAMS_MAX
from api.live_channels import (
    QUEUE_MAX,
    RESET,
    RING_BYTES_MAX,
    RING_MAX,
    Channel,
    Viewer,
)
from api.metrics import Metrics
from api.people import Principal, digest
from api.places import Place
from api.scope import Scope
from deploy.services import Postgres
from edge_agent.messages import Live
from ingest.alerts import Raise
from ingest.kinds import DEFAULT_RULES
from ingest.store import alerts
from ingest.store.alerts import Change, Subject
from tests.api.conftest import (
    ALERTS,
    NOW,
    SECRET,
    insert_alert,
    running,
    seed,
    session_token,
)
from tests.api.serving import (
    EVENT_TIMEOUT_S,
    Reader,
    Server,
    device_message,
    publish,
    serving,
    watching,
)
from tests.services import Broker, until


@pytest.fixture
async def server(database: str, broker: Broker, tmp_path: Path) -> AsyncIterator[Server]:
    with psycopg.connect(database) as conn:
        seed(conn, datetime.now(UTC))
    async with serving(database, broker, tmp_path) as running:
        yield running


async def test_stream_begins_with_a_snapshot_of_the_area(server: Server) -> None:
    async with server.client("wang") as client, watching(client, "c01") as reader:
        snapshot = await reader.next("snapshot")
    assert snapshot.id == snapshot.data["cursor"]
    assert snapshot.data["overview"]["area"]["area"] == "c01"
    assert {alert["rule"] for alert in snapshot.data["alerts"]} == {
        "lamp.dark",
        "gate.forced",
        "gateway.silent",
    }
    told = {item.get("device") for item in snapshot.data["feed"]}
    assert {"c01-lamp-001", "c01-gate-001"} <= told
    assert not any(device and device.startswith("c02") for device in told)


async def test_a_rule_of_peoples_own_is_called_what_they_call_it(server: Server) -> None:
    name = {"zh-CN": "太暗", "en": "Too dark"}
    with psycopg.connect(server.dsn) as conn:
        conn.execute(
            "INSERT INTO rule_version VALUES ('custom.dim', 'c01', 1, 2, %s, 'x', 'x', now())",
            (Jsonb({"name": name}),),
        )
        insert_alert(
            conn, uuid.uuid4(), "custom.dim", "minor", "c01-lamp-001",
            now=datetime.now(UTC), raised_at=datetime.now(UTC),
        )  # fmt: skip
    async with server.client("wang") as client, watching(client, "c01") as reader:
        snapshot = await reader.next("snapshot")
    named = {alert["rule"]: alert["rule_name"] for alert in snapshot.data["alerts"]}
    assert (named["custom.dim"], named["lamp.dark"]) == (name, None)


async def test_change_is_told_with_name_and_area(server: Server, broker: Broker) -> None:
    async with server.client("wang") as client, watching(client, "c01") as reader:
        await reader.next("snapshot")
        at = datetime.now(UTC)
        await publish(broker, "c01", device_message("c01-lamp-001", at, lit=True, power_w=41.5))
        change = await reader.change("c01-lamp-001")
    assert change["state"] == "normal"
    assert change["values"] == {"lit": True, "power_w": 41.5}
    assert (change["area"], change["name"], change["name_en"]) == (
        "c01-g01",
        "lamp 号 001",
        "Lamp 001",
    )
    assert change["at"] == at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


async def test_late_message_never_moves_a_device_backwards(server: Server, broker: Broker) -> None:
    now = datetime.now(UTC)
    async with server.client("wang") as client, watching(client, "c01") as reader:
        await reader.next("snapshot")
        await publish(broker, "c01", device_message("c01-lamp-001", now, power_w=1.0))
        assert (await reader.change("c01-lamp-001"))["values"] == {"power_w": 1.0}
        late = now - timedelta(seconds=30)
        await publish(broker, "c01", device_message("c01-lamp-001", late, power_w=2.0))
        newer = now + timedelta(seconds=1)
        await publish(broker, "c01", device_message("c01-lamp-001", newer, power_w=3.0))
        assert (await reader.change("c01-lamp-001"))["values"] == {"power_w": 3.0}


async def test_changes_of_another_community_are_not_told(server: Server, broker: Broker) -> None:
    async with AsyncExitStack() as stack:
        near = await _reader(stack, server, "wang", "c01")
        far = await _reader(stack, server, "root", "city")
        now = datetime.now(UTC)
        await publish(broker, "c02", device_message("c02-lamp-001", now, power_w=1.0))
        assert (await far.change("c02-lamp-001"))["values"] == {"power_w": 1.0}
        await publish(broker, "c01", device_message("c01-lamp-001", now, power_w=2.0))
        delta = await near.next("delta")
        assert {change["device"] for change in delta.data["devices"]} == {"c01-lamp-001"}


async def test_viewers_of_two_apis_are_told_the_same(
    server: Server, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with AsyncExitStack() as stack:
        second = serving(server.dsn, broker, tmp_path_factory.mktemp("api"), member=1)
        servers = [server, await stack.enter_async_context(second)]
        readers = [await _reader(stack, one, "wang", "c01") for one in servers]
        await publish(broker, "c01", device_message("c01-lamp-001", datetime.now(UTC), lit=True))
        for reader in readers:
            assert (await reader.change("c01-lamp-001"))["values"] == {"lit": True}
        for one in servers:
            figures = httpx2.get(f"{one.url}/metrics").text
            assert "linli_api_live_connected 1.0" in figures
            assert "linli_api_live_takeovers_total 0.0" in figures


async def test_an_api_whose_identity_another_takes_says_what_to_do(
    server: Server, broker: Broker
) -> None:
    identity = broker.identity("api-live-00")
    async with aiomqtt.Client(
        broker.host,
        broker.port,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=identity.context(),
        identifier=identity.name,
    ):
        await _until_status(server, 503)
    figures = httpx2.get(f"{server.url}/metrics").text
    assert "linli_api_live_takeovers_total 1.0" in figures
    assert "give each its own [api] member (0 to 7)" in server.process.log.read_text()


async def test_cell_viewer_is_told_of_the_cell_alone(server: Server, broker: Broker) -> None:
    async with server.client("chen") as client, watching(client, "c01-g01") as reader:
        await reader.next("snapshot")
        now = datetime.now(UTC)
        await publish(broker, "c01", device_message("c01-lamp-002", now, power_w=1.0))
        await publish(broker, "c01", device_message("c01-lamp-001", now, power_w=2.0))
        delta = await reader.next("delta")
        assert {change["device"] for change in delta.data["devices"]} == {"c01-lamp-001"}


async def test_alert_is_told_and_duress_to_the_police_alone(server: Server, broker: Broker) -> None:
    async with AsyncExitStack() as stack:
        manager = await _reader(stack, server, "wang", "c01")
        officer = await _reader(stack, server, "li", "c01")
        # In one transaction: whoever looks for news between two would tell the first one alone.
        both = tuple(str(alert) for alert in _raise(server, "alarm.duress", "alarm.panic"))
        await publish(broker, "c01", Live(at=datetime.now(UTC), alerts=both))
        told = await officer.next("delta")
        assert {alert["rule"] for alert in told.data["alerts"]} == {"alarm.panic", "alarm.duress"}
        told = await manager.next("delta")
        assert [alert["rule"] for alert in told.data["alerts"]] == ["alarm.panic"]


async def test_a_case_is_told_with_the_message_of_its_alert(server: Server, broker: Broker) -> None:
    """Ingest names the alert; the case that it opened in that transaction comes with it."""
    async with AsyncExitStack() as stack:
        manager = await _reader(stack, server, "wang", "c01")
        officer = await _reader(stack, server, "li", "c01")
        now = datetime.now(UTC)
        subject = Subject("alarm", "gw-c01-a", "c01", "c01-g01", "c01-alarm-001")
        panic = next(rule for rule in DEFAULT_RULES if rule.id == "alarm.panic")
        change = Change(panic, subject, Raise(now, "told"), now, uuid.uuid4().hex)
        with psycopg.connect(server.dsn) as conn:
            ((_, alert),) = alerts.write(conn, [change], now)
        await publish(broker, "c01", Live(at=now, alerts=(str(alert),)))
        told = (await officer.next("delta")).data
        assert [one["id"] for one in told["alerts"]] == [str(alert)]
        assert [(one["rule"], one["state"]) for one in told["cases"]] == [("alarm.panic", "open")]
        told = (await manager.next("delta")).data
        assert [one["id"] for one in told["alerts"]] == [str(alert)]
        assert (told["cases"], told["cases_gone"]) == ([], [])


async def test_acknowledgement_is_told_to_others_at_once(server: Server) -> None:
    async with AsyncExitStack() as stack:
        reader = await _reader(stack, server, "li", "c01")
        client = await stack.enter_async_context(server.client("wang"))
        answer = await client.post(f"/api/v1/alerts/{ALERTS['dark']}/acknowledge", json={})
        assert answer.status_code == 200
        told = await reader.next("delta")
        assert told.data["alerts"] == [answer.json()]


async def test_quiet_alert_leaves_the_desk_of_those_who_watch(
    server: Server, broker: Broker
) -> None:
    async with AsyncExitStack() as stack:
        reader = await _reader(stack, server, "li", "c01")
        client = await stack.enter_async_context(server.client("wang"))
        (alert,) = _raise(server, "lamp.day_burner")
        await publish(broker, "c01", Live(at=datetime.now(UTC), alerts=(str(alert),)))
        told = await reader.next("delta")
        assert [(one["id"], one["quiet"]) for one in told.data["alerts"]] == [(str(alert), False)]
        body = {"minutes": 5, "reason": "换灯"}
        path = f"/api/v1/alerts/{alert}"
        answer = await client.post(f"{path}/shelve", json=body)
        assert answer.status_code == 200
        told = await reader.next("delta")
        assert told.data["alerts"] == [answer.json()]
        assert (answer.json()["quiet"], answer.json()["shelved"]["by"]) == (True, "wang")
        late = await stack.enter_async_context(watching(client, "c01-g01"))
        snapshot = (await late.next("snapshot")).data
        assert str(alert) not in {one["id"] for one in snapshot["alerts"]}
        await client.post(f"{path}/unshelve")
        told = await reader.next("delta")
        assert [(one["id"], one["quiet"]) for one in told.data["alerts"]] == [(str(alert), False)]


async def test_lost_live_message_heals_from_the_tables(server: Server) -> None:
    async with server.client("wang") as client, watching(client, "c01") as reader:
        await reader.next("snapshot")
        at = datetime.now(UTC)
        server.execute(
            """
            UPDATE device_state SET at = %s, received_at = %s, fault = 'lamp_failure'
            WHERE device_id = (SELECT id FROM device WHERE device = 'c01-lamp-001')
            """,
            at,
            at,
        )
        (alert,) = _raise(server, "lamp.dark")
        changes, alerts = False, False
        while not (changes and alerts):
            delta = (await reader.next("delta")).data
            changes |= any(change["state"] == "fault" for change in delta["devices"])
            alerts |= any(told["id"] == str(alert) for told in delta["alerts"])


async def test_alert_that_moves_by_itself_is_told_before_the_tables_are_read_again(
    own_database: str, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a shelf's end, a gateway that falls silent or a flood moves them: without a message."""
    monkeypatch.setattr(live, "RECONCILE_EVERY_S", 600.0)
    async with running(own_database, broker) as api:
        hub = api.services.hub
        credential = digest(session_token("wang"))  # or the stream would be cut within seconds
        who = Principal(
            "wang", "property", "c01", "", "city.c01", None, credential, is_service=False
        )  # fmt: skip
        place = Place("c01", None, "city.c01", "community", "", None, "Asia/Shanghai", 0)
        viewer = await hub.join(who, place)
        async with await psycopg.AsyncConnection.connect(own_database) as conn:
            await conn.execute(
                "UPDATE alert SET version = version + 1, changed_at = %s WHERE id = %s",
                (NOW, ALERTS["dark"]),
            )
        async with asyncio.timeout(30):
            while True:
                told = await viewer.queue.get()
                if told is not None and str(ALERTS["dark"]).encode() in told:
                    break
        hub.leave(viewer)


async def test_overview_follows_a_change(server: Server, broker: Broker) -> None:
    async with server.client("wang") as client, watching(client, "c01") as reader:
        before = (await reader.next("snapshot")).data["overview"]["alerts"]["active"]
        (alert,) = _raise(server, "bin.fire")
        await publish(broker, "c01", Live(at=datetime.now(UTC), alerts=(str(alert),)))
        overview = await reader.next("overview")
    assert overview.data["alerts"]["active"] == before + 1


async def test_resumes_where_it_was_cut(server: Server, broker: Broker) -> None:
    now = datetime.now(UTC)
    async with server.client("wang") as client:
        async with watching(client, "c01") as reader:
            await reader.next("snapshot")
            await publish(broker, "c01", device_message("c01-lamp-001", now, power_w=1.0))
            seen = await reader.next("delta")
        # Another viewer of the same area shows that the change was told.
        async with server.client("root") as other, watching(other, "c01") as reader:
            await reader.next("snapshot")
            later = now + timedelta(seconds=1)
            await publish(broker, "c01", device_message("c01-lamp-001", later, power_w=2.0))
            await reader.change("c01-lamp-001")
        async with watching(client, "c01", seen.id) as reader:
            first = await reader.next("snapshot", "delta")
            assert first.name == "delta"
            assert first.data["devices"][0]["values"] == {"power_w": 2.0}


@pytest.mark.parametrize("cursor", ["abc", "1e30", f"x-{10**30}", "0000000000-1", "-1"])
async def test_unknown_cursor_gets_a_snapshot(city_server: Server, cursor: str) -> None:
    async with city_server.client("wang") as client, watching(client, "c01", cursor) as reader:
        first = await reader.next("snapshot", "delta", "reset")
        assert first.name == "snapshot"


async def test_cursor_of_another_area_gets_a_snapshot(city_server: Server) -> None:
    async with city_server.client("root") as client:
        async with watching(client, "c02") as reader:
            foreign = (await reader.next("snapshot")).id
        async with watching(client, "c01", foreign) as reader:
            assert (await reader.next("snapshot", "delta")).name == "snapshot"


async def test_stream_refuses_strangers_and_foreign_areas(city_server: Server) -> None:
    async with city_server.client() as client:
        assert (await client.get("/api/v1/stream")).status_code == 401
    async with city_server.client("wang") as client:
        foreign = await client.get("/api/v1/stream?area=c02")
        missing = await client.get("/api/v1/stream?area=nowhere")
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json()["code"] == missing.json()["code"] == "not_found"


async def test_eleventh_stream_of_a_person_is_refused(city_server: Server) -> None:
    async with AsyncExitStack() as stack:
        readers = [await _reader(stack, city_server, "zhao", "c02") for _ in range(STREAMS_MAX)]
        client = await stack.enter_async_context(city_server.client("zhao"))
        refused = await client.get("/api/v1/stream?area=c02")
        assert (refused.status_code, refused.json()["code"]) == (429, "stream.too_many")
        assert "retry-after" in refused.headers
    assert len(readers) == STREAMS_MAX


async def test_log_out_ends_the_persons_streams(server: Server) -> None:
    async with server.client() as client:
        credentials = {"username": "wang", "password": SECRET}
        assert (await client.post("/api/v1/session", json=credentials)).status_code == 200
        async with watching(client, "c01") as reader:
            await reader.next("snapshot")
            assert (await client.delete("/api/v1/session")).status_code == 204
            await reader.end()


async def test_lost_rights_end_the_stream(server: Server) -> None:
    async with server.client("wang") as client, watching(client, "c01") as reader:
        await reader.next("snapshot")
        server.execute("UPDATE person SET area = 'c02' WHERE username = 'wang'")
        await reader.end()


async def test_open_stream_keeps_its_session_in_use(server: Server) -> None:
    old = datetime.now(UTC) - timedelta(minutes=29)
    async with server.client("wang") as client, watching(client, "c01") as reader:
        await reader.next("snapshot")
        server.execute(
            "UPDATE session SET used_at = %s WHERE token_sha256 = %s",
            old,
            digest(session_token("wang")),
        )
        with psycopg.connect(server.dsn, autocommit=True) as conn:

            def is_touched() -> bool:
                row = conn.execute(
                    "SELECT used_at > %s FROM session WHERE username = 'wang'", (old,)
                ).fetchone()
                return row is not None and row[0]

            await asyncio.to_thread(until, is_touched, "the session is in use", timeout_s=30)


async def test_stream_goes_on_after_the_broker_came_back(
    database: str, own_broker: Broker, tmp_path: Path
) -> None:
    with psycopg.connect(database) as conn:
        seed(conn, datetime.now(UTC))
    async with serving(database, own_broker, tmp_path) as server:
        async with server.client("wang") as client, watching(client, "c01") as reader:
            await reader.next("snapshot")
            await asyncio.to_thread(own_broker.server.kill)
            await _until_status(server, 503)
            (missed,) = _raise(server, "bin.fire")
            await asyncio.to_thread(own_broker.server.start)
            await _until_status(server, 200)
            told: set[str] = set()
            while str(missed) not in told:
                told |= {alert["id"] for alert in (await reader.next("delta")).data["alerts"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_ends_open_streams_in_order_and_then_the_process(
    server: Server, number: signal.Signals
) -> None:
    async with AsyncExitStack() as stack:
        readers = [await _reader(stack, server, "root", "city") for _ in range(3)]
        server.process.popen.send_signal(number)
        # One that was waited for and then cut would end in the middle, with an error.
        await asyncio.gather(*(reader.end() for reader in readers))
        await asyncio.to_thread(server.process.popen.wait, EVENT_TIMEOUT_S)
    assert "timeout graceful shutdown exceeded" not in server.process.log.read_text()


async def test_what_ends_by_a_mistake_ends_streams_in_order_and_the_process_as_failed(
    server: Server,
) -> None:
    async with AsyncExitStack() as stack:
        reader = await _reader(stack, server, "root", "city")
        server.execute("ALTER TABLE alert RENAME TO lost")
        await reader.end()
        status = await asyncio.to_thread(server.process.popen.wait, EVENT_TIMEOUT_S)
    assert status == 1, server.process.tail()
    assert "hub ended" in server.process.log.read_text()


# -- queues and rings, without a socket


def test_slow_viewer_is_reset_and_others_are_not() -> None:
    channel = _channel()
    slow, quick = _viewer(channel), _viewer(channel)
    channel.viewers |= {slow, quick}
    for number in range(QUEUE_MAX + 1):
        channel.publish("delta", b"{}")
        assert quick.queue.get_nowait(), number
    assert [slow.queue.get_nowait() for _ in range(slow.queue.qsize())] == [RESET, None]
    channel.publish("delta", b"{}")
    assert slow.queue.empty()
    assert quick.queue.qsize() == 1


def test_ring_gives_what_was_missed_and_no_more() -> None:
    channel = _channel()
    cursors = [channel.cursor]
    for _ in range(RING_MAX + 5):
        channel.publish("delta", b"{}")
        cursors.append(channel.cursor)
    assert channel.since(cursors[-1]) == []
    assert channel.since(cursors[5]) is not None
    assert len(channel.since(cursors[5]) or []) == RING_MAX
    assert channel.since(cursors[4]) is None
    assert channel.since(f"{channel.epoch}-{RING_MAX + 6}") is None


def test_ring_is_bounded_in_bytes() -> None:
    channel = _channel()
    for _ in range(5):
        channel.publish("delta", b"x" * (RING_BYTES_MAX // 3))
    assert len(channel.ring) == 2
    channel.publish("delta", b"x" * (RING_BYTES_MAX + 1))
    assert channel.since(f"{channel.epoch}-5") is None
    assert channel.since(channel.cursor) == []


def _channel() -> Channel:
    place = Place("c01", None, "city.c01", "community", "", None, "Asia/Shanghai", 0)
    return Channel(place, (), "epoch", Scope("admin", "c01", "city.c01"), with_devices=True)


def _viewer(channel: Channel) -> Viewer:
    who = Principal("wang", "property", "c01", "", "city.c01", None, b"", is_service=False)
    return Viewer(who, channel, Metrics())


@pytest.fixture(scope="module")
async def city_server(
    database_server: Postgres,
    city_database: str,
    broker: Broker,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Server]:
    """A server whose tables no test changes; it runs beside the others at their broker."""
    del database_server
    folder = tmp_path_factory.mktemp("api")
    async with serving(city_database, broker, folder, member=7) as running:
        yield running


async def _reader(stack: AsyncExitStack, server: Server, who: str, area: str) -> Reader:
    """A stream that has begun."""
    client = await stack.enter_async_context(server.client(who))
    reader = await stack.enter_async_context(watching(client, area))
    await reader.next("snapshot")
    return reader


def _raise(server: Server, *rules: str) -> list[uuid.UUID]:
    """Write a new alert of each rule, as ingest would."""
    now = datetime.now(UTC)
    raised = {rule: uuid.uuid4() for rule in rules}
    with psycopg.connect(server.dsn) as conn:
        for rule, alert in raised.items():
            insert_alert(conn, alert, rule, "critical", "c01-alarm-001", now=now, raised_at=now)
    return list(raised.values())


async def _until_status(server: Server, status: int) -> None:
    url = f"{server.url}/readyz"

    def says() -> bool:
        return httpx2.get(url, timeout=EVENT_TIMEOUT_S).status_code == status

    # Whoever looks for a lost broker waits up to half a minute between two looks.
    await asyncio.to_thread(until, says, f"{url} says {status}", timeout_s=80)
