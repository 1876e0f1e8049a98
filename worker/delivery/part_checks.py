"""Whether a part is what it says: a sample of this group that may be gone on with. Pure; what Redis has is hostile."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rollstream.schemas import GenerationConfig, Job, Part, Tensor
from rollstream.schemas.wire.parts import content_of

_ROUNDED = 1e-3
"""How far above 0 a log-prob may come out."""


def problem_of(part: Part, job: Job, group: int, sample: int, vocab_size: int) -> str | None:
    """Why this part is none of that sample of the job; None if it is one."""
    return next(_problems(part, job, group, sample, vocab_size), None)


def _problems(part: Part, job: Job, group: int, sample: int, vocab_size: int) -> Iterator[str]:
    if (part.batch_id, part.group, part.sample) != (job.batch_id, group, sample):
        yield f"it says it is sample {part.sample} of group {part.group} of batch {part.batch_id!r}"
    if part.adapter != job.adapter or part.of != content_of(job, group):
        yield "it belongs to another prompt, config, seed or adapter"
    yield from _of_length(part, job.config)
    yield from _of_ending(part, job.config)
    yield from _of_columns(part, job.config)
    yield from _of_numbers(part)
    yield from _of_ids(part, job.config)
    for name, ids in (
        ("token_ids", part.token_ids),
        ("top_token_ids", part.top_token_ids),
        ("support_ids", part.support_ids),
    ):
        if ids is not None and _largest(ids) >= vocab_size:
            yield f"{name}: id {_largest(ids)} is outside the model's vocabulary of {vocab_size} ids"


def _of_length(part: Part, config: GenerationConfig) -> Iterator[str]:
    most = config.max_new_tokens if part.is_finished else config.max_new_tokens - 1
    if len(part) > most:
        yield f"it has {len(part)} tokens, and at most {most} if it is {'' if part.is_finished else 'not '}finished"
    if part.finish_reason == "length" and len(part) != config.max_new_tokens:
        yield f"it ended at max_new_tokens={config.max_new_tokens} with {len(part)} tokens"
    if part.finish_reason == "stop" and len(part) < config.min_new_tokens:
        yield f"it stopped before min_new_tokens={config.min_new_tokens}"


def _of_ending(part: Part, config: GenerationConfig) -> Iterator[str]:
    if part.finish_reason == "repetition" and config.stop_on_repetition is None:
        yield "it ended at a repetition, which nobody asked for"
    stop = part.stop_reason
    if stop is not None and part.finish_reason == "length":
        yield f"it ended at max_new_tokens and at {stop!r}"
    if isinstance(stop, int) and part.finish_reason == "stop" and part.token_ids.tolist()[-1:] != [stop]:
        yield f"it stopped at {stop}, which is not its last token"
    if isinstance(stop, str) and stop not in config.stop_strings:
        yield f"it stopped at {stop[:40]!r}, which is no stop string of the config"
    if part.is_finished and (part.text is None) != (not config.stop_strings):
        yield "a text is there exactly if the config has stop strings"


def _of_columns(part: Part, config: GenerationConfig) -> Iterator[str]:
    """Whether it has of each token what the config asks for, no less and no more."""
    if part.logprobs_flavour != config.logprobs:
        yield f"log-probs are {part.logprobs_flavour}, not {config.logprobs}"
    for name, found, asked in (
        ("top_logprobs", part.top_token_ids, config.top_logprobs),
        ("label_token_ids", part.label_logprobs, len(config.label_token_ids)),
    ):
        columns = 0 if found is None else found.shape[1]
        if columns != asked:
            yield f"{name}: {columns} of each token, not {asked}"
    if (part.support_ids is not None) != config.sampling_support:
        yield "the ids that were left to sample from are there exactly if sampling_support asks for them"
    if part.is_finished and (part.routing is not None) != config.routed_experts:
        yield "routing is there exactly if routed_experts asks for it"
    if part.forced is not None and config.thinking_budget is None:
        yield "tokens were forced without a thinking_budget"


def _of_numbers(part: Part) -> Iterator[str]:
    """Whether its log-probs can be such; of ids that were ruled out they are minus infinity."""
    if part.logprobs is not None and not np.isfinite(part.logprobs.numpy()).all():
        yield "logprobs of sampled tokens are not finite"
    for name, found in (
        ("logprobs", part.logprobs),
        ("top_logprobs", part.top_logprobs),
        ("label_logprobs", part.label_logprobs),
    ):
        if found is not None and not (found.numpy() <= _ROUNDED).all():
            yield f"{name} are above 0, or no numbers"


def _of_ids(part: Part, config: GenerationConfig) -> Iterator[str]:
    """Whether its tokens are those that the config allows. The model's own EOS is not known here."""
    tokens = part.token_ids.numpy()
    if config.allowed_token_ids is not None and not np.isin(tokens, config.allowed_token_ids).all():
        yield "it has an id that allowed_token_ids forbids"
    eos = () if config.ignore_eos or config.eos_token_id is None else config.eos_token_id
    stops = np.isin(tokens, [*config.stop_token_ids, *eos])
    if stops[: config.min_new_tokens].any():
        yield f"it has a stop id before min_new_tokens={config.min_new_tokens}"
    if stops[: len(part) - part.is_finished].any():
        yield "it goes on after a stop id"


def _largest(ids: Tensor) -> int:
    return int(ids.numpy().max(initial=0))
