# SPDX-License-Identifier: Apache-2.0
"""A mistake in the configuration is named with file, line and key, and all of them at once."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from ingest.config import Config, load
from ingest.errors import ConfigError

GOOD = """\
[database]
dsn = "host=127.0.0.1 dbname=linli user=linli password=secret"

[broker]
host = "broker.example"
port = 8883
ca = "pki/ca.crt"

[ingest]
certificates = "/etc/linli/services"

[ingest.rules."lamp.dark"]
on_delay_s = 2

[api]
anything = "is the api's"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "linli.toml"


def read(file: Path, text: str, environ: Mapping[str, str] | None = None) -> Config:
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {})


def problems(file: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(file, text, environ)
    assert caught.value.exit_code == 2
    return [problem.removeprefix(f"{file.parent}/") for problem in caught.value.problems]


def test_paths_are_relative_to_the_file(file: Path) -> None:
    config = read(file, GOOD)
    assert config.broker.ca == file.parent / "pki/ca.crt"
    assert config.identity("ingest-event-00") == (
        Path("/etc/linli/services/ingest-event-00.crt"),
        Path("/etc/linli/services/ingest-event-00.key"),
    )


def test_lanes_have_limits_of_their_own(file: Path) -> None:
    config = read(file, GOOD + "[ingest.event]\nmessages = 7\n")
    telemetry, event = config.ingest.telemetry, config.ingest.event
    assert (telemetry.linger_ms, telemetry.messages, telemetry.receive_maximum) == (100, 500, 1000)
    assert (event.linger_ms, event.messages, event.receive_maximum) == (5, 7, 200)
    assert telemetry.bytes == 4 * 1024 * 1024


def test_states_are_written_at_once_if_nothing_is_said(file: Path) -> None:
    assert read(file, GOOD).ingest.state_interval_s == 0
    text = GOOD.replace("[ingest]", "[ingest]\nstate_interval_s = 60", 1)
    assert read(file, text).ingest.state_interval_s == 60
    (problem,) = problems(file, text.replace("60", "601", 1))
    assert "state_interval_s: 601: input should be less than or equal to 600" in problem


def test_tables_are_kept_as_usual_but_for_those_that_are_named(file: Path) -> None:
    assert read(file, GOOD).ingest.retention_days == {}
    text = GOOD + "[ingest.retention_days]\nreading_lamp = 45\n"
    assert read(file, text).ingest.retention_days == {"reading_lamp": 45}


def test_index_of_readings_is_built_as_they_come_or_when_their_chunk_is_closed(file: Path) -> None:
    def text(value: str) -> str:
        return GOOD.replace("[ingest]\n", f'[ingest]\nreading_index = "{value}"\n')

    assert read(file, GOOD).ingest.reading_index == "always"
    assert read(file, text("after-close")).ingest.reading_index == "after-close"
    (problem,) = problems(file, text("never"))
    assert "ingest.reading_index: 'never': input should be 'always' or 'after-close'" in problem


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("reading_tram = 45", "reading_tram: unknown, known are event_alarm"),
        ("reading_lamp = 39", "reading_lamp: 39: expected 40 or more"),
        ("event_gate = true", "input should be a valid number"),
    ],
)
def test_retention_that_would_lose_numbers_is_refused(file: Path, line: str, says: str) -> None:
    (problem,) = problems(file, GOOD + f"[ingest.retention_days]\n{line}\n")
    assert problem.startswith("linli.toml:1")
    assert says in problem


def test_rules_are_overridden_by_parameter(file: Path) -> None:
    assert read(file, GOOD).ingest.rules == {"lamp.dark": {"on_delay_s": 2}}


def test_faults_and_holidays_are_told(file: Path) -> None:
    text = GOOD.replace("[ingest]", "[ingest]\nholidays = [2026-10-01, 2026-10-02]", 1)
    config = read(file, text + '[ingest.faults]\nlock_jammed = "ordinary"\n')
    assert config.ingest.holidays == [date(2026, 10, 1), date(2026, 10, 2)]
    assert config.ingest.faults == {"lock_jammed": "ordinary"}


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    assert read(file, "\ufeff" + GOOD).broker.port == 8883


