"""Starts vLLM with room for one token more than the worker tells of. Pure: imports no vLLM, and reads only attributes.

vLLM samples a token after each row that it scores, and wants room for it. So a row that fills the model's context can
be scored only by an engine whose limit is one higher. That token is never computed, so no position beyond the model's
own is used, which a model with a table of positions does not have.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

ALLOW = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
_CHOSEN_BY_MEMORY = -1


@contextmanager
def given(arguments: Any, environment: MutableMapping[str, str]) -> Iterator[Any]:
    """In this context vLLM starts with `arguments` (`AsyncEngineArgs`) and a limit that is one higher.

    The limit that was asked for is checked before, so that one beyond the model's is refused as ever. Raises what vLLM
    raises for arguments that make no model. A limit that follows from the memory (-1) stays.
    """
    if arguments.max_model_len != _CHOSEN_BY_MEMORY:
        arguments.max_model_len = int(arguments.create_model_config().max_model_len) + 1
    before, checks = environment.get(ALLOW), logging.getLogger("vllm.config.model")
    environment[ALLOW] = "1"
    checks.addFilter(_is_no_news)
    try:
        yield arguments
    finally:
        checks.removeFilter(_is_no_news)
        if before is None:
            del environment[ALLOW]
        else:
            environment[ALLOW] = before


def told(max_model_len: int) -> int:
    """What the worker says of an engine with this limit."""
    return max_model_len - 1


def _is_no_news(record: logging.LogRecord) -> bool:
    """vLLM warns of positions beyond the model's, which are not used here."""
    return ALLOW not in record.getMessage()
