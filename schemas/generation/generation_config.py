"""How a batch is sampled. A `GenerationConfig` checks all bounds when it is made, so an engine gets only valid ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from ..errors import ConfigError, shown
from ..plain_values import SCALARS, plain
from .config_problem import config_problem
from .generation_parts import Guided, Repetition
from .option_types import Bias, Finite, Penalty, Texts, TokenId, TokenIds, as_bias

MAX_TOKENS_PER_GROUP = 2**22
"""The most tokens of a group, n * max_new_tokens; `wire.sizes.result_size` limits the bytes."""

MAX_SEED = 2**63 - 2**20
"""Seeds must be below this, so that seed + sample fits the 64 bits of an engine."""

LogprobsFlavour = Literal["processed", "raw"]

OFFERED = (
    "top_logprobs", "sampling_support", "label_token_ids", "guided", "thinking_budget", "stop_on_repetition",
    "routed_experts",
)  # fmt: skip
"""Options that an engine offers or not."""
NEEDED = *OFFERED, "first_k"
"""Options that a worker or its engine may not know: a job that uses one names it in `requires`."""

MAX_CANDIDATES = 128
"""Most ids of which one position has log-probs: `top_logprobs`, `label_token_ids`, and `top_k` of the sampling mask."""

MAX_SUPPORT_TIES = 16
"""How many ids beyond `top_k` a sampling mask may have: all that are as likely as the last one are left too."""

_SAMPLING_ONLY = (
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "stop_strings", "bad_words", "logit_bias", "allowed_token_ids", "top_logprobs", "sampling_support",
    "label_token_ids", "guided", "thinking_budget", "stop_on_repetition", "first_k",
    "routed_experts",
)  # fmt: skip

_NONE_IS_EMPTY = "stop_token_ids", "stop_strings", "bad_words", "logit_bias"
"""Options for which other libraries write None; here they are empty."""


class GenerationConfig(BaseModel):
    """How every prompt of a batch is sampled, under Hugging Face's names where it has one.

    Frozen and strict: `1.0` is no integer, `True` is no number. Numbers of numpy and torch, and arrays and sets of ids,
    are taken by their values. Raises `ConfigError`, which names the field and the bound; for an unknown name it tells
    the name here.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    max_new_tokens: int = Field(ge=1, le=2**20)
    """Tokens a completion may have; with the prompt it must fit the worker's `max_model_len`."""
    min_new_tokens: int = Field(default=0, ge=0)
    """Before so many tokens EOS and stop ids cannot be sampled, and nothing else ends the completion.

    An EOS that only the tokenizer has, not the model's configs, is not banned; until then it ends nothing."""
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    """0 is greedy. Values between 0 and 0.01 are refused, because vLLM silently raises them to 0.01."""
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=-1, lt=2**31)
    """0 or -1: off."""
    min_p: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    num_return_sequences: int = Field(default=1, ge=1, le=1024)
    """Completions for each prompt: n."""
    num_beams: int = Field(default=1, ge=1, le=64)
    """More than 1: beam search, which returns the best `num_return_sequences` of `num_beams` with their scores."""
    length_penalty: Finite = 1.0
    """Beam score = sum of log-probs / length ** length_penalty, length counting the completion with its EOS."""
    early_stopping: bool | Literal["never"] = False
    """As in transformers: True stops at `num_beams` finished beams, "never" only when no live beam can still win."""
    eos_token_id: TokenIds | None = None
    """One or several ids instead of the model's; None: those of the worker's model and of its tokenizer."""
    stop_token_ids: TokenIds = ()
    """Further ids that end a completion, even with `ignore_eos`. (vLLM's name.)"""
    stop_strings: Texts = ()
    """Texts that end a completion; special tokens such as `<|im_end|>` count as the text that they stand for.

    The completion's token ids keep all that was sampled. Needs a tokenizer at the worker."""
    include_stop_str_in_output: bool = False
    """Whether the completion's `text` keeps the stop string."""
    ignore_eos: bool = False
    bad_words: Texts = ()
    """Texts whose token ids are never sampled in a row; needs a tokenizer at the worker.

    Two sequences of ids are banned: those of the text alone, and those of the text after a space if there are
    as many and the first id differs. The same letters can still be sampled as other ids, or in another case: with `ee`
    banned, two `e`. A space at the beginning of a text is ignored."""
    logit_bias: Annotated[
        dict[TokenId, Bias], BeforeValidator(as_bias), PlainSerializer(lambda bias: tuple(bias.items()))
    ] = Field(default_factory=dict, max_length=1024)
    """Token id to a number in [-100, 100] that is added to its logit."""
    allowed_token_ids: TokenIds | None = Field(default=None, min_length=1)
    seed: int | None = Field(default=None, ge=0, lt=MAX_SEED)
    """The same job gives the same tokens on any worker. None: unseeded, which vLLM samples faster."""
    logprobs: LogprobsFlavour | None = "processed"
    """Log-probs of the sampled tokens: under the sampling distribution, or the model's raw ones at temperature 1."""
    top_logprobs: int = Field(default=0, ge=0, le=MAX_CANDIDATES)
    """How many of the likeliest ids come with each sampled token; `logprobs` names the flavour of their log-probs.

    Exactly so many, the likeliest first and by id where they are the same; the sampled token may be among them. If
    fewer could be sampled, which `processed` shows, the others are any ids with minus infinity."""
    sampling_support: bool = False
    """Whether each token comes with the ids that it was sampled from: those that top-k, top-p, min-p and the rest left.

    The likeliest come first. Needs `top_k` from 1 to 128 and processed log-probs. Where more than 16 ids beyond `top_k`
    are exactly as likely as the last one, the group is refused: a mask is exact or there is none."""
    label_token_ids: Annotated[TokenIds, Field(max_length=MAX_CANDIDATES)] = ()
    """Ids whose log-probs come with each sampled token, whether likely or not: for judges that choose among labels.

    A worker refuses them together with `top_logprobs` or `sampling_support`: vLLM gives the one or the other."""
    guided: Guided | None = None
    """What the completion's text must match: a regex, a JSON schema, one of some choices, or a grammar.

    Needs a tokenizer at the worker, whose EOS then ends the completion. Log-probs are those of the masked distribution:
    with `raw` too, at temperature 1."""
    thinking_budget: int | None = Field(default=None, ge=0, le=2**20)
    """Most tokens of a completion's thinking; after so many its end is forced, and what was forced is in `forced_mask`.

    Needs a worker that was told how its model marks its thinking."""
    stop_on_repetition: Repetition | None = None
    """When a completion that repeats itself is ended, with the finish reason `repetition`."""
    first_k: int | None = Field(default=None, ge=1, le=1024)
    """A prompt is answered when so many of its `num_return_sequences` have ended; the others are cut.

    Its k rows are those that ended first, mostly shorter ones: `RolloutBatch.selection` says by how much. All n are the
    same as None. Not for beams."""

    routed_experts: bool = False
    """Whether each completion comes with the experts that every layer of a mixture chose, for each token.

    They lie beside the result and are read on demand: `await handle.routed_experts(group)`. Needs a worker with
    `--routed-experts` and a model and an engine that tell them. Not for beams."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:  # noqa: ARG002 - frozen
        """A config with other values, checked like any config; pydantic's own method would not check."""
        return type(self)(**self.model_dump() | dict(update or {}))

    @property
    def sequences_per_prompt(self) -> int:
        """Sequences that one prompt has in the engine."""
        return max(self.num_return_sequences, self.num_beams)

    @property
    def completions_per_prompt(self) -> int:
        """Completions that one prompt is answered with: k of `first_k`, else all n."""
        return self.num_return_sequences if self.first_k is None else self.first_k

    @property
    def needs(self) -> tuple[str, ...]:
        """The options in use that a worker or its engine may not know."""
        return tuple(self.changed(NEEDED))

    @property
    def processed_equals_raw(self) -> bool:
        """Whether nothing reshapes the model's distribution, so that both flavours are the same numbers."""
        reshaping = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
                     "min_new_tokens", "bad_words", "logit_bias", "allowed_token_ids")  # fmt: skip
        return self.temperature in (0.0, 1.0) and not self.changed(reshaping)

    def changed(self, names: tuple[str, ...]) -> list[str]:
        """The options among `names` whose value is not the default."""
        defaults = _defaults()
        return [name for name in names if getattr(self, name) != defaults[name]]

    if not TYPE_CHECKING:  # type checkers go by the fields

        def __new__(cls, *given: object, **_values: object) -> Self:
            """Refuse options without a name."""
            if given:
                hint = "write them by name: GenerationConfig(max_new_tokens=64), or GenerationConfig(**options)"
                raise ConfigError("options", f"{hint}, got {shown(given[0])}", given[0])
            return super().__new__(cls)

    @model_validator(mode="wrap")
    @classmethod
    def _one_error_names_the_field(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            config = handler(_given(values))
        except ValidationError as error:
            raise config_problem(error, cls.model_fields, _defaults()) from None
        _check_together(config)
        return config


@cache
def _defaults() -> dict[str, Any]:
    fields = GenerationConfig.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields}


