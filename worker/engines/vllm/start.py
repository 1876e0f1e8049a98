"""Why vLLM did not start, in one line. The cause is in a child process, and vLLM's own error only points to a log.

A child writes its error into a file in memory that the worker made; see `listening` and `report_failures`.
Imports no vLLM.
"""

from __future__ import annotations

import ast
import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ...errors import DataError, EngineDiedError, SettingsError

START_REPORT = "ROLLSTREAM_START_REPORT"
"""Path where the processes of a starting engine write why they fail; the worker sets it during the start."""

MAX_CAUSE = 1200
"""The most characters of a cause: vLLM and torch print whole configs."""

_NAME = "rollstream-start"
_FATAL = "! "
_SECRET = re.compile(r"token(?!iz)|secret|passw|credential|api_?key|access_?key", re.IGNORECASE)
_POINTERS = ("root cause", "See stack trace", "initialization failed")
"""Words of errors that only point to a child's error."""


class StartReport:
    """The failures that the processes of one start reported."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self.text = ""
        """The first failure: a process that waits for the failed one fails later."""

    def read(self) -> str:
        """What was reported until now."""
        if self._descriptor is not None:
            lines = os.pread(self._descriptor, 16 * MAX_CAUSE, 0).decode(errors="replace").splitlines()
            self.text = _first(lines)
        return self.text

    def end(self) -> None:
        """Read it for the last time."""
        self.read()
        self._descriptor = None


@contextmanager
def listening(environment: MutableMapping[str, str]) -> Iterator[StartReport]:
    """Entered while an engine starts. The report is complete when the block has ended, with or without an error."""
    descriptor = os.memfd_create(_NAME)
    report = StartReport(descriptor)
    environment[START_REPORT] = f"/proc/{os.getpid()}/fd/{descriptor}"
    try:
        yield report
    finally:
        del environment[START_REPORT]
        report.end()
        os.close(descriptor)


def report_failures(environment: Mapping[str, str], logger: logging.Logger) -> None:
    """Called early in a child: send errors that vLLM's `logger` logs with an exception to the starting worker."""
    place = environment.get(START_REPORT)
    if place is None or any(isinstance(handler, _Reporting) for handler in logger.handlers):
        return
    with suppress(OSError):  # the start is over, or this process may not see its parent: vLLM's log has it
        if _NAME in str(Path(place).readlink()):
            logger.addHandler(_Reporting(os.open(place, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)))


class _Reporting(logging.Handler):
    """Writes a line for each of the first errors. The descriptor stays open; after the start nobody reads it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(logging.ERROR)
        self._descriptor = descriptor
        self._left = 8

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not self._left:
            return
        self._left -= 1
        mark = _FATAL if "failed to start" in record.getMessage() else ""
        with suppress(OSError):
            os.write(self._descriptor, f"{mark}{cause(error)}\n".encode())


def _first(lines: list[str]) -> str:
    """The first error that ended a process, else the first of all: vLLM also logs errors that are not fatal."""
    fatal = [line.removeprefix(_FATAL) for line in lines if line.startswith(_FATAL)]
    return next(iter([*fatal, *lines]), "")


def why_not_started(error: BaseException, report: StartReport, secrets: Iterable[str]) -> str:
    """The cause of a start that failed with `error`, without any of `secrets`."""
    return _without(secrets, report.read() or _ended_processes(str(error)) or cause(error))


def why_ended(exit_codes: Mapping[str, int | None], report: StartReport, secrets: Iterable[str]) -> str:
    """Why an engine that had started ended before it could serve, without any of `secrets`; '' if it did not end.

    `exit_codes`: those of its processes; None for one that runs.
    """
    ended = {name: code for name, code in exit_codes.items() if code is not None}
    found = report.read() or _ended_processes(str(ended))
    return _without(secrets, found or (f"its processes ended with the exit codes {ended}" if ended else ""))


@contextmanager
def getting_ready(
    model: Path | None, report: StartReport, secrets: Iterable[str], exit_codes: Callable[[], Mapping[str, int | None]]
) -> Iterator[None]:
    """Entered while an engine that has started gets its first requests. Raises `SettingsError` where these fail."""
    try:
        yield
    except DataError as error:  # the weights are NaN, or too large for --dtype
        raise SettingsError(f"--model {model}: a first request failed: {error}") from error
    except EngineDiedError as error:  # the model has a layer that this build of vLLM cannot compute
        if not (cause := why_ended(exit_codes(), report, secrets)):
            raise
        raise SettingsError(
            f"--model {model}: vLLM started, and its engine ended at a first request: {cause}"
        ) from error


def _without(secrets: Iterable[str], found: str) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        found = found.replace(secret, "***")
    return found


def cause(error: BaseException) -> str:
    """The text of `error` and of the error from which it was raised, on one line, without values given to pydantic."""
    chain = [error]
    while (earlier := chain[-1].__cause__) is not None and earlier not in chain:
        chain.append(earlier)
    said = [_said(one) for one in chain]
    telling = [text for text in said if not any(pointer in text for pointer in _POINTERS)] or said[-1:]
    text = telling[0] if len(telling) == 1 or telling[-1] in telling[0] else f"{telling[0]} (caused by {telling[-1]})"
    return text if len(text) <= MAX_CAUSE - 100 else f"{text[: MAX_CAUSE - 100]}..."


def secrets_of(engine_args: Mapping[str, Any], environment: Mapping[str, str]) -> set[str]:
    """Values that no error may show: those of engine arguments and variables with the name of a secret."""
    named = [*engine_args.items(), *environment.items()]
    return {value for name, value in named if _SECRET.search(name) and isinstance(value, str) and len(value) >= 8}


def _said(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        places = [".".join(str(part) for part in problem["loc"]) for problem in problems]
        text = "; ".join(
            f"{place}: {problem['msg']}" if place else problem["msg"]
            for place, problem in zip(places, problems, strict=True)
        )
        return " ".join(text.removeprefix("Value error, ").split())
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _ended_processes(text: str) -> str | None:
    """Which process a signal has ended, from vLLM's list of exit codes in an error's text; None if none."""
    listed = re.search(r"\{[^{}]*\}", text)
    with suppress(ValueError, SyntaxError):
        codes = ast.literal_eval(listed[0]) if listed else {}
        killed = {name: -code for name, code in codes.items() if isinstance(code, int) and code < 0}
        if killed:
            name, number = next(iter(killed.items()))
            hint = ": the machine's memory may have run out" if number == signal.SIGKILL else ""
            return f"its process {name} was ended by {signal.Signals(number).name}{hint}"
    return None
