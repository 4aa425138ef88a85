# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, named by what the caller must do next.

IngestError
├── Rejected            can never be stored: dead-letter the bytes, tell the gateway, acknowledge
├── Unavailable         cannot be stored now: do not acknowledge, back off with jitter, try again
│   └── Busy            others held what it wanted: nothing was stored, all else is as it was
└── OperatorError       someone must act: print its lines, end with its `exit_code`
    ├── ConfigError     a setting or an argument is wrong (2)
    ├── RegistryError   a registry file or a registry order is wrong; nothing was applied (2)
    ├── PkiError        a certificate, a key or an identity is wrong (2)
    └── SchemaError     the database is not what this code needs (3)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ingest.registry_rules import Expected


class IngestError(Exception):
    """Root of everything ingest raises on purpose."""


class Rejected(IngestError):
    """Can never be stored; ``reason`` is a stable code, ``detail`` tells people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Keep the code apart from the text."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unavailable(IngestError):
    """Cannot be stored now; the same attempt may succeed later."""


class Busy(Unavailable):
    """Others held what it wanted: nothing was stored, and the connection is good."""


class OperatorError(IngestError):
    """Someone must act. ``problems`` holds every one that was found, each a line for people."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        """Take one problem or all of them."""
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(OperatorError):
    """A setting or an argument is wrong."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a registry file.

    Attributes:
        rule: What was expected.
        place: Where people look for it: ``devices.csv:17``, ``city.xlsx: device!D17``, or what is
            registered already and no longer fits.
        file: Its name; empty where it is not about a file.
        row: Its number, the header's is 1; None where it is not about a row.
        column: Its name in the header; empty where it is not about one.
        value: The cell as it stands there.
    """

    rule: Expected
    place: str = ""
    file: str = ""
    row: int | None = None
    column: str = ""
    value: str | None = None

    def __str__(self) -> str:
        value = "" if self.value is None else f"value {self.value!r}"
        return ": ".join(part for part in (self.place, self.column, value, str(self.rule)) if part)


class RegistryError(OperatorError):
    """A registry file or a registry order is wrong; nothing of it was applied.

    Attributes:
        mistakes: What is wrong in files, piece by piece; the problems say the same in lines.
    """

    def __init__(self, problems: str | Sequence[str], mistakes: Sequence[Mistake] = ()) -> None:
        """Take one problem or all of them."""
        super().__init__(problems)
        self.mistakes = tuple(mistakes)


class PkiError(OperatorError):
    """A certificate, a key or an identity is missing, unreadable or does not fit."""


class SchemaError(OperatorError):
    """The database is not what this code needs."""

    exit_code: ClassVar[int] = 3
