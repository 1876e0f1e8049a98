"""A LoRA policy that is trained and published from memory through the weight store is what vLLM samples from."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rollstream import AsyncClient, make_probe
from rollstream.schemas import Keys
from rollstream.transport.weights import read_chain, store_of
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.checkpoints.store_versions import StoreVersions
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.checkpoints.weights_cache import WeightsCache
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from tests.real_engine.weight_swap.steps import LONG_PROMPT, PROMPT, greedy, in_flight, request, swap
from tests.support.weights.following import following, served
from tests.support.worker_process import until_true

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]
POLICY = "stored-adapters"


def peft_model(folder: Path) -> Any:
    """Only one layer of it is trained, so that most of the adapter stays as it is."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), config)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".layers.0.self_attn.q_proj.lora_" in name
    return model


def train(model: Any) -> None:
    """A step."""
    optimiser = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.05)
    rows = torch.tensor([LONG_PROMPT[:40]])
    model(rows, labels=rows).loss.backward()
    optimiser.step()
    optimiser.zero_grad()


def logprobs(model: Any, prompt: list[int], tokens: list[int]) -> list[float]:
    """The trainer's own, of `tokens` after `prompt`."""
    with torch.no_grad():
        found = model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
    return [found[len(prompt) - 1 + at, token].item() for at, token in enumerate(tokens)]


async def test_vllm_gives_the_trainers_log_probs_after_an_anchor_and_a_delta(
    engine: VllmEngine, models: list[Path], redis_url: str, tmp_path: Path
) -> None:
    await swap(engine, models[0])
    (tmp_path / "store").mkdir()
    weights, keys, cache = store_of(tmp_path / "store", Keys(POLICY)), Keys(POLICY), CacheFolder(tmp_path / "adapters")
    kept = WeightsCache(root=tmp_path / "cache", model=models[0])
    checkpoints = CheckpointSupply(
        folder=None, cache=kept, store=StoreVersions(store=weights, cache=kept, model=models[0]), timeout_s=60
    )
    folder = AdapterFolder(root=None, max_rank=16, model=models[0])
    folder._ids = itertools.count(1600)  # the engine has those of other tests
    cache.open()
    checkpoints.open()
    model = peft_model(models[0])
    async with (
        AsyncClient(redis_url, policy=POLICY, weights=tmp_path / "store") as trainer,
        connect(redis_url) as redis,
    ):
        store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=2**30, cache_bytes=2**30)
        adapters = AdapterSupply(engine=engine, folder=folder, store=store)
        followed = make_follower(
            redis=redis, keys=keys, engine=engine, adapters=adapters, checkpoints=checkpoints, proofs=Proofs(),
            swap="keep", changed=lambda: None, measures=Measures(),
        )  # fmt: skip
        async with following(followed):
            running: asyncio.Future[Any] | None = None
            expected: list[tuple[list[int], list[float]]] = []
            for version in (1, 2):
                train(model)
                probe = make_probe(model, [LONG_PROMPT[:30], LONG_PROMPT[30:50]])
                announced = await trainer.publish_policy(version, model=model, probe=probe)
                await until_true(served(followed, version), timeout_s=60)
                found = await greedy(engine, PROMPT, followed.serving.adapter)
                tokens = found.token_ids.tolist()
                expected.append((tokens, logprobs(model, PROMPT, tokens)))
                assert found.logprobs == pytest.approx(expected[-1][1], abs=1e-4)
                if running is None:
                    long = request(adapter=followed.serving.adapter, temperature=0, max_new_tokens=300)
                    running = await in_flight(engine, [long])
            manifests = await read_chain(weights, announced.location)
            assert (len(manifests), announced.base) == (2, 1)
            assert manifests[1].num_bytes < manifests[0].num_bytes / 5
            assert running is not None
            ((old,),) = await running
            assert old.token_ids.tolist()[:24] == expected[0][0]
            assert old.logprobs[:24] == pytest.approx(expected[0][1], abs=1e-4)
            difference = max(
                abs(one - other)
                for one, other in zip(expected[0][1], logprobs(model, PROMPT, expected[0][0]), strict=True)
            )
            assert difference > 1e-3, "the step changed nothing that could be seen"

            wrong = make_probe(peft_model(models[1]), [LONG_PROMPT[:30]])
            await trainer.publish_policy(3, model=model, probe=wrong)
            await until_true(lambda: "version 3 does not reproduce its probe" in followed.error)
            assert followed.serving.version == 2
    await checkpoints.close()
    cache.close()
