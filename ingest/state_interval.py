# SPDX-License-Identifier: Apache-2.0
"""How far latest states in the table may be behind: which may wait, and until when.

What waits is so narrow that a restart finds it from the newest reading alone (decision 0012).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from ingest.kinds import KINDS
from ingest.store.devices import Device, State

# What a reading says otherwise than by numbers: a change of it is written at once.
_WORDS: Final = {
    kind: tuple(
        name
        for name, type_ in zip(its.readings.columns, its.readings.types, strict=True)
        if type_ in {"bool", "text"}
    )
    for kind, its in KINDS.items()
}
# The golden ratio: multiples of it, but for their whole part, fall far apart.
_SPREAD: Final = (1 + 5**0.5) / 2


class StateInterval:
    """Which states wait, so that those that say nothing new are written once an interval.

    States before ``since`` do not; None: none do.
    """

    def __init__(self) -> None:
        """Start with every state written at once."""
        self.since: datetime | None = None
        self._interval = timedelta()
        self._at_once: Mapping[str, Sequence[str]] = _WORDS

    def hold_back(self, interval: timedelta, since: datetime | None) -> None:
        """Have states since an instant wait for as long as this, from now on."""
        self._interval, self.since = interval, since

    def follow(self, looked_at: Mapping[str, frozenset[str]]) -> None:
        """Have changes written at once of what rules look at in the table: fields, by class."""
        self._at_once = {kind: (*words, *looked_at.get(kind, ())) for kind, words in _WORDS.items()}

    def write_by(self, device_id: int, before: State) -> datetime | None:
        """Return from when on a reading is written whatever it says; None: at once."""
        since, stored_at = self.since, before.stored_at or before.at
        if since is None or stored_at < since:
            return None
        if before.write_by is not None:
            return before.write_by
        # A part of the interval at first, each device another: what began together would be
        # written together for ever, a city's states all at once.
        return stored_at + self._interval * (1 - device_id * _SPREAD % 1)

    def after(self, at: datetime) -> datetime:
        """Return by when the next reading is written, where one was because it had waited."""
        return at + self._interval

    def may_wait(
        self,
        device: Device,
        before: State,
        at: datetime,
        shines: bool | None,
        values: Mapping[str, Any],
        *,
        is_news: bool,
    ) -> bool:
        """Return whether a reading says nothing that has to be in the table now.

        Args:
            device: Whose.
            before: Its state until now.
            at: The reading's instant.
            shines: What it says of light.
            values: Its fields that say something.
            is_news: Whether they are others than before.
        """
        if before.at >= at or shines is not before.lit:
            return False
        # Told by each reading, each while the one before held: then light that goes on is all there
        # is from the state in the table to the latest one.
        if shines is not None and (
            before.lit_at != before.at or at - before.at > device.max_silence
        ):
            return False
        if is_news:
            old = before.reading
            for name in self._at_once[device.kind]:
                if old.get(name) != values.get(name):
                    return False
        return True
