# SPDX-License-Identifier: Apache-2.0
"""What devices and the registry can say has a name in both languages: nobody reads a code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, get_args

import pytest

from edge_agent.messages import REASONS, Lane
from ingest.conditions.fields import KINDS, STATES, fields_of
from ingest.indicators.repairs import DEFAULT_CLASSES
from ingest.registry_tables import LEVELS, LIVES

FOLDER: Final = Path(__file__).resolve().parents[2] / "ingest/locales"
TRUTHS: Final = ("true", "false")


@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_every_field_and_every_word_has_a_name(language: str) -> None:
    names = json.loads((FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    needed = {f"level.{level}" for level in LEVELS} | {f"life.{life}" for life in LIVES}
    needed |= {f"value.fault.{code}" for code in DEFAULT_CLASSES}
    for kind in KINDS:
        fields = fields_of(kind)
        for told in (fields.readings, fields.events, STATES):
            for name, type_ in told.items():
                needed.add(f"field.{name}")
                words = TRUTHS if type_.is_a == "truth" else type_.words
                needed |= {f"value.{name}.{word}" for word in words}
    # What an alert says of messages: why they were refused, on which lane they are missing.
    needed |= {f"value.reason.{reason}" for reason in REASONS}
    needed |= {f"value.lane.{lane}" for lane in (*get_args(Lane), "aggregate")}
    assert not needed - names.keys()
