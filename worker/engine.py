"""What a worker asks of an engine; `engine_registry` says which there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig
from rollstream.schemas.generation_config import LogprobsFlavour
from rollstream.schemas.wire.fields import FinishReason, VersionSpan

from .weights.checkpoint_content import Content

SwapMode = Literal["keep", "wait", "abort"]
"""What new weights do to requests in flight: `keep` goes on from where they are, their KV cache computed again by the
new weights; `wait` lets them finish first; `abort` starts them again from their prompt, with the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the guard must know of a running engine."""

    vocab_size: int
    """Of the model, not the tokenizer: ids at or above it kill vLLM."""
    max_model_len: int
    max_num_seqs: int
    eos_token_ids: tuple[int, ...]
    """What ends a completion when the job names no `eos_token_id`: the model's own."""
    max_logprobs: int
    """Most candidates that `next_tokens` may be asked for."""
    logprobs_flavour: LogprobsFlavour
    has_tokenizer: bool
    spoken_eos_ids: tuple[int, ...] = ()
    """The tokenizer's EOS where the model names others: ends a completion too, but only the model's are banned."""
    max_allowed_ids: int | None = None
    """Most `allowed_token_ids` of a request; one more ends the engine. None: any number."""
    max_banned_stops: int | None = None
    """The same of the EOS and stop ids that `min_new_tokens` bans."""
    max_bad_word_tokens: int | None = None
    """The same of all tokens of `bad_words`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter that was found and checked: immutable, with an id that no other adapter of this process has."""

    name: str
    """`name@version`"""
    int_id: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
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
    late_stop_ids: tuple[int, ...] = ()
    """What ends a completion once it has `min_new_tokens`, and can be sampled before without ending it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One continuation. `logprobs` has a number for each token, or is None when the config asked for none."""

    token_ids: NDArray[np.int32]
    """(L,), the stop token or the tokens of the stop string included."""
    logprobs: NDArray[np.float32] | None
    finish_reason: FinishReason
    stop_reason: int | str | None
    version_spans: tuple[VersionSpan, ...]
    """In order; the numbers of tokens add up to L."""
    text: str | None = None
    score: float | None = None
    spans_exact: bool = True
    """False where the engine cannot tell which version sampled what, and `version_spans` is its best estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """What may follow a prompt: (token, raw log-prob), likeliest first, and which policy version says so."""

    candidates: tuple[tuple[int, float], ...]
    version: int
    version_exact: bool = True


class Engine(Protocol):
    """One engine, whichever it is. All methods run on the worker's event loop.

    Every method raises `EngineDiedError` once the engine's process has ended or stopped answering, and then always.
    A cancelled call aborts its request in the engine.
    """

    @property
    def info(self) -> EngineInfo:
        """Known once `start` has returned."""

    @property
    def policy_version(self) -> int:
        """What new requests are sampled with; 0 is what the engine booted with."""

    async def start(self) -> None:
        """Load the model and run a first request, so that the first job pays no compilation. Raises `SettingsError`."""

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """The n completions of a prompt, in order. Raises `DataError` for what the engine itself refuses."""

    async def next_tokens(self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None) -> NextTokens:
        """The k likeliest next tokens with their raw log-probs: a step of beam search."""

    async def load_adapter(self, adapter: Adapter) -> None:
        """Make `adapter` usable by requests; a no-op when it is. Raises `DataError` (`adapter_refused`)."""

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forget one that no request uses or will name again; its files may be gone."""

    async def load_checkpoint(self, version: int, path: Path, mode: SwapMode, content: Content | None = None) -> None:
        """Swap to the weights in the folder `path`; requests may be in flight and may go on being made.

        `content` is what its files held when the caller read them; without it they are read for this.
        Calls are served one after another, and a cancelled one is carried through all the same. Adapters stay loaded.
        The engine serves on with what it had after `CheckpointRefusedError` (the checkpoint is broken, or not of the
        model that the engine booted with) and `SwapFailedError` (it could not be loaded).

        A beam search is many requests: under any mode it goes on with the new weights, and its spans say where.
        """

    async def check(self) -> None:
        """Return once the engine has answered a round trip between two of its steps."""

    async def close(self) -> None:
        """End the engine's processes; none is left when this returns. Safe to call twice and after its death."""
