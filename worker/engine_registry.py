"""The engines that a worker can run: a new one is an entry here and a module that implements `worker.engine.Engine`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from rollstream.schemas.errors import shown

from .errors import SettingsError

FOR_GPUS = "pip install 'rollstream[gpu]' 'vllm==0.26.*'"
"""The extra allows every series that ran; this is the one that ran on a GPU, see docs/vllm-versions.md."""
FOR_CPUS = "pip install 'rollstream[cpu]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One engine. Its module is imported only when a worker runs this engine."""

    module: str
    """The absolute name of the module, such as `rollstream.worker.engines.stub`."""
    make: str
    """A class or function of the module that makes an `Engine` from the `WorkerSettings`."""
    about: str
    """The text for `--help`."""
    loads_model: bool
    """Whether the engine needs `--model`, and a folder for temporary files."""
    has_metrics: bool = False
    """Whether the engine takes `--engine-metrics`."""
    install: str | None = None
    """What to install if a package that the module needs is missing."""


ENGINES = {
    "vllm": EngineEntry(
        module="rollstream.worker.engines.vllm.engine",
        make="VllmEngine",
        about="generates with a model, on GPUs or on the CPU",
        loads_model=True,
        has_metrics=True,
        install=f"{FOR_GPUS}, or on a machine without a GPU {FOR_CPUS}",
    ),
    "stub": EngineEntry(
        module="rollstream.worker.engines.stub",
        make="StubEngine",
        about="made-up tokens, no model; for trying the queue",
        loads_model=False,
    ),
}
DEFAULT = "vllm"


def described() -> str:
    """A line for `--help` that describes all engines."""
    return "; ".join(f"{name}: {entry.about}" for name, entry in ENGINES.items()) + "."


def unknown(name: str) -> str:
    """The error text for an engine that is not registered."""
    return f"there is no engine {shown(name)}: give {' or '.join(ENGINES)}"


def metrics_problem(name: str, port: int | str) -> str | None:
    """Why the metrics of engine `name` itself would reach nobody; `port` as `--metrics-port`. None if they can."""
    if not ENGINES[name].has_metrics:
        return f"the {name} engine has no metrics of its own: leave the flag away"
    return "they are served on --metrics-port: give that too" if port == 0 else None


def load(name: str) -> Callable[..., Any]:
    """The function that makes the engine `name`. Raises `SettingsError` if its packages are not installed."""
    entry = ENGINES[name]
    try:
        module = import_module(entry.module)
    except ModuleNotFoundError as error:
        if entry.install is None:
            raise
        raise SettingsError(f"--engine {name}: {error}: {entry.install}") from None
    make: Callable[..., Any] = getattr(module, entry.make)
    return make
