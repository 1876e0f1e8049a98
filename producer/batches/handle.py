"""A batch of prompts under way: its groups as they finish, or all of it in submission order."""

from __future__ import annotations

from rollstream.schemas import Batch, Sealed

from ..calls.arguments import Reading
from ..rollouts.assemble import assemble
from ..rollouts.rollout_batch import RolloutBatch
from .any_handle import AnyHandle, load_torch
from .plausible import check_widths
from .read_answers import Answer, Fields, read_answer


class BatchHandle(AnyHandle[Batch, Answer]):
    """A batch of prompts, from `AsyncClient.submit` or `attach`; see `AnyHandle` for what reading it raises."""

    @staticmethod
    def _read_answer(batch: Batch, entry: bytes, fields: Fields) -> Answer | Sealed:
        return read_answer(batch, entry, fields)

    async def result(
        self,
        timeout: float | None = None,
        progress: bool = False,
        pad_token_id: int = 0,
        pad_to_max_new_tokens: bool = False,
    ) -> RolloutBatch:
        """Wait for every group; returns the whole batch in submission order, failed groups in `RolloutBatch.errors`.

        `timeout` in seconds; `progress` draws a bar on stderr; `pad_to_max_new_tokens` fixes the response width to
        `max_new_tokens`. After ten seconds without a new group, and then at doubling intervals, the logger `rollstream`
        warns of what the batch waits for. Raises `ResultTimeoutError`, after which the batch goes on and you may wait
        again, and `ArgumentError` at once for a bad argument.
        """
        reading = Reading.of(timeout, progress, pad_token_id, pad_to_max_new_tokens)
        answers = await self.wait(timeout, progress)
        await load_torch()
        if self._attached:
            check_widths(self.batch, answers, pad_to_max_new_tokens=reading.pad_to_max_new_tokens)
        return assemble(
            self.batch,
            answers,
            pad_token_id=reading.pad_token_id,
            pad_to_max_new_tokens=reading.pad_to_max_new_tokens,
        )
