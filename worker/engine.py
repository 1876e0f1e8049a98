"""What a worker needs from an engine; `engine_registry` lists the engines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from rollstream.schemas.generation.generation_config import LogprobsFlavour
from rollstream.schemas.wire.rounds import Backend, Sent
from rollstream.schemas.wire.routing import RoutingShape

from .requests import (
    Adapter,
    Completion,
    Expanded,
    GenerateRequest,
    KvUse,
    NextTokens,
    Partial,
    Picture,
    ScoreRequest,
    Scores,
)
from .weights.checkpoint_content import Content

SwapMode = Literal["keep", "wait", "abort"]
"""What new weights do to requests in flight: `keep` goes on from where they are, with a KV cache computed again by the
new weights; `wait` lets the requests finish first; `abort` ends them, and the worker goes on from
their tokens, or starts them again from their prompt with the same seed."""

ROUTING_NOT_ASKED = "start the worker with --routed-experts"
"""Why an engine that could does not tell which experts its tokens went to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the checks of requests must know of a running engine."""

    vocab_size: int
    """The model's, not the tokenizer's: an id at or above it kills vLLM."""
    max_model_len: int
    """The most tokens of a prompt and its completion, and of a row to score."""
    max_num_seqs: int
    step_tokens: int  # the most that it computes in one step
    eos_token_ids: tuple[int, ...]
    """The model's own EOS ids; they end a completion if the job names no `eos_token_id`."""
    max_logprobs: int
    """The most candidates that `next_tokens` can give, and the most `top_logprobs` of a row."""
    logprobs_flavour: LogprobsFlavour
    has_tokenizer: bool
    dtype: str
    """The data type in which it computes, such as `bfloat16`: how close a probe's log-probs must come depends on it."""
    spoken_eos_ids: tuple[int, ...] = ()
    """The tokenizer's EOS if the model names others. It ends a completion too, but only the model's are ever banned."""
    max_allowed_ids: int | None = None
    """The most `allowed_token_ids` of a request; one more kills the engine. None: any number."""
    max_banned_stops: int | None = None
    """The same for the EOS and stop ids that `min_new_tokens` bans."""
    max_bad_word_tokens: int | None = None
    """The same for all tokens of `bad_words` together."""
    ranks: int = 0
    """How many of its processes receive weights in a round; 0 if it takes part in none."""
    runs_on: str = ""
    """Its release and its device, for people: `vllm 0.32.0 on cpu`."""
    features: frozenset[str] = frozenset()
    """The options among `schemas.generation.generation_config.OFFERED` that it honours.

    A job with another is refused by name.
    """
    missing: tuple[tuple[str, str], ...] = ()
    """Options that it does not honour, and what it would need to, for people."""
    guide_end_ids: tuple[int, ...] = ()
    """The tokenizer's EOS: what follows a guide's end, so that it always ends a guided completion."""
    thinking_marks: tuple[int, int] | None = None
    """The ids that begin and end the model's thinking, if the worker was told."""
    max_images: int = 0
    """The most images of a prompt; 0: it takes none, and `missing` says under `images` why."""
    image_ids: frozenset[int] = frozenset()
    """Ids that stand for an image, before or after `expand`: a prompt without images has none of them."""
    routing: RoutingShape | None = None
    """What a token's row of `routed_experts` holds; None for an engine that gives none."""


Score = Callable[[ScoreRequest], Awaitable[Scores]]
"""Scores a row under weights that were just loaded, while the engine runs nothing else."""
Prove = Callable[[Score], Awaitable[None]]
"""Asks new weights for scores, and raises `ProofFailedError` unless they are right.

An engine awaits it after the weights were loaded and before it samples a single token with them. Whatever it raises
makes the engine go back to its old weights. An engine with replicas awaits it once for each of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """What an engine must know of a round to receive weights in it. Read from Redis, and validated."""

    backend: Backend
    sent: Sent
    meeting: bytes
    """Where all parties meet, see `RoundPlan`."""
    first_rank: int
    """The first of this engine's ranks; the trainer has rank 0."""
    world_size: int
    timeout_s: float
    """How long linking may take at most, and how long the transfer."""


class Collector(Protocol):
    """What the library of Prometheus asks for metrics, by its own name for that."""

    def collect(self) -> Iterable[Any]:
        """Families of metrics (`prometheus_client.Metric`) with their values of now.

        The thread that answers Prometheus calls this, so it only reads what the event loop writes, and never waits.
        """


