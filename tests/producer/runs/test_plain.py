"""What a trainer may keep comes back as it was; what would not come back is refused before it is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from rollstream import AsyncClient, CursorError, GenerationConfig
from rollstream.producer.runs.plain import NotPlainError, packed, unpacked
from rollstream.schemas.hashes.runs import MAX_CURSOR_BYTES

CONFIG = GenerationConfig(max_new_tokens=2)
_LEAVES = some.none() | some.booleans() | some.integers(-(2**63), 2**64 - 1) | some.text() | some.binary()
_KEYS = _LEAVES | some.tuples(some.integers()) | some.frozensets(some.text(max_size=2), max_size=2)
_VALUES = some.recursive(
    _LEAVES | some.floats(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)


@given(_VALUES)
def test_what_is_packed_can_be_read_again(value: object) -> None:
    try:
        data = packed(value, MAX_CURSOR_BYTES)
    except NotPlainError:
        return
    assert packed(unpacked(data), MAX_CURSOR_BYTES) == data


@pytest.mark.parametrize("value", [{(1, 2): 3}, {"a": [{(): 1}]}, {(("x",),): None}])
async def test_a_key_that_would_come_back_as_a_list_is_refused_and_nothing_written(
    trainer: AsyncClient, value: Any
) -> None:
    async with trainer.run("exp") as run:
        with pytest.raises(CursorError, match=r"cursor: .*lists and dicts of them"):
            await run.save_cursor(value)
        with pytest.raises(CursorError, match=r"cursor: .*lists and dicts"):
            run.cursor = value
        with pytest.raises(CursorError, match=r"note: .*lists and dicts"):
            await run.submit([[1]], None, CONFIG, note=value)

    async with trainer.run("exp") as run:
        assert (run.cursor, run.outstanding) == (None, ())


@pytest.mark.parametrize(
    "value", [{3, 1}, {"seen": {3}}, frozenset("a"), {"a": range(3)}, [[[[[{"x"}]]]]], {"a": {"b": 1}.keys()}], ids=repr
)
def test_a_set_which_would_come_back_as_a_list_is_refused(value: object) -> None:
    with pytest.raises(NotPlainError, match="would not come back as one: give None, booleans"):
        packed(value, MAX_CURSOR_BYTES)


def test_numbers_of_numpy_come_back_as_numbers() -> None:
    kept = {"step": np.int64(3), "loss": np.float32(0.5), "done": np.bool_(True), "each": np.arange(2), "pair": (1, 2)}

    back = unpacked(packed(kept, MAX_CURSOR_BYTES))

    assert back == {"step": 3, "loss": 0.5, "done": True, "each": [0, 1], "pair": [1, 2]}
    assert unpacked(packed(np.int64(3), MAX_CURSOR_BYTES)) == 3


async def test_keys_of_other_kinds_come_back(trainer: AsyncClient) -> None:
    kept = {1: "a", None: 2, 1.5: 3, b"x": 4, "x": 5, np.int64(7): 6}
    async with trainer.run("exp") as run:
        await run.save_cursor(kept)
    async with trainer.run("exp") as run:
        assert run.cursor == kept
