"""A batch's rows in the layouts of ROLL and verl: with their keys, shapes and dtypes, but masks made from lengths.

R rows, P = `prompt_len`, L = `response_len`, S = P + L. Written against ROLL's `postprocess_generate`
(roll/utils/functionals.py) and verl's agent loop (verl/experimental/agent_loop/agent_loop.py, `_postprocess`) of
early 2026. A trainer that wants fixed widths asks for `pad_to_max_new_tokens=True`: L is then `max_new_tokens`, which
is ROLL's `pad_to_seq_len` with a sequence length of P + `max_new_tokens` and verl's `response_length`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class Rows(Protocol):
    """The fields from which a layout is made; `RolloutBatch` has them and explains them."""

    @property
    def prompt_len(self) -> int:
        """P"""

    @property
    def pad_token_id(self) -> int:
        """The id in columns without a token."""

    @property
    def sequences(self) -> torch.Tensor:
        """int64 (R, S)"""

    @property
    def attention_mask(self) -> torch.Tensor:
        """int64 (R, S)"""

    @property
    def position_ids(self) -> torch.Tensor:
        """int64 (R, S)"""

    @property
    def response_mask(self) -> torch.Tensor:
        """int64 (R, S)"""

    @property
    def prompt_lengths(self) -> torch.Tensor:
        """int64 (R,)"""

    @property
    def response_lengths(self) -> torch.Tensor:
        """int64 (R,)"""

    @property
    def old_log_probs(self) -> torch.Tensor | None:
        """float32 (R, L)"""


def roll(batch: Rows) -> dict[str, torch.Tensor]:
    """The tensors that ROLL's `postprocess_generate` puts into its `DataProto`; `infer_logprobs` only with log-probs.

    | key | shape | dtype | |
    | --- | --- | --- | --- |
    | `prompts` | (R, P) | int64 | left-padded |
    | `responses` | (R, L) | int64 | right-padded |
    | `input_ids` | (R, S) | int64 | prompt and response from column 0, padding only on the right |
    | `attention_mask` | (R, S) | int64 | 1 for the first prompt + response length columns |
    | `position_ids` | (R, S) | int64 | `clip(cumsum(attention_mask) - 1, 0)` |
    | `prompt_mask` | (R, S) | bool | |
    | `response_mask` | (R, S) | int64 | 0 where a token was put there and not sampled |
    | `infer_logprobs` | (R, S - 1) | float32 | column t - 1 is of the token in column t; 0 elsewhere |

    A ROLL rollout has no key `old_log_probs`. ROLL's pipeline computes it with the training engine, aligned like
    `infer_logprobs`, and corrects for the difference between the two (`train_infer_correction`). A trainer without such
    a pass may use `infer_logprobs` instead.

    Unlike ROLL's, columns past a row's last token always hold the pad id, and a failed row is kept with its response
    empty (ROLL asserts on a row without any token): select by `RolloutBatch.errors` before training.
    """
    import torch  # noqa: PLC0415 - `import rollstream` imports no torch

    columns = torch.arange(batch.sequences.shape[1], device=batch.sequences.device)
    start = batch.prompt_lengths[:, None]
    end = start + batch.response_lengths[:, None]
    attention_mask = (columns < end).long()
    source = (columns + (batch.prompt_len - start)).clamp(max=max(len(columns) - 1, 0))
    response_mask = batch.response_mask.gather(1, source) * ((columns >= start) & (columns < end))
    moved = batch.sequences.gather(1, source)
    rows = {
        "prompts": batch.sequences[:, : batch.prompt_len].clone(),
        "responses": batch.sequences[:, batch.prompt_len :].clone(),
        "input_ids": moved.where(attention_mask.bool(), batch.pad_token_id),
        "attention_mask": attention_mask,
        "position_ids": columns.minimum((end - 1).clip(min=0)),
        "prompt_mask": columns < start,
        "response_mask": response_mask,
    }
    if batch.old_log_probs is not None:
        rows["infer_logprobs"] = _shifted(batch.old_log_probs, response_mask[:, 1:], start)
    return rows


def _shifted(log_probs: torch.Tensor, sampled: torch.Tensor, prompt_lengths: torch.Tensor) -> torch.Tensor:
    """(R, L) by response column to (R, S - 1) by the column before the token, 0 where `sampled` is 0."""
    import torch  # noqa: PLC0415 - as above

    if log_probs.shape[1] == 0:
        return torch.zeros(sampled.shape, dtype=torch.float32, device=sampled.device)
    source = torch.arange(1, sampled.shape[1] + 1, device=sampled.device) - prompt_lengths
    return log_probs.gather(1, source.clamp(0, log_probs.shape[1] - 1)).where(sampled.bool(), 0.0)


def verl(batch: Rows) -> dict[str, torch.Tensor]:
    """The tensors that verl's agent loop puts into its `DataProto`, for one turn of text.

    | key | shape | dtype | |
    | --- | --- | --- | --- |
    | `prompts` | (R, P) | int64 | left-padded |
    | `responses` | (R, L) | int64 | right-padded |
    | `response_mask` | (R, L) | int64 | over the response only; 0 in the padding and where a token was put there |
    | `input_ids` | (R, S) | int64 | `prompts` and `responses` side by side |
    | `attention_mask` | (R, S) | int64 | |
    | `position_ids` | (R, S) | int64 | `clip(cumsum(attention_mask) - 1, 0)` |
    | `rollout_log_probs` | (R, L) | float32 | of `responses`, 0.0 in the padding |

    Without log-probs there is no `rollout_log_probs`. verl computes `old_log_probs` itself, or copies
    `rollout_log_probs` to it in its bypass mode.
    """
    rows = {
        "prompts": batch.sequences[:, : batch.prompt_len].clone(),
        "responses": batch.sequences[:, batch.prompt_len :].clone(),
        "response_mask": batch.response_mask[:, batch.prompt_len :].clone(),
        "input_ids": batch.sequences.clone(),
        "attention_mask": batch.attention_mask.clone(),
        "position_ids": batch.position_ids.clone(),
    }
    if batch.old_log_probs is not None:
        rows["rollout_log_probs"] = batch.old_log_probs.clone()
    return rows
