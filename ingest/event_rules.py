# SPDX-License-Identifier: Apache-2.0
"""What events say to the rules that listen to them: the product's own, and people's."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from edge_agent.kinds import Event
from ingest.conditions.fields import DURESS
from ingest.custom_rules import Custom
from ingest.kinds import KINDS
from ingest.rule_engine import Engine, Seen
from ingest.rule_memory import subject_of
from ingest.store.devices import Device, State

_NOTHING: Final[Mapping[str, Any]] = {}
#: A device's latest state, by device id; asked where a rule needs it.
Latest = Callable[[int], State | None]


def tell(
    engine: Engine, device: Device, event: Event, received_at: datetime, latest: Latest
) -> None:
    """Let one event of a device speak to all rules that listen to events."""
    tell_built_in(engine, device, event, received_at)
    if event.event == DURESS:
        # What is given under threat speaks to its own rule alone: the alert of another, which
        # more people see, would give it away.
        return
    told = event.model_dump(exclude={"kind", "device", "at"}, exclude_none=True)
    for one in engine.custom.of(device.area, device.kind):
        heard = None
        if one.asks.listens == "both":
            # With the readings of now nothing can be asked as of then.
            heard = latest(device.id)
        else:
            for at in engine.take_overdue(one, device, event.at):
                engine.ask(one, device, Seen(at, {}, told_at=at), received_at)
        values = _NOTHING if heard is None else heard.reading
        engine.ask(one, device, Seen(event.at, values, told, heard=heard), received_at)


def tell_built_in(engine: Engine, device: Device, event: Event, received_at: datetime) -> None:
    """Let an event speak to the product's own rules alone."""
    rules, kind = engine.rules.at(device.area), KINDS[device.kind]
    if kind.event_conditions is None:
        return
    for condition in kind.event_conditions(event):
        rule = rules.get(condition.rule)
        if rule is not None:
            engine.advance(
                rule,
                subject_of(device),
                condition.holds,
                Seen(event.at, {}),
                received_at,
                key=condition.key,
                params=condition.params,
                ended=condition.ended,
            )


def ask_due(
    engine: Engine, device: Device, one: Custom, at: datetime, now: datetime, latest: Latest
) -> None:
    """Ask one of people's own rules on events again, now that its time has come.

    Args:
        engine: That of the event lane.
        device: Whose.
        one: The rule.
        at: As of when.
        now: When that is.
        latest: The device's latest state.
    """
    heard = latest(device.id) if one.asks.listens == "both" else None
    values = _NOTHING if heard is None else heard.reading
    engine.ask(one, device, Seen(at, values, told_at=at, heard=heard), now)
