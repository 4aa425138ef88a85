# SPDX-License-Identifier: Apache-2.0
"""Credentials leave the gateway as keyed pseudonyms."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edge_agent.errors import ConfigError
from edge_agent.kinds.gate import Pseudonym
from edge_agent.pseudonyms import KEY_BYTES_MIN, Pseudonymizer, load_key

KEY = bytes(range(32))


def test_pseudonyms_stay_the_same_for_ever() -> None:
    """Pinned: another value would make one person two."""
    assert Pseudonymizer(KEY).pseudonym("04A2B9C1") == "p1-gwalebggnai65olhtrkgjpau2u"


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80))
def test_every_pseudonym_fits_the_contract(credential: str) -> None:
    made = Pseudonymizer(KEY).pseudonym(credential)
    assert TypeAdapter[str](Pseudonym).validate_python(made) == made


def test_pseudonyms_differ_by_credential_and_by_key() -> None:
    one, other = Pseudonymizer(KEY), Pseudonymizer(KEY[::-1])
    assert len({one.pseudonym("1"), one.pseudonym("2"), other.pseudonym("1")}) == 3


def test_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "pseudonym.key"
    key = load_key(path)
    assert len(key) >= KEY_BYTES_MIN
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path) == key
    assert [file.name for file in path.parent.iterdir()] == ["pseudonym.key"]


def test_makers_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load_key, [path] * 16))) == 1


@pytest.mark.parametrize(
    ("content", "mode", "expected"),
    [
        pytest.param(b"short", 0o600, "5 bytes, at least 32", id="too-short"),
        pytest.param(KEY, 0o644, "chmod 600", id="others-can-read-it"),
    ],
)
def test_unfit_key_is_refused_with_its_path(
    tmp_path: Path, content: bytes, mode: int, expected: str
) -> None:
    path = tmp_path / "pseudonym.key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_key(path)
    assert str(path) in str(caught.value)


def test_unreadable_key_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used as pseudonym key"):
        load_key(tmp_path)