class Engine(Protocol):
    """Any engine. All methods run on the worker's event loop.

    Once the engine's process has ended or stopped answering, every call raises `EngineDiedError`.
    A cancelled call aborts its request in the engine.
    """

    @property
    def info(self) -> EngineInfo:
        """Known once `start` has returned."""

    @property
    def policy_version(self) -> int:
        """The version that samples new requests; 0 is the boot model."""

    @property
    def experts_reached(self) -> tuple[int, int] | None:
        """How many experts of the model, layer by layer, the last proof reached, and how many there are.

        None for a model that is no mixture, before the first proof, and where it cannot be known.
        """

    def each(self) -> Sequence[Engine]:
        """The engines of which it is made, or itself: each has weights of its own, which may be wrong in one alone."""

    async def start(self) -> None:
        """Load the model and run a first request, so that no job waits for compilation. Raises `SettingsError`."""

    async def expand(self, prompt: list[int], pictures: Sequence[Picture]) -> Expanded:
        """The prompt as requests with these images take it: the placeholder of each has made room for it.

        Raises `DataError` (`image_refused`) unless the prompt has as many placeholders as there are pictures, and for
        pictures that the model's own processing of images refuses. One picture at least.
        """

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """The n completions of a prompt, in order. Raises `DataError` for a request that the engine refuses."""

    def partials(self, request_id: str, /) -> list[Partial]:
        """What the completions of a running `generate` have by now, in order; those without a token are left out.

        It asks the engine's process nothing, so tokens that are still there are missing: see `release`. Empty for an
        id that does not run. With `stop_strings`, only those that have ended: of others, the last tokens may go again.
        Raises `DataError` for what `generate` would refuse too.
        """

    async def release(self) -> None:
        """Have the engine hand over at once all tokens that it has sampled: `partials` then lacks none of them.

        A `generate` whose last tokens come with them has returned by then.
        """

    async def memory_use(self) -> KvUse | None:
        """How full the engine's KV cache is; None if it has none, or cannot tell."""

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
    ) -> NextTokens:
        """The k likeliest next tokens with their raw log-probs: a step of beam search. `images` as for `generate`."""

    async def score(self, request: ScoreRequest) -> Scores:
        """How likely a row is under one version; a swap on the way makes it start again.

        Raises `DataError` for a row that the engine refuses, and for log-probs that are not finite.
        """

    async def load_adapter(self, adapter: Adapter) -> None:
        """Make `adapter` usable by requests; a no-op if it is. Raises `DataError` (`adapter_refused`)."""

    async def unload_adapter(self, adapter: Adapter) -> None:
        """Forget an adapter that no request uses or will name again; its files may be gone."""

    async def prepare(self, path: Path, content: Content) -> None:
        """Read the weights in the folder `path` into memory while generation goes on, so that a swap needs no file.

        One checkpoint is prepared at a time: another call forgets the one before, and so does a swap to any other.
        Raises `CheckpointRefusedError`, and `SwapFailedError` where there is no memory for it; a swap then reads files.
        """

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        """Swap to the weights in the folder `path`, prepared or not. Requests may be in flight, and new ones may come.

        Returns the seconds in which nothing was sampled.

        `content` is what the files held when the caller read them; without it they are read now. `prove` is asked while
        the engine holds all other requests back: after an error of it these go on with the old weights, as if nothing
        had happened, and the error is raised.
        Calls are carried out one after another, a cancelled one too. Adapters stay loaded.
        After `CheckpointRefusedError` (the checkpoint is broken, or not of the boot model) and `SwapFailedError` (it
        could not be loaded) the engine goes on with its old weights.

        A beam search is many requests: in every mode it goes on with the new weights, and its spans say where.
        """

    async def link(self, incoming: Incoming, over: asyncio.Event) -> None:
        """Meet the trainer and the other parties of a round while generation goes on. Raises `RoundMissedError`.

        `over` ends it: a party that died before all had met leaves the others waiting for it.
        Not before a swap in mode `wait`: `receive` does it then, once completions have ended.
        """

    async def unlink(self) -> None:
        """Give up a link, if there is one."""

    async def receive(
        self, version: int, incoming: Incoming, mode: SwapMode, prove: Prove | None, over: asyncio.Event
    ) -> float:
        """Swap to the weights that come through the link, as `load_checkpoint` does to those of files.

        In mode `wait` it waits for completions first, and links then: the other parties do not stand still meanwhile.
        `over` says that no more will come. After any error but `EngineDiedError` the engine has its old weights, from
        their files: `SwapFailedError` where the round broke, `CheckpointRefusedError` for tensors of another model,
        `ProofFailedError`, and `RoundMissedError` where nothing was touched. The link is gone in every case.
        """

    async def located(self, version: int, path: Path, content: Content) -> None:
        """Where the files of a version are that came without; no-op if another version is served by now.

        Until then the engine receives no other version, and loads none: `RoundMissedError`, `SwapFailedError`.
        """

    async def lost(self, version: int) -> None:
        """The files of a version that came without are gone for good; no-op if another version is served by now.

        From then on the engine loads other versions, and ends where one fails.
        """

    def collectors(self) -> Sequence[Collector]:
        """What the engine itself tells Prometheus; mostly nothing.

        Asked once, when `start` has returned, and only in a worker with `--metrics-port`.
        """

    async def check(self) -> None:
        """Return once the engine has answered between two of its steps."""

    async def close(self) -> None:
        """End the engine's processes; none is left when this returns. Safe to call twice, and after its death."""
