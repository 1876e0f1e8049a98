"""New weights for a running vLLM engine. After a swap it has all the new weights or all the old ones, and goes on.

Imports no vLLM: it calls an `AsyncLLM` through `Calls`, which end when the engine does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from rollstream.schemas.wire.rounds import Sent

from ....engine import Prove, SwapMode
from ....errors import CheckpointRefusedError, EngineDiedError, ProofFailedError, RoundMissedError, SwapFailedError
from ....weights import checkpoint
from ..calls import Calls
from ..loaded_adapters import LoadedAdapters
from ..partials import arrived
from ..staging.staging import Staging
from ..version_spans import Swap, Versions
from .new_weights import SENT, NewWeights, Weights, at_once, checked
from .proving import Prover

MAX_RELOADS = 4
"""How often the old weights are loaded at most after new ones could not be."""

log = structlog.get_logger()


class Swapper:
    """Makes one swap at a time; every checkpoint is compared with the boot model (`booted`)."""

    def __init__(
        self,
        *,
        llm: Any,
        calls: Calls,
        booted: Weights,
        adapters: LoadedAdapters,
        versions: Versions,
        prover: Prover,
        stage_limit_s: float,
    ) -> None:
        self._llm = llm
        self._calls = calls
        self._prover = prover
        self._booted = checkpoint.Booted(folder=booted.folder)
        self._why_not = ""
        self._serving: Weights | None = booted
        self._awaits_files = False
        """Whether those of what it serves come later: it came in a round."""
        self._adapters = adapters
        self._versions = versions
        self._staging = Staging(llm=llm, calls=calls, limit_s=stage_limit_s)
        self._one_at_a_time = asyncio.Lock()

    @property
    def experts_reached(self) -> tuple[int, int] | None:
        """See `Engine.experts_reached`."""
        return self._prover.experts_reached

    async def look(self) -> str:
        """Ask the engine, once, what it made of the model. Returns why no checkpoint can be swapped in, or ''."""
        found = await self._calls.utility(self._llm.collective_rpc("rollstream_swappable"))
        self._booted.tied = next(
            (tied for tied, _ in sorted(found, key=lambda one: not one[0]) if tied is not None), None
        )
        self._why_not = next((doubt for _, doubt in found if doubt), "")
        return self._why_not

    async def label(self, version: int) -> None:
        """Make vLLM report `version` with all tokens from now on, if it can (0.32 and later)."""
        if hasattr(self._llm, "update_weight_version"):
            await self._calls.utility(self._llm.update_weight_version(str(version)))

    async def swap(
        self,
        version: int,
        folder: Path,
        mode: SwapMode,
        content: checkpoint.Content | None,
        prove: Prove | None = None,
    ) -> float:
        """Raises `CheckpointRefusedError` before anything is touched, `SwapFailedError`, `EngineDiedError`.

        `content` is what the files held, if the caller has read them. What `prove` raises, `ProofFailedError` as it is,
        sends the engine back to its old weights. Returns the seconds in which vLLM sampled nothing, the proof included.
        """
        self._check_swappable(folder)
        if prove is not None:
            self._prover.check(version)
        async with self._one_at_a_time:
            if self._awaits_files:
                now = self._versions.now
                raise SwapFailedError(folder, version, now, f"there are no files yet of version {now}, to go back to")
            held = await asyncio.to_thread(checkpoint.read_content, folder) if content is None else content
            async with self._staging.around(folder, held):
                weights = await asyncio.to_thread(checked, folder, self._booted, held)
                new = NewWeights(bring=partial(self._read, weights), weights=weights)
                return await self._swap(version, folder, new, mode, prove)

    async def receive(
        self,
        version: int,
        sent: Sent,
        bring: Callable[[], Awaitable[None]],
        mode: SwapMode,
        prove: Prove | None = None,
        ready: Callable[[], Awaitable[None]] = at_once,
    ) -> float:
        """The same for weights that come through a link: `bring` has the engine load them, and leaves no files.

        `ready` is awaited when the engine stands still; nothing is touched where it raises. Raises `RoundMissedError`
        also where there is nothing to go back to, before anything is touched.
        """
        self._check_swappable(SENT)
        if prove is not None:
            self._prover.check(version)
        async with self._one_at_a_time:
            if self._serving is None:
                raise RoundMissedError(f"there are no files yet of version {self._versions.now}, to go back to")
            checkpoint.check_sent(sent, self._booted)
            async with self._staging.around(SENT, checkpoint.Content(sha256=None, files=())):
                return await self._swap(version, SENT, NewWeights(bring=bring, weights=None, ready=ready), mode, prove)

    async def located(self, version: int, weights: Weights) -> None:
        """From now on the engine goes back to these files, if it serves that version."""
        async with self._one_at_a_time:
            if version == self._versions.now:
                self._serving, self._awaits_files = weights, False

    async def lost(self, version: int) -> None:
        """From now on another version may be loaded, although there is nothing to go back to."""
        async with self._one_at_a_time:
            if version == self._versions.now:
                self._awaits_files = False

    async def _swap(self, version: int, folder: Path, new: NewWeights, mode: SwapMode, prove: Prove | None) -> float:
        async with self._adapters.changing:
            asked_at = time.monotonic()
            try:
                with self._failing(version, folder):
                    paused_at = await self._replace(version, new, mode, prove)
            finally:
                await self._resume()
            paused_s = time.monotonic() - paused_at
        log.info("policy version swapped", version=version, mode=mode, swap_s=round(time.monotonic() - asked_at, 4))
        return paused_s

    async def prepare(self, folder: Path, content: checkpoint.Content) -> None:
        """See `Engine.prepare`."""
        self._check_swappable(folder)
        weights = await asyncio.to_thread(checked, folder, self._booted, content)
        await self._staging.stage(folder, weights.content)

    def end(self) -> None:
        """Free what was prepared; the engine has ended."""
        self._staging.end()

    def _check_swappable(self, folder: Path) -> None:
        if self._why_not:
            remedy = "publish adapters, or start workers with the checkpoint as their --model, for a policy of its own"
            raise CheckpointRefusedError(folder, "the worker's model", f"no swap: {self._why_not}: {remedy}")

    @contextmanager
    def _failing(self, version: int, folder: Path) -> Iterator[None]:
        """Raise `SwapFailedError` for all but a death and a failed proof: vLLM's failed calls are bare Exceptions."""
        try:
            yield
        except (EngineDiedError, ProofFailedError):
            raise
        except Exception as error:
            raise SwapFailedError(folder, version, self._versions.now, str(error)) from error

    async def _replace(self, version: int, new: NewWeights, mode: SwapMode, prove: Prove | None) -> float:
        """Returns when vLLM had paused, in monotonic seconds: until then it sampled."""
        listed = await self._listed_adapters()
        asked_at = time.monotonic()
        await self._pause(mode)
        paused_at = time.monotonic()
        if self._prover.can_hold and not self._prover.knows:
            await self._prover.note(self._versions.now)
            await self._pause("keep")
        await new.ready()
        try:
            await self._load(version, new.bring, listed)
            if prove is not None:
                await self._prover.prove(version, prove)
        except EngineDiedError:
            raise
        except Exception as error:
            await self._restore(version, listed, error)
            raise
        if prove is None:
            self._prover.forget()
        self._serving, self._awaits_files = new.weights, new.weights is None
        times = {"asked_at": asked_at, "paused_at": paused_at, "resuming_at": time.monotonic()}
        came = arrived(self._llm.output_processor)
        self._versions.swapped(Swap(**times, version=version, aborted=mode == "abort", arrived=came))
        return paused_at

    async def _pause(self, mode: SwapMode) -> None:
        """Pause the engine and clear its KV cache: requests that are kept compute it again from their tokens."""
        self._versions.aborting = mode == "abort"
        pausing = self._llm.pause_generation(mode=mode, clear_cache=True)
        try:
            if mode == "wait":  # for all completions, without a limit
                await self._calls.stepping(pausing, self._llm.is_sleeping)
            else:
                await self._calls.utility(pausing)
        finally:
            self._versions.aborts += self._versions.aborting
            self._versions.aborting = False

    async def _read(self, weights: Weights) -> None:
        source = str(weights.folder), self._staging.has(weights.folder, weights.content)
        await self._calls.load(self._llm.collective_rpc("rollstream_reload", args=source))
        if await self._changed(weights):  # vLLM loads a checkpoint that has lost files without an error
            raise RuntimeError("its files changed while they were loaded")

    async def _load(self, version: int, bring: Callable[[], Awaitable[None]], listed: frozenset[int]) -> None:
        await bring()
        await self.label(version)
        # The pause has cleared the prefix cache. Its keys do not depend on the weights, so make sure that it is empty.
        if not await self._calls.utility(self._llm.reset_prefix_cache(reset_running_requests=True)):
            raise RuntimeError("vLLM did not drop its prefix cache")
        for request_id in await self._adapters.restore(listed):
            await self._calls.utility(self._llm.abort(request_id))

    async def _restore(self, version: int, listed: frozenset[int], cause: Exception) -> None:
        """Go back to the old weights, and look whether they are what they were before anything samples with them."""
        looks = self._prover.can_hold
        if looks:
            with self._calls.vital(f"it does not hold requests back after version {version} failed"):
                await self._pause("keep")  # a proof let it go on
                await self._prover.hold()
        await self._go_back(listed, cause)
        if looks:
            with self._calls.vital(f"version {version} failed ({cause}), and the weights before it are gone"):
                await self._prover.confirm(self._versions.now)

    async def _go_back(self, listed: frozenset[int], cause: Exception) -> None:
        """Load the old weights until two loads in a row succeed: half-loaded layers take a part of the next load."""
        now, old = self._versions.now, self._serving
        if old is None:
            raise self._calls.died(f"new weights could not be loaded ({cause}), and version {now} has no files")
        if await self._changed(old):
            raise self._calls.died(f"new weights could not be loaded ({cause}), and the files of version {now} changed")
        log.error("new weights failed, loading the old ones", cause=str(cause))
        good = 0
        for _ in range(MAX_RELOADS):
            try:
                await self._load(now, partial(self._read, old), listed)
            except EngineDiedError:
                raise
            except Exception as error:  # noqa: BLE001 - as in `_failing`
                log.warning("old weights not loaded", error=str(error))
                good = 0
                continue
            good += 1
            if good == 2:
                return
        raise self._calls.died(f"neither new weights nor those of version {now} could be loaded: {cause}")

    async def _changed(self, weights: Weights) -> bool:
        return not await self._calls.load(asyncio.to_thread(checkpoint.unchanged, weights.folder, weights.content))

    async def _resume(self) -> None:
        """Let the engine go on. Raises `EngineDiedError` also if it refuses, since it would stand still for ever."""
        with self._calls.vital("it does not go on after a swap"):
            await self._prover.release()
            await self._calls.utility(self._llm.resume_generation())

    async def _listed_adapters(self) -> frozenset[int]:
        return frozenset(await self._calls.utility(self._llm.list_loras())) if len(self._adapters) else frozenset()
