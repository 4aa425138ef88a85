# SPDX-License-Identifier: Apache-2.0
"""What registry files must keep to is said in both languages, and with all that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter
from typing import Final

import pytest

from ingest.registry_rules import RULES

FOLDER: Final = Path(__file__).resolve().parents[2] / "ingest"
SAYING: Final = ("Expected", "UnexpectedError", "_Refused")
CJK: Final = re.compile("[\u2e80-\u9fff\uff00-\uffef]")


def named(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name is not None}


def said() -> Iterator[tuple[str, set[str] | None]]:
    """Yield the codes that the source says, with the names they are given; None: found at run time.

    Most mistakes are in files too odd to be tried one by one.
    """
    for file in FOLDER.glob("registry_*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Name(name), [ast.Constant(str(code))], given) if name in SAYING:
                    names = [keyword.arg for keyword in given]
                    yield code, None if None in names else {name for name in names if name}
                case _:
                    pass


@pytest.mark.parametrize("code", RULES)
def test_both_languages_say_the_same(code: str) -> None:
    chinese, english = RULES[code]
    assert named(chinese) == named(english)
    assert CJK.search(chinese)
    assert not CJK.search(english)


def test_what_is_said_exists_and_names_what_its_texts_need() -> None:
    codes = dict(said())
    assert len(codes) > 40
    for code, names in codes.items():
        assert code in RULES
        assert names is None or names == named(RULES[code][1]), code
