# SPDX-License-Identifier: Apache-2.0
"""When refusals are more than a slip: a device, or a gateway, that turned bad. Pure."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

SubjectT = TypeVar("SubjectT")


@dataclass(slots=True)
class Refusals(Generic[SubjectT]):
    """Counts refusals by subject, in receipt time."""

    limit: int = 5
    within: timedelta = timedelta(minutes=1)
    calm_after: timedelta = timedelta(minutes=10)
    _recent: dict[SubjectT, deque[datetime]] = field(
        default_factory=dict[SubjectT, deque[datetime]]
    )
    _bad: dict[SubjectT, datetime] = field(default_factory=dict[SubjectT, datetime])

    def restore(self, subjects: Iterable[SubjectT], now: datetime) -> None:
        """Take up those that were bad before a restart."""
        self._bad = dict.fromkeys(subjects, now)

    def note(self, subject: SubjectT, now: datetime) -> bool:
        """Note one refusal; return whether the subject turns bad with it."""
        recent = self._recent.setdefault(subject, deque(maxlen=self.limit))
        recent.append(now)
        if subject in self._bad:
            self._bad[subject] = now
            return False
        if len(recent) < self.limit or now - recent[0] > self.within:
            return False
        self._bad[subject] = now
        return True

    def take_back(self, subjects: Iterable[SubjectT]) -> None:
        """Let these turn bad with their next refusal: that they did was not stored."""
        for subject in subjects:
            self._bad.pop(subject, None)

    def calmed(self, now: datetime) -> list[SubjectT]:
        """Return, once, the subjects of which nothing was refused for long enough."""
        calm = [one for one, last in self._bad.items() if now - last > self.calm_after]
        for subject in calm:
            del self._bad[subject]
        for subject in [one for one, seen in self._recent.items() if now - seen[-1] > self.within]:
            del self._recent[subject]
        return calm
