"""Alibaba ROLL's `VllmStrategy.generate`, answered by Rollstream's workers. Imports nothing of ROLL.

Written against roll/distributed/strategy/vllm_strategy.py (`generate`, `create_sampling_params_for_vllm`) and its
caller, `ActorWorker.generate` in roll/pipeline/base_worker.py, as of August 2026 (8eb27cc).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from rollstream.schemas import ConfigError, GenerationConfig
from rollstream.schemas.plain_values import plain

from ..batches.prompts import Prompts
from ..calls.options import spelled_out
from ..client import AsyncClient
from ..errors import PromptsError
from ..rollouts.rollout_batch import RolloutBatch
from .images import check_same
from .shared import SAMPLING_DEFAULTS, DataProtoLike, DropIn, SamplingOptions, check_client, complete

if TYPE_CHECKING:
    import torch

_REQUIRED = ("max_new_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "num_return_sequences",
             "eos_token_id", "pad_token_id", "stop_strings")  # fmt: skip
"""The names that `create_sampling_params_for_vllm` requires, and the pad id that its caller adds."""

_NO_BEAM = ("temperature", "top_p", "top_k", "repetition_penalty", "stop_strings", "logprobs",
            "include_stop_str_in_output")  # fmt: skip
"""Options that ROLL's beam search does not pass on, or that do not change vLLM's beams."""


class RollStrategy(DropIn):
    """Replaces a `VllmStrategy` of which only `generate` is called."""

    @spelled_out(SamplingOptions, SAMPLING_DEFAULTS)
    def __init__(self, client: AsyncClient, **options: Unpack[SamplingOptions]) -> None:
        check_client(client, AsyncClient)
        super().__init__(**options)
        self._client = client

    async def generate(self, batch: DataProtoLike, generation_config: Mapping[str, Any]) -> torch.Tensor:
        """Prompt and response ids, (B * n, prompt columns + longest response), for ROLL's `postprocess_generate`.

        B = rows of `batch.batch["input_ids"]`; the n = `num_return_sequences` rows of a prompt are adjacent. The prompt
        columns are the given ones with their padding; responses are right-padded with `pad_token_id`. Device and dtype
        are those of `input_ids`. Raises what `rollouts` raises.
        """
        import torch  # noqa: PLC0415 - `import rollstream` imports no torch

        input_ids = batch.batch["input_ids"]
        if getattr(input_ids, "is_nested", False):
            raise PromptsError("input_ids", "a nested tensor: give it padded, as ROLL does, or call `rollouts`")
        rollouts = await self.rollouts(batch, generation_config)
        prompts = input_ids.repeat_interleave(rollouts.num_return_sequences, dim=0)
        return torch.cat((prompts, rollouts.sequences[:, rollouts.prompt_len :].to(prompts)), dim=1)

    async def rollouts(self, batch: DataProtoLike, generation_config: Mapping[str, Any]) -> RolloutBatch:
        """The whole batch of which `generate` returns the ids: with log-probs, version spans and finish reasons.

        Its `roll()` has the keys of ROLL's `postprocess_generate`, with masks made from lengths, not from ids. Prompts
        with images are `non_tensor_batch["multi_modal_data"]`, as ROLL's collator makes it, and `input_ids` has them
        expanded; `roll()` then counts positions as for text. Raises `PromptsError` for video and audio, and where the
        workers expand images otherwise than `input_ids`; `ImagesError`, `ConfigError`, `RolloutFailedError` when a
        group failed, and what `AsyncClient.generate` raises.
        """
        config = generation_config_of(generation_config)
        given = (batch.non_tensor_batch or {}).get("multi_modal_data")
        ids, mask = batch.batch["input_ids"], batch.batch["attention_mask"]
        pad, options = generation_config["pad_token_id"], self._options()
        if given is None:
            return complete(await self._client.generate(ids, mask, config, pad_token_id=pad, **options))
        expanded, (prompts, images) = Prompts.of(ids, mask).ids, _read(given)
        if len(prompts) != len(expanded):
            problem = f"{len(prompts)} entries, but input_ids has {len(expanded)} rows: give one for each"
            raise PromptsError("multi_modal_data", problem)
        generated = self._client.generate(prompts, None, config, images=images, pad_token_id=pad, **options)
        rollouts = complete(await generated)
        for row, prompt in enumerate(rollouts.prompts):
            number = row // rollouts.num_return_sequences
            check_same("multi_modal_data", number, expanded[number].tolist(), prompt)
        return rollouts


def _read(given: Sequence[Any]) -> tuple[list[list[int]], list[list[Any]]]:
    """Each prompt with one placeholder an image, and its images. Raises `PromptsError` for anything else."""
    prompts, images = [], []
    for row, entry in enumerate(given):
        if not isinstance(entry, Mapping) or "prompt_token_ids" not in entry:
            raise PromptsError("multi_modal_data", "has no prompt_token_ids, which ROLL's collator puts there", row)
        own = entry["prompt_token_ids"]
        if not hasattr(own, "__iter__"):
            problem = f"prompt_token_ids is a {type(own).__name__}: give the ids with one placeholder an image"
            raise PromptsError("multi_modal_data", problem, row)
        prompts.append(list(own))
        images.append(_images_of(row, entry.get("multi_modal_data") or {}))
    return prompts, images


def _images_of(row: int, media: Any) -> list[Any]:
    if not isinstance(media, Mapping):
        problem = f"multi_modal_data is a {type(media).__name__}: give a mapping with the images under 'image'"
        raise PromptsError("multi_modal_data", problem, row)
    if others := sorted(set(media) - {"image"}):
        raise PromptsError("multi_modal_data", f"has {others[0]}: only text and images are sampled", row)
    images = media.get("image", [])
    return list(images) if isinstance(images, list | tuple) else [images]


def generation_config_of(given: Mapping[str, Any]) -> GenerationConfig:
    """Translate ROLL's generation config into ours, with the meaning that ROLL gives it.

    - `eos_token_id` becomes `stop_token_ids`: as in ROLL, these end a completion beside the model's own EOS ids.
    - `logprobs`: an integer (ROLL's default 0 is the sampled token's), None, or one of our own names.
    - `num_beams` above 1 gives that many rows a prompt, so `num_return_sequences` must be equal, as ROLL's
      `GeneratingArguments` makes it; options that ROLL's beam search does not pass on are left out.
    - `do_sample=False` is refused unless `temperature` is 0, because ROLL's vLLM strategy samples all the same.
    - Other fields of `GenerationConfig`, such as `seed` or `min_p`, are taken as they are.

    Raises `ConfigError` for bad values, unknown names, and missing names that ROLL requires.
    """
    if not isinstance(given, Mapping):
        raise ConfigError("generation_config", f"expected a mapping, got {type(given).__name__}", given)
    values = {str(name): _plain(value) for name, value in given.items()}
    if missing := [name for name in _REQUIRED if name not in values]:
        raise ConfigError(missing[0], "is required: ROLL's callers always set it")
    if type(plain(values.pop("pad_token_id"))) is not int:
        raise ConfigError("pad_token_id", "expected the tokenizer's pad id", given["pad_token_id"])
    if values.pop("do_sample", None) is False and values["temperature"] != 0:
        raise ConfigError("do_sample", "ROLL's vLLM strategy samples in any case: set temperature to 0 instead", False)
    if "stop_token_ids" in values:
        raise ConfigError("stop_token_ids", "ROLL names stop ids eos_token_id", given["stop_token_ids"])
    if values.get("first_k") is not None:
        problem = "ROLL takes num_return_sequences rows of each prompt: leave it out, or sample with the client"
        raise ConfigError("first_k", problem, values["first_k"])
    values["stop_token_ids"] = values.pop("eos_token_id")
    values["stop_strings"] = values["stop_strings"] or ()
    values.setdefault("include_stop_str_in_output", True)
    logprobs = values.get("logprobs", 0)
    values["logprobs"] = "processed" if type(logprobs) is int else logprobs
    return GenerationConfig(**_beams(values))


def _plain(value: Any) -> Any:
    """A Python list of any iterable, since OmegaConf's lists are not Python's."""
    return value if isinstance(value, str | Mapping) or not hasattr(value, "__iter__") else list(value)


def _beams(values: dict[str, Any]) -> dict[str, Any]:
    asked = values.pop("use_beam_search", False)
    beams = values.get("num_beams", 1)
    if asked and beams == 1:
        raise ConfigError("use_beam_search", "needs num_beams above 1", asked)
    if beams == 1:
        return values
    if values["num_return_sequences"] != beams:
        problem = f"ROLL's beam search returns num_beams={beams!r} rows a prompt: set it to that"
        raise ConfigError("num_return_sequences", problem, values["num_return_sequences"])
    return {name: value for name, value in values.items() if name not in _NO_BEAM}
