"""A minute without Redis, in a file of its own: so it passes beside other tests, not before them."""

from __future__ import annotations

from tests.fault_steps import go_through_an_outage


def test_redis_killed_and_back_after_60_s_loses_and_doubles_nothing(policy: str) -> None:
    go_through_an_outage(policy, away_s=60, lease_s=20.0)
