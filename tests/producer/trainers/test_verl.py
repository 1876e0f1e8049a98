"""`VerlRollout.generate_sequences` returns what verl's agent loop puts into its `DataProto`, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import (
    Client,
    ConfigError,
    GenerationConfig,
    PromptsError,
    ResultTimeoutError,
    RolloutFailedError,
    VerlRollout,
    VerlRollouts,
)
from rollstream.producer.trainers.verl import config_of
from rollstream.schemas import Job, decode
from tests.support.data_proto import DataProto, objects
from tests.support.faults import Queue
from tests.support.worker_process import running_worker

POLICY = "verl"
P, L, PAD = 12, 6, 5
VOCABULARY = 8
"""Small, so that the EOS id is sampled now and then, and so is the pad id."""


def token(letter: str) -> int:
    return 3 + ord(letter) % 5 if ord(letter) < 128 else ord(letter)


class Tokenizer:
    """A character is a token; `$` begins the assistant's turn."""

    pad_token_id: int | None = PAD

    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> list[int]:
        assert kwargs.pop("tokenize")
        assert not kwargs.pop("return_dict")
        turn = kwargs.pop("turn", "$") if kwargs.pop("add_generation_prompt") else ""
        assert not kwargs
        return [token(letter) for message in conversation for letter in str(message["content"])] + [token(turn)]


def rollout_config(**changes: Any) -> SimpleNamespace:
    """The fields of `actor_rollout_ref.rollout` that are read, with verl's defaults but for the lengths."""
    validation = SimpleNamespace(temperature=0, top_p=1.0, top_k=-1)
    fields = {"temperature": 1.0, "top_p": 1, "top_k": -1, "calculate_log_probs": True, "val_kwargs": validation}
    return SimpleNamespace(**fields | {"prompt_length": P, "response_length": L} | changes)


def ask(*texts: str, **non_tensor: Any) -> DataProto:
    messages = [[{"role": "user", "content": text}] for text in texts]
    return DataProto({}, {"raw_prompt": objects(*messages), **non_tensor})


