"""What a submit sends and its content digest: only what was asked for, so that a new option leaves both as they are."""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import pytest

from rollstream.producer.batches.prompts import Prompts
from rollstream.producer.batches.submission import Submission, split
from rollstream.producer.errors import ArgumentError
from rollstream.producer.order.slicing import Slicing
from rollstream.schemas import ConfigError, Envelope, GenerationConfig, Job, decode


def submission(**options: Any) -> Submission:
    config = GenerationConfig(**{"max_new_tokens": 4, "num_return_sequences": 3, **options})
    prompts = Prompts.of([[5, 6], [7], [8, 9, 1]])
    return split(prompts, config, batch_id="b", adapter=None, slicing=Slicing(prompts_per_job=2), submitted_at=1000.5)


def first_groups(wanted: Any) -> Submission:
    config, prompts = GenerationConfig(max_new_tokens=4, num_return_sequences=3), Prompts.of([[5, 6], [7], [8, 9, 1]])
    return split(
        prompts,
        config,
        batch_id="b",
        adapter=None,
        slicing=Slicing(prompts_per_job=2),
        submitted_at=1000.5,
        first_groups=wanted,
    )


def test_a_job_carries_what_differs_from_its_default() -> None:
    first = msgpack.unpackb(submission(logprobs=None, temperature=1.0, stop_token_ids=[]).jobs[0][1])

    assert first["config"] == {"max_new_tokens": 4, "num_return_sequences": 3, "logprobs": None}
    assert set(first) == {"v", "kind", "batch_id", "job", "first_group", "num_groups", "prompt_ids", "prompt_lengths",
                          "config", "submitted_at"}  # fmt: skip


def test_the_digest_is_that_of_every_release() -> None:
    """A submit that is repeated after an upgrade must find its own digest."""
    assert submission().digest == "9936c35961f2e202f223a06713e1d990435af500a5e800274ef68ea3b557b865"
    assert (
        submission(logit_bias={4: 1.0, 3: -1.0}).digest
        == "d186acf90077b5e555df3433473c46547743836f1cccf3b61658b3eb2f1216c3"
    )


def test_a_default_that_is_written_out_is_the_same_content() -> None:
    written_out = {name: value for name, value in submission().batch.config if name not in {"max_new_tokens"}}

    assert submission(**written_out).digest == submission().digest


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"logprobs": None}, {"seed": 0}, {"eos_token_id": []}])
def test_what_differs_from_its_default_is_other_content(change: dict[str, Any]) -> None:
    assert submission(**change).digest != submission().digest


def test_the_order_of_a_bias_is_no_content() -> None:
    assert submission(logit_bias={3: -1.0, 4: 1.0}).digest == submission(logit_bias={4: 1.0, 3: -1.0}).digest


def test_a_prompt_whose_result_no_message_would_carry_is_refused_before_anything_is_sent() -> None:
    config = GenerationConfig(max_new_tokens=2**16, num_return_sequences=64)
    prompts = Prompts.of([np.ones(1, np.int32), np.ones(8 * 2**20, np.int32)])

    with pytest.raises(
        ConfigError, match="a prompt of 8388608 make a result of 67633152 bytes, and one message carries"
    ):
        split(prompts, config, batch_id="b", adapter=None, slicing=Slicing(prompts_per_job=1), submitted_at=1000.5)


def test_an_entry_says_how_many_tokens_its_job_may_have() -> None:
    envelopes = [envelope for envelope, _ in submission().jobs]

    assert envelopes == [
        Envelope(
            batch_id="b", job=0, first_group=0, job_groups=2, num_groups=3, kind="job", lane="default", tokens=2 * 3 * 4
        ),
        Envelope(
            batch_id="b", job=1, first_group=2, job_groups=1, num_groups=3, kind="job", lane="default", tokens=1 * 3 * 4
        ),
    ]


def test_how_many_groups_are_wanted_is_content_that_a_worker_must_know() -> None:
    some = first_groups(2)

    jobs = [decode(payload, Job) for _, payload in some.jobs]
    assert some.batch.first_groups == 2
    assert {(job.first_groups, job.requires) for job in jobs} == {(2, ("first_groups",))}
    assert some.digest not in {submission().digest, first_groups(1).digest}


def test_all_groups_wanted_is_the_same_as_nothing_said() -> None:
    assert first_groups(3).digest == submission().digest
    assert first_groups(3).batch.first_groups is None


@pytest.mark.parametrize("wanted", [0, 4, -1, True, 2.0, "2"])
def test_a_number_of_groups_that_there_are_not_is_refused_by_name(wanted: Any) -> None:
    with pytest.raises(ArgumentError, match=r"first_groups.*an integer from 1 to 3"):
        first_groups(wanted)
