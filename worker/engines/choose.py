"""The engine that the settings ask for: one of the registry's, or several of them as one."""

from __future__ import annotations

from collections.abc import Callable

from .. import engine_registry
from ..config import WorkerSettings
from ..engine import Engine


def make_engine(settings: WorkerSettings) -> Engine:
    """It is not started yet. Raises `SettingsError` where its packages are not installed."""
    make: Callable[[WorkerSettings], Engine] = engine_registry.load(settings.engine)
    if settings.replicas == 1:
        return make(settings)
    from .replicas import Replicas, settings_of_one  # noqa: PLC0415 - few workers have any

    one = settings_of_one(settings)
    return Replicas([make(one) for _ in range(settings.replicas)])
