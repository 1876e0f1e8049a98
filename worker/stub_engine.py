"""An engine without a model: uniform made-up tokens, the same for the same prompt and seed, at a set speed."""

from __future__ import annotations

import asyncio
import hashlib
import os

import numpy as np

from worker.config import WorkerSettings
from worker.engine import Adapter, Completion, EngineInfo, GenerateRequest

_EOS = 2


class StubEngine:
    """For queue tests, load tests and demos without vLLM; it never stands in where generation itself is tested."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._tokens_per_s = settings.stub_tokens_per_s
        self._poison = settings.stub_poison_token
        self._slots = asyncio.Semaphore(settings.max_num_seqs)
        self._info = EngineInfo(
            vocab_size=settings.stub_vocab_size,
            max_model_len=settings.max_model_len or 4096,
            max_num_seqs=settings.max_num_seqs,
            eos_token_ids=(_EOS,),
            max_logprobs=128,
            logprobs_flavour=settings.logprobs_mode,
            has_tokenizer=False,
        )

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return self._info

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """n completions whose tokens follow from prompt, seed, sample and adapter alone."""
        if self._poison in request.prompt:
            os._exit(70)
        samples = range(request.config.num_return_sequences)
        return list(await asyncio.gather(*(self._sample(request, sample) for sample in samples)))

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None
    ) -> list[tuple[int, float]]:
        """The k likeliest of a made-up distribution that follows from the prompt."""
        logits = _generator(prompt, adapter, 0).standard_normal(self._info.vocab_size)
        logprobs = logits - np.log(np.exp(logits).sum())
        best = np.argsort(-logprobs)[:k]
        await self._spend(1)
        return [(int(token), float(logprobs[token])) for token in best]

    async def load_adapter(self, adapter: Adapter) -> None:
        """Nothing to load."""

    async def check(self) -> None:
        """Always well."""

    async def close(self) -> None:
        """Nothing to end."""

    async def _sample(self, request: GenerateRequest, sample: int) -> Completion:
        config = request.config
        generator = _generator(request.prompt, request.adapter, (request.seed or 0) + sample)
        tokens = generator.integers(0, self._info.vocab_size, config.max_new_tokens).astype(np.int32)
        stops = np.flatnonzero(np.isin(tokens, request.stop_token_ids))
        stops = stops[stops >= config.min_new_tokens]
        length = int(stops[0]) + 1 if len(stops) else config.max_new_tokens
        tokens = tokens[:length]
        await self._spend(length)
        logprob = np.float32(-np.log(self._info.vocab_size))
        return Completion(
            token_ids=tokens,
            logprobs=np.full(length, logprob) if config.logprobs else None,
            finish_reason="stop" if len(stops) else "length",
            stop_reason=int(tokens[-1]) if len(stops) else None,
            version_spans=((0, length),),
        )

    async def _spend(self, tokens: int) -> None:
        async with self._slots:
            await asyncio.sleep(tokens / self._tokens_per_s if self._tokens_per_s else 0)


def _generator(prompt: list[int], adapter: Adapter | None, seed: int) -> np.random.Generator:
    text = f"{prompt}|{adapter.name if adapter else ''}|{seed}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
