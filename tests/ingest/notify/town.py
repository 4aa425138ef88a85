# SPDX-License-Identifier: Apache-2.0
"""A town whose alerts are told: four who answer for it, a clock that is moved, real servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import psycopg
from aiosmtpd.controller import Controller
from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from deploy.services import HOST, free_port
from ingest.alerts import Acknowledge, Action, Clear, Raise
from ingest.notify.chains import Chain
from ingest.notify.delivery import Dispatcher, Setting
from ingest.notify.messengers import Gateways
from ingest.notify.recipients import Preferences
from ingest.notify.webhook import new_secret
from ingest.rules import Rule, Severity
from ingest.store import alerts, notifications

# Monday, 10:00 in Shanghai.
START = datetime(2026, 11, 23, 2, tzinfo=UTC)


class Watch:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def go(self, **by: float) -> None:
        self.now += timedelta(**by)


# -- servers


@dataclass(slots=True)
class Mailbox:
    """What an SMTP server was given: to whom, and the title. ``refuse`` answers 451."""

    port: int = 0
    refuse: bool = False
    mails: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
        del server, session
        if self.refuse:
            return "451 later"
        mail = message_from_bytes(envelope.content, policy=policy.default)
        body = mail.get_body(("plain", "html"))
        text = body.get_content() if body is not None else ""
        self.mails.extend((to, str(mail["Subject"]), text) for to in envelope.rcpt_tos)
        return "250 OK"

    def titles(self, who: str) -> list[str]:
        return [title for to, title, _ in self.mails if to.startswith(f"{who}@")]

    def take(self) -> list[tuple[str, str]]:
        taken = [(to.partition("@")[0], title) for to, title, _ in self.mails]
        self.mails.clear()
        return taken


@contextmanager
def smtp() -> Generator[Mailbox]:
    mailbox = Mailbox(port=free_port())
    controller = Controller(mailbox, hostname=HOST, port=mailbox.port, ready_timeout=30)
    controller.start()
    try:
        yield mailbox
    finally:
        controller.stop()


@dataclass(slots=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclass(slots=True)
class Receiver:
    """A webhook's receiver: keeps what it was sent, answers what ``answer`` says."""

    port: int = 0
    answer: int = 204
    location: str = ""
    requests: list[Request] = field(default_factory=list[Request])
    on_request: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook"


