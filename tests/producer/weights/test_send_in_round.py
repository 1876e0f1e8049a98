"""A version that is sent in a round is in the weight store too, and every worker serves it, in the round or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollstream import ArgumentError, Client, PolicyVersionError, RoundRefusedError
from tests.support.fault_steps import stub
from tests.support.faults import Queue
from tests.support.weights.versions import wait_until_serves


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def client(redis_url: str, policy: str, place: Path) -> Iterator[Client]:
    with Client(redis_url, policy=policy, weights=place) as client:
        yield client


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)


@pytest.fixture
def flags(tiny_model: Path, place: Path, tmp_path: Path) -> tuple[str, ...]:
    return "--model", str(tiny_model), "--weights", str(place), "--weights-cache", str(tmp_path / "cache")


def test_a_worker_that_takes_part_in_rounds_is_in_it(
    client: Client, model: Any, flags: tuple[str, ...], redis_url: str, policy: str, queue: Queue,
) -> None:  # fmt: skip
    with stub(redis_url, policy, "--weight-transfer", "gloo", *flags) as worker:
        published = client.publish_policy(1, model=model, transport="gloo")
        wait_until_serves(worker, queue, 1)

        assert (published.transport, published.requires) == ("nccl", ("nccl",))
        assert "from the weight store" not in worker.log


def test_a_worker_that_takes_part_in_none_reads_the_store(
    client: Client, model: Any, flags: tuple[str, ...], redis_url: str, policy: str, queue: Queue,
) -> None:  # fmt: skip
    with stub(redis_url, policy, *flags) as worker:
        client.publish_policy(1, model=model, transport="gloo")
        wait_until_serves(worker, queue, 1)


def test_a_worker_that_starts_later_reads_the_store(
    client: Client, model: Any, flags: tuple[str, ...], redis_url: str, policy: str, queue: Queue,
) -> None:  # fmt: skip
    client.publish_policy(1, model=model, transport="gloo")

    with stub(redis_url, policy, "--weight-transfer", "gloo", *flags) as worker:
        wait_until_serves(worker, queue, 1)
        assert "from the weight store" in worker.log


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"transport": "carrier-pigeon"}, ArgumentError, "transport"),
        ({"transport": "gloo", "activate": "by_hand"}, ArgumentError, "served at once"),
        ({"transport": "nccl"}, RoundRefusedError, "torch sees none"),
    ],
)
def test_what_no_round_can_do_is_refused_before_anything_is_announced(
    client: Client, model: Any, queue: Queue, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        client.publish_policy(1, model=model, **options)

    assert not queue.redis.exists(queue.keys.versions())


def test_a_folder_is_not_sent_from_memory(client: Client, tiny_model: Path) -> None:
    with pytest.raises(PolicyVersionError, match="from memory"):
        client.publish_policy(1, checkpoint=tiny_model, transport="gloo")
