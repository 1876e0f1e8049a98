"""A batch of prompts under way: its groups as they finish, or all of it in submission order."""

from __future__ import annotations

from rollstream.schemas import Batch, GroupError, GroupResult, Sealed
from rollstream.schemas.wire.routing import RoutingArray

from ..calls.arguments import Reading, number
from ..errors import ArgumentError
from ..queue_errors import RoutingError
from ..rollouts.assemble import assemble
from ..rollouts.rollout_batch import RolloutBatch
from ..routing.read_routing import read_routing
from .any_handle import AnyHandle, load_torch
from .plausible import check_widths
from .read_answers import Answer, Fields, read_answer


class BatchHandle(AnyHandle[Batch, Answer]):
    """A batch of prompts, from `AsyncClient.submit` or `attach`; see `AnyHandle` for what reading it raises."""

    @staticmethod
    def _read_answer(batch: Batch, entry: bytes, fields: Fields) -> Answer | Sealed:
        return read_answer(batch, entry, fields)

    async def routed_experts(self, group: int | Answer) -> list[RoutingArray]:
        """Which experts each token of a group went to, for each completion, in the order of the group's completions.

        Each is uint8 (more than 256 experts: uint16) of `(P + L - 1, layers, k)`: for a prompt of P tokens and its
        completion of L a row a token but for the last one, which the model never computed. Row P - 1 + j is of the
        pass that sampled token j. `group`: an answer, or the number of one that has finished, as it was submitted: the
        rows of a `RolloutBatch` are for `client.routed_experts`. Read from Redis at each call, for as long as the
        results stay there.

        Raises `RoutingError` where it was not asked for, the group failed, or it is gone; `ArgumentError` for a group
        that has not finished or is of another batch; `RedisUnavailableError`.
        """
        answer: Answer | None
        if isinstance(group, GroupResult | GroupError):
            answer = group if group.batch_id == self.batch_id else None
        else:
            chosen = number(group)
            await self._reader.read_available()
            answer = self._reader.by_group.get(chosen) if type(chosen) is int else None
        if answer is None:
            rule = (
                "give an answer of this batch, or the number of a group that finished; client.routed_experts takes rows"
            )
            raise ArgumentError("group", group, rule)
        if not isinstance(answer, GroupResult):
            raise RoutingError(self.batch_id, answer.group, f"the group failed: {answer.code}: {answer.message}")
        if answer.routing is None:
            raise RoutingError(self.batch_id, answer.group, "it was not asked for: submit with routed_experts=True")
        told, places = answer.routing, range(len(answer))
        return await read_routing(self._connection, self._keys, self.batch_id, answer.group, told, places)

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
