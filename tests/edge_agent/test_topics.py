# SPDX-License-Identifier: Apache-2.0
"""Topics: built and parsed by one rule, and nothing else than these passes."""

from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import topics
from edge_agent.topics import DownChannel, TopicError, UpChannel, UpTopic
from tests import strategies

PARTITIONS = ["3c", "25", "12"]


def test_partition_is_pinned_for_ever() -> None:
    # Both ends compute it; another formula would move every gateway to another topic.
    assert [topics.partition(f"gw-c0{n}-a") for n in (1, 2, 3)] == PARTITIONS


@given(strategies.gateway_ids)
def test_partition_is_one_of_64_in_two_hex_digits(gateway: str) -> None:
    partition = topics.partition(gateway)
    assert len(partition) == 2
    assert 0 <= int(partition, 16) < 64


@given(strategies.gateway_ids, st.sampled_from(get_args(UpChannel)))
def test_what_a_gateway_publishes_to_parses_back(gateway: str, channel: UpChannel) -> None:
    assert topics.parse_up(topics.up(gateway, channel)) == UpTopic(gateway, channel)


@pytest.mark.parametrize("channel", get_args(DownChannel))
def test_down_topic_differs_from_up_in_direction_only(channel: DownChannel) -> None:
    assert topics.down("gw-c01-a", channel) == f"linli/v1/{PARTITIONS[0]}/gw-c01-a/down/{channel}"
    with pytest.raises(TopicError) as refused:
        topics.parse_up(topics.down("gw-c01-a", channel))
    assert refused.value.reason == "topic.malformed"


@pytest.mark.parametrize(
    "gateway",
    [
        pytest.param("gw+", id="B10-plus"),
        pytest.param("gw1/x", id="B10-slash"),
        pytest.param("#", id="B10-hash"),
        pytest.param("", id="B10-empty"),
        pytest.param("g" * 300, id="B10-300"),
        pytest.param("g" * 41, id="B10-41"),
        pytest.param("gw", id="B10-2"),
        pytest.param("gw.c01", id="B10-dot"),
        pytest.param("gw:c01", id="B10-colon"),
        pytest.param("GW-C01", id="B10-uppercase"),
        pytest.param("gw-\u04411", id="B10-cyrillic"),
        pytest.param("-gw", id="B10-hyphen-first"),
        pytest.param("gw1\n", id="B10-newline"),
        pytest.param("gw1\0", id="B10-nul"),
    ],
)
def test_what_is_no_gateway_id_never_enters_a_topic(gateway: str) -> None:
    with pytest.raises(ValueError, match="not a gateway id"):
        topics.up(gateway, "event")
    with pytest.raises(ValueError, match="not a gateway id"):
        topics.down(gateway, "ack")
    with pytest.raises(TopicError) as refused:
        topics.parse_up(f"linli/v1/00/{gateway}/up/event")
    assert refused.value.reason == "topic.malformed"


def test_live_topic_takes_area_ids_only() -> None:
    assert topics.live("c01") == "linli/v1/live/c01"
    assert topics.live_devices("c01") == "linli/v1/live/c01/devices"
    for community in ("", "c01\n", "c01/x", "+", "#", "C01"):
        with pytest.raises(ValueError, match="not a community id"):
            topics.live(community)


GOOD = topics.up("gw-c01-a", "event")


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        pytest.param(GOOD.replace("v1/", "v1/00/", 1), "topic.malformed", id="B3-level-too-many"),
        pytest.param("linli/v1/00/gw-c01-a/up/event", "topic.partition", id="B2"),
        pytest.param(GOOD.removesuffix("/event"), "topic.malformed", id="B3-up-alone"),
        pytest.param(GOOD.replace("up/", "up//"), "topic.malformed", id="B3-empty-level"),
        pytest.param(f"{GOOD}/x", "topic.malformed", id="B3-below-a-lane"),
        pytest.param("/".join(["linli"] * 200), "topic.malformed", id="B3-200-levels"),
        pytest.param(GOOD.replace("event", "Event"), "topic.unknown_lane", id="B3-uppercase-lane"),
        pytest.param(GOOD.replace("event", "video"), "topic.unknown_lane", id="B3-unknown-lane"),
        pytest.param(GOOD.replace("event", ""), "topic.unknown_lane", id="B3-no-lane"),
        pytest.param(GOOD.replace("v1", "v9"), "topic.version", id="B3-version"),
        pytest.param(GOOD.replace("linli", "Linli"), "topic.malformed", id="B3-prefix"),
        pytest.param("", "topic.malformed", id="B5-empty"),
        pytest.param("#", "topic.malformed", id="B5-hash"),
        pytest.param("linli/v1/+/+/up/event", "topic.malformed", id="B5-plus"),
        pytest.param(f"{GOOD}\0", "topic.unknown_lane", id="B5-nul"),
        pytest.param(GOOD.replace("gw-c01-a", "\udcff"), "topic.malformed", id="B5-not-utf-8"),
        pytest.param("a" * 65_535, "topic.malformed", id="B5-65535-bytes"),
        pytest.param("$SYS/broker/uptime", "topic.malformed", id="B4-sys"),
    ],
)
def test_topic_that_does_not_fit_is_refused_with_its_reason(topic: str, reason: str) -> None:
    with pytest.raises(TopicError) as refused:
        topics.parse_up(topic)
    assert refused.value.reason == reason
    assert len(str(refused.value)) < 500


@given(
    st.text(st.characters(), max_size=80)
    | st.lists(
        st.sampled_from(["linli", "v1", "v2", "up", "down", "event", "gw-c01-a", "00", "", "+"])
        | strategies.gateway_ids.map(topics.partition)
        | st.text(max_size=5),
        max_size=8,
    ).map("/".join)
)
def test_nothing_but_a_topic_error_comes_of_any_text(topic: str) -> None:
    with suppress(TopicError):
        parsed = topics.parse_up(topic)
        assert topics.up(parsed.gateway, parsed.channel) == topic
