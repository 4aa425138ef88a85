# SPDX-License-Identifier: Apache-2.0
"""Payloads at rest: deflated, with the words of the contract known beforehand.

A message of one reading shrinks to a third, one of a hundred to a seventh. The words are part of
the file format: they are never edited. Others would need a constant of their own beside these;
zlib's header names, by checksum, the words a payload was packed with.
"""

import zlib
from typing import Final

_LEVEL: Final = 6
# 16 KiB, which a full batch of lamps fits into; with zlib's own 32 KiB messages become no smaller,
# and each would take 256 KiB of memory while it is packed instead of 128.
_WINDOW_BITS: Final = 14
_MEMORY_LEVEL: Final = 7
# zlib finds the end of the words cheapest, so what is most frequent stands last.
_WORDS: Final = (
    b'"lane":"telemetry","first":1,"last":1,"count":1,"kind":"gap"'
    b'"kind":"gate","event":"granted","direction":"in","credential":"p1-","event":"denied"'
    b'"direction":"out""event":"held_open""event":"restored""event":"forced"'
    b'"kind":"alarm","event":"smoke","phase":"restored","phase":"raised","occurrence":"","zone":"'
    b'"kind":"bin","event":"deposit","weight_kg":0.5,"sorted_ok":true,"stream":"residual"}}'
    b'"stream":"kitchen""stream":"hazardous""fault":"'
    b'"kind":"alarm","armed":true,"battery_pct":100.0},'
    b'"kind":"gate","door":"closed","lock":"locked"},"door":"open","lock":"unlocked"'
    b'"kind":"bin","fill_pct":50.0,"weight_kg":10.0,"temperature_c":20.0,"lid_open":false,'
    b'"tilt":false,"stream":"recyclable"},"lux":0.0,"battery_pct":50.0,"solar_w":0.0},'
    b'{"v":1,"stream":"01","seq":1,"sent_at":"2026-01-01T10:00:00.000000Z","event":{"device":"'
    b'{"v":1,"stream":"01","seq":1,"sent_at":"2026-01-01T10:00:00.000000Z","readings":['
    b'{"device":"bin-001","at":"2026-01-01T10:00:00.000000Z","kind":"bin","fill_pct":'
    b'{"device":"lamp-001","at":"2026-01-01T10:00:00.000000Z","kind":"lamp","lit":false,'
    b'"level_pct":0.0,"power_w":0.0,"lit":true,"level_pct":100.0,"power_w":40.0,'
    b'"voltage_v":230.0,"current_a":0.1,"energy_kwh":1000.0,"burn_hours":4000.0},{"device":"'
)


class Unreadable(ValueError):
    """Bytes that no longer are what was packed."""


def pack(payload: bytes) -> bytes:
    """Return ``payload`` as it lies in the file."""
    packer = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS, memLevel=_MEMORY_LEVEL, zdict=_WORDS)
    return packer.compress(payload) + packer.flush()


def unpack(packed: bytes) -> bytes:
    """Return the payload; one that was never packed (the file's first format) as it is.

    Raises:
        Unreadable: The bytes changed since they were packed.
    """
    if packed.startswith(b"{"):
        return packed
    try:
        unpacker = zlib.decompressobj(zdict=_WORDS)
        payload = unpacker.decompress(packed)
    except zlib.error as error:
        raise Unreadable(str(error)) from error
    if not unpacker.eof:
        raise Unreadable("cut short")
    return payload
