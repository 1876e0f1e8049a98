"""`examples/first_rollout.py` runs as docs/first-rollout.md says, with a tiny model in the place of a download."""

from __future__ import annotations

import re

import pytest

from tests.real_engine.trainers.example_run import printed

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.timeout(400)]


def test_the_second_batch_is_sampled_with_the_weights_that_the_first_one_taught() -> None:
    shown = printed("examples.first_rollout")
    assert re.findall(r"^version (\[[0-9, ]+\]) ", shown, re.MULTILINE) == ["[0]"] * 3 + ["[1]"] * 3
