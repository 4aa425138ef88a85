# SPDX-License-Identifier: Apache-2.0
"""Access gates as people see them: the door, never who passed it."""

from api.kinds.base import Shown

SHOWN = Shown("gate", {"door": None, "lock": None})
