"""Drop-ins with the processor of transformers and a real worker: a trainer computes the same log-probs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from rollstream import Client, PromptsError, RolloutFunction, VerlRollout
from tests.support.data_proto import DataProto, objects
from tests.support.engine.engine_requests import ATOL
from tests.support.engine.vision_models import picture
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.large]

POLICY = "images-trainers"
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def client(redis_url: str, model: Path) -> Iterator[Client]:
    worker = WorkerProcess(
        redis_url, POLICY, "--model", str(model), "--dtype", "float32", "--max-num-seqs", "16",
        "--max-model-len", "128", "--max-images", "2",
    )  # fmt: skip
    try:
        worker.wait_until_serving(180)
        with Client(redis_url, policy=POLICY) as client:
            yield client
    finally:
        worker.end()


@pytest.fixture(scope="module")
def processor(model: Path) -> Any:
    from transformers import AutoProcessor

    processor: Any = AutoProcessor.from_pretrained(model)
    processor.chat_template = TEMPLATE
    return processor


def seen(number: int) -> list[dict[str, Any]]:
    image = Image.fromarray(picture(number).pixels)
    return [{"role": "user", "content": [{"type": "text", "text": "ab"}, {"type": "image", "image": image}]}]


PLAIN = [{"role": "user", "content": "cde"}]


def test_trl_has_the_ids_that_the_worker_sampled_from(client: Client, processor: Any) -> None:
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    trainer = SimpleNamespace(
        args=SimpleNamespace(max_completion_length=4, generation_kwargs=None, **sampling), eos_token_ids=[0],
        processing_class=processor, chat_template=TEMPLATE, chat_template_kwargs={}, tools=[],
        environment_factories=None,
    )  # fmt: skip
    own = processor.apply_chat_template([seen(1)], tokenize=True, return_dict=True, chat_template=TEMPLATE)["input_ids"]

    given = RolloutFunction(client)([seen(1), seen(1), PLAIN, PLAIN], trainer)

    assert given["prompt_ids"][:2] == [list(own[0])] * 2
    assert len(own[0]) == 16


def test_verls_model_gives_the_log_probs_of_the_worker(client: Client, processor: Any, model: Path) -> None:
    from transformers import Qwen2VLForConditionalGeneration

    actor: Any = Qwen2VLForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    processor.get_rope_index = actor.model.get_rope_index  # as verl binds it
    validation = SimpleNamespace(temperature=0, top_p=1.0, top_k=-1)
    config = SimpleNamespace(
        temperature=1.0, top_p=1.0, top_k=-1, calculate_log_probs=True, val_kwargs=validation, prompt_length=20,
        response_length=6,
    )  # fmt: skip
    rollout = VerlRollout(client, rollout_config=config, tokenizer=processor.tokenizer, processor=processor)

    given = rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(seen(1), seen(2), PLAIN)}))

    for row, inputs in enumerate(given.non_tensor_batch["multi_modal_inputs"]):
        batch = {name: tensor[row : row + 1] for name, tensor in given.batch.items()}
        needed = {name: value for name, value in inputs.items() if name != "images_seqlens"}
        with torch.no_grad():
            logits = actor(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                position_ids=batch["position_ids"].transpose(0, 1), **needed,
            ).logits  # fmt: skip
        found = logits[:, -7:-1].log_softmax(-1).gather(-1, batch["responses"][..., None])[..., 0]
        sampled = batch["response_mask"] == 1
        assert (found - batch["rollout_log_probs"])[sampled].abs().max() < ATOL


def test_another_limit_of_pixels_is_refused(client: Client, model: Path) -> None:
    from transformers import AutoProcessor

    other: Any = AutoProcessor.from_pretrained(model)
    other.chat_template = TEMPLATE
    other.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4}
    config = SimpleNamespace(
        temperature=1.0, top_p=1.0, top_k=-1, calculate_log_probs=True, val_kwargs=None, prompt_length=20,
        response_length=6,
    )  # fmt: skip
    rollout = VerlRollout(client, rollout_config=config, tokenizer=other.tokenizer, processor=other)

    with pytest.raises(PromptsError, match="the workers have 16"):
        rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(seen(1))}))
