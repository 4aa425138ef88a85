# SPDX-License-Identifier: Apache-2.0
"""Sends messages: channel by channel in order, again after a failure, and says when it gives up.

Before an attempt it is committed that there is one, after it how it went. A process that ends
between leaves a message that is sent again under the same key: told twice at worst, never not.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, cast
from uuid import UUID

from psycopg import Connection

from ingest import failpoints, metrics
from ingest.notify import messengers, outbox, webhook
from ingest.notify.messengers import Gateways
from ingest.notify.texts import Language, text
from ingest.notify.webhook import Outcome
from ingest.store import escalations, messages, notifications
from ingest.store.messages import Message

log = logging.getLogger(__name__)

#: So many messages are on their way at once, each on a channel of its own.
SENDING_MAX: Final = 16
#: After the first failure, then doubled; the same for everybody.
RETRY: Final = timedelta(seconds=5)
RETRY_MAX: Final = timedelta(minutes=15)
#: People are told otherwise after three minutes; machines may be away for hours.
ATTEMPTS_MAX: Final[Mapping[str, int]] = {"webhook": 16}
ATTEMPTS_MAX_PERSON: Final = 6
#: An attempt that says nothing for so long is over, whatever its thread still does.
ATTEMPT_MAX: Final = timedelta(seconds=60)


def retry_after(attempts: int) -> timedelta:
    """Return how long after the ``attempts``-th failed attempt the next one is."""
    return min(RETRY * 2 ** min(attempts - 1, 20), RETRY_MAX)


def attempts_max(channel_kind: str) -> int:
    """Return after how many attempts a message is given up."""
    return ATTEMPTS_MAX.get(channel_kind, ATTEMPTS_MAX_PERSON)


@dataclass(frozen=True, slots=True)
class Setting:
    """How this installation sends, its name, and whether it may call its own network."""

    gateways: Gateways = field(default_factory=Gateways)
    allow_private: bool = False
    source: str = "urn:linli"


@dataclass(slots=True)
class _Sending:
    message: Message
    started_at: datetime
    future: "Future[Outcome]"


@dataclass(slots=True)
class Dispatcher:
    """All of it, on one connection that claimed the work; ``clock`` is the time."""

    conn: Connection
    setting: Setting
    clock: Callable[[], datetime]
    _sending: dict[UUID, _Sending] = field(default_factory=dict[UUID, _Sending])
    _threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(SENDING_MAX, thread_name_prefix="send")
    )

    def turn(self) -> bool:
        """Do what is to be done now; return whether anything is on its way.

        Raises:
            psycopg.Error: The database does not answer; start anew.
        """
        now = self.clock()
        self._record(now)
        if notifications.has_work(self.conn, now):
            outbox.plan(self.conn, now)
            outbox.compose(self.conn, now)
            failpoints.reached(failpoints.NOTIFY_PLANNED)
            self._start(now)
        return bool(self._sending)

    def wait(self, timeout_s: float) -> None:
        """Wait until something that is on its way arrived, at most so long."""
        wait([one.future for one in self._sending.values()], timeout_s, FIRST_COMPLETED)

    def settle(self, timeout_s: float = 30.0) -> None:
        """Go on until nothing is on its way nor due at this moment."""
        while self.turn():
            self.wait(timeout_s)

    def close(self) -> None:
        """Start nothing any more, and leave what is on its way to itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _start(self, now: datetime) -> None:
        room = SENDING_MAX - len(self._sending)
        for message in messages.due_messages(self.conn, now, self._sending, room):
            content = self._worth_sending(message, now)
            if content is None:
                continue
            messages.attempt(self.conn, message.id, now + ATTEMPT_MAX, content)
            failpoints.reached(failpoints.NOTIFY_SENDING)
            future = self._threads.submit(send, message, content, self.setting, now)
            self._sending[message.channel] = _Sending(message, now, future)

    def _worth_sending(self, message: Message, now: datetime) -> dict[str, Any] | None:
        """Return what a message says when it is sent at last; None where that is nothing."""
        if message.removed:
            with self.conn.transaction():
                messages.finish(self.conn, message.id, "given_up", now, error="channel.removed")
                escalations.hurry(self.conn, message.id, now)
            return None
        sight = messages.in_sight(self.conn, message.id)
        lost = {alert for alert, is_seen in sight.items() if not is_seen}
        unheard = set[UUID]()
        if message.kind == "cleared" and not message.attempts:
            unheard = messages.unheard(self.conn, message.id)
        untold = lost | unheard
        if not untold:
            return message.content
        if len(untold) < len(sight):
            alerts: list[dict[str, Any]] = message.content["alerts"]
            named = [alert for alert in alerts if UUID(alert["id"]) not in untold]
            count = min(cast("int", message.content["count"]), len(sight) - len(untold))
            # The gravest comes first; what is not told says nothing by its severity either.
            worst = named[0]["severity"] if named else message.content["severity"]
            return {**message.content, "alerts": named, "count": count, "severity": worst}
        with self.conn.transaction():
            if lost:
                messages.finish(
                    self.conn, message.id, "given_up", now, error="channel.out_of_sight"
                )
                escalations.hurry(self.conn, message.id, now)
            else:
                messages.finish(self.conn, message.id, "unheard", now)
        return None

    def _record(self, now: datetime) -> None:
        for channel, sending in list(self._sending.items()):
            if sending.future.done():
                outcome = sending.future.result()
                failpoints.reached(failpoints.NOTIFY_SENT)
            elif now - sending.started_at > ATTEMPT_MAX:
                outcome = Outcome(False, "timeout", unsure=True)
            else:
                continue
            del self._sending[channel]
            self._note(sending.message, outcome, now)

    def _note(self, message: Message, outcome: Outcome, now: datetime) -> None:
        attempts = message.attempts + 1
        metrics.NOTIFY_ATTEMPTS.labels(
            message.channel_kind, "sent" if outcome.sent else "failed"
        ).inc()
        if outcome.sent:
            messages.finish(self.conn, message.id, "sent", now)
            return
        error = outcome.error or "failed"
        give_up = outcome.final or message.kind == "test"
        if not give_up and attempts < attempts_max(message.channel_kind):
            next_at = now + retry_after(attempts)
            messages.again(self.conn, message.id, next_at, error, unsure=outcome.unsure)
            return
        with self.conn.transaction():
            messages.finish(
                self.conn, message.id, "given_up", now, error=error, unsure=outcome.unsure
            )
            notifications.note_undelivered(self.conn, message.id, message.channel_kind, now)
            escalations.hurry(self.conn, message.id, now)
        if message.kind != "test":
            metrics.NOTIFY_GIVEN_UP.labels(message.channel_kind).inc()
            log.error(
                "message given up channel=%s kind=%s attempts=%d error=%s",
                message.channel, message.channel_kind, attempts, error,
            )  # fmt: skip


def send(message: Message, content: Mapping[str, Any], setting: Setting, now: datetime) -> Outcome:
    """Send a message, once; whatever goes wrong is an outcome. Any: ``content`` is JSON."""
    try:
        if message.channel_kind == "webhook":
            body = webhook.envelope(
                message.key, message.kind, setting.source, message.created_at, content
            )
            return webhook.send(
                message.address,
                message.secrets,
                message.key,
                body,
                now=now,
                allow_private=setting.allow_private,
            )
        language: Language = "en" if message.language == "en" else "zh-CN"
        said = text(message.kind, content, language)
        return messengers.send(
            message.channel_kind, message.address, said.title, said.body, setting.gateways
        )
    except Exception:  # noqa: BLE001 - a bug of ours or of a foreign library must not end all telling
        # Not the exception: its text may name the address.
        log.error("sending failed by an error channel=%s", message.channel)  # noqa: TRY400
        return Outcome(False, "internal", unsure=True)
