"""The wire: what was written once is read for ever, and hostile bytes are one typed error."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollstream.schemas import (
    AdapterManifest,
    Batch,
    ConfigError,
    DeadLetter,
    ErrorCode,
    GenerationConfig,
    GroupError,
    GroupResult,
    Job,
    Message,
    Origin,
    PolicyVersion,
    SchemaError,
    Sealed,
    Tensor,
    WireError,
    WireVersionError,
    decode,
    encode,
)
from rollstream.schemas.wire.limits import MAX_BYTES, MAX_ITEMS

GOLDEN = Path(__file__).parent / "golden"
CONFIG = GenerationConfig(
    max_new_tokens=4, temperature=0.5, num_return_sequences=2, eos_token_id=(2, 7), logit_bias={3: -1.5}, seed=11
)


def int32(*values: int) -> Tensor:
    return Tensor.of(np.array(values, np.int32))


MESSAGES: list[Message] = [
    Batch(
        batch_id="b-1",
        num_groups=2,
        num_jobs=1,
        prompt_width=3,
        config=CONFIG,
        adapter="math@3",
        submitted_at=1000.5,
        lineage=(Origin(batch_id="a", entry_id="1-0"),),
    ),
    Job(
        batch_id="b-1",
        job=0,
        first_group=0,
        num_groups=2,
        prompt_ids=int32(5, 6, 7, 8),
        prompt_lengths=int32(1, 3),
        config=CONFIG,
        adapter="math@3",
        submitted_at=1000.5,
        queue_deadline_s=60.0,
        min_policy_version=16,
        max_staleness=2,
        run_deadline_s=9.5,
        seed_offset=4,
        lineage=(Origin(batch_id="a", entry_id="1-0"),),
    ),
    GroupResult(
        batch_id="b-1",
        group=1,
        prompt=int32(6, 7, 8),
        token_ids=Tensor.of(np.array([[9, 2, 0], [4, 4, 4]], np.int32)),
        lengths=int32(2, 3),
        response_mask=Tensor.of(np.array([[1, 1, 0], [1, 1, 1]], bool)),
        logprobs=Tensor.of(np.array([[-0.5, -1.0, 0.0], [-2.0, -2.0, -2.0]], np.float32)),
        logprobs_flavour="processed",
        finish_reasons=("stop", "length"),
        stop_reasons=(2, None),
        version_spans=(((0, 2),), ((0, 1), (1, 2))),
        adapter="math@3",
        worker="gpu-1",
        queued_s=0.25,
        generate_s=1.5,
    ),
    GroupError(
        batch_id="b-1",
        group=0,
        code=ErrorCode.EMPTY_PROMPT.value,
        field="prompt",
        message="no token",
        worker="gpu-1",
        prompt=int32(),
    ),
    Sealed(batch_id="b-1", num_groups=2),
    DeadLetter(
        policy="math-7b",
        entry_id="1-0",
        fields=((b"batch", b"b-1"),),
        error="WireError: truncated",
        deliveries=3,
        worker="gpu-1",
        delivered_at=1000.5,
        buried_at=1001.5,
    ),
    PolicyVersion(version=7, source="adapter", location="math@7", sha256="0" * 64, published_at=1000.5),
    AdapterManifest(name="math@7", sha256="0" * 64, config=b"{}", num_bytes=9, chunk_bytes=4, published_at=1000.5),
]


def name(message: Message) -> str:
    return f"{type(message).__name__}.v{message.v}"


IN_FULL: dict[str, Message] = {name(message): message for message in MESSAGES}
"""Written when every field still travelled, at its default or not."""

TODAY: dict[str, Message] = {f"{name(message)}.defaults-left-out": message for message in MESSAGES} | {
    "GroupResult.v1.every-field": MESSAGES[2].model_copy(
        update={
            "forced_mask": Tensor.of(np.array([[0, 1, 0], [0, 0, 0]], bool)),
            "top_token_ids": Tensor.of(np.array([[[9, 1], [2, 3], [0, 0]], [[4, 5]] * 3], np.int32)),
            "top_logprobs": Tensor.of(np.array([[[-0.5, -3], [-1, -1], [0, 0]], [[-2, -2]] * 3], np.float32)),
            "support_ids": int32(9, 1, 4, 4, 5, 4),
            "support_lengths": Tensor.of(np.array([[2, 0, 0], [1, 2, 1]], np.int32)),
            "texts": ("a", "bcd"),
            "scores": Tensor.of(np.array([-1.5, -6], np.float32)),
            "spans_exact": False,
            "delivery": 2,
            "sample_index": int32(5, 1),
            "cut_lengths": int32(3, 0, 2),
            "resumed_at": int32(0, 3),
            "trace": f"00-{'4b' * 16}-{'0a' * 8}-01",
        }
    ),
    "GroupResult.v1.cut-and-repetition": MESSAGES[2].model_copy(update={"finish_reasons": ("cut", "repetition")}),
    "Job.v1.requires": MESSAGES[1].model_copy(update={"requires": ("images", "guided")}),
    "PolicyVersion.v1.requires": MESSAGES[6].model_copy(update={"requires": ("nccl",)}),
    "Batch.v1.traced": MESSAGES[0].model_copy(update={"traceparent": f"00-{'4b' * 16}-{'0a' * 8}-01"}),
}
"""Further messages, by the names of their golden files. A file that was written stays: add another."""


@pytest.mark.parametrize(("file", "message"), (IN_FULL | TODAY).items(), ids=IN_FULL | TODAY)
def test_a_golden_file_is_read_for_ever(file: str, message: Message) -> None:
    data = (GOLDEN / f"{file}.msgpack").read_bytes()

    assert decode(data, type(message)) == message


def test_every_golden_file_is_read() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {*IN_FULL, *TODAY}


@pytest.mark.parametrize(("file", "message"), TODAY.items(), ids=TODAY)
def test_todays_bytes_are_those_of_the_golden_file(file: str, message: Message) -> None:
    assert encode(message) == (GOLDEN / f"{file}.msgpack").read_bytes()


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_what_is_at_its_default_does_not_travel(message: Message) -> None:
    fields = msgpack.unpackb(encode(message), use_list=False)
    defaults = {field: info.default for field, info in type(message).model_fields.items() if not info.is_required()}

    assert {"v", "kind"} <= set(fields)
    assert [field for field in defaults if field in fields and fields[field] == defaults[field]] == ["v", "kind"]


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_an_unknown_field_of_a_newer_sender_is_ignored(message: Message) -> None:
    fields = msgpack.unpackb(encode(message))

    assert decode(msgpack.packb({**fields, "of_tomorrow": [1]}), type(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=name)
def test_a_truncated_message_keeps_its_bytes_in_the_error(message: Message) -> None:
    data = encode(message)[:-1]

    with pytest.raises(WireError) as caught:
        decode(data, type(message))

    assert caught.value.data == data


@pytest.mark.parametrize("version", [0, 2, True, "1", None])
def test_another_wire_version_is_named(version: object) -> None:
    fields = {**msgpack.unpackb(encode(MESSAGES[1])), "v": version}

    with pytest.raises(WireVersionError, match="this release reads 1"):
        decode(msgpack.packb(fields), Job)


REQUIRES_NOTHING_SANE: list[Any] = [
    "images", [1], [b"images"], [""], ["Images"], ["im ages"], ["images\n"], ["\x1b[2J"], ["i" * 65], ["a"] * 17, {},
]  # fmt: skip

JOB_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "group"}, "kind"),
    ({"kind": {}}, "kind"),
    ({"prompt_ids": {"dtype": "int64", "shape": [4], "data": b"\0" * 32}}, "int32"),
    ({"prompt_ids": {"dtype": "int32", "shape": [4], "data": b"\0" * 15}}, "needs 16 bytes"),
    ({"prompt_ids": {"dtype": "int32", "shape": [2, 2], "data": b"\0" * 16}}, "dimensions"),
    ({"prompt_ids": {"dtype": "int32", "shape": [-4], "data": b""}}, "negative"),
    ({"prompt_ids": {"dtype": "object", "shape": [4], "data": b"\0" * 16}}, "dtype"),
    ({"prompt_ids": [5, 6, 7, 8]}, "prompt_ids"),
    ({"prompt_lengths": {"dtype": "int32", "shape": [0], "data": b""}}, "groups"),
    ({"prompt_lengths": {"dtype": "int32", "shape": [1], "data": b"\1\0\0\0"}}, "add up"),
    ({"first_group": 1}, "exceeds"),
    ({"first_group": -1}, "first_group"),
    ({"num_groups": 2.0}, "num_groups"),
    ({"batch_id": "a b"}, "batch_id"),
    ({"batch_id": "../x"}, "batch_id"),
    ({"adapter": "/etc/passwd"}, "adapter"),
    ({"adapter": "math"}, "name@version"),
    ({"submitted_at": "now"}, "submitted_at"),
    *[({"requires": requires}, "requires") for requires in REQUIRES_NOTHING_SANE],
]


@pytest.mark.parametrize(("change", "said"), JOB_CHANGES, ids=lambda value: str(value)[:40])
def test_a_field_that_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    fields = {**msgpack.unpackb(encode(MESSAGES[1])), **change}

    with pytest.raises(WireError, match=said):
        decode(msgpack.packb(fields), Job)


@pytest.mark.parametrize("requires", REQUIRES_NOTHING_SANE, ids=lambda value: str(value)[:40])
def test_what_a_policy_version_requires_is_bounded(requires: Any) -> None:
    fields = {**msgpack.unpackb(encode(MESSAGES[6])), "requires": requires}

    with pytest.raises(WireError, match="requires"):
        decode(msgpack.packb(fields), PolicyVersion)


def test_an_unknown_config_key_from_another_sender_is_refused() -> None:
    fields = msgpack.unpackb(encode(MESSAGES[1]))
    fields["config"]["temperatur"] = 0.5

    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        decode(msgpack.packb(fields), Job)


def test_a_result_whose_mask_contradicts_its_lengths_is_refused() -> None:
    fields = msgpack.unpackb(encode(MESSAGES[2]))
    fields["lengths"] = int32(3, 3).model_dump()

    with pytest.raises(WireError, match="does not follow from lengths"):
        decode(msgpack.packb(fields), GroupResult)


def packed(dtype: str, shape: list[int], data: bytes) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data": data}


RESULT_CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"forced_mask": packed("bit", [2, 2], b"\0")}, "forced_mask: expected bit"),
    ({"forced_mask": packed("int32", [2, 3], b"\0" * 24)}, "forced_mask: expected bit"),
    ({"forced_mask": packed("bit", [2, 3], b"\x04")}, "forced_mask is true where there is no token"),
    ({"top_logprobs": None}, "top_token_ids and top_logprobs come together"),
    ({"top_token_ids": None}, "top_token_ids and top_logprobs come together"),
    ({"top_token_ids": packed("int32", [2, 3], b"\0" * 24)}, "top_token_ids: expected int32 with 3"),
    ({"top_token_ids": packed("int32", [2, 3, 0], b"")}, "top_token_ids: K is 1 to 128, not 0"),
    ({"top_token_ids": packed("int32", [2, 3, 129], b"\0" * 3096)}, "top_token_ids: K is 1 to 128, not 129"),
    ({"top_token_ids": packed("int32", [3, 2, 2], b"\0" * 48)}, "top_token_ids: expected int32"),
    ({"top_token_ids": packed("int32", [2, 3, 2], b"\xff" * 48)}, "top_token_ids: from -1 to -1"),
    ({"top_logprobs": packed("float32", [2, 3, 1], b"\0" * 24)}, "top_logprobs: expected float32"),
    ({"support_ids": None}, "support_ids and support_lengths come together"),
    ({"support_lengths": None}, "support_ids and support_lengths come together"),
    ({"support_ids": packed("int32", [5], b"\0" * 20)}, "support_lengths do not add up to support_ids"),
    ({"support_ids": packed("int32", [2, 3], b"\0" * 24)}, "support_ids: expected int32 with 1"),
    ({"support_ids": packed("int32", [6], b"\xff" * 24)}, "support_ids: from -1 to -1"),
    ({"support_lengths": packed("int32", [6], b"\1\0\0\0" * 6)}, "support_lengths: expected int32"),
    ({"support_lengths": packed("int32", [2, 3], b"\1\0\0\0" * 6)}, "support_lengths is not 0 where there is no token"),
    ({"support_lengths": packed("int32", [2, 3], b"\x81\0\0\0" * 6)}, "support_lengths: from 129 to 129"),
    ({"support_lengths": packed("int32", [2, 3], b"\xff" * 24)}, "support_lengths: from -1 to -1"),
    ({"sample_index": packed("int32", [1], b"\0" * 4)}, "sample_index: expected int32"),
    ({"sample_index": packed("int32", [2], b"\0" * 8)}, "sample_index names a sample twice"),
    ({"sample_index": packed("int32", [2], b"\xff" * 8)}, "sample_index: from -1 to -1"),
    ({"cut_lengths": packed("int32", [1, 1], b"\0" * 4)}, "cut_lengths: expected int32 with 1"),
    ({"cut_lengths": packed("int32", [1], b"\xff" * 4)}, "cut_lengths: from -1 to -1"),
    ({"resumed_at": packed("int32", [3], b"\0" * 12)}, "resumed_at: expected int32"),
    ({"resumed_at": packed("int32", [2], b"\xff" * 8)}, "resumed_at: from -1 to -1"),
    ({"resumed_at": packed("int32", [2], b"\3\0\0\0" * 2)}, "resumed_at is beyond the completion's length"),
    ({"trace": "00-1-2-3"}, "traceparent"),
    ({"trace": b"\xff"}, "trace"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "said"), RESULT_CHANGES, ids=lambda value: str(value)[:60])
def test_a_result_whose_fields_contradict_each_other_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    fields = {**msgpack.unpackb(encode(TODAY["GroupResult.v1.every-field"])), **change}

    with pytest.raises(WireError, match=said):
        decode(msgpack.packb(fields), GroupResult)


def test_the_completions_of_a_result_that_lacks_some_are_numbered_as_their_seeds() -> None:
    result = TODAY["GroupResult.v1.every-field"]
    assert isinstance(result, GroupResult)

    assert [(one.sample, one.token_ids) for one in result] == [(5, [9, 2]), (1, [4, 4, 4])]


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
