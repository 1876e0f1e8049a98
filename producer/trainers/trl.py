"""A rollout function for TRL's `GRPOTrainer(rollout_func=...)`. Imports nothing of TRL.

Written against trl 1.16.0 (trl/trainer/grpo_trainer.py, `RolloutFunc` and `GRPOTrainer._generate`), which calls the
interface experimental.
"""

from __future__ import annotations

from typing import Any, Unpack

from rollstream.schemas import ConfigError, GenerationConfig

from ..blocking_client import Client
from ..calls.arguments import check_config
from ..calls.options import spelled_out
from .images import Conversation, as_files, check_same, processed, rendered
from .shared import (
    SAMPLING_DEFAULTS,
    DropIn,
    SamplingOptions,
    check_client,
    complete,
    log_probs,
    repeats,
    responses,
)


class RolloutFunction(DropIn):
    """`GRPOTrainer` calls this for its completions instead of generating them itself.

    `config` says how to sample; the default is the trainer's own arguments (`config_of`). TRL repeats a prompt for each
    of its completions, so `config` must ask for one. `producer.trainers.trl_callback.PublishPolicy` publishes the
    trainer's weights and sets `min_policy_version`; without it you must do both.
    """

    @spelled_out(SamplingOptions, SAMPLING_DEFAULTS)
    def __init__(
        self, client: Client, *, config: GenerationConfig | None = None, **options: Unpack[SamplingOptions]
    ) -> None:
        check_client(client, Client)
        super().__init__(**options)
        if config is not None and check_config(config, None).sequences_per_prompt != 1:
            field = "num_beams" if config.num_beams > 1 else "num_return_sequences"
            raise ConfigError(field, "leave it at 1: TRL repeats each prompt", getattr(config, field))
        self._client = client
        self._config = config

    @property
    def client(self) -> Client:
        """The client that submits the prompts."""
        return self._client

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        """One completion for each of R `prompts`: texts or conversations, repeated by TRL's sampler.

        TRL requires `prompt_ids`, `completion_ids` (R lists of ids, without padding) and `logprobs` (R lists, one value
        for each completion id; None when the config asked for none). It passes the rest to the reward functions:
        `version_spans`, (policy version, tokens) of each completion, and `finish_reasons`, `stop`,
        `length`, `repetition` or `cut`.

        Images stand in the messages, as TRL puts them there; `prompt_ids` then has each placeholder expanded, as the
        trainer's processor expands it.

        Raises `PromptsError` for prompts with other content, where the trainer's processor refuses one, and where the
        workers expand an image otherwise than it does; `ImagesError`, `ConfigError` for tools, environments, sampling
        arguments without a counterpart here and another temperature than the trainer's, `RolloutFailedError` when a
        group failed, and what `Client.generate` raises.
        """
        _check_one_turn(trainer)
        config = self._config or config_of(trainer)
        if config.temperature != trainer.args.temperature:
            problem = (
                f"the trainer scales its logits by {trainer.args.temperature!r}: log-probs would not be comparable"
            )
            raise ConfigError("temperature", problem, config.temperature)
        if config.thinking_budget is not None:
            problem = "TRL would train on the ends of thinking that it forces: sample with the client itself"
            raise ConfigError("thinking_budget", problem, config.thinking_budget)
        told = _told(prompts, trainer)
        files = as_files(told)
        n = repeats([(one.ids, images) for one, images in zip(told, files, strict=True)], config)
        config = GenerationConfig(**config.model_dump() | {"num_return_sequences": n})
        images = files[::n] if any(files) else None
        own = {row: _expanded(trainer, told[row], files[row], row) for row in range(0, len(prompts), n) if files[row]}
        rollouts = complete(
            self._client.generate([one.ids for one in told[::n]], None, config, images=images, **self._options())
        )
        sampled_from = rollouts.prompts
        for row, ids in own.items():
            check_same("prompts", row, ids, sampled_from[row])
        return {
            "prompt_ids": sampled_from,
            "completion_ids": responses(rollouts),
            "logprobs": log_probs(rollouts),
            "version_spans": [list(spans) for spans in rollouts.version_spans],
            "finish_reasons": list(rollouts.finish_reasons),
        }


_REGEX = "vllm_structured_outputs_regex", "vllm_guided_decoding_regex"
"""What releases of TRL call the regular expression of their completions."""


def config_of(trainer: Any) -> GenerationConfig:
    """The config with which a `GRPOTrainer` would sample: its `GRPOConfig` with `generation_kwargs`, its EOS ids.

    Raises `ConfigError` for options that `GenerationConfig` does not have.
    """
    args = trainer.args
    values = {
        "max_new_tokens": args.max_completion_length,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": 0.0 if args.min_p is None else args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "eos_token_id": tuple(trainer.eos_token_ids),
    }
    if regex := next(filter(None, (getattr(args, name, None) for name in _REGEX)), None):
        values["guided"] = {"regex": regex}
    return GenerationConfig(**values | (args.generation_kwargs or {}))


def _check_one_turn(trainer: Any) -> None:
    """Refuse tools: TRL samples the turns after a tool's answer itself, and no `version_spans` would tell of them."""
    for name, given in (("environment_factory", trainer.environment_factories), ("tools", trainer.tools)):
        if given:
            raise ConfigError(name, "the trainer samples the turns after a tool's answer itself: train without it")


def _expanded(trainer: Any, prompt: Conversation, files: list[bytes], row: int) -> list[int]:
    """A prompt's ids, as the trainer's processor expands its images."""
    ids: list[int] = processed(trainer.processing_class, prompt, files, row)["input_ids"][0].tolist()
    return ids


def _told(prompts: list[Any], trainer: Any) -> list[Conversation]:
    tokenizer = trainer.processing_class
    if all(isinstance(prompt, str) for prompt in prompts):
        return [Conversation(ids=list(ids)) for ids in tokenizer(text=prompts)["input_ids"]]
    template = {"chat_template": trainer.chat_template, **trainer.chat_template_kwargs}
    return [rendered(tokenizer, prompt, row, **template) for row, prompt in enumerate(prompts)]
