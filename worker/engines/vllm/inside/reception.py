"""Runs inside vLLM's workers: new weights from the trainer's memory, through vLLM's own weight transfer.

vLLM's engine for that reads from `model_update_group`, which is a link of ours: vLLM's own meets the trainer through
pickled objects, and cannot be broken off when the trainer has died. Each round ends with the repairs of a reload.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from rollstream.transport.rounds.errors import LinkError
from rollstream.transport.rounds.meeting import meet
from rollstream.transport.rounds.packing import CHUNK_BYTES, CHUNKS_AT_ONCE

from . import weight_reload

EXTENSION = f"{__name__}.Reception"
"""The value for vLLM's `worker_extension_cls`."""
_LOOK_S = 0.02


class Reception(weight_reload.WeightReload):
    """The methods become methods of vLLM's worker, so that `collective_rpc` can call them."""

    device: Any
    rank: int
    weight_transfer_engine: Any
    start_weight_update: Any
    update_weights: Any
    finish_weight_update: Any
    _rollstream_linking: Any = None

    def rollstream_link(self, backend: str, meeting: bytes, first_rank: int, world_size: int, timeout_s: float) -> None:
        """Begin to link this process with the trainer and all others, while the engine generates."""
        self.rollstream_unlink()
        self._rollstream_linking = _Linking(
            backend=backend,
            meeting=meeting,
            rank=first_rank + self.vllm_config.parallel_config.rank,
            world_size=world_size,
            timeout_s=timeout_s,
            device=self.device,
        )

    def rollstream_linked(self) -> str | None:
        """None while that goes on, '' once it is done, else why it failed."""
        linking = self._rollstream_linking
        return "the link was given up" if linking is None else linking.outcome

    def rollstream_unlink(self) -> None:
        """Give the link up, if there is one. Its memory is freed in a thread."""
        linking, self._rollstream_linking = self._rollstream_linking, None
        if linking is not None:
            linking.give_up()

    def rollstream_receive(
        self, names: list[str], dtypes: list[str], shapes: list[list[int]], timeout_s: float, broken: str
    ) -> None:
        """Replace the weights by those that the trainer sends, which must fit the model.

        Somebody makes a file `broken` when the round is over; then, and after `timeout_s`, this raises. After an error
        the weights are a mixture, and nothing may run before they are loaded again, all of them.
        """
        link = None if self._rollstream_linking is None else self._rollstream_linking.link
        if link is None:
            raise LinkError("nothing is linked")
        with _watched(link, timeout_s, Path(broken)):
            try:
                self._rollstream_load(link, {"names": names, "dtype_names": dtypes, "shapes": shapes})
                if link.aborted:
                    raise LinkError("the round was broken off")
            except BaseException:
                self._weight_update_active = False
                raise
        weight_reload.repair(self.model_runner)

    def _rollstream_load(self, link: Any, update: dict[str, Any]) -> None:
        engine = self.weight_transfer_engine
        if engine is None:
            raise LinkError("vLLM was started without weight_transfer_config")
        engine.model_update_group = link
        update |= _geometry(engine)
        try:
            with weight_reload.replacing(self.model_runner.get_model(), self.vllm_config):
                self.start_weight_update()
                self.update_weights(update)
                self.finish_weight_update()
        finally:
            engine.model_update_group = None


class _Linking:
    """A link in the making. Its thread sets the outcome last; nobody waits for a thread that hangs in NCCL."""

    def __init__(self, **how: Any) -> None:
        self.link: Any = None
        self.outcome: str | None = None
        self._given_up = threading.Event()
        self._how = how
        threading.Thread(target=self._make, name="round", daemon=True).start()

    def give_up(self) -> None:
        """End the link now, or once it is there."""
        self._given_up.set()
        if self.link is not None:
            self.link.close()

    def _make(self) -> None:
        try:
            self.link = meet(**self._how, given_up=self._given_up)
        except Exception as error:  # noqa: BLE001 - a thread's rim: every error becomes the outcome
            self.outcome = str(error) or type(error).__name__
            return
        self.outcome = ""
        if self._given_up.is_set():
            self.link.close()


@contextmanager
def _watched(link: Any, timeout_s: float, broken: Path) -> Iterator[None]:
    """Abort the link after a time, or once the file is there: the thread that receives may hang in the GPU."""
    until, over = time.monotonic() + timeout_s, threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            if time.monotonic() >= until or broken.exists():
                with suppress(LinkError):
                    link.abort()
                return

    watching = threading.Thread(target=watch, name="round watch", daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _geometry(engine: Any) -> dict[str, Any]:
    """Tell vLLM how the trainer packs: with each update up to 0.26, at the engine's start later on."""
    packing = {"packed": True, "packed_buffer_size_bytes": CHUNK_BYTES, "packed_num_buffers": CHUNKS_AT_ONCE}
    if not {"packed"} <= {one.name for one in fields(engine.update_info_cls)}:
        for name, value in packing.items():
            setattr(engine, name, value)
        return {}
    return packing
