"""What steps through `HeldBack` as EngineCore does, with outputs as vLLM's."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from rollstream.worker.engines.vllm.inside.held_tokens import OWN_PIECE, HeldBack
from rollstream.worker.engines.vllm.inside.step_rows import Place, StepRows


class Rows(NamedTuple):
    """As vLLM's `LogprobsLists`."""

    logprob_token_ids: Any
    logprobs: Any
    sampled_token_ranks: Any
    cu_num_generated_tokens: Any = None


@dataclass
class Output:
    """As vLLM's `EngineCoreOutput`."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: Any = None
    finish_reason: str | None = None
    events: Any = None
    prefill_stats: Any = None


@dataclass
class Step:
    """As vLLM's `EngineCoreOutputs`."""

    outputs: list[Output]
    weight_version: str | None = None


@dataclass
class Engine:
    """Steps through `HeldBack` as EngineCore does, and reads what comes out as the frontend does."""

    held: HeldBack = field(default_factory=HeldBack)
    requests: dict[str, Any] = field(default_factory=dict)
    got: dict[str, list[tuple[str | None, list[int], list[float]]]] = field(default_factory=dict)

    def add(
        self,
        name: str,
        kind: str = "FINAL_ONLY",
        *,
        detokenize: bool = False,
        logprobs: int | None = 0,
        piece: int | None = None,
    ) -> None:
        params = SimpleNamespace(
            output_kind=SimpleNamespace(name=kind),
            detokenize=detokenize,
            num_logprobs=logprobs,
            extra_args=None if piece is None else {OWN_PIECE: piece},
        )
        self.requests[name] = SimpleNamespace(sampling_params=params, resumable=False)

    def step(self, *outputs: Output, version: str | None = None) -> None:
        for output in outputs:
            if output.finish_reason is not None:
                self.requests.pop(output.request_id, None)
        step, before = Step(list(outputs), version), self.held.version
        earlier = self.held.take(step, self.requests)
        for output in earlier:
            self._read(output, before)
        for output in step.outputs:
            self._read(output, version)

    def _read(self, output: Output, version: str | None) -> None:
        logprobs, rows = [], output.new_logprobs
        if rows is not None:
            logprobs = rows.logprobs[:, 0].tolist()
            assert rows.logprob_token_ids[:, 0].tolist() == rows.sampled_token_ranks.tolist() == output.new_token_ids
        self.got.setdefault(output.request_id, []).append((version, list(output.new_token_ids), logprobs))

    def tokens(self, name: str) -> list[int]:
        return [token for _, tokens, _ in self.got.get(name, []) for token in tokens]

    def logprobs(self, name: str) -> list[float]:
        return [logprob for _, _, logprobs in self.got.get(name, []) for logprob in logprobs]


def output(name: str, token: int, *, columns: int = 1, last: bool = False, logprobs: bool = True) -> Output:
    """The token's rank is its id; further columns are of other ids."""
    others = np.arange(columns)[None]
    rows = Rows(token + others, -token / 8 - others, np.array([token]))
    return Output(name, [token], placed(rows) if logprobs else None, "length" if last else None)


def placed(rows: Rows) -> Place:
    """The rows as EngineCore hands them out: those of the second request in a step of three."""
    around = [np.concatenate([one[:1], one, one[:1]]) for one in rows[:3]]
    return StepRows(rows=Rows(*around)).slice_request(1, len(rows.logprobs))


def wide(token: int, columns: int) -> Place:
    """One row of the ids from the token on, as int64, which one of vLLM's runners gives."""
    ids = np.arange(token, token + columns)[None]
    return placed(Rows(ids, -ids.astype(np.float32), np.array([1])))
