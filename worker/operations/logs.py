"""Set up structlog: readable lines on a terminal, JSON for machines, always on stderr and never with a secret.

What libraries log through Python's `logging`, and the warnings of its `warnings`, become lines of the same kind.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import EventDict, Processor

from ..config import WorkerSettings
from .redaction import Redaction

_OURS = frozenset({"event", "level", "timestamp", "policy", "consumer"})
"""Fields that only this worker writes, so that they need no redaction."""


def configure(settings: WorkerSettings) -> None:
    """Configure logging. Each line has level, UTC time, policy and consumer; one of a library has its logger, too."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level, redaction = logging.getLevelNamesMapping()[settings.log_level.upper()], Redaction(settings)
    names = {"policy": settings.policy, "consumer": settings.consumer}
    last = _last(redaction, as_json=as_json)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(**names)
    _take_from_libraries(level, [structlog.stdlib.add_log_level, _Foreign(redaction=redaction, names=names)], last)


def _last(redaction: Redaction, *, as_json: bool) -> list[Processor]:
    """What makes a text of a line's fields."""
    stamp, shown = structlog.processors.TimeStamper(fmt="iso", utc=True), _Shown(redaction)
    if as_json:
        # By default structlog shows the local variables of every frame, and with them the Redis URL.
        trace = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
        return [stamp, trace, shown, structlog.processors.JSONRenderer()]
    plain = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    return [stamp, structlog.processors.format_exc_info, shown, console]


def _take_from_libraries(level: int, first: list[Processor], last: list[Processor]) -> None:
    """Let one handler write what loggers hand up to the root, which drops what is less than a warning."""
    handler = _Library(sys.stderr)
    handler.setLevel(level)
    handler.setFormatter(
        ProcessorFormatter(foreign_pre_chain=first, processors=[ProcessorFormatter.remove_processors_meta, *last])
    )
    root = logging.getLogger()
    root.handlers = [one for one in root.handlers if not isinstance(one, _Library)] + [handler]
    logging.captureWarnings(capture=True)


def take_over() -> None:
    """Let libraries that were loaded since log here too: vLLM, PyTorch and others bring handlers for stderr.

    Without `configure` it does nothing: then nobody here would write their lines.
    """
    if not any(isinstance(one, _Library) for one in logging.root.handlers):
        return
    for logger in list(logging.root.manager.loggerDict.values()):
        if not isinstance(logger, logging.Logger):
            continue
        theirs = [one for one in logger.handlers if isinstance(one, logging.StreamHandler) and one.stream is sys.stderr]
        if theirs:
            logger.handlers = [one for one in logger.handlers if one not in theirs]
            logger.propagate = True


class _Library(logging.StreamHandler[Any]):
    """Writes the lines of libraries. By default Python prints what cannot be formatted, with its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        with suppress(OSError, ValueError):  # stderr is closed, or nobody reads it
            structlog.get_logger().error("a log line of a library cannot be written", logger=record.name)


class _Foreign:
    """A processor that gives a library's line the names of this worker; its text is not ours, so secrets are hidden."""

    def __init__(self, *, redaction: Redaction, names: dict[str, str]) -> None:
        self._redaction = redaction
        self._names = names

    def __call__(self, _logger: Any, _method: str, line: EventDict) -> EventDict:
        text = self._redaction.line(str(line["event"]).strip())
        return {**line, **self._names, "event": text, "logger": line["_record"].name}


class _Shown:
    """A processor that makes texts from others harmless for a terminal and hides secrets."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction

    def __call__(self, _logger: Any, _method: str, line: EventDict) -> EventDict:
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
