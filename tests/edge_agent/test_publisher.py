# SPDX-License-Identifier: Apache-2.0
"""Outbox to broker and back, against a real Mosquitto with client certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.services import HOST
from edge_agent import topics
from edge_agent.agent import Agent
from edge_agent.config import AgentConfig
from edge_agent.kinds.alarm import AlarmSignal
from edge_agent.link import explain
from edge_agent.messages import Command, Config, Rejection
from edge_agent.publisher import Publisher
from ingest.pki import create_authority, issue_client
from tests.edge_agent.rig import (
    T0,
    HandClock,
    Script,
    Server,
    config_for,
    eventually,
    lamp,
    noise,
    offline_config,
    running,
    server,
)
from tests.proxy import ProxyFactory
from tests.services import Broker


def agent_of(config: AgentConfig, *scripts: Script) -> tuple[Agent, HandClock]:
    clock = HandClock()
    return Agent(config, scripts, clock), clock


def measure(agent: Agent, script: Script, clock: HandClock, steps: int) -> None:
    """Accept one telemetry message a step: the lamp is switched each time."""
    for number in range(steps):
        script.next = [[lamp("lamp-1", clock.now(), lit=number % 2 == 0)]]
        agent.sample(clock.step(1))


@pytest.fixture
def script() -> Script:
    return Script("lamp-1")


async def stored(agent: Agent, ingest: Server) -> None:
    """Acknowledge everything, as the server does once it is stored."""
    await ingest.ack({one.stream: one.next - 1 for one in agent.outbox.streams()})
    await eventually(lambda: agent.outbox.depth() == 0, "outbox drained")


async def test_birth_comes_first_and_says_what_the_outbox_holds(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    agent, clock = agent_of(config_for(tmp_path, broker, "gw-birth"), script)
    measure(agent, script, clock, 3)
    async with server(broker, "gw-birth") as ingest, running(agent):
        await eventually(lambda: len(ingest.telemetry) == 3, "telemetry arrived")
        assert ingest.received[0][0] == "status"
        birth = ingest.statuses[0]
        assert (birth.state, birth.clock, birth.outbox_messages) == ("online", "synchronized", 3)
        assert birth.at == clock.now()
        assert birth.agent_version
        assert birth.status_interval_s == 10.0
        by_lane = {one.lane: one for one in birth.streams}
        assert (by_lane["telemetry"].oldest, by_lane["telemetry"].next) == (1, 4)
        assert (by_lane["event"].oldest, by_lane["event"].next) == (1, 1)
    agent.close()


async def test_messages_leave_the_outbox_by_watermark_alone(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    agent, clock = agent_of(config_for(tmp_path, broker, "gw-mark"), script)
    async with server(broker, "gw-mark") as ingest, running(agent):
        measure(agent, script, clock, 5)
        await eventually(lambda: len(ingest.telemetry) == 5, "telemetry arrived")
        assert agent.outbox.depth() == 5, "a PUBACK frees nothing"
        await ingest.ack({agent.outbox.lane("telemetry").stream: 3})
        await eventually(lambda: agent.outbox.depth() == 2, "discarded up to the watermark")
        assert agent.outbox.lane("telemetry").oldest == 4
        assert ingest.lane_seqs("telemetry") == [1, 2, 3, 4, 5]
    agent.close()


async def test_window_bounds_what_is_in_flight(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    config = config_for(tmp_path, broker, "gw-window", publishing={"window": 7})
    agent, clock = agent_of(config, script)
    measure(agent, script, clock, 20)
    stream = agent.outbox.lane("telemetry").stream
    async with server(broker, "gw-window") as ingest, running(agent):
        await eventually(lambda: len(ingest.telemetry) == 7, "a window full arrived")
        await ingest.ack({stream: 2})
        await eventually(lambda: len(ingest.telemetry) == 9, "two more arrived")
        assert ingest.lane_seqs("telemetry") == list(range(1, 10))
        await ingest.ack({stream: 9})
        await eventually(lambda: len(ingest.telemetry) == 16, "the next window arrived")
        await ingest.ack({stream: 16})
        await eventually(lambda: len(ingest.telemetry) == 20, "the rest arrived")
    agent.close()


async def test_events_overtake_a_telemetry_backlog(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    config = config_for(tmp_path, broker, "gw-lanes", publishing={"window": 40})
    alarm = Script("alarm-1", "alarm")
    agent, clock = agent_of(config, script, alarm)
    measure(agent, script, clock, 200)
    alarm.next = [[AlarmSignal("alarm-1", clock.now(), "smoke", "raised")]]
    agent.sample(clock.step(1))
    async with server(broker, "gw-lanes") as ingest, running(agent):
        await eventually(lambda: ingest.events, "event arrived")
        order = [channel for channel, _ in ingest.received if channel != "status"]
        assert order[0] == "event"
    agent.close()


async def test_everything_held_is_sent_again_on_a_new_connection(
    broker: Broker, tmp_path: Path, script: Script, proxy: ProxyFactory
) -> None:
    link = proxy(broker.port)
    agent, clock = agent_of(config_for(tmp_path, broker, "gw-cut", port=link.port), script)
    async with server(broker, "gw-cut") as ingest, running(agent):
        measure(agent, script, clock, 4)
        await eventually(lambda: len(ingest.telemetry) == 4, "telemetry arrived")
        await ingest.ack({agent.outbox.lane("telemetry").stream: 1})
        await eventually(lambda: agent.outbox.depth() == 3, "discarded")
        assert link.cut() == 1
        await eventually(lambda: len(ingest.telemetry) == 7, "sent again")
        assert ingest.lane_seqs("telemetry") == [1, 2, 3, 4, 2, 3, 4]
        assert agent.publisher.counters.resent == 3
        payloads = [payload for channel, payload in ingest.received if channel == "telemetry"]
        assert payloads[1:4] == payloads[4:7], "immutable: the same bytes each time"
        await stored(agent, ingest)
    agent.close()


async def test_flight_without_watermark_is_sent_again(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    config = config_for(tmp_path, broker, "gw-stall", publishing={"resend_after_s": 0.2})
    agent, clock = agent_of(config, script)
    async with server(broker, "gw-stall") as ingest, running(agent):
        measure(agent, script, clock, 2)
        await eventually(lambda: len(ingest.telemetry) >= 6, "sent three times")
        assert Counter(ingest.lane_seqs("telemetry"))[1] >= 3
        await stored(agent, ingest)
        assert agent.publisher.counters.connected == 1
    agent.close()


async def test_stalled_watermark_is_told_once_and_its_end_too(
    broker: Broker, tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    publishing = {"resend_after_s": 0.2, "alarm_after_s": 1.0}
    config = config_for(tmp_path, broker, "gw-alarm", publishing=publishing)
    agent, clock = agent_of(config, script)
    caplog.set_level(logging.INFO)

    def told(text: str) -> int:
        return sum(text in record.message for record in caplog.records)

    async with server(broker, "gw-alarm") as ingest, running(agent):
        measure(agent, script, clock, 1)
        await eventually(lambda: told("published but not stored"), "the stall was told")
        seen = len(ingest.telemetry)
        await eventually(lambda: len(ingest.telemetry) > seen + 1, "sent again twice more")
        assert told("published but not stored") == 1
        await stored(agent, ingest)
        await eventually(lambda: told("stored again"), "its end was told")
    agent.close()


async def test_publish_refused_by_the_broker_is_counted_and_kept(
    broker: Broker, tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate of one gateway, the topics of another: PUBACK says "Not authorized"."""
    honest = config_for(tmp_path, broker, "gw-honest")
    other = broker.identity("gw-other")
    files = {"certificate": other.certificate, "key": other.key}
    config = honest.model_copy(update={"broker": honest.broker.model_copy(update=files)})
    agent, clock = agent_of(config, script)
    async with server(broker, "gw-honest") as ingest, running(agent):
        measure(agent, script, clock, 2)
        refused = agent.publisher.counters.refused
        await eventually(lambda: refused["Not authorized"] >= 3, "birth and telemetry refused")
        assert agent.outbox.depth() == 2
        assert not ingest.received
    assert sum("broker refuses" in record.message for record in caplog.records) == 1
    agent.close()


