"""What the drop-ins for trainers share: repeated prompts are sent once, a failed group is an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from math import gcd
from typing import Any, Protocol, TypedDict, Unpack

from rollstream.schemas import GenerationConfig
from rollstream.schemas.generation.generation_config import MAX_TOKENS_PER_GROUP

from ..blocking_client import Client
from ..calls.options import check_names
from ..client import AsyncClient
from ..errors import ArgumentError, PromptsError, RolloutFailedError
from ..rollouts.rollout_batch import RolloutBatch

_MAX_REPEATS = 1024
"""The largest `num_return_sequences`."""


class DataProtoLike(Protocol):
    """What ROLL's and verl's `DataProto` have in common. Neither library is imported."""

    @property
    def batch(self) -> Any:
        """Tensors by name, rows first."""

    @property
    def non_tensor_batch(self) -> Mapping[str, Any]:
        """Numpy arrays of objects by name, rows first."""

    @property
    def meta_info(self) -> Mapping[str, Any]:
        """Values that concern the batch as a whole."""


class Tokenizer(Protocol):
    """The parts of a Hugging Face tokenizer that are used."""

    @property
    def pad_token_id(self) -> int | None:
        """The pad id; None if the tokenizer has none."""

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any:
        """Turn messages into ids."""


class SamplingOptions(TypedDict, total=False):
    """`adapter` (`name@version`) and `min_policy_version`: what the next call samples with, and the oldest policy
    version that may sample it; set the one or the other after each publish. `timeout_s`: the longest that one call
    waits for its batch.
    """

    adapter: str | None
    min_policy_version: int | None
    timeout_s: float | None


SAMPLING_DEFAULTS: SamplingOptions = {"adapter": None, "min_policy_version": None, "timeout_s": None}


class _CallOptions(TypedDict):
    adapter: str | None
    min_policy_version: int | None
    timeout: float | None


class DropIn:
    """The options of all drop-ins: which weights sample the next batch, and how long one call may take."""

    def __init__(self, **options: Unpack[SamplingOptions]) -> None:
        check_names(options, SAMPLING_DEFAULTS)
        self.adapter = options.get("adapter")
        self.min_policy_version = options.get("min_policy_version")
        self._timeout_s = options.get("timeout_s")

    def _options(self) -> _CallOptions:
        """The arguments for `generate`."""
        return {
            "adapter": self.adapter,
            "min_policy_version": self.min_policy_version,
            "timeout": self._timeout_s,
        }


def check_client(client: object, wanted: type[Client] | type[AsyncClient]) -> None:
    """Raises `ArgumentError` for what is no such client: one has methods that block, the other coroutines."""
    if not isinstance(client, wanted):
        rule = f"got {type(client).__name__}, give a {wanted.__name__}"
        raise ArgumentError("client", client, rule)


def repeats(prompts: Sequence[Any], config: GenerationConfig) -> int:
    """The largest n such that `prompts[::n]`, each answered n times, has the rows of `prompts` in their order.

    A prompt is its ids, with whatever else makes it another one.

    Trainers repeat a prompt for each of its completions. Greedy rows stay single, because n above 1 is refused there.
    """
    if config.temperature == 0:
        return 1
    together = gcd(*(len(list(run)) for _, run in groupby(prompts)))
    most = min(_MAX_REPEATS, MAX_TOKENS_PER_GROUP // config.max_new_tokens)
    return max(n for n in range(1, most + 1) if together % n == 0)


def complete(rollouts: RolloutBatch) -> RolloutBatch:
    """Return `rollouts` if every group has its completions; else raise `RolloutFailedError`."""
    if rollouts.errors:
        raise RolloutFailedError(rollouts.batch_id, len(rollouts), rollouts.errors)
    return rollouts


def responses(rollouts: RolloutBatch) -> list[list[int]]:
    """The sampled ids of each row."""
    rows = rollouts.sequences[:, rollouts.prompt_len :].tolist()
    return [row[:length] for row, length in zip(rows, rollouts.response_lengths.tolist(), strict=True)]


def log_probs(rollouts: RolloutBatch) -> list[list[float]] | None:
    """The log-probs of each row's sampled ids; None when the config asked for none."""
    if rollouts.old_log_probs is None:
        return None
    rows = rollouts.old_log_probs.tolist()
    return [row[:length] for row, length in zip(rows, rollouts.response_lengths.tolist(), strict=True)]


def chat_ids(tokenizer: Tokenizer, messages: Sequence[Any], row: int, **template: Any) -> list[int]:
    """A conversation as ids, ready for the assistant's turn. Raises `PromptsError` unless all of it is text."""
    for message in messages:
        parts = message["content"] if isinstance(message["content"], list) else []
        if any(part.get("type") != "text" for part in parts):
            raise PromptsError("prompts", "has content that is not text; only text can be sampled", row)
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=True, tokenize=True, return_dict=False, **template
    )
    return list(ids)
