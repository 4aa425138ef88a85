# SPDX-License-Identifier: Apache-2.0
"""A receiver's check, exactly as docs/notifications.md gives it to those who write one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/notifications.md"


def example(language: str, number: int = 0) -> str:
    """The document's ``number``-th block of code in a language."""
    blocks = DOCUMENT.read_text(encoding="utf-8").split(f"```{language}\n")[1:]
    return blocks[number].partition("```")[0]


def _load() -> Callable[[str, Mapping[str, str], bytes, int], bool]:
    names: dict[str, object] = {}
    exec(compile(example("python"), str(DOCUMENT), "exec"), names)
    return cast("Callable[[str, Mapping[str, str], bytes, int], bool]", names["verify"])


verify = _load()
