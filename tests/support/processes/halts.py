"""A process of a test stands still at a named place, so that something can be done to it or beside it just there.

`HALT` and `HALT_FOLDER` in its environment say where. It halts once, after a file `armed` is there; it then makes a
file `reached`, and goes on when there is a file `go`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.worker_process import wait_for

WHERE, FOLDER = "HALT", "HALT_FOLDER"


@dataclass(frozen=True, slots=True)
class Place:
    """A function of a module, or a method `Class.name`; `after`: once it has returned."""

    module: str
    name: str
    after: bool = False
    nth: int = 1


WORKER, PRODUCER = "rollstream.worker", "rollstream.producer"
STUB, VLLM = f"{WORKER}.engines.stub", f"{WORKER}.engines.vllm"
PLACES = {
    # a worker, from the announcement to the proof
    "read": Place(f"{WORKER}.versions.loader", "VersionLoader.prepare"),
    "fetch": Place(f"{WORKER}.checkpoints.store_versions", "StoreVersions._write"),
    "stage": Place(STUB, "StubEngine.prepare"),
    "activate": Place(f"{WORKER}.versions.activator", "Activator._activate"),
    "activated": Place(f"{WORKER}.versions.activator", "Activator._activate", after=True),
    "load": Place(STUB, "StubEngine.load_checkpoint"),
    "prove": Place(f"{WORKER}.versions.proofs", "Proofs._prove"),
    "proven": Place(f"{WORKER}.versions.proofs", "Proofs._prove", after=True),
    # a worker at any time
    "engine answers": Place(STUB, "StubEngine.check"),
    "engine plans": Place(STUB, "Plans.rest"),
    # a worker in a round
    "join": Place(f"{WORKER}.rounds.membership", "Membership.__aenter__"),
    "joined": Place(f"{WORKER}.rounds.membership", "Membership.__aenter__", after=True),
    "link": Place(STUB, "StubEngine.link"),
    "met": Place("rollstream.transport.rounds.meeting", "_store", after=True),
    "linked": Place(STUB, "StubEngine.link", after=True),
    "receiving": Place("rollstream.transport.rounds.links", "GlooLink.broadcast", nth=5),
    "received": Place(STUB, "taken", after=True),
    "files": Place(f"{WORKER}.rounds.way_back", "WayBack._fetch"),
    # a worker on vLLM
    "vllm stage": Place(f"{VLLM}.swapping.swap", "Swapper.prepare"),
    "vllm load": Place(f"{VLLM}.swapping.swap", "Swapper._load"),
    "vllm prove": Place(f"{WORKER}.versions.proofs", "Proofs._prove"),
    "vllm link": Place(f"{VLLM}.swapping.transfers", "Transfers.link"),
    "vllm receive": Place(f"{VLLM}.swapping.transfers", "Transfers._bring"),
    # a trainer
    "upload": Place(f"{PRODUCER}.weights.upload", "_Sent._send"),
    "announce": Place(f"{PRODUCER}.policies.publish_policy", "announce"),
    "announced": Place(f"{PRODUCER}.policies.publish_policy", "announce", after=True),
    "trainer activates": Place(f"{PRODUCER}.policies.activation", "activate_script"),
    "trainer activated": Place(f"{PRODUCER}.policies.activation", "activate_script", after=True),
    "open": Place(f"{PRODUCER}.rounds.lead", "RoundLeader.open", after=True),
    "gather": Place(f"{PRODUCER}.rounds.lead", "RoundLeader._gather"),
    "plan": Place(f"{PRODUCER}.rounds.lead", "RoundLeader._send"),
    "send": Place(f"{PRODUCER}.rounds.outgoing", "Outgoing.send"),
    "sending": Place("rollstream.transport.rounds.links", "GlooLink.broadcast", nth=5),
    "over": Place(f"{PRODUCER}.rounds.lead", "RoundLeader._over"),
}


class Halt:
    """The test's side."""

    def __init__(self, where: str, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.env = {WHERE: where, FOLDER: str(folder)}

    def arm(self) -> None:
        """From now on."""
        (self._folder / "armed").touch()

    def wait_until_reached(self, explain: Callable[[], str], timeout_s: float = 120) -> None:
        wait_for((self._folder / "reached").exists, timeout_s, lambda: f"never came to {self.env[WHERE]}: {explain()}")

    @contextlib.contextmanager
    def when_reached(self, strike: Callable[[], object], explain: Callable[[], str]) -> Iterator[None]:
        """Strike in a thread, while the block runs."""

        def wait() -> None:
            self.wait_until_reached(explain)
            strike()

        with ThreadPoolExecutor(1) as other:
            struck = other.submit(wait)
            yield
            struck.result()

    def go_on(self) -> None:
        (self._folder / "go").touch()


def install(env: Mapping[str, str] = os.environ) -> None:
    """In the process that is to halt, before it does anything; nothing where its environment names no place."""
    if WHERE not in env:
        return
    place, folder = PLACES[env[WHERE]], Path(env[FOLDER])
    holder: Any = importlib.import_module(place.module)
    *owner, name = place.name.split(".")
    for part in owner:
        holder = getattr(holder, part)
    call = getattr(holder, name)
    wrapped = (_awaited if inspect.iscoroutinefunction(call) else _called)(call, place, _Gate(folder, place.nth))
    setattr(holder, name, wrapped)


class _Gate:
    """Where calls halt, if it is their turn."""

    def __init__(self, folder: Path, nth: int) -> None:
        self._folder, self._nth = folder, nth
        self._calls = 0

    def closes(self) -> bool:
        """For this call; says so then."""
        if not (self._folder / "armed").exists() or (self._folder / "reached").exists():
            return False
        self._calls += 1
        if self._calls != self._nth:
            return False
        (self._folder / "reached").touch()
        return True

    @property
    def is_shut(self) -> bool:
        return not (self._folder / "go").exists()


def _awaited(call: Callable[..., Any], place: Place, gate: _Gate) -> Callable[..., Any]:
    async def wait() -> None:
        if gate.closes():
            while gate.is_shut:  # noqa: ASYNC110 - another process opens it
                await asyncio.sleep(0.02)

    async def halting(*args: Any, **named: Any) -> Any:
        if not place.after:
            await wait()
        found = await call(*args, **named)
        if place.after:
            await wait()
        return found

    return halting


def _called(call: Callable[..., Any], place: Place, gate: _Gate) -> Callable[..., Any]:
    def wait() -> None:
        if gate.closes():
            while gate.is_shut:
                time.sleep(0.02)

    def halting(*args: Any, **named: Any) -> Any:
        if not place.after:
            wait()
        found = call(*args, **named)
        if place.after:
            wait()
        return found

    return halting
