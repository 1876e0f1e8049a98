"""Whether a part is what it says: a sample of this group that may be gone on with. Pure; what Redis has is hostile."""

from __future__ import annotations

from collections.abc import Iterator

from rollstream.schemas import GenerationConfig, Job, Part, Tensor
from rollstream.schemas.wire.parts import content_of


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
    if part.forced is not None and config.thinking_budget is None:
        yield "tokens were forced without a thinking_budget"


def _largest(ids: Tensor) -> int:
    return int(ids.numpy().max(initial=0))
