"""How a drop-in asks for scores: with which weights, for how long, and no row may fail."""

from __future__ import annotations

from typing import Unpack

from ..blocking_client import Client
from ..calls.options import spelled_out
from ..errors import RolloutFailedError
from ..scores.score_batch import ScoreBatch
from .shared import SAMPLING_DEFAULTS, DropIn, SamplingOptions, check_client


class ScoringDropIn(DropIn):
    """`client` is of the policy that scores: a teacher's, a reference's, any that has workers."""

    @spelled_out(SamplingOptions, SAMPLING_DEFAULTS)
    def __init__(self, client: Client, **options: Unpack[SamplingOptions]) -> None:
        check_client(client, Client)
        super().__init__(**options)
        self._client = client

    @property
    def client(self) -> Client:
        """The client that submits the rows."""
        return self._client


def complete_scores(scores: ScoreBatch) -> ScoreBatch:
    """Return `scores` if every row was scored; else raise `RolloutFailedError`."""
    if scores.errors:
        raise RolloutFailedError(scores.batch_id, len(scores), scores.errors)
    return scores
