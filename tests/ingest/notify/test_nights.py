# SPDX-License-Identifier: Apache-2.0
"""Random nights: alerts rise, fall, are shelved, acknowledged; the mail server comes and goes.

Whatever happens, what was told makes sense to whoever was told, and at the end nothing is left.
"""

from __future__ import annotations

import random
from itertools import pairwise
from uuid import UUID

import pytest

from ingest.alerts import AlreadyDone, Refused, Shelve, Unshelve
from ingest.rules import Severity
from tests.ingest.notify.town import Mailbox, Town

SEVERITIES: tuple[Severity, ...] = ("critical", "major", "minor")


class Night:
    """One night on some devices, each of a severity."""

    def __init__(self, place: Town, seed: int) -> None:
        self.place = place
        self.rng = random.Random(seed)
        self.devices: list[tuple[str, Severity]] = [
            (place.device(), self.rng.choice(SEVERITIES)) for _ in range(5)
        ]
        self.active: dict[str, UUID] = {}
        self.known: set[UUID] = set()

    def step(self) -> None:
        device, severity = self.rng.choice(self.devices)
        match self.rng.randrange(5):
            case 0 | 1 if device not in self.active:
                self.active[device] = self.place.raise_(device, severity=severity)
                self.known.add(self.active[device])
            case 2 if device in self.active:
                self.active.pop(device)
                self.place.clear(device, severity=severity)
            case 3 if self.known:
                self.acknowledge(self.rng.choice(sorted(self.known)))
            case 4 if device in self.active:
                self.shelve(self.active[device])
            case _:
                pass

    def acknowledge(self, alert: UUID) -> None:
        row = self.place.conn.execute("SELECT acknowledged FROM alert WHERE id = %s", (alert,))
        if row.fetchone() == (False,):
            self.place.acknowledge(alert)

    def shelve(self, alert: UUID) -> None:
        now = self.place.watch.now
        row = self.place.conn.execute(
            "SELECT shelved_until IS NULL FROM alert WHERE id = %s", (alert,)
        ).fetchone()
        try:
            if row == (True,):
                self.place.move(alert, Shelve(now, "liaison", now.replace(day=24), "noise"))
            else:
                self.place.move(alert, Unshelve(now, "liaison", "person"))
        except (AlreadyDone, Refused):
            pytest.fail("the night asked for what cannot be")

    def dawn(self) -> None:
        for device, severity in self.devices:
            if device in self.active:
                self.place.clear(device, severity=severity)
        for alert in sorted(self.known):
            self.acknowledge(alert)


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_in_a_night_what_was_told_makes_sense(
    place: Town, mailbox: Mailbox, seed: int
) -> None:
    for username in ("guard", "manager", "liaison", "street"):
        place.contact(username)
    place.chain("c01", severities=["major", "critical"], steps=[
        {"recipients": [{"role": "property"}], "repeat_s": 60, "repeats": 2},
        {"delay_s": 90, "recipients": [{"role": "police"}]},
    ])  # fmt: skip
    night = Night(place, seed)
    for _ in range(60):
        night.step()
        mailbox.refuse = night.rng.random() < 0.2
        place.tell(seconds=night.rng.choice((0, 1, 5, 30)))
    night.dawn()
    mailbox.refuse = False
    for _ in range(8):
        place.tell(seconds=60)

    told = place.conn.execute(
        """
        SELECT n.channel, n.alert, n.kind, m.state = 'sent',
               (SELECT (a ->> 'active')::boolean
                FROM jsonb_array_elements(m.content -> 'alerts') AS a
                WHERE a ->> 'id' = n.alert::text)
        FROM notification AS n JOIN notification_message AS m ON m.id = n.message
        WHERE m.state = 'sent' OR m.unsure
        ORDER BY m.id, n.id
        """
    ).fetchall()
    assert len(told) > 5
    stories: dict[tuple[UUID, UUID], list[tuple[str, bool, bool]]] = {}
    for channel, alert, kind, sent, active in told:
        stories.setdefault((channel, alert), []).append((kind, sent, active))
    for story in stories.values():
        kinds = [kind for kind, _, _ in story]
        # An end is told after a beginning, each once; and whoever heard a beginning hears the end,
        # or that it is over already.
        assert kinds[0] != "cleared"
        assert ("cleared", "cleared") not in pairwise(kinds)
        if any(sent for kind, sent, _ in story if kind != "cleared"):
            assert not story[-1][2], kinds
    disorder = place.conn.execute(
        """
        SELECT count(*) FROM notification_message AS a JOIN notification_message AS b
        ON a.channel = b.channel AND a.id < b.id AND a.finished_at > b.finished_at
        """
    ).fetchone()
    assert disorder == (0,)
    left = place.conn.execute(
        """
        SELECT (SELECT count(*) FROM notification_escalation),
               (SELECT count(*) FROM notification_message WHERE finished_at IS NULL),
               (SELECT count(*) FROM notification WHERE message IS NULL AND cancelled_at IS NULL),
               (SELECT count(*) FROM alert_history WHERE NOT told)
        """
    ).fetchone()
    assert left == (0, 0, 0, 0)
