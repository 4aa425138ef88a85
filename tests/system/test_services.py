# SPDX-License-Identifier: Apache-2.0
"""The servers are what the platform needs: recent, unprivileged, closed to strangers."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import paho.mqtt.client as mqtt
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from deploy.services import HOST, Mosquitto, Postgres, ServiceError, free_port
from ingest.pki import create_authority, issue_client
from tests.proxy import Direction, ProxyFactory
from tests.services import Broker, Identity, until

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 30.0


# -- database ---------------------------------------------------------------------------------


def test_database_has_timescaledb_checksums_and_fsync(database: str) -> None:
    with psycopg.connect(database) as conn:
        row = conn.execute(
            """
            SELECT current_setting('server_version_num')::int, extversion,
                   current_setting('data_checksums'), current_setting('fsync'),
                   current_setting('synchronous_commit'), current_setting('full_page_writes')
            FROM pg_extension WHERE extname = 'timescaledb'
            """
        ).fetchone()
    assert row is not None
    version, extension, *durable = row
    assert version >= 170000
    assert tuple(int(part) for part in extension.split(".")[:2]) >= (2, 19)
    assert durable == ["on"] * 4


def test_database_runs_without_root_and_without_capabilities(database_server: Postgres) -> None:
    status = _status(database_server.process.pid)
    assert status["Uid"].split()[1] != "0"
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"


def test_database_refuses_a_wrong_password_and_listens_locally_only(
    database_server: Postgres,
) -> None:
    wrong = f"host={HOST} port={database_server.port} dbname=postgres user=postgres password=no"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong).close()
    with psycopg.connect(database_server.dsn()) as conn:
        row = conn.execute("SELECT current_setting('listen_addresses')").fetchone()
    assert row == (HOST,)


def test_each_test_has_a_database_of_its_own(database: str) -> None:
    with psycopg.connect(database) as conn:
        assert conn.execute("SELECT count(*) FROM device").fetchone() == (0,)
        tables = conn.execute("SELECT count(*) FROM timescaledb_information.hypertables").fetchone()
    assert tables is not None
    assert tables[0] > 0


def test_database_without_timescaledb_says_so(own_database_server: Postgres) -> None:
    own_database_server.stop()
    own_database_server.settings = {"shared_preload_libraries": "timescaledb_is_not_here"}
    with pytest.raises(ServiceError, match="timescaledb_is_not_here"):
        own_database_server.start()


def test_database_recovers_from_a_crash(own_database_server: Postgres) -> None:
    dsn = own_database_server.create_database("kept", owner="someone", password="x")
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE note AS SELECT 42 AS answer")
    own_database_server.crash()
    own_database_server.start()
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT answer FROM note").fetchone() == (42,)


# -- broker -----------------------------------------------------------------------------------


class Client:
    """A plain MQTT 5 client that notes what it hears and how its publishes end."""

    def __init__(self, port: int, identity: Identity, client_id: str = "") -> None:
        self.heard: queue.Queue[tuple[str, bytes | bytearray]] = queue.Queue()
        self.results: queue.Queue[ReasonCode] = queue.Queue()
        self.connected: queue.Queue[ReasonCode] = queue.Queue()
        self.subscribed: queue.Queue[list[ReasonCode]] = queue.Queue()
        self.assigned = ""
        self.mqtt = _mqtt(identity, client_id)
        self.mqtt.on_connect = lambda _c, _u, _f, code, _p: self.connected.put(code)
        self.mqtt.on_message = lambda _c, _u, message: self.heard.put(
            (message.topic, message.payload)
        )
        self.mqtt.on_publish = lambda _c, _u, _mid, code, _p: self.results.put(code)
        self.mqtt.on_subscribe = lambda _c, _u, _mid, codes, _p: self.subscribed.put(codes)
        self.mqtt.connect(HOST, port)
        self.mqtt.loop_start()
        assert self.connected.get(timeout=DEADLINE_S) == ReasonCode(PacketTypes.CONNACK, "Success")

    def publish(self, topic: str, payload: bytes = b"{}") -> ReasonCode:
        self.mqtt.publish(topic, payload, qos=1)
        return self.results.get(timeout=DEADLINE_S)

    def subscribe(self, topic: str) -> None:
        self.mqtt.subscribe(topic, qos=1)
        self.subscribed.get(timeout=DEADLINE_S)

    def close(self) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()


@contextlib.contextmanager
def client(broker: Broker, name: str, client_id: str = "") -> Generator[Client]:
    one = Client(broker.port, broker.identity(name), client_id)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize(
    ("name", "topic", "allowed"),
    [
        pytest.param("gw-own", "linli/v1/07/gw-own/up/telemetry", True, id="gateway-own"),
        pytest.param("gw-own", "linli/v1/07/gw-other/up/telemetry", False, id="gateway-foreign"),
        pytest.param("gw-own", "linli/v1/07/gw-own/down/ack", False, id="gateway-answers-itself"),
        pytest.param("gw-own", "linli/v1/live/c01", False, id="gateway-live"),
        pytest.param("gw-own", "elsewhere", False, id="gateway-elsewhere"),
        pytest.param(
            "ingest-event-00", "linli/v1/07/gw-own/down/ack", True, id="ingest-acknowledges"
        ),
        pytest.param("ingest-event-00", "linli/v1/live/c01", True, id="ingest-live"),
        pytest.param("ingest-event-00", "linli/v1/07/gw-own/up/event", False, id="ingest-invents"),
        pytest.param("api-live-00", "linli/v1/live/c01", False, id="api-live"),
        pytest.param("api-live-07", "linli/v1/live/c01", False, id="api-last-member"),
        pytest.param("api-live-00", "linli/v1/07/gw-own/down/command", False, id="api-commands"),
    ],
)
def test_publishing_is_limited_by_identity(
    broker: Broker, name: str, topic: str, allowed: bool
) -> None:
    with client(broker, name) as one:
        code = one.publish(topic)
    assert code.is_failure is not allowed, code


@pytest.mark.parametrize(
    ("name", "hears", "last"),
    [
        pytest.param("gw-hears", {"down"}, "linli/v1/11/gw-hears/down/command", id="gateway"),
        pytest.param("gw-deaf", set[str](), "linli/v1/11/gw-deaf/down/command", id="other-gateway"),
        pytest.param("ingest-event-00", {"up"}, "linli/v1/11/gw-hears/up/status", id="ingest"),
        pytest.param("api-live-00", {"live"}, "linli/v1/live/c12", id="api"),
        pytest.param("api-live-07", {"live"}, "linli/v1/live/c12", id="api-last-member"),
    ],
)
def test_hearing_is_limited_by_identity(
    own_broker: Broker, name: str, hears: set[str], last: str
) -> None:
    topics = {
        "up": "linli/v1/11/gw-hears/up/event",
        "down": "linli/v1/11/gw-hears/down/ack",
        "live": "linli/v1/live/c11",
    }
    heard: list[str] = []
    with client(own_broker, name) as listener:
        listener.subscribe("linli/v1/#")
        # What may be heard in any case is said last: the broker keeps the order.
        for topic in (*topics.values(), last):
            sender = "gw-hears" if "/up/" in topic else "ingest-telemetry-00"
            if sender == name:
                assert not listener.publish(topic).is_failure
                continue
            with client(own_broker, sender) as one:
                assert not one.publish(topic).is_failure
        while last not in heard:
            heard.append(listener.heard.get(timeout=DEADLINE_S)[0])
    assert heard == [*(topics[key] for key in hears), last]


def test_anonymous_is_refused(broker: Broker) -> None:
    context = ssl.create_default_context(cafile=str(broker.ca))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _first_answer(broker.port, context)


def test_certificate_of_another_authority_is_refused(broker: Broker, tmp_path: Path) -> None:
    folder = tmp_path / "pki"
    create_authority(folder)
    issued = issue_client(folder, "gw-own", out=tmp_path)
    context = ssl.create_default_context(cafile=str(broker.ca))
    context.load_cert_chain(issued.certificate, issued.key)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        _first_answer(broker.port, context)


def test_without_tls_nothing_is_said(broker: Broker) -> None:
    with socket.create_connection((HOST, broker.port), timeout=DEADLINE_S) as sock:
        sock.sendall(_CONNECT)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(4)[:1] != bytes([PacketTypes.CONNACK << 4])


def test_client_id_is_the_certificate_name(broker: Broker) -> None:
    with client(broker, "gw-named", client_id="gw-somebody-else") as first:
        gone: queue.Queue[ReasonCode] = queue.Queue()
        first.mqtt.on_disconnect = lambda _c, _u, _f, code, _p: gone.put(code)
        with client(broker, "gw-named", client_id="gw-yet-another"):
            # One certificate is one session: the newer connection takes it over.
            assert gone.get(timeout=DEADLINE_S).getName() == "Session taken over"
            first.mqtt.disconnect()


def test_broker_announces_its_limits(broker: Broker) -> None:
    announced: queue.Queue[Properties | None] = queue.Queue()
    one = _mqtt(broker.identity("gw-limits"))
    one.on_connect = lambda _c, _u, _f, _code, properties: announced.put(
        properties or Properties(0)
    )
    one.connect(HOST, broker.port)
    one.loop_start()
    properties = announced.get(timeout=DEADLINE_S)
    assert properties is not None
    limits = cast("dict[str, int]", properties.json())
    one.disconnect()
    one.loop_stop()
    assert limits["MaximumQoS"] == 1
    assert limits["MaximumPacketSize"] == 139264
    assert limits["ReceiveMaximum"] == 2000
    assert limits["TopicAliasMaximum"] == 10


def test_broker_keeps_a_session_over_a_clean_restart(own_broker: Broker) -> None:
    identity = own_broker.identity("ingest-event-00")
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 3600
    present: queue.Queue[bool] = queue.Queue()
    found: list[bool] = []
    for _ in range(2):
        one = _mqtt(identity)
        one.on_connect = lambda _c, _u, flags, _code, _p: present.put(flags.session_present)
        one.connect(HOST, own_broker.port, clean_start=False, properties=properties)
        one.loop_start()
        found.append(present.get(timeout=DEADLINE_S))
        one.disconnect()
        one.loop_stop()
        own_broker.server.stop()
        own_broker.server.start()
    assert found == [False, True]


def test_broker_runs_without_root(broker: Broker) -> None:
    status = _status(broker.server.process.pid)
    assert status["Uid"].split()[1] != "0"
    assert int(status["CapEff"], 16) == 0


def test_broker_that_cannot_start_says_why(own_broker: Broker) -> None:
    taken = Mosquitto(
        own_broker.server.userland,
        own_broker.server.folder.with_name("broker-twice"),
        own_broker.port,
        own_broker.server.log.with_name("broker-twice.log"),
        ca=own_broker.ca,
        certificate=own_broker.server.certificate,
        key=own_broker.server.certificate,  # not a key
    )
    with pytest.raises(ServiceError, match="Mosquitto does not run"):
        taken.start()


# -- both -------------------------------------------------------------------------------------


def test_servers_die_with_the_process_that_started_them(
    service_folder: Path, broker: Broker
) -> None:
    folder = service_folder / "orphans"
    code = f"""
