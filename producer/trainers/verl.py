"""verl's rollouts of one turn, answered by Rollstream's workers. Imports nothing of verl, Ray or tensordict.

Written against `AgentLoopManager.generate_sequences`, `AgentLoopWorker._postprocess` and `SingleTurnAgentLoop` in
verl/experimental/agent_loop/, and their caller in verl/trainer/ppo/ray_trainer.py, as of August 2026 (1dda039).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ConfigError, GenerationConfig

from ..blocking_client import Client
from ..calls.options import spelled_out
from ..errors import PromptsError
from ..rollouts.rollout_batch import RolloutBatch
from .images import Conversation, as_files, rendered
from .shared import (
    SAMPLING_DEFAULTS,
    DataProtoLike,
    DropIn,
    SamplingOptions,
    Tokenizer,
    check_client,
    complete,
    repeats,
)
from .verl_images import model_inputs, position_ids, seen_alike

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class VerlRollouts:
    """The three parts of verl's `DataProto`: `DataProto.from_dict(r.batch, r.non_tensor_batch, r.meta_info)`."""

    batch: dict[str, torch.Tensor]
    """See `rollouts.roll_and_verl_layouts.verl`: P is the rollout config's `prompt_length`, L its `response_length`."""
    non_tensor_batch: dict[str, NDArray[Any]]
    """The given arrays, and what verl's agent loop adds to each row:

    `__num_turns__` (int32, 2); and objects: `multi_modal_inputs` (what the model needs beside the ids; empty for text),
    `turn_scores` and `tool_rewards` (empty), `extras` (None), `min_global_steps` and `max_global_steps` (the
    policy versions of its first and its last token)."""
    meta_info: dict[str, Any]
    """`timing`, which verl's trainer logs: the seconds that the call took."""


