# SPDX-License-Identifier: Apache-2.0
"""A city tells its province: final numbers of its areas' days, over MQTT, as a gateway would.

A thread beside the lanes. It makes a few messages out of what the tables say is still to be told,
keeps them until the province acknowledged them after its COMMIT, and makes the next. So an outage
of days costs a few messages in a table and nothing else, and whatever is sent twice is stored once.

Before it goes on after a start or a break, it says the stream's first message once more: the answer
tells how far the province has the stream. A database that went back, here or there, shows by that,
and everything is told again.
"""

import contextlib
import logging
import queue
import ssl
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import psycopg
from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTMessageInfo,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent import topics
from edge_agent.messages import Ack, Aggregate, PayloadError, Status, encode, parse_ack
from ingest import metrics
from ingest.config import Province
from ingest.errors import Unavailable
from ingest.store import Course, claim, connect, course, driver_errors, province

log = logging.getLogger(__name__)

# On their way at once: a megabyte. Of areas one, since each may need the one before.
MESSAGES_MAX: Final = 8
RESEND_S: Final = 20.0
# Where the broker says that nobody hears what it was given, or that it will not take it.
UNHEARD_RESEND_S: Final = 2.0
_NO_MATCHING_SUBSCRIBERS: Final = 0x10
# For how long the province must say that it has less than it had: a broker may repeat old answers.
_DOUBT_S: Final = 3.0
_IDLE_S: Final = 0.5
_RETRY_S: Final = 5.0
_KEEPALIVE_S: Final = 30
_RECONNECT_DELAY_MAX_S: Final = 10
# Areas are compared when the registry changed, and now and then for what else may change them.
_AREAS_S: Final = 600.0
_PROGRESS_S: Final = 10.0
# Acknowledgements are cumulative: those that find no room are made good by the next.
_ACKS_MAX: Final = 1_000


def _has_areas(waiting: Sequence[tuple[int, bytes]]) -> bool:
    """Whether areas are on their way, on which all that follows depends."""
    return bool(waiting) and Aggregate.model_validate_json(waiting[-1][1]).areas is not None


