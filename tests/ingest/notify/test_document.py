# SPDX-License-Identifier: Apache-2.0
"""What docs/notifications.md shows is what works, and both languages say the same things."""

from __future__ import annotations

import json
import string
import tomllib
from pathlib import Path

import pytest

from ingest.config import Notify, load
from ingest.errors import ConfigError
from ingest.notify.chains import Chain, turns
from ingest.notify.messengers import is_known
from ingest.notify.texts import LANGUAGES, sentences
from tests.ingest.notify.receiver import example


def test_its_chain_is_one() -> None:
    draft = json.loads(example("json"))
    chain = Chain.model_validate(draft["chain"])
    assert [turn.step for turn in turns(chain.steps)] == [0, 0, 0, 1, 2, 2, 2, 3, 2]


@pytest.mark.parametrize("number", [0, 1])
def test_its_settings_are_some(number: int) -> None:
    section = tomllib.loads(example("toml", number))["notify"]
    settings = Notify.model_validate(section)
    assert settings.allow_private is (number == 1)
    for url in (settings.email, settings.sms):
        assert url is None or is_known(url)


def test_both_languages_have_the_same_sentences_with_the_same_places() -> None:
    chinese, english = (sentences(language) for language in LANGUAGES)
    assert chinese.keys() == english.keys()

    def places(sentence: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}

    assert [places(chinese[key]) for key in chinese] == [places(english[key]) for key in chinese]


@pytest.mark.parametrize("key", ["email", "sms"])
def test_a_gateway_that_is_wrong_is_refused_and_not_repeated(tmp_path: Path, key: str) -> None:
    file = tmp_path / "linli.toml"
    file.write_text(
        f"""
        [database]
        dsn = "host=127.0.0.1"
        [broker]
        ca = "ca.crt"
        [ingest]
        certificates = "services"
        [notify]
        {key} = "mailtos://linli:s3cr3t@mail.example.org"
        """
    )
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert f"notify.{key}: an apprise URL with {{to}} in it is expected" in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
