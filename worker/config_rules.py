"""Which values of flags cannot work, one by one and together. Pure, but for looks at the folders that are named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollstream.schemas.environment import is_service_address
from rollstream.schemas.errors import NameRefusedError
from rollstream.schemas.keys import check_name
from rollstream.schemas.weights.folders import folder_problem, odd_entry
from rollstream.transport.redis.urls import RedisUrlError, parse

from . import engine_registry


def port(value: object) -> object:
    """One problem with one text, where pydantic would tell what is wrong with each type of the union.

    For a service named rollstream-metrics Kubernetes sets our variable in every container; nobody asked for a port.
    """
    if isinstance(value, str) and is_service_address(value):
        return 0
    given = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 6 else value
    if given != "auto" and not (isinstance(given, int) and 0 <= given <= 65535):
        raise ValueError("give a port from 1 to 65535, auto for a free one, or 0 for none")
    return given


def engine(value: str) -> str:
    """The name of a registered engine. Raises `ValueError`."""
    if value not in engine_registry.ENGINES:
        raise ValueError(engine_registry.unknown(value))
    return value


def name(value: str) -> str:
    """A name that is safe in keys. Raises `ValueError`."""
    try:
        return check_name("name", value)
    except NameRefusedError as error:
        raise ValueError(str(error)) from None


def redis_url(value: str) -> str:
    """A URL of Redis. Raises `ValueError`."""
    try:
        parse(value)
    except RedisUrlError as error:
        raise ValueError(str(error)) from None
    return value


def problems(settings: Any) -> Iterator[str]:
    """What is wrong with the settings as a whole, the first problem first."""
    if engine_registry.ENGINES[settings.engine].loads_model and settings.model is None:
        yield f"--model: the {settings.engine} engine needs a model folder"
    if settings.replicas > 1 and settings.tensor_parallel_size > 1:
        yield "--replicas: they share one GPU; with --tensor-parallel-size start more workers instead"
    if settings.weight_transfer is not None:
        yield from _transfer_problems(settings)
    yield from _thinking_problems(settings)
    if settings.engine_metrics and (problem := engine_registry.metrics_problem(settings.engine, settings.metrics_port)):
        yield f"--engine-metrics: {problem}"
    for flag, folder in _folders(settings).items():
        if problem := folder_problem(folder):
            yield f"{flag}: {folder} {problem}"
        if not flag.endswith("-dir") and (problem := odd_entry(folder)):
            yield f"{flag}: {folder} {problem}"
    if settings.adapter_cache_bytes < settings.max_adapter_bytes:
        yield (
            f"--adapter-cache-bytes: {settings.adapter_cache_bytes} hold no adapter of --max-adapter-bytes "
            f"{settings.max_adapter_bytes}"
        )


def _folders(settings: Any) -> dict[str, Path]:
    named: dict[str, Path | None] = {
        "--model": settings.model,
        "--tokenizer": settings.tokenizer,
        "--adapter-dir": settings.adapter_dir,
        "--checkpoint-dir": settings.checkpoint_dir,
    }
    for argument in ("model", "tokenizer"):
        if isinstance(given := settings.engine_args.get(argument), str):
            named[f"--engine-args: {argument}"] = Path(given)
    return {flag: folder for flag, folder in named.items() if folder is not None}


def _transfer_problems(settings: Any) -> Iterator[str]:
    if settings.weights is None:
        yield "--weight-transfer needs --weights: going back needs files"
    if settings.engine == "stub" and settings.weight_transfer == "nccl":
        yield "--weight-transfer: the stub engine has no GPU: give gloo"
    if settings.replicas > 1 and settings.weight_transfer == "nccl":
        yield "--weight-transfer: replicas share one GPU, which NCCL takes once: start one engine, or give gloo or ipc"
    if "weight_transfer_config" in settings.engine_args:
        yield "--engine-args: weight_transfer_config is set by --weight-transfer"


def _thinking_problems(settings: Any) -> Iterator[str]:
    if settings.thinking_marks is None:
        return
    marks = settings.thinking_marks.split()
    if len(marks) != 2 or marks[0] == marks[1]:
        yield "--thinking-marks: give two different texts with a space between, such as '<think> </think>'"
    if "reasoning_config" in settings.engine_args:
        yield "--engine-args: reasoning_config is set by --thinking-marks"
