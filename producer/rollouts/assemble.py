"""Makes a `RolloutBatch` of the answers to a batch's groups. All masks follow from lengths, never from ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Batch, ErrorCode, GroupError, GroupResult
from rollstream.schemas.generation.generation_config import LogprobsFlavour
from rollstream.schemas.wire.fields import FinishReason
from rollstream.schemas.wire.routing import RowRouting

from .candidates import candidates, place, rows_of, sampled
from .rollout_batch import RolloutBatch

T = TypeVar("T")
Answers: TypeAlias = Mapping[int, GroupResult | GroupError]
"""By the number of their group."""


def assemble(
    batch: Batch,
    answers: Answers,
    *,
    pad_token_id: int = 0,
    pad_to_max_new_tokens: bool = False,
) -> RolloutBatch:
    """Make a `RolloutBatch` from an answer to every group of `batch`. Pure; needs torch."""
    from torch import from_numpy  # noqa: PLC0415 - a producer that only submits needs no torch

    batch = _with_whole_prompts(batch, answers)
    results = {group: answer for group, answer in answers.items() if isinstance(answer, GroupResult)}
    prompt_lengths, response_lengths = _lengths(batch, answers, results)
    response_len = batch.config.max_new_tokens if pad_to_max_new_tokens else int(response_lengths.max(initial=0))
    prompt_mask, response_mask = _masks(prompt_lengths, response_lengths, batch.prompt_width, response_len)
    attention_mask = prompt_mask | response_mask
    _take_forced_out(response_mask[:, batch.prompt_width :], batch, results)
    log_probs, scores = _log_probs(batch, results, response_len), _scores(batch, results)
    n = batch.config.completions_per_prompt
    return RolloutBatch(
        batch_id=batch.batch_id,
        prompt_len=batch.prompt_width,
        response_len=response_len,
        sequences=from_numpy(_sequences(batch, answers, response_len, pad_token_id)),
        attention_mask=from_numpy(attention_mask.astype(np.int64)),
        position_ids=from_numpy(_position_ids(prompt_lengths, response_lengths, batch.prompt_width, response_len)),
        prompt_mask=from_numpy(prompt_mask.astype(np.int64)),
        response_mask=from_numpy(response_mask.astype(np.int64)),
        old_log_probs=None if log_probs is None else from_numpy(log_probs),
        logprobs_flavour=_flavour(batch, results),
        prompt_lengths=from_numpy(prompt_lengths),
        response_lengths=from_numpy(response_lengths),
        group_index=from_numpy(np.repeat(np.arange(batch.num_groups), n)),
        scores=None if scores is None else from_numpy(scores),
        finish_reasons=_finish_reasons(batch, answers),
        stop_reasons=_by_row(batch, {g: r.stop_reasons for g, r in results.items()}, None),
        texts=_by_row(batch, {g: r.texts or (None,) * n for g, r in results.items()}, None),
        version_spans=_by_row(batch, {g: r.version_spans for g, r in results.items()}, ()),
        spans_exact=all(result.spans_exact for result in results.values()),
        errors={group: answer for group, answer in sorted(answers.items()) if isinstance(answer, GroupError)},
        num_return_sequences=n,
        pad_token_id=pad_token_id,
        sample_index=None if batch.config.first_k is None else from_numpy(_sample_index(batch, results)),
        cut_lengths={
            group: tuple(result.cut_lengths.tolist())
            for group, result in sorted(results.items())
            if result.cut_lengths is not None
        },
        **_images(batch, results),
        routing=_routing(batch, results),
        **candidates(batch, results, response_len),
    )


def _with_whole_prompts(batch: Batch, answers: Answers) -> Batch:
    """The batch as wide as its prompts: with the turns that they go on from, and with placeholders of images expanded,
    these are wider than what was submitted."""
    whole = max((answer.prompt.shape[0] for answer in answers.values() if answer.prompt is not None), default=0)
    return batch if whole <= batch.prompt_width else batch.model_copy(update={"prompt_width": whole})


def _lengths(
    batch: Batch, answers: Answers, results: Mapping[int, GroupResult]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """True lengths of prompts and responses, (R,) each."""
    prompts = np.zeros(batch.num_groups * batch.config.completions_per_prompt, np.int64)
    responses = np.zeros_like(prompts)
    for group, answer in answers.items():
        prompts[rows_of(batch.config, group)] = 0 if answer.prompt is None else answer.prompt.shape[0]
    for group, result in results.items():
        responses[rows_of(batch.config, group)] = result.lengths.numpy()
    return prompts, responses


def _masks(
    prompt_lengths: NDArray[np.int64], response_lengths: NDArray[np.int64], prompt_len: int, response_len: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Prompt and response mask, (R, P + L) each: the columns just before P and just after it."""
    offset = np.arange(-prompt_len, response_len)
    prompt_mask = (offset < 0) & (offset >= -prompt_lengths[:, None])
    response_mask = (offset >= 0) & (offset < response_lengths[:, None])
    return prompt_mask, response_mask


