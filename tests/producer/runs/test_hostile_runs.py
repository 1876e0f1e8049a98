"""What anybody may have written to a run's keys: refused by name, or read as nothing, and never an error of ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, RedisUnavailableError, UnreadableRunError
from rollstream.schemas import Keys, encode
from rollstream.schemas.runs import RunField
from rollstream.schemas.wire.run_state import RunState
from rollstream.schemas.wire.runs import GateState, Intent

CONFIG = GenerationConfig(max_new_tokens=2)
INTENT = encode(Intent(batch_id="other", number=1, digest="0" * 64, samples=1, intended_at=0.0))
NOTED = encode(Intent(batch_id="b", number=1, digest="0" * 64, samples=1, intended_at=0.0, note=b"\xc1"))
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
        (RunField.LAST, b"many"),
        (RunField.CONSUMED, b"1.5"),
        (RunField.STEM, b"../x"),
        (RunField.STEM, b"\xff" * 2000),
        (RunField.GATE, b"\x80"),
        (RunField.GATE, INTENT),
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


_NAMES = some.sampled_from([*RunField, "outstanding:b", "settled:b", "outstanding:", "other"])
_VALUES = some.binary(max_size=40) | some.sampled_from([encode(GateState(version=1, first_version=0)), INTENT, b"7"])


@given(some.dictionaries(_NAMES.map(str.encode) | some.binary(max_size=20), _VALUES))
def test_no_bytes_make_reading_a_run_fail(told: dict[bytes, bytes]) -> None:
    state = RunState.of(told)
    assert all(one.number >= 1 for one in state.outstanding)
