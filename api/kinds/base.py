# SPDX-License-Identifier: Apache-2.0
"""What the api has to know of a device class: which fields of its readings people see."""

from collections.abc import Mapping
from dataclasses import dataclass

from api.answers import Scalar


@dataclass(frozen=True, slots=True)
class Shown:
    """One device class as people see it.

    ``fields`` are columns of its hypertable ``reading_<kind>`` with their unit (None: no unit),
    in the order of importance.
    """

    kind: str
    fields: Mapping[str, str | None]

    def values(self, reading: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """Return what a reading says in the fields that people see."""
        return {name: reading[name] for name in self.fields if reading.get(name) is not None}
