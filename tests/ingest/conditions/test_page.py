# SPDX-License-Identifier: Apache-2.0
"""`docs/rules.md`: every example fits, every condition has one, every mistake is explained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from ingest.conditions import check, compile_condition
from ingest.conditions.check import walk
from ingest.conditions.fields import KINDS
from tests.ingest.conditions.telling import CONDITIONS, at, event, reading

ROOT: Final = Path(__file__).resolve().parents[3]
PAGE: Final = (ROOT / "docs/rules.md").read_text(encoding="utf-8")
EXAMPLES: Final = re.findall(r"^```json (\w+)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
CODE: Final = re.compile(
    r'"((?:kind|condition|field|value|word|limit|schedule|event|cell|expression|state)\.[a-z_]+)"'
)


@pytest.mark.parametrize(("kind", "said"), EXAMPLES)
def test_an_example_fits(kind: str, said: str) -> None:
    example = CONDITIONS.validate_json(said)
    assert check(example, kind) == []
    compile_condition(example, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_can_be_asked_whatever_is_told(kind: str) -> None:
    """Each example, of each class: refused by name, or answered."""
    for _, said in EXAMPLES:
        example = CONDITIONS.validate_json(said)
        if check(example, kind):
            continue
        made = compile_condition(example, kind)
        assert kind in made.kinds or made.memory_of == "cell"
        memory = None
        for told in (
            reading(kind, 0),
            reading(kind, 1, fault="x"),
            event(kind, 2, "forced"),
            event("gate", 3, "forced"),
            event(kind, 1, "restored", phase="raised"),
            reading(kind, 4, lit=True)._replace(at=at(9_000), seen=at(4)),
            reading(kind, 9_001)._replace(states={"state": "offline", "gateway": "heard"}),
        ):
            answer = made.ask(told, memory)
            memory = answer.memory
            assert answer.until is None or answer.until > told.at


def test_every_condition_has_an_example() -> None:
    shown = {one.type for _, said in EXAMPLES for _, one in walk(CONDITIONS.validate_json(said))}
    known = CONDITIONS.json_schema()["discriminator"]["mapping"]
    assert shown == set(known)


def test_every_mistake_is_explained() -> None:
    codes = {
        code
        for path in (ROOT / "ingest/conditions").glob("*.py")
        for code in CODE.findall(path.read_text(encoding="utf-8"))
    }
    table = PAGE.partition("## What is refused")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([a-z]+\.[a-z_]+)`", table))
    assert codes == explained
