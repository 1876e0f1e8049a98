"""The trainer of a chaos run: publishes the plan's versions one after the other, right ones and wrong ones.

Those with even numbers go through the weight store, the others lie in a shared folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from redis.exceptions import RedisError

from rollstream import Activate, Client, Probe
from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas import PolicyVersion, Tensor, encode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import ScoreRequest
from tests.chaos.plan import VOCABULARY, PlannedVersion
from tests.support.faults import Queue

AFTER_S = 2.0
"""A version that waits for its workers is activated after so long, no matter how many have prepared it."""
_ROW = [7, 11, 13, 17, 19, 23, *range(30, 41)]
_RECONNECT_S = 120
_RETRY_S = 0.05

Publish = Callable[[PlannedVersion], None]


@contextlib.contextmanager
def training(url: str, chaos: Queue, folder: Path) -> Iterator[Publish]:
    """Gives what publishes a version in the trainer's thread, in order. At the end all have been published."""
    due: queue.SimpleQueue[PlannedVersion | None] = queue.SimpleQueue()
    reached = threading.Event()
    failed: list[BaseException] = []

    def train() -> None:
        try:
            with Client(url, policy=chaos.keys.policy, reconnect_s=_RECONNECT_S, weights="redis") as client:
                client.newest_version()  # a client waits only for a Redis that has answered once
                reached.set()
                while (version := due.get()) is not None:
                    _publish(client, chaos, folder, version)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            failed.append(error)

    thread = threading.Thread(target=train, name="trainer", daemon=True)
    thread.start()
    reached.wait(10)
    try:
        yield due.put
    finally:
        due.put(None)
        thread.join(2 * _RECONNECT_S)
    if failed:
        raise failed[0]
    if thread.is_alive():
        raise TimeoutError("the trainer still publishes")


def _publish(client: Client, chaos: Queue, folder: Path, version: PlannedVersion) -> None:
    number = version.number
    if version.kind == "other files":
        _announce(chaos, folder, number)
        return
    step = _write(folder, number)
    of = number + 1 if version.kind == "wrong probe" else number
    when: Activate | Literal["at_once", "by_hand"] = "at_once"
    if version.kind == "when prepared":
        when = Activate(when="when_prepared", share=0.5, timeout_s=AFTER_S)
    elif version.kind in ("by hand", "never activated"):
        when = "by_hand"
    probe = asyncio.run(probe_of(step, of))
    client.publish_policy(number, checkpoint=step, store=number % 2 == 0, probe=probe, activate=when)
    if version.kind == "by hand":
        client.activate(number)


def _write(folder: Path, number: int) -> Path:
    """A checkpoint that says it has the stub's vocabulary."""
    step = write_model(folder / f"step-{number}", seed=number, tokenizer=False)
    config = json.loads((step / "config.json").read_text())
    (step / "config.json").write_text(json.dumps(config | {"vocab_size": VOCABULARY}))
    return step


def _announce(chaos: Queue, folder: Path, number: int) -> None:
    """Announce the digest of other files than those that are there, which no client would."""
    _write(folder, number)
    announced = PolicyVersion(
        version=number, source="checkpoint", location=f"step-{number}", sha256="0" * 64, published_at=time.time()
    )
    for _ in range(round(_RECONNECT_S / _RETRY_S)):
        try:
            chaos.redis.xadd(chaos.keys.versions(), {PAYLOAD: encode(announced)}, id=str(EntryId(number)))
        except RedisError as error:
            if "equal or smaller" in str(error):  # the reply of an earlier try was lost
                return
            time.sleep(_RETRY_S)
        else:
            return


async def probe_of(step: Path, version: int) -> Probe:
    """What the stub engine gives under `version`, whatever weights it has loaded."""
    engine = StubEngine(WorkerSettings(policy="probe", engine="stub", stub_vocab_size=VOCABULARY))
    await engine.load_checkpoint(version, step, "keep")
    scores = await engine.score(ScoreRequest(request_id="", token_ids=_ROW, first=1, top_logprobs=0, adapter=None))
    return Probe(
        token_ids=Tensor.of(np.array(_ROW, np.int32)),
        row_lengths=Tensor.of(np.array([len(_ROW)], np.int32)),
        logprobs=Tensor.of(scores.logprobs),
        vocab_size=VOCABULARY,
    )
