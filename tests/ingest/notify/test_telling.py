# SPDX-License-Identifier: Apache-2.0
"""From an alert to whoever must know: real database, real SMTP server, a clock that is moved."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest
from uuid_utils.compat import uuid7

from ingest.alerts import Raise, Shelve, Suppress, Unshelve, Unsuppress
from ingest.store import notifications
from tests.ingest.notify.town import Mailbox, Town

FOUR_STEPS: list[dict[str, Any]] = [
    {"recipients": [{"person": "guard"}], "repeat_s": 120, "repeats": 1},
    {"delay_s": 300, "recipients": [{"role": "property", "level": "community"}]},
    {"delay_s": 600, "recipients": [{"role": "police"}]},
    {"delay_s": 900, "recipients": [{"role": "admin", "level": "street"}]},
]


def everybody(place: Town) -> None:
    for username in ("guard", "manager", "liaison", "street", "other"):
        place.contact(username)


def test_four_steps_follow_each_other_until_the_last(place: Town, mailbox: Mailbox) -> None:
    everybody(place)
    place.chain("c01", steps=FOUR_STEPS)
    place.raise_(place.device())
    timetable: list[tuple[int, list[str]]] = []
    for minute in range(20):
        place.tell(minutes=minute and 1)
        if told := mailbox.take():
            timetable.append((minute, [who for who, _ in told]))
    assert timetable == [
        (0, ["guard"]),
        (2, ["guard"]),
        (5, ["manager"]),
        (10, ["liaison"]),
        (15, ["street"]),
    ]
    assert place.idle()


def test_acknowledged_is_told_no_further(place: Town, mailbox: Mailbox) -> None:
    everybody(place)
    place.chain("c01", steps=FOUR_STEPS)
    alert = place.raise_(place.device())
    place.tell()
    place.acknowledge(alert)
    place.tell(minutes=30)
    assert [who for who, _ in mailbox.take()] == ["guard"]


def test_clear_is_told_to_whoever_heard_raise_and_to_nobody_else(
    place: Town, mailbox: Mailbox
) -> None:
    everybody(place)
    place.chain("c01", steps=FOUR_STEPS)
    device = place.device()
    place.raise_(device)
    place.tell()
    place.tell(minutes=5)
    mailbox.take()
    place.clear(device)
    place.tell(minutes=1)
    assert sorted(mailbox.take()) == [
        ("guard", "Cleared: Device tampered with"),
        ("manager", "Cleared: Device tampered with"),
    ]
    place.tell(minutes=60)
    assert mailbox.take() == []


def test_a_clear_never_overtakes_its_raise(place: Town, mailbox: Mailbox) -> None:
    place.contact("guard")
    place.chain("c01", severities=["critical"], steps=FOUR_STEPS[:1])
    device = place.device()
    mailbox.refuse = True
    place.raise_(device, severity="critical")
    place.tell()
    place.clear(device, severity="critical")
    place.tell(seconds=1)
    assert mailbox.take() == []
    mailbox.refuse = False
    for _ in range(6):
        place.tell(seconds=5)
    titles = [title for _, title in mailbox.take()]
    assert titles == ["[Critical] Device tampered with", "Cleared: Device tampered with"]


def test_who_was_never_told_of_a_raise_is_not_told_of_its_end(
    place: Town, mailbox: Mailbox
) -> None:
    place.contact("guard")
    first, second = place.device(), place.device()
    place.raise_(first)
    place.tell()
    place.raise_(second)  # waits for company
    place.tell(seconds=1)
    place.clear(second)
    place.tell(seconds=20)
    assert [title for _, title in mailbox.take()] == ["[Major] Device tampered with"]


def test_many_at_once_are_one_message_with_a_count(place: Town, mailbox: Mailbox) -> None:
    place.contact("guard")
    for number in range(30):
        place.raise_(place.device())
        if number == 0:
            place.tell()
    place.tell(seconds=1)
    place.tell(seconds=5)
    assert [title for _, title in mailbox.take()] == [
        "[Major] Device tampered with",
        "[Major] 29 alerts in C01",
    ]


def test_shelved_and_suppressed_are_not_told_until_they_come_back(
    place: Town, mailbox: Mailbox
) -> None:
    place.contact("guard")
    now = place.watch.now
    shelved, muted = place.device(), place.device()
    one, two = place.raise_(shelved), place.raise_(muted)
    place.move(one, Shelve(now, "manager", now + timedelta(hours=1), "noise"))
    place.move(two, Suppress(now, "gateway:gw-c01"))
    place.tell()
    place.tell(minutes=59)
    assert mailbox.take() == []
    place.move(one, Unshelve(place.watch.now, "design", "expired"))
    place.tell(seconds=10)
    assert len(mailbox.take()) == 1
    place.move(two, Unsuppress(place.watch.now, "gateway:gw-c01"))
    place.tell(seconds=10)
    assert len(mailbox.take()) == 1


@pytest.mark.parametrize(
    "grave",
    [
        pytest.param({"severity": "critical"}, id="critical"),
        pytest.param({"severity": "minor", "life_safety": True}, id="life-safety"),
    ],
)
def test_preferences_mute_what_is_slight_and_never_what_is_grave(
    place: Town, mailbox: Mailbox, grave: dict[str, Any]
) -> None:
    place.contact("guard")
    place.prefer(
        "guard", min_severity="critical", quiet_from="00:00", quiet_to="23:59",
        digest=["critical", "major", "minor", "info"], channels={"critical": []},
    )  # fmt: skip
    place.raise_(place.device(), severity="major")
    place.tell()
    assert mailbox.take() == []
    place.raise_(place.device(), **grave)
    place.tell(seconds=10)
    assert len(mailbox.take()) == 1


def test_quiet_hours_and_digest_wait_for_the_morning(place: Town, mailbox: Mailbox) -> None:
    place.contact("guard")
    place.prefer("guard", quiet_from="22:00", quiet_to="07:00", digest=["minor"], digest_at="08:00")
    place.watch.go(hours=13)  # 23:00
    place.raise_(place.device(), severity="major")
    over = place.device()
    place.raise_(over, severity="minor")
    place.raise_(place.device(), severity="minor")
    place.tell()
    place.clear(over, severity="minor")
    place.tell(hours=7, minutes=59)  # 06:59
    assert mailbox.take() == []
    place.tell(minutes=1)
    assert [title for _, title in mailbox.take()] == ["1 alerts in C01"]
    place.tell(hours=1)
    assert [title for _, title in mailbox.take()] == ["1 alerts in C01"]


def test_duress_is_for_the_police_alone_and_its_words_give_nothing_away(
    place: Town, mailbox: Mailbox
) -> None:
    everybody(place)
    place.chain(
        "c01", severities=["critical"],
        steps=[{"recipients": [{"person": "guard"}, {"role": "property"}, {"role": "police"}]}],
    )  # fmt: skip
    place.raise_(place.device(), severity="critical", rule="alarm.duress", life_safety=True)
    place.tell()
    ((to, title, body),) = mailbox.mails
    assert to.startswith("liaison@")
    for word in ("uress", "alarm", "C01", "ritical"):
        assert word not in title + body


def test_a_step_that_has_nobody_to_tell_is_not_waited_for(place: Town, mailbox: Mailbox) -> None:
    place.contact("liaison")
    place.chain("c01", steps=FOUR_STEPS)
    place.raise_(place.device())
    place.tell()
    assert [who for who, _ in mailbox.take()] == ["liaison"]


def test_what_cannot_be_delivered_goes_on_to_the_next_step(place: Town, mailbox: Mailbox) -> None:
    place.contact("guard", "sms", "13800000000")  # no gateway for SMS is configured
    place.contact("manager")
    place.chain("c01", steps=FOUR_STEPS)
    alert = place.raise_(place.device())
    place.tell()
    assert [who for who, _ in mailbox.take()] == ["manager"]
    assert place.log()[0] == ("raised", "given_up", 1, "sms.not_configured")
    timeline = place.conn.execute(
        "SELECT action, reason, params FROM alert_history WHERE alert = %s ORDER BY id", (alert,)
    )
    assert timeline.fetchall()[1:] == [
        ("escalated", "undelivered", {"channel": "sms"}),
        ("escalated", "step", {"step": 2, "channels": 1}),
    ]


def test_a_failing_server_is_tried_again_later_and_later_and_given_up(
    place: Town, mailbox: Mailbox
) -> None:
    place.contact("guard")
    place.chain("c01", steps=[{"recipients": [{"person": "guard"}]}])
    mailbox.refuse = True
    place.raise_(place.device())
    place.tell()
    attempts = [place.log()[0][2]]
    for _ in range(40):
        place.tell(seconds=5)
        attempts.append(place.log()[0][2])
    assert attempts[0] == 1
    assert [n * 5 for n in range(1, 41) if attempts[n] > attempts[n - 1]] == [5, 15, 35, 75, 155]
    assert place.log()[0] == ("raised", "given_up", 6, "not_taken")


def test_what_commits_late_is_not_passed_over(place: Town, mailbox: Mailbox, town_dsn: str) -> None:
    place.contact("guard")
    slow, fast = place.device(), place.device()
    with psycopg.connect(town_dsn) as other:  # takes its numbers first, and commits last
        with other.transaction():
            decision = Raise(place.watch.now, "condition_met")
            # Of a rule that makes no case: two of one community's would wait for each other.
            place.change(slow, decision, "major", "device.fault", conn=other)
            place.raise_(fast, rule="device.fault")
            place.tell()
            assert len(mailbox.take()) == 1
    place.tell(seconds=10)
    assert len(mailbox.take()) == 1


def test_news_of_long_ago_are_not_told(place: Town, mailbox: Mailbox) -> None:
    place.contact("guard")
    place.raise_(place.device(), late=timedelta(hours=2))
    place.tell()
    assert mailbox.take() == []
    grave = place.device()
    place.raise_(grave, severity="critical", late=timedelta(hours=2))
    place.tell(seconds=10)
    ((_, title, body),) = mailbox.mails
    assert title == "[Critical] Device tampered with"
    assert "Told late" in body


def test_another_area_is_never_told(place: Town, mailbox: Mailbox) -> None:
    everybody(place)
    place.chain("city", steps=[{"recipients": [{"person": "other"}, {"person": "guard"}]}])
    place.raise_(place.device("c02"))
    place.tell()
    assert [who for who, _ in mailbox.take()] == ["other"]


def test_who_heard_that_it_is_over_hears_that_it_is_not(place: Town, mailbox: Mailbox) -> None:
    place.contact("liaison")
    device = place.device()
    place.raise_(device, severity="critical")
    place.tell()
    for step in (place.clear, place.raise_):
        step(device, severity="critical")
        place.tell(seconds=20)
    assert [title.partition(":")[0] for _, title in mailbox.take()] == [
        "[Critical] Device tampered with",
        "Cleared",
        "[Critical] Device tampered with",
    ]


def test_what_is_wrong_with_one_alert_silences_no_other(
    place: Town, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    place.contact("guard")
    place.contact("other")
    place.conn.execute(
        "INSERT INTO notification_chain VALUES (%s, 'c01', '{}', %s, 'nobody')",
        (uuid7(), place.watch.now),
    )
    place.raise_(place.device("c01-g01"))
    place.raise_(place.device("c02"))
    place.tell()
    assert [who for who, _ in mailbox.take()] == ["other"]
    assert "an alert cannot be told" in caplog.text


def test_a_rule_of_peoples_own_is_told_by_its_name(place: Town, mailbox: Mailbox) -> None:
    place.contact("manager")
    place.chain("c01", steps=[{"recipients": [{"person": "manager"}]}])
    place.conn.execute(
        """
        INSERT INTO rule_version
        VALUES ('custom.loud', 's01', 1, 2, '{"name": {"zh-CN": "吵闹", "en": "Loud"}}', 'x', 'x',
                now())
        """
    )
    place.raise_(place.device(), rule="custom.loud")
    place.tell()
    (title,) = mailbox.titles("manager")
    assert title.endswith("Loud")


def test_an_idle_second_reads_no_table_through(place: Town) -> None:
    with place.conn.transaction():
        place.conn.execute("SET LOCAL enable_seqscan = off")
        plan = "\n".join(
            line
            for (line,) in place.conn.execute(
                f"EXPLAIN {notifications.HAS_WORK}", {"now": place.watch.now}
            )
        )
    assert "Seq Scan" not in plan, plan
    for index in ("alert_history_untold", "escalation_due", "_waiting", "message_due"):
        assert index in plan, plan


def _becomes(place: Town, username: str, role: str, area: str) -> None:
    place.conn.execute(
        "UPDATE person SET role = %s, area = %s WHERE username = %s", (role, area, username)
    )


def test_who_moved_to_another_area_is_not_told_what_waited_for_them(
    place: Town, mailbox: Mailbox
) -> None:
    place.contact("manager")
    place.prefer("manager", digest=["major"], digest_at="18:00")
    place.raise_(place.device())
    place.tell()
    _becomes(place, "manager", "property", "c02")
    place.tell(hours=8)  # 18:00
    assert mailbox.take() == []
    assert place.log() == [("digest", "given_up", 0, "channel.out_of_sight")]


def test_who_answers_for_less_is_told_of_what_is_left(place: Town, mailbox: Mailbox) -> None:
    place.contact("manager")
    place.prefer("manager", digest=["major", "minor"], digest_at="18:00")
    place.raise_(place.device("c01"))
    left = place.device("c01-g01")
    place.raise_(left, severity="minor")
    place.tell()
    _becomes(place, "manager", "property", "c01-g01")
    mailbox.refuse = True
    place.tell(hours=8)  # 18:00
    mailbox.refuse = False
    place.tell(minutes=1)  # counted once, however often it is tried
    ((_, title, body),) = mailbox.mails
    assert title == "1 alerts in C01"
    assert (left in body, "Major" in body) == (True, False)


def test_who_is_no_officer_any_more_hears_nothing_of_duress(place: Town, mailbox: Mailbox) -> None:
    place.contact("liaison")
    device = place.device()
    mailbox.refuse = True
    place.raise_(device, severity="critical", rule="alarm.duress", life_safety=True)
    place.tell()
    _becomes(place, "liaison", "property", "c01")
    mailbox.refuse = False
    place.tell(minutes=1)
    assert mailbox.take() == []


def test_who_was_an_officer_does_not_hear_that_duress_is_over(
    place: Town, mailbox: Mailbox
) -> None:
    place.contact("liaison")
    device = place.device()
    place.raise_(device, severity="critical", rule="alarm.duress", life_safety=True)
    place.tell()
    assert len(mailbox.take()) == 1
    _becomes(place, "liaison", "property", "c01")
    place.clear(device, severity="critical", rule="alarm.duress")
    place.tell(minutes=1)
    assert mailbox.take() == []
