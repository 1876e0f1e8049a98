"""What anybody may have written to a run's keys: refused by name, or read as nothing, and never an error of ours."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as some
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, RedisUnavailableError, UnreadableRunError
from rollstream.producer.cli.views.runs import run_json, run_lines, runs_lines
from rollstream.producer.doctor.run_checks import run_findings
from rollstream.producer.runs.read_runs import forget_run, read_left, read_run
from rollstream.schemas import Keys, decode, encode
from rollstream.schemas.hashes.runs import LAST_NUMBER, MAX_COUNT, RunField
from rollstream.schemas.times import RESULT_TTL_S
from rollstream.schemas.wire.trainers.run_state import RunState
from rollstream.schemas.wire.trainers.runs import GateState, Intent

CONFIG = GenerationConfig(max_new_tokens=2)
INTENT = encode(Intent(batch_id="other", number=1, digest="0" * 64, samples=1, intended_at=0.0))
NOTED = encode(Intent(batch_id="b", number=1, digest="0" * 64, samples=1, intended_at=0.0, note=b"\xc1"))
LATE = encode(Intent(batch_id="b", number=2**31 - 1, digest="0" * 64, samples=1, intended_at=0.0))
TIMES = [
    encode(decode(NOTED, Intent).model_copy(update={"note": b"", "intended_at": float(at)}))
    for at in ("-inf", "nan", "1e308")
]
DEEP = b"\x91" * 60_000 + b"\xc0"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (RunField.CURSOR, b""),
        (RunField.CURSOR, b"\xc1"),
        (RunField.CURSOR, DEEP),
        (RunField.CURSOR, b"\xc4\xff"),
        (RunField.CURSOR, b"\x81\x90\x01"),
        (RunField.CURSOR, b"x" * 70_000),
        (RunField.CURSOR_VERSION, b"-1"),
        (RunField.CURSOR_VERSION, b"9" * 18),
        (RunField.LAST, b"many"),
        (RunField.LAST, b"2147483647"),
        (RunField.SUBMITTED, b"9" * 18),
        (RunField.CONSUMED, b"9" * 18),
        (RunField.DROPPED, b"9" * 18),
        (RunField.CONSUMED, b"1.5"),
        (RunField.STEM, b"../x"),
        (RunField.STEM, b"\xff" * 2000),
        (RunField.GATE, b"\x80"),
        (RunField.GATE, INTENT),
        (RunField.GATE, encode(GateState(version=0, first_version=0, staleness=((1, 2**62 - 1),)))),
        (RunField.STEM, b"x" * 118),
        (RunField.outstanding("b"), LATE),
        (RunField.outstanding("b"), b"\x80"),
        (RunField.outstanding("b"), INTENT),
        (RunField.outstanding("b"), NOTED),
        (RunField.outstanding("\x00{"), INTENT),
    ],
)
async def test_what_no_trainer_wrote_is_refused_by_its_name(
    trainer: AsyncClient, redis: Redis, policy: str, field: str, value: bytes
) -> None:
    async with trainer.run("exp") as run:
        await run.submit([[1]], None, CONFIG)
    await redis.hset(Keys(policy).run("exp"), field, value)

    with pytest.raises(UnreadableRunError, match="mend the field, or give the run up") as told:
        await trainer.run("exp").open()
    assert told.value.field == field


async def test_an_epoch_that_is_no_number_is_refused_by_redis(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    async with trainer.run("exp"):
        pass
    await redis.hset(Keys(policy).run("exp"), RunField.EPOCH, b"first")
    with pytest.raises(RedisUnavailableError, match="not an integer"):
        await trainer.run("exp").open()


async def test_a_key_of_another_type_is_refused_by_redis(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    await redis.set(Keys(policy).run("exp"), b"x", ex=60)
    with pytest.raises(RedisUnavailableError, match="WRONGTYPE"):
        await trainer.run("exp").open()


async def test_an_index_of_another_type_stops_nobody(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    await redis.set(Keys(policy).runs(), b"x", ex=60)
    async with trainer.run("exp") as run:
        await run.save_cursor(1)


async def test_a_ledger_that_describes_nothing_is_an_outstanding_batch_without_a_handle(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    async with trainer.run("exp") as run:
        handle = await run.submit([[1]], None, CONFIG)
    await redis.hset(Keys(policy).ledger(handle.batch_id), "batch", b"\x80")

    async with trainer.run("exp") as run:
        assert "cannot be read" in run.outstanding[0].missing
        await run.dropped(run.outstanding[0])
    await redis.delete(Keys(policy).ledger(handle.batch_id))


async def test_the_highest_numbers_that_are_opened_leave_room_for_more(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    numbers = (RunField.CURSOR_VERSION, RunField.SUBMITTED, RunField.CONSUMED, RunField.DROPPED, RunField.EPOCH)
    async with trainer.run("exp"):
        pass
    key = Keys(policy).run("exp")
    await redis.hset(key, mapping={RunField.LAST: LAST_NUMBER, **dict.fromkeys(numbers, MAX_COUNT - 1)})
    async with trainer.run("exp") as run:
        for cursor in range(2):
            await run.consumed(await run.submit([[cursor]], None, CONFIG), cursor=cursor)
        assert run.counts.consumed == MAX_COUNT + 1
        assert run.cursor_version == MAX_COUNT + 1


async def test_a_ledger_of_another_type_concerns_its_own_batch_alone(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys, connection = Keys(policy), trainer._connection
    async with trainer.run("exp") as run:
        broken, whole = [await run.submit([[number]], None, CONFIG) for number in range(2)]
        await whole.cancel()
    await redis.delete(keys.ledger(broken.batch_id))
    await redis.set(keys.ledger(broken.batch_id), b"x", ex=60)

    assert [one.groups for one in await read_left(connection, keys, await read_run(connection, keys, "exp"))] == [
        None,
        1,
    ]
    async with trainer.run("exp") as run:
        assert [one.is_queued for one in run.outstanding] == [False, True]
        assert "cannot be read" in run.outstanding[0].missing
        for one in run.outstanding:
            await run.dropped(one)
        assert await redis.get(keys.ledger(broken.batch_id)) == b"x"
        assert await redis.ttl(keys.results(whole.batch_id)) <= RESULT_TTL_S
    async with trainer.run("exp") as run:
        assert not await redis.hexists(keys.run("exp"), RunField.settled(broken.batch_id))


_ODD = ["", "no name", "{x}", "../x", "x" * 500, "\x1b[2J", "a:b", "settled:", "\u00e9"]
_PREFIXED = [f"{prefix}{name}" for prefix in ("settled:", "outstanding:") for name in ["b", *_ODD]]
_NAMES = some.sampled_from([*RunField, *_PREFIXED, "other"])
HOSTILE = [
    b"",
    b"\xff\x00",
    b"-1",
    b"nan",
    b"inf",
    b"1e309",
    b"9" * 18,
    b"9" * 400,
    b"7",
    LATE,
    INTENT,
    NOTED,
    DEEP,
    *TIMES,
]


@pytest.mark.parametrize("name", [*RunField, *_PREFIXED, b"settled:\xff", b"outstanding:\xff", "other", ""])
async def test_whatever_a_field_holds_the_run_is_opened_or_refused_by_name_and_shown_and_forgotten(
    trainer: AsyncClient, redis: Redis, policy: str, name: str | bytes
) -> None:
    keys, connection = Keys(policy), trainer._connection
    async with trainer.run("exp") as run:
        await run.submit([[1]], None, CONFIG, batch_id="b", note=1)
    whole = await redis.dump(keys.run("exp"))
    assert whole is not None
    for value in HOSTILE:
        await redis.restore(keys.run("exp"), 60_000, whole, replace=True)
        await redis.hset(keys.run("exp"), name, value)
        seen = await read_run(connection, keys, "exp")
        left = await read_left(connection, keys, seen)
        assert run_lines(policy, seen, left, 80)
        assert runs_lines(policy, [seen], 80)
        assert json.dumps(run_json(seen, left))
        assert run_findings([seen], policy)
        try:
            async with trainer.run("exp") as run:
                await run.save_cursor(1)
        except UnreadableRunError as error:
            assert error.field  # noqa: PT017 - both ways are right
        except RedisUnavailableError:
            assert name == RunField.EPOCH

        await forget_run(connection, keys, await read_run(connection, keys, "exp"))
        assert not await redis.exists(keys.run("exp"))


async def test_a_batch_that_none_can_be_named_so_stops_nobody(trainer: AsyncClient, redis: Redis, policy: str) -> None:
    async with trainer.run("exp"):
        pass
    await redis.hset(Keys(policy).run("exp"), RunField.settled("no name"), b"x")
    async with trainer.run("exp") as run:
        await run.consumed(await run.submit([[1]], None, CONFIG))


_VALUES = some.binary(max_size=40) | some.sampled_from([encode(GateState(version=1, first_version=0)), INTENT, b"7"])


@given(some.dictionaries(_NAMES.map(str.encode) | some.binary(max_size=20), _VALUES))
def test_no_bytes_make_reading_a_run_fail(told: dict[bytes, bytes]) -> None:
    state = RunState.of(told)
    assert all(1 <= one.number <= LAST_NUMBER for one in state.outstanding)
    assert all(Keys("p").ledger(name) for name in (*state.settled, *(one.batch_id for one in state.outstanding)))
    assert max(state.consumed, state.submitted, state.dropped, state.cursor_version, state.last) <= MAX_COUNT
