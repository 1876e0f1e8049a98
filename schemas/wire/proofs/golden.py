"""Golden jobs: prompts with the tokens and log-probs that a worker gave once, which a worker must give again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...generation.generation_config import GenerationConfig
from ..fields import Count, Index, Shown
from ..messages import Message
from ..tensors import Tensor, expect, expect_shape
from .probe import Tolerance

MAX_CASES = 64
"""Most prompts of a golden file, all batches together."""
MAX_GOLDEN_TOKENS = 65_536
"""Most tokens that checking one may take: prompts, and for each completion `max_new_tokens`."""
MAX_GOLDEN_BYTES = 8 * 2**20
_ROUNDING = 1e-3
"""A log-prob may be so far above 0."""

Said = Annotated[Shown, Field(max_length=400)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One completion of a case."""

    token_ids: NDArray[np.int32]
    """(L,), the stop token included."""
    logprobs: NDArray[np.float32]
    """(L,), of the flavour that the config names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt of a golden batch with its completions."""

    batch: int
    row: int
    """The number of the prompt in its batch, from which its seed follows."""
    config: GenerationConfig
    prompt: NDArray[np.int32]
    completions: tuple[Recorded, ...]


class GoldenBatch(BaseModel):
    """A batch with one config. The seed of a prompt follows from the config's and from the prompt's row."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    config: GenerationConfig
    """It samples, and the same again: greedy, or with a seed. It asks for log-probs."""
    prompt_ids: Tensor
    """int32 (sum of `prompt_lengths`,): the prompts, one after the other."""
    prompt_lengths: Tensor
    """int32 (B,): 1 or more each."""
    token_ids: Tensor
    """int32 (sum of `lengths`,): the completions, those of a prompt adjacent."""
    lengths: Tensor
    """int32 (B * n,): 1 to `max_new_tokens` each."""
    logprobs: Tensor
    """float32 (sum of `lengths`,): that of each token of `token_ids`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_repeatable(self.config)
        expect("prompt_lengths", self.prompt_lengths, "int32", 1)
        expect("token_ids", self.token_ids, "int32", 1)
        if not 1 <= (prompts := self.prompt_lengths.shape[0]) <= MAX_CASES:
            raise ValueError(f"a golden batch has 1 to {MAX_CASES} prompts, not {prompts}")
        expect_shape("lengths", self.lengths, "int32", (prompts * self.config.num_return_sequences,))
        expect_shape("logprobs", self.logprobs, "float32", self.token_ids.shape)
        _check_ragged("prompt", self.prompt_ids, self.prompt_lengths)
        _check_ragged("completion", self.token_ids, self.lengths)
        if self.lengths.numpy().max() > self.config.max_new_tokens:
            raise ValueError("a completion is longer than max_new_tokens")
        logprobs = self.logprobs.numpy()
        if not (np.isfinite(logprobs).all() and logprobs.max() <= _ROUNDING):
            raise ValueError("logprobs must be finite and not above 0")
        return self

    @property
    def num_cases(self) -> int:
        """How many prompts it has."""
        return self.prompt_lengths.shape[0]

    @property
    def most_tokens(self) -> int:
        """Tokens of its prompts, and the most that sampling it again gives."""
        sampled = self.num_cases * self.config.num_return_sequences * self.config.max_new_tokens
        return self.prompt_ids.shape[0] + sampled

    def cases(self, batch: int) -> Iterator[Case]:
        """Each prompt with its completions; `batch` is the number of this batch in its file."""
        ends = np.cumsum(self.lengths.numpy())[:-1]
        ids, logprobs = np.split(self.token_ids.numpy(), ends), np.split(self.logprobs.numpy(), ends)
        found = [Recorded(token_ids=one, logprobs=known) for one, known in zip(ids, logprobs, strict=True)]
        n = self.config.num_return_sequences
        for row, prompt in enumerate(np.split(self.prompt_ids.numpy(), np.cumsum(self.prompt_lengths.numpy())[:-1])):
            yield Case(
                batch=batch,
                row=row,
                config=self.config,
                prompt=prompt,
                completions=tuple(found[row * n : row * n + n]),
            )


class Golden(Message):
    """A file of golden jobs, and what they were recorded with."""

    kind: Literal["golden"] = "golden"
    batches: Annotated[tuple[GoldenBatch, ...], Field(min_length=1, max_length=8)]
    model: Said
    """The name of the model's folder at the workers that recorded it; the stub engine may have none."""
    vocab_size: Count
    """How many ids that model knows; ids lie below it."""
    dtype: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")]
    """In which those workers computed."""
    engine: Said
    """The kind of their engine: `vllm`, `stub`."""
    runs_on: Said
    """Its release and its device, for people."""
    policy_version: Index
    """The one version that sampled all of it."""
    policy_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Digest of that version as it was announced; empty for version 0, the boot model."""
    recorded_at: float
    """Unix seconds."""
    tolerance: Tolerance | None = None
    """None: by dtype, see `probe.TOLERANCES`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (cases := sum(batch.num_cases for batch in self.batches)) > MAX_CASES:
            raise ValueError(f"{cases} cases, more than {MAX_CASES}")
        if (tokens := sum(batch.most_tokens for batch in self.batches)) > MAX_GOLDEN_TOKENS:
            raise ValueError(f"checking it would take {tokens} tokens, more than {MAX_GOLDEN_TOKENS}")
        most = max(int(ids.numpy().max()) for batch in self.batches for ids in (batch.prompt_ids, batch.token_ids))
        if most >= self.vocab_size:
            raise ValueError(f"id {most}, for a vocabulary of {self.vocab_size}")
        if (self.policy_version == 0) != (self.policy_sha256 == ""):
            raise ValueError("policy_sha256 is empty for version 0, and for no other")
        return self

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All cases, batch by batch."""
        return tuple(case for number, batch in enumerate(self.batches) for case in batch.cases(number))


def check_repeatable(config: GenerationConfig) -> None:
    """Raises `ValueError` unless two runs of a job with this config give the same."""
    if config.num_beams > 1:
        raise ValueError("num_beams must be 1: golden jobs have no beams")
    if config.first_k is not None:
        raise ValueError("first_k must be None: which samples end first is a race")
    if config.logprobs is None:
        raise ValueError("golden jobs ask for log-probs")
    if config.seed is None and config.temperature > 0:
        raise ValueError("golden jobs are greedy or have a seed")


def _check_ragged(what: str, ids: Tensor, lengths: Tensor) -> None:
    expect(f"{what} ids", ids, "int32", 1)
    listed = lengths.numpy().tolist()
    if min(listed) < 1 or sum(listed) != ids.shape[0]:
        raise ValueError(f"each {what} has 1 token or more, and all of them those that are there")
    if ids.numpy().min() < 0:
        raise ValueError(f"a {what} has an id below 0")
