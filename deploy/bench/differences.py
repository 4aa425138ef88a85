# SPDX-License-Identifier: Apache-2.0
"""Is it right? What a city stored, compared with what its load's ledger says was accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import psycopg

from deploy.bench import sampling
from deploy.bench.town import Town
from deploy.checker.facts import READING_TABLES


def missing_seqs(conn: psycopg.Connection, ledger: Mapping[str, Sequence[int]]) -> list[str]:
    """Each stream holds every seq from 1 to the last that was accepted, without a hole."""
    seen: dict[str, str] = dict(
        conn.execute(
            "SELECT gateway, seen::text FROM gateway_stream WHERE lane = 'telemetry'"
        ).fetchall()
    )
    return [
        f"{gateway}: stored {seen.get(gateway)}, accepted up to {sent}"
        for gateway, (sent, *_) in ledger.items()
        if sent and seen.get(gateway) != f"{{[1,{sent + 1})}}"
    ]


def missing_readings(conn: psycopg.Connection, ledger: Mapping[str, Sequence[int]]) -> list[str]:
    """Each gateway has as many rows as it made readings."""
    found: dict[str, int] = {}
    for table, _ in READING_TABLES.values():
        for gateway, count in conn.execute(
            f"""
            SELECT d.gateway, sum(r.count)::bigint
            FROM (SELECT device_id, count(*) FROM {table} GROUP BY device_id) AS r
            JOIN device AS d ON d.id = r.device_id
            GROUP BY d.gateway
            """.encode()  # noqa: S608 - names of our own
        ):
            found[gateway] = found.get(gateway, 0) + count
    return [
        f"{gateway}: {found.get(gateway, 0)} readings stored, {made} accepted"
        for gateway, (_, made, *_) in ledger.items()
        if found.get(gateway, 0) != made
    ]


def doubled_readings(conn: psycopg.Connection) -> list[str]:
    """No device told two things at one instant."""
    wrong: list[str] = []
    for table, _ in READING_TABLES.values():
        query = (
            f"SELECT count(*) FROM (SELECT FROM {table} GROUP BY device_id, at"  # noqa: S608
            " HAVING count(*) > 1) AS twice"
        )
        if twice := sampling.total(conn, query):
            wrong.append(f"{table}: {twice} readings stored twice")
    return wrong


def wrong_lit_times(conn: psycopg.Connection) -> list[str]:
    """Lamps here are always lit and due: their time is from the first reading to the last.

    Or to the one before, where the last is held back: a night is settled up to the lamp's state.
    """
    row = conn.execute(
        """
        SELECT count(*), count(*) FILTER (WHERE n.lit_us IS DISTINCT FROM r.us OR n.dark_us > 0)
        FROM (SELECT device_id, (extract(epoch FROM max(t.at) - min(t.at)) * 1000000)::bigint AS us
              FROM reading_lamp AS t JOIN device_state AS s USING (device_id)
              WHERE t.at <= s.lit_at GROUP BY device_id) AS r
        LEFT JOIN (SELECT device_id, sum(lit_us)::bigint AS lit_us, sum(dark_us)::bigint AS dark_us
                   FROM lamp_night GROUP BY device_id) AS n USING (device_id)
        """
    ).fetchone()
    assert row is not None
    return (
        [f"{row[1]} of {row[0]} lamps have another lit time than their readings"] if row[1] else []
    )


def wrong_alarms(
    conn: psycopg.Connection, events: Mapping[str, float], heard: set[str]
) -> list[str]:
    """Each alarm raised one alert, which was told."""
    stored: dict[str, list[str]] = {}
    for key, one in conn.execute(
        "SELECT key, alert::text FROM alert_occurrence WHERE rule = 'alarm.panic'"
    ):
        stored.setdefault(key, []).append(one)
    wrong = [
        f"alarm {key}: {len(stored.get(key, ()))} alerts"
        for key in events
        if len(stored.get(key, ())) != 1
    ]
    silent = sum(1 for key in events for one in stored.get(key, ()) if one not in heard)
    return [*wrong, *([f"{silent} alerts were not told"] if silent else [])]


def wrong_full_bins(conn: psycopg.Connection, town: Town) -> list[str]:
    """In each community one bin fills up on its second reading: one alert."""
    due = sampling.total(
        conn, "SELECT count(DISTINCT device_id) FROM reading_bin WHERE fill_pct > 90"
    )
    raised = sampling.total(conn, "SELECT count(*) FROM alert_occurrence WHERE rule = 'bin.full'")
    if raised != due or due > town.communities:
        return [f"{raised} alerts on full bins, {due} are full"]
    return []
