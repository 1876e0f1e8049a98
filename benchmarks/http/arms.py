"""What is measured over HTTP: from the request's body to padded tensors of token ids and log-probs.

The client is one aiohttp session in this process, with as many connections as prompts, all in use at once (ours has all
prompts in the queue at once; each engine runs `max_num_seqs` sequences). There are no retries and no streaming: an
answer comes when its n completions are done. A request is a prompt of token ids. `logprobs: 0` asks for the log-prob of
each sampled token only, `return_token_ids` for ids too, and `return_tokens_as_token_ids` saves the server a text for
each token. Answers are read with `json` into the same tensors that Rollstream gives.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp

from benchmarks.http.servers import Server, cpu_s
from benchmarks.support.arms import Arm, WrongOutputError
from benchmarks.support.workload import Load, Workload
from rollstream.schemas import RollstreamError


class RequestFailedError(RollstreamError):
    """Raised when a server answers with a status other than 200; the text has the answer."""


@dataclass(frozen=True)
class Samples:
    """Completions from an HTTP answer, in order."""

    token_ids: list[list[int]]
    logprobs: list[list[float]] | None

    def padded(self) -> tuple[Any, Any]:
        """Tensors int64 (rows, longest), and float32 of the same shape or None. Raises `WrongOutputError`."""
        import torch  # noqa: PLC0415 - after the environment is set
        from torch.nn.utils.rnn import pad_sequence  # noqa: PLC0415

        ids = pad_sequence([torch.tensor(row) for row in self.token_ids], batch_first=True)
        if self.logprobs is None:
            return ids, None
        if list(map(len, self.logprobs)) != list(map(len, self.token_ids)):
            raise WrongOutputError("not one log-prob a token")
        return ids, pad_sequence([torch.tensor(row, dtype=torch.float32) for row in self.logprobs], batch_first=True)


class Completions:
    """`POST /v1/completions` from asyncio: one request for each prompt, all at once."""

    def __init__(self, name: str, server: Server, session: aiohttp.ClientSession) -> None:
        self.name = name
        self._server = server
        self._session = session

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        began = time.perf_counter()
        found = await asyncio.gather(*(self._batch(batch) for batch in workload.batches))
        return _checked(workload, found, began)

    async def _batch(self, batch: Load) -> int:
        answers = await asyncio.gather(*(self._one(batch, prompt) for prompt in batch.prompts))
        return _tokens(batch, _samples([choice for answer in answers for choice in answer["choices"]]))

    async def _one(self, batch: Load, prompt: list[int]) -> Any:
        body = {"model": self._server.model, "prompt": prompt, **sampling(batch)}
        async with self._session.post(f"{self._server.url}/v1/completions", json=body) as response:
            answer = await response.read()
            if response.status != 200:
                raise RequestFailedError(f"{self.name}: {response.status}, {answer[:2000].decode(errors='replace')}")
        return json.loads(answer)


class TrlClient:
    """TRL's `VLLMClient.generate`, as its trainers call it: one request for all prompts of a batch."""

    def __init__(self, name: str, server: Server) -> None:
        from trl.generation.vllm_client import VLLMClient  # noqa: PLC0415 - imports vLLM, and only where TRL is

        self.name = name
        self._client = VLLMClient(base_url=server.url)

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        with ThreadPoolExecutor(len(workload.batches)) as threads:
            found = await asyncio.gather(
                *(loop.run_in_executor(threads, self._batch, batch) for batch in workload.batches)
            )
        return _checked(workload, found, began)

    def _batch(self, batch: Load) -> int:
        config = batch.config
        answer = self._client.generate(
            batch.prompts, n=config.num_return_sequences, temperature=config.temperature, top_p=config.top_p,
            max_tokens=config.max_new_tokens, logprobs=None if config.logprobs is None else 0,
            generation_kwargs={"ignore_eos": True},
        )  # fmt: skip
        found = answer["logprobs"]
        logprobs = None if found is None else [[position[0] for position in row] for row in found]
        return _tokens(batch, Samples(answer["completion_ids"], logprobs))


class Metered:
    """An arm with the CPU time that it takes, which is less noisy than time if others use the machine too."""

    def __init__(self, arm: Arm, session: int) -> None:
        self.name = arm.name
        self._arm = arm
        self._session = session
        self._spent = (0.0, 0.0)

    async def run(self, workload: Workload) -> float:
        """See `Arm.run`."""
        before = self._now()
        seconds = await self._arm.run(workload)
        server, client = (after - was for after, was in zip(self._now(), before, strict=True))
        self._spent = (self._spent[0] + server, self._spent[1] + client)
        return seconds

    def take(self) -> dict[str, float]:
        """CPU seconds since the last call, of the server's or worker's processes and of this one, without Redis."""
        (server, client), self._spent = self._spent, (0.0, 0.0)
        return {"server": round(server, 2), "client": round(client, 2)}

    def _now(self) -> tuple[float, float]:
        return cpu_s(self._session), time.process_time()


def sampling(batch: Load) -> dict[str, Any]:
    """The sampling fields of a request, which asks for token ids and for the sampled tokens' log-probs only."""
    config = batch.config
    return {
        "n": config.num_return_sequences, "max_tokens": config.max_new_tokens, "temperature": config.temperature,
        "top_p": config.top_p, "ignore_eos": True, "logprobs": None if config.logprobs is None else 0,
        "return_token_ids": True, "return_tokens_as_token_ids": True,
    }  # fmt: skip


def _samples(choices: list[dict[str, Any]]) -> Samples:
    found = [choice["logprobs"] for choice in choices]
    logprobs = None if found[0] is None else [one["token_logprobs"] for one in found]
    return Samples([choice["token_ids"] for choice in choices], logprobs)


def _tokens(batch: Load, samples: Samples) -> int:
    """Count the tokens. Raises `WrongOutputError` if log-probs that were asked for are missing."""
    _, logprobs = samples.padded()
    if batch.config.logprobs is not None and (logprobs is None or not math.isfinite(float(logprobs.sum()))):
        raise WrongOutputError("log-probs are missing")
    return sum(map(len, samples.token_ids))


def _checked(workload: Workload, found: Sequence[int], began: float) -> float:
    seconds = time.perf_counter() - began
    if sum(found) != workload.tokens:
        raise WrongOutputError(f"{workload.name}: {sum(found)} of {workload.tokens} tokens")
    return seconds
