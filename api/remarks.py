# SPDX-License-Identifier: Apache-2.0
"""What people write about what they do: why, and what else there is to say."""

from typing import Annotated

from pydantic import StringConstraints

from ingest.incidents import NOTE_MAX, REASON_MAX

Reason = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=REASON_MAX, pattern=r"^[^\x00]*$"
    ),
]
Note = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=NOTE_MAX, pattern=r"^[^\x00]*$")
]