def _position_ids(
    prompt_lengths: NDArray[np.int64], response_lengths: NDArray[np.int64], prompt_len: int, response_len: int
) -> NDArray[np.int64]:
    """`clip(cumsum(attention_mask) - 1, 0)` without the sum: a row's tokens are adjacent, so they are counted."""
    positions = np.arange(-prompt_len, response_len) + prompt_lengths[:, None]
    last = np.maximum(prompt_lengths + response_lengths - 1, 0)
    return np.clip(positions, 0, last[:, None], out=positions)


def _sequences(batch: Batch, answers: Answers, response_len: int, pad_token_id: int) -> NDArray[np.int64]:
    width = batch.prompt_width
    shape = (batch.num_groups * batch.config.completions_per_prompt, width + response_len)
    sequences = np.full(shape, pad_token_id, np.int64)
    for group, answer in answers.items():
        rows = sequences[rows_of(batch.config, group)]
        if answer.prompt is not None:
            rows[:, width - answer.prompt.shape[0] : width] = answer.prompt.numpy()
        if isinstance(answer, GroupResult):
            place(rows[:, width:], answer.token_ids, answer.response_mask.numpy())
    return sequences


def _log_probs(batch: Batch, results: Mapping[int, GroupResult], response_len: int) -> NDArray[np.float32] | None:
    if batch.config.logprobs is None:
        return None
    shape = (batch.num_groups * batch.config.completions_per_prompt, response_len)
    log_probs = np.zeros(shape, np.float32)
    for group, result in results.items():
        if result.logprobs is not None:
            place(log_probs[rows_of(batch.config, group)], result.logprobs, sampled(result))
    return log_probs


def _take_forced_out(response_mask: NDArray[np.bool_], batch: Batch, results: Mapping[int, GroupResult]) -> None:
    """Make `response_mask`, (R, L), false where a token was put there and not sampled."""
    for group, result in results.items():
        if result.forced_mask is not None:
            rows, forced = response_mask[rows_of(batch.config, group)], result.forced_mask.numpy()
            width = min(forced.shape[1], rows.shape[1])
            rows[:, :width] &= ~forced[:, :width]


def _scores(batch: Batch, results: Mapping[int, GroupResult]) -> NDArray[np.float32] | None:
    if all(result.scores is None for result in results.values()):
        return None
    scores = np.full(batch.num_groups * batch.config.completions_per_prompt, np.nan, np.float32)
    for group, result in results.items():
        if result.scores is not None:
            scores[rows_of(batch.config, group)] = result.scores.numpy()
    return scores


def _flavour(batch: Batch, results: Mapping[int, GroupResult]) -> LogprobsFlavour | None:
    """The flavour that the workers report. If they differ, both are the same numbers: then the one asked for."""
    named = {result.logprobs_flavour for result in results.values()}
    return named.pop() if len(named) == 1 else batch.config.logprobs


def _finish_reasons(batch: Batch, answers: Answers) -> tuple[FinishReason, ...]:
    def of(answer: GroupResult | GroupError) -> tuple[FinishReason, ...]:
        if isinstance(answer, GroupResult):
            return answer.finish_reasons
        reason: FinishReason = "cut" if answer.code == ErrorCode.NOT_NEEDED else "error"
        return (reason,) * batch.config.completions_per_prompt

    return _by_row(batch, {group: of(answer) for group, answer in answers.items()}, "error")


def _sample_index(batch: Batch, results: Mapping[int, GroupResult]) -> NDArray[np.int64]:
    """(R,), -1 where there is no completion."""
    numbers = np.full(batch.num_groups * batch.config.completions_per_prompt, -1, np.int64)
    for group, result in results.items():
        if result.sample_index is not None:
            numbers[rows_of(batch.config, group)] = result.sample_index.numpy()
    return numbers


def _images(batch: Batch, results: Mapping[int, GroupResult]) -> dict[str, Any]:
    """The images of each row, and where they are; nothing if no row has any."""
    if not any(result.images for result in results.values()):
        return {}
    return {
        "images": _by_row(batch, {g: (r.images,) * len(r) for g, r in results.items()}, ()),
        "image_spans": _by_row(batch, {g: (r.image_spans,) * len(r) for g, r in results.items()}, ()),
    }


def _routing(batch: Batch, results: Mapping[int, GroupResult]) -> tuple[RowRouting | None, ...]:
    """Where that of each row lies; nothing if no row has any."""

    def of(result: GroupResult) -> tuple[RowRouting | None, ...]:
        told = result.routing
        if told is None:
            return (None,) * len(result)
        return tuple(
            RowRouting(batch_id=result.batch_id, group=result.group, completion=place, experts=told.alone(place))
            for place in range(len(result))
        )

    if all(result.routing is None for result in results.values()):
        return ()
    return _by_row(batch, {group: of(result) for group, result in results.items()}, None)


def _by_row(batch: Batch, of_group: Mapping[int, tuple[T, ...]], failed: T) -> tuple[T, ...]:
    n = batch.config.completions_per_prompt
    return tuple(item for group in range(batch.num_groups) for item in of_group.get(group, (failed,) * n))
