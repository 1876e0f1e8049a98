"""A worker with `--golden` gives the recorded tokens and log-probs again before it takes a job, or ends with exit 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rollstream.schemas import AdapterManifest, GenerationConfig, Golden, encode
from rollstream.schemas.weights.tensor_digest import TensorEntry, bytes_digest, tensors_digest
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import SettingsError
from rollstream.worker.startup.golden_jobs import read_golden_jobs, reproduce
from rollstream.worker.weights import checkpoint
from tests.support.weights.golden_jobs import golden, golden_batch, sampled_by, with_logprob
from tests.support.weights.probes import one_wrong
from tests.support.worker_process import WorkerProcess, running_worker

GREEDY = GenerationConfig(max_new_tokens=12, temperature=0.0)
SEEDED = GenerationConfig(max_new_tokens=12, seed=7, num_return_sequences=2)
PROMPTS = [[5, 6], [7], [8, 9, 10]]


def settings(**given: object) -> WorkerSettings:
    known = {"policy": "test", "engine": "stub", "stub_vocab_size": 100, "max_model_len": 64}
    return WorkerSettings(**known | given)  # type: ignore[arg-type] # as the environment would give them


async def recorded(**fields: object) -> Golden:
    """Greedy and seeded jobs as the stub engine answers them."""
    engine = StubEngine(settings())
    batches = [await sampled_by(engine, config, PROMPTS) for config in (GREEDY, SEEDED)]
    return golden(*batches, **{"model": ""} | fields)


async def refused(whole: Golden, **given: object) -> str:
    """Why a worker with these jobs ends."""
    with pytest.raises(SettingsError) as error:
        await reproduce(whole, StubEngine(settings(**given)), settings(golden=Path("jobs.golden"), **given))
    return str(error.value)


async def test_the_engine_that_recorded_them_reproduces_them() -> None:
    await reproduce(await recorded(), StubEngine(settings()), settings())


async def test_each_engine_of_a_worker_reproduces_them() -> None:
    given = settings(golden=Path("jobs.golden"))
    one_job = golden(await sampled_by(StubEngine(given), GREEDY, PROMPTS[:1]), model="")

    with pytest.raises(SettingsError, match=r"jobs\.golden: case 0"):
        await reproduce(one_job, one_wrong(given), given)


async def test_without_golden_jobs_nothing_is_asked_of_the_engine() -> None:
    engine = StubEngine(settings())
    del engine._places

    await reproduce(None, engine, settings())


async def test_another_log_prob_is_named_with_case_place_and_numbers() -> None:
    told = await refused(with_logprob(await recorded(), 1, 12, -30.0))

    assert "--golden jobs.golden: case 3 (batch 1, row 0), sample 1: token 0 (id " in told
    assert "has log-prob -30.0000 in the file" in told
    assert "scored now" in told
    assert "recorded with stub in float32, this worker runs stub in float32" in told


async def test_seeds_follow_from_the_rows_as_for_a_job_of_the_queue() -> None:
    whole = await recorded()
    turned = await sampled_by(StubEngine(settings()), SEEDED, PROMPTS[::-1])

    told = await refused(golden(turned.model_copy(update={"prompt_ids": whole.batches[1].prompt_ids,
        "prompt_lengths": whole.batches[1].prompt_lengths}), model=""))  # fmt: skip

    assert "case 0" in told


async def test_another_dtype_is_told() -> None:
    told = await refused(with_logprob(await recorded(dtype="bfloat16"), 0, 0, -40.0))

    assert "2 allowed" in told
    assert "recorded with stub in bfloat16, this worker runs stub in float32" in told


async def test_jobs_of_another_vocabulary_are_refused() -> None:
    told = await refused(await recorded(), stub_vocab_size=50)

    assert "its model knows 100 ids, this one 50" in told


async def test_a_job_that_this_worker_cannot_sample_is_refused_with_its_case() -> None:
    told = await refused(await recorded(), max_model_len=14)

    assert "case 2 (batch 0, row 2): the worker refuses it: 3 prompt tokens + max_new_tokens=12" in told


async def test_jobs_that_fill_the_model_to_its_last_token_are_reproduced() -> None:
    await reproduce(await recorded(), StubEngine(settings(max_model_len=15)), settings(max_model_len=15))


def digest_of_tensors(folder: Path) -> str:
    """As a trainer's that publishes them through the weight store."""
    tensors = load_file(folder / "model.safetensors")
    return tensors_digest(
        TensorEntry(name, "F32", tuple(one.shape), bytes_digest(one.numpy().tobytes())) for name, one in tensors.items()
    )


async def test_jobs_of_a_later_version_need_a_worker_that_boots_with_it(models: Path) -> None:
    digest = checkpoint.digest(models / "step-2")
    later = await recorded(policy_version=7, policy_sha256=digest)
    of_tensors = await recorded(policy_version=7, policy_sha256=digest_of_tensors(models / "step-2"))

    told = await refused(later, model=models / "step-1")
    unknown = await refused(later)
    for whole in (later, of_tensors):
        await reproduce(whole, StubEngine(settings()), settings(model=models / "step-2", golden=Path("g")))

    assert f"recorded under policy version 7 ({digest[:12]}), and --model has other content" in told
    assert "--model has other content" in unknown


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (lambda: b"", "holds no golden jobs"),
        (lambda: encode(AdapterManifest(
            name="a@1", sha256="0" * 64, config=b"", num_bytes=1, chunk_bytes=1, published_at=1.0
        )), "kind"),
        (lambda: encode(golden(golden_batch(GREEDY, [((7,), (-1.0,))]))), "with the model 'm', this one is ''"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_meant_is_refused_before_the_model_is_loaded(
    tmp_path: Path, content: Callable[[], bytes], problem: str
) -> None:
    (tmp_path / "g").write_bytes(content())

    with pytest.raises(SettingsError, match=problem) as error:
        read_golden_jobs(settings(golden=tmp_path / "g"))

    assert str(tmp_path / "g") in str(error.value)


async def test_a_worker_says_that_it_reproduced_them_and_serves(redis_url: str, policy: str, tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(encode(await recorded()))

    with running_worker(
        redis_url, policy, "--engine", "stub", "--stub-vocab-size", "100", "--golden", str(tmp_path / "g")
    ) as worker:
        assert "golden reproduced" in worker.log
        assert "completions=9" in worker.log


async def test_a_worker_that_does_not_reproduce_them_exits_2_without_a_job(
    redis_url: str, policy: str, tmp_path: Path
) -> None:
    (tmp_path / "g").write_bytes(encode(with_logprob(await recorded(), 0, 3, -30.0)))

    worker = WorkerProcess(
        redis_url, policy, "--engine", "stub", "--stub-vocab-size", "100", "--golden", str(tmp_path / "g")
    )
    try:
        assert worker.process.wait(30) == 2
    finally:
        worker.end()

    assert "rollstream-worker: --golden" in worker.log
    assert "case 0 (batch 0, row 0), sample 0: token 3" in worker.log
    assert "serving" not in worker.log
