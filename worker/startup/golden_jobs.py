"""Golden jobs of the boot model: sampled and scored by the engine as it runs here, before the worker takes any job."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from rollstream.schemas import Golden
from rollstream.schemas.golden.comparison import Comparison, Now, compare
from rollstream.schemas.golden.origin import made_with, other_model, recorded_with, version_of
from rollstream.schemas.message_files import GOLDEN_FILES, MessageFileError
from rollstream.schemas.wire.proofs.golden import Case

from ..config import WorkerSettings
from ..engine import Engine, EngineInfo
from ..errors import CheckpointRefusedError, DataError, SettingsError
from ..jobs import request_checks
from ..jobs.seeds import prompt_seed
from ..requests import GenerateRequest, ScoreRequest
from ..weights import checkpoint

log = structlog.get_logger()


def read_golden_jobs(settings: WorkerSettings) -> Golden | None:
    """What `--golden` names; None without it. Raises `SettingsError`."""
    if settings.golden is None:
        return None
    try:
        golden = GOLDEN_FILES.read(settings.golden)
    except MessageFileError as error:
        raise SettingsError(f"--golden: {error}") from None
    if problem := _other_model(golden, settings, golden.vocab_size):
        raise SettingsError(f"--golden {settings.golden}: {problem}")
    return golden


async def reproduce(golden: Golden | None, engine: Engine, settings: WorkerSettings) -> None:
    """Have each engine sample and score the golden jobs with the boot weights, and compare; nothing without any.

    Raises `SettingsError` with the first difference, `EngineDiedError`.
    """
    if golden is None:
        return
    if problem := _other_model(golden, settings, engine.info.vocab_size):
        raise SettingsError(f"--golden {settings.golden}: {problem}")
    await _check_version(golden, settings)
    for one in engine.each():
        await _compare(golden, one, settings.golden)


async def _compare(golden: Golden, engine: Engine, path: Path | None) -> None:
    began, info = time.monotonic(), engine.info
    given = await asyncio.gather(*(_give(case, engine) for case in golden.cases))
    found = compare(golden, given, info.dtype)
    here = made_with(info.runs_on, info.dtype)
    if found.problem:
        made = f"recorded with {recorded_with(golden)}, this worker runs {here}"
        raise SettingsError(f"--golden {path}: {found.problem}; {made}")
    log.info(
        "golden reproduced",
        **_numbers(found),
        recorded_with=recorded_with(golden),
        seconds=round(time.monotonic() - began, 3),
    )


def _other_model(golden: Golden, settings: WorkerSettings, vocab_size: int) -> str:
    problem = other_model(golden, model=settings.model_name, vocab_size=vocab_size)
    return problem and f"{problem}: give a file that was recorded with this model, or leave the flag out"


async def _check_version(golden: Golden, settings: WorkerSettings) -> None:
    """Raises `SettingsError` unless the boot model is the version that the file was recorded under."""
    if golden.policy_version == 0:
        return
    if settings.model is None or not await asyncio.to_thread(_holds, settings.model, golden.policy_sha256):
        problem = f"it was recorded under policy {version_of(golden)}, and --model has other content"
        remedy = "boot from that version's folder, or record again from workers that serve their boot model"
        raise SettingsError(f"--golden {settings.golden}: {problem}: {remedy}")


def _holds(model: Path, sha256: str) -> bool:
    try:
        return checkpoint.holds(model, sha256)
    except CheckpointRefusedError as error:
        raise SettingsError(f"--model: {error}") from None


async def _give(case: Case, engine: Engine) -> list[Now] | str:
    """The case's completions of now, or why the engine refuses it."""
    try:
        completions = await engine.generate(_request(case, engine.info))
        scored = [await _score(case, sample, engine) for sample in range(len(case.completions))]
    except DataError as error:
        return f"the worker refuses it: {error}"
    given = zip(completions, scored, strict=False)  # `compare` counts them
    return [Now(token_ids=one.token_ids, logprobs=one.logprobs, scored=known) for one, known in given]


def _request(case: Case, info: EngineInfo) -> GenerateRequest:
    """The request that the same job gives when it comes from the queue. Raises `DataError`."""
    config = case.config
    request_checks.check_config(config, info)
    request_checks.check_prompt(case.prompt, config, info)
    return GenerateRequest(
        request_id=f"golden/{case.batch}/{case.row}",
        prompt=case.prompt.tolist(),
        config=config,
        stop_token_ids=request_checks.stop_ids(config, info),
        seed=None if config.seed is None else prompt_seed(config.seed, case.row),
        adapter=None,
        late_stop_ids=request_checks.late_stop_ids(config, info),
    )


async def _score(case: Case, sample: int, engine: Engine) -> NDArray[np.float32]:
    """The model's own log-probs of the recorded tokens."""
    row = [*case.prompt.tolist(), *case.completions[sample].token_ids.tolist()]
    request = ScoreRequest(
        request_id=f"golden/{case.batch}/{case.row}/{sample}",
        token_ids=row,
        first=len(case.prompt),
        top_logprobs=0,
        adapter=None,
    )
    return (await engine.score(request)).logprobs


def _numbers(found: Comparison) -> dict[str, float]:
    apart = found.differences
    return {
        "completions": len(found.findings),
        "tokens": sum(finding.tokens for finding in found.findings),
        "diverged": found.diverged,
        "mean_nats": round(float(apart.mean()), 6),
        "largest_nats": round(float(apart.max()), 6),
    }
