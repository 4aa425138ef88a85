# SPDX-License-Identifier: Apache-2.0
"""The bare contract at city rate, for measuring: many gateways in one process, on raw sockets.

Not agents: no outbox, no drivers. A message is a pure function of its gateway and its seq, cut from
a template that all gateways share, so nothing is kept of what is in flight and sending again needs
no memory. It goes out by the clock (an open loop), however slow the receiver is; only the window
that agents have too, messages sent and not yet covered by a watermark, holds it back. Latencies
count from the instant at which a message should have been sent. Each gateway also tells its status,
as often as an agent does, in a phase and between phases.

Run by `python -m simulators.load PLAN`: a JSON `Plan`; orders are JSON lines on standard input,
what happened is told in JSON lines on standard output.
"""

from __future__ import annotations

import gc
import json
import mmap
import select
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, TextIO

from simulators.crowd import SWEEP_S, Crowd, Gateway
from simulators.messages import gateway_of
from simulators.mqtt import LoadError
from simulators.orders import Order, Plan, Tally

_PIECE: Final = 64
_TELL_S: Final = 1.0
# By the clock: what is due within it goes out together, and what came is read together. A wake-up
# for each of 2,514 messages a second costs more than the message. Alarms and alerts do not wait.
_TOGETHER_S: Final = 0.005
_SWEEP_FLOW_S: Final = 0.002
# As agents do: a watermark that stands still so long, and what is in flight is sent again; twice as
# long after each time in vain.
_STALL_S: Final = 30.0
_PATIENCE_MAX: Final = 8