@contextmanager
def http() -> Generator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Request(self.path, headers, body))
            receiver.on_request()
            self.send_response(receiver.answer)
            if receiver.location:
                self.send_header("Location", receiver.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    receiver.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


# -- the town

PEOPLE = (
    ("guard", "property", "c01-g01"),
    ("manager", "property", "c01"),
    ("liaison", "police", "c01"),
    ("street", "admin", "s01"),
    ("other", "property", "c02"),
)


def found(conn: psycopg.Connection) -> None:
    for area, parent, path, level in (
        ("city", None, "city", "city"),
        ("s01", "city", "city.s01", "street"),
        ("c01", "s01", "city.s01.c01", "community"),
        ("c01-g01", "c01", "city.s01.c01.c01_g01", "cell"),
        ("c02", "s01", "city.s01.c02", "community"),
    ):
        conn.execute(
            """
            INSERT INTO area (area, parent, path, level, name)
            VALUES (%s, %s, %s::text::ltree, %s, %s)
            """,
            (area, parent, path, level, area.upper()),
        )
    for community in ("c01", "c02"):
        conn.execute(
            "INSERT INTO gateway (gateway, community) VALUES (%s, %s)",
            (f"gw-{community}", community),
        )
    for username, role, area in PEOPLE:
        conn.execute(
            """
            INSERT INTO person (username, password_hash, role, area, language)
            VALUES (%s, '', %s, %s, 'en')
            """,
            (username, role, area),
        )


@dataclass(slots=True)
class Town:
    """One town's database, the process that tells, and what happens there."""

    conn: psycopg.Connection
    dispatcher: Dispatcher
    watch: Watch

    # -- settings

    def contact(self, username: str, kind: str = "email", address: str | None = None) -> UUID:
        return self._channel(kind, address or f"{username}@example.org", username=username)

    def webhook(self, url: str, area: str = "c01", *, duress: bool = False) -> tuple[UUID, str]:
        secret = new_secret()
        return self._channel("webhook", url, area=area, secret=secret, duress=duress), secret

    def _channel(
        self,
        kind: str,
        address: str,
        *,
        username: str | None = None,
        area: str | None = None,
        secret: str | None = None,
        duress: bool = False,
    ) -> UUID:
        channel = uuid7()
        self.conn.execute(
            """
            INSERT INTO notification_channel (id, kind, name, address, username, area, secret,
                                              duress, created_at, created_by)
            VALUES (%s, %s, '', %s, %s, %s, %s, %s, %s, 'test')
            """,
            (channel, kind, address, username, area, secret, duress, START),
        )
        return channel

    def chain(self, area: str, **parts: Any) -> None:
        chain = Chain.model_validate({"name": "test", "severities": ["major"], **parts})
        self.conn.execute(
            "INSERT INTO notification_chain VALUES (%s, %s, %s, %s, 'test')",
            (uuid7(), area, Jsonb(chain.model_dump(mode="json")), START),
        )

    def prefer(self, username: str, **wanted: Any) -> None:
        self.conn.execute(
            "INSERT INTO notification_preference (username, wanted) VALUES (%s, %s)",
            (username, Jsonb(Preferences.model_validate(wanted).model_dump(mode="json"))),
        )

    # -- what happens

    def device(self, area: str = "c01-g01") -> str:
        device = f"alarm-{uuid7()}"
        self.conn.execute(
            """
            INSERT INTO device (device, kind, gateway, community, area, name)
            VALUES (%s, 'alarm', %s, %s, %s, %s)
            """,
            (device, f"gw-{area[:3]}", area[:3], area, device),
        )
        return device

    def raise_(
        self,
        device: str,
        *,
        severity: Severity = "major",
        rule: str = "alarm.tamper",
        life_safety: bool = False,
        late: timedelta = timedelta(0),
    ) -> UUID:
        return self.change(
            device, Raise(self.watch.now - late, "condition_met"), severity, rule, life_safety
        )

    def clear(
        self, device: str, *, severity: Severity = "major", rule: str = "alarm.tamper"
    ) -> UUID:
        return self.change(device, Clear(self.watch.now, "condition_ended"), severity, rule)

    def change(
        self,
        device: str,
        decision: Raise | Clear,
        severity: Severity,
        rule: str,
        life_safety: bool = False,
        conn: psycopg.Connection | None = None,
    ) -> UUID:
        row = self.conn.execute(
            "SELECT kind, gateway, community, area, device FROM device WHERE device = %s", (device,)
        ).fetchone()
        assert row is not None
        change = alerts.Change(
            Rule(id=rule, severity=severity, life_safety=life_safety),
            alerts.Subject(*row),
            decision,
            self.watch.now,
        )
        used = conn or self.conn
        with used.transaction():
            ((_, alert),) = alerts.write(used, [change], self.watch.now)
        return alert

    def move(self, alert: UUID, action: Action) -> None:
        with self.conn.transaction():
            assert alerts.move(self.conn, alert, action, self.watch.now) is not None

    def acknowledge(self, alert: UUID) -> None:
        self.move(alert, Acknowledge(self.watch.now, "liaison"))

    # -- what is told

    def tell(self, **later: float) -> None:
        """Let time pass, and everything be told that is due then."""
        self.watch.go(**later)
        self.dispatcher.settle()

    def log(self) -> list[tuple[str, str, int, str | None]]:
        return self.conn.execute(
            "SELECT kind, state, attempts, error FROM notification_message ORDER BY id"
        ).fetchall()

    def idle(self) -> bool:
        return not notifications.has_work(self.conn, self.watch.now)


@contextmanager
def town(dsn: str, mailbox_port: int) -> Generator[Town]:
    watch = Watch()
    with psycopg.connect(dsn, autocommit=True) as conn:
        gateways = Gateways(
            email=f"mailto://{HOST}:{mailbox_port}/?from=linli@example.org&to={{to}}&mode=insecure"
        )
        setting = Setting(gateways, allow_private=True, source="urn:linli:installation")
        dispatcher = Dispatcher(conn, setting, watch)
        try:
            yield Town(conn, dispatcher, watch)
        finally:
            dispatcher.close()
