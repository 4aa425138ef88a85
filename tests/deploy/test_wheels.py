# SPDX-License-Identifier: Apache-2.0
"""What the check of wheels calls missing; the index itself is asked by hand only."""

from __future__ import annotations

from deploy import wheels


def test_every_pinned_package_must_have_a_wheel() -> None:
    names = wheels.pinned()
    assert {"aiomqtt", "paho-mqtt", "pydantic", "pydantic-core"} <= set(names)
    all_of_them = [f"{name.replace('-', '_')}-1.0-py3-none-any.whl" for name in names]
    assert wheels.missing(all_of_them) == []
    without = [one for one in all_of_them if not one.startswith("pydantic_core")]
    assert wheels.missing(without) == ["pydantic-core"]
    assert wheels.missing([]) == names
