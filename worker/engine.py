"""What a worker asks of an engine; `vllm_engine` and `stub_engine` are the two that exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas import GenerationConfig
from schemas.generation_config import LogprobsFlavour
from schemas.messages import FinishReason, VersionSpan


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the guard must know of a running engine."""

    vocab_size: int
    """Of the model, not the tokenizer: ids at or above it kill vLLM."""
    max_model_len: int
    max_num_seqs: int
    eos_token_ids: tuple[int, ...]
    """What ends a completion when the job names no `eos_token_id`."""
    max_logprobs: int
    """Most candidates that `next_tokens` may be asked for."""
    logprobs_flavour: LogprobsFlavour
    has_tokenizer: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that was found and checked: immutable, with an id that no other adapter of this process has."""

    name: str
    """`name@version`"""
    int_id: int
    path: Path


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One group, after the guard: every id within the vocabulary, every length within the model's."""

    request_id: str
    prompt: list[int]
    config: GenerationConfig
    stop_token_ids: tuple[int, ...]
    """EOS ids (unless ignored) and stop ids together."""
    seed: int | None
    """Of sample 0; sample i uses seed + i."""
    adapter: Adapter | None


@dataclass(frozen=True, slots=True)
class Completion:
    """One continuation. `logprobs` has a number for each token, or is None when the config asked for none."""

    token_ids: NDArray[np.int32]
    """(L,), the stop token or the tokens of the stop string included."""
    logprobs: NDArray[np.float32] | None
    finish_reason: FinishReason
    stop_reason: int | str | None
    version_spans: tuple[VersionSpan, ...]
    text: str | None = None
    score: float | None = None


class Engine(Protocol):
    """One engine, whichever it is. All methods run on the worker's event loop.

    Every method raises `EngineDiedError` once the engine's process has ended or stopped answering, and then always.
    A cancelled call aborts its request in the engine.
    """

    @property
    def info(self) -> EngineInfo:
        """Known once `start` has returned."""

    async def start(self) -> None:
        """Load the model and run a first request, so that the first job pays no compilation. Raises `SettingsError`."""

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """The n completions of a prompt, in order. Raises `DataError` for what the engine itself refuses."""

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None
    ) -> list[tuple[int, float]]:
        """The k likeliest next tokens with their raw log-probs, likeliest first: a step of beam search."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Make `adapter` usable by requests; a no-op when it is. Raises `DataError` (`adapter_refused`)."""

    async def check(self) -> None:
        """Return once the engine has answered a round trip between two of its steps."""

    async def close(self) -> None:
        """End the engine's processes; none is left when this returns. Safe to call twice and after its death."""
