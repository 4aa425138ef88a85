# SPDX-License-Identifier: Apache-2.0
"""Thousands of inputs nobody thought of, for everything that reads what others wrote.

``LINLI_FUZZ_EXAMPLES`` sets how many are tried of each target, 2,000 otherwise. What fails is made
small and printed; hypothesis keeps it and tries it first the next time.
"""

from __future__ import annotations

import os
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.seeds import SEEDS, edit
from tests.fuzz.targets import TARGETS

EXAMPLES: Final = int(os.environ.get("LINLI_FUZZ_EXAMPLES", "2000"))


def inputs(name: str) -> SearchStrategy[bytes]:
    """Edited seeds, as one draw each, because drawing is what takes the time; and any bytes."""
    programs = st.binary(max_size=1 + 4 * 5)
    return programs.map(lambda program: edit(name, program)) | st.binary(max_size=64)


@pytest.mark.parametrize("name", TARGETS)
def test_any_input_is_judged(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(inputs(name))
    def judge(data: bytes) -> None:
        target(data)

    judge()


@pytest.mark.parametrize("name", TARGETS)
def test_seed_is_judged(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)
