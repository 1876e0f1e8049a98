"""`RollStrategy.generate` takes what ROLL's callers pass and returns the tensor that they go on with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import (
    AsyncClient,
    ConfigError,
    GenerationConfig,
    PromptsError,
    ResultTimeoutError,
    RolloutFailedError,
    RollStrategy,
)
from rollstream.producer.trainers.roll import generation_config_of
from rollstream.schemas import Job, decode
from tests.support.data_proto import DataProto
from tests.support.faults import Queue
from tests.support.worker_process import WorkerProcess, running_worker

POLICY = "roll"
PAD, EOS = 7, 2

# `GeneratingArguments().to_dict()` with what `ActorWorker.generate` adds (roll/configs/generating_args.py)
ROLLS = {
    "do_sample": True,
    "temperature": 0.95,
    "top_p": 0.7,
    "top_k": 50,
    "num_beams": 1,
    "max_new_tokens": 6,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "num_return_sequences": 1,
    "stop_strings": None,
    "logprobs": 0,
    "eos_token_id": [EOS, PAD],
    "pad_token_id": PAD,
}


def ours(**changes: Any) -> GenerationConfig:
    fields: dict[str, Any] = {
        "max_new_tokens": 6,
        "temperature": 0.95,
        "top_p": 0.7,
        "top_k": 50,
        "stop_token_ids": (EOS, PAD),
    }
    return GenerationConfig(**fields | {"include_stop_str_in_output": True} | changes)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"num_return_sequences": 4}, {"num_return_sequences": 4}),
        ({"temperature": 1, "top_k": -1, "top_p": 1}, {"temperature": 1.0, "top_k": -1, "top_p": 1.0}),
        ({"stop_strings": ["</a>"]}, {"stop_strings": ("</a>",)}),
        ({"stop_strings": ["a"], "include_stop_str_in_output": False},
         {"stop_strings": ("a",), "include_stop_str_in_output": False}),
        ({"logprobs": None}, {"logprobs": None}),
        ({"logprobs": 5}, {"logprobs": "processed"}),
        ({"logprobs": "raw"}, {"logprobs": "raw"}),
        ({"do_sample": None}, {}),
        ({"do_sample": False, "temperature": 0}, {"temperature": 0.0}),
        ({"use_beam_search": False}, {}),
        ({"seed": 3, "min_p": 0.1}, {"seed": 3, "min_p": 0.1}),
        ({"eos_token_id": np.array([5, 6]).tolist()}, {"stop_token_ids": (5, 6)}),
    ],
)  # fmt: skip
def test_rolls_names_become_ours(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert generation_config_of(ROLLS | given) == ours(**expected)


def test_beam_search_gives_num_beams_rows_and_leaves_sampling_out() -> None:
    given = ROLLS | {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.8, "use_beam_search": True}
    assert generation_config_of(given) == GenerationConfig(
        max_new_tokens=6, num_beams=3, num_return_sequences=3, length_penalty=0.8, stop_token_ids=(EOS, PAD)
    )


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"do_sample": False}, "do_sample"),
        ({"num_beams": 4}, "num_return_sequences"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"typical_p": 0.9}, "typical_p"),
        ({"max_length": 8192}, "max_length"),
        ({"stop_token_ids": [1]}, "stop_token_ids"),
        ({"pad_token_id": None}, "pad_token_id"),
        ({"eos_token_id": [EOS, None]}, "stop_token_ids"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"first_k": 1}, "first_k"),
    ],
)
def test_what_would_mean_something_else_is_refused_by_name(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        generation_config_of(ROLLS | given)
    assert refused.value.field.split(".")[0] == field


@pytest.mark.parametrize("name", ["max_new_tokens", "temperature", "eos_token_id", "pad_token_id", "stop_strings"])
def test_what_rolls_callers_always_set_is_required(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        generation_config_of({key: value for key, value in ROLLS.items() if key != name})
    assert refused.value.field == name


def test_a_config_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError):
        generation_config_of([("max_new_tokens", 6)])  # type: ignore[arg-type] # what a user may pass


@pytest.fixture(scope="module")
def worker(redis_url: str) -> Iterator[WorkerProcess]:
    """One worker for all tests of this file."""
    with running_worker(redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", "1000") as worker:
        yield worker


@pytest.fixture
async def strategy(redis_url: str, worker: WorkerProcess) -> AsyncIterator[RollStrategy]:
    async with AsyncClient(redis_url, policy=POLICY) as client:
        yield RollStrategy(client, timeout_s=60)


def prompts(*rows: tuple[list[int], list[int]], **non_tensor: Any) -> DataProto:
    ids, masks = zip(*rows, strict=True)
    return DataProto({"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(masks)}, non_tensor)


async def test_generate_returns_the_given_prompts_and_right_padded_responses(strategy: RollStrategy) -> None:
    batch = prompts(([9, 9, 5], [0, 0, 1]), ([3, 4, 6], [1, 1, 1]))
    given = ROLLS | {"num_return_sequences": 3, "seed": 1, "eos_token_id": [*range(100), PAD]}  # ends early at times
    output = await strategy.generate(batch, given)
    rollouts = await strategy.rollouts(batch, given)
    assert output.dtype == torch.int64
    assert output.shape == (6, 3 + rollouts.response_len)
    assert output[:, :3].tolist() == [[9, 9, 5]] * 3 + [[3, 4, 6]] * 3  # whatever was in the padding
    lengths = rollouts.response_lengths.tolist()
    assert len(set(lengths)) > 1, "every response of one length shows nothing"
    for row, length in zip(output[:, 3:].tolist(), lengths, strict=True):
        assert row[length:] == [PAD] * (len(row) - length)
        assert length == 6 or row[length - 1] < 100
    assert torch.equal(rollouts.roll()["responses"], output[:, 3:])
    assert rollouts.roll()["infer_logprobs"].shape == (6, output.shape[1] - 1)


async def test_beams_come_back_as_rows(strategy: RollStrategy) -> None:
    output = await strategy.generate(
        prompts(([5, 6], [1, 1])), ROLLS | {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 2}
    )
    assert output.shape[0] == 3
    assert len({tuple(row) for row in output.tolist()}) == 3


async def test_a_failed_row_is_an_error_and_no_empty_response(strategy: RollStrategy) -> None:
    with pytest.raises(RolloutFailedError) as failed:
        await strategy.generate(prompts(([5, 6], [1, 1]), ([5, 6], [0, 0]), ([5000, 6], [1, 1])), ROLLS)
    assert {group: error.code for group, error in failed.value.errors.items()} == {
        1: "empty_prompt",
        2: "token_out_of_vocabulary",
    }
    assert "2 of 3 groups failed, the first: group 1: empty_prompt" in str(failed.value)


async def test_the_adapter_is_the_one_set_last(strategy: RollStrategy) -> None:
    strategy.adapter = "math@2"
    with pytest.raises(RolloutFailedError) as failed:  # this worker has no adapters
        await strategy.generate(prompts(([5, 6], [1, 1])), ROLLS)
    assert failed.value.errors[0].code == "unknown_adapter"


async def test_the_oldest_version_that_may_sample_is_the_one_set_last(
    redis_url: str, policy: str, queue: Queue
) -> None:
    async with AsyncClient(redis_url, policy=policy) as client:
        strategy = RollStrategy(client, min_policy_version=3, timeout_s=0.1)
        for version in (3, 4):
            strategy.min_policy_version = version
            with pytest.raises(ResultTimeoutError):
                await strategy.generate(prompts(([5, 6], [1, 1])), ROLLS)
    assert [decode(fields[b"payload"], Job).min_policy_version for _, fields in queue.entries()] == [3, 4]


async def test_multi_modal_prompts_are_refused(redis_url: str, policy: str) -> None:
    async with AsyncClient(redis_url, policy=policy) as client:
        with pytest.raises(PromptsError) as refused:
            await RollStrategy(client).generate(prompts(([5], [1]), multi_modal_data=np.array([{}])), ROLLS)
    assert refused.value.what == "multi_modal_data"
