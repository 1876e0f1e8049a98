"""A replay lets all images that its prompts need stay, those of earlier turns too, or queues nothing."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import Client, GenerationConfig, GroupResult
from rollstream.schemas import Keys
from rollstream.schemas.times import MEDIA_TTL_S
from tests.support.command_line import Command
from tests.support.fault_steps import stub
from tests.support.faults import Queue
from tests.support.images.pictures import file_of
from tests.support.replaying import jobs_of, replayed

CONFIG = GenerationConfig(max_new_tokens=3, ignore_eos=True)


@pytest.fixture
def images(client: Client, redis_url: str, policy: str) -> list[str]:
    """Keys of the images of batch `second`'s one prompt: that of the turn before it, and its own."""
    with stub(redis_url, policy, "--stub-image-token", "9"):
        for batch_id, earlier, color in (("first", None, 1), ("second", [("first", 0, 0)], 2)):
            handle = client.submit(
                [[1, 9]], None, CONFIG, images=[[file_of("png", color=color)]], batch_id=batch_id, continue_of=earlier
            )
            answer = handle.wait(20)[0]
    assert isinstance(answer, GroupResult), answer
    return [Keys(policy).media(image.sha256) for image in answer.images]


def test_images_of_earlier_turns_are_renewed(images: list[str], command: Command, queue: Queue) -> None:
    for key in images:
        queue.redis.expire(key, 100)

    assert len(jobs_of(queue, replayed(command("replay", "--batch", "second")))) == 1

    left: list[Any] = [queue.redis.ttl(key) for key in images]
    assert len(left) == 2
    assert min(left) > MEDIA_TTL_S - 60


@pytest.mark.parametrize("gone", [0, 1], ids=["of the turn before", "its own"])
def test_nothing_is_queued_where_one_is_gone(images: list[str], command: Command, queue: Queue, gone: int) -> None:
    before = queue.entries()
    queue.redis.delete(images[gone])

    done = command("replay", "--batch", "second")

    assert done.exit_code == 1
    assert f"image {images[gone].rpartition(':')[2]} of policy" in " ".join(done.stderr.split())
    assert queue.entries() == before


def test_a_turn_whose_answer_is_gone_is_left_to_the_worker(images: list[str], command: Command, queue: Queue) -> None:
    queue.redis.delete(queue.keys.results("first"), images[0])

    assert len(jobs_of(queue, replayed(command("replay", "--batch", "second")))) == 1
