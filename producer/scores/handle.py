"""A batch of rows to score, under way: its rows as they finish, or all of it in submission order."""

from __future__ import annotations

from rollstream.schemas import Keys, ScoreDescription, Sealed
from rollstream.schemas.wire.scores import Description

from ..batches.any_handle import AnyHandle, load_torch
from ..batches.handle import BatchHandle
from ..batches.ledger import read_description
from ..batches.plausible import check_score_width
from ..batches.read_answers import Fields
from ..redis_io.connection import Connection
from .read_scores import ScoreAnswer, read_scores
from .score_batch import ScoreBatch, assemble


class ScoreHandle(AnyHandle[ScoreDescription, ScoreAnswer]):
    """Rows to score, from `AsyncClient.submit_scores` or `attach`; see `AnyHandle` for what reading it raises."""

    @staticmethod
    def _read_answer(batch: ScoreDescription, entry: bytes, fields: Fields) -> ScoreAnswer | Sealed:
        return read_scores(batch, entry, fields)

    async def result(self, timeout: float | None = None, progress: bool = False) -> ScoreBatch:
        """Wait for every row; returns the whole batch in submission order, failed rows in `ScoreBatch.errors`.

        `timeout` in seconds; `progress` draws a bar on stderr. After ten seconds without another row, and then at
        doubling intervals, the logger `rollstream` warns of what the batch waits for. Raises `ResultTimeoutError`,
        after which the batch goes on and you may wait again, and `ArgumentError` at once for a bad argument.
        """
        answers = await self.wait(timeout, progress)
        await load_torch()
        if self._attached:
            check_score_width(self.batch, answers.values())
        return assemble(self.batch, answers)


async def attached(connection: Connection, keys: Keys, batch_id: str) -> BatchHandle | ScoreHandle:
    """The handle of a batch that another process has submitted, see `AsyncClient.attach`."""
    return handle_of(connection, keys, await read_description(connection, keys, batch_id), attached=True)


def handle_of(
    connection: Connection, keys: Keys, batch: Description, *, attached: bool = False
) -> BatchHandle | ScoreHandle:
    """The handle of a batch of either kind; `attached`: its description was read from Redis."""
    if isinstance(batch, ScoreDescription):
        return ScoreHandle(connection=connection, keys=keys, batch=batch, attached=attached)
    return BatchHandle(connection=connection, keys=keys, batch=batch, attached=attached)
