# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, named by what must be done next.

ApiError
├── Problem            answer it to the client as ``application/problem+json``
└── OperatorError      someone must act: print its lines, end with its `exit_code`
    ├── ConfigError    a setting is wrong or a file is missing (2)
    ├── CommandError   a command's argument does not fit what is stored (2)
    └── SchemaError    the database is not what this code needs (3)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


class ApiError(Exception):
    """Root of everything the api raises on purpose."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing that is wrong with a request.

    ``pointer`` says where: ``/query/limit``, ``/body/note``. ``bounds`` are what would be allowed.
    ``texts`` are what people read, in zh-CN and en; None: what `problems` says of the code.
    """

    pointer: str
    code: str
    bounds: Mapping[str, object] = field(default_factory=dict[str, object])
    texts: tuple[str, str] | None = None


class Problem(ApiError):
    """What the client is told: a stable ``code`` (`problems.KINDS` gives status and title)."""

    def __init__(
        self,
        code: str,
        *,
        errors: Sequence[FieldError] = (),
        detail: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Keep what the answer is made of; ``extra`` are members beside the standard ones."""
        super().__init__(code)
        self.code = code
        self.errors = tuple(errors)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


class OperatorError(ApiError):
    """Someone must act. ``problems`` holds every one that was found, each a line for people."""

    exit_code: ClassVar[int] = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        """Take one problem or all of them."""
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigError(OperatorError):
    """A setting is wrong, or a file it names is missing."""


class CommandError(OperatorError):
    """A command's argument does not fit what is stored."""


class SchemaError(OperatorError):
    """The database is not what this code needs."""

    exit_code: ClassVar[int] = 3
