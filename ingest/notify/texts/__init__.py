# SPDX-License-Identifier: Apache-2.0
"""What a message says to a person, in their language."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal, cast
from zoneinfo import ZoneInfo

Language = Literal["zh-CN", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("zh-CN", "en")


@dataclass(frozen=True, slots=True)
class Text:
    """A title, which a locked screen shows, and what follows it."""

    title: str
    body: str


@cache
def sentences(language: Language) -> Mapping[str, str]:
    """Return all sentences of a language."""
    text = files(__name__).joinpath(f"{language}.toml").read_text(encoding="utf-8")
    return cast("dict[str, str]", tomllib.loads(text))


@cache
def _names(language: Language) -> Mapping[str, str]:
    text = files("ingest").joinpath("locales", f"{language}.json").read_text(encoding="utf-8")
    return cast("dict[str, str]", json.loads(text))


def text(kind: str, content: Mapping[str, Any], language: Language) -> Text:
    """Return what a person reads of a message.

    Args:
        kind: ``raised``, ``repeated``, ``cleared``, ``digest`` or ``test``.
        content: What the message holds, as `ingest.notify.outbox` made it. Any: it is JSON.
        language: The person's.
    """
    say = sentences(language)
    if kind == "test":
        return Text(say["test_title"], say["test_body"].format(username=content["username"]))
    alerts: list[dict[str, Any]] = content["alerts"]
    if any(alert["confidential"] for alert in alerts):
        # Whoever stands beside the screen may be the one it is about.
        return Text(say["urgent_title"], say["urgent_body"])
    count: int = content["count"]
    facts = [_facts(alert, language) for alert in alerts]
    if count == 1 and kind != "digest":
        body = [say[f"{kind}_body"].format(**facts[0])]
        if alerts[0]["repeats"] and kind != "cleared":
            body.append(say["repeats"].format(**facts[0]))
        if not alerts[0]["active"] and kind != "cleared":
            # To be acknowledged all the same; nobody will be told of its end a second time.
            body.append(say["over"].format(**facts[0]))
        if alerts[0]["late"]:
            body.append(say["late"])
        return Text(say[f"{kind}_title"].format(**facts[0]), "\n".join(body))
    lines = [say["line"].format(**fact) for fact in facts]
    if count > len(lines):
        lines.append(say["more"].format(more=count - len(lines)))
    title = say["digest_title" if kind == "digest" else f"{kind}_many_title"]
    area = _named(content["community"], language)
    worst = _names(language)[f"severity.{content['severity']}"]
    return Text(title.format(count=count, area=area, severity=worst), "\n".join(lines))


def _facts(alert: Mapping[str, Any], language: Language) -> dict[str, object]:
    names = _names(language)
    zone = ZoneInfo(alert["time_zone"])
    return {
        "severity": names[f"severity.{alert['severity']}"],
        "rule": _rule(alert, language),
        "name": _named(alert["subject"], language),
        "area": _named(alert["area"], language),
        "time": _local(alert["raised_at"], zone),
        "cleared": _local(alert["cleared_at"], zone),
        "repeats": alert["repeats"],
    }


def _rule(alert: Mapping[str, Any], language: Language) -> str:
    if alert["rule_name"] is not None:
        return alert["rule_name"][language]
    names = _names(language)
    unknown = names["rule.unknown.title"].replace("{{rule}}", alert["rule"])
    return names.get(f"rule.{alert['rule']}.title", unknown)


def _named(thing: Mapping[str, str | None], language: Language) -> str:
    own = thing["name_en"] if language == "en" else None
    return own or thing["name"] or thing["id"] or ""


def _local(instant: str | None, zone: ZoneInfo) -> str:
    if instant is None:
        return ""
    return datetime.fromisoformat(instant).astimezone(zone).strftime("%Y-%m-%d %H:%M")
