"""An engine is one entry and one file: with them a worker takes the flag, explains it, and serves jobs with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.worker import engine_registry
from rollstream.worker.app import Worker
from rollstream.worker.command import main
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine_registry import ENGINES, EngineEntry
from rollstream.worker.engines.choose import make_engine
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import SettingsError
from rollstream.worker.exit_codes import EXIT_SETTINGS
from rollstream.worker.requests import Completion, GenerateRequest
from rollstream.worker.startup.command_line import read_settings


class EchoEngine(StubEngine):
    """Says the prompt again."""

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        said = np.array(request.prompt, np.int32)
        spans = ((self.policy_version, len(said)),)
        return [
            Completion(token_ids=said, logprobs=None, finish_reason="length", stop_reason=None, version_spans=spans)
        ]


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> EngineEntry:
    entry = EngineEntry(module=__name__, make="EchoEngine", about="says the prompt again", loads_model=False)
    monkeypatch.setitem(ENGINES, "echo", entry)
    return entry


@pytest.mark.usefixtures("echo")
async def test_an_engine_of_one_entry_serves_a_job(redis_url: str, policy: str) -> None:
    settings = read_settings(["--policy", policy, "--engine", "echo", "--redis", redis_url, "--grace-s", "0"])
    worker = asyncio.create_task(Worker(settings=settings, engine=make_engine(settings)).run())
    try:
        async with AsyncClient(redis_url, policy=policy) as client:
            config = GenerationConfig(max_new_tokens=2, logprobs=None)
            rollouts = await client.generate([[7, 8], [9, 10]], None, config, timeout=60)
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)
    assert rollouts.sequences[:, -2:].tolist() == [[7, 8], [9, 10]]


@pytest.mark.usefixtures("echo")
def test_help_and_the_refusal_of_an_unknown_engine_name_every_entry() -> None:
    assert "echo: says the prompt again" in engine_registry.described()
    told = WorkerSettings.model_fields["engine"].description or ""
    assert all(f"{name}: {entry.about}" in told for name, entry in ENGINES.items() if name != "echo")
    with pytest.raises(SettingsError, match="--engine: there is no engine 'vlm': give vllm or stub or echo"):
        read_settings(["--policy", "p", "--engine", "vlm"])


def test_an_engine_that_loads_a_model_needs_one(echo: EngineEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "echo", replace(echo, loads_model=True))
    with pytest.raises(SettingsError, match="--model: the echo engine needs a model folder"):
        read_settings(["--policy", "p", "--engine", "echo"])


@pytest.mark.parametrize("port", ["0", "auto"])
def test_an_engine_without_metrics_takes_no_flag_for_them(capsys: pytest.CaptureFixture[str], port: str) -> None:
    flags = ["--policy", "p", "--engine", "stub", "--engine-metrics", "--metrics-port", port]

    assert main(flags) == EXIT_SETTINGS

    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("--engine-metrics: the stub engine has no metrics of its own: leave the flag away")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["gloo"], "--weight-transfer needs --weights: going back needs files"),
        (["nccl", "--weights", "redis"], "--weight-transfer: the stub engine has no GPU: give gloo"),
    ],
)
def test_rounds_that_a_worker_cannot_take_part_in_are_refused_at_its_start(
    capsys: pytest.CaptureFixture[str], flags: list[str], says: str
) -> None:
    assert main(["--policy", "p", "--engine", "stub", "--weight-transfer", *flags]) == EXIT_SETTINGS

    assert says in capsys.readouterr().err


def test_a_missing_package_is_named_with_how_to_install_it(echo: EngineEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENGINES, "echo", replace(echo, module="no_such_package", install="pip install echoes"))
    settings = read_settings(["--policy", "p", "--engine", "echo"])
    with pytest.raises(SettingsError, match="--engine echo: No module named 'no_such_package': pip install echoes"):
        make_engine(settings)