def test_all_mistakes_are_reported_at_once_with_their_lines(file: Path) -> None:
    text = GOOD.replace("port = 8883", "port = 70000").replace(
        "[api]", '[ingest.telemetry]\nmax_quued = 5\nmessages = "many"\n\n[apy]'
    )
    assert problems(file, text) == [
        "linli.toml:6: broker.port: 70000: input should be less than or equal to 65535",
        "linli.toml:16: ingest.telemetry.max_quued: unknown,"
        " known are bytes, linger_ms, messages, receive_maximum",
        "linli.toml:17: ingest.telemetry.messages: 'many': input should be a valid integer",
        "linli.toml:19: apy: unknown, did you mean api?",
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        pytest.param(
            'host = "broker',
            'hst = "broker',
            "5: broker.hst: unknown, did you mean host?",
            id="key",
        ),
        pytest.param(
            'ca = "pki/ca.crt"\n', "", "4: broker.ca: missing", id="missing-key-names-its-section"
        ),
        pytest.param(
            'ca = "pki/ca.crt"', "ca = 5", "7: broker.ca: a path is expected", id="path-is-a-number"
        ),
        pytest.param(
            "port = 8883",
            "port = true",
            "6: broker.port: True: input should be a valid integer",
            id="truth-is-no-number",
        ),
        pytest.param(
            "[ingest]",
            "[ingest]\nfuture_limit_s = -1",
            "10: ingest.future_limit_s: -1: input should be greater than 0",
            id="negative-time",
        ),
        pytest.param(
            '"lamp.dark"]', '"lamp.drak"]', "12: ingest.rules.lamp.drak: unknown rule", id="rule"
        ),
        pytest.param(
            "on_delay_s = 2",
            "on_delay_s = -2",
            "12: ingest.rules.lamp.dark.on_delay_s: Input should be greater than",
            id="rule-parameter",
        ),
        pytest.param(
            "[api]",
            '[ingest.faults]\nlock_jammed = "urgent"\n[api]',
            "16: ingest.faults.lock_jammed: 'urgent': input should be 'emergency', 'ordinary'",
            id="fault-class",
        ),
        pytest.param(
            "[ingest]",
            '[ingest]\nholidays = ["1 October"]',
            "10: ingest.holidays.0: '1 October': input should be a valid date",
            id="holiday",
        ),
        pytest.param("port = 8883", "port == 8883", "6: not TOML: Invalid value", id="not-toml"),
    ],
)
def test_a_mistake_is_named(file: Path, before: str, after: str, expected: str) -> None:
    assert before in GOOD
    found = problems(file, GOOD.replace(before, after, 1))
    assert len(found) == 1
    assert found[0].startswith(f"linli.toml:{expected}")


def test_a_missing_section_names_the_file(file: Path) -> None:
    text = GOOD.partition("[broker]")[0] + GOOD.partition("[ingest]")[2].join(["[ingest]", ""])
    assert problems(file, text) == ["linli.toml: broker: missing"]


def test_a_password_is_never_repeated(file: Path) -> None:
    text = GOOD.replace("user=linli", "user linli")
    assert problems(file, text) == [
        "linli.toml:2: database.dsn: not a PostgreSQL connection string"
    ]
    text = GOOD.replace('"host=127.0.0.1', '["host=127.0.0.1').replace('secret"', 'secret"]')
    assert problems(file, text) == ["linli.toml:2: database.dsn: input should be a valid string"]
    assert "secret" not in repr(read(file, GOOD))


class TestEnvironment:
    """``LINLI_SECTION__KEY`` wins over the file."""

    def test_overrides_the_file(self, file: Path) -> None:
        config = read(
            file,
            GOOD,
            {
                "LINLI_BROKER__PORT": "1883",
                "LINLI_BROKER__HOST": "other.example",
                "LINLI_BROKER__CA": "other.crt",
                "LINLI_DATABASE__DSN": "host=db.example dbname=linli",
                "LINLI_INGEST__TELEMETRY__LINGER_MS": "2.5",
            },
        )
        assert (config.broker.host, config.broker.port) == ("other.example", 1883)
        assert config.broker.ca == file.parent / "other.crt"
        assert config.database.dsn == "host=db.example dbname=linli"
        assert config.ingest.telemetry.linger_ms == 2.5

    def test_of_others_is_left_alone(self, file: Path) -> None:
        environ = {"LINLI_API__PORT": "x", "LINLI_CONFIG": "x", "LINLI": "x", "PATH": "x"}
        read(file, GOOD, environ)

    def test_mistakes_name_the_variable(self, file: Path) -> None:
        environ = {
            "LINLI_BROKER__PORT": "many",
            "LINLI_DATABSE__DSN": "x",
            "LINLI_BROKER__HOST__NAME": "x",
            "LINLI_INGEST__RULES__BIN_FULL": "x",
        }
        assert problems(file, GOOD, environ) == [
            "LINLI_BROKER__HOST__NAME: broker.host.name is no setting",
            "LINLI_INGEST__RULES__BIN_FULL: rules are set in the file only",
            "LINLI_BROKER__PORT: broker.port: 'many': input should be a valid integer",
            "LINLI_DATABSE__DSN: databse: unknown, did you mean database?",
        ]


class TestUnreadable:
    """A file that cannot be read says why."""

    def test_missing(self, file: Path) -> None:
        with pytest.raises(ConfigError, match=r"linli\.toml: cannot read: No such file"):
            load(file, {})

    def test_a_folder(self, file: Path) -> None:
        file.mkdir()
        with pytest.raises(ConfigError, match=r"linli\.toml: cannot read: Is a directory"):
            load(file, {})

    def test_another_encoding(self, file: Path) -> None:
        file.write_bytes("# 配置".encode("gb18030"))
        with pytest.raises(ConfigError, match=r"linli\.toml: cannot read: is not UTF-8 text"):
            load(file, {})
