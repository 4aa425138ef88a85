# SPDX-License-Identifier: Apache-2.0
"""What the models of every device class are made of: one base model, ids, instants, texts.

Receivers tolerate the unknown (an extra field passes) and refuse the impossible: NaN and
infinities, naive times, ids that would break a topic, characters a database cannot hold.
"""

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

ID_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,63}$"
GATEWAY_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{2,39}$"
CODE_PATTERN: Final = r"^[a-z][a-z0-9_]{0,63}$"
# Between these years, both excluded: outside them a clock is broken (1970 is what one without a
# battery says), and arithmetic on the edges of the calendar (0001-01-01T00:00+05:00) overflows.
YEAR_MIN: Final = 1970
YEAR_MAX: Final = 2100

# What PostgreSQL refuses in text and jsonb.
UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


class Wire(BaseModel):
    """Base of everything on the wire: immutable, tolerant of extra fields, finite numbers only."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False, ser_json_inf_nan="constants"
    )


def _to_utc(value: datetime) -> datetime:
    if value.year <= YEAR_MIN:
        raise PydanticCustomError(
            "time_too_old", "Year should be later than {year}", {"year": YEAR_MIN}
        )
    if value.year >= YEAR_MAX:
        raise PydanticCustomError(
            "time_future", "Year should be earlier than {year}", {"year": YEAR_MAX}
        )
    return value.astimezone(UTC)


def _storable(value: str) -> str:
    if UNSTORABLE.search(value):
        raise PydanticCustomError(
            "text_invalid", "Text should contain neither U+0000 nor lone surrogates"
        )
    return value


# The lengths stand in the patterns too; told apart so that a refusal names what is wrong.
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN, max_length=64)]
GatewayId = Annotated[str, StringConstraints(pattern=GATEWAY_PATTERN, max_length=40)]
Code = Annotated[str, StringConstraints(pattern=CODE_PATTERN, max_length=64)]
Text = Annotated[str, StringConstraints(max_length=500), AfterValidator(_storable)]
# Strict: a bare JSON number is no instant, because nobody knows whether it means s or ms.
Instant = Annotated[AwareDatetime, Field(strict=True), AfterValidator(_to_utc)]
# Strict: "41" is a text and true is no number; 41 is accepted as 41.0.
Number = Annotated[float, Field(strict=True)]
Percent = Annotated[Number, Field(ge=0, le=100)]


class ReadingBase(Wire):
    """What every reading carries: which device, when the device saw it, and its fault code."""

    device: Id = Field(description="which device")
    at: Instant = Field(description="when the device saw it")
    fault: Code | None = Field(
        default=None, description="the device's own fault code; absent means in good condition"
    )


class EventBase(Wire):
    """What every event carries: which device, and when the device saw it."""

    device: Id = Field(description="which device")
    at: Instant = Field(description="when the device saw it")


def moved(previous: float | None, current: float | None, deadband: float) -> bool:
    """Whether a measured value appeared, went away, or moved by at least ``deadband``."""
    if previous is None or current is None:
        return previous is not current
    return abs(current - previous) >= deadband
