"""The arms that are compared: vLLM's `AsyncLLM` in this process, and Rollstream from `submit` to tensors."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import time
from pathlib import Path
from typing import Any, Protocol

from benchmarks.support.workload import Load, Workload
from rollstream import AsyncClient
from rollstream.schemas import RollstreamError
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm import setup, translation
from rollstream.worker.requests import GenerateRequest

_numbers = itertools.count()
TUNED = ("disable_log_stats", "max_num_seqs", "enable_prefix_caching", "max_logprobs", "logprobs_mode")
"""Engine arguments for which the worker has another default than vLLM."""


class WrongOutputError(RollstreamError):
    """Raised when an arm did not generate what it should: its time would mean nothing."""


class Arm(Protocol):
    """One way to generate a workload."""

    name: str

    async def run(self, workload: Workload) -> float:
        """Generate the workload; returns the seconds. Raises `WrongOutputError` when a token is missing."""


class Rollstream:
    """Through `AsyncClient.submit`, Redis, worker processes and results, to padded tensors."""

    def __init__(self, client: AsyncClient, name: str = "rollstream", *, keep_partials: float | None = None) -> None:
        """`keep_partials`: see `SubmitOptions`."""
        self.name = name
        self._client = client
        self._keep_partials = keep_partials

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        began = time.perf_counter()
        tokens = await asyncio.gather(*(self._one(workload, batch) for batch in workload.batches))
        seconds = time.perf_counter() - began
        _check(sum(tokens), workload)
        return seconds

    async def _one(self, workload: Workload, batch: Load) -> int:
        handle = await self._client.submit(
            batch.prompts,
            None,
            batch.config,
            adapter=batch.adapter,
            prompts_per_job=workload.prompts_per_job,
            keep_partials=self._keep_partials,
        )
        rollouts = await handle.result(timeout=300)
        if rollouts.errors:
            raise WrongOutputError(f"{len(rollouts.errors)} groups failed: {rollouts.errors}")
        return int(rollouts.response_lengths.sum())


class Raw:
    """`AsyncLLM.generate` for every prompt at once.

    It is started and called as the worker does (engine arguments, final outputs only, flat log-probs, one request for
    n). With `default`: with vLLM's own defaults, except final outputs only, without which n samples would be lost.
    """

    def __init__(self, settings: WorkerSettings, *, default: bool = False) -> None:
        self.name = "AsyncLLM, default" if default else "AsyncLLM"
        self._settings = settings
        self._default = default
        self._llm: Any = None
        self._adapters: dict[str, Any] = {}

    async def start(self) -> float:
        """Load the model; returns the seconds, without the import of vLLM. Blocks."""
        setup.prepare_environment(os.environ)
        from vllm import AsyncEngineArgs  # noqa: PLC0415 - it reads the environment
        from vllm.platforms import current_platform  # noqa: PLC0415
        from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

        on_cpu = current_platform.is_cpu()
        if on_cpu:
            setup.prepare_cpu_environment(os.environ)
        began = time.perf_counter()
        self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments(on_cpu=on_cpu)))
        return time.perf_counter() - began

    @property
    def limits(self) -> dict[str, int]:
        """The engine's limits that follow from its arguments."""
        scheduler = self._llm.vllm_config.scheduler_config
        return {name: getattr(scheduler, name) for name in ("max_num_seqs", "max_num_batched_tokens")}

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        for batch in workload.batches:
            await self._load_adapter(batch.adapter)
        began = time.perf_counter()
        tokens = await asyncio.gather(*(self._one(b, prompt) for b in workload.batches for prompt in b.prompts))
        seconds = time.perf_counter() - began
        _check(sum(tokens), workload)
        return seconds

    def close(self) -> None:
        """End the engine's processes."""
        if self._llm is not None:
            self._llm.output_handler.cancel()
            self._llm.shutdown(timeout=10)
            self._llm = None

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        arguments = setup.engine_arguments(self._settings, on_cpu=on_cpu)
        if self._default:
            for tuned in TUNED:
                arguments.pop(tuned)
        return arguments

    async def _one(self, batch: Load, prompt: list[int]) -> int:
        from vllm import SamplingParams  # noqa: PLC0415 - see `start`
        from vllm.inputs import tokens_input  # noqa: PLC0415
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        fields = translation.sampling_fields(
            GenerateRequest(
                request_id="", prompt=prompt, config=batch.config, stop_token_ids=(), seed=None, adapter=None
            )
        )
        params = SamplingParams(**fields, output_kind=RequestOutputKind.FINAL_ONLY, flat_logprobs=not self._default)
        lora = None if batch.adapter is None else self._adapters[batch.adapter]
        last: Any = None
        async for output in self._llm.generate(
            tokens_input(prompt), params, f"raw-{next(_numbers)}", lora_request=lora
        ):
            last = output
        return sum(len(completion.token_ids) for completion in last.outputs)

    async def _load_adapter(self, name: str | None) -> None:
        if name is None or name in self._adapters or self._settings.adapter_dir is None:
            return
        from vllm.lora.request import LoRARequest  # noqa: PLC0415 - see `start`

        path: Path = self._settings.adapter_dir / name
        request = LoRARequest(lora_name=name, lora_int_id=len(self._adapters) + 1, lora_path=str(path))
        await self._llm.add_lora(request)
        self._adapters[name] = request


def _check(tokens: int, workload: Workload) -> None:
    if tokens != workload.tokens:
        raise WrongOutputError(f"{workload.name}: {tokens} of {workload.tokens} tokens")


async def interleaved(arms: list[Any], workload: Workload, repeats: int) -> dict[str, list[float]]:
    """Tokens/s of each arm, run in turns: A B C, A B C, ...

    A full garbage collection would walk a million objects of imports and take 0.4 s from one arm, so these objects are
    frozen. A worker and vLLM's server do the same.
    """
    gc.collect()
    gc.freeze()
    found: dict[str, list[float]] = {arm.name: [] for arm in arms}
    try:
        for _ in range(repeats):
            for arm in arms:
                found[arm.name].append(workload.tokens / await arm.run(workload))
    finally:
        gc.unfreeze()
    return found
