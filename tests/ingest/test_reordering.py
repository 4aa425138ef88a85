# SPDX-License-Identifier: Apache-2.0
"""Random reorderings, duplications and cuts into flushes: the same final numbers as in order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from edge_agent.kinds.lamp import LampReading
from tests.ingest.community import Bench, feed, found
from tests.services import Broker

ROUNDS = 25
LAMP = "c01-lamp-001"
SILENCE_S = 1_800
# Two nights of a lamp that is due from 18:00 to 06:00 local time (UTC+8).
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=40)


@pytest.fixture
def bench(database: str, broker: Broker) -> Iterator[Bench]:
    found(database, in_service_from=START, programme="18:00-06:00")
    made = Bench(database, broker)
    yield made
    made.close()


def by_the_second(readings: dict[datetime, bool]) -> tuple[int, int]:
    """Lit and dark seconds, asking at every second: shares nothing with the product."""
    lit = dark = 0
    instants = sorted(readings)
    for begin, end in pairwise(instants):
        held = min(int((end - begin).total_seconds()), SILENCE_S)
        for second in range(held):
            hour = (begin + timedelta(hours=8, seconds=second)).hour
            if hour >= 18 or hour < 6:
                if readings[begin]:
                    lit += 1
                else:
                    dark += 1
    return lit, dark


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_disorder_changes_no_number(bench: Bench, seed: int) -> None:
    rng = random.Random(seed)
    readings: dict[datetime, bool] = {}
    at = START
    while at < START + timedelta(hours=38):
        readings[at] = rng.random() < 0.7
        at += timedelta(seconds=rng.choice((60, 300, 600, 900, 2_400, 5_000)))
    batches = [
        bench.batch(seq, LampReading(device=LAMP, at=at, lit=lit))
        for seq, (at, lit) in enumerate(readings.items(), start=1)
    ]
    sent = [*batches, *rng.sample(batches, k=len(batches) // 3)]
    window = rng.choice((1, 5, len(sent)))
    sent.sort(key=lambda one: batches.index(one) + rng.random() * window)

    writer = bench.telemetry()
    while sent:
        size = rng.randint(1, 12)
        flush, sent = sent[:size], sent[size:]
        if rng.random() < 0.1:
            writer = bench.telemetry()  # a restart
        feed(writer, *flush)
    for _ in range(3):  # recomputing what is dirty is a matter of passes, not of time
        feed(bench.telemetry())

    assert bench.value("SELECT count(*) FROM reading_lamp") == len(readings)
    assert bench.value("SELECT count(*) FROM lamp_night WHERE dirty") == 0
    (row,) = bench.rows(
        """
        SELECT sum(lit_us)::bigint AS lit, sum(dark_us)::bigint AS dark
        FROM lamp_night AS n JOIN device AS d ON d.id = n.device_id WHERE d.device = %s
        """,
        LAMP,
    )
    lit, dark = by_the_second(readings)
    assert (row["lit"], row["dark"]) == (lit * 10**6, dark * 10**6)
    latest = max(readings)
    (state,) = bench.rows("SELECT at, lit FROM device_state")
    assert (state["at"], state["lit"]) == (latest, readings[latest])
