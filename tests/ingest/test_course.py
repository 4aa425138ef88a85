# SPDX-License-Identifier: Apache-2.0
"""On which course a database is: what is told to gateways, and that an old one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import psycopg
import pytest

from edge_agent.messages import Rejection, parse_ack
from ingest.config import Database
from ingest.consumer import Consumer
from ingest.downlink import ACKS_AT_ONCE, Downlink
from ingest.store import Course, course
from ingest.store.streams import Mark, StreamKey

NONE: Mapping[str, list[Rejection]] = {}


class Wire:
    """Where a lane's connection to the broker would be."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def publish(self, topic: str, payload: bytes, *, qos: int) -> None:
        assert topic.endswith("/down/ack")
        assert qos == 1
        self.sent.append(payload)


def marks(upto: int) -> dict[StreamKey, Mark]:
    return {(f"gw-{n:03}", f"stream-{n:03}"): Mark(upto) for n in range(ACKS_AT_ONCE + 1)}


def test_a_restart_is_no_new_course(database: str) -> None:
    with psycopg.connect(database) as conn:
        present = course(conn)
        (epoch,) = conn.execute("SELECT epoch FROM installation").fetchone() or ("",)
    assert present == Course(epoch, 1)
    assert str(present) == f"{epoch}-1"
    with psycopg.connect(database) as conn:
        assert course(conn) == present


@pytest.mark.parametrize(
    ("present", "is_before"),
    [
        pytest.param(Course("a", 1), True, id="an-old-primary"),
        pytest.param(Course("a", 2), False, id="the-same"),
        pytest.param(Course("a", 3), False, id="promoted-again"),
        pytest.param(Course("b", 1), False, id="another-database"),
    ],
)
def test_only_an_older_course_of_the_same_database_is_refused(
    present: Course, is_before: bool
) -> None:
    assert present.is_before(Course("a", 2)) == is_before


@pytest.mark.parametrize(("epoch", "is_told"), [("a-1", True), ("a-2", False)])
def test_what_waits_to_be_told_of_a_lost_primary_is_not_told(epoch: str, is_told: bool) -> None:
    wire = Wire()
    downlink = Downlink(cast("Consumer", wire))
    downlink.follow("a-1")
    messages = dict.fromkeys(marks(7), 9)
    downlink.acknowledge_later(marks(7), NONE, messages)
    assert not wire.sent, "they are many, so they wait"
    downlink.follow(epoch)
    downlink.acknowledge_later(marks(7), NONE, dict.fromkeys(marks(7), 1))
    assert bool(wire.sent) == is_told
    assert {parse_ack(one).epoch for one in wire.sent} <= {epoch}


@pytest.mark.parametrize(
    ("dsn", "is_good"),
    [
        pytest.param("host=a", True, id="one-host"),
        pytest.param("host=a,b", False, id="several-and-any-of-them"),
        pytest.param("host=a,b target_session_attrs=standby", False, id="the-wrong-one"),
        pytest.param("host=a,b target_session_attrs=read-write", True, id="the-one-that-writes"),
    ],
)
def test_a_standby_is_never_written_to(dsn: str, is_good: bool) -> None:
    section = {"dsn": dsn, "replica": "host=b", "replica_lag_limit_s": 5.0}
    if is_good:
        assert Database.model_validate(section).dsn == dsn
    else:
        with pytest.raises(ValueError, match="target_session_attrs=read-write"):
            Database.model_validate(section)
