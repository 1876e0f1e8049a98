"""Trajectories are scored as they are: with their expanded ids, their images and what is known of the processor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from rollstream import ArgumentError, Client, GenerationConfig, ImagesError, Trajectory, TrajectoryBatch, Turn, stack
from rollstream.producer.images.given import NO_IMAGES, GivenImages
from rollstream.producer.scores.rows import ScoreRows
from rollstream.producer.scores.submission import split_rows
from rollstream.schemas import ImageRef, ImageSpan, ScoreJob, decode
from tests.support.images.pictures import file_of
from tests.support.worker_process import ROOT, running_worker

POLICY = "score-trajectories"
IMAGE = 9
CAT, DOG = (ImageRef(sha256=digit * 64, nbytes=9, format="png", width=8, height=8) for digit in "cd")
SPANS = tuple(ImageSpan(offset=at, length=2, was=(IMAGE,), processor="9e" * 32) for at in (1, 5))


def batch_of() -> TrajectoryBatch:
    """A row with an image in each of two turns, and a sampled placeholder in between; a row of text."""
    seen, lengths = [[1, 9, 9, 5, 9, 9, 9, 6], [1, 5, 6, 0, 0, 0, 0, 0]], torch.tensor([8, 3])
    mask = (torch.arange(8) < lengths[:, None]).long()
    return TrajectoryBatch(
        input_ids=torch.tensor(seen), attention_mask=mask, position_ids=mask.cumsum(1) - 1, response_mask=mask,
        old_log_probs=None, policy_versions=mask, lengths=lengths, logprobs_flavour=None, sessions=("a", "b"),
        leaves=(Turn(batch_id="b", group=0, sample=0),) * 2, pad_token_id=0, images=((CAT, DOG), ()),
        image_spans=(SPANS, ()),
    )  # fmt: skip


def job_of(batch: TrajectoryBatch, given: GivenImages = NO_IMAGES, first: Any = None) -> ScoreJob:
    rows = ScoreRows.of_expanded(batch, given, first)
    ((_, payload),) = split_rows(
        rows, top_logprobs=0, batch_id="s", adapter=None, rows_per_job=32, submitted_at=0.0
    ).jobs
    return decode(payload, ScoreJob)


@pytest.mark.parametrize(("first", "firsts"), [(None, [1, 1]), ([4, 2], [4, 2])], ids=str)
def test_rows_are_sent_with_their_expanded_ids_and_the_digest_of_their_processor(first: Any, firsts: list[int]) -> None:
    job = job_of(batch_of(), first=first)

    assert [row.tolist() for row in job.rows] == [[1, 9, 9, 5, 9, 9, 9, 6], [1, 5, 6]]
    assert job.firsts.tolist() == firsts
    assert (job.images, job.image_spans) == (((CAT, DOG), ()), (SPANS, ()))


def test_files_may_go_to_another_policy_which_has_a_processor_of_its_own() -> None:
    batch = batch_of()

    job = job_of(batch, GivenImages(of_prompts=batch.images, files={CAT: b"cat", DOG: b"dog"}))

    assert job.images == batch.images
    assert [[span.processor for span in spans] for spans in job.image_spans] == [[None] * 2, []]
    assert [span.place for span in job.image_spans[0]] == [span.place for span in SPANS]
    with pytest.raises(ImagesError, match="row 0: they are not those that its ids were sampled with"):
        job_of(batch, GivenImages(of_prompts=((CAT,), ()), files={CAT: b"cat"}))


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Client]:
    """One worker for the tests below."""
    flags = "--engine", "stub", "--stub-vocab-size", "1000", "--stub-image-token", str(IMAGE)
    with running_worker(redis_url, POLICY, *flags), Client(redis_url, policy=POLICY) as client:
        yield client


@pytest.fixture(scope="module")
def trajectories(client: Client) -> list[Trajectory]:
    session, config = client.session("seen"), GenerationConfig(max_new_tokens=4, ignore_eos=True)
    for new, images in (([1, IMAGE, 2], [FILES[0]]), ([3], None), ([IMAGE, 4], [FILES[1]])):
        session.submit(new, config, images=images, continue_of="last" if new[0] != 1 else None).wait(30)
    session.submit([5], config).wait(30)
    return session.trajectories()


FILES = [file_of("png"), file_of("jpeg", 30, 20)]


def test_a_conversation_with_images_is_scored_in_its_own_columns(
    client: Client, trajectories: list[Trajectory]
) -> None:
    batch, starts = stack(trajectories), [one.turns[-1].response_start for one in trajectories]

    whole = client.score(batch, timeout=30)
    last = client.score(batch, first=starts, timeout=30)

    assert whole.errors == last.errors == {}
    assert [len(refs) for refs in batch.images] == [2, 0]
    assert torch.equal(whole.scored_mask, batch.attention_mask[:, 1:])
    for row, one in enumerate(trajectories):
        turn: Any = client.attach(one.leaf.batch_id).result(timeout=30)
        assert torch.equal(last.log_probs[row], client.score(turn, timeout=30).log_probs[0])
        assert torch.equal(whole.log_probs[row][starts[row] - 1 :][:4], last.log_probs[row])


def test_the_pages_penalties_are_0_where_the_policy_scores_what_it_sampled(
    client: Client, trajectories: list[Trajectory]
) -> None:
    page = (ROOT / "docs" / "conversations.md").read_text()
    (block,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def penalties" in one]
    names: dict[str, Any] = {}
    exec(block, names)

    assert names["penalties"](client, trajectories[1:]) == [0.0]


def test_another_policys_worker_is_given_the_files_of_each_trajectory(
    redis_url: str, policy: str, trajectories: list[Trajectory]
) -> None:
    flags = "--engine", "stub", "--stub-vocab-size", "1000", "--stub-image-token", str(IMAGE)
    with running_worker(redis_url, policy, *flags), Client(redis_url, policy=policy) as teacher:
        scores = teacher.score(stack(trajectories), images=[FILES, None], timeout=30)

    assert scores.errors == {}


def test_a_placeholder_that_was_sampled_before_an_image_is_none(client: Client, trajectories: list[Trajectory]) -> None:
    batch = stack(trajectories)
    ids = batch.input_ids.clone()
    ids[:, trajectories[0].turns[0].response_start] = IMAGE

    assert client.score(replace(batch, input_ids=ids), timeout=30).errors == {}


def test_other_room_or_another_processor_is_an_error_of_the_row(client: Client, trajectories: list[Trajectory]) -> None:
    batch = stack(trajectories)
    first, second = batch.image_spans[0]
    other = first.model_copy(update={"processor": "9e" * 32})

    scores = client.score(replace(batch, image_spans=((other, second), ())), timeout=30)

    assert {row: error.code for row, error in scores.errors.items()} == {0: "image_refused"}
    assert "makes other pixels of the images" in scores.errors[0].message


def test_trajectories_are_put_together_before_they_are_scored(client: Client, trajectories: list[Trajectory]) -> None:
    for given in (trajectories, trajectories[0]):
        with pytest.raises(ArgumentError, match=r"put trajectories together: stack\(trajectories\)"):
            client.score(given)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"attention_mask.*trajectories have one themselves"):
        client.score(stack(trajectories), stack(trajectories).attention_mask)
