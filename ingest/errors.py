# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, named by what the caller must do next.

IngestError
├── Rejected            can never be stored: dead-letter the bytes, tell the gateway, acknowledge
├── Unavailable         cannot be stored now: do not acknowledge, back off with jitter, try again
└── OperatorError       someone must act: print its lines, end with its `exit_code`
    ├── ConfigError     a setting or an argument is wrong (2)
    ├── RegistryError   a registry file or a registry order is wrong; nothing was applied (2)
    ├── PkiError        a certificate, a key or an identity is wrong (2)
    └── SchemaError     the database is not what this code needs (3)
"""

from collections.abc import Sequence
from typing import ClassVar


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


class OperatorError(IngestError):
    """Someone must act. ``problems`` holds every one that was found, each a line for people."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        """Take one problem or all of them."""
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(OperatorError):
    """A setting or an argument is wrong."""


class RegistryError(OperatorError):
    """A registry file or a registry order is wrong; nothing of it was applied."""


class PkiError(OperatorError):
    """A certificate, a key or an identity is missing, unreadable or does not fit."""


class SchemaError(OperatorError):
    """The database is not what this code needs."""

    exit_code: ClassVar[int] = 3
