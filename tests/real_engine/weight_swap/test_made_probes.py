"""What `make_probe` takes from a transformers model is what the engine computes with those weights, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rollstream import make_probe
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import ProofFailedError
from rollstream.worker.versions.proofs import Proofs
from tests.real_engine.weight_swap.steps import swap, versions

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def test_a_made_probe_is_reproduced_by_its_own_weights_alone(
    engine: VllmEngine, models: list[Path], tiny_model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    probe = make_probe(AutoModelForCausalLM.from_pretrained(models[1]), tokenizer)
    before, proofs = await swap(engine, models[0]), Proofs()

    version = next(versions)
    with proofs.loading(version, probe, engine.info) as prove:
        await engine.load_checkpoint(version, models[1], "keep", prove=prove)
    proof = proofs.of(version)
    assert proof is not None
    assert (proof.rows, proof.tokens, engine.policy_version) == (len(probe.rows), 512 - len(probe.rows), version)
    assert proof.largest < 1e-4

    other = next(versions)
    with pytest.raises(ProofFailedError) as failed, proofs.loading(other, probe, engine.info) as prove:
        await engine.load_checkpoint(other, models[2], "keep", prove=prove)
    assert failed.value.mean > 1
    assert before < engine.policy_version == version
    assert not proofs.allows(other)
