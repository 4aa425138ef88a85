# SPDX-License-Identifier: Apache-2.0
"""Every indicator is explained in both languages, and the page about them is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingest.domains import DOMAINS
from ingest.indicators import docs
from ingest.indicators.catalogue import INDICATORS, SOURCES
from ingest.indicators.definition import Definition

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("one", INDICATORS.values(), ids=lambda one: one.id)
def test_definition_is_complete(one: Definition) -> None:
    for text in (one.name, one.formula):
        assert set(text) == {"zh-CN", "en"}
        assert all(text.values())
    assert one.domain in DOMAINS
    assert one in DOMAINS[one.domain].indicators
    if one.target is not None:
        assert set(SOURCES[one.target.source]) == {"zh-CN", "en"}
        assert one.shape in {"share", "rate"}


def test_page_is_current() -> None:
    assert (ROOT / docs.FILE).read_text(encoding="utf-8") == docs.render(), (
        "run `python -m ingest.indicators.docs`"
    )
