"""What a page shows of a group's answer, and of the delivery that won."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from rollstream.schemas import Batch, Completion, ErrorCode, GenerationConfig, GroupError, GroupScores, Job
from rollstream.schemas.errors import cut
from rollstream.schemas.field_values import text_of
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.printable import printable, printable_lines
from rollstream.schemas.wire.envelope import QueuedJob
from rollstream.schemas.wire.scores import Description

from ...batches.read_answers import AnyAnswer
from ..batch_seen import CompletionSeen, GroupSeen, GroupState
from .ages import finite

MOST_IDS = 100_000
_MOST_COMPLETIONS = 64
_MOST_SPANS = 64
_MOST_DELIVERIES = 32
_LONGEST_TEXT = 100_000
_TOKEN = re.compile(rb"([0-9]{1,20}-[0-9]{1,20})\|([^|]{1,200})\|([0-9]{1,9})")
_WITHOUT = {LedgerField.CANCELLED.encode(): GroupState.CANCELLED, LedgerField.CUT.encode(): GroupState.CUT}
"""What stands in the ledger of a group that no worker answered."""
CODES = {GroupState.CANCELLED: ErrorCode.CANCELLED, GroupState.CUT: ErrorCode.NOT_NEEDED}
"""The codes of their answers."""
SCORED = "scored"
"""Stands where a completion has its finish reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Won:
    """Which delivery of which entry answered a group."""

    entry_id: str
    worker: str
    delivery: int | None

    @classmethod
    def of(cls, token: bytes) -> Self | GroupState:
        """From the ledger's field of the group; its state if it was cancelled or cut."""
        if token in _WITHOUT:
            return _WITHOUT[token]
        match = _TOKEN.fullmatch(token)
        if match is None:
            return cls(entry_id="", worker=text_of(token), delivery=None)
        return cls(entry_id=match[1].decode(), worker=text_of(match[2]), delivery=int(match[3]))

    @property
    def before(self) -> range:
        """The deliveries before it, at most the last 32."""
        won = self.delivery or 1
        return range(max(1, won - _MOST_DELIVERIES), won)


def seen_answer(
    group: int, answer: AnyAnswer | str, won: Won, lived: tuple[int, ...], *, is_with_ids: bool
) -> GroupSeen:
    """The group with its answer, or with the text that says why that cannot be read."""
    how: dict[str, Any] = {"worker": won.worker, "entry_id": won.entry_id, "delivery": won.delivery, "lived": lived}
    if isinstance(answer, str):
        return GroupSeen(group=group, state=GroupState.ANSWERED, message=cut(printable(answer)), **how)
    if isinstance(answer, GroupScores):
        return _seen_row(answer, how)
    prompt = None if answer.prompt is None else answer.prompt.tolist()
    how["prompt_length"] = None if prompt is None else len(prompt)
    how["prompt_token_ids"] = tuple(prompt[:MOST_IDS]) if prompt is not None and is_with_ids else None
    if isinstance(answer, GroupError):
        state = next((state for state, code in CODES.items() if code == answer.code), GroupState.ERROR)
        how |= {"code": answer.code, "field": cut(answer.field), "message": cut(answer.message)}
        return GroupSeen(group=group, state=state, **how)
    completions = answer.completions
    asked = len(prompt or ()) + sum(map(len, completions))
    return GroupSeen(
        group=group,
        state=GroupState.RESULT,
        completions=tuple(_completions(completions, MOST_IDS - len(prompt or ()), is_with_ids=is_with_ids)),
        num_completions=len(completions),
        are_ids_cut=is_with_ids and asked > MOST_IDS,
        queued_s=finite(answer.queued_s),
        generate_s=finite(answer.generate_s),
        adapter=answer.adapter,
        **how,
    )


def _seen_row(answer: GroupScores, how: dict[str, Any]) -> GroupSeen:
    """A row and how many of its tokens were scored, as if these were a completion."""
    versions = ((answer.policy_version, len(answer)),)
    scored = CompletionSeen(
        sample=0, length=len(answer), finish_reason=SCORED, stop_reason=None, versions=versions, token_ids=None,
        text=None,
    )  # fmt: skip
    return GroupSeen(
        group=answer.group,
        state=GroupState.RESULT,
        completions=(scored,),
        num_completions=1,
        queued_s=finite(answer.queued_s),
        generate_s=finite(answer.score_s),
        adapter=answer.adapter,
        **how,
    )


def _completions(completions: tuple[Completion, ...], room: int, *, is_with_ids: bool) -> Iterator[CompletionSeen]:
    for one in completions if is_with_ids else completions[:_MOST_COMPLETIONS]:
        ids = tuple(one.token_ids[: max(0, room)]) if is_with_ids else None
        room -= len(ids or ())
        stop = one.stop_reason
        yield CompletionSeen(
            sample=one.sample,
            length=len(one),
            finish_reason=one.finish_reason,
            resumed_at=one.resumed_at,
            stop_reason=cut(printable(stop)) if isinstance(stop, str) else stop,
            versions=tuple((version, count) for version, count in one.version_spans[:_MOST_SPANS]),
            token_ids=ids,
            text=printable_lines(one.text[:_LONGEST_TEXT]) if is_with_ids and one.text is not None else None,
        )


def shown_description(batch: Description | QueuedJob) -> dict[str, Any]:
    """What a batch or a job asks for, as plain values."""
    if not isinstance(batch, Batch | Job):
        return {"top_logprobs": batch.top_logprobs}
    some = {} if batch.first_groups is None else {"first_groups": batch.first_groups}
    return shown_config(batch.config) | some


def shown_config(config: GenerationConfig) -> dict[str, Any]:
    """What differs from the defaults, and how much is generated, as plain values with printable texts."""
    told = config.model_dump(mode="json", exclude_defaults=True)
    always = {"max_new_tokens": config.max_new_tokens, "num_return_sequences": config.num_return_sequences}
    return {name: _shown(value) for name, value in (always | told).items()}


def _shown(value: Any) -> Any:
    match value:
        case str():
            return cut(printable(value))
        case list() | tuple():
            return [_shown(one) for one in value[:100]]
        case dict():
            return {cut(printable(str(name))): _shown(one) for name, one in list(value.items())[:100]}
        case _:
            return value
