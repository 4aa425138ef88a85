# SPDX-License-Identifier: Apache-2.0
"""What a person saw of windows, incidents and cases, and what of it does not hold any more."""


class Missing(LookupError):
    """There is no such thing within the person's sight; ``what`` names its kind."""

    def __init__(self, what: str) -> None:
        """Say what is missing."""
        super().__init__(what)
        self.what = what


class Stale(ValueError):
    """It changed since the person saw it; ``version`` is what it is by now."""

    def __init__(self, version: int) -> None:
        """Keep the present version."""
        super().__init__(f"version is {version}")
        self.version = version
