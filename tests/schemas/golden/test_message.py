"""A golden file says only what can be sampled again, within bounds that a reader checks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rollstream.schemas import GenerationConfig, Sealed, Tensor, encode
from rollstream.schemas.message_files import GOLDEN_FILES, MessageFileError
from rollstream.schemas.wire.proofs.golden import MAX_GOLDEN_BYTES
from tests.support.weights.golden_jobs import GREEDY, SEEDED, golden, golden_batch, int32


def test_each_case_has_its_prompt_its_row_and_its_completions() -> None:
    two = SEEDED.model_copy(update={"num_return_sequences": 2})
    whole = golden(
        golden_batch(GREEDY, [((7, 8), (-1, -2))]),
        golden_batch(two, [((1,), (-1,)), ((2, 3), (-2, -3)), ((4,), (-4,)), ((5,), (-5,))]),
    )

    assert [(case.batch, case.row, case.prompt.tolist()) for case in whole.cases] == [
        (0, 0, [5, 6]),
        (1, 0, [5, 6]),
        (1, 1, [5, 6]),
    ]
    assert [[one.token_ids.tolist() for one in case.completions] for case in whole.cases] == [
        [[7, 8]],
        [[1], [2, 3]],
        [[4], [5]],
    ]
    assert whole.cases[1].completions[1].logprobs.tolist() == [-2, -3]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"config": GREEDY.model_copy(update={"logprobs": None})}, "log-probs"),
        ({"config": GenerationConfig(max_new_tokens=64)}, "seed"),
        ({"config": GenerationConfig(max_new_tokens=64, num_beams=2)}, "no beams"),
        ({"config": GenerationConfig(max_new_tokens=64, num_return_sequences=2, first_k=1, seed=0)}, "first_k must be"),
        ({"config": GREEDY.model_copy(update={"max_new_tokens": 1})}, "longer than max_new_tokens"),
        ({"lengths": int32([3])}, "completion"),
        ({"lengths": int32([2, 0])}, "lengths"),
        ({"prompt_lengths": int32([2, 0])}, "lengths"),
        ({"prompt_ids": int32([5, -1])}, "below 0"),
        ({"logprobs": Tensor.of(np.array([-1, np.nan], np.float32))}, "finite"),
        ({"logprobs": Tensor.of(np.array([-1, 0.5], np.float32))}, "above 0"),
        ({"logprobs": Tensor.of(np.array([-1], np.float32))}, "logprobs"),
    ],
)
def test_a_batch_that_cannot_be_compared_is_refused(change: dict[str, Any], problem: str) -> None:
    batch = golden_batch(GREEDY, [((7, 8), (-1, -2))])

    with pytest.raises(ValidationError, match=problem):
        type(batch)(**{name: getattr(batch, name) for name in type(batch).model_fields} | change)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"vocab_size": 8}, "id 8"),
        ({"policy_version": 3}, "policy_sha256"),
        ({"policy_sha256": "0" * 64}, "policy_sha256"),
        ({"dtype": "a b"}, "dtype"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        golden(golden_batch(GREEDY, [((7, 8), (-1, -2))]), **fields)


def test_a_file_that_takes_too_much_to_check_is_refused() -> None:
    many = golden_batch(GREEDY, [((7,), (-1,))] * 40)
    long = golden_batch(GREEDY.model_copy(update={"max_new_tokens": 65_536}), [((7,), (-1,))])

    with pytest.raises(ValidationError, match="80 cases"):
        golden(many, many)
    with pytest.raises(ValidationError, match="65538 tokens"):
        golden(long)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = golden(golden_batch(GREEDY, [((7, 8), (-1, -2))]))
    (tmp_path / "g").write_bytes(encode(whole))

    assert GOLDEN_FILES.read(tmp_path / "g") == whole


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "truncated"),
        (b"\x81\xa1v\x01", "kind"),
        (b"\0" * (MAX_GOLDEN_BYTES + 1), "more than"),
        (None, "No such file"),
    ],
)
def test_what_is_no_golden_file_is_refused_by_name(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "g").write_bytes(content)

    with pytest.raises(MessageFileError, match=problem) as refused:
        GOLDEN_FILES.read(tmp_path / "g")
    assert str(tmp_path / "g") in str(refused.value)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "g")

    with pytest.raises(MessageFileError, match="a pipe"):
        GOLDEN_FILES.read(tmp_path / "g")


def test_another_message_is_no_golden_file(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(encode(Sealed(batch_id="b", num_groups=1)))

    with pytest.raises(MessageFileError, match="kind"):
        GOLDEN_FILES.read(tmp_path / "g")
