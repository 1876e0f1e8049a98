"""Let a completion leave EngineCore in pieces of many tokens, where vLLM would send each token. Imports no vLLM.

Python encodes, decodes and handles each message, and a small model's chip waits for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .routing import ROUTED
from .step_rows import Place, joined

PIECE = 32
"""Tokens of a piece; the last piece of a completion has the rest."""
OWN_PIECE = "rollstream_piece"
"""The name in a request's `extra_args` for pieces of its own, of fewer tokens."""

_ALL = -1
"""`num_logprobs` of a request for the log-probs of the whole vocabulary."""
_RARE = (
    "new_prompt_logprobs_tensors", "prompt_token_id_logprobs", "pooling_output", "events", "new_sampling_mask",
)  # fmt: skip
"""Fields that an output may have beside its tokens, which we never ask for. Some are arrays without a truth value."""
_JOINED = ("request_id", "new_token_ids", "new_logprobs", "finish_reason", "prefill_stats")
"""Fields that every vLLM has, and that a piece combines from all its outputs."""
_OF_THE_LAST = (
    "stop_reason", "kv_transfer_params", "ec_transfer_params", "trace_headers", "num_nans_in_logits",
    "mm_cache_miss_hashes", "spec_decode_metrics",
)  # fmt: skip
"""Fields that only the last output of a request has, or that are the same in all: a piece takes its last output's."""
_ROUTING = ("routed_experts",)
"""Rows of the tokens that a step computed: a piece joins those of its outputs. Not every vLLM has it."""
_ROWS = ("logprob_token_ids", "logprobs", "sampled_token_ranks", "cu_num_generated_tokens")
_TENSORS = ("logprob_token_ids", "logprobs", "selected_token_ranks", "cu_num_generated_tokens")
_RARE_TENSORS = ("cu_num_generated_tokens_tensor",)
"""Says where requests part, as the field before it, in tensors that hold several; those of a prompt hold one."""


def unfit_output(output: Iterable[str], rows: Iterable[str]) -> list[str]:
    """Fields of vLLM's `EngineCoreOutput` and `LogprobsLists` that `HeldBack` does not know; none in 0.26 and 0.32.

    An unknown field may hold a part of the answer, which would be lost.
    """
    found = set(output)
    return sorted(_unfit(found.difference(_RARE, _OF_THE_LAST, _ROUTING), _JOINED) | _unfit(rows, _ROWS))


def unfit_rows(rows: Iterable[str]) -> list[str]:
    """The same for `columns.Rows`, with the fields of `LogprobsLists`."""
    return sorted(_unfit(rows, _ROWS))


def unfit_tensors(tensors: Iterable[str]) -> list[str]:
    """The same for the log-probs of a prompt, with the fields of `LogprobsTensors`."""
    return sorted(_unfit(set(tensors).difference(_RARE_TENSORS), _TENSORS))


def _unfit(found: Iterable[str], known: Iterable[str]) -> set[str]:
    return set(found) ^ set(known)