class Link:
    """One connection to the province's broker; its thread only hands over what it hears."""

    def __init__(self, config: Province, heard: queue.Queue[Ack | None]) -> None:
        """Prepare; `start` connects. ``heard`` gets each ack, and None for a new connection."""
        self._city = config.city
        self._address = (config.host, config.port)
        self._heard = heard
        self.connected = False
        # Something that was sent cannot have reached the province.
        self.unheard = False
        self._told = ""
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=config.city, protocol=MQTTProtocolVersion.MQTTv5
        )
        context = ssl.create_default_context(cafile=str(config.ca))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(config.certificate, config.key)
        # paho leaves the parameter's type unsaid.
        self._client.tls_set_context(context)  # pyright: ignore[reportUnknownMemberType]
        self._client.reconnect_delay_set(1, _RECONNECT_DELAY_MAX_S)
        self._client.will_set(
            topics.up(config.city, "status"), encode(Status(state="offline")), topics.QOS, True
        )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish

    def start(self) -> None:
        """Connect in the background, and again whenever the link is lost."""
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 0
        self._client.connect_async(
            *self._address, keepalive=_KEEPALIVE_S, clean_start=True, properties=properties
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Say goodbye and disconnect."""
        if self.connected:
            self.say(Status(state="offline", at=datetime.now(UTC))).wait_for_publish(2.0)
        self.connected = False
        self._client.disconnect()
        self._client.loop_stop()

    def say(self, status: Status) -> MQTTMessageInfo:
        """Publish a status, which the broker keeps."""
        return self._client.publish(
            topics.up(self._city, "status"), encode(status), topics.QOS, retain=True
        )

    def send(self, payload: bytes) -> None:
        """Publish a message; what counts is the province's ack, not the broker's."""
        self._client.publish(topics.up(self._city, "aggregate"), payload, topics.QOS)

    def _on_connect(
        self,
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, properties
        if reason.is_failure:
            self._tell(f"refused us: {reason}")
            return
        self._told = ""
        log.info("province connected city=%s broker=%s:%d", self._city, *self._address)
        client.subscribe(topics.down(self._city, "ack"), topics.QOS)
        self.connected = True
        self._heard.put(None)

    def _on_disconnect(
        self,
        client: Client,
        userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, flags, properties
        self.connected = False
        self._tell(f"lost: {reason}")

    def _tell(self, what: str) -> None:
        if what != self._told:
            self._told = what
            log.warning("province out of reach, retrying city=%s reason=%s", self._city, what)

    def _on_publish(
        self,
        client: Client,
        userdata: object,
        mid: int,
        reason: ReasonCode,
        properties: Properties,
    ) -> None:
        del client, userdata, mid, properties
        if reason.is_failure or reason.value == _NO_MATCHING_SUBSCRIBERS:
            self.unheard = True

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        del client, userdata
        if self._heard.qsize() >= _ACKS_MAX:
            return
        try:
            self._heard.put(parse_ack(bytes(message.payload)))
        except PayloadError as error:
            log.warning("malformed ack ignored city=%s error=%s", self._city, error)


class FederationKeeper:
    """Tells the province; a thread of its own beside the lanes."""

    def __init__(self, dsn: str, config: Province) -> None:
        """Take where the numbers are, and whom to tell."""
        self._dsn = dsn
        self._config = config
        self._heard: queue.Queue[Ack | None] = queue.Queue()
        self._link = Link(config, self._heard)
        self._stopping = threading.Event()
        self._stream = ""
        self._course: Course | None = None
        # Whether the province said, since we began or connected, how far it has the stream.
        self._is_answered = False
        # Of the monotonic clock. Since when it says that it has less than it had.
        self._less_since: float | None = None
        self._moved_at = 0.0
        self._said_at: float | None = None
        self._areas_at: float | None = None
        self._progress_at = 0.0
        self._revision = -1
        # What is on its way: published on this connection, by number.
        self._sent: set[int] = set()
        self._is_behind = True

    def stop(self) -> None:
        """Let `run` return."""
        self._stopping.set()
        self._heard.put(None)

    def run(self) -> None:
        """Tell until `stop`."""
        self._link.start()
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "federation") as conn, driver_errors():
                    self._begin(conn)
                    while not self._stopping.is_set():
                        self._turn(conn)
            except Unavailable as error:
                log.warning("database lost, retrying keeper=federation error=%s", error)
                self._stopping.wait(_RETRY_S)
        self._link.stop()

    def _begin(self, conn: psycopg.Connection) -> None:
        if not claim(conn, "federation"):
            raise Unavailable("another ingest tells the province, waiting for it")
        present = course(conn)
        if self._course is not None and present.is_before(self._course):
            raise Unavailable("an old primary came back: fence it (restart ingest if it is meant)")
        self._course = present
        self._stream = province.begin(conn, self._config.city, self._config.level).stream
        self._areas_at = None
        self._ask()

    def _ask(self) -> None:
        """Say nothing new before the province said how far it has the stream."""
        self._is_answered, self._less_since = False, None
        self._sent.clear()

    def _turn(self, conn: psycopg.Connection) -> None:
        """Do one round: hear, note, send; then wait for something to hear."""
        self._hear(conn)
        more = self._note(conn)
        if self._link.connected:
            self._send(conn)
        self._say(conn)
        with contextlib.suppress(queue.Empty):
            self._take(conn, self._heard.get(timeout=0.0 if more else _IDLE_S))

    def _hear(self, conn: psycopg.Connection) -> None:
        while True:
            try:
                self._take(conn, self._heard.get_nowait())
            except queue.Empty:
                return

    def _take(self, conn: psycopg.Connection, ack: Ack | None) -> None:
        if ack is None:  # a new connection: what was on its way may be lost
            self._ask()
            self._said_at = None
            return
        if not province.know_epoch(conn, ack.epoch):
            log.warning("province was restored from a backup, it is told everything again")
            self._begin(conn)
            return
        for one in ack.rejected:
            log.warning("province refuses seq=%s index=%s reason=%s", one.seq, one.index,
                        one.reason)  # fmt: skip
        upto = ack.streams.get(self._stream)
        own = [one for one in ack.rejected if one.stream == self._stream]
        if upto is None and not own:
            return
        if upto is not None and self._went_back(conn, upto):
            return
        done = province.settle(conn, self._stream, upto or 0, own, datetime.now(UTC))
        if done:
            self._moved_at = time.monotonic()
            metrics.TOLD.inc(done)
            if not self._is_answered:
                self._sent.clear()  # that was the answer to what was on its way: ask again
        elif upto is not None and self._less_since is None:
            self._is_answered = True

    def _went_back(self, conn: psycopg.Connection, upto: int) -> bool:
        """Return whether a database forgot what was told; then everything is told again."""
        known, now = province.load(conn), time.monotonic()
        if known is None:
            return False
        if upto < known.acknowledged:
            self._is_answered = False
            if self._less_since is None:
                self._less_since = now
            if now - self._less_since < _DOUBT_S:
                return False
            log.warning("the province's database went back, it is told everything again")
        elif upto < known.next_seq:
            self._less_since = None
            return False
        else:
            log.warning("our database went back, the province is told everything again")
        province.renew(conn, known.province_epoch)
        self._begin(conn)
        return True

    def _note(self, conn: psycopg.Connection) -> bool:
        """Note what is to be told and was not noted yet: areas, then a week of history.

        Returns:
            Whether there may be more of that.
        """
        now = time.monotonic()
        row = conn.execute("SELECT registry_revision FROM installation").fetchone()
        revision: int = 0 if row is None else row[0]
        if self._areas_at is None or revision != self._revision or now - self._areas_at > _AREAS_S:
            self._areas_at, self._revision = now, revision
            changed = province.note_areas(conn)
            if changed:
                log.info("areas to tell changed=%d", changed)
        noted = province.note_history(conn)
        if noted is not None:
            log.info("days to tell from=%s found=%d", *noted)
        return noted is not None

    def _send(self, conn: psycopg.Connection) -> None:
        """Send what is on its way and not sent yet, and as much more as may be; or ask first."""
        question = None if self._is_answered else province.question(conn)
        waiting = province.messages(conn) if question is None else [question]
        now = time.monotonic()
        is_urgent = self._link.unheard or self._less_since is not None
        if not waiting:
            self._moved_at = now
        elif now - self._moved_at > (UNHEARD_RESEND_S if is_urgent else RESEND_S):
            self._link.unheard = False
            self._sent.clear()
            self._moved_at = now
        for seq, payload in waiting:
            self._publish(seq, payload)
        if question is not None:
            return
        self._is_answered = True  # or there is nothing to ask about
        while len(waiting) < MESSAGES_MAX and not _has_areas(waiting):
            message = province.next_message(conn, datetime.now(UTC))
            if message is None:
                break
            self._publish(*message)
            waiting.append(message)
        self._sent &= {seq for seq, _ in waiting}
        self._progress(conn, now, behind=bool(waiting))

    def _publish(self, seq: int, payload: bytes) -> None:
        if seq not in self._sent:
            self._sent.add(seq)
            self._link.send(payload)

    def _progress(self, conn: psycopg.Connection, now: float, *, behind: bool) -> None:
        """Log how far the province is behind: now and then while it is, and once when it is not."""
        if behind and now - self._progress_at < _PROGRESS_S:
            return
        if behind or self._is_behind:
            self._progress_at, self._is_behind = now, behind
            known = province.progress(conn)
            log.info(
                "told the province areas=%d of %d days=%d of %d",
                known.areas - known.areas_waiting, known.areas,
                known.days - known.days_waiting, known.days,
            )  # fmt: skip

    def _say(self, conn: psycopg.Connection) -> None:
        """Say that we are there, and how much waits."""
        now = time.monotonic()
        interval_s = self._config.status_interval_s
        if not self._link.connected or (
            self._said_at is not None and now - self._said_at < interval_s
        ):
            return
        self._said_at = now
        known = province.progress(conn)
        self._link.say(
            Status(
                state="online",
                at=datetime.now(UTC),
                outbox_messages=known.areas_waiting + known.days_waiting,
                status_interval_s=interval_s,
            )
        )