class Load(Crowd):
    """When all gateways of a plan say what they say."""

    def __init__(self, plan: Plan) -> None:
        """Connect everybody."""
        super().__init__(plan)
        self._stalled = deque[tuple[Gateway, int]]()

    def run(self, order: Order) -> dict[str, Any]:
        """Send for as long as ordered, wait for the last watermark, and say what it came to.

        Raises:
            LoadError: The broker closed a connection.
        """
        self._prepare(order)
        tally, begin = self._tally, self._begin
        cpu = time.process_time()
        if order.pace == "clock":
            self._by_clock(begin + order.seconds)
        else:
            self._by_flow(begin + order.seconds)
        sent_s = time.monotonic() - begin
        at_end = asdict(tally)
        drained = not order.counter and self.drain(order.drain_s)
        self._hear(0)
        return {
            "name": order.name,
            "begun": begin,
            "seconds": sent_s,
            "drain_seconds": time.monotonic() - begin - sent_s,
            "cpu_seconds": time.process_time() - cpu,
            "drained": drained,
            "at_end": {name: at_end[name] for name in ("stored", "stored_readings")},
            **asdict(tally),
        }

    def _prepare(self, order: Order) -> None:
        plan, made = self._plan, {one.number: self._made(one) for one in self._gateways}
        period_s = plan.period_s / order.speed
        batch = plan.batch if order.batch < 0 else order.batch
        # Where a second brings less than a reading, each goes by itself; and no device tells two
        # things at one instant.
        batch = min(batch or int(plan.devices < period_s), plan.devices)
        self._order = order
        self._readings_a_message = batch or plan.devices / period_s
        self._interval = batch * period_s / plan.devices if batch else 1.0
        self._sweep_s = SWEEP_S if order.pace == "clock" else _SWEEP_FLOW_S
        self._tally = Tally()
        self._held = 0
        for one in self._gateways:
            # What follows counts from here; what was sent before is all stored, or lost.
            one.base_cursor, one.base_seq, one.due = made[one.number], one.sent, 0
        self._stalled.clear()
        self._begin = time.monotonic()
        self._origin_us = self._wall_us + int(self._begin * 1e6)
        if order.pace == "flow":
            since_us = int(order.since * 1e6)
            self._origin_us = max(since_us, self._latest_us + int(self._interval * 1e6))

    def ledger(self) -> dict[str, Any]:
        """What was accepted so far, by gateway: last seq and readings."""
        return {
            gateway_of(one.number): [one.sent, self._made(one), one.stored, one.event_seq]
            for one in self._gateways
        }

    def _made(self, gateway: Gateway) -> int:
        return self._cursor(gateway, gateway.sent)

    def _by_clock(self, end: float) -> None:
        order = self._in_turn
        turn = place = 0
        due = self._begin + order[0].phase * self._interval
        events = self._every(self._order.events_per_s)
        probes = self._every(self._order.probes_per_s)
        event_due, probe_due, tell_due = next(events), next(probes), self._begin + _TELL_S
        while True:
            now = time.monotonic()
            # All that were due before the end, also where this process comes late to it.
            while event_due <= (now if self._held else min(now, end)):
                self._send_event(event_due)
                event_due = next(events)
            if now >= end and (not self._held or now >= end + self._order.catch_up_s):
                return
            sent = 0
            while due <= now and sent < _PIECE:
                gateway = order[place]
                if gateway.due or gateway.sent - gateway.stored >= self._order.window:
                    gateway.due += 1
                    self._held += 1
                else:
                    self._tally.lag_max_s = max(self._tally.lag_max_s, now - due)
                    self._send(gateway)
                sent += 1
                place += 1
                if place == len(order):
                    turn, place = turn + 1, 0
                due = self._begin + (turn + order[place].phase) * self._interval
            while probe_due <= now:
                self._probe(probe_due)
                probe_due = next(probes)
            self._send_statuses(now)
            if tell_due <= now:
                self._tell(now)
                self._find_stalled(now)
                tell_due += _TELL_S
            self._send_again()
            now = time.monotonic()
            together = due if due <= now else max(due, now + _TOGETHER_S)
            until = max(end, now + _TOGETHER_S)
            wait = min(together, event_due, probe_due, tell_due, until, now + SWEEP_S) - now
            self._hear(max(0.0, wait))

    def _by_flow(self, end: float) -> None:
        counter = _Counter(self._order.counter) if self._order.counter else None
        events = self._every(self._order.events_per_s)
        event_due, tell_due, place = next(events), self._begin + _TELL_S, 0
        before = 0 if counter is None else counter.value - self._tally.messages
        while True:
            now = time.monotonic()
            if now >= end:
                return
            if counter is not None:
                self._tally.stored = counter.value - before
                self._in_flight = self._tally.messages - self._tally.stored
            room = min(_PIECE, self._order.limit - self._in_flight)
            for _ in range(room):
                self._send(self._gateways[place])
                place = (place + 1) % len(self._gateways)
            while event_due <= now:
                self._send_event(event_due)
                event_due = next(events)
            self._send_statuses(now)
            if tell_due <= now:
                self._tell(now)
                if counter is None:
                    self._find_stalled(now)
                tell_due += _TELL_S
            self._send_again()
            self._hear(0.0 if room > 0 else 0.002)

    def drain(self, seconds: float) -> bool:
        """Wait until all that was due is sent and stored; return whether it came to that."""
        deadline = time.monotonic() + seconds
        tell_due = 0.0
        while True:
            now = time.monotonic()
            self._send_statuses(now)
            late = any(
                one.stored < one.sent or one.due or one.event_stored < one.event_seq
                for one in self._gateways
            )
            if not late or now > deadline:
                return not late
            if tell_due <= now:
                self._tell(now)
                self._find_stalled(now)
                tell_due = now + _TELL_S
            self._send_again()
            for _ in range(1 if self._stalled else 20):
                self._hear(0.01)

    def _find_stalled(self, now: float) -> None:
        """Note who has to send again what is in flight: watermarks stand still there."""
        for one in self._gateways:
            if one.stored < one.sent and now - one.moved_at > _STALL_S * one.patience:
                one.moved_at = now
                one.patience = min(2 * one.patience, _PATIENCE_MAX)
                first = max(one.stored, one.base_seq) + 1
                self._stalled += ((one, seq) for seq in range(first, one.sent + 1))

    def _send_again(self) -> None:
        """Send a piece of what has to be sent again: the broker dropped it.

        All gateways of a city at once would hold up for a second what each of them has to say.
        """
        for _ in range(min(_PIECE, len(self._stalled))):
            one, seq = self._stalled.popleft()
            if seq > one.stored:
                self._put(one.connection, self._telemetry(one, seq)[0])
                self._tally.resent += 1

    def replay(self, count: int) -> dict[str, Any]:
        """Send ``count`` messages of the last phase again, as fast as they go out.

        All of them are stored already: a receiver has nothing to do but to find that out.
        """
        begun, sent, readings, seq = time.monotonic(), 0, 0, 0
        while sent < count:
            seq += 1
            mine = [one for one in self._gateways if one.base_seq + seq <= one.stored]
            for one in mine[: count - sent]:
                message, held = self._telemetry(one, one.base_seq + seq)
                self._put(one.connection, message)
                readings += held
                sent += 1
                if sent % _PIECE == 0:
                    self._hear(0.0)
            if not mine:
                if seq == 1:
                    break  # there is nothing to be said again
                seq = 0
        return {"begun": begun, "messages": sent, "readings": readings}

    def rest(self, orders: TextIO) -> str:
        """Tell statuses and hear what comes until there is an order; return it, empty at the end.

        Whoever orders waits for the answer: nothing is left behind in a buffer.
        """
        self._ears.register(orders.fileno(), select.EPOLLIN)
        while not self._hear(SWEEP_S):
            self._send_statuses(time.monotonic())
        self._ears.unregister(orders.fileno())
        return orders.readline()

    def _every(self, rate: float) -> Iterator[float]:
        count = 0
        while rate:
            yield self._begin + (count + 0.5) / rate
            count += 1
        while True:
            yield float("inf")

    def _tell(self, now: float) -> None:
        tally = self._tally
        tell(
            {
                "phase": self._order.name,
                "t": now - self._begin,
                "now": now,
                "messages": tally.messages,
                "readings": tally.readings,
                "stored": tally.stored,
                "stored_readings": tally.stored_readings,
                "in_flight": self._in_flight,
                "held": self._held,
                "lag_max_s": tally.lag_max_s,
                "cpu": time.process_time(),
            }
        )


class _Counter:
    """A number in a file that another process writes: eight bytes, the machine's order."""

    def __init__(self, file: str) -> None:
        with Path(file).open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 8)

    @property
    def value(self) -> int:
        return int.from_bytes(self._map[:8], sys.byteorder)


def tell(line: Mapping[str, Any]) -> None:
    """Write one line of JSON to standard output, at once."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(file: str) -> None:
    """Connect, then obey the orders on standard input until it ends."""
    known = json.loads(Path(file).read_text())
    plan = Plan(**{one.name: known[one.name] for one in fields(Plan) if one.name in known})
    try:
        load = Load(plan)
        gc.freeze()
        tell({"ready": plan.communities})
        while line := load.rest(sys.stdin):
            asked = json.loads(line)
            match asked["name"]:
                case "ledger":
                    tell({"done": "ledger", "ledger": load.ledger()})
                case "drain":
                    tell({"done": "drain", "drained": load.drain(asked["seconds"])})
                case "replay":
                    tell({"done": "replay", "result": load.replay(asked["count"])})
                case name:
                    tell({"done": name, "result": load.run(Order(**asked))})
    except (LoadError, OSError) as error:
        tell({"error": str(error)})
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1])
