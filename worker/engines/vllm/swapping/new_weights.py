"""Weights of an engine, and new ones on their way in. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ....errors import CheckpointRefusedError
from ....weights import checkpoint

SENT = Path("round")
"""Stands for a folder in errors of weights that came without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A checkpoint, and what its files held when they were read."""

    folder: Path
    content: checkpoint.Content


async def at_once() -> None:
    """Nothing has to be done before the weights are brought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWeights:
    """Weights on their way in."""

    bring: Callable[[], Awaitable[None]]
    """Makes the engine have them; after an error it has a mixture."""
    weights: Weights | None
    """Where they can be read again; None if nowhere yet."""
    ready: Callable[[], Awaitable[None]] = at_once
    """Awaited once the engine stands still, before anything is touched."""


def checked(folder: Path, booted: checkpoint.Booted, content: checkpoint.Content) -> Weights:
    """Raises `CheckpointRefusedError` for a checkpoint that the engine cannot load."""
    checkpoint.check(folder, booted)
    if content.spoilt:
        raise CheckpointRefusedError(folder, *content.spoilt)
    return Weights(folder=folder, content=content)
