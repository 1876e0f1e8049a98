"""Batches of rows to score, and their dead letters, have pages like any others."""

from __future__ import annotations

import pytest

from rollstream.producer.observe.read_batch import read_batch
from rollstream.producer.observe.read_letter import read_letter
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys, encode
from tests.support.dead_letters import bury, letter_of
from tests.support.engine.scoring import answers_to, queue_scores, score_job
from tests.support.fault_steps import stub
from tests.support.faults import Queue

JOB = score_job([[5, 6, 7], [], [8, 9]], top_logprobs=2)


async def test_rows_are_shown_with_how_many_tokens_were_scored(
    redis_url: str, policy: str, connection: Connection, keys: Keys, queue: Queue
) -> None:
    queue_scores(queue, JOB)
    with stub(redis_url, policy):
        answers_to(queue, JOB.batch_id, 3)

    batch = await read_batch(connection, keys, JOB.batch_id)

    assert (batch.num_groups, batch.done, batch.config, batch.problem) == (3, 3, {"top_logprobs": 2}, "")
    assert [group.state for group in batch.groups] == ["result", "error", "result"]
    (scored,) = batch.groups[0].completions
    assert (scored.length, scored.finish_reason, scored.versions) == (2, "scored", ((0, 2),))
    assert batch.groups[1].code == "empty_prompt"


@pytest.mark.keys_by_hand
async def test_a_dead_letter_is_shown_with_its_rows(
    policy: str, connection: Connection, keys: Keys, queue: Queue
) -> None:
    name = bury(queue, letter_of(policy), encode(JOB))

    seen = await read_letter(connection, keys, 0, name)

    assert (seen.groups, seen.prompt_lengths, seen.config) == ((0, 3), (3, 0, 2), {"top_logprobs": 2})
