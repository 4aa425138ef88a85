# SPDX-License-Identifier: Apache-2.0
"""What a person may see and do: a role, and the subtree of one area.

Every statement that reads for a person applies a `Scope` (invariant 9). What lies outside it does
not exist for that person: the answer is that of a missing thing.
"""

from dataclasses import dataclass
from typing import Final, Literal

from ingest.rules import DURESS, is_police_matter

Role = Literal["admin", "property", "police"]
ROLES: Final[tuple[Role, ...]] = ("admin", "property", "police")


@dataclass(frozen=True, slots=True)
class Scope:
    """One person's sight. ``path`` is the area's place in the tree, an ltree as text."""

    role: Role
    area: str
    path: str

    @property
    def hidden_rules(self) -> list[str]:
        """Rules whose alerts do not exist for this role."""
        return [DURESS] if self.role == "property" else []

    @property
    def sees_cases(self) -> bool:
        """Whether cases, duress and other, exist for this role."""
        return self.role != "property"

    def may_acknowledge(self, rule: str, kind: str) -> bool:
        """Whether this role may acknowledge, or put aside, alerts of ``rule`` on a device class."""
        return self.role != "property" or not is_police_matter(rule, kind)


def is_within(path: str, area_path: str) -> bool:
    """Whether ``path`` is ``area_path`` or below it; both are ltrees as text."""
    return path == area_path or path.startswith(f"{area_path}.")
