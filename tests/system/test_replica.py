# SPDX-License-Identifier: Apache-2.0
"""The database's primary is lost under traffic and its standby promoted: the quick drill."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.drills.failover import rehearse
from deploy.services import Userland
from ingest.pki import Authority

pytestmark = pytest.mark.timeout(400)


@pytest.mark.database
@pytest.mark.broker
def test_a_standby_that_was_waited_for_has_everything(
    userland: Userland, authority: Authority, service_folder: Path
) -> None:
    outcome, figures = rehearse(
        userland, authority, service_folder / "failover", synchronous=True, hours=24
    )
    assert outcome.ok, outcome
    assert outcome.accepted == outcome.stored > 1_000
    assert outcome.lost == outcome.duplicated == outcome.phantom == 0
    assert outcome.vanished == 0
    assert outcome.evidence["processes killed"]
    assert figures["lost_messages"] == 0
