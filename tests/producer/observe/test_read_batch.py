"""A batch's page shows how each group was answered, by whom and after how many deliveries, at a bounded cost."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.errors import UnknownBatchError
from rollstream.producer.observe.batch_seen import BatchSeen, GroupSeen, GroupState
from rollstream.producer.observe.parts import results_index
from rollstream.producer.observe.parts.results_index import ResultsIndex
from rollstream.producer.observe.read_batch import read_batch, read_group
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerField
from tests.schemas.wire.messages import int32
from tests.support.answers import Answering, result_of
from tests.support.fault_steps import is_of, stub, tokens

POISON = 5000
"""No id of the stub's vocabulary."""


def states(groups: tuple[GroupSeen, ...]) -> list[GroupState]:
    return [group.state for group in groups]


async def test_groups_are_shown_with_lengths_reasons_versions_and_worker(
    redis_url: str, policy: str, connection: Connection, keys: Keys, trainer: AsyncClient
) -> None:
    with stub(redis_url, policy) as worker:
        config = GenerationConfig(max_new_tokens=6, num_return_sequences=2, temperature=0.5, ignore_eos=True)
        handle = await trainer.submit([[1, 2, 3], [POISON], [4]], None, config, batch_id="b", prompts_per_job=3)
        await handle.wait(timeout=30)

    batch = await read_batch(connection, keys, "b")

    assert (batch.num_groups, batch.num_jobs, batch.done, batch.cancelled, batch.problem) == (3, 1, 3, False, "")
    assert {"max_new_tokens": 6, "num_return_sequences": 2, "temperature": 0.5}.items() <= batch.config.items()
    first, poisoned, _ = batch.groups
    assert states(batch.groups) == ["result", "error", "result"]
    assert [(one.length, one.finish_reason, one.versions) for one in first.completions] == [
        (6, "length", ((0, 6),)),
        (6, "length", ((0, 6),)),
    ]
    assert (first.delivery, first.lived, first.prompt_length) == (1, (), 3)
    assert is_of(first.worker, worker)
    assert first.entry_id
    assert first.queued_s is not None
    assert poisoned.code == "token_out_of_vocabulary"
    assert str(POISON) in poisoned.message
    assert all(one.token_ids is None for one in first.completions)


async def test_one_group_has_its_ids(
    redis_url: str, policy: str, connection: Connection, keys: Keys, trainer: AsyncClient
) -> None:
    with stub(redis_url, policy):
        handle = await trainer.submit([[1, 2], [3]], None, tokens(4), batch_id="b")
        answers = await handle.wait(timeout=30)

    group = await read_group(connection, keys, "b", 0)

    assert group.prompt_token_ids == (1, 2)
    assert [one.token_ids for one in group.completions] == [tuple(answers[0].completions[0].token_ids)]
    assert not group.are_ids_cut
    with pytest.raises(IndexError, match="no group 2"):
        await read_group(connection, keys, "b", 2)


async def test_a_completion_that_was_gone_on_with_says_after_how_many_tokens(
    redis: Redis, redis_url: str, policy: str, connection: Connection, keys: Keys, trainer: AsyncClient
) -> None:
    await trainer.submit([[1]], None, tokens(3), batch_id="b")
    await redis.hset(keys.ledger("b"), LedgerField.group(0), "1-0|by-hand|2")
    resumed = result_of(0, [1], [[7, 8, 9]], batch_id="b", resumed_at=int32(2))
    Answering(redis_url, policy, "b", 1).publish(resumed)

    group = await read_group(connection, keys, "b", 0)

    assert [one.resumed_at for one in group.completions] == [2]


async def test_groups_that_were_cut_are_no_errors(connection: Connection, keys: Keys, trainer: AsyncClient) -> None:
    handle = await trainer.submit([[1], [2], [3]], None, tokens(4), batch_id="b", first_groups=2)
    await handle.cancel(groups=[1])

    batch = await read_batch(connection, keys, "b")

    assert states(batch.groups) == ["waiting", "cut", "waiting"]
    assert (batch.groups[1].code, batch.cancelled, batch.done) == ("not_needed", False, 1)
    assert batch.config["first_groups"] == 2


async def test_waiting_and_cancelled_groups_are_told_apart(
    connection: Connection, keys: Keys, trainer: AsyncClient
) -> None:
    handle = await trainer.submit([[1], [2]], None, tokens(4), batch_id="b")
    waiting = await read_batch(connection, keys, "b")
    await handle.cancel()

    cancelled = await read_batch(connection, keys, "b")

    assert states(waiting.groups) == ["waiting"] * 2
    assert states(cancelled.groups) == ["cancelled"] * 2
    assert (cancelled.cancelled, cancelled.done) == (True, 2)
    assert cancelled.cancelled_s_ago is not None


