"""An engine without a model. It makes up uniform tokens at a set speed, the same for one prompt, seed and version."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rollstream.transport.rounds.links import Link

from ..config import WorkerSettings
from ..engine import Collector, EngineInfo, Incoming, Prove, SwapMode
from ..errors import RoundMissedError
from ..requests import (
    Adapter,
    Completion,
    Expanded,
    GenerateRequest,
    NextTokens,
    Partial,
    Picture,
    ScoreRequest,
    Scores,
)
from ..weights import checkpoint
from .stub_images import StubImages
from .stub_likelihoods import generator, likelihoods
from .stub_link import linked, taken
from .stub_places import Places
from .stub_plans import Plans, named
from .stub_routing import offered
from .stub_sampling import Sampling

_EOS = 2


class StubEngine:
    """For tests of the queue, load tests and demos without vLLM; never for tests of generation itself.

    What it scores follows from the number of its version alone: another stub of that version says what a right probe
    holds, and any other numbers make a wrong one. While a version proves itself the version before samples on.

    It changes in the worker's event loop: a swap, one at a time, sets the version and counts aborts.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._tokens_per_s = settings.stub_tokens_per_s
        self._poison = settings.stub_poison_token
        self._plans = Plans(vocab_size=settings.stub_vocab_size, long_tail=settings.stub_long_tail)
        self._images = StubImages(token=settings.stub_image_token, most=settings.max_images)
        self._places = Places(settings.max_num_seqs)
        self._samplings: dict[str, list[Sampling]] = {}
        self._booted = checkpoint.Booted(folder=settings.model) if settings.model else None
        self._version = 0
        self._aborts = 0
        self._swapped = asyncio.Event()
        self._one_swap = asyncio.Lock()
        self._link: Link | None = None
        self._info = EngineInfo(
            vocab_size=settings.stub_vocab_size,
            max_model_len=settings.max_model_len or 4096,
            max_num_seqs=settings.max_num_seqs,
            step_tokens=8192,
            eos_token_ids=(_EOS,),
            max_logprobs=128,
            ranks=int(settings.weight_transfer is not None),
            logprobs_flavour=settings.logprobs_mode,
            has_tokenizer=False,
            dtype="float32" if settings.dtype == "auto" else settings.dtype,
            runs_on="stub",
            **offered(
                {"top_logprobs", "label_token_ids", "sampling_support", *self._images.features},
                self._images.info,
                routed=settings.routed_experts,
            ),
        )

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return self._info

    @property
    def policy_version(self) -> int:
        """See `Engine.policy_version`."""
        return self._version

    @property
    def experts_reached(self) -> None:
        """It has no experts."""

    def each(self) -> tuple[StubEngine]:
        """Itself."""
        return (self,)

    async def start(self) -> None:
        """Nothing to load."""

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """n completions whose tokens follow only from prompt, seed, sample, adapter and version."""
        self._die_of(request.prompt)
        samples = [
            Sampling(request=request, sample=sample, vocab_size=self._info.vocab_size)
            for sample in range(request.config.num_return_sequences)
        ]
        self._samplings[request.request_id] = samples
        try:
            if len(samples) == 1:
                return [await self._sample(samples[0])]
            return list(await asyncio.gather(*map(self._sample, samples)))
        finally:
            self._samplings.pop(request.request_id, None)

    def partials(self, request_id: str) -> list[Partial]:
        """What its speed would have made by now."""
        samplings = self._samplings.get(request_id, ())
        now = asyncio.get_running_loop().time()
        found = (sampling.partial(now, self._tokens_per_s) for sampling in samplings)
        return [partial for partial in found if partial is not None]

    async def release(self) -> None:
        """Nothing to hand over."""

    async def memory_use(self) -> None:
        """It has no KV cache."""

    async def expand(self, prompt: list[int], pictures: Sequence[Picture]) -> Expanded:
        """See `StubImages`."""
        return self._images.expand(prompt, pictures)

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
    ) -> NextTokens:
        """The k likeliest tokens of a made-up distribution that follows from prompt, adapter and version."""
        async with self._places.one():
            await self._spend(1)
            version = self._version
        logits = generator(prompt, named(adapter, images), 0, version).standard_normal(self._info.vocab_size)
        logprobs = logits - np.log(np.exp(logits).sum())
        best = np.argsort(-logprobs)[:k]
        return NextTokens(candidates=tuple((int(token), float(logprobs[token])) for token in best), version=version)

    async def score(self, request: ScoreRequest) -> Scores:
        """Made-up log-probs: that of a token follows from what comes before it, the adapter and the version."""
        self._die_of(request.token_ids)
        async with self._places.one():
            await self._spend(1)
            return self._scores(request, self._version)

    async def _scored(self, request: ScoreRequest, version: int) -> Scores:
        await asyncio.sleep(0)
        return self._scores(request, version)

    def _scores(self, request: ScoreRequest, version: int) -> Scores:
        adapter, k = named(request.adapter, request.images), request.top_logprobs
        likely = likelihoods(request.token_ids, request.first, adapter, version, k)
        ids = np.broadcast_to(np.arange(k, dtype=np.int32) % self._info.vocab_size, (len(likely), k))
        return Scores(logprobs=likely[:, 0], top_token_ids=ids, top_logprobs=-np.sort(-likely[:, 1:]), version=version)

    async def load_adapter(self, adapter: Adapter) -> None:
        """Nothing to load."""

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Nothing to unload."""

    async def prepare(self, path: Path, content: checkpoint.Content) -> None:
        """Nothing to read."""

    async def load_checkpoint(
        self,
        version: int,
        path: Path,
        mode: SwapMode,
        content: checkpoint.Content | None = None,
        prove: Prove | None = None,
    ) -> float:
        """Check it like any engine (against `--model`, if there is one); only its version changes the tokens.

        It takes no time, so nothing stands still.
        """
        async with self._one_swap:
            await asyncio.to_thread(checkpoint.check, path, self._booted)
            await self._serve(version, mode, prove)
        return 0.0

    async def link(self, incoming: Incoming, over: asyncio.Event) -> None:
        """Meet the others by gloo."""
        self._link = await linked(incoming, over)

    async def unlink(self) -> None:
        """Let go of it."""
        if self._link is not None:
            self._link.close()
        self._link = None

    async def receive(
        self, version: int, incoming: Incoming, mode: SwapMode, prove: Prove | None, over: asyncio.Event
    ) -> float:
        """Take the tensors and keep none: only the version changes. Nothing stands still meanwhile."""
        async with self._one_swap, self._places.ended(mode):
            if mode == "wait" and not over.is_set():
                await self.link(incoming, over)
            link, self._link = self._link, None
            if self._booted is not None:
                checkpoint.check_sent(incoming.sent, self._booted)
            if link is None or over.is_set():
                raise RoundMissedError("it was over before the engine stood still")
            await taken(link, incoming.sent, over)
            await self._serve(version, mode, prove)
        return 0.0

    async def located(self, version: int, path: Path, content: checkpoint.Content) -> None:
        """It never goes back."""

    async def lost(self, version: int) -> None:
        """The same."""

    def _die_of(self, ids: list[int]) -> None:
        if self._poison in ids:
            os._exit(70)

    async def _serve(self, version: int, mode: SwapMode, prove: Prove | None) -> None:
        if prove is not None:
            await prove(lambda request: self._scored(request, version))
        async with self._places.ended(mode):
            self._version = version
            self._aborts += mode == "abort"
            self._swapped.set()
            self._swapped = asyncio.Event()

    def collectors(self) -> Sequence[Collector]:
        """Nothing: it has no model."""
        return ()

    async def check(self) -> None:
        """Always well."""

    async def close(self) -> None:
        """Nothing to end."""

    async def _sample(self, sampling: Sampling) -> Completion:
        async with self._places.one():
            return await self._sampled(sampling)

    async def _sampled(self, sampling: Sampling) -> Completion:
        """The completion; a swap may come between any two tokens."""
        request, loop = sampling.request, asyncio.get_running_loop()
        while True:
            version, aborts = self._version, self._aborts
            rest = self._plans.rest(request, sampling.sample, version, sampling.length)
            began = loop.time()
            sampling.begin(version, rest, began)
            spent = await self._spend(len(rest), began)
            sampling.spend(spent)
            if spent == len(rest):
                return sampling.end()
            if self._aborts == aborts:
                continue
            if request.goes_on:
                return sampling.end("abort")
            sampling.start_again()

    async def _spend(self, tokens: int, began: float | None = None) -> int:
        """Wait as long as `tokens` take. Returns how many were done: fewer if a swap came in between.

        `began`: since when they count, for others look at the clock too; None: since now.
        """
        if not self._tokens_per_s:
            await asyncio.sleep(0)
            return tokens
        loop = asyncio.get_running_loop()
        started = loop.time() if began is None else began
        try:
            async with asyncio.timeout_at(started + tokens / self._tokens_per_s):
                await self._swapped.wait()
        except TimeoutError:
            return tokens
        return min(tokens, int((loop.time() - started) * self._tokens_per_s))
