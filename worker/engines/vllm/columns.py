"""The log-probs that come with a completion's tokens: the sampled one's own, and those of other ids. Pure.

One row for each token. Column 0 is the sampled token; the others are the likeliest ids, or the config's labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.schemas.generation.generation_config import MAX_CANDIDATES, MAX_SUPPORT_TIES

from ...engine import EngineInfo
from ...errors import DataError

NOTHING_LEFT = (
    "nothing was left to sample from: the logits, or a sampled token's log-prob, are not finite. The weights are bad, "
    "or leave the range of the worker's --dtype, or the config forbids every token"
)
GUIDE_LEFT_NOTHING = (
    "nothing was left to sample from: `guided` and the other options rule out every token at some place of the text, "
    "as a stop id that the text needs, allowed_token_ids, or min_new_tokens beyond its end; or the weights are bad"
)
_WHOLE = 1e-3
"""How far the probabilities of all ids that were left may be from 1 together."""


@dataclass(slots=True, kw_only=True)
class Rows:
    """The rows of one completion as they come, in the place of vLLM's `FlatLogprobs`, which has an object a number."""

    columns: int
    ids: list[NDArray[np.int32]] = field(default_factory=list)
    values: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, rows: Any) -> float:
        """Append a `LogprobsLists`, which may have columns for other requests; returns the sum of column 0."""
        self.ids.append(rows.logprob_token_ids[:, : self.columns])
        self.values.append(rows.logprobs[:, : self.columns])
        return float(rows.logprobs[:, 0].sum())

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """One row after the other; fewer than `columns` of each, which `read` refuses, if vLLM gave fewer."""
        return _joined(self.ids, np.int32)

    @property
    def logprobs(self) -> NDArray[np.float32]:
        """The log-probs of `token_ids`."""
        return _joined(self.values, np.float32)

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.ids)


def _joined(rows: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    """All numbers in order, also of rows of different widths."""
    return np.concatenate([one.reshape(-1) for one in rows], dtype=dtype) if rows else np.zeros(0, dtype)


def nothing_left(config: GenerationConfig | None) -> DataError:
    """The error of a request for which nothing was left to sample from; `config` is None for a step of beam search."""
    if config is None or config.guided is None:
        return DataError(ErrorCode.ENGINE_REFUSED, "config", NOTHING_LEFT)
    return DataError(ErrorCode.ENGINE_REFUSED, "guided", GUIDE_LEFT_NOTHING)


def likeliest_columns(config: GenerationConfig, info: EngineInfo | None = None) -> int:
    """How many of the likeliest ids each token needs; vLLM must not be asked for more than there are.

    For the sampling support some more than `top_k`: all ids that are as likely as the last of these are kept too.
    """
    wanted = config.top_logprobs
    if config.sampling_support:
        wanted = max(wanted, config.top_k + MAX_SUPPORT_TIES)
    return wanted if info is None else min(wanted, info.max_logprobs, info.vocab_size)


def read(
    flat: Any, token_ids: NDArray[np.int32], config: GenerationConfig, info: EngineInfo | None = None
) -> dict[str, NDArray[Any]]:
    """The fields of a `Completion` that hold log-probs, of `Rows` or of vLLM's `FlatLogprobs`.

    Raises `DataError` for numbers that cannot be true, and for a support that is not known exactly.
    """
    more = len(config.label_token_ids) or likeliest_columns(config, info)
    values = _shaped(flat.logprobs, np.float32, len(token_ids), 1 + more)
    if not np.isfinite(values[:, 0]).all() or not (values < np.inf).all():
        raise nothing_left(config)
    found: dict[str, NDArray[Any]] = {} if config.logprobs is None else {"logprobs": values[:, 0].copy()}
    if not more:
        return found
    ids = _shaped(flat.token_ids, np.int32, len(token_ids), 1 + more)
    if (ids[:, 0] != token_ids).any():
        raise _refused("label_token_ids" if config.label_token_ids else "top_logprobs", "those of other tokens")
    if config.label_token_ids:
        return found | {"label_logprobs": _labels(ids[:, 1:], values[:, 1:], config)}
    return found | _likeliest(ids[:, 1:], values[:, 1:], token_ids, config, info)


def _shaped(numbers: Any, dtype: type[np.generic], rows: int, columns: int) -> NDArray[Any]:
    array = np.asarray(numbers, dtype)
    if array.size != rows * columns:
        raise _refused("logprobs", f"{array.size} log-probs for {rows} tokens with {columns} each")
    return array.reshape(rows, columns)


def _labels(ids: NDArray[np.int32], values: NDArray[np.float32], config: GenerationConfig) -> NDArray[np.float32]:
    if (ids != np.array(config.label_token_ids, np.int32)).any():
        raise _refused("label_token_ids", "log-probs of other ids")
    return values.copy()


def _likeliest(
    ids: NDArray[np.int32],
    values: NDArray[np.float32],
    token_ids: NDArray[np.int32],
    config: GenerationConfig,
    info: EngineInfo | None,
) -> dict[str, NDArray[Any]]:
    ids, values = likeliest_first(ids, values)
    found: dict[str, NDArray[Any]] = {}
    if k := config.top_logprobs:
        found |= {"top_token_ids": ids[:, :k].copy(), "top_logprobs": values[:, :k].copy()}
    if config.sampling_support:
        everything = info is not None and ids.shape[1] >= info.vocab_size
        kept, lengths = _support(ids, values, token_ids, everything=everything)
        found |= {"support_ids": kept, "support_lengths": lengths}
    return found


def likeliest_first(
    ids: NDArray[np.int32], values: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Each row by its log-probs, and by id where these are the same; vLLM leaves open how it orders those."""
    tied = ~(values[:, 1:] < values[:, :-1]).all(axis=1)
    if not tied.any():
        return ids, values
    ids, values = ids.copy(), values.copy()
    order = np.lexsort((ids[tied], -values[tied]), axis=-1)
    ids[tied] = np.take_along_axis(ids[tied], order, axis=-1)
    values[tied] = np.take_along_axis(values[tied], order, axis=-1)
    return ids, values


def _support(
    ids: NDArray[np.int32], values: NDArray[np.float32], token_ids: NDArray[np.int32], *, everything: bool
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The ids that were left, position by position, and how many. What was ruled out has minus infinity.

    `everything`: there are columns for the whole vocabulary.
    """
    left = np.isfinite(values)
    lengths = left.sum(axis=1, dtype=np.int32)
    if (left[:, -1].any() and not everything) or lengths.max(initial=0) > MAX_CANDIDATES + MAX_SUPPORT_TIES:
        raise _inexact("more ids are as likely as the last of top_k than the worker sees: use another top_k")
    whole = np.exp(values, dtype=np.float64).sum(axis=1)
    if (np.abs(whole - 1) > _WHOLE).any():
        raise _inexact("the probabilities of the ids that were left do not add up to 1")
    if not ((ids == token_ids[:, None]) & left).any(axis=1).all():
        raise _inexact("a sampled token is not among the ids that were left")
    return ids[left], lengths


def _inexact(problem: str) -> DataError:
    return DataError(ErrorCode.ENGINE_REFUSED, "sampling_support", f"sampling_support is not exact here: {problem}")


def _refused(name: str, what: str) -> DataError:
    return DataError(ErrorCode.ENGINE_REFUSED, name, f"{name}: vLLM gave {what}")
