"""The wire: what was written once is read for ever, and what contradicts itself is refused by name."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from rollstream.schemas import (
    ConfigError,
    GroupResult,
    Job,
    Message,
    PolicyVersion,
    WireError,
    WireVersionError,
    decode,
    encode,
)
from tests.schemas.wire.golden_messages import GOLDEN, IN_FULL, TODAY
from tests.schemas.wire.messages import MESSAGES, int32, name


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


def routing(**changes: Any) -> dict[str, Any]:
    fields = {"dtype": "uint8", "layers": 4, "k": 2, "experts": 8, "rows": [4, 6], "sha256": ["0a" * 32] * 2}
    return {**fields, **changes}


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
    ({"support_lengths": packed("int32", [2, 3], b"\x91\0\0\0" * 6)}, "support_lengths: from 145 to 145"),
    ({"support_lengths": packed("int32", [2, 3], b"\xff" * 24)}, "support_lengths: from -1 to -1"),
    ({"sample_index": packed("int32", [1], b"\0" * 4)}, "sample_index: expected int32"),
    ({"sample_index": packed("int32", [2], b"\0" * 8)}, "sample_index names a sample twice"),
    ({"sample_index": packed("int32", [2], b"\xff" * 8)}, "sample_index: from -1 to -1"),
    ({"cut_lengths": packed("int32", [1, 1], b"\0" * 4)}, "cut_lengths: expected int32 with 1"),
    ({"cut_lengths": packed("int32", [1], b"\xff" * 4)}, "cut_lengths: from -1 to -1"),
    ({"resumed_at": packed("int32", [3], b"\0" * 12)}, "resumed_at: expected int32"),
    ({"resumed_at": packed("int32", [2], b"\xff" * 8)}, "resumed_at: from -1 to -1"),
    ({"resumed_at": packed("int32", [2], b"\3\0\0\0" * 2)}, "resumed_at is beyond the completion's length"),
    ({"routing": routing()}, "routing has .* rows where the completions have"),
    ({"routing": routing(rows=[4])}, "rows and sha256 must have as many items"),
    ({"routing": routing(dtype="uint16")}, "ids of 8 experts are no uint16"),
    ({"routing": routing(k=9)}, "k=9 of 8 experts"),
    ({"routing": routing(dense=[4])}, "dense names layers beyond 4"),
    ({"routing": routing(rows=[4, 2**27])}, "a group has at most"),
    ({"routing": routing(sha256=["0a", "0b"])}, "sha256"),
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
