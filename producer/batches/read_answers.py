"""Read one entry of a result stream: an answer that `assemble` can trust, or an error that keeps the bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias, TypeVar

from rollstream.schemas import (
    Batch,
    GroupError,
    GroupResult,
    GroupScores,
    SchemaError,
    Sealed,
    decode,
)
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.images import grown
from rollstream.schemas.wire.scores import Description

from ..errors import UnreadableResultError
from ..rollouts.asked_for import not_as_asked

Answer: TypeAlias = GroupResult | GroupError
"""A group's answer: its completions, or why there are none."""

AnyAnswer: TypeAlias = GroupResult | GroupScores | GroupError
"""The answer to a prompt or to a row."""
Fields: TypeAlias = Mapping[bytes, bytes]
"""An entry's fields."""

_ANSWERS: tuple[type[Answer | Sealed], ...] = (GroupResult, GroupError, Sealed)

M = TypeVar("M", bound=AnyAnswer | Sealed)


def read_answer(batch: Batch, entry: bytes, fields: Fields) -> Answer | Sealed:
    """Raises `UnreadableResultError` unless the entry is an answer to a group of this very batch."""
    return read_fitting(batch, entry, fields, _ANSWERS, partial(_unfit, batch))


def read_fitting(
    batch: Description, entry: bytes, fields: Fields, kinds: tuple[type[M], ...], unfit: Callable[[M], str | None]
) -> M:
    """One of `kinds`, of this very batch, in which `unfit` finds no problem. Raises `UnreadableResultError`."""
    payload = fields.get(PAYLOAD, b"")
    try:
        answer = decode(payload, *kinds)
    except SchemaError as error:
        raise UnreadableResultError(batch.batch_id, shown(entry), str(error), payload) from None
    problem = _other_batch(batch, answer) or unfit(answer)
    if problem is not None:
        raise UnreadableResultError(batch.batch_id, shown(entry), problem, payload)
    return answer


def shown(entry: bytes) -> str:
    """A stream entry's id as text."""
    return entry.decode("ascii", "backslashreplace")


def _other_batch(batch: Description, answer: AnyAnswer | Sealed) -> str | None:
    if answer.batch_id != batch.batch_id:
        return f"belongs to batch {answer.batch_id!r}"
    if isinstance(answer, Sealed):
        same = answer.num_groups == batch.num_groups
        return None if same else f"seals {answer.num_groups} groups, the batch has {batch.num_groups}"
    return None if answer.group < batch.num_groups else f"group {answer.group} of {batch.num_groups}"


def _unfit(batch: Batch, answer: Answer | Sealed) -> str | None:
    if isinstance(answer, Sealed):
        return None
    problem = _unfit_prompt(batch, answer)
    return problem or (_unfit_completions(batch, answer) if isinstance(answer, GroupResult) else None)


def _unfit_prompt(batch: Batch, answer: Answer) -> str | None:
    prompt = answer.prompt
    if prompt is None:
        return None
    submitted = prompt.shape[0] - (_not_submitted(answer) if isinstance(answer, GroupResult) else 0)
    if submitted > batch.prompt_width:
        return f"a prompt of {submitted} tokens, the widest has {batch.prompt_width}"
    return "a negative token id in the prompt" if prompt.numpy().min(initial=0) < 0 else None


def _not_submitted(result: GroupResult) -> int:
    """How many ids of the prompt are an earlier turn's, or stand for an image beyond its placeholder."""
    prefix = result.prefix_length
    return prefix + grown([span for span in result.image_spans if span.offset >= prefix])


def _unfit_completions(batch: Batch, result: GroupResult) -> str | None:
    n, width = result.token_ids.shape
    config = batch.config
    if n != config.completions_per_prompt:
        asked = "num_return_sequences" if config.first_k is None else "first_k"
        return f"{n} completions, {asked} is {config.completions_per_prompt}"
    if width > config.max_new_tokens:
        return f"completions of {width} tokens, max_new_tokens is {config.max_new_tokens}"
    if (result.logprobs is None) != (config.logprobs is None):
        return f"logprobs are {'absent' if result.logprobs is None else 'present'}, asked for: {config.logprobs}"
    if result.sample_index is not None and (sample := max(result.sample_index.tolist())) >= config.num_return_sequences:
        return f"sample_index names sample {sample}, num_return_sequences is {config.num_return_sequences}"
    if (problem := not_as_asked(config, result)) is not None:
        return problem
    return "a negative token id in a completion" if result.token_ids.numpy().min(initial=0) < 0 else None
