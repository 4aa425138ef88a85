# SPDX-License-Identifier: Apache-2.0
"""Alarm detectors as people see them: their condition; what they report comes as alerts."""

from api.kinds.base import Shown

SHOWN = Shown("alarm", {"armed": None, "battery_pct": "%"})