async def test_deliveries_before_the_one_that_won_are_told(
    redis_url: str, policy: str, connection: Connection, keys: Keys, trainer: AsyncClient, server: Any
) -> None:
    with stub(redis_url, policy):
        await (await trainer.submit([[1]], None, tokens(1), batch_id="b")).wait(timeout=30)
    ((entry_id, _),) = server.xrange(keys.jobs(0))
    entry = entry_id.decode()
    server.hset(keys.ledger("b"), LedgerField.group(0), f"{entry}|gpu-9|4")
    server.hset(keys.ledger("b"), LedgerField.lived(entry, 2), "1")

    (group,) = (await read_batch(connection, keys, "b")).groups

    assert (group.worker, group.entry_id, group.delivery, group.lived) == ("gpu-9", entry, 4, (2,))


async def test_pages_are_cut_and_share_what_was_found(
    redis_url: str, policy: str, connection: Connection, keys: Keys, trainer: AsyncClient, server: Any
) -> None:
    with stub(redis_url, policy):
        await (await trainer.submit([[1]] * 40, None, tokens(2), batch_id="b")).wait(timeout=30)
    index = ResultsIndex()

    first = await read_batch(connection, keys, "b", first=10, count=5, index=index)
    server.delete(keys.results("b"))
    again = await read_batch(connection, keys, "b", first=10, count=5, index=index)
    beyond = await read_batch(connection, keys, "b", first=38, count=10_000)

    assert [group.group for group in first.groups] == [10, 11, 12, 13, 14]
    assert set(states(first.groups)) == {GroupState.RESULT}
    assert set(states(again.groups)) == {GroupState.ANSWERED}
    assert "5 answers" in again.problem
    assert [group.group for group in beyond.groups] == [38, 39]


async def test_a_long_stream_is_looked_through_bit_by_bit(
    redis_url: str,
    policy: str,
    connection: Connection,
    keys: Keys,
    trainer: AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(results_index, "_MOST_CALLS", 1)
    monkeypatch.setattr("rollstream.producer.observe.parts.scripts._RESULTS", 4)
    with stub(redis_url, policy):
        await (await trainer.submit([[1]] * 12, None, tokens(2), batch_id="b")).wait(timeout=30)
    index = ResultsIndex()
    pages: list[BatchSeen] = []

    while not pages or pages[-1].problem:
        pages.append(await read_batch(connection, keys, "b", index=index))

    assert 1 < len(pages) < 6
    assert "ask again" in pages[0].problem
    assert set(states(pages[-1].groups)) == {GroupState.RESULT}


async def test_answers_that_are_none_are_named_and_stop_nothing(
    connection: Connection, keys: Keys, trainer: AsyncClient, server: Any
) -> None:
    await trainer.submit([[1], [2]], None, tokens(1), batch_id="b")
    for group, token in enumerate((b"\x1b[31m<b>" * 100, b"5-0|\x1b[2J|1")):
        server.hset(keys.ledger("b"), LedgerField.group(group), token)
    for payload in (b"", b"\xff" * 600, b"\x82\xa8batch_id\xa1b\xa5group\x00", b"\xc1", b"\x81" * 600):
        server.xadd(keys.results("b"), {"kind": "group", "payload": payload})

    seen = await read_batch(connection, keys, "b")

    assert states(seen.groups) == ["answered", "answered"]
    assert "unreadable" in seen.groups[0].message
    texts = [text for group in seen.groups for text in (group.worker, group.message, group.entry_id)]
    assert all(text.isprintable() and len(text) < 600 for text in texts)
    await (await trainer.attach("b")).cancel()


@pytest.mark.keys_by_hand
async def test_results_of_another_type_are_a_problem_and_no_error(
    connection: Connection, keys: Keys, trainer: AsyncClient, server: Any
) -> None:
    await trainer.submit([[1]], None, tokens(1), batch_id="b")
    server.hset(keys.ledger("b"), LedgerField.group(0), "5-0|w|1")
    server.set(keys.results("b"), "x")

    seen = await read_batch(connection, keys, "b")

    assert states(seen.groups) == ["answered"]
    assert "WRONGTYPE" in seen.problem


async def test_a_batch_that_is_not_there_is_an_error(connection: Connection, keys: Keys) -> None:
    with pytest.raises(UnknownBatchError):
        await read_batch(connection, keys, "nowhere")


def test_the_index_forgets_the_batches_that_were_asked_for_first() -> None:
    index = ResultsIndex(most_batches=2, most_groups=10)
    for name in ("a", "b", "a", "c"):
        index.of(name).by_group[0] = (b"1-0", 1)

    assert 0 in index.of("a").by_group
    assert 0 not in index.of("b").by_group