def _given(values: Any) -> Any:
    if type(values) is not dict:
        return values
    changed = {name: plain(value) for name, value in values.items() if type(value) not in SCALARS}
    changed |= {name: () for name in _NONE_IS_EMPTY if values.get(name, ()) is None}
    return _all_of_n(values | changed)


def _all_of_n(values: dict[str, Any]) -> dict[str, Any]:
    """A `first_k` of all n is None: the same content has the same digest, and needs no worker that knows the option."""
    first_k = values.get("first_k")
    if type(first_k) is int and first_k == values.get("num_return_sequences", 1):
        return values | {"first_k": None}
    return values


def _check_together(config: GenerationConfig) -> None:
    if 0 < config.temperature < 0.01:
        raise ConfigError("temperature", "use 0 for greedy or at least 0.01", config.temperature)
    if config.min_new_tokens > config.max_new_tokens:
        raise ConfigError("min_new_tokens", f"exceeds max_new_tokens={config.max_new_tokens}", config.min_new_tokens)
    if config.sequences_per_prompt * config.max_new_tokens > MAX_TOKENS_PER_GROUP:
        problem = f"times the sequences of a prompt exceeds {MAX_TOKENS_PER_GROUP}, the most that one result carries"
        raise ConfigError("max_new_tokens", problem, config.max_new_tokens)
    if config.first_k is not None and config.first_k > config.num_return_sequences:
        problem = f"only num_return_sequences={config.num_return_sequences} are sampled: ask for more of them, or less"
        raise ConfigError("first_k", problem, config.first_k)
    if config.num_beams > 1:
        _check_beams(config)
    elif config.temperature == 0 and config.num_return_sequences > 1:
        problem = "greedy decoding gives the same completion n times; set temperature > 0 or num_beams"
        raise ConfigError("num_return_sequences", problem, config.num_return_sequences)
    elif changed := config.changed(("length_penalty", "early_stopping")):
        raise ConfigError(changed[0], "only beam search uses it: set num_beams > 1", getattr(config, changed[0]))
    _check_candidates(config)
    if config.sampling_support:
        _check_support(config)
    if config.thinking_budget is not None and config.thinking_budget >= config.max_new_tokens:
        problem = f"max_new_tokens={config.max_new_tokens} ends the completion before: use a smaller budget, or None"
        raise ConfigError("thinking_budget", problem, config.thinking_budget)


