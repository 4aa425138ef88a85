# SPDX-License-Identifier: Apache-2.0
"""The state of a device, as people are shown it and as rules ask for it: pure.

`device_view` says the same in SQL, where lists are sorted and counted by it; a test holds both
against each other.
"""

from collections.abc import Mapping
from typing import Final, Literal

from edge_agent.messages import DeviceState

#: Whether anything is heard of the gateway that a device is behind.
GatewayState = Literal["heard", "silent"]
# The lives in which a device has a state that anybody acts on.
_LIVES: Final = frozenset({"in_service", "maintenance"})


def device_state(
    life: str, *, heard: bool, silent: bool, gateway_silent: bool, fault: str | None
) -> DeviceState:
    """Return a device's state; what comes first here goes before what comes later.

    Args:
        life: What the registry says of it. A window of maintenance is not that: it mutes alerts,
            and what goes on meanwhile is still seen.
        heard: Whether a reading ever came.
        silent: Whether ``device.silent`` found that none comes any more.
        gateway_silent: Whether nothing is heard of its gateway.
        fault: The fault code of its latest reading; None: in good condition.
    """
    if life == "maintenance":
        return "maintenance"
    if not heard:
        return "unknown"
    if silent or gateway_silent:
        return "offline"
    return "normal" if fault is None else "fault"


def states_of(
    life: str, *, heard: bool | None, silent: bool, gateway_silent: bool, fault: str | None
) -> Mapping[str, str]:
    """Return what rules can ask of a device even if it tells nothing; of one not in use, nothing.

    Args: as `device_state` has them; with ``heard`` None it is not known whether a reading ever
    came, and no state is told where that would make a difference.
    """
    if life not in _LIVES:
        return {}
    gateway: GatewayState = "silent" if gateway_silent else "heard"
    if heard is None and not silent and life != "maintenance":
        return {"gateway": gateway}
    state = device_state(
        life, heard=heard is not False, silent=silent, gateway_silent=gateway_silent, fault=fault
    )
    return {"state": state, "gateway": gateway}
