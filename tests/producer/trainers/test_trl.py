"""`RolloutFunction` gives TRL's GRPOTrainer what it asks for, and a real one trains with it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream import (
    Client,
    ConfigError,
    GenerationConfig,
    PromptsError,
    ResultTimeoutError,
    RolloutFailedError,
    RolloutFunction,
)
from rollstream.producer.trainers.shared import repeats
from rollstream.producer.trainers.trl import config_of
from rollstream.schemas import Job, decode
from tests.support.faults import Queue
from tests.support.worker_process import running_worker

POLICY = "trl"


class Tokenizer:
    """A character is its code point; `$` begins the assistant's turn."""

    pad_token_id = 0

    def __call__(self, text: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in one] for one in text]}

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> list[int]:
        expected = {"add_generation_prompt": True, "tokenize": True, "return_dict": False, "chat_template": "t"}
        assert kwargs == expected | {"thinking": False}
        return [ord(letter) for message in conversation for letter in message["content"] + "$"]


def trainer(**changes: Any) -> SimpleNamespace:
    """What is read of a GRPOTrainer, with the defaults of GRPOConfig but for the length."""
    sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    args = SimpleNamespace(**{"max_completion_length": 5, "generation_kwargs": None} | sampling | changes)
    template = {"chat_template": "t", "chat_template_kwargs": {"thinking": False}}
    turns: dict[str, Any] = {"tools": [], "environment_factories": None}
    return SimpleNamespace(args=args, eos_token_ids=[2, 3], processing_class=Tokenizer(), **template, **turns)


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Client]:
    """One worker for all of this file; the vocabulary is the tiny model's."""
    with (
        running_worker(redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", "512"),
        Client(redis_url, policy=POLICY) as client,
    ):
        yield client


@pytest.mark.parametrize(
    ("prompts", "temperature", "max_new_tokens", "n"),
    [
        ("aaaabbbb", 1.0, 5, 4),
        ("aaaaaabbbb", 1.0, 5, 2),
        ("abab", 1.0, 5, 1),
        ("aaab", 1.0, 5, 1),
        ("aaaa", 0.0, 5, 1),
        ("a" * 3000, 1.0, 5, 1000),
        ("a" * 6, 1.0, 2**20, 3),
    ],
)
def test_repeated_prompts_are_taken_together_as_far_as_rows_and_bounds_allow(
    prompts: str, temperature: float, max_new_tokens: int, n: int
) -> None:
    ids = [[ord(letter)] for letter in prompts]
    together = repeats(ids, GenerationConfig(max_new_tokens=max_new_tokens, temperature=temperature))
    assert together == n
    assert [prompt for prompt in ids[::n] for _ in range(n)] == ids


def test_the_trainers_arguments_say_how_to_sample() -> None:
    given: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1}
    fields: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": (2, 3)}
    assert config_of(trainer(**given)) == GenerationConfig(**fields | given)
    assert config_of(trainer()) == GenerationConfig(**fields)
    assert config_of(trainer(generation_kwargs={"seed": 4})) == GenerationConfig(**fields | {"seed": 4})
    with pytest.raises(ConfigError) as refused:
        config_of(trainer(generation_kwargs={"typical_p": 0.9}))
    assert refused.value.field == "typical_p"


def test_the_trainers_regular_expression_guides_what_is_sampled() -> None:
    guided = config_of(trainer(vllm_structured_outputs_regex="[ab]+")).guided

    assert guided is not None
    assert guided.regex == "[ab]+"


def test_forced_ends_of_thinking_are_not_handed_to_a_trainer_that_would_train_on_them(client: Client) -> None:
    asked = trainer(generation_kwargs={"thinking_budget": 3})

    with pytest.raises(ConfigError, match="would train on") as refused:
        RolloutFunction(client)(["one"], asked)

    assert refused.value.field == "thinking_budget"


def test_each_repeated_prompt_gets_a_completion_of_its_own(client: Client, redis_url: str) -> None:
    output = RolloutFunction(client, timeout_s=60)(["ab"] * 4 + ["cde"] * 4, trainer())
    assert output["prompt_ids"] == [[97, 98]] * 4 + [[99, 100, 101]] * 4
    completions = output["completion_ids"]
    assert len({tuple(ids) for ids in completions}) == 8
    assert all(1 <= len(ids) <= 5 for ids in completions)
    assert [len(values) for values in output["logprobs"]] == [len(ids) for ids in completions]
    assert all(value < 0 for values in output["logprobs"] for value in values)
    assert output["version_spans"] == [[(0, len(ids))] for ids in completions]
    assert set(output["finish_reasons"]) <= {"stop", "length"}
    with Queue(redis_url, POLICY) as queue:
        assert queue.entries()[-1][1][b"total"] == b"2"


def test_completions_end_where_they_ended_and_have_a_log_prob_a_token(client: Client) -> None:
    config = GenerationConfig(max_new_tokens=8, eos_token_id=tuple(range(200)))
    output = RolloutFunction(client, config=config, timeout_s=60)(["ab"] * 8, trainer())
    lengths = [len(ids) for ids in output["completion_ids"]]
    assert len(set(lengths)) > 1, "every completion of one length shows nothing"
    assert [len(values) for values in output["logprobs"]] == lengths
    for ids, reason in zip(output["completion_ids"], output["finish_reasons"], strict=True):
        assert [token < 200 for token in ids] == [False] * (len(ids) - 1) + [reason == "stop"]


