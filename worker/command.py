"""The worker's command line: settings in, exit code out."""

from __future__ import annotations

import json
import os
import resource
import sys

import structlog

from rollstream.version import __version__

from .config import WorkerSettings
from .errors import EngineDiedError, SettingsError
from .exit_codes import EXIT_DRAINED, EXIT_ENGINE_DIED, EXIT_FAILED, EXIT_SETTINGS
from .operations import logs, process_end
from .operations.redaction import Redaction, without_secrets
from .startup import completion
from .startup.command_line import read_settings

FEWEST_FILES = 64
"""Enough files for an event loop and connections to Redis. An engine needs more, and says so itself."""


def main(argv: list[str] | None = None) -> int:
    """Run a worker; returns the exit code, see `worker.exit_codes`."""
    if completion.asked(os.environ):
        completion.complete()
    words = sys.argv[1:] if argv is None else argv
    if "--version" in words:
        sys.stdout.write(f"rollstream-worker {__version__}\n")
        return EXIT_DRAINED
    try:
        settings = read_settings(words)
    except SettingsError as error:
        _complain(str(error))
        return EXIT_SETTINGS
    if settings.print_config:
        sys.stdout.write(json.dumps(without_secrets(settings.shown()), indent=2) + "\n")
        return EXIT_DRAINED
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < FEWEST_FILES:
        _complain(f"this process may open {files} files: raise `ulimit -n` to {FEWEST_FILES} at least")
        return EXIT_SETTINGS
    logs.configure(settings)
    return process_end.run(lambda: _serve(settings))


async def _serve(settings: WorkerSettings) -> int:
    from .app import Worker  # noqa: PLC0415 - a second or more, in which a bad setting is long known
    from .engines.choose import make_engine  # noqa: PLC0415 - the same
    from .startup.start import Start  # noqa: PLC0415 - the same

    start = Start(settings)
    try:
        await start.begin()
        engine = make_engine(settings)
        logs.take_over()
        await Worker(settings=settings, engine=engine, start=start).run()
    except SettingsError as error:
        _complain(Redaction(settings).lines(str(error)))
        return EXIT_SETTINGS
    except EngineDiedError as error:
        structlog.get_logger().critical("engine died, its jobs stay pending", error=str(error))
        return EXIT_ENGINE_DIED
    except Exception:  # noqa: BLE001 - it ends this process; what Python would print of it may hold a secret
        structlog.get_logger().critical("worker failed", exc_info=True)
        return EXIT_FAILED
    finally:
        start.close()
    return EXIT_DRAINED


def _complain(text: str) -> None:
    """Write one line for each problem."""
    for line in text.split("\n"):
        sys.stderr.write(f"rollstream-worker: {line}\n")
