# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on the edge, named by what the caller must do next.

EdgeError
├── ConfigError              cannot start: correct what the text lists (exit status 2)
├── NotAccepted              the outbox took nothing of this call
│   ├── OutboxFull           a limit is reached, and nothing lesser is left to be evicted
│   ├── OutboxUnavailable    the disk or the file failed: the next call opens it anew, try again
│   │   └── DiskFull         somebody else fills the disk: free space, the next call tries again
│   └── PayloadTooLarge      will never fit: cut it smaller
└── ImpossibleAck            the server acknowledged what was never sent: ignore it, tell people
"""

from edge_agent.messages import Lane


class EdgeError(Exception):
    """Root of everything the agent raises on purpose."""


class ConfigError(EdgeError):
    """The agent cannot start like this; ``problems`` lists every place and what is expected."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class NotAccepted(EdgeError):
    """The outbox took nothing of this call, so nothing of it may be published."""


class OutboxFull(NotAccepted):
    """Nothing is left that may be evicted for it; ``lane`` says whose messages did not fit."""

    def __init__(self, lane: Lane, bytes_used: int, bytes_max: int) -> None:
        super().__init__(
            f"outbox full of what is never evicted for {lane}: {bytes_used} of {bytes_max} bytes; "
            "connect the gateway so that the server can store it, or raise outbox.limit_bytes"
        )
        self.lane: Lane = lane


class OutboxUnavailable(NotAccepted):
    """The disk or the file failed; the next call opens the outbox anew."""


class DiskFull(OutboxUnavailable):
    """The disk has no room left; what the outbox holds is as it was."""


class PayloadTooLarge(NotAccepted):
    """One message exceeds what the contract allows."""


class ImpossibleAck(EdgeError):
    """A watermark of an unknown stream, or of a seq that was never given out."""
