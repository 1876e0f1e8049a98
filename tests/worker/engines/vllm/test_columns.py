"""Log-probs of other ids become candidates, labels and supports only where they are exact. Without vLLM."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.engine import EngineInfo
from rollstream.worker.engines.vllm.columns import Rows, likeliest_columns, read
from rollstream.worker.errors import DataError

INF = float("inf")
INFO = EngineInfo(
    vocab_size=512, max_model_len=64, max_num_seqs=4, eos_token_ids=(2,), max_logprobs=144,
    step_tokens=8192, logprobs_flavour="processed", has_tokenizer=False, dtype="float32",
)  # fmt: skip
TOKENS = np.array([5], np.int32)


def config(**fields: Any) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=4, **fields)


def flat(*rows: list[tuple[int, float]]) -> SimpleNamespace:
    """As vLLM's `FlatLogprobs`: the sampled token first."""
    pairs = [pair for row in rows for pair in row]
    return SimpleNamespace(token_ids=[token for token, _ in pairs], logprobs=[logprob for _, logprob in pairs])


def supported(probabilities: list[float], sampled: int = 0, top_k: int = 2) -> Any:
    """What is read of one token whose likeliest ids are 0, 1 and so on; the others were ruled out."""
    asked = config(sampling_support=True, top_k=top_k)
    columns = likeliest_columns(asked, INFO)
    with np.errstate(divide="ignore"):
        logprobs = np.log(np.array([*probabilities, *[0.0] * (columns - len(probabilities))]))
    row = [(sampled, float(logprobs[sampled])), *enumerate(logprobs.tolist())]
    return read(flat(row), np.array([sampled], np.int32), asked, INFO)


def test_rows_are_joined_and_keep_only_their_own_columns() -> None:
    def rows(ids: list[list[int]]) -> SimpleNamespace:
        array: NDArray[np.int64] = np.array(ids)
        return SimpleNamespace(logprob_token_ids=array, logprobs=-array.astype(np.float32))

    joined = Rows(columns=2)
    sums = joined.add(rows([[1, 2, 3], [4, 5, 6]])), joined.add(rows([[7, 8]]))

    assert (joined.token_ids.tolist(), joined.logprobs.tolist()) == ([1, 2, 4, 5, 7, 8], [-1, -2, -4, -5, -7, -8])
    assert joined.token_ids.dtype == np.int32
    assert (sums, len(joined)) == ((-5.0, -7.0), 3)
    assert Rows(columns=2).token_ids.shape == Rows(columns=2).logprobs.shape == (0,)


def test_an_answer_with_too_few_columns_at_one_token_is_refused() -> None:
    joined = Rows(columns=3)
    for width in (3, 2):
        ids: NDArray[np.int32] = np.arange(width, dtype=np.int32)[None]
        joined.add(SimpleNamespace(logprob_token_ids=ids, logprobs=-1.0 - ids))

    with pytest.raises(DataError, match="5 log-probs for 2 tokens with 3 each"):
        read(joined, np.zeros(2, np.int32), config(top_logprobs=2), INFO)


def test_the_likeliest_are_ordered_and_the_lesser_id_goes_first_where_they_tie() -> None:
    given = flat([(5, -3.0), (9, -1.0), (4, -2.0), (3, -2.0), (8, -INF), (7, -INF)])

    found = read(given, TOKENS, config(top_logprobs=5), INFO)

    assert found["logprobs"].tolist() == [-3.0]
    assert found["top_token_ids"].tolist() == [[9, 3, 4, 7, 8]]
    assert found["top_logprobs"].tolist() == [[-1.0, -2.0, -2.0, -INF, -INF]]


@pytest.mark.parametrize(
    "row",
    [[(5, float("nan")), (5, -1.0)], [(5, -INF), (5, -1.0)], [(5, -1.0), (5, float("nan"))], [(5, -1.0), (6, INF)]],
)
def test_numbers_that_are_no_log_probs_are_refused(row: list[tuple[int, float]]) -> None:
    with pytest.raises(DataError, match="not finite"):
        read(flat(row), TOKENS, config(top_logprobs=1), INFO)


@pytest.mark.parametrize(
    ("row", "said"),
    [([(5, -1.0)], "1 log-probs for 1 tokens with 3"), ([(6, -1.0), (5, -1.0), (4, -2.0)], "of other tokens")],
)
def test_columns_that_are_missing_or_of_another_token_are_refused(row: list[tuple[int, float]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(flat(row), TOKENS, config(top_logprobs=2), INFO)


def test_labels_keep_the_configs_order_and_may_be_ruled_out() -> None:
    found = read(flat([(5, -1.0), (9, -INF), (4, -2.0)]), TOKENS, config(label_token_ids=(9, 4)), INFO)

    assert found["label_logprobs"].tolist() == [[-INF, -2.0]]
    with pytest.raises(DataError, match="label_token_ids: vLLM gave log-probs of other ids"):
        read(flat([(5, -1.0), (0, -INF), (4, -2.0)]), TOKENS, config(label_token_ids=(9, 4)), INFO)


def test_the_support_is_what_was_not_ruled_out() -> None:
    found = supported([0.7, 0.3])

    assert (found["support_ids"].tolist(), found["support_lengths"].tolist()) == ([0, 1], [2])
    assert "top_token_ids" not in found


def test_ids_that_tie_with_the_last_of_top_k_belong_to_the_support() -> None:
    found = supported([0.4, 0.3, 0.3], sampled=2)

    assert (found["support_ids"].tolist(), found["support_lengths"].tolist()) == ([0, 1, 2], [3])


@pytest.mark.parametrize(
    ("probabilities", "sampled", "said"),
    [([1 / 18] * 18, 0, "use another top_k"), ([0.5, 0.3], 0, "do not add up to 1")],
)
def test_a_support_that_is_not_known_exactly_is_refused(probabilities: list[float], sampled: int, said: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        supported(probabilities, sampled)

    assert (refused.value.code, refused.value.field) == (ErrorCode.ENGINE_REFUSED, "sampling_support")


def test_a_sampled_token_outside_its_support_is_refused() -> None:
    asked = config(sampling_support=True, top_k=1)
    row = [(5, -0.1), (6, 0.0), *[(token, -INF) for token in range(10, 26)]]

    with pytest.raises(DataError, match="not among the ids that were left"):
        read(flat(row), TOKENS, asked, INFO)


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        ({}, 0),
        ({"top_logprobs": 128}, 128),
        ({"sampling_support": True, "top_k": 128}, 144),
        ({"sampling_support": True, "top_k": 4, "top_logprobs": 64}, 64),
    ],
)
def test_no_more_columns_are_asked_for_than_there_are_ids(fields: dict[str, Any], columns: int) -> None:
    asked = config(**fields)
    few = replace(INFO, vocab_size=16)

    assert (likeliest_columns(asked, INFO), likeliest_columns(asked, few)) == (columns, min(columns, 16))


def test_a_support_of_the_whole_vocabulary_is_known() -> None:
    asked = config(sampling_support=True, top_k=4)
    few = replace(INFO, vocab_size=4)
    row = [(2, np.log(0.25)), *[(token, np.log(0.25)) for token in (3, 1, 2, 0)]]

    found = read(flat(row), np.array([2], np.int32), asked, few)

    assert found["support_ids"].tolist() == [0, 1, 2, 3]
