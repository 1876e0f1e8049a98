"""Brings the weights of a version to this worker, and swaps the engine to them, proven. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog

from ..adapters.stored import stored_name
from ..adapters.supply import AdapterSupply
from ..checkpoints.supply import CheckpointSupply, Prepared, Wanted
from ..engine import Engine, SwapMode
from ..errors import RoundMissedError, SwapFailedError, VersionRefusedError
from ..measure.measures import Measures
from ..requests import Adapter
from ..rounds.receiver import RoundReceiver
from ..weights.checkpoint import Stamp
from ..weights.contents import Contents
from .announced import Announced
from .proof import Proof, check_fits, proof_by_each
from .proofs import Proofs
from .served import InRound, Ready, Served

log = structlog.get_logger()


class VersionLoader:
    """Holds the adapter that is served, and at most one version that was prepared and waits for its activation.

    Only the follower calls it, one call at a time.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        adapters: AdapterSupply,
        checkpoints: CheckpointSupply,
        rounds: RoundReceiver | None,
        proofs: Proofs,
        contents: Contents,
        swap: SwapMode,
        measures: Measures,
    ) -> None:
        self._engine = engine
        self._adapters = adapters
        self._checkpoints = checkpoints
        self._rounds = rounds
        self._proofs = proofs
        self._contents = contents
        self._swap = swap
        self._measures = measures
        self._using = ExitStack()
        self.ahead: Ready | None = None
        """What could be served at once."""

    async def stamp(self, announced: Announced) -> Stamp:
        """A value that changes with the files of a refused version, and of one to go back to. Never raises."""
        if announced.source == "adapter" and announced.transport == "folder":  # it lies in Redis
            return ()
        back = () if self._rounds is None else self._rounds.stamp()
        return (*await self._checkpoints.stamp(_wanted(announced)), *back)

    async def prepare(self, announced: Announced, serving: Served, stamp: Stamp, *, staged: bool) -> Ready:
        """Bring and verify the weights while generation goes on; `staged`: into memory too, so that a swap reads none.

        Raises an error of `retries.REFUSED`.
        """
        began = time.monotonic()
        if announced.problem:
            raise VersionRefusedError(announced.problem)
        _check_kind(announced, serving)
        if announced.probe is not None:
            check_fits(announced.probe, announced.version, self._engine.info)
        if announced.source == "adapter":
            return await self._prepare_adapter(announced, stamp, began)
        if self._rounds is not None and announced.transport == "nccl" and announced.is_at_once:
            return Ready(
                announced=announced, weights=InRound(rounds=self._rounds), stamp=stamp, seconds=time.monotonic() - began
            )
        weights = await self._checkpoints.prepare(_wanted(announced))
        if staged:
            await self._stage(announced, weights)
        return Ready(announced=announced, weights=weights, stamp=stamp, seconds=time.monotonic() - began)

    async def serve(self, ready: Ready, serving: Served) -> Served:
        """Swap to the version instead of `serving`. After an error of `retries.REFUSED` the old one serves on.

        Raises `UnprovenError` if the engine swapped to weights without asking whether they are right.
        """
        announced, weights, adapter = ready.announced, ready.weights, None
        _check_kind(announced, serving)  # once more: it may have been prepared before that one was served
        self._contents.serves(announced.version, announced.content(self._contents))
        if isinstance(weights, InRound):
            await self._receive(announced, weights.rounds)
        elif isinstance(weights, Prepared):
            await self._swap_to(announced, weights)
        else:
            adapter = weights
            self._proofs.allow(announced.version, ready.proof)
        self._measures.swap["prepare"].add(ready.seconds)
        self._using, before = ready.using, self._using
        before.close()
        if ready is self.ahead:
            self.ahead = None
        elif adapter is None:
            self.forget()  # the engine holds only what it swapped to
        return Served(announced=announced, adapter=adapter)

    def hold(self, ready: Ready) -> None:
        """Keep what was prepared, instead of any other, until it is served or forgotten."""
        self.forget()
        self.ahead = ready

    def forget(self) -> None:
        """Let go of what was prepared."""
        if self.ahead is not None:
            self.ahead.using.close()
        self.ahead = None

    def keep(self, wanted: Sequence[Announced]) -> None:
        """Let go of what was prepared unless it is one of these."""
        if self.ahead is not None and self.ahead.announced not in wanted:
            self.forget()

    async def renew(self, serving: Served) -> None:
        """Renew in Redis the adapters that are served or will be, for workers that need them later."""
        ahead = None if self.ahead is None else self.ahead.weights
        for adapter in (serving.adapter, ahead):
            if isinstance(adapter, Adapter):
                await self._adapters.renew(adapter.name)

    async def _prepare_adapter(self, announced: Announced, stamp: Stamp, began: float) -> Ready:
        with ExitStack() as using:
            adapter = await self._load_adapter(announced, using)
            proof: Proof | None = None
            if announced.probe is not None:
                proof = await proof_by_each(announced.probe, announced.version, self._engine, adapter)
            return Ready(
                announced=announced,
                weights=adapter,
                stamp=stamp,
                seconds=time.monotonic() - began,
                proof=proof,
                using=using.pop_all(),
            )

    async def _load_adapter(self, announced: Announced, using: ExitStack) -> Adapter:
        """From Redis or the weight store; it stays until `using` is closed."""
        if announced.transport == "folder":
            using.enter_context(self._adapters.in_use(announced.location))
            return await self._adapters.load(announced.location, announced.sha256)
        name = stored_name(announced.location, announced.sha256)
        using.enter_context(self._adapters.in_use(name))

        async def bring() -> Path:
            return (await self._checkpoints.prepare(_wanted(announced))).folder

        return await self._adapters.load_stored(name, announced.sha256, bring)

    async def _stage(self, announced: Announced, weights: Prepared) -> None:
        try:
            await self._engine.prepare(weights.folder, weights.content)
        except SwapFailedError as error:
            log.warning("weights not staged, the swap reads files", version=announced.version, error=str(error))

    async def _receive(self, announced: Announced, rounds: RoundReceiver) -> None:
        """Swap in the version's round; where that is missed, or breaks, to its files in the weight store."""
        info = self._engine.info
        try:
            with self._proofs.loading(announced.version, announced.probe, info) as prove:
                paused_s = await rounds.receive(_wanted(announced), self._swap, prove)
        except RoundMissedError as error:
            log.warning("taking the version from the weight store", version=announced.version, why=str(error))
            weights = await self._checkpoints.prepare(_wanted(announced))
            await self._stage(announced, weights)
            await self._swap_to(announced, weights)
        else:
            self._swapped(announced.version, paused_s)

    async def _swap_to(self, announced: Announced, weights: Prepared) -> None:
        version = announced.version
        if self._rounds is not None:
            await self._rounds.check_way_back()
        with self._proofs.loading(version, announced.probe, self._engine.info) as prove:
            paused_s = await self._engine.load_checkpoint(version, weights.folder, self._swap, weights.content, prove)
        self._swapped(version, paused_s)
        await self._checkpoints.serving(weights)

    def _swapped(self, version: int, paused_s: float) -> None:
        self._proofs.reached(version, self._engine.experts_reached)
        self._measures.swap["pause"].add(paused_s)


def _check_kind(announced: Announced, serving: Served) -> None:
    if serving.version and (announced.source == "adapter") != (serving.adapter is not None):
        raise VersionRefusedError(
            f"version {announced.version} is published as {announced.source}, {serving.version} was not: an "
            "adapter belongs to the model that workers boot with; publish one kind only, or start the workers again"
        )


def _wanted(announced: Announced) -> Wanted:
    """Its files; what is sent in a round is in the weight store too."""
    return Wanted(
        version=announced.version,
        location=announced.location,
        sha256=announced.sha256,
        transport="store" if announced.transport == "nccl" else announced.transport,
        base=announced.base,
        is_adapter=announced.source == "adapter",
    )
