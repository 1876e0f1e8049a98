"""Log-probs over the sampling mask are those of a softmax of which all other logits were struck out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollstream import RowsError
from rollstream.producer.rollouts.support import SamplingSupport

VOCAB = 11


def support_of(kept: list[list[list[int]]]) -> SamplingSupport:
    flat = [token for row in kept for ids in row for token in ids]
    lengths = torch.tensor([[len(ids) for ids in row] for row in kept], dtype=torch.long)
    return SamplingSupport(ids=torch.tensor(flat, dtype=torch.int32), lengths=lengths)


def plain(kept: list[list[list[int]]], logits: torch.Tensor) -> torch.Tensor:
    """Position by position, with a mask over the vocabulary."""
    out = torch.zeros(logits.shape)
    for row, columns in enumerate(kept):
        for column, ids in enumerate(columns):
            if ids:
                struck = torch.full((logits.shape[2],), -math.inf)
                struck[ids] = logits[row, column, ids].float()
                out[row, column] = struck.log_softmax(-1)
    return out


@st.composite
def masks(draw: st.DrawFn) -> list[list[list[int]]]:
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(0, 4))
    ids = st.lists(st.integers(0, VOCAB - 1), unique=True, max_size=VOCAB)
    return [[draw(ids) for _ in range(columns)] for _ in range(rows)]


@settings(max_examples=20, deadline=None)
@given(masks(), st.sampled_from([0.5, 1.0, 1.7]), st.integers(0, 2**16))
def test_log_probs_are_those_of_a_plain_computation(kept: list[list[list[int]]], temperature: float, seed: int) -> None:
    support = support_of(kept)
    logits = torch.randn((*support.lengths.shape, VOCAB), generator=torch.Generator().manual_seed(seed)) * 5
    expected = plain(kept, logits / temperature)
    tokens = torch.tensor([[ids[0] if ids else 3 for ids in row] for row in kept], dtype=torch.long)
    torch.testing.assert_close(support.log_softmax(logits, temperature=temperature), expected)
    torch.testing.assert_close(
        support.log_probs(logits, tokens, temperature=temperature), expected.gather(-1, tokens[..., None])[..., 0]
    )


def test_gradients_are_those_of_a_plain_computation() -> None:
    kept = [[[1, 4, 7], [2]], [[0, 3], []]]
    tokens = torch.tensor([[4, 2], [3, 5]])
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    ours, theirs = (torch.linspace(-3, 3, 2 * 2 * VOCAB).view(2, 2, VOCAB).requires_grad_() for _ in range(2))
    (support_of(kept).log_probs(ours, tokens) * weights).sum().backward()  # type: ignore[no-untyped-call] # torch's own
    (plain(kept, theirs).gather(-1, tokens[..., None])[..., 0] * weights).sum().backward()  # type: ignore[no-untyped-call] # torch's own
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad[0, 0].count_nonzero() == 3
    dense = ours.detach().requires_grad_()
    support_of(kept).log_softmax(dense).gather(-1, tokens[..., None])[..., 0].mul(weights).sum().backward()  # type: ignore[no-untyped-call] # torch's own
    assert dense.grad is not None
    torch.testing.assert_close(dense.grad, theirs.grad)


def test_an_id_that_was_not_kept_is_impossible_and_has_no_gradient() -> None:
    logits = torch.zeros(1, 1, VOCAB, requires_grad=True)
    log_probs = support_of([[[1, 2]]]).log_probs(logits, torch.tensor([[3]]))
    assert log_probs.tolist() == [[-math.inf]]
    log_probs.sum().backward()  # type: ignore[no-untyped-call] # torch's own
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


def test_half_precision_logits_are_normalised_in_float32() -> None:
    logits = torch.linspace(-8, 8, VOCAB).bfloat16().view(1, 1, VOCAB)
    log_probs = support_of([[[8, 9, 10]]]).log_probs(logits, torch.tensor([[9]]))
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs[0, 0], plain([[[8, 9, 10]]], logits)[0, 0, 9])


def test_logits_that_are_a_view_are_taken() -> None:
    logits = torch.randn(2, 4, VOCAB)
    kept = [[[1, 2], [3]], [[4, 5, 6], [0]]]
    tokens = torch.tensor([[2, 3], [5, 0]])
    expected = support_of(kept).log_probs(logits[:, 1:3].clone(), tokens)
    torch.testing.assert_close(support_of(kept).log_probs(logits[:, 1:3], tokens), expected)


def test_rows_are_taken_in_any_order() -> None:
    kept = [[[1, 2], [3]], [[4], []], [[5, 6, 7], [8]]]
    support = support_of(kept)
    for picked in (support.take(torch.tensor([2, 0])), support.take(torch.tensor([True, False, True])).take(
        torch.tensor([1, 0])
    )):  # fmt: skip
        assert picked.ids.tolist() == [5, 6, 7, 8, 1, 2, 3]
        assert picked.lengths.tolist() == [[3, 1], [2, 1]]
    given: list[tuple[Any, list[int]]] = [
        ([2, 0], [2, 0]), ([-1, 0], [2, 0]), (np.array([2, 0], np.uint8), [2, 0]), ([], []),
        ([True, False, True], [0, 2]), (slice(1, None), [1, 2]), (slice(None, None, -1), [2, 1, 0]),
    ]  # fmt: skip
    for rows, numbers in given:
        assert support.take(rows).lengths.tolist() == support.lengths[numbers].tolist()
        assert support.take(rows).ids.tolist() == [token for row in numbers for ids in kept[row] for token in ids]
    joined = SamplingSupport.cat([support, support_of([[[9]]])])
    assert joined.lengths.tolist() == [[2, 1], [1, 0], [3, 1], [1, 0]]
    assert joined.of(3, 0) == [9]
    assert repr(joined) == "<SamplingSupport (4, 2): 9 ids>"


@pytest.mark.parametrize("rows", [None, "all", [3], [-4], [0.5], [True], [[0]], 1, [None]], ids=repr)
def test_rows_that_are_not_there_are_refused(rows: Any) -> None:
    with pytest.raises(RowsError, match=r"rows: .*(give numbers|expected numbers|there are 3)"):
        support_of([[[1]], [[2]], [[3]]]).take(rows)


@pytest.mark.parametrize(
    ("logits", "tokens", "temperature", "said"),
    [
        (torch.zeros(1, 3, VOCAB), torch.zeros(1, 2, dtype=torch.long), 1.0, r"logits: expected \(1, 2\)"),
        (torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.long), 1.0, r"logits: expected \(1, 2\)"),
        (torch.zeros(1, 2, VOCAB), torch.zeros(1, 3, dtype=torch.long), 1.0, r"token_ids: expected \(1, 2\)"),
        (torch.zeros(1, 2, 5), torch.zeros(1, 2, dtype=torch.long), 1.0, "has 5 ids, and 1 to 9 were sampled from"),
        (torch.zeros(1, 2, VOCAB), torch.zeros(1, 2, dtype=torch.long), 0.0, "temperature: must be above 0"),
    ],
    ids=["columns", "no vocabulary", "tokens", "small vocabulary", "temperature 0"],
)
def test_what_does_not_fit_is_refused(
    logits: torch.Tensor, tokens: torch.Tensor, temperature: float, said: str
) -> None:
    with pytest.raises(RowsError, match=said):
        support_of([[[1], [9]]]).log_probs(logits, tokens, temperature=temperature)


@pytest.mark.parametrize("pad", [-100, VOCAB, 2**40])
def test_a_pad_id_may_be_any_number(pad: int) -> None:
    kept: list[list[list[int]]] = [[[1, 2], []]]
    logits = torch.randn(1, 2, VOCAB)
    padded, zeros = (support_of(kept).log_probs(logits, torch.tensor([[2, token]])) for token in (pad, 0))
    assert torch.equal(padded, zeros)
    assert padded[0, 1] == 0


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    with pytest.raises(RowsError, match=rf"token_ids: from .*{token}.*, and the logits have {VOCAB} ids"):
        support_of([[[1], [2]]]).log_probs(torch.zeros(1, 2, VOCAB), torch.tensor([[1, token]]))
