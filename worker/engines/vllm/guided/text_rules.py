"""Options on what a completion's text may be, for vLLM and back: guides, thinking budgets, repetition.

Pure: imports no vLLM.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig
from rollstream.schemas.generation.generation_parts import Guided

from ....requests import Completion, GenerateRequest

_WAYS = {"json_schema": "json"}
"""vLLM's names where ours are others."""


def rule_fields(config: GenerationConfig) -> dict[str, Any]:
    """Fields for vLLM's `SamplingParams`, those in use alone, each with the parts that its class takes."""
    fields: dict[str, Any] = {}
    if config.guided is not None:
        fields["structured_outputs"] = guide_parts(config.guided)
    if config.thinking_budget is not None:
        fields["thinking_token_budget"] = config.thinking_budget
    if (pattern := config.stop_on_repetition) is not None:
        fields["repetition_detection"] = pattern.model_dump()
    return fields


def guide_parts(guided: Guided) -> dict[str, Any]:
    """A guide as parts of vLLM's `StructuredOutputsParams`.

    vLLM itself makes a grammar of choices, up to 0.30 a wrong one where a text has a line's end.
    """
    if guided.choice is not None:
        return {"grammar": choice_grammar(guided.choice)}
    return {_WAYS.get(guided.way, guided.way): getattr(guided, guided.way)}


def choice_grammar(choices: Sequence[str]) -> str:
    """The grammar of one of these texts."""
    return "root ::= " + " | ".join(f'"{re.sub(_SPECIAL, _escaped, choice)}"' for choice in choices)


_SPECIAL = r'[\x00-\x1f\x7f"\\]'


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}" if found[0] in '"\\' else f"\\u{ord(found[0]):04x}"


def with_forced(
    completions: Sequence[Completion], request: GenerateRequest, marks: tuple[int, int] | None
) -> list[Completion]:
    """The completions of a request with a thinking budget, with the tokens that it forced."""
    budget = request.config.thinking_budget
    if budget is None or marks is None:
        return list(completions)
    return [
        replace(completion, forced=forced_ends(request.prompt, completion.token_ids.tolist(), marks, budget))
        for completion in completions
    ]


def forced_ends(prompt: Sequence[int], output: Sequence[int], marks: tuple[int, int], budget: int) -> NDArray[np.bool_]:
    """Which tokens of `output` are ends of thinking that vLLM forced, by the rule of its `ThinkingBudgetStateHolder`.

    `marks`: the ids that begin and end thinking. Thinking begins with the last start of the prompt that has no end, or
    a start in the output, and the token after `budget` more tokens is its end. vLLM does not see the end of a section
    where an end came up outside of any section before it, and counts on; so does this.

    A request that was put back to wait, by a swap or for lack of memory, begins its count again, mostly with the same
    result. Where it came out otherwise, every later end counts as forced, and so does any that is just `budget` tokens
    after some start: a forced token is never missed, and at worst one that was sampled is left out of the training.
    """
    start, end = marks
    forced = np.zeros(len(output), np.bool_)
    begin, unseen = _begin(prompt, start, end), False
    for number, token in enumerate(output):
        if begin is not None and number - begin >= budget:
            if token != end:
                return _careful(forced, output, marks, budget, number)
            forced[number], begin, unseen = True, None, False
        elif begin is None:
            unseen = unseen or token == end
            begin = number + 1 if token == start else None
        elif token == end and not unseen:
            begin = None
    return _careful(forced, output, marks, budget, len(output))


def _begin(prompt: Sequence[int], start: int, end: int) -> int | None:
    """Where the thinking that the prompt leaves open begins, counted from the output's first token; None if none is."""
    for back, token in enumerate(reversed(prompt)):
        if token == end:
            return None
        if token == start:
            return -back
    return None


def _careful(
    forced: NDArray[np.bool_], output: Sequence[int], marks: tuple[int, int], budget: int, known: int
) -> NDArray[np.bool_]:
    """Add the ends from `known` on, and those just `budget` tokens after a start."""
    start, end = marks
    for number in _places(output, end):
        after_start = number > budget and output[number - budget - 1] == start
        forced[number] |= number >= known or after_start
    return forced


def _places(output: Sequence[int], token: int) -> Iterable[int]:
    return (number for number, found in enumerate(output) if found == token)
