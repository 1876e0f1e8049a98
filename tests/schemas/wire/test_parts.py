"""What a part may say, and when two groups are the same content."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from rollstream.schemas import Job, Part, Tensor, WireError, decode, encode
from rollstream.schemas.wire.images import ImageRef
from rollstream.schemas.wire.parts import content_of
from tests.schemas.wire.golden_messages import TODAY
from tests.schemas.wire.messages import MESSAGES, PART, int32

WHOLE = decode(encode(TODAY["Part.v1.every-field"]), Part)
JOB = decode(encode(MESSAGES[1]), Job)

IMAGE = ImageRef(sha256="5a" * 32, nbytes=9, format="png", width=2, height=3)


def job_with(**changed: Any) -> Job:
    return decode(encode(JOB.model_copy(update=changed)), Job)


def float32(*shape: int) -> Tensor:
    return Tensor.of(np.zeros(shape, np.float32))


def floats(*values: float) -> Tensor:
    return Tensor.of(np.array(values, np.float32))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no token": ({"token_ids": int32(), "version_spans": ()}, "at least one token"),
    "two dimensions": ({"token_ids": Tensor.of(np.zeros((1, 2), np.int32))}, "token_ids"),
    "an id below 0": ({"token_ids": int32(9, -4)}, "token_ids"),
    "spans too short": ({"version_spans": ((7, 1),)}, "version_spans"),
    "spans too long": ({"version_spans": ((7, 2**31 - 1), (8, 3))}, "version_spans"),
    "a span of nothing": ({"version_spans": ((7, 2), (8, 0))}, "version_spans"),
    "weights of another version": ({"weights": ((8, "5a" * 32),)}, "weights"),
    "weights named twice": ({"weights": ((7, "5a" * 32), (7, "3c" * 32))}, "weights"),
    "weights that are no digest": ({"weights": ((7, "5A" * 32),)}, "weights"),
    "given up": ({"finish_reason": "abort"}, "finish_reason"),
    "cut": ({"finish_reason": "cut"}, "finish_reason"),
    "a reason that there is not": ({"finish_reason": "done"}, "finish_reason"),
    "a stop, not finished": ({"stop_reason": 4}, "finished part"),
    "a text, not finished": ({"text": "a"}, "finished part"),
    "resumed beyond its end": ({"resumed_at": 3}, "resumed_at"),
    "log-probs of another length": ({"logprobs": floats(-1.0), "logprobs_flavour": "raw"}, "logprobs"),
    "log-probs that are none": ({"logprobs": floats(-1, np.nan), "logprobs_flavour": "raw"}, "logprobs"),
    "log-probs of no flavour": ({"logprobs": floats(-1, -1)}, "logprobs"),
    "forced of another length": ({"forced": Tensor.of(np.zeros(3, bool))}, "forced"),
    "candidates without log-probs": ({"top_token_ids": Tensor.of(np.zeros((2, 1), np.int32))}, "top_token_ids"),
    "too many candidates": (
        {"top_token_ids": Tensor.of(np.zeros((2, 129), np.int32)), "top_logprobs": float32(2, 129)},
        "top_token_ids",
    ),
    "candidates of other tokens": (
        {"top_token_ids": Tensor.of(np.zeros((3, 1), np.int32)), "top_logprobs": float32(3, 1)},
        "top_token_ids",
    ),
    "log-probs of other candidates": (
        {"top_token_ids": Tensor.of(np.zeros((2, 2), np.int32)), "top_logprobs": float32(2, 1)},
        "top_logprobs",
    ),
    "labels of no column": ({"label_logprobs": float32(2, 0)}, "label_logprobs"),
    "support without lengths": ({"support_ids": int32(1, 2)}, "support"),
    "support that does not add up": ({"support_ids": int32(1, 2), "support_lengths": int32(1, 2)}, "support"),
    "support of a huge count": ({"support_ids": int32(1), "support_lengths": int32(1, 2**31 - 1)}, "support"),
    "no digest": ({"of": "5a"}, "of"),
    "another batch's name": ({"batch_id": "a/b"}, "batch_id"),
}


@pytest.mark.parametrize(("changed", "named"), REFUSED.values(), ids=REFUSED)
def test_a_part_that_contradicts_itself_is_refused_by_name(changed: dict[str, Any], named: str) -> None:
    fields = msgpack.unpackb(encode(PART)) | {
        name: value.model_dump() if isinstance(value, Tensor) else value for name, value in changed.items()
    }

    with pytest.raises(WireError, match=named):
        decode(msgpack.packb(fields), Part)


@pytest.mark.parametrize("part", [PART, WHOLE], ids=["unfinished", "every field"])
def test_a_part_comes_back_as_it_was(part: Part) -> None:
    assert decode(encode(part), Part) == part


def test_the_same_group_is_the_same_content_in_another_batch_and_job() -> None:
    moved = job_with(batch_id="b-2", first_group=1, num_groups=9, seed_offset=3)

    assert content_of(moved, 2) == content_of(JOB, 1)


OTHER: dict[str, dict[str, Any]] = {
    "prompt": {"prompt_ids": int32(5, 6, 7, 9)},
    "config": {"config": JOB.config.model_copy(update={"temperature": 0.25})},
    "seed": {"config": JOB.config.model_copy(update={"seed": 12})},
    "row": {"seed_offset": 5},
    "adapter": {"adapter": "math@4"},
    "images": {"images": ((), (IMAGE,))},
}


@pytest.mark.parametrize("changed", OTHER.values(), ids=OTHER)
def test_another_prompt_config_seed_row_adapter_or_image_is_other_content(changed: dict[str, Any]) -> None:
    assert content_of(job_with(**changed), 1) != content_of(JOB, 1)


def test_without_a_seed_the_row_is_no_content() -> None:
    config = JOB.config.model_copy(update={"seed": None})

    assert content_of(job_with(config=config), 1) == content_of(job_with(config=config, seed_offset=9), 1)
