"""Images through Redis to a worker with the real engine: from a file's bytes to the log-probs of transformers."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import redis
import torch
from PIL import Image

from rollstream import Client, GenerationConfig, RolloutBatch, Trajectory, TrajectoryBatch, stack
from rollstream.schemas import Keys
from rollstream.worker.requests import Expanded, Picture
from tests.support.engine.engine_requests import ATOL
from tests.support.engine.vision_models import PLACEHOLDER, VisionReference, picture
from tests.support.images.pictures import file_of
from tests.support.worker_process import ROOT, WorkerProcess

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


class Seeing(torch.nn.Module):
    """The model of transformers, as if the placeholder's id could not be sampled; it keeps its log-probs."""

    def __init__(self, reference: VisionReference) -> None:
        super().__init__()
        self.model = reference.model

    def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
        logits = self.model(input_ids, **inputs).logits.float()
        banned = torch.zeros(logits.shape[-1]).index_fill(0, torch.tensor([PAD]), -torch.inf)
        self.found = (logits + banned)[:, :-1].log_softmax(-1).gather(-1, input_ids[:, 1:, None])[..., 0].detach()
        return SimpleNamespace(logits=logits + banned)


@pytest.fixture(scope="module")
def conversations(client: Client) -> list[Trajectory]:
    """Two that begin with an image, of which one has another in its second turn; one of text."""
    session, config = client.session("seen"), CONFIG.model_copy(update={"num_return_sequences": 1, "temperature": 1.0})
    files = [png(one) for one in PICTURES]
    session.submit([10, *IMAGE, 30], config, images=[files[0]]).wait(60)
    session.submit([31, *IMAGE, 32], config, images=[files[1]], continue_of="last").wait(60)
    session.submit([33], config, continue_of="last").wait(60)
    session.submit([*IMAGE, 50], config, images=[files[2]]).wait(60)
    session.submit([40, 41], config).wait(60)
    return session.trajectories()


def image_inputs(batch: TrajectoryBatch, reference: VisionReference) -> Any:
    """By the function that the page has for it."""
    pictures = {sha256(png(one)).hexdigest(): one.pixels for one in PICTURES}
    made = documented("multimodal", "def image_inputs")["image_inputs"]
    return made(batch, pictures, reference.processor, PAD)


def test_the_documented_step_sees_the_images_of_conversations_as_the_worker_did(
    conversations: list[Trajectory], reference: VisionReference
) -> None:
    model = Seeing(reference)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)

    documented("conversations", "optimiser.step()")["step"](
        model, optimiser, conversations, torch.tensor([1.0, 0.0, 0.5]), lambda batch: image_inputs(batch, reference)
    )

    batch = stack(conversations)
    assert batch.old_log_probs is not None
    assert [len(refs) for refs in batch.images] == [2, 1, 0]
    sampled = batch.response_mask[:, 1:].bool()
    assert model.found[sampled].numpy() == pytest.approx(batch.old_log_probs[:, 1:][sampled].numpy(), abs=ATOL)


def test_scores_of_conversations_are_what_transformers_computes_at_each_id(
    client: Client, conversations: list[Trajectory], reference: VisionReference
) -> None:
    batch = stack(conversations)

    scores = client.score(batch, timeout=60)

    assert scores.errors == {}
    with torch.no_grad():
        logits = reference.model(
            batch.input_ids, attention_mask=batch.attention_mask, **image_inputs(batch, reference)
        ).logits.float()
    known = logits[:, :-1].log_softmax(-1).gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    assert torch.equal(scores.scored_mask, batch.attention_mask[:, 1:])
    there = scores.scored_mask.bool()
    assert scores.log_probs[there].numpy() == pytest.approx(known[there].numpy(), abs=ATOL)


def documented(page: str, word: str) -> dict[str, Any]:
    """The names that the page's block with this word defines."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(), re.DOTALL)
    (block,) = [one for one in blocks if word in one]
    names: dict[str, Any] = {}
    exec(block, names)
    return names


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
