"""A trainer's run: submit, consume, move the cursor, publish, while no other trainer has taken it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, Self, Unpack

from rollstream.schemas import GenerationConfig, Keys, PolicyVersion
from rollstream.schemas.hashes.runs import MAX_CURSOR_BYTES, MAX_NOTE_BYTES, RunField
from rollstream.schemas.keys import check_run
from rollstream.schemas.times import RUN_RETENTION_S

from ..batches.handle import BatchHandle
from ..batches.prompts import Rows
from ..batches.submit_options import JobOptions, SubmitOptions
from ..batches.submit_prompts import Before, Making, making, submit_prompts
from ..calls.arguments import check_config
from ..calls.options import check_names, spelled_out
from ..errors import ProducerError, client_stays
from ..order.prompt_lengths import PromptLengths
from ..policies.activation import activate
from ..policies.publish_options import PUBLISH_DEFAULTS, PublishOptions
from ..redis_io.connection import Connection
from ..run_errors import CursorError, RunNotOpenError
from ..scores.handle import ScoreHandle
from ..scores.options import ScoreOptions
from ..scores.submit_scores import Before as BeforeScores
from ..scores.submit_scores import Making as Scoring
from ..scores.submit_scores import Scored, submit_scores
from ..scores.submit_scores import making as scores_of
from ..staleness.staleness_gate import StalenessGate
from ..weights.publish import publish
from ..weights.publisher import WeightsPublisher
from .arguments import KEEP, Named, ids_of, retention
from .book import RunCounts
from .opening import take
from .options import (
    RUN_SCORE_DEFAULTS,
    RUN_SUBMIT_DEFAULTS,
    NotedOptions,
    RunScoreOptions,
    RunSubmitOptions,
    score_part,
)
from .outstanding import OutstandingBatch, shown
from .plain import NotPlainError, packed, unpacked
from .submit import submit_through, terms_of
from .writer import RunWriter, Settling


class Run:
    """One trainer's run, from `AsyncClient.run`. Use as `async with client.run("exp-42") as run`.

    Redis keeps what the run has outstanding, what it has consumed and a small cursor of the trainer's own. A trainer
    that was killed opens the run again and finds them. Opening takes the run: the trainer that had it, if it is still
    there, gets a `RunTakenError` at its next `submit`, `submit_scores`, `consumed`, `dropped`, `save_cursor`,
    `publish_policy` or `activate` through the run, which then writes nothing. Results of batches that are not consumed
    do not expire, until the run's retention after their last answer. All calls raise `RunTakenError`, `RunLostError`
    (Redis has the run no more), `RunNotOpenError` and `RedisUnavailableError`.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        keys: Keys,
        weights: WeightsPublisher | None,
        name: str,
        retention_s: object = RUN_RETENTION_S,
        lengths: PromptLengths | None = None,
    ) -> None:
        self.name = check_run(name)
        """The run's name."""
        self._keys = keys
        self._connection = connection
        self._weights = weights
        self._lengths = lengths
        self._kept_for = retention(retention_s)
        self._writer: RunWriter | None = None
        self._why_not = "is not open yet"
        self._state: Any = None
        self._staged: Any = KEEP

    @property
    def epoch(self) -> int:
        """How often the run was opened, this time included."""
        return self._open.held.fence.epoch

    @property
    def cursor(self) -> Any:
        """The trainer's own data, as it was saved last; None before the first time. Each read gives a fresh copy.

        A value that is assigned is saved with the next batch that is consumed or dropped, or when the run is closed.
        """
        if self._staged is not KEEP:
            return copy.deepcopy(self._staged)
        cursor = self._open.cursor
        return None if cursor is None else unpacked(cursor)

    @cursor.setter
    def cursor(self, value: object) -> None:
        self._packed("cursor", value, MAX_CURSOR_BYTES)
        self._staged = copy.deepcopy(value)

    @property
    def cursor_version(self) -> int:
        """How often the cursor was moved."""
        return self._open.cursor_version

    @property
    def counts(self) -> RunCounts:
        """How many batches there are."""
        return self._open.book.counts

    @property
    def outstanding(self) -> tuple[OutstandingBatch[Any], ...]:
        """All batches that were submitted and are not consumed, in the order of submission.

        After a restart these are the ones to read first. One that `is_queued` has a `handle`; another was never queued,
        or only in part: submit the same prompts again with its `batch_id`, or drop it. Of rows to score it is a
        `ScoreHandle`.
        """
        return tuple(shown(one, self.name, self._keys.policy) for one in self._open.book.in_order)

    @spelled_out(RunSubmitOptions, RUN_SUBMIT_DEFAULTS, JobOptions, SubmitOptions, NotedOptions)
    async def submit(
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        config: GenerationConfig | None = None,
        **options: Unpack[RunSubmitOptions],
    ) -> BatchHandle:
        """`AsyncClient.submit` through the run: the batch is outstanding until `consumed` or `dropped`.

        Without a `batch_id` it is named after the run, with a number. A submit that is repeated after a crash is the
        same batch: by its `batch_id`, or without one by its content, if the trainer before, or a submit that failed,
        has left a batch of the same content outstanding and nobody has asked for its handle. Raises what
        `AsyncClient.submit` raises, `CursorError` for a `note` that cannot be kept, and `BatchConsumedError` for a
        batch that the run has consumed.
        """
        check_names(options, RUN_SUBMIT_DEFAULTS)
        chosen: RunSubmitOptions = {**RUN_SUBMIT_DEFAULTS, **options}
        writer = self._open
        config = check_config(config, attention_mask)
        note = self._noted(chosen["note"])
        terms, admitted = terms_of(chosen)
        make = await making(input_ids, attention_mask, config, terms, self._lengths)

        async def queue(marked: Making, batch_id: str, before: Before) -> BatchHandle:
            return await submit_prompts(self._connection, self._keys, marked, config, batch_id, before, self._lengths)

        return await submit_through(writer, make, queue, batch_id=terms["batch_id"], note=note, admitted=admitted)

    @spelled_out(RunScoreOptions, RUN_SCORE_DEFAULTS, JobOptions, ScoreOptions)
    async def submit_scores(
        self, input_ids: Scored, attention_mask: Rows | None = None, **options: Unpack[RunScoreOptions]
    ) -> ScoreHandle:
        """`AsyncClient.submit_scores` through the run: the batch is outstanding as one of `submit`, for no gate.

        Raises what `AsyncClient.submit_scores` raises, `CursorError` and `BatchConsumedError`.
        """
        check_names(options, RUN_SCORE_DEFAULTS)
        chosen: RunScoreOptions = {**RUN_SCORE_DEFAULTS, **options}
        writer, note, terms = self._open, self._noted(chosen["note"]), score_part(chosen)
        make = await scores_of(input_ids, attention_mask, terms)

        async def queue(marked: Scoring, batch_id: str, before: BeforeScores) -> ScoreHandle:
            return await submit_scores(self._connection, self._keys, marked, terms, batch_id, before)

        return await submit_through(writer, make, queue, batch_id=terms["batch_id"], note=note)

    async def consumed(self, batch: Named | str | Sequence[Named | str], cursor: Any = KEEP) -> None:
        """The trainer has trained on this batch, and its cursor moves with that: both are written, or neither.

        `batch`: its handle, its rollouts, an entry of `outstanding`, or its id; a list of them for a step that is made
        of several: all are consumed, or none. A gate from `gate` counts it too, so give it the rollouts. `cursor`:
        None, booleans, numbers, texts, bytes, and lists and dicts of them, 64 KiB at most.
        From now on the results expire as usual. A call whose outcome is not known (`RedisUnavailableError`, cancelled)
        may be repeated: it is written once. Raises `BatchConsumedError` for a batch that was consumed before,
        `BatchNotOutstandingError` for one that this run has not submitted, `CursorError`.
        """
        await self._settle(batch, RunField.CONSUMED, cursor)

    async def dropped(self, batch: Named | str | Sequence[Named | str], cursor: Any = KEEP) -> None:
        """The trainer will not train on this batch: a cancelled one, or one that was never queued. See `consumed`.

        A gate from `gate` lets others in in its place.
        """
        await self._settle(batch, RunField.DROPPED, cursor)

    async def save_cursor(self, cursor: Any) -> None:
        """Move the cursor alone. Raises `CursorError`."""
        data = self._packed("cursor", cursor, MAX_CURSOR_BYTES)
        staged = self._staged
        await self._open.save(data)
        self._sent(staged)

    def gate(
        self, *, batch_samples: int, max_staleness: int, max_outstanding: int | None = None, version: int = 0
    ) -> StalenessGate:
        """A `StalenessGate` that goes on where that of the trainer before was: call it once after opening.

        `version`: the policy version that the trainer has now. Outstanding batches that were submitted with `admitted`
        are outstanding in it; do not admit them again. The run saves it whenever a batch is consumed or dropped, and
        counts there, so call neither `count` nor `consumed` of the gate yourself. Raises `GateArgumentError`.
        """
        gate = StalenessGate(
            batch_samples=batch_samples,
            max_staleness=max_staleness,
            max_outstanding=max_outstanding,
            version=version,
        )
        writer = self._open
        gate.restore(self._state.gate if writer.gate is None else writer.gate.state, writer.book.admitted)
        writer.gate = gate
        return gate

    @spelled_out(PublishOptions, PUBLISH_DEFAULTS)
    async def publish_policy(self, version: int, **options: Unpack[PublishOptions]) -> PolicyVersion:
        """`AsyncClient.publish_policy`, if the run is still this trainer's when the version is announced."""
        writer = self._open
        check_names(options, PUBLISH_DEFAULTS)
        await writer.check()  # a trainer that has lost the run need not send its weights first
        return await publish(self._connection, self._keys, self._weights, version, options, writer.held.fence)

    async def activate(self, version: int, by: str | None = None) -> None:
        """`AsyncClient.activate`, if the run is still this trainer's."""
        writer = self._open
        await writer.check()  # what is active already is activated without a script
        store = None if self._weights is None else self._weights.store
        await activate(self._connection, self._keys, version, by, store, writer.held.fence)

    async def open(self) -> None:
        """Take the run; what `async with` does. Raises `UnreadableRunError` for what no trainer has written."""
        if self._writer is not None:
            raise RunNotOpenError(self.name, self._keys.policy, "is open already, and opened once")
        held, state, book = await take(self._connection, self._keys, self.name, self._kept_for)
        self._state = state
        self._writer = RunWriter(
            connection=self._connection,
            held=held,
            book=book,
            cursor=state.cursor,
            cursor_version=state.cursor_version,
        )
        await self._writer.release()

    async def close(self) -> None:
        """Let the run go, and save a cursor that was assigned; what the end of `async with` does."""
        writer, self._writer, self._why_not = self._open, None, "is closed"
        staged = None if self._staged is KEEP else self._packed("cursor", self._staged, MAX_CURSOR_BYTES)
        await writer.save(staged, close=True)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_more: object) -> None:
        if kind is None:
            await self.close()
            return
        self._staged = KEEP  # what was not finished is not saved
        with suppress(ProducerError):
            await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))

    @property
    def _open(self) -> RunWriter:
        if self._writer is None:
            raise RunNotOpenError(self.name, self._keys.policy, self._why_not)
        return self._writer

    async def _settle(self, batch: object, how: RunField, cursor: Any) -> None:
        writer, staged = self._open, self._staged
        batches = tuple(batch) if isinstance(batch, list | tuple) else (batch,)
        batch_ids = ids_of(batches)
        chosen = staged if cursor is KEEP else cursor
        data = None if chosen is KEEP else self._packed("cursor", chosen, MAX_CURSOR_BYTES)
        await writer.settle(Settling(batch_ids=batch_ids, batches=batches, how=how, cursor=data))
        self._sent(staged)

    def _sent(self, staged: Any) -> None:
        """The cursor that was assigned is saved, or another in its place; not one that was assigned meanwhile."""
        if self._staged is staged:
            self._staged = KEEP

    def _noted(self, note: object) -> bytes:
        return b"" if note is None else self._packed("note", note, MAX_NOTE_BYTES)

    def _packed(self, what: str, value: object, most: int) -> bytes:
        try:
            return packed(value, most)
        except NotPlainError as error:
            raise CursorError(self.name, self._keys.policy, what, str(error)) from None
