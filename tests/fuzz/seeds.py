# SPDX-License-Identifier: Apache-2.0
"""What fuzzing starts from: good inputs of each target, and the words its grammar is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from edge_agent import topics
from edge_agent.topics import UP_CHANNELS
from tests.fuzz.targets import GATEWAY

ROOT: Final = Path(__file__).parents[2]
PAYLOADS: Final = ROOT / "tests" / "payloads" / "v1"

_AGENT: Final = b"""gateway = "gw-c01-a"
community = "c01"
[broker]
host = "127.0.0.1"
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"
[sampling]
heartbeat_s = 600.5
[[devices]]
device = "c01-lamp-001"
kind = "lamp"
driver = "edge_agent.drivers.json_file:make"
options = { path = "/run/lamp", bus = { password = "sesame" } }
# the end
LINLI_BROKER__PORT=8884
"""
_SERVER: Final = b"""[database]
dsn = "host=127.0.0.1 dbname=linli"
[broker]
host = '127.0.0.1'
port = 8883
ca = "pki/ca.crt"
[ingest]
certificates = "pki/services"
metrics_port = 0
[ingest.telemetry]
linger_ms = 100.0
[ingest.rules."lamp.dark"]
on_delay_s = 2
[api]
certificates = "pki/services"
public_url = "http://127.0.0.1:8080"
simulated = true
trusted_proxies = ["10.0.0.1"]
# the end
LINLI_INGEST__METRICS_PORT=9101
"""
_AREAS: Final = """area,parent,level,name,name_en,time_zone,latitude,longitude,households,residents
city,,city,"示范,市",Model city,Asia/Shanghai,31.2,121.4,,
c01,city,community,梧桐苑,,,31.21,121.41,960,2500
""".encode()
_GATEWAYS: Final = "\ufeffgateway;community;name\r\ngw-c01-a;c01;东门\r\n".encode()
_DEVICES: Final = b"""device,kind,gateway,area,name,name_en,life,in_service_from,\
reporting_period_s,rated_power_w,programme
c01-lamp-001,lamp,gw-c01-a,c01,1,,in_service,2026-03-01T00:00:00+08:00,600,60,sun+15-10
c01-gate-001,gate,gw-c01-a,c01,,,,,,,
"""


def _messages(*prefixes: str) -> list[bytes]:
    return [
        file.read_bytes()
        for file in sorted(PAYLOADS.glob("*.json"))
        if file.name.startswith(prefixes)
    ]


def _judged() -> Iterator[bytes]:
    for number, channel in enumerate(UP_CHANNELS):
        for payload in _messages(channel):
            yield bytes([number]) + payload
    own = topics.up(GATEWAY, "telemetry").encode()
    yield bytes([len(UP_CHANNELS) + 1]) + own + b"\n" + _messages("telemetry")[0]


_UP: Final = topics.up(GATEWAY, "event").removesuffix("event").encode()

SEEDS: Final[Mapping[str, Sequence[bytes]]] = {
    "topic": [
        f"linli/v1/{topics.partition(GATEWAY)}/{GATEWAY}/up/{c}".encode() for c in UP_CHANNELS
    ],
    **{
        name: _messages(name)
        for name in (
            "telemetry",
            "event",
            "status",
            "result",
            "ack",
            "command",
            "config",
            "live",
            "devices",
        )
    },
    "batch": _messages("telemetry"),
    "judge": list(_judged()),
    "agent_config": [_AGENT],
    "server_config": [_SERVER],
    "api_config": [_SERVER],
    "registry": [_AREAS, _GATEWAYS, _DEVICES],
}

_JSON_WORDS: Final = (
    b"NaN", b"-Infinity", b"1e400", b"-0", b"9007199254740992", b"9223372036854775808",
    b"1" * 4_301, b"null", b"true", b"{}", b"[]", b'""', b"{", b"}", b"[", b"]", b",", b":", b'"',
    b"[" * 300,
    b"\\u0000", b"\\ud800", b"\\udc00", b"\\", b"\xff", b"\xef\xbb\xbf", b"\0", b"\xed\xa0\x80",
    b'"0001-01-01T00:00:00+05:00"', b'"9999-12-31T23:59:59-05:00"', b'"1e9"', b'"2026-11-21"',
    b'"kind": "gap"', b'"kind": "gate"', b'"device": "c01-lamp-001"', b'"v": 1', b'"seq": 0',
    b'"readings": [{}]', b'"c01-lamp-101"', b'"c01-lamp-002"', b"c01-bin-001",
)  # fmt: skip
_TOML_WORDS: Final = (
    b"[", b"]", b"[[", b"]]", b"=", b"==", b"{", b"}", b'"', b'"""', b"'''", b"\n", b"\r", b"#",
    b".", b"-1", b"1e400", b"nan", b"-inf", b"true", b"0x", b"1" * 4_301, b"[" * 2_000,
    b"{a=" * 500,
    b"9999-12-31T23:59:59Z", b"2026-02-30", b"\\u0000", b"\\", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"broker", b"ingest", b"devices", b"database", b"api", b"rules", b"options", b"\ndsn = 5\n",
    b"\nLINLI_BROKER__PORT=", b"\nLINLI_DEVICES__0__KIND=", b"\nLINLI_INGEST__RULES__X=1",
    b"\nLINLI_BROKER=5", b"\nLINLI_API__HOST=x", b"\nLINLI___=1", b"\nLINLI_GATEWAY=[1,{a=2}]",
)  # fmt: skip
_CSV_WORDS: Final = (
    b",", b";", b'"', b'""', b"\n", b"\r", b"\r\n", b"\t", b" ", b"\0", b"\xff", b"\xef\xbb\xbf",
    b"\xff\xfe", b"=1+1", b"+", b"@x", b"NaN", b"inf", b"1e999", b"-0", b"1_0",
    b"0" * 13 + b"9" * 12, b"9" * 5_000, b"x" * 131_073, "\u202e".encode(), "\u0664".encode(),
    b"sun", b"always",
    b"24:00-00:00", b"18:00-06:00", b"sun+9999-9999", b"../../etc/passwd", b"Asia", b"/etc/passwd",
    b"2026-03-01", b"0001-01-01T00:00:00+05:00", b"area,level", b"device,kind",
    b"gateway,community",
)  # fmt: skip
_TOPIC_WORDS: Final = (
    b"/", b"//", b"+", b"#", b"$SYS", b"$share", b"linli", b"v1", b"v9", b"up", b"down",
    b"telemetry",
    b"\0", b"\xff", b"\n", "\u0660".encode(), "\u0430".encode(), b"00", b"3f", b"40", b"gw-c01-b",
)  # fmt: skip

