"""Hands the log lines of vLLM's frontend to the worker's own log; EngineCore, another process, writes its own lines."""

from __future__ import annotations

import logging
from typing import Any

import vllm.logger


def hand_up(arguments: Any) -> None:
    """Call it with `AsyncEngineArgs`, before they make a config, which else sets up vLLM's logging once more.

    The program that runs this engine says what becomes of a line: see the handlers of its root logger.
    """
    if hasattr(arguments, "create_logging_config"):  # from 0.31 on
        vllm.logger.configure_logging_if_needed(arguments.create_logging_config())
    logger = logging.getLogger("vllm")
    logger.handlers.clear()
    logger.propagate = True
