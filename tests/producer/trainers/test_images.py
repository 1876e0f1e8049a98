"""Images in the prompts of TRL, verl and ROLL: sampled as they are, and never otherwise than the trainer sees them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from rollstream import (
    AsyncClient,
    Client,
    ImagesError,
    PromptsError,
    RolloutFunction,
    RollStrategy,
    VerlReference,
    VerlRollout,
)
from tests.producer.trainers.test_roll import ROLLS
from tests.producer.trainers.test_verl import rollout_config
from tests.support.data_proto import DataProto, objects
from tests.support.faults import Queue
from tests.support.images.pictures import file_of
from tests.support.images.processor import IMAGE_ID, SAMPLED_FROM, Processor, RopeProcessor
from tests.support.replaying import jobs_of
from tests.support.worker_process import running_worker

POLICY = "trainers-images"
CAT = Image.new("RGB", (20, 10), (9, 8, 7))
"""Three ids."""
EXPANDED = [ord("a"), *[IMAGE_ID] * 3, ord("b"), ord("$")]


def asking(*parts: Any) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image", "image": part} for part in parts
    ]
    return [{"role": "user", "content": content}]


SEEN_END = {"type": "text", "text": "b"}
SEEN, PLAIN = asking("a", CAT, "b"), [{"role": "user", "content": "xyz"}]


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Client]:
    """One worker for all of this file."""
    with running_worker(redis_url, POLICY, *SAMPLED_FROM), Client(redis_url, policy=POLICY) as client:
        yield client


def trainer(processor: Any) -> SimpleNamespace:
    """What is read of a GRPOTrainer."""
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    args = SimpleNamespace(max_completion_length=5, generation_kwargs=None, **sampling)
    return SimpleNamespace(
        args=args, eos_token_ids=[2], processing_class=processor, chat_template=None, chat_template_kwargs={},
        tools=[], environment_factories=None,
    )  # fmt: skip


def test_trl_gets_prompts_as_its_own_processor_expands_them(client: Client, redis_url: str) -> None:
    given = RolloutFunction(client)([SEEN, SEEN, PLAIN, PLAIN], trainer(Processor()))

    assert given["prompt_ids"] == [EXPANDED] * 2 + [[120, 121, 122, 36]] * 2
    assert [len(ids) <= 5 for ids in given["completion_ids"]] == [True] * 4


def test_trl_samples_prompts_with_other_images_apart(client: Client, redis_url: str) -> None:
    dog = Image.new("RGB", (20, 10), (1, 1, 1))
    same = Image.new("RGB", (20, 10), (9, 8, 7))

    RolloutFunction(client)(
        [SEEN, asking("a", same, "b"), asking("a", dog, "b"), asking("a", dog, "b")], trainer(Processor())
    )

    with Queue(redis_url, POLICY) as queue:
        (job,) = jobs_of(queue, queue.entries()[-1][1][b"batch"].decode())
    assert (len(job.groups), job.config.num_return_sequences) == (2, 2)
    assert job.images[0] != job.images[1]


BAD: dict[str, tuple[Any, Any, str]] = {
    "other limits": (SEEN, Processor(patch=8), "the trainer has 10 ids, and the workers have 6"),
    "a tokenizer alone": (SEEN, SimpleNamespace(apply_chat_template=None), "give the model's processor"),
    "a video": ([{"content": [{"type": "video", "video": 1}]}], Processor(), "no text and no image: 'video'"),
    "scaled later": ([{"content": [{"type": "image", "image": CAT, "max_pixels": 9}]}], Processor(), "'max_pixels'"),
    "no content": ([{"content": [{"type": "image"}]}], Processor(), "without its content"),
}


@pytest.mark.parametrize(("messages", "processor", "said"), BAD.values(), ids=BAD)
def test_what_the_trainer_would_see_otherwise_is_refused(
    client: Client, messages: Any, processor: Any, said: str
) -> None:
    with pytest.raises(PromptsError, match=said):
        RolloutFunction(client)([messages], trainer(processor))


@pytest.mark.parametrize(
    "image", [file_of("gif"), "/nowhere/cat.png", "https://example.org/cat.png", {"path": "/nowhere"}]
)
def test_an_image_that_is_none_is_named_with_its_row(client: Client, image: Any) -> None:
    with pytest.raises(ImagesError, match="row 1: image 0: "):
        RolloutFunction(client)([SEEN, [{"content": [{"type": "image", "image": image}]}]], trainer(Processor()))


def as_png() -> bytes:
    written = io.BytesIO()
    CAT.save(written, "png")
    return written.getvalue()


PNG = as_png()
BROKEN = PNG[: PNG.index(b"IDAT") + 4] + b"\0" * 8 + PNG[PNG.index(b"IDAT") + 12 :]
UNDECODED: dict[str, Any] = {
    "bytes": {"bytes": PNG, "path": None}, "a path": {"bytes": None, "path": "cat.png"}, "a path alone": "cat.png",
    "raw bytes": PNG, "a Path": Path("cat.png"),
}  # fmt: skip


@pytest.mark.parametrize("image", UNDECODED.values(), ids=UNDECODED)
def test_an_image_that_the_dataset_did_not_decode_is_seen_by_both(
    client: Client, image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    asked = [{"content": [{"type": "text", "text": "a"}, {"type": "image", "image": image}, SEEN_END]}]
    rollout = VerlRollout(client, rollout_config=rollout_config(), tokenizer=Processor(), processor=Processor())

    trained = RolloutFunction(client)([asked], trainer(Processor()))
    given = rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(asked)}))

    assert trained["prompt_ids"] == [EXPANDED]
    assert given.batch["prompts"][0].tolist() == [0] * 6 + EXPANDED


class Refusing(Processor):
    """A processor that cannot use what it is given."""

    def __call__(self, **_given: Any) -> dict[str, Any]:
        raise TypeError("images of a kind it does not know")


@pytest.mark.parametrize(
    ("image", "processor", "said"),
    [
        (BROKEN, Processor(), "row 0: image 0: it cannot be decoded"),
        (CAT, Refusing(), "row 0: the processor refuses it: TypeError: images of a kind"),
    ],
    ids=["a broken file", "a processor that refuses"],
)
def test_what_the_trainer_cannot_see_is_refused_before_anything_is_sampled(
    client: Client, redis_url: str, image: Any, processor: Any, said: str
) -> None:
    rollout = VerlRollout(client, rollout_config=rollout_config(), tokenizer=Processor(), processor=processor)
    narrow = VerlRollout(
        client, rollout_config=rollout_config(prompt_length=5), tokenizer=Processor(), processor=Processor()
    )
    with Queue(redis_url, POLICY) as queue:
        before = len(queue.entries())
        with pytest.raises(PromptsError, match=said):
            RolloutFunction(client)([asking("a", image, "b")], trainer(processor))
        with pytest.raises(PromptsError, match=said):
            rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(asking("a", image, "b"))}))
        with pytest.raises(PromptsError, match="6 tokens, but prompt_length is 5"):
            narrow.generate_sequences(DataProto({}, {"raw_prompt": objects(SEEN)}))
        assert len(queue.entries()) == before


def test_verl_gets_what_its_model_needs_beside_the_ids(client: Client) -> None:
    rollout = VerlRollout(client, rollout_config=rollout_config(), tokenizer=Processor(), processor=RopeProcessor())

    given = rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(SEEN, SEEN, PLAIN)}))

    prompts, mask = given.batch["prompts"], given.batch["attention_mask"]
    assert prompts[0].tolist() == [0] * 6 + EXPANDED
    seen, _, plain = given.non_tensor_batch["multi_modal_inputs"]
    assert sorted(seen) == ["image_grid_thw", "images_seqlens", "pixel_values"]
    assert (seen["image_grid_thw"].tolist(), seen["images_seqlens"].tolist(), plain) == ([[1, 1, 2]], [2], {})
    positions = given.batch["position_ids"]
    assert positions.shape == (3, 4, 18)
    there = mask[0] == 1
    assert positions[0, 0][there].tolist() == list(range(int(mask[0].sum())))
    assert positions[0, 0][~there].tolist() == [1] * int((~there).sum())
    assert positions[0, 1].tolist() == mask[0].tolist()
    assert positions[2, 1].tolist() == [0] * 18


def test_verl_counts_plain_positions_where_the_model_does(client: Client) -> None:
    rollout = VerlRollout(client, rollout_config=rollout_config(), tokenizer=Processor(), processor=Processor())

    given = rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(SEEN)}))

    assert given.batch["position_ids"].shape == (1, 18)


def test_verl_may_scale_images_itself(client: Client) -> None:
    def scaled(messages: Any) -> list[Any]:
        return [part["image"].resize((5, 5)) for part in messages[0]["content"] if part["type"] == "image"]

    rollout = VerlRollout(
        client, rollout_config=rollout_config(), tokenizer=Processor(), processor=Processor(), images_of=scaled
    )
    asked = [{"content": [{"type": "text", "text": "a"}, {"type": "image", "image": CAT, "max_pixels": 25}, SEEN_END]}]

    given = rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(asked)}))

    assert given.batch["prompts"][0].tolist() == [0] * 7 + [97, 64, 64, 98, 36]


def test_verl_refuses_a_prompt_that_is_too_long_once_expanded_and_other_limits(client: Client) -> None:
    for width, processor, said in ((5, Processor(), "6 tokens, but prompt_length is 5"), (12, Processor(8), "10 ids")):
        rollout = VerlRollout(
            client, rollout_config=rollout_config(prompt_length=width), tokenizer=Processor(), processor=processor
        )
        with pytest.raises(PromptsError, match=said):
            rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(SEEN)}))


def test_verls_reference_refuses_rows_with_images(client: Client) -> None:
    rollout = VerlRollout(client, rollout_config=rollout_config(), tokenizer=Processor(), processor=Processor())
    given = rollout.generate_sequences(DataProto({}, {"raw_prompt": objects(SEEN)}))

    with pytest.raises(PromptsError, match="multi_modal_inputs"):
        VerlReference(client).compute_ref_log_prob(DataProto(given.batch, given.non_tensor_batch))


def rolls(*entries: Any, ids: list[list[int]]) -> DataProto:
    """As ROLL's collator makes it: `input_ids` are expanded, `prompt_token_ids` are not."""
    width = max(map(len, ids))
    padded = torch.tensor([[0] * (width - len(row)) + row for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    return DataProto({"input_ids": padded, "attention_mask": mask}, {"multi_modal_data": objects(*entries)})


ROLL_SEEN = {"prompt_token_ids": [97, 64, 98, 36], "multi_modal_data": {"image": [CAT]}, "mm_processor_kwargs": {}}
ROLL_PLAIN = {"prompt_token_ids": [120, 36]}


async def test_roll_samples_from_its_prompts_with_their_images(client: Client, redis_url: str) -> None:
    asked = {**ROLLS, "max_new_tokens": 4, "num_return_sequences": 2}
    async with AsyncClient(redis_url, policy=POLICY) as awaited:
        strategy = RollStrategy(awaited)
        given = rolls(ROLL_SEEN, ROLL_PLAIN, ids=[EXPANDED, [120, 36]])

        sequences = await strategy.generate(given, asked)
        rollouts = await strategy.rollouts(given, asked)

    assert sequences[:, :6].tolist() == [EXPANDED] * 2 + [[0] * 4 + [120, 36]] * 2
    assert [len(refs) for refs in rollouts.images] == [1, 1, 0, 0]
    assert rollouts.prompts == [EXPANDED] * 2 + [[120, 36]] * 2


@pytest.mark.parametrize(
    ("entry", "ids", "said"),
    [
        (ROLL_SEEN, [97, 64, 64, 98, 36], "the trainer has 5 ids, and the workers have 6"),
        ({**ROLL_SEEN, "multi_modal_data": {"image": [CAT], "video": [1]}}, EXPANDED, "has video"),
        ({}, EXPANDED, "has no prompt_token_ids"),
        (None, EXPANDED, "has no prompt_token_ids"),
        ({"prompt_token_ids": 5}, EXPANDED, "prompt_token_ids is a int"),
        ({**ROLL_SEEN, "multi_modal_data": [CAT]}, EXPANDED, "multi_modal_data is a list"),
    ],
    ids=["other limits", "a video", "nothing", "no mapping", "ids that are none", "images outside a mapping"],
)
async def test_roll_refuses_what_its_trainer_would_see_otherwise(
    client: Client, redis_url: str, entry: Any, ids: list[int], said: str
) -> None:
    async with AsyncClient(redis_url, policy=POLICY) as awaited:
        with pytest.raises(PromptsError, match=said):
            await RollStrategy(awaited).generate(rolls(entry, ids=[ids]), {**ROLLS, "max_new_tokens": 4})


@pytest.mark.parametrize("rows", [[EXPANDED] * 3, [EXPANDED]], ids=["too few", "too many"])
async def test_roll_has_an_entry_for_each_row_or_nothing_is_sampled(
    client: Client, redis_url: str, rows: list[list[int]]
) -> None:
    async with AsyncClient(redis_url, policy=POLICY) as awaited:
        with Queue(redis_url, POLICY) as queue:
            before = len(queue.entries())
            with pytest.raises(PromptsError, match=f"2 entries, but input_ids has {len(rows)} rows"):
                await RollStrategy(awaited).generate(rolls(ROLL_SEEN, ROLL_SEEN, ids=rows), ROLLS)
            assert len(queue.entries()) == before
