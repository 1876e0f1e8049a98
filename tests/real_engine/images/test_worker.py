"""Images through Redis to a worker with the real engine: from a file's bytes to the log-probs of transformers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from rollstream import Client, GenerationConfig, RolloutBatch
from rollstream.schemas import Keys
from rollstream.worker.requests import Expanded, Picture
from tests.support.engine.engine_requests import ATOL
from tests.support.engine.vision_models import PLACEHOLDER, VisionReference, picture
from tests.support.images.pictures import file_of
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.large]

POLICY = "images-real"
IMAGE = PLACEHOLDER["Qwen2-VL"]
PAD = 3
PROMPTS = [[10, *IMAGE, 30], [40, 41], [*IMAGE, 50, *IMAGE]]
CONFIG = GenerationConfig(max_new_tokens=12, num_return_sequences=2, temperature=0.9, ignore_eos=True,
                          logit_bias={PAD: -100.0}, logprobs="processed")  # fmt: skip


def png(made: Picture) -> bytes:
    written = io.BytesIO()
    Image.fromarray(made.pixels).save(written, "png")
    return written.getvalue()


PICTURES = [picture(1), picture(2, 56, 84), picture(3, 140, 56)]
IMAGES: list[Any] = [[png(PICTURES[0])], None, [png(PICTURES[1]), PICTURES[2].pixels]]


@pytest.fixture(scope="module")
def worker(redis_url: str, model: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(
        redis_url, POLICY, "--model", str(model), "--dtype", "float32", "--max-num-seqs", "16",
        "--max-model-len", "256", "--max-images", "2", "--max-image-pixels", "1000000", "--keep-partials", "0.2",
    )  # fmt: skip
    try:
        yield worker.wait_until_serving(180)
    finally:
        worker.end()


@pytest.fixture(scope="module")
def client(redis_url: str, worker: WorkerProcess) -> Iterator[Client]:
    with Client(redis_url, policy=POLICY) as client:
        yield client


@pytest.fixture(scope="module")
def rollouts(client: Client) -> RolloutBatch:
    return client.generate(PROMPTS, None, CONFIG, images=IMAGES, timeout=60)


def known(reference: VisionReference, rollouts: RolloutBatch, row: int) -> np.ndarray[Any, Any]:
    """What transformers gives a row's completion."""
    group = row // 2
    expanded = Expanded(ids=list(rollouts.prompts[row]), spans=tuple(rollouts.image_spans[row]))
    pictures = {0: PICTURES[:1], 2: PICTURES[1:]}[group]
    return reference.logprobs(expanded, pictures, rollouts.responses[row])


def test_a_rollout_has_the_expanded_prompt_and_scores_as_transformers_does(
    client: Client, rollouts: RolloutBatch, reference: VisionReference
) -> None:
    assert rollouts.errors == {}
    assert [[span.length for span in spans] for spans in rollouts.image_spans[::2]] == [[12], [], [6, 10]]

    scored = client.score(rollouts, timeout=60)

    assert scored.errors == {}
    for row in (0, 1, 4, 5):
        mine = scored.log_probs[row][scored.scored_mask[row].bool()].numpy()
        assert mine == pytest.approx(known(reference, rollouts, row), abs=ATOL)


def test_what_is_wrong_with_images_is_an_error_of_its_group_and_the_worker_lives(
    client: Client, redis_url: str, worker: WorkerProcess
) -> None:
    small, truncated = file_of("png", 56, 56), png(PICTURES[0])
    prompts = [[*IMAGE, 5]] * 5 + [[5, 6], [*IMAGE, 5], [*IMAGE * 3, 5]]
    images: list[Any] = [
        [file_of("png", 2000, 1000)], [file_of("jpeg", 56, 56)], [small, small], [truncated], None, [small],
        [file_of("webp", 57, 57)], [file_of("png", 58, 58)] * 3,
    ]  # fmt: skip
    with redis.Redis.from_url(redis_url) as server:
        handle_id = "bad-images"
        worker.process.send_signal(19)  # what it would fetch is spoilt before it does
        try:
            handle = client.submit(prompts, None, CONFIG, images=images, batch_id=handle_id)
            keys = {key: server.get(key) for key in server.scan_iter(Keys(POLICY).media("*"))}
            for key, data in keys.items():
                if data == images[6][0]:
                    server.delete(key)
                if data == images[1][0]:
                    server.set(key, b"\xff" * len(data), ex=60)
        finally:
            worker.process.send_signal(18)
    found = handle.result(timeout=60)

    said = {group: (error.code, error.message) for group, error in found.errors.items()}
    assert said[0][0] == "image_refused"
    assert "--max-image-pixels 1000000" in said[0][1]
    assert said[1][0] == "image_refused"
    assert "not those of image" in said[1][1]
    assert said[2][0] == "image_refused"
    assert "1 placeholders (id 3) and 2 images" in said[2][1]
    assert 3 not in said
    assert said[4][0] == "image_refused"
    assert "no images" in said[4][1]
    assert said[5][0] == "image_refused"
    assert "0 placeholders" in said[5][1]
    assert said[6][0] == "image_missing"
    assert said[7][0] == "image_refused"
    assert "--max-images allows 2" in said[7][1]
    assert client.generate([[7, 8]], None, CONFIG, timeout=30).errors == {}
