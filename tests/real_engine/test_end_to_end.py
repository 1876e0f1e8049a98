"""The main job: a batch through a real Redis to a worker process with the real vLLM engine, and back as tensors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollstream import AsyncClient, GenerationConfig, RolloutBatch
from rollstream.producer.demo.tiny_model import write_adapter
from tests.support.engine.real_workers import REAL_POLICY, RealWorkers
from tests.support.engine.transformers_reference import Reference

pytestmark = pytest.mark.vllm

PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17], [300]]
EOS, PAD = 2, 0


@pytest.fixture
async def client(redis_url: str, real_workers: RealWorkers) -> AsyncIterator[AsyncClient]:
    real_workers.serving()
    async with AsyncClient(redis_url, policy=REAL_POLICY) as client:
        yield client


@pytest.fixture
def wide_adapter(tiny_model: Path, adapter_dir: Path) -> None:
    """`wide@1`, whose rank is above the workers' limit."""
    write_adapter(adapter_dir, "wide@1", model=tiny_model, seed=9, rank=64)


async def generate(
    client: AsyncClient, prompts: Any = PROMPTS, adapter: str | None = None, **fields: Any
) -> RolloutBatch:
    config = GenerationConfig(**{"max_new_tokens": 16, **fields})
    return await client.generate(prompts, None, config, adapter=adapter, prompts_per_job=2, timeout=60)


def responses(rollouts: RolloutBatch) -> list[list[int]]:
    """Sampled ids a row, by the mask alone."""
    rows = zip(rollouts.sequences, rollouts.response_mask.bool(), strict=True)
    return [row[mask].tolist() for row, mask in rows]


def prompts_of(rollouts: RolloutBatch) -> list[list[int]]:
    rows = zip(rollouts.sequences, rollouts.prompt_mask.bool(), strict=True)
    return [row[mask].tolist() for row, mask in rows]


async def test_masks_positions_and_lengths_say_the_same_of_ragged_prompts(client: AsyncClient) -> None:
    rollouts = await generate(client, num_return_sequences=4, temperature=0.8)

    assert rollouts.errors == {}
    assert rollouts.sequences.shape == (16, 7 + rollouts.response_len)
    assert prompts_of(rollouts) == [prompt for prompt in PROMPTS for _ in range(4)]
    assert [len(row) for row in responses(rollouts)] == rollouts.response_lengths.tolist()
    assert rollouts.attention_mask.equal(rollouts.prompt_mask + rollouts.response_mask)
    assert rollouts.position_ids.equal((rollouts.attention_mask.cumsum(1) - 1).clamp(min=0))


async def test_the_response_width_can_be_fixed_to_max_new_tokens(client: AsyncClient) -> None:
    config = GenerationConfig(max_new_tokens=40, eos_token_id=(EOS,), logit_bias={EOS: 100.0})

    rollouts = await client.generate(PROMPTS, None, config, timeout=60, pad_to_max_new_tokens=True)

    assert rollouts.sequences.shape == (4, 7 + 40)
    assert responses(rollouts) == [[EOS]] * 4