def test_conversations_are_templated_as_the_trainer_says(client: Client) -> None:
    prompts = [[{"role": "user", "content": "ab"}], [{"role": "user", "content": "c"}]]
    assert RolloutFunction(client, timeout_s=60)(prompts, trainer())["prompt_ids"] == [[97, 98, 36], [99, 36]]


def test_a_config_of_ones_own_samples(client: Client) -> None:
    config = GenerationConfig(max_new_tokens=2, temperature=0.5, logprobs=None, ignore_eos=True)
    output = RolloutFunction(client, config=config, timeout_s=60)(["ab", "cd"], trainer(temperature=0.5))
    assert output["logprobs"] is None
    assert [len(ids) for ids in output["completion_ids"]] == [2, 2]


def test_another_temperature_than_the_trainers_is_refused(client: Client) -> None:
    function = RolloutFunction(client, config=GenerationConfig(max_new_tokens=2, temperature=0.5))
    with pytest.raises(ConfigError) as refused:
        function(["ab"], trainer())
    assert refused.value.field == "temperature"


@pytest.mark.parametrize("field", ["num_return_sequences", "num_beams"])
def test_how_many_completions_is_the_trainers_business(client: Client, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RolloutFunction(client, config=GenerationConfig.model_validate({"max_new_tokens": 2, field: 2}))
    assert refused.value.field == field


def test_the_oldest_version_that_may_sample_is_the_one_set_last(redis_url: str, policy: str, queue: Queue) -> None:
    with Client(redis_url, policy=policy) as client:
        function = RolloutFunction(client, min_policy_version=3, timeout_s=0.1)
        for version in (3, 4):
            function.min_policy_version = version
            with pytest.raises(ResultTimeoutError):
                function(["ab"], trainer())
    assert [decode(fields[b"payload"], Job).min_policy_version for _, fields in queue.entries()] == [3, 4]


@pytest.mark.parametrize(
    ("attribute", "given", "field"),
    [("tools", [len], "tools"), ("environment_factories", {None: dict}, "environment_factory")],
)
def test_turns_that_the_trainer_would_sample_itself_are_refused(
    client: Client, attribute: str, given: Any, field: str
) -> None:
    refusing = trainer()
    setattr(refusing, attribute, given)
    with pytest.raises(ConfigError) as refused:
        RolloutFunction(client)(["ab"], refusing)
    assert refused.value.field == field


def test_images_are_refused(client: Client) -> None:
    with pytest.raises(PromptsError) as refused:
        RolloutFunction(client)([[{"role": "user", "content": [{"type": "image"}]}]], trainer())
    assert refused.value.row == 0


def test_a_failed_prompt_is_an_error_and_no_empty_completion(client: Client) -> None:
    with pytest.raises(RolloutFailedError) as failed:
        RolloutFunction(client, timeout_s=60)(["ab", "\u4e00"], trainer())
    assert failed.value.errors[1].code == "token_out_of_vocabulary"


@pytest.mark.timeout(240)  # importing TRL takes 10 s where nothing else runs
def test_a_real_grpo_trainer_trains_on_what_it_is_given(
    client: Client, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # TRL would import vLLM to sample with it, which takes longer than this test.
    monkeypatch.setattr(import_module("trl.import_utils"), "is_vllm_available", lambda **_: False)
    trl: Any = import_module("trl")  # Any: mypy would follow TRL into everything that it imports
    datasets: Any = import_module("datasets")

    outputs: list[dict[str, Any]] = []
    trained: list[dict[str, Any]] = []

    class Recording(RolloutFunction):
        def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
            outputs.append(super().__call__(prompts, trainer))
            return outputs[-1]

    class Trainer(trl.GRPOTrainer):  # type: ignore[misc] # as above
        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
            trained.append(inputs)
            return super()._compute_loss(model, inputs)

    rewarded: list[Any] = []

    def reward(completion_ids: list[list[int]], version_spans: list[Any], **_: Any) -> list[float]:
        rewarded.extend(version_spans)
        return [float(sum(ids)) for ids in completion_ids]

    args = trl.GRPOConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=5, learning_rate=1e-3, use_cpu=True, bf16=False, report_to=[], save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    dataset = datasets.Dataset.from_dict({"prompt": ["ab", "cde", "f", "gh"]})
    rollout = Recording(client, timeout_s=60)
    trainer = Trainer(str(tiny_model), reward_funcs=reward, args=args, train_dataset=dataset, rollout_func=rollout)
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()

    assert [len(output["completion_ids"]) for output in outputs] == [8, 8]
    assert rewarded == [spans for output in outputs for spans in output["version_spans"]]
    for output, inputs in zip(outputs, trained, strict=True):
        given = sorted(zip(output["completion_ids"], output["logprobs"], strict=True))  # TRL shuffles the rows
        mask = inputs["completion_mask"].bool()
        rows = zip(mask, inputs["completion_ids"], inputs["sampling_per_token_logps"], strict=True)
        assert sorted((ids[row].tolist(), logps[row].tolist()) for row, ids, logps in rows) == given
    assert any(not torch.equal(before[name], weight) for name, weight in trainer.model.named_parameters())
