"""A mixture of experts samples from the new weights after a live swap, on the CPU build, which packs and pads experts.

Without packing them again it is 7 nats off, and a width that is no multiple of 32 ends the worker at the swap.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import CheckpointRefusedError, EngineDiedError, ProofFailedError, SettingsError
from rollstream.worker.requests import ScoreRequest
from rollstream.worker.weights import checkpoint
from tests.real_engine.weight_swap.probes import ROWS, Proof
from tests.real_engine.weight_swap.steps import in_flight, request, swap
from tests.support.engine.engine_requests import end
from tests.support.engine.transformers_reference import Reference
from tests.support.told_versions import RELEASE, sampled_by_old
from tests.support.weights.harmful_reload import harm_next, with_harm

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PACKS_AGAIN = RELEASE >= (0, 28)
needs_packing = pytest.mark.skipif(not PACKS_AGAIN, reason="this vLLM cannot pack experts again")

ROW = [(i * 37) % 500 + 3 for i in range(150)]
SHAPE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "vocab_size": 512, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts_per_tok": 2,
}  # fmt: skip
QWEN: dict[str, Any] = {
    **SHAPE, "intermediate_size": 128, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip
PADDED = "Qwen3-MoE, padded"
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    PADDED: ("qwen3_moe", {**QWEN, "moe_intermediate_size": 48}),
    "Qwen3-MoE": ("qwen3_moe", {**QWEN, "moe_intermediate_size": 64}),
    "Mixtral": ("mixtral", {**SHAPE, "num_local_experts": 4, "intermediate_size": 96}),
    "Mixtral, padded": ("mixtral", {**SHAPE, "num_local_experts": 4, "intermediate_size": 80}),
}


@dataclass(frozen=True)
class Mixture:
    """A running engine and its steps of training."""

    family: str
    engine: VllmEngine
    steps: tuple[Path, ...]

    async def serves(self, step: Path) -> bool:
        """Whether a row has the log-probs that transformers gives it."""
        asked = ScoreRequest(request_id=step.name, token_ids=ROW, first=1, top_logprobs=0, adapter=None)
        found = await self.engine.score(asked)
        return bool(found.logprobs == pytest.approx(Reference(step).logprobs(ROW[:1], ROW[1:]), abs=1e-4))


def write(folder: Path, family: str, seed: int) -> Path:
    torch.manual_seed(seed)
    kind, shape = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


def experts_reached(step: Path, rows: list[list[int]]) -> tuple[int, int]:
    """How many experts of all layers transformers sends the tokens of `rows` to, and how many there are."""
    model = AutoModelForCausalLM.from_pretrained(step)
    reached: set[tuple[int, int]] = set()
    for row in rows:
        with torch.inference_mode():
            logits = model(torch.tensor([row]), output_router_logits=True).router_logits
        for layer, of_layer in enumerate(logits):
            reached.update((layer, int(expert)) for expert in of_layer.topk(2).indices.unique())
    return len(reached), 4 * len(logits)


def settings(model: Path, **fields: Any) -> WorkerSettings:
    small = {"dtype": "float32", "kv_cache_bytes": 16 * 2**20, "max_num_seqs": 8}
    return WorkerSettings(policy="test", model=model, **{**small, **fields})


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[
        pytest.param(PADDED, marks=needs_packing),
        pytest.param("Qwen3-MoE", marks=needs_packing),
        *(pytest.param(family, marks=[pytest.mark.large, needs_packing]) for family in FAMILIES if "Mixtral" in family),
    ],
)
async def mixture(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mixture]:
    root = tmp_path_factory.mktemp("mixture")
    steps = tuple(write(root / f"step-{step}", request.param, step) for step in range(2))
    with pytest.MonkeyPatch.context() as patch:
        with_harm(patch)
        engine = VllmEngine(settings(steps[0]))
        await engine.start()
    yield Mixture(request.param, engine, steps)
    await end(engine)


async def test_a_mixture_samples_from_the_new_weights_after_each_swap(mixture: Mixture) -> None:
    old, new = mixture.steps
    assert await mixture.serves(old)

    for step in (new, old, new):
        await swap(mixture.engine, step)
        assert await mixture.serves(step)


async def test_a_mixture_that_was_prepared_samples_from_the_new_weights(mixture: Mixture) -> None:
    for step in reversed(mixture.steps):
        await mixture.engine.prepare(step, checkpoint.read_content(step))
        await swap(mixture.engine, step)
        assert await mixture.serves(step)


async def test_what_is_kept_goes_on_with_the_new_experts(mixture: Mixture) -> None:
    old, new = mixture.steps
    before = await swap(mixture.engine, old)
    answers = await in_flight(
        mixture.engine, [request(num_return_sequences=4, seed=7, max_new_tokens=120, logprobs="processed")]
    )

    after = await swap(mixture.engine, new)

    (completions,) = await answers
    for found in completions:
        assert [version for version, _ in found.version_spans] == [before, after]
        tokens, prompt = found.token_ids.tolist(), request().prompt
        by_old, by_new = (Reference(step).logprobs(prompt, tokens) for step in (old, new))
        count = sampled_by_old(found, before, by_old, by_new)
        assert found.logprobs[:count] == pytest.approx(by_old[:count], abs=1e-4)
        assert found.logprobs[count:] == pytest.approx(by_new[count:], abs=1e-4)


async def test_a_checkpoint_that_does_not_fit_leaves_the_experts_as_they_are(mixture: Mixture, tmp_path: Path) -> None:
    _, new = mixture.steps
    await swap(mixture.engine, new)
    for path in new.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])

    with pytest.raises(CheckpointRefusedError):
        await swap(mixture.engine, tmp_path)

    assert await mixture.serves(new)


async def test_experts_that_are_not_packed_fail_their_proof_and_leave_no_trace(mixture: Mixture) -> None:
    if "padded" in mixture.family:
        pytest.skip("the kernel cannot run experts that are neither packed nor padded")
    old, new = mixture.steps
    before = await swap(mixture.engine, old)
    asked = request(num_return_sequences=4, seed=7, max_new_tokens=120, logprobs="processed")
    undisturbed = await mixture.engine.generate(asked)
    answers = await in_flight(mixture.engine, [asked])
    await harm_next(mixture.engine, "unpacked")

    with pytest.raises(ProofFailedError) as raised:
        await mixture.engine.load_checkpoint(99, new, "keep", None, Proof(Reference(new)))

    assert raised.value.mean > 1
    for found, expected in zip((await answers)[0], undisturbed, strict=True):
        assert found.token_ids.tolist() == expected.token_ids.tolist()
        assert found.version_spans == ((before, 120),)
    assert await mixture.serves(old)


@needs_packing
@pytest.mark.large
async def test_experts_that_are_not_packed_when_old_weights_come_back_end_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (write(tmp_path / f"step-{step}", "Qwen3-MoE", step) for step in range(2))
    with_harm(monkeypatch)
    engine = VllmEngine(settings(old))
    await engine.start()
    try:
        await harm_next(engine, "unpacked, for ever")

        with pytest.raises(EngineDiedError, match=r"version 1 failed .*before it are gone: their log-probs are \d\.\d"):
            await engine.load_checkpoint(1, new, "keep", None, Proof(Reference(new)))
    finally:
        await end(engine)


async def test_a_proof_says_how_many_experts_its_probe_reached(mixture: Mixture) -> None:
    few = [ROWS[0][:2]]
    assert experts_reached(mixture.steps[0], few) < (8, 8)

    for step, rows in zip(mixture.steps[::-1], (ROWS, few), strict=True):
        await mixture.engine.load_checkpoint(99, step, "keep", None, Proof(Reference(step), rows))

        assert mixture.engine.experts_reached == experts_reached(step, rows)


@pytest.mark.skipif(PACKS_AGAIN, reason="this vLLM packs experts again")
@pytest.mark.parametrize("family", ["Qwen3-MoE", "Mixtral"])
async def test_where_experts_cannot_be_packed_again_a_swap_is_refused_by_name(tmp_path: Path, family: str) -> None:
    old, new = (write(tmp_path / f"step-{step}", family, step) for step in range(2))
    engine = VllmEngine(settings(old))
    await engine.start()
    try:
        with pytest.raises(CheckpointRefusedError, match=r"no swap: its layer .* in a form which cannot be made again"):
            await swap(engine, new)

        assert await Mixture(family, engine, (old, new)).serves(old)
    finally:
        await end(engine)


@pytest.mark.skipif(PACKS_AGAIN, reason="this vLLM pads experts")
async def test_where_experts_are_not_padded_a_width_that_needs_it_is_refused_at_the_start(tmp_path: Path) -> None:
    engine = VllmEngine(settings(write(tmp_path, PADDED, 0)))

    with pytest.raises(SettingsError, match=r"vLLM did not start: .*cpu_fused_moe.*Check failed: output_size_13 % "):
        await engine.start()

    await end(engine)


@pytest.mark.large
async def test_a_mixture_with_lora_is_refused_at_the_start_by_name(tmp_path: Path) -> None:
    engine = VllmEngine(settings(write(tmp_path, PADDED, 0), lora=True))

    with pytest.raises(SettingsError, match="CPU build runs no mixture of experts with LoRA: start the worker without"):
        await engine.start()

    await end(engine)
