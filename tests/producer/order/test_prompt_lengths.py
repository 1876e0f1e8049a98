"""A client that remembers lengths has the longest prompts of the next batch started first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rollstream import ArgumentError, AsyncClient, Client, GenerationConfig, LengthsFileError, PromptLengths
from rollstream.schemas import GroupError, GroupResult, Tensor, Turn
from rollstream.schemas.wire.images import ImageSpan
from tests.support.batches import entries
from tests.support.worker_process import WorkerProcess

TURN = Turn(batch_id="b", group=0, sample=0)


def answer(prompt: list[int], *lengths: int, cut: tuple[int, ...] = ()) -> GroupResult:
    width = max(lengths)
    return GroupResult(
        batch_id="b", group=0, prompt=Tensor.of(np.array(prompt, np.int32)),
        token_ids=Tensor.of(np.zeros((len(lengths), width), np.int32)), lengths=Tensor.of(np.array(lengths, np.int32)),
        response_mask=Tensor.of(np.arange(width) < np.array(lengths)[:, None]),
        finish_reasons=tuple("stop" for _ in lengths), stop_reasons=(None,) * len(lengths),
        version_spans=tuple(((0, length),) for length in lengths), worker="w", queued_s=0.0, generate_s=0.0,
        cut_lengths=Tensor.of(np.array(cut, np.int32)) if cut else None,
    )  # fmt: skip


def turn_of(earlier: list[int], *lengths: int, then: int, spans: tuple[ImageSpan, ...] = ()) -> GroupResult:
    """An answer to the id `then`, which follows the prompt `earlier` and its completion of three ids."""
    prompt, completion = [*earlier, 20, 21, 22, then], np.array([[len(earlier), 3]], np.int32)
    told = {"continued": TURN, "earlier_completions": Tensor.of(completion), "image_spans": spans}
    return answer(prompt, *lengths).model_copy(update=told)


def expected(lengths: PromptLengths, *prompts: list[int]) -> list[int] | None:
    told = lengths.expected([np.array(prompt, np.int32) for prompt in prompts])
    return None if told is None else told.tolist()


def memory(most: int = 10) -> PromptLengths:
    return PromptLengths(most=most)


def test_a_prompt_is_expected_to_be_as_long_as_its_answers_were() -> None:
    lengths = memory()
    lengths.note(answer([1, 2], 4, 8))
    lengths.note(answer([1], 20))

    assert expected(lengths, [1], [1, 2]) == [20, 6]


@pytest.mark.parametrize(
    ("whole", "cut", "mean"), [((4,), (4, 4, 4), 16), ((4, 8), (8, 8), 14), ((5, 7), (0,), 6)], ids=str
)
def test_what_was_cut_counts_as_unfinished(whole: tuple[int, ...], cut: tuple[int, ...], mean: int) -> None:
    lengths = memory()
    lengths.note(answer([1], *whole, cut=cut))

    assert expected(lengths, [1]) == [mean]


def test_a_prompt_that_is_not_known_counts_as_the_others_do() -> None:
    lengths = memory()
    assert expected(lengths, [1], [2]) is None
    lengths.note(answer([1], 10))
    lengths.note(answer([2], 20))

    assert (expected(lengths, [1], [2], [3]), expected(lengths, [3], [4])) == ([10, 20, 15], None)


def test_the_mean_follows_what_changes() -> None:
    lengths = memory()
    for _ in range(100):
        lengths.note(answer([1], 10))
    for _ in range(30):
        lengths.note(answer([1], 100))

    assert expected(lengths, [1]) == [98]


def test_a_turn_is_known_by_the_ids_that_are_submitted() -> None:
    lengths = memory()
    lengths.note(turn_of([1, 2], 40, then=8))
    lengths.note(answer([8], 10))
    prompts = [np.array([one], np.int32) for one in (8, 9)]

    of_turns = lengths.expected(prompts, [TURN.model_copy(update={"batch_id": "next"}), None])
    assert of_turns is not None
    assert (of_turns.tolist(), expected(lengths, [8])) == ([40, 40], [10])


def test_a_turn_is_known_though_the_earlier_one_had_an_image() -> None:
    lengths, span = memory(), ImageSpan(offset=1, length=4, was=(9,))
    lengths.note(turn_of([1, 9, 9, 9, 9, 2], 40, then=8, spans=(span,)))

    of_turns = lengths.expected([np.array([8], np.int32)], [TURN])
    assert of_turns is not None
    assert of_turns.tolist() == [40]


async def test_a_turn_that_is_submitted_again_is_expected_to_be_as_long(
    server: Any, redis_url: str, policy: str
) -> None:
    config = GenerationConfig(max_new_tokens=64)
    async with AsyncClient(redis_url, policy=policy, remember_lengths=9) as client:
        assert client.lengths is not None
        client.lengths.note(turn_of([1, 2], 40, then=8))
        await client.submit([[7], [8]], None, config, continue_of=[None, ("b", 0, 0)])

    ((_, job),) = entries(server, policy)
    assert job.expected_tokens is not None
    assert job.expected_tokens.tolist() == [40, 40]


def test_an_error_says_nothing_of_a_length() -> None:
    lengths = memory()
    lengths.note(GroupError(batch_id="b", group=0, code="too_long", field="f", message="m", worker="w"))

    assert len(lengths) == 0


def test_the_prompts_that_were_answered_longest_ago_are_forgotten() -> None:
    lengths = memory(2)
    for prompt in ([1], [2], [1], [3]):
        lengths.note(answer(prompt, 5))

    assert (len(lengths), expected(lengths, [2]), expected(lengths, [1], [3])) == (2, None, [5, 5])


def test_what_was_saved_is_loaded_by_another_and_what_it_knows_stays(tmp_path: Path) -> None:
    lengths, other = memory(), memory(2)
    for prompt, length in (([1], 5), ([2], 7), ([3], 9)):
        lengths.note(answer(prompt, length))
    other.note(answer([3], 100))
    lengths.save(tmp_path / "lengths.json")

    other.load(tmp_path / "lengths.json")

    assert (expected(other, [1]), expected(other, [2], [3])) == (None, [7, 100])
    assert [path.name for path in tmp_path.iterdir()] == ["lengths.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2, "lengths": {}}', '{"format": 1, "lengths": []}',
     '{"format": 1, "lengths": {"x": [1.0, 1]}}',
     *('{"format": 1, "lengths": {"' + "0" * 32 + f'": {value}' + "}}"
       for value in ("1", "[1.0]", "[NaN, 1]", "[-1.0, 1]", "[1.0, 0]", "[1.0, 1.5]", '["1", 1]', "[true, 1]",
                     "[1e99, 1]", "[2147483647.7, 1]", "[2147483648, 1]", "[Infinity, 1]", "[[], 1]")),
     "[" * 100_000],
)  # fmt: skip
def test_a_file_that_was_not_saved_so_is_refused_and_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    lengths = memory()
    lengths.note(answer([1], 5))

    with pytest.raises(LengthsFileError, match="no file of lengths"):
        lengths.load(tmp_path / "f")
    assert expected(lengths, [1]) == [5]


def test_the_longest_mean_of_a_file_can_be_expected(tmp_path: Path) -> None:
    lengths = memory()
    lengths.note(answer([1], 5))
    lengths.save(tmp_path / "f")
    (tmp_path / "f").write_text((tmp_path / "f").read_text().replace("5.0", "2147483647.0"))

    loaded = memory()
    loaded.load(tmp_path / "f")
    assert expected(loaded, [1], [2]) == [2**31 - 1, 2**31 - 1]


def test_a_file_that_is_not_there_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LengthsFileError, match=r"nothing: No such file"):
        memory().load(tmp_path / "nothing")
    with pytest.raises(LengthsFileError, match=r"no/f: No such file"):
        memory().save(tmp_path / "no" / "f")


@pytest.mark.parametrize("most", [-1, 1.5, True, "9", 10**9])
def test_a_number_of_prompts_that_makes_no_sense_is_refused(most: Any) -> None:
    with pytest.raises(ArgumentError, match=r"remember_lengths .* give an integer from 0"):
        AsyncClient(policy="p", remember_lengths=most)


async def test_the_second_batch_of_the_same_prompts_is_queued_longest_first(
    server: Any, redis_url: str, policy: str
) -> None:
    config = GenerationConfig(max_new_tokens=64, num_return_sequences=2, seed=1)
    prompts = [[number] for number in range(5, 35)]
    worker = WorkerProcess(redis_url, policy, "--engine", "stub", "--stub-long-tail", "prompts").wait_until_serving()
    try:
        async with AsyncClient(redis_url, policy=policy, remember_lengths=100) as client:
            first = await client.submit(prompts, None, config, prompts_per_job=1)
            answers = await first.wait(60)
            second = await client.submit(prompts, None, config, prompts_per_job=1)
            await second.wait(60)
    finally:
        worker.end()

    lengths = [float(answers[group].lengths.numpy().mean()) for group in range(30)]  # type: ignore[union-attr]
    queued = entries(server, policy)
    assert [job.expected_tokens for _, job in queued[:30]] == [None] * 30
    assert [envelope.first_group for envelope, _ in queued[30:]] == sorted(
        range(30), key=lambda group: (-round(lengths[group]), group)
    )


def test_the_blocking_client_remembers_too(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy, remember_lengths=3) as client:
        assert repr(client.lengths) == "<PromptLengths 0/3 prompts>"
    with Client(redis_url, policy=policy) as client:
        assert client.lengths is None
