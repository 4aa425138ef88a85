# SPDX-License-Identifier: Apache-2.0
"""What is kept for a time only goes when that is over, a few at once, and nothing that counts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ingest.retention import StorageKeeper
from ingest.store import connect, expired
from tests.ingest.notify.town import START, Mailbox, Town

STEPS = [{"recipients": [{"person": "guard"}]}]


def keep(place: Town, dsn: str) -> None:
    with connect(dsn, "test") as conn:
        StorageKeeper(dsn, {}, timedelta(days=30)).keep(conn, place.watch.now)


def test_what_was_told_goes_with_time_but_not_of_what_goes_on(
    place: Town, town_dsn: str, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired, "BATCH", 1)
    guard = place.contact("guard")
    place.chain("c01", steps=STEPS)
    over, stands = place.device(), place.device()
    place.raise_(over)
    place.tell()
    place.clear(over)
    place.tell(minutes=1)
    standing = place.raise_(stands)
    place.tell(minutes=1)
    # One that nobody was told of before it was taken note of.
    place.prefer("guard", digest=["major"])
    waiting = place.raise_(place.device())
    place.tell(minutes=1)
    place.acknowledge(waiting)
    place.tell(minutes=1)
    history = "SELECT count(*) FROM alert_history"
    steps = place.conn.execute(history).fetchone()

    def told() -> list[tuple[str, bool]]:
        return place.conn.execute(
            "SELECT kind, message IS NULL FROM notification WHERE channel = %s ORDER BY id",
            (guard,),
        ).fetchall()

    assert told() == [("raised", False), ("cleared", False), ("raised", False), ("raised", True)]
    assert len(place.log()) == 3
    place.watch.now = START + expired.TELLINGS_KEPT - timedelta(minutes=1)
    keep(place, town_dsn)
    assert (len(told()), len(place.log())) == (4, 3)
    place.watch.go(hours=1)
    keep(place, town_dsn)
    assert (told(), len(place.log())) == ([("raised", False)], 1)
    assert place.conn.execute(history).fetchone() == steps
    # Whoever heard of it hears its end, however long ago that was.
    mailbox.take()
    place.clear(stands)
    place.tell(hours=24)
    assert [who for who, _ in mailbox.take()] == ["guard"]
    ends = "SELECT kind FROM notification WHERE alert = %s ORDER BY id"
    assert place.conn.execute(ends, (standing,)).fetchall() == [("raised",), ("cleared",)]


def test_answers_go_after_a_day_a_few_at_once(
    place: Town, town_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expired, "BATCH", 2)
    for key, age in (("a", 30.0), ("b", 25.0), ("c", 24.0), ("d", 23.9), ("e", 0.0)):
        place.conn.execute(
            "INSERT INTO idempotency VALUES ('li', %s, '', %s, 200, '{}', '')",
            (key, place.watch.now - timedelta(hours=age)),
        )
    assert expired.drop_answers(place.conn, place.watch.now) == 2
    keep(place, town_dsn)
    left = place.conn.execute("SELECT key FROM idempotency ORDER BY key").fetchall()
    assert left == [("d",), ("e",)]