WORDS: Final[Mapping[str, Sequence[bytes]]] = {
    "topic": _TOPIC_WORDS,
    "agent_config": _TOML_WORDS,
    "server_config": _TOML_WORDS,
    "api_config": _TOML_WORDS,
    "registry": _CSV_WORDS,
    "judge": (*_JSON_WORDS, *_TOPIC_WORDS),
}


def words(target: str) -> Sequence[bytes]:
    """The words of a target; those of JSON, where it has none of its own."""
    return WORDS.get(target, _JSON_WORDS)


def edit(target: str, program: bytes) -> bytes:
    """One of the target's good inputs, chosen by the first byte, after the rest's edits."""
    seeds = SEEDS[target]
    return spoil(target, seeds[program[0] % len(seeds)] if program else seeds[0], program[1:])


def spoil(target: str, data: bytes, program: bytes) -> bytes:
    """Put in words of the target's grammar, take pieces out, or double them.

    Args:
        target: Whose words.
        data: What is edited.
        program: Each five bytes say one edit: where (two), how much is replaced, by which word,
            and what of it.
    """
    known = words(target)
    for at in range(0, len(program) - 4, 5):
        start = int.from_bytes(program[at : at + 2], "big") % (len(data) + 1)
        length, which, how = program[at + 2 : at + 5]
        end = start + (length if length < 64 else 0)
        match how % 4:
            case 0:
                word = bytes([which])
            case 1:
                word = data[start : start + which]
            case 2:
                word = b""
            case _:
                word = known[which % len(known)]
        data = data[:start] + word + data[end:]
    return data