class VerlRollout(DropIn):
    """Replaces an `AgentLoopManager` of which only `generate_sequences` is called.

    `rollout_config` is verl's `actor_rollout_ref.rollout`; `chat_template` holds further arguments of
    `tokenizer.apply_chat_template`. `processor`: the model's, for prompts with images, as verl's worker has it (with
    `get_rope_index`, if the model's positions have several dimensions). `images_of` gives the images of a conversation,
    scaled if need be; None: they are taken out of its messages as they are.
    """

    @spelled_out(SamplingOptions, SAMPLING_DEFAULTS)
    def __init__(
        self,
        client: Client,
        *,
        rollout_config: Any,
        tokenizer: Tokenizer,
        chat_template: Mapping[str, Any] | None = None,
        processor: Any = None,
        images_of: Callable[[Sequence[Any]], Sequence[Any] | None] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> None:
        check_client(client, Client)
        super().__init__(**options)
        if tokenizer.pad_token_id is None:
            raise ConfigError("pad_token_id", "the tokenizer has none, and verl pads with it")
        self._client = client
        self._rollout_config = rollout_config
        self._tokenizer = tokenizer
        self._pad_token_id = tokenizer.pad_token_id
        self._chat_template = dict(chat_template or {})
        self._processor = processor
        self._images_of = images_of

    def generate_sequences(self, prompts: DataProtoLike) -> VerlRollouts:
        """One response for each row of `prompts`; verl has already repeated each prompt `rollout.n` times.

        Reads `non_tensor_batch["raw_prompt"]`, conversations of text and images, and `meta_info["validate"]`. Raises
        `PromptsError` for prompts that are longer than `prompt_length` or have other content, and where the workers
        expand an image otherwise than `processor`; `ImagesError`, `ConfigError` for what only verl's own agent loops
        do, `RolloutFailedError` when a group failed, and what `Client.generate` raises.
        """
        started = time.monotonic()
        given = prompts.non_tensor_batch
        _check_single_turn(given)
        config = config_of(self._rollout_config, validate=prompts.meta_info.get("validate", False))
        width = self._rollout_config.prompt_length
        told = [self._rendered(row, messages) for row, messages in enumerate(given["raw_prompt"])]
        ids, files = [_fitting(row, one.ids, width) for row, one in enumerate(told)], as_files(told)
        seen = [] if self._processor is None else model_inputs(self._processor, told, files)
        for row, one in enumerate(seen):
            _fitting(row, one.ids, width)
        n = repeats(list(zip(ids, files, strict=True)), config)
        rollouts = complete(
            self._client.generate(
                *_left_padded(ids[::n], width, self._pad_token_id),
                GenerationConfig(**config.model_dump() | {"num_return_sequences": n}),
                images=files[::n] if any(files) else None,
                pad_token_id=self._pad_token_id,
                pad_to_max_new_tokens=True,
                **self._options(),
            )
        )
        batch, fields = rollouts.verl(), _row_fields(rollouts)
        if self._processor is not None:
            inputs = seen_alike(seen, rollouts.prompts)
            batch["position_ids"] = position_ids(self._processor, batch, inputs, rollouts.image_spans)
            fields["multi_modal_inputs"] = _objects(inputs)
        timing = {"rollstream/generate_sequences": time.monotonic() - started}
        return VerlRollouts(batch=batch, non_tensor_batch={**given, **fields}, meta_info={"timing": timing})

    def _rendered(self, row: int, messages: Sequence[Any]) -> Conversation:
        images = None if self._images_of is None else self._images_of(messages)
        by = self._tokenizer if self._processor is None else self._processor
        return rendered(by, messages, row, images, **self._chat_template)


def config_of(rollout_config: Any, *, validate: bool) -> GenerationConfig:
    """The config with which verl's agent loop samples: its rollout config, or `val_kwargs` when it validates."""
    how = rollout_config.val_kwargs if validate else rollout_config
    return GenerationConfig(
        max_new_tokens=rollout_config.response_length,
        temperature=how.temperature,
        top_p=how.top_p,
        top_k=how.top_k,
        logprobs="processed" if rollout_config.calculate_log_probs else None,
    )


def _check_single_turn(given: Mapping[str, Any]) -> None:
    if "raw_prompt" not in given:
        raise PromptsError("raw_prompt", "is missing: verl's dataset puts the conversations there")
    if media := [name for name in ("multi_modal_data", "multi_modal_inputs") if name in given]:
        raise PromptsError(
            media[0], "is not read: images stand in the messages of raw_prompt, as verl's dataset has them"
        )
    loops = {str(name) for name in given.get("agent_name", ())} - {"single_turn_agent"}
    if loops:
        raise ConfigError("agent_name", f"{min(loops)!r} is not run here, only 'single_turn_agent' is")
    if not all(given.get("__do_sample__", ())):
        raise ConfigError("__do_sample__", "greedy rows among sampled ones (verl's REMAX) are not done here")


def _fitting(row: int, ids: list[int], width: int) -> list[int]:
    if len(ids) > width:
        raise PromptsError("raw_prompt", f"{len(ids)} tokens, but prompt_length is {width}", row)
    return ids


def _left_padded(prompts: Sequence[list[int]], width: int, pad_token_id: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids and mask, (rows, width) each; verl wants the prompts back in this width."""
    ids = np.full((len(prompts), width), pad_token_id, np.int64)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = 1
    return ids, mask


def _row_fields(rollouts: RolloutBatch) -> dict[str, NDArray[Any]]:
    spans = rollouts.version_spans
    return {
        "__num_turns__": np.full(len(spans), 2, np.int32),
        "multi_modal_inputs": _objects([{} for _ in spans]),
        "turn_scores": _objects([[] for _ in spans]),
        "tool_rewards": _objects([[] for _ in spans]),
        "extras": _objects([None for _ in spans]),
        "min_global_steps": _objects([row[0][0] for row in spans]),
        "max_global_steps": _objects([row[-1][0] for row in spans]),
    }


def _objects(values: Sequence[Any]) -> NDArray[Any]:
    """An array with one object a row; numpy itself would make columns of lists."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