async def test_impossible_watermark_is_ignored_and_counted(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    agent, clock = agent_of(config_for(tmp_path, broker, "gw-impossible"), script)
    async with server(broker, "gw-impossible") as ingest, running(agent):
        measure(agent, script, clock, 2)
        await eventually(lambda: len(ingest.telemetry) == 2, "telemetry arrived")
        await ingest.ack({agent.outbox.lane("telemetry").stream: 3, "foreign": 1})
        await eventually(lambda: agent.publisher.counters.impossible == 2, "counted")
        assert agent.outbox.depth() == 2
        await stored(agent, ingest)
    agent.close()


async def test_rejected_message_goes_to_quarantine_and_does_not_loop(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    config = config_for(tmp_path, broker, "gw-reject", publishing={"resend_after_s": 0.2})
    agent, clock = agent_of(config, script)
    async with server(broker, "gw-reject") as ingest, running(agent):
        measure(agent, script, clock, 3)
        stream = agent.outbox.lane("telemetry").stream
        await eventually(lambda: len(ingest.telemetry) >= 3, "telemetry arrived")
        bad = Rejection(stream=stream, seq=2, reason="batch.empty")
        reading = Rejection(stream=stream, seq=3, index=0, reason="device.unknown")
        await ingest.ack({}, bad, reading)
        await eventually(lambda: agent.outbox.depth() == 2, "quarantined")
        assert agent.outbox.quarantine()[0][:3] == (stream, 2, "batch.empty")
        seen = Counter(ingest.lane_seqs("telemetry"))
        await eventually(
            lambda: Counter(ingest.lane_seqs("telemetry"))[3] >= seen[3] + 2, "others sent again"
        )
        assert Counter(ingest.lane_seqs("telemetry"))[2] <= seen[2] + 1
        assert agent.publisher.counters.rejected == {"batch.empty": 1, "device.unknown": 1}
        await stored(agent, ingest)
    agent.close()


@pytest.mark.parametrize(
    ("channel", "payload"),
    [
        pytest.param("ack", b"", id="empty"),
        pytest.param("ack", b"{", id="cut-short"),
        pytest.param("ack", b'{"v":2,"epoch":"e","streams":{}}', id="unknown-version"),
        pytest.param("ack", b'{"v":1,"epoch":"e","streams":{"s/#":1}}', id="stream-with-slash"),
        pytest.param("ack", b'{"v":1,"epoch":"e","streams":{"s":-1}}', id="negative"),
        pytest.param("ack", b'{"v":1,"epoch":"e","streams":{"s":"7"}}', id="text-for-number"),
        pytest.param("ack", b"[" * 10_000, id="nested-deep"),
        pytest.param("ack", b'{"v":1,"epoch":"' + b"e" * 131_072 + b'"}', id="too-large"),
        pytest.param("command", b'{"v":1,"command":"c-1"}', id="command-without-expiry"),
        pytest.param("config", b'{"v":1,"version":5,"heartbeat_s":0}', id="config-out-of-range"),
        pytest.param("config", b"\xff\xfe", id="not-utf-8"),
    ],
)
async def test_malformed_downlink_is_counted_and_changes_nothing(
    broker: Broker, tmp_path: Path, script: Script, channel: topics.DownChannel, payload: bytes
) -> None:
    agent, clock = agent_of(config_for(tmp_path, broker, "gw-malformed"), script)
    measure(agent, script, clock, 1)
    async with server(broker, "gw-malformed") as ingest, running(agent):
        await eventually(lambda: ingest.telemetry, "telemetry arrived")
        await ingest.send(channel, payload)
        await eventually(lambda: agent.publisher.counters.malformed == 1, "counted")
        assert agent.outbox.depth() == 1
        await stored(agent, ingest)
        assert agent.publisher.counters.connected == 1
        if channel in topics.RETAINED:
            await ingest.send(channel, b"")
    agent.close()


@pytest.mark.parametrize(
    ("age_s", "step", "reason"),
    [
        pytest.param(-10, "refused", "command.unsupported", id="in-time"),
        pytest.param(10, "expired", "command.expired", id="too-late"),
    ],
)
async def test_command_is_answered_and_never_executed(
    broker: Broker, tmp_path: Path, script: Script, age_s: float, step: str, reason: str
) -> None:
    # Of its own: a status that another test left at the broker is no sign that this one listens.
    gateway = f"gw-command-{step}"
    agent, clock = agent_of(config_for(tmp_path, broker, gateway), script)
    async with server(broker, gateway) as ingest, running(agent):
        await eventually(lambda: ingest.statuses, "connected")
        expires = clock.now() - timedelta(seconds=age_s)
        await ingest.command(
            Command(
                command="c-1",
                device="lamp-1",
                action="switch_on",
                issued_at=expires - timedelta(seconds=30),
                expires_at=expires,
            )
        )
        await eventually(lambda: ingest.results, "answered")
        result = ingest.results[0]
        assert (result.command, result.step, result.reason) == ("c-1", step, reason)
    agent.close()


async def test_configuration_is_applied_when_its_version_is_higher(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    patient = {"status_interval_s": 3_600.0}
    agent, _ = agent_of(config_for(tmp_path, broker, "gw-config", sampling=patient), script)
    async with server(broker, "gw-config") as ingest, running(agent):
        await eventually(lambda: ingest.statuses, "connected")
        await ingest.configure(Config(version=2, heartbeat_s=7, status_interval_s=1))
        await eventually(lambda: agent.sampler.heartbeat == timedelta(seconds=7), "applied")
        await eventually(lambda: ingest.statuses[-1].status_interval_s == 1, "told at once")
        await ingest.configure(Config(version=1, heartbeat_s=9))
        await ingest.configure(Config(version=3, status_interval_s=2))
        await eventually(lambda: ingest.statuses[-1].status_interval_s == 2, "the last one applied")
        assert agent.sampler.heartbeat == timedelta(seconds=7)
        await ingest.send("config", b"")
    agent.close()


async def test_status_is_repeated_as_heartbeat(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    config = config_for(tmp_path, broker, "gw-heart", sampling={"status_interval_s": 1.0})
    agent, clock = agent_of(config, script)
    async with server(broker, "gw-heart") as ingest, running(agent):
        await eventually(lambda: ingest.statuses, "born")
        measure(agent, script, clock, 1)
        await eventually(lambda: ingest.statuses[-1].outbox_messages == 1, "heard again")
        assert ingest.statuses[0].outbox_messages == 0
    agent.close()


async def test_clean_stop_says_offline_and_a_cut_leaves_it_to_the_will(
    broker: Broker, tmp_path: Path, script: Script, proxy: ProxyFactory
) -> None:
    link = proxy(broker.port)
    agent, _ = agent_of(config_for(tmp_path, broker, "gw-will", port=link.port), script)
    async with server(broker, "gw-will") as ingest:
        async with running(agent):
            await eventually(lambda: len(ingest.statuses) == 1, "born")
            link.cut()
            await eventually(lambda: len(ingest.statuses) >= 3, "died by will, born again")
            assert [(one.state, one.at is None) for one in ingest.statuses[:3]] == [
                ("online", False),
                ("offline", True),
                ("online", False),
            ]
        await eventually(lambda: len(ingest.statuses) == 4, "said goodbye")
        assert (ingest.statuses[3].state, ingest.statuses[3].at) == ("offline", T0)
    async with server(broker, "gw-will") as late:
        await eventually(lambda: late.statuses, "the last word is retained")
        assert late.statuses[0].state == "offline"
    agent.close()


async def test_stop_while_the_broker_is_out_of_reach_is_quick(
    broker: Broker, tmp_path: Path, script: Script, proxy: ProxyFactory
) -> None:
    link = proxy(broker.port)
    link.stall()
    agent, _ = agent_of(config_for(tmp_path, broker, "gw-stuck", port=link.port), script)
    async with running(agent):
        await eventually(lambda: link.accepted, "connecting")
        link.cut(refuse=True)
    agent.close()


@pytest.mark.parametrize(
    ("gateway", "nodes"),
    [
        pytest.param("gw-first", ("127.0.0.9", HOST), id="begins-with-the-first"),
        pytest.param("gw-other", (HOST, "127.0.0.9"), id="begins-with-the-second"),
    ],
)
async def test_next_node_is_tried(
    broker: Broker,
    tmp_path: Path,
    script: Script,
    caplog: pytest.LogCaptureFixture,
    gateway: str,
    nodes: tuple[str, str],
) -> None:
    """Gateways begin spread over the nodes, and one where nobody listens stops none of them."""
    config = config_for(tmp_path, broker, gateway, broker={"host": nodes[0], "hosts": nodes[1:]})
    agent, _ = agent_of(config, script)
    async with running(agent):
        await eventually(lambda: agent.publisher.counters.connected, "connected")
    assert f"out of reach gateway={gateway} broker=127.0.0.9:" in caplog.text
    agent.close()


async def test_refused_certificate_is_named(
    broker: Broker, tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = tmp_path / "foreign"
    create_authority(foreign)
    made = issue_client(foreign, "gw-foreign", out=foreign)
    honest = config_for(tmp_path, broker, "gw-foreign")
    files = {"certificate": made.certificate, "key": made.key}
    config = honest.model_copy(update={"broker": honest.broker.model_copy(update=files)})
    agent, _ = agent_of(config, script)
    async with running(agent):
        await eventually(lambda: "broker out of reach" in caplog.text, "told")
    assert "certificate" in caplog.text
    assert agent.publisher.counters.connected == 0
    agent.close()


async def test_untrusted_broker_is_named(
    broker: Broker, tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = tmp_path / "foreign"
    create_authority(foreign)
    honest = config_for(tmp_path, broker, "gw-wary")
    config = honest.model_copy(
        update={"broker": honest.broker.model_copy(update={"ca": foreign / "ca.crt"})}
    )
    agent, _ = agent_of(config, script)
    async with running(agent):
        await eventually(lambda: "broker out of reach" in caplog.text, "told")
    assert "does not fit broker.ca" in caplog.text
    agent.close()


async def test_repeated_failure_is_logged_once(
    broker: Broker,
    tmp_path: Path,
    script: Script,
    caplog: pytest.LogCaptureFixture,
    proxy: ProxyFactory,
) -> None:
    link = proxy(broker.port)
    link.cut(refuse=True)
    agent, _ = agent_of(config_for(tmp_path, broker, "gw-patient", port=link.port), script)
    caplog.set_level(logging.INFO)
    async with running(agent):
        await eventually(lambda: link.accepted >= 5, "tried several times")
        assert sum("out of reach" in record.message for record in caplog.records) <= 2
        link.heal()
        await eventually(lambda: agent.publisher.counters.connected, "connected")
    assert "connected gateway=gw-patient" in caplog.text
    agent.close()


async def test_renewed_certificate_is_used_by_the_next_connection(
    broker: Broker, tmp_path: Path, script: Script, proxy: ProxyFactory
) -> None:
    link = proxy(broker.port)
    own = tmp_path / "own"
    own.mkdir()
    config = config_for(tmp_path, broker, "gw-renew", port=link.port)
    files = {"certificate": own / "client.crt", "key": own / "client.key"}
    config = config.model_copy(update={"broker": config.broker.model_copy(update=files)})
    agent, _ = agent_of(config, script)
    async with running(agent):
        made = issue_client(broker.authority.folder, "gw-renew", out=own)
        made.key.rename(files["key"])
        made.certificate.rename(files["certificate"])
        await eventually(lambda: agent.publisher.counters.connected, "connected")
    agent.close()


async def test_box_with_a_copied_certificate_is_named(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two boxes throw each other out; both say why, and neither does so in a hurry."""
    one, _ = agent_of(config_for(tmp_path / "one", broker, "gw-twin"))
    two, _ = agent_of(config_for(tmp_path / "two", broker, "gw-twin"))
    async with running(one):
        await eventually(lambda: one.publisher.counters.connected, "the first is connected")
        async with running(two):
            await eventually(lambda: "is it in two boxes?" in caplog.text, "named")
    one.close()
    two.close()


async def test_clock_that_was_never_set_is_told_and_stamps_nothing(
    broker: Broker, tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_for(tmp_path, broker, "gw-1970", sampling={"poll_interval_s": 0.05})
    clock = HandClock(datetime(1970, 1, 1, tzinfo=UTC), "unsynchronized")
    agent = Agent(config, [script], clock)
    async with server(broker, "gw-1970") as ingest, running(agent, sample=True):
        await eventually(lambda: ingest.statuses, "born")
        assert (ingest.statuses[0].at, ingest.statuses[0].clock) == (None, "unsynchronized")
        await eventually(lambda: "the clock says 1970-01-01" in caplog.text, "told")
        expires = T0 + timedelta(days=3650)
        await ingest.command(
            Command(
                command="c-1", device="lamp-1", action="unlock", issued_at=T0, expires_at=expires
            )
        )
        await eventually(lambda: agent.publisher.counters.commands_refused, "command refused")
        assert not ingest.results
        clock.at = T0
        await eventually(lambda: ingest.telemetry, "measuring once the clock is set")
        assert ingest.telemetry[0].seq == 1
    agent.close()


@pytest.mark.parametrize("seed", range(20))
def test_pauses_are_jittered_between_their_limits(tmp_path: Path, seed: int) -> None:
    config = offline_config(tmp_path)
    agent, clock = agent_of(config)
    publisher = Publisher(
        config, agent.outbox, clock, on_config=lambda _: None, rng=random.Random(seed)
    )
    pauses = [publisher.pause_s(attempt) for attempt in range(1, 2_000)]
    assert all(1.0 <= pause <= 30.0 for pause in pauses)
    assert pauses[0] <= 2.0
    assert max(pauses) > 25.0
    assert len(set(pauses)) == len(pauses)
    agent.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("closed before CONNACK", "certificate refused?", id="tls-1.3-refusal"),
        pytest.param("[Errno 111] Connection refused", "is the broker running?", id="nobody-there"),
        pytest.param("[SSL: WRONG_VERSION_NUMBER] x", "right port?", id="no-tls"),
        pytest.param("something else", "something else", id="unknown"),
    ],
)
def test_failures_come_with_a_hint(text: str, expected: str) -> None:
    assert expected in explain(OSError(text))


async def test_agents_of_one_process_do_not_wait_for_each_other(
    broker: Broker, tmp_path: Path
) -> None:
    agents = [
        agent_of(config_for(tmp_path, broker, f"gw-many-{i}"), Script("lamp-1")) for i in range(4)
    ]
    async with contextlib.AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(server(broker, "gw-many-0"))]
        for agent, _ in agents:
            await stack.enter_async_context(running(agent))
        for agent, clock in agents:
            agent.sample(clock.now())
        await eventually(lambda: servers[0].telemetry, "telemetry arrived")
        await eventually(
            lambda: all(agent.publisher.counters.published for agent, _ in agents), "all published"
        )
        await asyncio.gather(*(stored(agent, servers[0]) for agent, _ in agents[:1]))
    for agent, _ in agents:
        agent.close()


async def test_stall_is_told_through_a_flapping_link(
    broker: Broker,
    tmp_path: Path,
    script: Script,
    proxy: ProxyFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = proxy(broker.port)
    config = config_for(
        tmp_path,
        broker,
        "gw-flap",
        port=link.port,
        publishing={"alarm_after_s": 2.5, "resend_after_s": 0.1},
    )
    agent, clock = agent_of(config, script)
    async with server(broker, "gw-flap") as ingest, running(agent):
        measure(agent, script, clock, 1)

        async def heard(count: int) -> None:
            await eventually(lambda: len(ingest.telemetry) >= count, "sent again and again")

        for _ in range(20):
            await heard(len(ingest.telemetry) + 3)  # takes much less than the alarm does
            if "published but not stored" in caplog.text:
                break
            link.cut()
        assert "published but not stored" in caplog.text
        assert agent.publisher.counters.connected > 1
        await stored(agent, ingest)
    agent.close()


# -- after an outage ------------------------------------------------------------------------------


def old_and_new(agent: Agent, script: Script, clock: HandClock, old: int, new: int) -> None:
    """Accept a backlog, then, two hours later, what is measured now."""
    measure(agent, script, clock, old)
    clock.step(7_200)
    measure(agent, script, clock, new)


async def test_live_goes_first_after_an_outage_and_everything_arrives_once(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    alarm = Script("alarm-1", "alarm")
    config = config_for(tmp_path, broker, "gw-outage", publishing={"backlog_messages_per_s": 400})
    agent, clock = agent_of(config, script, alarm)
    alarm.next = [[AlarmSignal("alarm-1", clock.now(), "smoke", "raised")]]
    old_and_new(agent, script, clock, old=300, new=6)
    async with server(broker, "gw-outage") as ingest, running(agent):
        ingest.stores = True
        await eventually(lambda: len(ingest.telemetry) >= 20, "some telemetry arrived")
        order = [channel for channel, _ in ingest.received if channel != "status"]
        assert order[0] == "event"
        assert ingest.lane_seqs("telemetry")[:6] == list(range(301, 307))
        measure(agent, script, clock, 1)
        await eventually(lambda: 307 in ingest.lane_seqs("telemetry"), "measured now, sent now")
        assert len(ingest.telemetry) < 307, "the backlog is not yet through"
        await eventually(lambda: agent.outbox.depth() == 0, "drained")
        seqs = ingest.lane_seqs("telemetry")
        assert sorted(seqs) == list(range(1, 308)), "each once"
        assert [seq for seq in seqs if seq <= 300] == list(range(1, 301)), "the backlog in order"
        assert agent.publisher.counters.backlog == 300
        assert agent.publisher.counters.resent == 0
        clock.step(60)
        measure(agent, script, clock, 3)
        await eventually(lambda: agent.outbox.depth() == 0, "one cursor again")
        assert ingest.lane_seqs("telemetry")[-3:] == [308, 309, 310]
    agent.close()


async def test_short_outage_is_made_up_for_in_order(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    agent, clock = agent_of(config_for(tmp_path, broker, "gw-short"), script)
    measure(agent, script, clock, 60)
    clock.step(600)
    measure(agent, script, clock, 3)
    async with server(broker, "gw-short") as ingest, running(agent):
        ingest.stores = True
        await eventually(lambda: agent.outbox.depth() == 0, "drained")
        assert ingest.lane_seqs("telemetry") == list(range(1, 64))
    agent.close()


async def test_live_beyond_the_watermark_is_not_sent_again_on_a_new_connection(
    broker: Broker, tmp_path: Path, script: Script, proxy: ProxyFactory
) -> None:
    link = proxy(broker.port)
    publishing = {"backlog_messages_per_s": 1}  # does not get through meanwhile
    config = config_for(tmp_path, broker, "gw-beyond", port=link.port, publishing=publishing)
    agent, clock = agent_of(config, script)
    old_and_new(agent, script, clock, old=100, new=8)
    stream = agent.outbox.lane("telemetry").stream
    async with server(broker, "gw-beyond") as ingest, running(agent):
        ingest.stores = True
        await eventually(lambda: ingest.seen[stream] >= set(range(101, 109)), "live is stored")
        await ingest.ack({"foreign": 1})
        await eventually(lambda: agent.publisher.counters.impossible, "the agent knows so far")
        assert link.cut()
        await eventually(lambda: agent.publisher.counters.connected == 2, "connected again")
        measure(agent, script, clock, 1)
        await eventually(lambda: 109 in ingest.lane_seqs("telemetry"), "live goes on")
        assert Counter(ingest.lane_seqs("telemetry"))[101] == 1
        assert agent.outbox.depth() >= 100, "nothing leaves but by the watermark"
    agent.close()


async def test_backlog_goes_on_where_the_server_tells_no_ranges(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    """Servers before ranges were told: live stops at its window until the backlog is through."""
    publishing = {"window": 5, "backlog_messages_per_s": 1_000}
    config = config_for(tmp_path, broker, "gw-plain", publishing=publishing)
    agent, clock = agent_of(config, script)
    old_and_new(agent, script, clock, old=40, new=20)
    stream = agent.outbox.lane("telemetry").stream
    async with server(broker, "gw-plain") as ingest, running(agent):
        seen: set[int] = set()
        while agent.outbox.depth():
            seen |= set(ingest.lane_seqs("telemetry"))
            upto = next(seq for seq in range(1, 62) if seq not in seen) - 1
            await ingest.ack({stream: upto})
            await asyncio.sleep(0.01)  # lets the agent and the broker work
        seqs = ingest.lane_seqs("telemetry")
        assert seqs[:5] == [41, 42, 43, 44, 45]
        assert sorted(seqs) == list(range(1, 61))
    agent.close()


async def test_evicted_messages_close_their_range_and_the_rest_drains(
    broker: Broker, tmp_path: Path
) -> None:
    config = config_for(
        tmp_path, broker, "gw-evict", outbox={"limit_bytes": 1024 * 1024},
        publishing={"backlog_messages_per_s": 1_000},
    )  # fmt: skip
    agent, clock = agent_of(config)
    while not agent.outbox.evicted["telemetry"]:
        agent.outbox.append([noise(100)])
    clock.step(7_200)
    evicted = agent.outbox.evicted["telemetry"]
    last = agent.outbox.lane("telemetry").next - 1
    async with server(broker, "gw-evict") as ingest, running(agent):
        ingest.stores = True
        await eventually(lambda: agent.outbox.depth() == 0, "drained")
        assert sorted(ingest.lane_seqs("telemetry")) == list(range(evicted + 1, last + 1))
    agent.close()


# -- a file found on the disk ---------------------------------------------------------------------


async def test_old_stream_is_published_only_after_the_server_named_it(
    broker: Broker, tmp_path: Path, script: Script
) -> None:
    config = config_for(tmp_path, broker, "gw-found", sampling={"status_interval_s": 1.0})
    agent, clock = agent_of(config, script)
    measure(agent, script, clock, 3)
    agent.close()
    again, clock = agent_of(config, script)
    async with server(broker, "gw-found") as ingest, running(again):
        ingest.answers = False
        await eventually(lambda: len(ingest.statuses) >= 2, "asked twice")
        assert not ingest.telemetry
        ingest.answers = True
        await eventually(lambda: len(ingest.telemetry) == 3, "published")
        assert again.outbox.lane("telemetry").confirmed
        await stored(again, ingest)
    again.close()


async def test_old_copy_of_the_file_swallows_nothing_new(
    broker: Broker, tmp_path: Path, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """F19: an image of the card is restored after the original went on."""
    config = config_for(tmp_path, broker, "gw-image")
    outbox = config.data / "outbox.db"
    async with server(broker, "gw-image") as ingest:
        ingest.stores = True
        agent, clock = agent_of(config, script)
        async with running(agent):
            measure(agent, script, clock, 3)
            await eventually(lambda: agent.outbox.depth() == 0, "stored")
        agent.close()
        image = outbox.read_bytes()
        agent, _ = agent_of(config, script)
        async with running(agent):
            measure(agent, script, clock, 4)
            await eventually(lambda: agent.outbox.depth() == 0, "the original went on")
        old = agent.outbox.lane("telemetry").stream
        agent.close()

        outbox.write_bytes(image)
        copy, _ = agent_of(config, script)
        clock.step(60)
        measure(copy, script, clock, 2)
        async with running(copy):
            await eventually(lambda: copy.outbox.depth() == 0, "stored")
        assert copy.publisher.counters.renewed == 1
        new = copy.outbox.lane("telemetry").stream
        copy.close()
    assert new != old
    assert "old copy" in caplog.text
    by_stream = Counter(one.stream for one in ingest.telemetry)
    assert by_stream == {old: 7, new: 2}
    instants = [one.readings[0].at for one in ingest.telemetry]
    assert len(set(instants)) == 9, "nothing swallowed, nothing told twice"