@dataclass(slots=True, kw_only=True)
class _Part:
    """The outputs of one request since its last piece. `add` alone changes it, until it leaves as one output.

    Of one column it keeps numbers: so small arrays are slower to keep and to join.
    """

    first: Any
    most: int
    """With so many tokens it leaves."""
    columns: int
    """How many the request asked for: the sampled token's, and those of others."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    """For several columns: where each step has them."""
    events: list[Any] = field(default_factory=list)
    is_routed: bool = False
    """Whether it asked for routing."""
    routing: list[NDArray[Any]] = field(default_factory=list)

    def add(self, output: Any) -> None:
        """Add an output; columns beyond the request's own are for other requests of the step."""
        self.token_ids += output.new_token_ids
        if self.is_routed and output.routed_experts is not None:
            self.routing.append(output.routed_experts.copy())  # of an array with the whole step's
        place: Place | None = output.new_logprobs
        if place is None:
            return
        if self.columns > 1:
            self.ranks += place.ranks
            self.places.append(place)
        elif len(output.new_token_ids) == 1:  # as almost always: this is what log-probs cost each step
            self.ranks.append(place.step.ranks[place.begin])
            self.logprobs.append(place.step.logprobs[place.begin])
        else:
            self.ranks += place.ranks
            self.logprobs += place.logprobs

    def joined(self, output: Any) -> Any:
        """`output`, one of the outputs, with the tokens and log-probs of all."""
        output.new_token_ids = self.token_ids
        if not self.ranks:  # nothing but an end without a token
            output.new_logprobs = None
        else:
            ranks = np.array(self.ranks, np.int32)
            output.new_logprobs = type(self.first.new_logprobs.step.rows)(*self._arrays(), ranks, None)
        output.prefill_stats = output.prefill_stats or self.first.prefill_stats
        output.events = self.events or output.events
        if self.is_routed:
            output.routed_experts = np.concatenate(self.routing) if self.routing else None
        else:
            _drop_routing(output)
        return output

    def _arrays(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Ids and log-probs, each (tokens, columns)."""
        if self.columns == 1:
            return np.array(self.token_ids, np.int32)[:, None], np.array(self.logprobs, np.float32)[:, None]
        # A step with fewer columns than were asked for may not end the engine: the worker refuses such an answer.
        return joined(self.places, min(self.columns, *(place.columns for place in self.places)))


@dataclass(slots=True, kw_only=True)
class HeldBack:
    """Tokens held back, with all log-probs: of requests that want only the end (FINAL_ONLY) and no text.

    Outputs come with a `Place` in their step's log-probs (`step_rows`), and leave with vLLM's `LogprobsLists`.
    No two requests of an engine may have the same id, or the second would get what an aborted first one left here. vLLM
    ensures that unless it is told not to; see `worker.engines.vllm.setup`.
    """

    version: str | None = None
    """Weight version of the last step, if vLLM names it (0.32 and later)."""
    parts: dict[str, _Part] = field(default_factory=dict)
    events: bool = False
    """Whether outputs may tell events, such as that a request was put back to wait: only if statistics are on.

    Those of a request's first output send it at once, so that the time to its first token is known.
    """

    def take(self, step: Any, requests: Mapping[str, Any]) -> list[Any]:
        """Leave in `step` (an `EngineCoreOutputs`) only what is to be sent now; returns outputs to be sent before it.

        `requests`: those that the scheduler knows, by id. When the weight version changes, all held tokens are sent
        first, because vLLM counts the tokens of a version by the message that brings them.
        """
        version = getattr(step, "weight_version", None)
        earlier = [] if version == self.version else self.hand_over()
        self.version = version
        if self.events:
            self._keep_events(step.outputs)
        step.outputs = [output for output in step.outputs if not self._held(output, requests)]
        if len(self.parts) > len(requests):  # an aborted one has no last output
            self.parts = {name: part for name, part in self.parts.items() if name in requests}
        return earlier

    def hand_over(self) -> list[Any]:
        """All held outputs, those of aborted requests too, which vLLM's frontend ignores."""
        parts, self.parts = self.parts, {}
        return [part.joined(part.first) for part in parts.values()]

    def _held(self, output: Any, requests: Mapping[str, Any]) -> bool:
        part = self.parts.get(output.request_id)
        if part is None:
            if (request := requests.get(output.request_id)) is not None and not _wants_routing(request):
                _drop_routing(output)
            if output.finish_reason is None and self._begin(output, request):
                return True
            if output.new_logprobs is not None:
                output.new_logprobs = output.new_logprobs.alone()
            return False
        part.add(output)
        if output.finish_reason is None and len(part.token_ids) < part.most:
            return True
        self.parts.pop(output.request_id).joined(output)
        return False

    def _keep_events(self, outputs: Iterable[Any]) -> None:
        """Keep the events of outputs that will be held: a piece has only its last output's own."""
        for output in outputs:
            if output.events is not None and (part := self.parts.get(output.request_id)) is not None:
                part.events += output.events

    def _begin(self, output: Any, request: Any) -> bool:
        params = None if request is None else request.sampling_params
        if params is None or params.output_kind.name != "FINAL_ONLY" or params.detokenize or request.resumable:
            return False
        if params.num_logprobs == _ALL or any(getattr(output, name, None) is not None for name in _RARE):
            return False
        most = min(PIECE, (params.extra_args or {}).get(OWN_PIECE, PIECE))
        if most <= len(output.new_token_ids):
            return False
        columns = 1 + (params.num_logprobs or 0)
        part = self.parts[output.request_id] = _Part(
            first=output, most=most, columns=columns, is_routed=_wants_routing(request)
        )
        part.add(output)
        return True


def _wants_routing(request: Any) -> bool:
    params = request.sampling_params
    told: Any = getattr(params, "extra_args", None)
    return bool(told) and ROUTED in told


def _drop_routing(output: Any) -> None:
    """Routing that nobody asked for; vLLM sends that of all requests once it is on."""
    if getattr(output, "routed_experts", None) is not None:
        output.routed_experts = None