import sys, time
from pathlib import Path
from deploy.services import Mosquitto, Postgres, Userland, free_port
folder, land = Path({str(folder)!r}), Userland.find()
postgres = Postgres(land, folder / "postgres", free_port(), folder / "postgres.log")
postgres.start()
pki = Path({str(broker.authority.folder)!r})
mosquitto = Mosquitto(land, folder / "mosquitto", free_port(), folder / "mosquitto.log",
    ca=pki / "ca.crt", certificate=pki / "server.crt", key=pki / "server.key")
mosquitto.start()
print(postgres.process.pid, mosquitto.process.pid, flush=True)
time.sleep(600)
"""
    runner = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert runner.stdout is not None
    children = [int(pid) for pid in runner.stdout.readline().split()]
    assert len(children) == 2
    assert all(_alive(pid) for pid in children)
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    runner.stdout.close()
    until(lambda: not any(_alive(pid) for pid in children), "both servers gone")


def test_free_port_prefers_the_given_one_unless_taken() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


# -- the proxy --------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything back."""
    program = (
        "import asyncio, sys\n"
        "async def talk(r, w):\n"
        "    while data := await r.read(65536):\n"
        "        w.write(data); await w.drain()\n"
        "    w.close()\n"
        "async def main():\n"
        "    s = await asyncio.start_server(talk, '127.0.0.1', 0)\n"
        "    print(s.sockets[0].getsockname()[1], flush=True)\n"
        "    await s.serve_forever()\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


def test_proxy_forwards_and_cuts(echo: int, proxy: ProxyFactory) -> None:
    between = proxy(echo)
    with socket.create_connection((HOST, between.port), timeout=DEADLINE_S) as sock:
        sock.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        assert between.cut() == 1
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with socket.create_connection((HOST, between.port), timeout=DEADLINE_S) as sock:
        sock.sendall(b"again")
        assert sock.recv(5) == b"again"


def test_proxy_refuses_until_healed(echo: int, proxy: ProxyFactory) -> None:
    between = proxy(echo)
    assert between.cut(refuse=True) == 0
    with pytest.raises(ConnectionResetError), socket.create_connection((HOST, between.port)) as s:
        s.settimeout(DEADLINE_S)
        s.recv(1)
    between.heal()
    with socket.create_connection((HOST, between.port), timeout=DEADLINE_S) as sock:
        sock.sendall(b"back")
        assert sock.recv(4) == b"back"


def test_proxy_holds_back_while_stalled(echo: int, proxy: ProxyFactory) -> None:
    between = proxy(echo)
    with socket.create_connection((HOST, between.port), timeout=DEADLINE_S) as sock:
        sock.sendall(b"1")
        assert sock.recv(1) == b"1"
        assert between.stall(Direction.DOWN) == 1
        sock.sendall(b"2")
        until(lambda: between.forwarded[Direction.UP] == 2, "the byte is at the server")
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        between.heal()
        sock.settimeout(DEADLINE_S)
        assert sock.recv(1) == b"2"


def test_proxy_cuts_after_so_many_bytes(echo: int, proxy: ProxyFactory) -> None:
    between = proxy(echo)
    between.cut_after(3)
    with socket.create_connection((HOST, between.port), timeout=DEADLINE_S) as sock:
        sock.sendall(b"12345")
        with pytest.raises(ConnectionResetError):
            while True:
                assert sock.recv(5)
    assert between.forwarded[Direction.UP] == 3


# -- helpers ----------------------------------------------------------------------------------

# MQTT 5 CONNECT: clean start, keep alive 60 s, no properties, client id "x".
_CONNECT = bytes([0x10, 14, 0, 4, *b"MQTT", 5, 2, 0, 60, 0, 0, 1, *b"x"])


def _mqtt(identity: Identity, client_id: str = "") -> mqtt.Client:
    one = mqtt.Client(CallbackAPIVersion.VERSION2, client_id or identity.name, protocol=mqtt.MQTTv5)
    one.tls_set(  # pyright: ignore[reportUnknownMemberType] - paho leaves a parameter untyped
        str(identity.ca), str(identity.certificate), str(identity.key)
    )
    return one


def _first_answer(port: int, context: ssl.SSLContext) -> bytes:
    with (
        socket.create_connection((HOST, port), timeout=DEADLINE_S) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        # TLS 1.3 tells the client of a missing certificate with its first read.
        secure.sendall(_CONNECT)
        return secure.recv(4)


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _alive(pid: int) -> bool:
    try:
        status = _status(pid)
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, while it is read
        return False
    # Reparented and not yet reaped is as good as gone.
    return not status.get("State", "Z").startswith("Z")
