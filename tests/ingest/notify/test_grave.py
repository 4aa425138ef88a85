# SPDX-License-Identifier: Apache-2.0
"""What is grave is told at once, to somebody, whatever anybody wishes or has switched off."""

from __future__ import annotations

import re
from typing import Any, Final

import pytest
from prometheus_client import generate_latest

from ingest.notify.recipients import Preferences
from ingest.rules import Severity
from tests.ingest.notify.town import Mailbox, Town

# Each alone would keep a level I from somebody, or until later: by the preference it needs.
MUTES: Final[dict[str, list[dict[str, Any]]]] = {
    "min_severity": [{"min_severity": "critical"}],
    "quiet_from": [{"quiet_from": "00:00", "quiet_to": "23:59"}],
    "quiet_to": [{"quiet_from": "09:59", "quiet_to": "10:30"}],
    "digest": [{"digest": ["critical", "major", "minor", "info"]}],
    "digest_at": [{"digest": ["critical", "minor"], "digest_at": "09:59"}],
    "channels": [
        {"channels": {"critical": [], "major": [], "minor": [], "info": []}},
        {"channels": {severity: ["00000000-0000-0000-0000-000000000001"]
                      for severity in ("critical", "major", "minor", "info")}},
    ],
}  # fmt: skip
WISHES: Final = [wish for wishes in MUTES.values() for wish in wishes]
ALL: Final = {name: value for wish in WISHES for name, value in wish.items()}
GRAVE: Final[dict[str, tuple[Severity, bool]]] = {
    "critical": ("critical", False),
    "danger-to-life": ("minor", True),
}
GUARD: Final = [{"recipients": [{"person": "guard"}], "repeat_s": 120, "repeats": 2}]
EVERY: Final[list[Severity]] = ["critical", "major", "minor", "info"]


def test_every_wish_there_is_is_tried() -> None:
    assert set(MUTES) == set(Preferences.model_fields)


@pytest.mark.parametrize("grave", [pytest.param(one, id=name) for name, one in GRAVE.items()])
@pytest.mark.parametrize("wish", [pytest.param(one, id="-".join(one)) for one in [*WISHES, ALL]])
def test_no_wish_keeps_a_level_i_or_its_end_from_anybody(
    place: Town, mailbox: Mailbox, wish: dict[str, Any], grave: tuple[Severity, bool]
) -> None:
    severity, life_safety = grave
    place.contact("guard")
    place.chain("c01", severities=EVERY, steps=GUARD)
    place.prefer("guard", **wish)
    device = place.device()
    place.raise_(device, severity=severity, life_safety=life_safety)
    told: list[tuple[int, int]] = []
    for minute in range(6):
        place.tell(minutes=minute and 1)
        if taken := mailbox.take():
            told.append((minute, len(taken)))
    assert told == [(0, 1), (2, 1), (4, 1)], "at once, and again until somebody acknowledges"
    place.clear(device, severity=severity)
    place.tell()
    assert [title.partition(":")[0] for _, title in mailbox.take()] == ["Cleared"]


@pytest.mark.parametrize("wish", [pytest.param(one, id="-".join(one)) for one in WISHES])
def test_the_same_wishes_do_mute_or_delay_what_is_slight(
    place: Town, mailbox: Mailbox, wish: dict[str, Any]
) -> None:
    place.contact("guard")
    place.chain("c01", severities=EVERY, steps=GUARD[:1])
    place.prefer("guard", **wish)
    place.raise_(place.device(), severity="minor")
    place.tell()
    assert mailbox.take() == []


def test_a_mail_that_gathers_what_is_slight_holds_up_nothing_grave(
    place: Town, mailbox: Mailbox
) -> None:
    place.contact("guard")
    place.chain("c01", severities=EVERY, steps=GUARD)
    place.prefer("guard", digest=["minor"], digest_at="18:00")
    device = place.device()
    place.raise_(device, severity="minor")
    place.tell(minutes=1)
    # The same one, worse now.
    place.clear(device, severity="minor")
    place.tell(minutes=1)
    place.raise_(device, severity="critical")
    place.tell(minutes=1)
    assert [title for _, title in mailbox.take()] == ["[Critical] Device tampered with"]


def test_by_a_channel_that_is_off_nobody_is_told_and_by_the_others_they_are(
    place: Town, mailbox: Mailbox
) -> None:
    off = place.contact("guard", address="off@example.org")
    place.contact("guard")
    place.chain("c01", severities=EVERY, steps=GUARD)
    place.conn.execute("UPDATE notification_channel SET enabled = false WHERE id = %s", (off,))
    place.raise_(place.device(), severity="critical")
    place.tell()
    assert [who for who, _ in mailbox.take()] == ["guard"]


def without_channel(place: Town) -> None:
    pass


def switched_off(place: Town) -> None:
    channel = place.contact("guard")
    place.conn.execute("UPDATE notification_channel SET enabled = false WHERE id = %s", (channel,))


def removed(place: Town) -> None:
    channel = place.contact("guard")
    place.conn.execute(
        "UPDATE notification_channel SET removed_at = now(), address = '' WHERE id = %s", (channel,)
    )


LOST: Final = [without_channel, switched_off, removed]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize(
    ("recipients", "told"),
    [
        pytest.param([{"role": "property"}], ["manager"], id="who-stands-in"),
        pytest.param([{"person": "guard"}, {"person": "street"}], ["street"], id="who-is-there"),
        # Nobody in the whole chain: then as if there were none.
        pytest.param([{"person": "guard"}], ["liaison", "manager"], id="built-in"),
    ],
)
def test_who_cannot_be_told_does_not_stand_for_anybody(
    place: Town, mailbox: Mailbox, lost: Any, recipients: list[Any], told: list[str]
) -> None:
    lost(place)
    for username in ("manager", "liaison", "street"):
        place.contact(username)
        place.prefer(username, **ALL)
    place.chain("c01", severities=EVERY, steps=[{"recipients": recipients}])
    place.raise_(place.device(), severity="critical")
    place.tell()
    place.tell(seconds=1)
    assert sorted(who for who, _ in mailbox.take()) == told


def test_who_removes_their_channel_while_a_message_waits_leaves_it_to_the_next_step(
    place: Town, mailbox: Mailbox
) -> None:
    guard = place.contact("guard")
    place.contact("manager")
    place.prefer("manager", **ALL)
    place.chain(
        "c01",
        severities=EVERY,
        steps=[*GUARD, {"delay_s": 3_600, "recipients": [{"person": "manager"}]}],
    )
    mailbox.refuse = True
    place.raise_(place.device(), severity="critical")
    place.tell()
    mailbox.refuse = False
    place.conn.execute(
        "UPDATE notification_channel SET removed_at = now(), address = '' WHERE id = %s", (guard,)
    )
    place.tell(seconds=10)
    place.tell(seconds=1)
    assert [who for who, _ in mailbox.take()] == ["manager"]


def unreached() -> float:
    """What `/metrics` says of alerts that could be told to nobody."""
    (line,) = re.findall(rb"^linli_notify_unreached_total (\S+)$", generate_latest(), re.MULTILINE)
    return float(line)


def test_where_nobody_at_all_can_be_told_it_is_said_aloud(
    place: Town, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    before = unreached()
    place.chain("c01", severities=EVERY, steps=GUARD)
    alert = place.raise_(place.device(), severity="critical")
    place.tell()
    place.tell(seconds=1)
    assert mailbox.take() == []
    assert unreached() == before + 1
    assert f"nobody can be told of an alert alert={alert}" in caplog.text
