"""torch's store, in which parties find each other's addresses, with waits that can be given up. Imports torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch.distributed import Store  # type: ignore[attr-defined] # torch types only a part of itself

_LOOK_S = 0.01


class GatheringStore(Store):
    """Asks again and again for what is not there yet: a wait in the store itself is broken off by nothing."""

    def __init__(self, store: Any, *, timeout_s: float, given_up: threading.Event) -> None:
        super().__init__()
        self._store, self._given_up = store, given_up
        self._until = time.monotonic() + timeout_s

    def gather(self, rank: int, world_size: int) -> None:
        """Blocks until all parties have come here. Raises `RuntimeError`."""
        self._store.set(_came(rank), "")
        self.wait([_came(other) for other in range(world_size)])

    def set(self, key: str, value: Any) -> None:
        """As torch has it."""
        self._store.set(key, value)

    def get(self, key: str) -> Any:
        """The same; it is there, since all wait for it first."""
        return self._store.get(key)

    def check(self, keys: Sequence[str]) -> Any:
        """The same."""
        return self._store.check(list(keys))

    def wait(self, keys: Sequence[str], _timeout: timedelta | None = None) -> None:
        """Until all keys are there. Raises `RuntimeError`, as torch does, once it is given up or takes too long."""
        while not self.check(keys):
            if self._given_up.is_set():
                raise RuntimeError("the round was broken off")
            if time.monotonic() >= self._until:
                raise RuntimeError("not all parties came in time")
            time.sleep(_LOOK_S)

    def has_extended_api(self) -> bool:
        """It has only these."""
        return False


def _came(rank: int) -> str:
    return f"came/{rank}"