@pytest.mark.parametrize("adapter", [None, "math@1"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
async def test_log_probs_agree_with_an_independent_forward_pass(
    client: AsyncClient, tiny_model: Path, adapter_dir: Path, adapter: str | None, temperature: float
) -> None:
    reference = Reference(tiny_model, None if adapter is None else adapter_dir / adapter)

    rollouts = await generate(client, num_return_sequences=2, temperature=temperature, adapter=adapter)

    assert rollouts.logprobs_flavour == "processed"
    assert rollouts.old_log_probs is not None
    for row, (prompt, response) in enumerate(zip(prompts_of(rollouts), responses(rollouts), strict=True)):
        ours = rollouts.old_log_probs[row, : len(response)]
        assert np.allclose(ours, reference.logprobs(prompt, response, temperature=temperature), atol=1e-4)


async def test_base_and_adapters_mixed_in_one_engine_batch_are_each_as_if_alone(client: AsyncClient) -> None:
    adapters = [None, "math@1", None, "math@2", "code@1", None]
    alone = {name: await generate(client, adapter=name, temperature=0.0) for name in set(adapters)}

    handles = [
        await client.submit(PROMPTS, None, GenerationConfig(max_new_tokens=16, temperature=0.0), adapter=name)
        for name in adapters
    ]
    mixed = [await handle.result(timeout=60) for handle in handles]

    for name, rollouts in zip(adapters, mixed, strict=True):
        assert responses(rollouts) == responses(alone[name])
    assert len({str(responses(rollouts)) for rollouts in alone.values()}) == 4


async def test_seeds_do_not_depend_on_how_a_batch_is_cut_into_jobs(client: AsyncClient) -> None:
    config = GenerationConfig(max_new_tokens=16, num_return_sequences=3, seed=42)

    whole = await client.generate(PROMPTS, None, config, prompts_per_job=4, timeout=60)
    cut = await client.generate(PROMPTS, None, config, prompts_per_job=1, timeout=60)

    assert responses(whole) == responses(cut)
    assert len({str(row) for row in responses(whole)}) == 12


async def test_pad_and_eos_ids_are_tokens_like_any_other(client: AsyncClient) -> None:
    """pad == eos, sampled first, in mid-sequence and last: a mask that looked at ids would be wrong in such rows."""
    allowed = dict.fromkeys((EOS, 5, 6), 60.0)
    config = GenerationConfig(max_new_tokens=6, num_return_sequences=16, logit_bias=allowed, ignore_eos=True, seed=1)

    rollouts = await client.generate(PROMPTS, None, config, timeout=60, pad_token_id=EOS)

    rows = responses(rollouts)
    assert {len(row) for row in rows} == {6}
    assert any(row[0] == EOS and row[-1] != EOS for row in rows)
    assert any(EOS in row[1:-1] and row[-1] != EOS for row in rows)
    assert any(row[-1] == EOS for row in rows)
    assert set(rollouts.finish_reasons) == {"length"}


async def test_rows_that_end_with_an_eos_that_is_also_the_pad_keep_it(client: AsyncClient) -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=8, logit_bias={EOS: 4.0}, seed=1)

    rollouts = await client.generate(PROMPTS, None, config, timeout=60, pad_token_id=EOS)

    ended = [row for row, reason in zip(responses(rollouts), rollouts.finish_reasons, strict=True) if reason == "stop"]
    assert len({len(row) for row in ended}) > 1
    assert all(row[-1] == EOS and EOS not in row[:-1] for row in ended)


async def test_interior_zeros_of_the_mask_are_no_tokens_and_an_all_zero_row_fails_alone(client: AsyncClient) -> None:
    ids = np.array([[5, 0, 6, 7], [5, 6, 7, 0], [0, 0, 0, 0]])
    mask = np.array([[1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
    config = GenerationConfig(max_new_tokens=4, temperature=0.0)

    rollouts = await client.generate(ids, mask, config, timeout=60)

    assert prompts_of(rollouts) == [[5, 6, 7], [5, 6, 7], []]
    assert responses(rollouts)[0] == responses(rollouts)[1]
    assert {group: error.code for group, error in rollouts.errors.items()} == {2: "empty_prompt"}


async def test_a_stop_string_ends_the_text_and_its_tokens_stay(client: AsyncClient) -> None:
    free = await generate(client, [PROMPTS[0]], temperature=0.0, stop_strings=("\x00never",), max_new_tokens=32)
    text = free.texts[0]
    assert text is not None
    stop = text[8:10]

    cut = await generate(client, [PROMPTS[0]], temperature=0.0, stop_strings=(stop,), max_new_tokens=32)
    kept = await generate(
        client, [PROMPTS[0]], temperature=0.0, stop_strings=(stop,), include_stop_str_in_output=True, max_new_tokens=32
    )

    end = text.index(stop)
    assert (cut.texts[0], kept.texts[0]) == (text[:end], text[: end + len(stop)])
    assert cut.stop_reasons == kept.stop_reasons == (stop,)
    assert cut.sequences.equal(kept.sequences)


async def test_beam_search_gives_what_transformers_gives(client: AsyncClient, tiny_model: Path) -> None:
    reference = Reference(tiny_model)

    rollouts = await generate(client, num_beams=4, num_return_sequences=2, max_new_tokens=12)

    assert rollouts.scores is not None
    for group, prompt in enumerate(PROMPTS):
        beams, scores = reference.generate(prompt, 12, num_beams=4, num_return_sequences=2)
        rows = slice(2 * group, 2 * group + 2)
        found = responses(rollouts)[rows]
        assert found == [beam[: len(ours)] for ours, beam in zip(found, beams, strict=True)]
        assert np.allclose(rollouts.scores[rows], scores, atol=1e-4)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompts": [[5], [512]]}, "token_out_of_vocabulary", "512"),
    ({"max_new_tokens": 1024}, "too_long", "max_model_len"),
    ({"stop_token_ids": (512,)}, "token_out_of_vocabulary", "stop_token_ids"),
    ({"logit_bias": {512: 1.0}}, "token_out_of_vocabulary", "logit_bias"),
    ({"adapter": "math@99"}, "unknown_adapter", "publish it first"),
    ({"adapter": "wide@1"}, "adapter_refused", "rank 64"),
    ({"logprobs": "raw", "temperature": 0.5}, "invalid_config", "--logprobs-mode raw"),
    ({"allowed_token_ids": (5,), "eos_token_id": (5,), "min_new_tokens": 3}, "invalid_config", "min_new_tokens"),
]


@pytest.mark.usefixtures("wide_adapter")
@pytest.mark.parametrize(("bad", "code", "said"), REFUSED, ids=lambda value: str(value)[:30])
async def test_bad_input_is_answered_by_name_and_the_engine_serves_the_next_job(
    client: AsyncClient, bad: dict[str, Any], code: str, said: str
) -> None:
    refused = await generate(client, **bad)
    served = await generate(client)

    last = refused.errors[max(refused.errors)]
    assert last.code == code
    assert said in last.message
    assert served.errors == {}
