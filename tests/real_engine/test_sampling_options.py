"""What a job may ask for beside tokens, through a real Redis to a worker with the real engine, and back as tensors."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from rollstream import AsyncClient, GenerationConfig, RolloutBatch
from rollstream.schemas.message_files import GOLDEN_FILES
from tests.support.command_line import Command, lines
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers
from tests.support.engine.transformers_reference import Reference

pytestmark = pytest.mark.vllm

PROMPTS = [[5, 6, 7, 8], [9, 10], [300]]
OFTEN = tuple(range(3, 40))
"""As EOS ids they end completions of a random model here and there."""
SHAPE: dict[str, Any] = {"temperature": 0.7, "top_k": 12, "top_p": 0.9}
LETTERS = {"regex": "[abc]{4,9}x"}


@pytest.fixture
async def client(redis_url: str, real_workers: RealWorkers) -> AsyncIterator[AsyncClient]:
    real_workers.serving()
    async with AsyncClient(redis_url, policy=REAL_POLICY) as client:
        yield client


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


async def generate(client: AsyncClient, adapter: str | None = None, **fields: Any) -> RolloutBatch:
    config = GenerationConfig(**{"max_new_tokens": 24, "num_return_sequences": 2, "seed": 7, **fields})
    rollouts = await client.generate(PROMPTS, None, config, adapter=adapter, timeout=60)
    assert rollouts.errors == {}
    return rollouts


def logits_of(reference: Reference, rollouts: RolloutBatch) -> torch.Tensor:
    """(R, L, vocab): those that each token of the responses was sampled from; 0 where there is none."""
    found = torch.zeros(*rollouts.response_ids.shape, 512)
    for row, (prompt, response) in enumerate(zip(rollouts.prompts, rollouts.responses, strict=True)):
        found[row, : len(response)] = reference.logits(prompt, response)
    return found


def own(log_probs: torch.Tensor, rollouts: RolloutBatch) -> torch.Tensor:
    """(R, L): of the tokens that were sampled; 0 where there is none."""
    return log_probs.gather(2, rollouts.response_ids[..., None])[..., 0] * there(rollouts)


def there(rollouts: RolloutBatch) -> torch.Tensor:
    return torch.arange(rollouts.response_len) < rollouts.response_lengths[:, None]


@pytest.mark.parametrize("adapter", [None, "math@1"])
async def test_candidates_and_supports_are_those_of_a_plain_computation(
    client: AsyncClient, tiny_model: Path, adapter_dir: Path, adapter: str | None
) -> None:
    reference = Reference(tiny_model, None if adapter is None else adapter_dir / adapter)

    rollouts = await generate(
        client, adapter, top_logprobs=5, sampling_support=True, eos_token_id=OFTEN, max_new_tokens=40, **SHAPE
    )

    support, is_there = rollouts.support, there(rollouts)
    assert support is not None
    assert len(set(rollouts.response_lengths.tolist())) > 1
    logits = logits_of(reference, rollouts)
    expected = torch.full(logits.shape, -torch.inf)
    for row, column in is_there.nonzero().tolist():
        kept = support.of(row, column)
        expected[row, column, kept] = (logits[row, column, kept] / 0.7).log_softmax(0)
    ours = support.log_probs(logits, rollouts.response_ids, temperature=0.7)
    assert torch.equal(support.lengths > 0, is_there)
    assert rollouts.old_log_probs is not None
    plain = torch.where(is_there, expected.gather(2, rollouts.response_ids[..., None])[..., 0], 0.0)
    assert torch.allclose(ours, plain, atol=1e-5)
    assert torch.allclose(ours, rollouts.old_log_probs, atol=1e-4)
    assert torch.allclose(support.log_softmax(logits, temperature=0.7)[is_there], expected[is_there], atol=1e-5)
    assert rollouts.top_log_probs is not None
    assert rollouts.top_token_ids is not None
    by_rank = expected.sort(-1, descending=True).values[..., :5]
    assert torch.allclose(rollouts.top_log_probs[is_there], by_rank[is_there], atol=1e-4)
    of_those = expected.gather(2, rollouts.top_token_ids)
    assert torch.allclose(rollouts.top_log_probs[is_there], of_those[is_there], atol=1e-4)
    assert not rollouts.top_log_probs[~is_there].any()
    # Which ids were left is transformers' word, but for one so near a limit that rounding decides.
    theirs = [
        torch.tensor(reference.logprobs(prompt, response, **SHAPE))
        for prompt, response in zip(rollouts.prompts, rollouts.responses, strict=True)
    ]
    assert torch.isclose(rollouts.old_log_probs[is_there], torch.cat(theirs), atol=1e-4).float().mean() >= 0.98


async def test_labels_are_those_of_a_plain_computation(client: AsyncClient, tiny_model: Path) -> None:
    labels = (7, 300, 511)

    rollouts = await generate(client, label_token_ids=labels, temperature=0.7, eos_token_id=OFTEN)

    log_probs = (logits_of(Reference(tiny_model), rollouts) / 0.7).log_softmax(-1)
    expected = log_probs[..., list(labels)] * there(rollouts)[..., None]
    assert rollouts.label_token_ids == labels
    assert rollouts.label_log_probs is not None
    assert rollouts.old_log_probs is not None
    assert torch.allclose(rollouts.label_log_probs, expected, atol=1e-4)
    assert torch.allclose(rollouts.old_log_probs, own(log_probs, rollouts), atol=1e-4)


@pytest.mark.parametrize("logprobs", ["processed", "raw"])
async def test_guided_texts_match_and_their_candidates_are_what_the_guide_left(
    client: AsyncClient, tokenizer: Any, tiny_model: Path, logprobs: str
) -> None:
    rollouts = await generate(client, guided=LETTERS, top_logprobs=20, logprobs=logprobs)

    texts = rollouts.decode(tokenizer)
    assert all(re.fullmatch(LETTERS["regex"], text) for text in texts), texts
    assert set(rollouts.finish_reasons) == {"stop"}
    assert rollouts.logprobs_flavour == logprobs  # at temperature 1 both are the same
    logits = logits_of(Reference(tiny_model), rollouts)
    assert rollouts.top_log_probs is not None
    assert rollouts.top_token_ids is not None
    assert rollouts.old_log_probs is not None
    for row, response in enumerate(rollouts.responses):
        for column, token in enumerate(response):
            left = rollouts.top_token_ids[row, column][rollouts.top_log_probs[row, column] > -torch.inf].tolist()
            expected = logits[row, column, left].log_softmax(0)
            assert len(left) < 20
            assert torch.allclose(rollouts.top_log_probs[row, column, : len(left)], expected, atol=1e-4)
            own_log_prob = rollouts.old_log_probs[row, column].item()
            assert own_log_prob == pytest.approx(expected[left.index(token)].item(), abs=1e-4)


async def test_a_choice_is_one_of_the_texts(client: AsyncClient, tokenizer: Any) -> None:
    rollouts = await generate(client, guided={"choice": ["yes", "no"]}, num_return_sequences=8)

    assert set(rollouts.decode(tokenizer)) == {"yes", "no"}
    assert set(rollouts.finish_reasons) == {"stop"}
    assert set(rollouts.stop_reasons) == {2}


async def test_repetition_is_a_reason_of_its_own(client: AsyncClient) -> None:
    pattern = {"max_pattern_size": 4, "min_count": 5}

    rollouts = await generate(client, logit_bias={77: 100.0}, stop_on_repetition=pattern)

    assert set(rollouts.finish_reasons) == {"repetition"}
    assert rollouts.responses == [[77] * 5] * 6


async def test_a_forced_end_of_thinking_is_in_forced_mask_and_not_in_response_mask(
    client: AsyncClient, tokenizer: Any
) -> None:
    start, end = (tokenizer.encode(mark, add_special_tokens=False)[0] for mark in "[]")
    config = GenerationConfig(
        thinking_budget=6, max_new_tokens=12, ignore_eos=True, logit_bias={end: -100.0, start: -100.0}
    )

    rollouts = await client.generate([[5, 6, start], [7, start]], None, config, timeout=60)

    assert rollouts.errors == {}
    assert rollouts.forced_mask is not None
    forced = torch.zeros(2, 12, dtype=torch.int64)
    forced[:, 6] = 1
    assert rollouts.forced_mask.equal(forced)
    assert rollouts.response_mask[:, rollouts.prompt_len :].equal(1 - forced)
    assert rollouts.response_ids[:, 6].tolist() == [end, end]
    assert rollouts.attention_mask[:, rollouts.prompt_len :].all()


async def test_a_replay_is_identical_with_all_that_came_beside_the_tokens(client: AsyncClient, redis_url: str) -> None:
    rollouts = await generate(client, guided=LETTERS, top_logprobs=5, sampling_support=True, top_k=8)

    replay = ("replay", "--batch", rollouts.batch_id, "--verify", "--json", "--timeout", "60")
    done = await asyncio.to_thread(Command(redis_url, REAL_POLICY), *replay)

    assert done.exit_code == 0, done.output
    (row,) = lines(done.stdout)
    assert (row["verify"]["identical"], row["verify"]["completions"]) == (True, 6)
    again = await (await client.attach(row["batch_id"])).result(timeout=10)
    assert isinstance(again, RolloutBatch)
    assert again.support is not None
    assert rollouts.support is not None
    assert again.support.lengths.equal(rollouts.support.lengths)
    assert again.support.ids.equal(rollouts.support.ids)
    assert again.top_log_probs is not None
    assert rollouts.top_log_probs is not None
    assert torch.allclose(again.top_log_probs, rollouts.top_log_probs, atol=1e-4)


def test_golden_jobs_may_have_candidates_and_a_guide(redis_url: str, real_workers: RealWorkers, tmp_path: Path) -> None:
    real_workers.serving()
    command, path = Command(redis_url, REAL_POLICY), str(tmp_path / "options.golden")

    recorded = command(
        "golden", "record", "--out", path, "--cases", "4", "--max-new-tokens", "12", "--timeout", "60",
        "--set", "top_logprobs=3", "--set", 'guided={"regex": "[abc]{4,9}x"}',
    )  # fmt: skip
    checked = command("golden", "check", path, "--json", "--timeout", "60")

    assert recorded.exit_code == 0, recorded.output
    config = GOLDEN_FILES.read(Path(path)).batches[1].config
    assert (config.top_logprobs, config.guided and config.guided.regex) == (3, LETTERS["regex"])
    assert checked.exit_code == 0, checked.output
    assert {one["outcome"] for one in json.loads(checked.stdout)["completions"]} == {"equal"}
