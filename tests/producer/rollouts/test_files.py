"""A batch that was saved comes back whole; a file that says anything else is a typed error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.numpy import save_file

from rollstream import GenerationConfig, RolloutBatch, TensorFileError
from rollstream.producer.rollouts.assemble import assemble
from rollstream.schemas.generation.generation_config import MAX_CANDIDATES, MAX_SUPPORT_TIES
from tests.producer.rollouts.batches import assert_same, batches
from tests.support.answers import batch_of, error_of, result_of
from tests.support.engine.candidates import rich_result

Arrays = dict[str, np.ndarray[Any, Any]]
Rest = dict[str, Any]


def rich(pad_token_id: int = 0) -> RolloutBatch:
    config = GenerationConfig(max_new_tokens=3, top_k=2, top_logprobs=2, label_token_ids=(5,), sampling_support=True)
    result = rich_result(0, [1], [[7, 8]], k=2, labels=1, kept=[[[7], [8, 9]]], forced=[[0, 1]], texts=("sieben",))
    return assemble(batch_of([[1], [2, 3]], config), {0: result, 1: error_of(1, [2, 3])}, pad_token_id=pad_token_id)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches())
def test_what_is_saved_comes_back(tmp_path: Path, rollouts: RolloutBatch) -> None:
    rollouts.save(tmp_path / "rollouts.safetensors")
    assert_same(RolloutBatch.load(tmp_path / "rollouts.safetensors"), rollouts)


def test_texts_errors_and_forced_tokens_come_back(tmp_path: Path) -> None:
    rich().save(tmp_path / "a.safetensors")
    loaded = RolloutBatch.load(str(tmp_path / "a.safetensors"))
    assert_same(loaded, rich())
    assert loaded.errors == rich().errors
    assert loaded.texts == ("sieben", None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("pad", [-100, 2**40, -(2**63)])
def test_any_pad_id_comes_back(tmp_path: Path, pad: int) -> None:
    rich(pad).save(tmp_path / "a")
    loaded = RolloutBatch.load(tmp_path / "a")
    assert_same(loaded, rich(pad))
    assert loaded.pad_token_id == pad
    assert pad in loaded.sequences


def test_masks_that_a_trainer_changed_come_back(tmp_path: Path) -> None:
    rollouts = rich()
    rollouts.response_mask.zero_()
    rollouts.attention_mask[0, -1] = 0
    rollouts.save(tmp_path / "a")
    assert_same(RolloutBatch.load(tmp_path / "a"), rollouts)


@pytest.mark.parametrize("mask", [[False, False], [False, True]], ids=["no row", "a failed row"])
def test_a_selection_comes_back(tmp_path: Path, mask: list[bool]) -> None:
    rollouts = rich().select(mask)
    rollouts.save(tmp_path / "a")
    assert_same(RolloutBatch.load(tmp_path / "a"), rollouts)


def test_a_support_with_every_tie_that_a_worker_may_send_comes_back(tmp_path: Path) -> None:
    most = MAX_CANDIDATES + MAX_SUPPORT_TIES
    config = GenerationConfig(max_new_tokens=1, top_k=MAX_CANDIDATES, sampling_support=True)
    result = rich_result(0, [1], [[7]], k=0, labels=0, kept=[[list(range(most))]])
    rollouts = assemble(batch_of([[1]], config), {0: result})
    rollouts.save(tmp_path / "a")
    assert_same(RolloutBatch.load(tmp_path / "a"), rollouts)


def test_beam_scores_without_log_probs_come_back(tmp_path: Path) -> None:
    from rollstream.schemas import Tensor

    config = GenerationConfig(max_new_tokens=4, num_beams=2, logprobs=None)
    scores = Tensor.of(np.array([-0.5], np.float32))
    result = result_of(0, [5], [[7]], scores=scores, logprobs=None, logprobs_flavour=None)
    rollouts = assemble(batch_of([[5]], config), {0: result})
    rollouts.save(tmp_path / "a")
    assert_same(RolloutBatch.load(tmp_path / "a"), rollouts)


def changed(folder: Path, change: Callable[[Arrays, Rest], None]) -> Path:
    """A file of `rich` of which something was changed."""
    rich().save(folder / "good")
    with safe_open(folder / "good", framework="np") as file:
        arrays, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    rest = json.loads(arrays.pop("text").tobytes())
    change(arrays, rest)
    text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
    save_file(arrays | {"text": text}, folder / "bad", metadata=metadata)
    return folder / "bad"


def put(name: str, value: Any) -> Callable[[Arrays, Rest], None]:
    return lambda arrays, _rest: arrays.__setitem__(name, np.asarray(value))


def say(name: str, value: Any) -> Callable[[Arrays, Rest], None]:
    return lambda _arrays, rest: rest.__setitem__(name, value)


def drop(name: str) -> Callable[[Arrays, Rest], None]:
    return lambda arrays, _rest: arrays.__delitem__(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("sequences"), "has no tensor 'sequences'"),
        (drop("support_ids"), "support_lengths and support_ids come together"),
        (drop("old_log_probs"), "old_log_probs and logprobs_flavour come together"),
        (put("evil", [1]), "'evil', which nothing here reads"),
        (put("sequences", np.zeros((2, 4), np.float32)), "sequences: F32"),
        (put("sequences", np.zeros((3, 4), np.int64)), "does not fit the rest"),
        (put("sequences", np.full((2, 4), -1)), "sequences: from -1 to -1"),
        (put("response_mask", np.full((2, 4), 2)), "response_mask: from 2 to 2"),
        (put("response_mask", np.full((2, 4), 1)), "prompt_mask and response_mask: both are 1"),
        (put("old_log_probs", np.full((2, 2), np.nan, np.float32)), "old_log_probs: not finite where response_mask"),
        (put("response_lengths", np.array([99, 0])), "response_lengths: from 0 to 99"),
        (put("group_index", np.array([0, 2])), "group_index: prompts are numbered from 0"),
        (put("group_index", np.array([1, 0])), "group_index: prompts are numbered from 0"),
        (put("support_lengths", np.array([[1, 5], [0, 0]])), "support_lengths do not add up"),
        (put("support_lengths", np.array([[2**40, 0], [0, 0]])), "support_lengths: from 0"),
        (put("support_lengths", np.array([[145, 0], [0, 0]])), "support_lengths: from 0 to 145"),
        (put("support_ids", np.array([-1], np.int32)), "support_ids: from -1 to -1"),
        (say("prompt_len", 3), "prompts of 3 and responses of 2 columns"),
        (say("prompt_len", "2"), "prompt_len: "),
        (say("finish_reasons", ["stop"]), "finish_reasons: 1 of 2 rows"),
        (say("finish_reasons", ["stop", "bored"]), "finish_reasons.1: "),
        (say("label_token_ids", [5, 6]), "label_log_probs: of 1 ids"),
        (say("routing", [None]), "routing: 1 of 2 rows"),
        (say("routing", [{"batch_id": "b", "group": 0, "completion": 0}, None]), "routing.0.experts: "),
        (say("errors", [[7, "AAAA"]]), "errors: "),
        (say("errors", [[0, "%"]]), "errors: "),
        (say("surprise", 1), "surprise: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Arrays, Rest], None], said: str) -> None:
    with pytest.raises(TensorFileError, match=said) as raised:
        RolloutBatch.load(changed(tmp_path, change))
    assert str(raised.value).startswith(str(tmp_path / "bad"))


def test_an_unchanged_file_is_read(tmp_path: Path) -> None:
    assert_same(RolloutBatch.load(changed(tmp_path, lambda _arrays, _rest: None)), rich())


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64], ids=["empty", "a pickle", "a huge header"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(TensorFileError, match="is no safetensors file"):
        RolloutBatch.load(tmp_path / "other")


def test_another_file_of_tensors_is_refused(tmp_path: Path) -> None:
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(TensorFileError, match="holds no RolloutBatch"):
        RolloutBatch.load(tmp_path / "model.safetensors")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        RolloutBatch.load(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match=re.escape(str(tmp_path))):
        RolloutBatch.load(tmp_path)
    with pytest.raises(OSError, match="cannot be written"):
        rich().save(tmp_path / "no folder" / "a")
