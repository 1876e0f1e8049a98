"""Routing is in Redis before its answer is, whole, of one delivery alone, and for as long as the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream.schemas import Envelope, ErrorCode, Keys, RoutedExperts
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.times import ROUTING_TTL_S
from rollstream.schemas.wire.routing import CHUNK_BYTES, RoutingArray, RoutingShape, routing_fields, rows_of
from rollstream.transport.redis.limits import Oversize, TooLarge
from rollstream.worker.delivery.answer_publisher import AnswerPublisher
from rollstream.worker.delivery.routing import RoutingStore
from rollstream.worker.errors import DataError, LeaseLostError, UnprovenError, UnpublishableError
from rollstream.worker.measure.measures import Measures
from rollstream.worker.requests import Completion
from tests.support.answers import error_of, result_of
from tests.support.partials.parts import deliver, job_of, take_over

JOB = job_of()
ENVELOPE = Envelope.of_job(JOB)
PROMPT = 2
SHAPE = RoutingShape(layers=3, k=2, experts=8, dense=(1,))
WIDE = RoutingShape(layers=64, k=8, experts=300)


def chosen(tokens: int, shape: RoutingShape = SHAPE, salt: int = 0) -> RoutingArray:
    rows = np.arange(rows_of(PROMPT, tokens))[:, None, None] * 7 + salt
    ids: Any = ((rows + np.arange(shape.layers)[:, None] + np.arange(shape.k)) % shape.experts).astype(shape.dtype)
    ids[:, shape.dense] = 0
    return ids  # type: ignore[no-any-return] # numpy cannot know


def completion(tokens: int, given: Any = None, version: int = 0, **fields: Any) -> Completion:
    return Completion(
        token_ids=np.arange(tokens, dtype=np.int32),
        logprobs=None,
        finish_reason="length",
        stop_reason=None,
        version_spans=((version, tokens),),
        routed_experts=chosen(tokens) if given is None else given,
        **fields,
    )


def proven(spans: Any) -> None:
    if any(version == 13 for of_one in spans for version, _ in of_one):
        raise UnprovenError(13)


def store_at(redis: Redis, keys: Keys, shape: RoutingShape | None = SHAPE, keep_s: int = 60) -> RoutingStore:
    return RoutingStore(redis=redis, keys=keys, keep_s=keep_s, check_proven=proven, shape=lambda: shape)


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


@pytest.fixture
def store(redis: Redis, keys: Keys) -> RoutingStore:
    return store_at(redis, keys)


async def bytes_of(redis: Redis, keys: Keys, told: RoutedExperts, group: int, row: int) -> bytes:
    fields = routing_fields(group, told.sha256[row], told.sizes[row])
    found: Any = await redis.hmget(keys.routing("b"), fields)
    return b"".join(found)


async def test_what_is_told_leads_to_the_bytes_of_each_completion(
    redis: Redis, keys: Keys, store: RoutingStore
) -> None:
    lease = await deliver(redis, keys, JOB)

    told = await store.keep(lease, ENVELOPE, 1, PROMPT, [completion(3), completion(5, chosen(5, salt=2))])

    assert (told.dtype, told.shape, told.rows) == ("uint8", SHAPE, (4, 6))
    assert await bytes_of(redis, keys, told, 1, 0) == chosen(3).tobytes()
    assert await bytes_of(redis, keys, told, 1, 1) == chosen(5, salt=2).tobytes()
    assert ROUTING_TTL_S - 5 <= await redis.ttl(keys.routing("b")) <= ROUTING_TTL_S


async def test_a_long_completion_lies_in_chunks_of_two_bytes_an_id(redis: Redis, keys: Keys) -> None:
    tokens = 3 * CHUNK_BYTES // WIDE.row_bytes
    lease = await deliver(redis, keys, JOB)

    told = await store_at(redis, keys, WIDE).keep(
        lease, ENVELOPE, 0, PROMPT, [completion(tokens, chosen(tokens, WIDE)), completion(1, chosen(1, WIDE))]
    )

    assert (told.dtype, await redis.hlen(keys.routing("b"))) == ("uint16", 4 + 1)
    lengths = [await redis.hstrlen(keys.routing("b"), field) for field in await redis.hkeys(keys.routing("b"))]
    assert max(lengths) == CHUNK_BYTES
    assert await bytes_of(redis, keys, told, 0, 0) == chosen(tokens, WIDE).tobytes()


async def test_only_the_holder_of_the_lease_writes(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)
    await take_over(redis, lease, "w2")

    with pytest.raises(LeaseLostError):
        await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])

    assert not await redis.exists(keys.routing("b"))


async def test_a_group_that_has_an_answer_gets_no_more(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.hset(keys.ledger("b"), LedgerField.group(0), "cut")

    await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])

    assert not await redis.exists(keys.routing("b"))


async def test_two_deliveries_of_a_group_never_mix_their_chunks(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)
    first = await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])

    second = await store.keep(
        await take_over(redis, lease, "w2"), ENVELOPE, 0, PROMPT, [completion(3, chosen(3, salt=1))]
    )

    assert await bytes_of(redis, keys, first, 0, 0) == chosen(3).tobytes()
    assert await bytes_of(redis, keys, second, 0, 0) == chosen(3, salt=1).tobytes()


async def test_it_stays_as_long_as_a_run_wants_its_batch(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.hset(keys.ledger("b"), "keep", 30 * 86_400)
    await redis.expire(keys.ledger("b"), 30 * 86_400)

    await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])

    assert await redis.ttl(keys.routing("b")) > 29 * 86_400


async def test_it_stays_as_long_as_the_results_of_a_batch_that_is_not_sealed(
    redis: Redis, keys: Keys, store: RoutingStore
) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.persist(keys.ledger("b"))

    await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])

    assert await redis.ttl(keys.routing("b")) == -1


@pytest.mark.parametrize("keep_s", [60, 30 * 86_400])
async def test_it_stays_as_long_as_the_results_when_the_last_answer_is_an_error(
    redis: Redis, keys: Keys, keep_s: int
) -> None:
    publisher = AnswerPublisher(redis=redis, keys=keys, result_ttl_s=keep_s, measures=Measures(), check_proven=proven)
    lease = await deliver(redis, keys, JOB)
    routing = await publisher.routing(lambda: SHAPE).keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])
    result = result_of(0, JOB.prompts[0].tolist(), [[0, 1, 2]], batch_id="b", routing=routing)

    await publisher.publish(lease, ENVELOPE, result)
    await publisher.publish(lease, ENVELOPE, error_of(1, JOB.prompts[1].tolist(), batch_id="b"))

    left = [await redis.ttl(key("b")) for key in (keys.results, keys.routing)]
    assert keep_s - 5 <= left[0] <= keep_s
    assert max(left) - min(left) <= 1


async def test_what_was_handed_in_before_is_not_written_again(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)
    before = await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])
    await redis.delete(keys.routing("b"))
    there = replace(completion(3), routed_experts=None, routing=before)

    told = await store.keep(lease, ENVELOPE, 0, PROMPT, [there, completion(2, chosen(2))])

    assert told.sha256[0] == before.sha256[0]
    assert await redis.hlen(keys.routing("b")) == 1


UNFIT: dict[str, Any] = {
    "a row too few": chosen(2),
    "other layers": chosen(3)[:, :2],
    "an id beyond the experts": chosen(3) + np.array([0, 0, 8], np.uint8)[:, None],
    "rows that nobody filled": np.zeros((4, 3, 2), np.uint8),
}


@pytest.mark.parametrize("given", UNFIT.values(), ids=UNFIT)
async def test_what_no_router_chose_is_refused_by_name(
    redis: Redis, keys: Keys, store: RoutingStore, given: Any
) -> None:
    lease = await deliver(redis, keys, JOB)

    with pytest.raises(DataError, match="no router's") as refused:
        await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3, given)])

    assert (refused.value.code, refused.value.field) == (ErrorCode.ENGINE_REFUSED, "routed_experts")
    assert not await redis.exists(keys.routing("b"))


async def test_no_routing_of_unproven_weights_leaves(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)

    with pytest.raises(UnprovenError):
        await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3, version=13)])

    assert not await redis.exists(keys.routing("b"))


@pytest.mark.keys_by_hand
async def test_a_key_of_another_type_makes_the_job_a_dead_letter(redis: Redis, keys: Keys, store: RoutingStore) -> None:
    lease = await deliver(redis, keys, JOB)
    await redis.set(keys.routing("b"), "x")

    with pytest.raises(UnpublishableError, match="batch b"):
        await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])


async def test_a_chunk_that_redis_never_takes_is_a_typed_error(
    redis: Redis, keys: Keys, store: RoutingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def why(*_: object) -> TooLarge:
        return TooLarge(nbytes=CHUNK_BYTES, limit=2**20, setting="proto-max-bulk-len")

    monkeypatch.setattr(Oversize, "why", why)
    lease = await deliver(redis, keys, JOB)
    await redis.set(keys.routing("b"), "x", ex=60)

    with pytest.raises(DataError, match=r"too large for Redis.*proto-max-bulk-len") as refused:
        await store.keep(lease, ENVELOPE, 0, PROMPT, [completion(3)])

    assert refused.value.code == ErrorCode.TOO_LONG


def test_a_group_that_may_have_more_than_is_kept_is_refused_before_it_is_sampled(redis: Redis, keys: Keys) -> None:
    store = store_at(redis, keys, WIDE)

    store.check_size(2**10, 1024)
    with pytest.raises(DataError, match="a group has at most 1073741824") as refused:
        store.check_size(2**10 + 1, 1024)

    assert refused.value.code == ErrorCode.TOO_LONG
