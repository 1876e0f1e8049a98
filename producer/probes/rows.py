"""The rows of a probe: texts of several kinds, and ids drawn from the whole vocabulary; or those that a user gives."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import ProbeError

_TEXTS = (
    "A river begins as a small stream in the hills. It gathers water from other streams on its way, grows wider and "
    "slower, and after some hundred kilometres reaches the sea. In spring, when the snow melts, it may carry ten times "
    "as much water as in autumn, and people who live near it have learned to build their houses on higher ground.",
    "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('no values')\n"
    "    total = 0.0\n    for value in values:\n        total += value\n    return total / len(values)\n\n\n"
    "assert mean([1.0, 2.0, 6.0]) == 3.0\nprint(f'{mean([0.5, 0.25]):.3f}')  # 0.375\n",
    "Question: A train leaves at 9:40 and arrives at 13:05. How long is the journey? Answer: From 9:40 to 13:00 there "
    "are 3 hours and 20 minutes; 5 more minutes make 3 h 25 min = 205 minutes. If x^2 - 5x + 6 = 0, then (x - 2)"
    "(x - 3) = 0, so that x = 2 or x = 3, and the sum of the roots is 5.",
    "Der Zug nach Basel fährt heute von Gleis 7. Le marché ouvre à huit heures, et il ferme à midi. El libro está "
    "sobre la mesa, junto a la ventana. 今天天气很好 我们去公园散步。 Сегодня идёт дождь. "
    '{"id": 17, "tags": ["a", "b"], "ok": true, "score": -0.5}',
)
_SEED = 20261130


def built_in_rows(tokenizer: Any, vocab_size: int, max_tokens: int, row_tokens: int) -> list[list[int]]:
    """Rows of at most `row_tokens` ids, `max_tokens` together: half of them of texts, half drawn at random.

    Random ids reach more of the embedding than texts do and, in a mixture of experts, more experts.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor of texts and images holds one
    rows = list(_filled(_tokenised(tokenizer), max_tokens // 2, row_tokens))
    special = set(getattr(tokenizer, "all_special_ids", ()))
    ordinary = [one for one in range(min(_size(tokenizer, vocab_size), vocab_size)) if one not in special]
    drawn = random.Random(_SEED)
    left = max_tokens - sum(map(len, rows))
    rows += _filled(([drawn.choice(ordinary) for _ in range(row_tokens)] for _ in range(left)), left, row_tokens)
    if not rows:
        raise ProbeError(f"max_tokens={max_tokens} and row_tokens={row_tokens} leave no row of two tokens: allow more")
    return rows


def given_rows(ids: Any, mask: Any) -> list[list[int]]:
    """Rows of a tensor, an array or lists, without the columns where `mask` is 0. Raises `ProbeError`."""
    try:
        rows = [_listed(row) for row in ids]
        masks = [[1] * len(row) for row in rows] if mask is None else [_listed(row) for row in mask]
        return [
            [one for one, kept in zip(row, marks, strict=True) if kept] for row, marks in zip(rows, masks, strict=True)
        ]
    except (TypeError, ValueError) as error:
        problem = f"give a tokenizer, or rows of ids and, if they are padded, a mask of the same shape ({error})"
        raise ProbeError(problem) from None


def _listed(row: Any) -> list[Any]:
    if isinstance(row, str | bytes):
        raise TypeError(f"not {type(row).__name__}")
    return list(row.tolist() if hasattr(row, "tolist") else row)


def _tokenised(tokenizer: Any) -> Iterator[list[int]]:
    for text in _TEXTS:
        try:
            yield [int(one) for one in tokenizer(text)["input_ids"]]
        except (TypeError, ValueError, KeyError) as error:
            problem = f"the {type(tokenizer).__name__} does not give a text's input_ids ({error}): give rows of ids"
            raise ProbeError(problem) from None


def _filled(rows: Iterator[list[int]] | Sequence[list[int]], most: int, row_tokens: int) -> Iterator[list[int]]:
    """Rows cut to `row_tokens`, until `most` tokens are used up; none has fewer than two."""
    for row in rows:
        kept = row[: min(row_tokens, most)]
        if len(kept) >= 2:
            most -= len(kept)
            yield kept


def _size(tokenizer: Any, vocab_size: int) -> int:
    try:
        return len(tokenizer)
    except TypeError:
        return vocab_size
