# SPDX-License-Identifier: Apache-2.0
"""What people read, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from ingest.notify.messengers import describe, plain
from ingest.notify.texts import Language, text


def alert(**changes: Any) -> dict[str, Any]:
    return {
        "rule": "alarm.smoke",
        "rule_name": None,
        "severity": "critical",
        "active": True,
        "raised_at": "2026-11-23T02:00:00+00:00",
        "cleared_at": "2026-11-23T02:05:00+00:00",
        "repeats": 0,
        "late": False,
        "confidential": False,
        "subject": {"id": "c01-alarm-001", "name": "3 号楼烟感", "name_en": None},
        "area": {"id": "c01", "name": "梧桐苑", "name_en": "Wutong Court"},
        "time_zone": "Asia/Shanghai",
        **changes,
    }


def content(*alerts: dict[str, Any], count: int | None = None) -> dict[str, Any]:
    return {
        "community": {"id": "c01", "name": "梧桐苑", "name_en": "Wutong Court"},
        "severity": "critical",
        "count": count or len(alerts),
        "alerts": list(alerts),
    }


@pytest.mark.parametrize(
    ("kind", "language", "title", "body"),
    [
        pytest.param(
            "raised", "zh-CN", "【紧急】烟雾报警", "梧桐苑，3 号楼烟感。发生于 2026-11-23 10:00。",
            id="raised-zh",
        ),
        pytest.param(
            "raised", "en", "[Critical] Smoke alarm",
            "3 号楼烟感, Wutong Court. Raised 2026-11-23 10:00.", id="raised-en",
        ),
        pytest.param(
            "cleared", "zh-CN", "已恢复：烟雾报警",
            "梧桐苑，3 号楼烟感。恢复于 2026-11-23 10:05，发生于 2026-11-23 10:00。",
            id="cleared-zh",
        ),
    ],
)  # fmt: skip
def test_one_alert_reads_like_this(kind: str, language: Language, title: str, body: str) -> None:
    said = text(kind, content(alert()), language)
    assert (said.title, said.body) == (title, body)


def test_what_is_over_and_not_acknowledged_says_so() -> None:
    said = text("repeated", content(alert(active=False)), "en")
    assert said.title == "[Critical] Still not acknowledged: Smoke alarm"
    assert said.body.endswith("It ended 2026-11-23 10:05.")


def test_many_are_counted_and_the_first_are_named() -> None:
    said = text("raised", content(alert(), alert(rule="x.own"), count=30), "en")
    assert said.title == "[Critical] 30 alerts in Wutong Court"
    lines = said.body.split("\n")
    assert len(lines) == 3
    assert "x.own" in lines[1]
    assert lines[2] == "and 28 more"


@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_what_is_confidential_is_not_even_hinted_at(language: Language) -> None:
    said = text("raised", content(alert(), alert(confidential=True)), language)
    for word in ("烟", "梧桐", "Smoke", "Wutong", "胁迫", "uress"):
        assert word not in said.title + said.body


def test_a_name_cannot_steer_what_shows_it() -> None:
    assert plain("a\x1b[2J\r\nb\u2028c") == "a [2J \nb c"


@pytest.mark.parametrize(
    ("kind", "address", "shown"),
    [
        pytest.param("email", "wang@example.org", "w…@example.org", id="email"),
        pytest.param("sms", "+8613800138000", "…8000", id="sms"),
        pytest.param("url", "dingtalk://secret@token", "dingtalk://…", id="messenger"),
        pytest.param(
            "webhook", "https://h.example.org/s?t=1", "https://h.example.org/…", id="hook"
        ),
    ],
)
def test_an_address_is_shown_in_part(kind: str, address: str, shown: str) -> None:
    assert describe(kind, address) == shown


@pytest.mark.parametrize(
    ("language", "title"), [("zh-CN", "【紧急】半满"), ("en", "[Critical] Half full")]
)
def test_a_rule_of_peoples_own_is_called_what_they_call_it(language: Language, title: str) -> None:
    named = alert(rule="custom.half", rule_name={"zh-CN": "半满", "en": "Half full"})
    assert text("raised", content(named), language).title == title
