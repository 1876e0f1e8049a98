"""Set up structlog: readable lines on a terminal, JSON for machines, always on stderr and never with a secret."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from ..config import WorkerSettings
from .redaction import Redaction

_OURS = frozenset({"event", "level", "timestamp", "policy", "consumer"})
"""Fields that only this worker writes, so that they need no redaction."""


def configure(settings: WorkerSettings) -> None:
    """Configure logging. Each line has level, UTC time, policy and consumer."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # By default structlog shows the local variables of every frame, and with them the Redis URL.
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        if as_json
        else structlog.processors.format_exc_info,
        _Shown(Redaction(settings)),
    ]
    if as_json:
        processors.append(structlog.processors.JSONRenderer())
    else:
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(policy=settings.policy, consumer=settings.consumer)


class _Shown:
    """A processor that makes texts from others harmless for a terminal and hides secrets."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def __call__(self, _logger: Any, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        for name, value in line.items():
            if name == "exception" and isinstance(value, str):
                line[name] = self._redaction.lines(value)
            elif name not in _OURS:
                line[name] = self._of(value)
        return line

    def _of(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, dict):
            return {str(name): self._of(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._of(inner) for inner in value]
        return self._redaction.line(value if isinstance(value, str) else repr(value))
