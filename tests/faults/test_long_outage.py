"""A minute without Redis; test_outages has a few seconds."""

from __future__ import annotations

import pytest

from tests.support.fault_steps import go_through_an_outage


@pytest.mark.large
def test_redis_killed_and_back_after_60_s_loses_and_doubles_nothing(policy: str) -> None:
    go_through_an_outage(policy, away_s=60, lease_s=20.0)
