"""Images through a worker: prompts are expanded, rollouts name what was expanded, and can be scored and replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rollstream import Client, GenerationConfig, RolloutBatch
from rollstream.schemas import Keys
from tests.support.command_line import Command, lines
from tests.support.faults import Queue
from tests.support.images.pictures import file_of
from tests.support.replaying import bury, finish
from tests.support.worker_process import running_worker

POLICY = "images-end-to-end"
IMAGE = 9
CONFIG = GenerationConfig(max_new_tokens=4, num_return_sequences=2, seed=5, ignore_eos=True)
CAT, DOG = file_of("png"), file_of("jpeg", 30, 20)
PROMPTS = [[1, IMAGE, 2], [3], [IMAGE, 4, IMAGE]]
IMAGES: list[Any] = [[CAT], None, [DOG, np.zeros((16, 33, 3), np.uint8)]]


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Client]:
    """One worker for all of this file."""
    with (
        running_worker(
            redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", "1000", "--stub-image-token", str(IMAGE)
        ),
        Client(redis_url, policy=POLICY) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def rollouts(client: Client) -> RolloutBatch:
    return client.generate(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b", timeout=30)


def test_prompts_are_expanded_by_the_size_of_their_images(rollouts: RolloutBatch) -> None:
    assert rollouts.errors == {}
    assert rollouts.prompts[::2] == [[1, 9, 9, 2], [3], [*[9] * 5, 4, *[9] * 4]]
    assert [[(span.offset, span.length, span.was) for span in spans] for spans in rollouts.image_spans[::2]] == [
        [(1, 2, (9,))], [], [(0, 5, (9,)), (6, 4, (9,))],
    ]  # fmt: skip
    assert [[ref.format for ref in refs] for refs in rollouts.images] == [["png"]] * 2 + [[]] * 2 + [
        ["jpeg", "png"]
    ] * 2


def test_another_image_gives_other_completions(client: Client, rollouts: RolloutBatch) -> None:
    again = client.generate(
        [PROMPTS[0]] * 2, None, CONFIG, images=[[CAT], [file_of("png", color=(1, 2, 3))]], timeout=30
    )

    assert again.prompts[0] == again.prompts[2]
    assert again.responses[:2] == rollouts.responses[:2]
    assert again.responses[2:] != rollouts.responses[:2]


def test_a_handle_of_another_process_reads_the_same(client: Client, rollouts: RolloutBatch) -> None:
    attached = client.attach("b")

    found = attached.result(timeout=30)
    assert isinstance(found, RolloutBatch)
    assert (found.prompts, found.images, found.image_spans) == (
        rollouts.prompts, rollouts.images, rollouts.image_spans,
    )  # fmt: skip


def test_rollouts_are_scored_in_their_expanded_rows(client: Client, rollouts: RolloutBatch) -> None:
    scores = client.score(rollouts, timeout=30)
    collapsed = [
        prompt + response
        for prompt, response in zip(np.repeat(np.array(PROMPTS, object), 2), rollouts.responses, strict=True)
    ]
    firsts = [len(prompt) for prompt in PROMPTS for _ in range(2)]
    rows = client.score(collapsed, first=firsts, images=[images for images in IMAGES for _ in range(2)], timeout=30)

    assert scores.errors == rows.errors == {}
    assert scores.scored_mask.sum(1).tolist() == [4] * 6
    assert scores.log_probs.tolist() == rows.log_probs.tolist()
    plain = client.score([[1, 9, 9, 2]], first=3, timeout=30)
    assert {error.code for error in plain.errors.values()} == {"image_refused"}


@pytest.mark.parametrize("options", [{"samples_per_job": 1}, {"prompts_per_job": 1}], ids=["shares", "jobs"])
def test_images_are_sampled_alike_however_a_batch_is_cut(client: Client, rollouts: RolloutBatch, options: Any) -> None:
    cut = client.generate(PROMPTS, None, CONFIG, images=IMAGES, timeout=30, **options)

    assert (cut.responses, cut.images, cut.image_spans) == (rollouts.responses, rollouts.images, rollouts.image_spans)


def test_tails_and_beams_have_images(client: Client, rollouts: RolloutBatch) -> None:
    first = client.generate(PROMPTS, None, CONFIG.model_copy(update={"first_k": 1}), images=IMAGES, timeout=30)
    beams = GenerationConfig(max_new_tokens=4, num_beams=2, num_return_sequences=2, logprobs=None)
    other = [[file_of("png", color=(1, 2, 3))], *IMAGES[1:]]
    found = [client.generate(PROMPTS, None, beams, images=images, timeout=30) for images in (IMAGES, IMAGES, other)]

    assert first.images == rollouts.images[::2]
    assert [one.errors for one in found] == [{}, {}, {}]
    assert found[0].images == rollouts.images
    assert found[0].responses == found[1].responses
    assert found[0].responses[:2] != found[2].responses[:2]
    assert found[0].responses[2:] == found[2].responses[2:]


BAD: dict[str, tuple[list[int], Any, str, str]] = {
    "too few images": ([9, 9], [CAT], "image_refused", "2 placeholders (id 9) and 1 images"),
    "too many images": ([9], [CAT, DOG], "image_refused", "1 placeholders (id 9) and 2 images"),
    "none with a placeholder": ([1, 9], None, "image_refused", "placeholder"),
    "no placeholder": ([1], [CAT], "image_refused", "0 placeholders (id 9) and 1 images"),
    "more than the worker takes": ([9] * 9, [CAT] * 9, "image_refused", "9"),
    "a prompt that is too long once expanded": (
        [9],
        [np.zeros((1100, 1100, 3), np.uint8)],
        "too_long",
        "max_model_len",
    ),
    "not decodable": ([9], [CAT[:42] + bytes(9) + CAT[51:]], "image_refused", "images[0]"),
}


@pytest.mark.parametrize(("prompt", "images", "code", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_sampled_costs_its_own_group_alone(
    client: Client, prompt: list[int], images: Any, code: str, said: str
) -> None:
    found = client.generate([PROMPTS[0], prompt], None, CONFIG, images=[[CAT], images], timeout=30)

    (error,) = found.errors.values()
    assert (error.group, error.code) == (1, code)
    assert said in f"{error.field}: {error.message}"
    assert found.responses[0]


def test_an_image_that_is_gone_is_said_to_be(redis_url: str, policy: str, server: Any) -> None:
    with Client(redis_url, policy=policy) as client:
        handle = client.submit(PROMPTS, None, CONFIG, images=IMAGES)
        server.delete(*server.scan_iter(Keys(policy).media("*")))
        with running_worker(redis_url, policy, "--engine", "stub", "--stub-image-token", str(IMAGE)):
            found = handle.result(timeout=30)
            again = client.generate(PROMPTS, None, CONFIG, images=IMAGES, timeout=30)

    assert {error.group: (error.code, error.field) for error in found.errors.values()} == {
        0: ("image_missing", "images[0]"), 2: ("image_missing", "images[0]"),
    }  # fmt: skip
    assert again.errors == {}


def test_a_worker_for_text_refuses_images_by_name_and_their_groups_alone(redis_url: str, policy: str) -> None:
    with (
        running_worker(redis_url, policy, "--engine", "stub", "--stub-vocab-size", str(IMAGE)),
        Client(redis_url, policy=policy) as client,
    ):
        found = client.generate(PROMPTS, None, CONFIG, images=IMAGES, timeout=30)
        scores = client.score([[1, IMAGE, 2, 5], [3, 4]], first=[3, 1], images=[[CAT], None], timeout=30)

    assert {group: (error.code, error.field) for group, error in found.errors.items()} == {
        0: ("unsupported", "images"), 2: ("unsupported", "images"),
    }  # fmt: skip
    assert {group: (error.code, error.field) for group, error in scores.errors.items()} == {
        0: ("unsupported", "images"),
    }  # fmt: skip
    assert "--stub-image-token" in found.errors[0].message


def test_a_replay_needs_no_images_again(client: Client, rollouts: RolloutBatch, redis_url: str) -> None:
    command = Command(redis_url, POLICY)

    done = command("replay", "--batch", "b", "--batch-id", "b-again", "--verify", "--timeout", "30", "--json")

    assert done.exit_code == 0, done.stderr
    assert lines(done.stdout)[0]["verify"]["identical"]
    found = client.attach("b-again").result(timeout=30)
    assert isinstance(found, RolloutBatch)
    assert (found.images, found.image_spans, found.responses) == (
        rollouts.images, rollouts.image_spans, rollouts.responses,
    )  # fmt: skip


def test_a_replay_whose_images_are_gone_queues_nothing(redis_url: str, policy: str, queue: Queue) -> None:
    with Client(redis_url, policy=policy) as client:
        client.submit(PROMPTS, None, CONFIG, images=IMAGES, batch_id="b", prompts_per_job=1)
    finish(queue)
    queue.redis.delete(queue.keys.media(hashlib.sha256(DOG).hexdigest()))

    done = Command(redis_url, policy)("replay", "--batch", "b")

    assert done.exit_code == 1
    assert "Redis has it no more (a day after its last use" in " ".join(done.stderr.split())
    assert {fields[b"batch"] for _, fields in queue.entries()} == {b"b"}


def test_a_dead_letter_with_images_is_queued_again(redis_url: str, policy: str, queue: Queue) -> None:
    with Client(redis_url, policy=policy) as client:
        client.submit([PROMPTS[0]], None, CONFIG, images=[[CAT]], batch_id="b")
        ((_, fields),) = queue.entries()
        letter = bury(queue, "b", "broke", payload=fields[b"payload"])

        done = Command(redis_url, policy)("dead", "requeue", letter)

        assert done.exit_code == 0, done.stderr
        with running_worker(redis_url, policy, "--engine", "stub", "--stub-image-token", str(IMAGE)):
            found = client.attach(f"b.requeue-{letter}").result(timeout=30)
    assert isinstance(found, RolloutBatch)
    assert (found.prompts[0], found.errors) == ([1, 9, 9, 2], {})
