# SPDX-License-Identifier: Apache-2.0
"""All indicators there are, in the order in which people read them."""

from collections.abc import Mapping
from typing import Final

from ingest.indicators import access, equipment, lighting_nights, refuse, repairs, security
from ingest.indicators.definition import Definition

INDICATORS: Final[Mapping[str, Definition]] = {
    definition.id: definition
    for module in (lighting_nights, equipment, repairs, refuse, access, security)
    for definition in module.INDICATORS
}
# Told by single times, or by alerts as they stand now: sums of days do not give them.
SINGLE: Final = frozenset({repairs.IN_TIME}) | {
    one.id for one in INDICATORS.values() if one.shape == "times"
}
# Where the targets are written (docs/indicators.md).
SOURCES: Final[Mapping[str, Mapping[str, str]]] = {
    "R0": {
        "zh-CN": "某小城市（16 个社区）社区建设五年规划（至 2015 年）",
        "en": "Five-year plan to 2015 of a small city with 16 communities",
    },
    "R1": {
        "zh-CN": "北京市社区建设规划（2006–2010 年，2,514 个社区）",
        "en": "Plan of Beijing for its 2,514 communities, 2006-2010",
    },
}
