"""What a submit may say of the turns that its prompts go on from: read in any spelling, or refused with its row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rollstream.producer.batches.prompts import Prompts
from rollstream.producer.batches.submission import Submission, split
from rollstream.producer.errors import ArgumentError, PromptsError
from rollstream.producer.order.slicing import Slicing
from rollstream.producer.turns.conversation import Conversation
from rollstream.schemas import GenerationConfig, Job, NameRefusedError, Turn, decode

TURN = Turn(batch_id="b-0", group=3, sample=1)


def conversation(continue_of: Any = None, session: Any = None, session_wait_s: Any = 2.0) -> Conversation:
    return Conversation.of(2, continue_of, session, session_wait_s)


def submission(*, samples_per_job: int | None = None, **said: Any) -> Submission:
    return split(
        Prompts.of([[5, 6], [7]]),
        GenerationConfig(max_new_tokens=4, num_return_sequences=2),
        batch_id="b",
        adapter=None,
        slicing=Slicing(prompts_per_job=1, samples_per_job=samples_per_job),
        submitted_at=1000.5,
        conversation=conversation(**said),
    )


@pytest.mark.parametrize(
    "given", [TURN, ("b-0", 3, 1), ["b-0", np.int64(3), np.int32(1)]], ids=["turn", "tuple", "numpy"]
)
def test_a_turn_may_be_spelled_in_any_way(given: Any) -> None:
    assert conversation([None, given]).continue_of == (None, TURN)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([TURN], "1 items, but input_ids has 2 rows"),
        (TURN, "got Turn: expected a list"),
        ("b-0", "got str: expected a list"),
        ([None, "b-0"], "row 1: got 'b-0': write (batch_id, group, sample), such as (handle.batch_id, 0, 0)"),
        ([None, ("b-0", 1)], "row 1: got a tuple of 2 items: write (batch_id, group, sample)"),
        ([None, SimpleNamespace(batch_id="b-0")], "row 1: got a SimpleNamespace: write (batch_id, group, sample)"),
        ([None, ("b-0", -1, 0)], "row 1: -1 is no integer from 0"),
        ([None, ("b-0", 0, True)], "row 1: True is no integer"),
        ([None, ("b 0", 0, 0)], "row 1: batch_id 'b 0'"),
    ],
)
def test_what_names_no_turn_is_refused_with_its_row(given: Any, problem: str) -> None:
    with pytest.raises(PromptsError) as caught:
        conversation(given)

    assert "continue_of" in str(caught.value)
    assert problem in str(caught.value)


def test_a_prompt_that_goes_on_from_its_own_batch_is_refused_with_its_row() -> None:
    with pytest.raises(PromptsError, match="which is this one") as caught:
        submission(continue_of=[TURN, ("b", 0, 0)])

    assert (caught.value.what, caught.value.row) == ("continue_of", 1)


@pytest.mark.parametrize("seconds", [-1, 61, True, "2", None, float("nan")])
def test_a_wait_for_a_worker_is_bounded(seconds: Any) -> None:
    with pytest.raises(ArgumentError, match="session_wait_s"):
        conversation(session="s", session_wait_s=seconds)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 129, 7])
def test_a_session_has_a_name_that_is_safe_in_a_key(name: Any) -> None:
    with pytest.raises(NameRefusedError, match="session"):
        conversation(session=name)


def test_a_job_names_the_turns_of_its_prompts_and_requires_that_they_are_known() -> None:
    jobs = [
        decode(payload, Job) for _, payload in submission(continue_of=[None, TURN], session="s", session_wait_s=1).jobs
    ]

    assert [(job.continue_of, job.requires) for job in jobs] == [((), ()), ((TURN,), ("continue_of",))]
    assert {(job.session, job.session_wait_s) for job in jobs} == {("s", 1.0)}


def test_all_shares_of_a_group_go_on_from_the_same_turn() -> None:
    jobs = [decode(payload, Job) for _, payload in submission(continue_of=[TURN, None], samples_per_job=1).jobs]

    assert [job.continue_of for job in jobs] == [(TURN,), (TURN,), (), ()]
    assert jobs[0].requires == ("continue_of", "split")


def test_turns_are_content_and_sessions_are_none() -> None:
    plain = submission().digest

    assert submission(session="s", session_wait_s=0).digest == plain == submission(continue_of=[None, None]).digest
    digests = {plain, submission(continue_of=[TURN, None]).digest, submission(continue_of=[None, TURN]).digest}
    assert len(digests) == 3
