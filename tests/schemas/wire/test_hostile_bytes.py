"""Hostile bytes are one typed error, in little memory; damaged ones a message or that error."""

from __future__ import annotations

import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollstream.schemas import (
    GroupResult,
    Job,
    Message,
    SchemaError,
    Tensor,
    WireError,
    decode,
    encode,
)
from rollstream.schemas.wire.sizes.limits import MAX_BYTES, MAX_ITEMS
from tests.schemas.wire.golden_messages import TODAY
from tests.schemas.wire.messages import MESSAGES, int32, name


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_a_truncated_message_keeps_its_bytes_in_the_error(message: Message) -> None:
    data = encode(message)[:-1]

    with pytest.raises(WireError) as caught:
        decode(data, type(message))

    assert caught.value.data == data


def test_a_result_without_completions_claims_no_memory_for_its_width() -> None:
    fields = msgpack.unpackb(encode(MESSAGES[2]))
    empty = {"shape": [0, 2**24], "data": b""}
    fields |= {"token_ids": {"dtype": "int32"} | empty, "response_mask": {"dtype": "bit"} | empty}
    fields |= {"lengths": int32().model_dump(), "logprobs": None, "logprobs_flavour": None, "scores": None}
    fields |= {"finish_reasons": [], "stop_reasons": [], "version_spans": [], "texts": None}

    with pytest.raises(WireError, match="at least one completion"):
        decode(msgpack.packb(fields), GroupResult)


def test_a_job_of_a_million_groups_is_refused_before_they_are_listed() -> None:
    fields = msgpack.unpackb(encode(MESSAGES[1]))
    fields["prompt_lengths"] = {"dtype": "int32", "shape": [2**20], "data": b"\1\2\3\4" * 2**20}
    data = msgpack.packb(fields)
    tracemalloc.start()
    try:
        with pytest.raises(WireError, match="a job has 1 to 4096 groups, not 1048576"):
            decode(data, Job)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()


HOSTILE = {
    "empty": b"",
    "not msgpack": b"\xc1",
    "an extension type": b"\xc7\x01\x05x",
    "a list": b"\x90",
    "a bomb of nested arrays": b"\x91" * 10_000 + b"\xc0",
    "a huge declared array": b"\xdd\xff\xff\xff\xff",
    "a huge declared map": b"\xdf\xff\xff\xff\xff",
    "a huge declared binary": b"\xc6\xff\xff\xff\xff",
    "many empty maps": b"\xdd" + (MAX_ITEMS + 1).to_bytes(4, "big") + b"\x80" * (MAX_ITEMS + 1),
    "trailing bytes": b"\x80\x80",
    "integer keys": b"\x81\x01\x01",
    "bad utf-8": b"\x81\xa1\xff\x01",
    "a map as a key": b"\x81\x80\x01",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_one_typed_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data, Job)


def test_a_payload_over_the_size_ceiling_is_not_parsed() -> None:
    with pytest.raises(WireError, match="at most"):
        decode(bytes(MAX_BYTES + 1), Job)


VALID = [encode(message) for message in (*MESSAGES, *TODAY.values())]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(VALID), st.integers(0, 10_000), st.binary(max_size=4))
@example(VALID[1], 0, b"")
def test_a_damaged_message_is_a_message_or_a_schema_error(data: bytes, at: int, damage: bytes) -> None:
    at %= len(data)
    damaged = data[:at] + damage + data[at + len(damage) :]

    try:
        message = decode(damaged, *{type(m) for m in MESSAGES})
    except SchemaError:
        return
    assert isinstance(message, Message)


@given(st.lists(st.booleans(), max_size=40))
def test_a_bit_tensor_gives_back_its_booleans(values: list[bool]) -> None:
    array = np.array(values, bool)

    assert np.array_equal(Tensor.of(array).numpy(), array)


def test_a_tensor_of_a_dtype_that_the_wire_does_not_carry_is_refused() -> None:
    with pytest.raises(TypeError, match="float64"):
        Tensor.of(np.zeros(2))
