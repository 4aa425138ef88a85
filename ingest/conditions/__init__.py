# SPDX-License-Identifier: Apache-2.0
"""Conditions of rules: what a rule asks as data, checked before it is kept, pure when asked.

`models` says what can be asked, `check` what is wrong with it, `compile_condition` makes it ready.
"""

from ingest.conditions.check import Mistake, check
from ingest.conditions.compiled import Compiled, ConditionError, compile_condition
from ingest.conditions.models import Condition
from ingest.conditions.told import Answer, Memory, Told

__all__ = [
    "Answer", "Compiled", "Condition", "ConditionError", "Memory", "Mistake", "Told",
    "check", "compile_condition",
]  # fmt: skip