@pytest.fixture(scope="module")
def client(redis_url: str) -> Iterator[Client]:
    """One worker for all of this file."""
    with (
        running_worker(redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", str(VOCABULARY)),
        Client(redis_url, policy=POLICY) as client,
    ):
        yield client


@pytest.fixture
def rollout(client: Client) -> VerlRollout:
    return VerlRollout(client, rollout_config=rollout_config(), tokenizer=Tokenizer(), timeout_s=60)


def test_the_rollout_config_says_how_to_sample_and_val_kwargs_how_to_validate() -> None:
    given = rollout_config(temperature=0.7, top_p=0.9, top_k=20)
    assert config_of(given, validate=False) == GenerationConfig(
        max_new_tokens=L, temperature=0.7, top_p=0.9, top_k=20, logprobs="processed"
    )
    assert config_of(given, validate=True) == GenerationConfig(max_new_tokens=L, temperature=0.0, top_k=-1)
    assert config_of(rollout_config(calculate_log_probs=False), validate=False).logprobs is None


def check_contract(rollouts: VerlRollouts, texts: tuple[str, ...]) -> None:
    """Shapes, sides and masks as `AgentLoopWorker.generate_sequences` documents them."""
    rows, batch = len(texts), rollouts.batch
    assert {name: tuple(tensor.shape) for name, tensor in batch.items()} == {
        "prompts": (rows, P),
        "responses": (rows, L),
        "response_mask": (rows, L),
        "input_ids": (rows, P + L),
        "attention_mask": (rows, P + L),
        "position_ids": (rows, P + L),
        "rollout_log_probs": (rows, L),
    }
    for row, text in enumerate(texts):
        prompt = [token(letter) for letter in text + "$"]
        assert batch["prompts"][row].tolist() == [PAD] * (P - len(prompt)) + prompt
        length = int(batch["response_mask"][row].sum())
        assert 0 < length <= L
        assert batch["response_mask"][row].tolist() == [1] * length + [0] * (L - length)
        assert batch["responses"][row, length:].tolist() == [PAD] * (L - length)
        assert (batch["rollout_log_probs"][row] != 0).tolist() == [True] * length + [False] * (L - length)
        mask = [0] * (P - len(prompt)) + [1] * (len(prompt) + length) + [0] * (L - length)
        assert batch["attention_mask"][row].tolist() == mask
    assert torch.equal(batch["input_ids"], torch.cat((batch["prompts"], batch["responses"]), dim=1))
    assert torch.equal(batch["position_ids"], (batch["attention_mask"].cumsum(-1) - 1).clip(min=0))


def test_rows_are_those_of_verls_agent_loop(rollout: VerlRollout) -> None:
    texts = ("ab", "ab", "ab", "ab", "longer one", "longer one")
    prompts = ask(*texts, uid=objects(*"uuuuvv"), agent_name=objects(*["single_turn_agent"] * 6))
    rollouts = rollout.generate_sequences(prompts)
    check_contract(rollouts, texts)
    fields = rollouts.non_tensor_batch
    assert fields["__num_turns__"].dtype == np.int32
    assert fields["__num_turns__"].tolist() == [2] * 6
    assert fields["uid"].tolist() == list("uuuuvv")
    assert fields["multi_modal_inputs"].tolist() == [{}] * 6
    for name in ("turn_scores", "tool_rewards"):
        assert (fields[name].shape, fields[name][0]) == ((6,), [])
    assert fields["min_global_steps"].tolist() == fields["max_global_steps"].tolist() == [0] * 6
    assert rollouts.meta_info["timing"]["rollstream/generate_sequences"] > 0
    assert "uid" in prompts.non_tensor_batch
    assert len(prompts.non_tensor_batch) == 3, "what came in is the caller's"


def test_repeated_prompts_travel_once_and_come_back_as_rows_of_their_own(rollout: VerlRollout, redis_url: str) -> None:
    rollouts = rollout.generate_sequences(ask("ab", "ab", "ab", "cd", "cd", "cd"))
    responses = [tuple(row) for row in rollouts.batch["responses"].tolist()]
    assert len(set(responses[:3])) == len(set(responses[3:])) == 3  # the stub engine's samples differ by their number
    with Queue(redis_url, POLICY) as queue:
        assert queue.entries()[-1][1][b"total"] == b"2"


def test_responses_are_as_wide_as_verl_wants_them_also_where_all_are_short(rollout: VerlRollout) -> None:
    lengths = []
    for text in ("a", "b", "c", "d", "e", "aa", "ab", "ac"):
        rollouts = rollout.generate_sequences(ask(text))
        check_contract(rollouts, (text,))
        lengths.append(int(rollouts.batch["response_mask"].sum()))
    assert min(lengths) < L, "no response was short, so this shows nothing"


def test_greedy_validation_answers_each_row(rollout: VerlRollout) -> None:
    prompts = ask("ab", "ab", "cd")
    prompts.meta_info["validate"] = True
    check_contract(rollout.generate_sequences(prompts), ("ab", "ab", "cd"))


def test_without_log_probs_there_is_no_key_of_them(client: Client) -> None:
    rollout = VerlRollout(
        client,
        rollout_config=rollout_config(calculate_log_probs=False),
        tokenizer=Tokenizer(),
        chat_template={"turn": "!"},
    )
    batch = rollout.generate_sequences(ask("ab")).batch
    assert "rollout_log_probs" not in batch
    assert batch["prompts"][0, -1] == token("!")


@pytest.mark.parametrize(
    ("non_tensor", "error", "what"),
    [
        ({"raw_prompt": objects([{"content": "x" * P}])}, PromptsError, "raw_prompt"),
        ({"raw_prompt": objects([{"content": [{"type": "image", "image": 0}]}])}, PromptsError, "prompts"),
        ({"multi_modal_data": objects({})}, PromptsError, "multi_modal_data"),
        ({"agent_name": objects("tool_agent")}, ConfigError, "agent_name"),
        ({"__do_sample__": np.array([False])}, ConfigError, "__do_sample__"),
    ],
)
def test_what_only_verl_itself_can_do_is_refused_by_name(
    client: Client, non_tensor: dict[str, Any], error: type[Exception], what: str
) -> None:
    prompts = ask("ab")
    prompts.non_tensor_batch |= non_tensor
    with pytest.raises(error) as refused:
        VerlRollout(client, rollout_config=rollout_config(), tokenizer=Tokenizer()).generate_sequences(prompts)
    assert what in (getattr(refused.value, "what", None), getattr(refused.value, "field", None))


def test_the_oldest_version_that_may_sample_is_the_one_set_last(redis_url: str, policy: str, queue: Queue) -> None:
    with Client(redis_url, policy=policy) as client:
        rollout = VerlRollout(
            client, rollout_config=rollout_config(), tokenizer=Tokenizer(), min_policy_version=3, timeout_s=0.1
        )
        for version in (3, 4):
            rollout.min_policy_version = version
            with pytest.raises(ResultTimeoutError):
                rollout.generate_sequences(ask("ab", __do_sample__=np.array([True])))
    assert [decode(fields[b"payload"], Job).min_policy_version for _, fields in queue.entries()] == [3, 4]


def test_prompts_without_conversations_are_refused(client: Client) -> None:
    with pytest.raises(PromptsError):
        VerlRollout(client, rollout_config=rollout_config(), tokenizer=Tokenizer()).generate_sequences(DataProto())


def test_a_tokenizer_without_a_pad_id_is_refused(client: Client) -> None:
    tokenizer = Tokenizer()
    tokenizer.pad_token_id = None
    with pytest.raises(ConfigError):
        VerlRollout(client, rollout_config=rollout_config(), tokenizer=tokenizer)


def test_a_failed_row_is_an_error_and_no_empty_response(rollout: VerlRollout) -> None:
    with pytest.raises(RolloutFailedError) as failed:
        rollout.generate_sequences(ask("ab", "\u4e00"))
    assert failed.value.errors[1].code == "token_out_of_vocabulary"