def _check_beams(config: GenerationConfig) -> None:
    if config.num_beams < config.num_return_sequences:
        problem = f"num_beams={config.num_beams} is fewer than num_return_sequences={config.num_return_sequences}"
        raise ConfigError("num_beams", problem, config.num_beams)
    if abs(config.length_penalty) > 100 or not math.isfinite(config.length_penalty):
        raise ConfigError("length_penalty", "must lie in [-100, 100]", config.length_penalty)
    if changed := config.changed(_SAMPLING_ONLY):
        problem = "beam search does not sample: leave it at its default or set num_beams=1"
        raise ConfigError(changed[0], problem, getattr(config, changed[0]))


def _check_candidates(config: GenerationConfig) -> None:
    for name in ("top_logprobs", "label_token_ids"):
        if config.logprobs is None and config.changed((name,)):
            problem = "logprobs=None asks for no log-probs: set logprobs to 'processed' or 'raw'"
            raise ConfigError(name, problem, getattr(config, name))
    if len(set(config.label_token_ids)) != len(config.label_token_ids):
        raise ConfigError("label_token_ids", "an id is there twice", config.label_token_ids)


def _check_support(config: GenerationConfig) -> None:
    """The support is known by the log-probs of the ids that were kept, so there must be a bound on their number."""
    if not 1 <= config.top_k <= MAX_CANDIDATES:
        problem = (
            f"needs a top_k from 1 to {MAX_CANDIDATES}, which bounds the ids that are left; got top_k={config.top_k}"
        )
        raise ConfigError("sampling_support", problem, config.sampling_support)
    if config.logprobs != "processed":
        problem = f"needs logprobs='processed', which show what was left; got {config.logprobs!r}"
        raise ConfigError("sampling_support", problem, config.sampling_support)
    if config.temperature == 0:
        problem = "greedy decoding samples from nothing: the support is the token itself; set temperature > 0"
        raise ConfigError("sampling_support", problem, config.sampling_support)
