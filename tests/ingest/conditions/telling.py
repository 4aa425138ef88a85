# SPDX-License-Identifier: Apache-2.0
"""What devices tell, written short, and asking a condition in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from ingest.conditions import Answer, Compiled, Condition, Memory, Told, compile_condition
from ingest.indicators.lighting import Place

# 02:00 in Chengdu, a Saturday; the sun rises there at 07:30 or so.
START = datetime(2026, 11, 20, 18, tzinfo=UTC)
CHENGDU = Place(30.6, 104.0, "Asia/Shanghai")
CONDITIONS: TypeAdapter[Condition] = TypeAdapter(Condition)


def condition(said: Mapping[str, Any]) -> Condition:
    return CONDITIONS.validate_python(said)


def compiled(kind: str, said: Mapping[str, Any]) -> Compiled:
    return compile_condition(condition(said), kind)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def reading(kind: str, seconds: float, **values: Any) -> Told:
    lit = values.get("lit") if kind == "lamp" else None
    return Told(f"{kind}-1", kind, "cell-1", CHENGDU, at(seconds), values, lit=lit)


def event(kind: str, seconds: float, name: str, **values: Any) -> Told:
    said = {"event": name, **values}
    return Told(f"{kind}-1", kind, "cell-1", CHENGDU, at(seconds), event=said)


class Asking:
    """A condition with its memory, which goes through JSON each time, as through a table."""

    def __init__(self, kind: str, said: Mapping[str, Any]) -> None:
        self.compiled = compiled(kind, said)
        self.memory: Memory | None = None
        self.told: Told | None = None

    def answer(self, told: Told) -> Answer:
        stored = json.loads(json.dumps(self.memory))
        answer = self.compiled.ask(told, stored)
        assert answer == self.compiled.ask(told, stored), "pure"
        if answer.memory == self.memory:
            assert answer.memory is stored, "unchanged memory is the same object"
        self.memory, self.told = answer.memory, told
        return answer

    def ask(self, told: Told) -> bool | None:
        return self.answer(told).holds

    def wait(self, seconds: float) -> bool | None:
        """Nothing is told, but time goes on to then."""
        assert self.told is not None
        seen = self.told.seen or self.told.at
        return self.ask(self.told._replace(at=at(seconds), event=None, seen=seen))
