"""The worker's command line: settings in, exit code out; the only place that picks the engine."""

from __future__ import annotations

import asyncio
import json
import sys

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_settings import SettingsError as SourceError

from schemas import RollstreamError
from worker import logs
from worker.app import Worker
from worker.config import WorkerSettings
from worker.engine import Engine
from worker.errors import EngineDiedError, SettingsError
from worker.replicas import Replicas, settings_of_one
from worker.stub_engine import StubEngine

EXIT_DRAINED, EXIT_SETTINGS, EXIT_ENGINE_DIED = 0, 2, 3


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 drained, 1 failed, 2 a setting cannot work, 3 the engine died."""
    try:
        settings = WorkerSettings(_cli_parse_args=sys.argv[1:] if argv is None else argv)
    except (ValidationError, SourceError, RollstreamError) as error:
        _complain(error)
        return EXIT_SETTINGS
    if settings.print_config:
        sys.stdout.write(json.dumps(settings.shown(), indent=2) + "\n")
        return EXIT_DRAINED
    logs.configure(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(settings))


async def _serve(settings: WorkerSettings) -> int:
    try:
        await Worker(settings, _engine(settings)).run()
    except SettingsError as error:
        _complain(error)
        return EXIT_SETTINGS
    except EngineDiedError as error:
        structlog.get_logger().critical("engine died, its jobs stay pending", error=str(error))
        return EXIT_ENGINE_DIED
    return EXIT_DRAINED


def _engine(settings: WorkerSettings) -> Engine:
    if settings.replicas == 1:
        return _one_engine(settings)
    one = settings_of_one(settings)
    return Replicas([_one_engine(one) for _ in range(settings.replicas)])


def _one_engine(settings: WorkerSettings) -> Engine:
    if settings.engine == "stub":
        return StubEngine(settings)
    try:
        from worker.vllm_engine import VllmEngine  # noqa: PLC0415 - seconds of import that the stub never pays
    except ModuleNotFoundError as error:
        hint = "pip install 'rollstream[gpu]', or 'rollstream[cpu]' on a machine without a GPU"
        raise SettingsError(f"--engine vllm: {error}: {hint}") from None

    return VllmEngine(settings)


def _complain(error: Exception) -> None:
    """One line a problem, naming the flag."""
    if not isinstance(error, ValidationError):
        sys.stderr.write(f"rollstream-worker: {error}\n")
        return
    for problem in error.errors(include_url=False, include_input=False):
        flag = "--" + "-".join(str(part) for part in problem["loc"]).replace("_", "-")
        text = problem["msg"].removeprefix("Value error, ")
        sys.stderr.write(f"rollstream-worker: {text if flag == '--' else f'{flag}: {text}'}\n")
