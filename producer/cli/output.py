"""Where the results of a command go, and which exit code tells how it ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import typer
from rich.console import Console

from rollstream.schemas import RollstreamError
from rollstream.schemas.printable import printable_lines, without_credentials
from rollstream.schemas.weights.regular_files import writing_problem

from ..batches.any_handle import AnyHandle
from ..batches.read_answers import AnyAnswer
from ..errors import ResultTimeoutError
from ..progress import progress_bar
from .jsonl import result_line
from .views.fit import Lines, wrapped
from .views.what_failed import WhatFailed
from .views.what_was_cut import WhatWasCut

_MOST_TEXT = 5_000
"""Characters of an error, which may name what somebody typed or sent."""
_UNBROKEN = 1_000
"""Places; longer than a row of any table."""
EXIT_ERROR, EXIT_SOME_FAILED, EXIT_TIMED_OUT, EXIT_UNFINISHED, EXIT_INTERRUPTED = 1, 3, 4, 5, 130


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn every expected error into one line on stderr and an exit code; only a bug shows a traceback."""
    try:
        yield
    except ResultTimeoutError as error:
        raise _ended(error, EXIT_TIMED_OUT) from None
    except BrokenPipeError:
        raise  # typer ends quietly
    except TimeoutError:
        raise _ended("timed out: Redis does not answer", EXIT_TIMED_OUT) from None
    except (RollstreamError, OSError) as error:
        raise _ended(error, EXIT_ERROR) from None
    except KeyboardInterrupt:
        raise _ended("interrupted", EXIT_INTERRUPTED) from None


def _ended(why: object, code: int) -> typer.Exit:
    text = printable_lines(without_credentials(str(why)[: 2 * _MOST_TEXT]))
    typer.echo(f"rollstream: {text if len(text) <= _MOST_TEXT else f'{text[:_MOST_TEXT]}...'}", err=True)
    return typer.Exit(code)


def console() -> Console:
    """Stdout. Where it is no terminal and COLUMNS is not set, lines are as long as they need to be, for grep."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal of few characters shows `?` for others
    return Console() if sys.stdout.isatty() or "COLUMNS" in os.environ else Console(width=_UNBROKEN)


def can_draw(out: Console) -> bool:
    """Whether pictures can be drawn in place there: FORCE_COLOR makes no terminal of a file."""
    return sys.stdout.isatty() and not out.is_dumb_terminal


def print_lines(lines: Callable[[int], Lines]) -> None:
    """Print to stdout what `lines` gives for its width."""
    out = console()
    for line in lines(out.width):
        out.print(line, no_wrap=True, overflow="ignore", crop=False)


def say(told: str) -> None:
    """Print a sentence, if there is one, to stderr, broken between words where that is a terminal."""
    if not told:
        return
    err = Console(stderr=True)
    for line in wrapped(told, err.width if err.is_terminal else _UNBROKEN, indent=2):
        err.print(line, no_wrap=True, overflow="ignore", crop=False)


def writable(file: Path | None) -> Path | None:
    """The file of an option, which `output` will open: a callback of typer's, so that a command refuses it before it
    queues anything. Raises `BadParameter`."""
    if file is None or str(file) == "-":
        return file
    problem = "this user may not write to it" if not os.access(file, os.W_OK) else ""
    if problem := problem if file.exists() else writing_problem(file):
        raise typer.BadParameter(f"{file}: {problem}")
    return file


def output(file: Path | None) -> AbstractContextManager[TextIO]:
    """`file`, or stdout, which is left open; `-` is stdout too."""
    return nullcontext(sys.stdout) if file is None or str(file) == "-" else file.open("w", encoding="utf-8")


def write_unfinished(handle: AnyHandle[Any, Any], answers: Sequence[AnyAnswer], out: TextIO) -> int:
    """Write one line for each answer, and say on stderr what failed, what was cut and how many groups are missing.
    Returns the exit code.
    """
    what_failed, what_was_cut = WhatFailed(handle.num_groups), WhatWasCut()
    for answer in answers:
        what_failed.add(answer)
        what_was_cut.add(answer)
        out.write(result_line(answer))
    out.flush()
    say(str(what_failed))
    say(str(what_was_cut))
    missing = handle.num_groups - len(answers)
    if not missing:
        return EXIT_SOME_FAILED if what_failed else 0
    rest = f"{missing} of {handle.num_groups} groups are missing: the batch is not finished"
    typer.echo(f"rollstream: batch {handle.batch_id}: {rest}; wait for them with --follow", err=True)
    return EXIT_UNFINISHED


async def follow(handle: AnyHandle[Any, Any], out: TextIO | None, timeout: float | None) -> int:
    """Write each group as it finishes, under a progress bar, until the batch is sealed. Then say what failed and what
    was cut. Returns the exit code.

    Raises `ResultTimeoutError`; what finished until then has been written, and what failed of it is said.
    """
    done, what_failed, what_was_cut = 0, WhatFailed(handle.num_groups), WhatWasCut()
    try:
        with progress_bar(handle.batch_id, handle.num_groups) as show:
            async for answer in handle.groups(timeout):
                done += 1
                what_failed.add(answer)
                what_was_cut.add(answer)
                if out is not None:
                    out.write(result_line(answer))
                    out.flush()
                show(done)
    finally:
        all_of_them = f"; `rollstream results {handle.batch_id}` has all" if what_failed and out is None else ""
        say(f"{what_failed}{all_of_them}")
    say(str(what_was_cut))
    return EXIT_SOME_FAILED if what_failed else 0
