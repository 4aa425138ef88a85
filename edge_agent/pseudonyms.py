# SPDX-License-Identifier: Apache-2.0
"""Credential -> keyed pseudonym. The raw number goes no further than this module.

A pseudonym is the first 130 bits of HMAC-SHA256(key, credential) in lowercase base32. Gateways of
one community share the key file, so that one person is one pseudonym there, and nowhere else.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from edge_agent.errors import ConfigError

KEY_BYTES_MIN: Final = 32
PREFIX: Final = "p1-"
CHARACTERS: Final = 26
# Keeps the key's other uses, should there ever be any, from yielding the same values.
_PURPOSE: Final = b"linli/p1/credential\x00"


class Pseudonymizer:
    """Makes pseudonyms with one key."""

    def __init__(self, key: bytes) -> None:
        """Take the key.

        Raises:
            ValueError: It is shorter than `KEY_BYTES_MIN` bytes.
        """
        if len(key) < KEY_BYTES_MIN:
            raise ValueError(f"key of {len(key)} bytes, at least {KEY_BYTES_MIN} expected")
        self._key = key

    def pseudonym(self, credential: str) -> str:
        """Return the pseudonym of ``credential``: the same for ever, opaque without the key.

        Drivers hand in one spelling per card; nothing is normalised here.
        """
        digest = hmac.digest(self._key, _PURPOSE + credential.encode(), hashlib.sha256)
        return PREFIX + base64.b32encode(digest)[:CHARACTERS].decode().lower()


def load_key(path: Path) -> bytes:
    """Return the key in ``path``, making it (mode 0600, random) on the first start.

    Raises:
        ConfigError: The file cannot be read or made, is too short, or others can read it.
    """
    try:
        if not path.exists():
            _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        key = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be used as pseudonym key: {error.strerror}") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: mode {mode:04o} lets others read it: chmod 600 {path}")
    if len(key) < KEY_BYTES_MIN:
        raise ConfigError(
            f"{path}: {len(key)} bytes, at least {KEY_BYTES_MIN} random ones expected"
        )
    return key


def _make(path: Path) -> None:
    """Write a new key so that no reader ever sees half of it, and the first of two makers wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES_MIN))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()
