"""Versions from the weight store: patched into a copy of what is here, and verified by the digests of all tensors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import structlog

from rollstream.schemas import SchemaError, WeightsManifest
from rollstream.schemas.weights.checkpoint_rules import is_computed
from rollstream.schemas.weights.delta import read_records
from rollstream.schemas.weights.finite import not_finite
from rollstream.schemas.wire.weights import Chunk
from rollstream.transport.weights import StoreProblem, WeightStore, WeightStoreError, read_chunk

from ..errors import CheckpointRefusedError, NotInStoreError, VersionRefusedError
from ..weights import checkpoint
from ..weights.safetensors_header import TensorHeader
from .chain import Chain, Link, find_chain
from .tensor_file import WEIGHTS, TensorFile, file_bytes, new_file
from .weights_cache import Kept, WeightsCache

AT_ONCE = 4
"""How many chunks are in memory at once, each with its bytes before and after compression."""
TRIES = 3
"""How often a chunk or a manifest is asked for in a row while the store does not answer."""
_PAUSE_S = 0.5
_LOOK_S = 0.2
_STAMP_S = 10.0

T = TypeVar("T")
R = TypeVar("R")
log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Questions:
    """Asks the store from a thread, several times in a row while it does not answer."""

    loop: asyncio.AbstractEventLoop
    """Where the questions run."""
    given_up: Event

    def ask(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Raises what the question raises, and `VersionRefusedError` once it is given up."""
        for left in reversed(range(TRIES)):
            try:
                return self._once(question)
            except WeightStoreError as error:
                if not error.passes or not left or self.given_up.wait(_PAUSE_S):
                    raise
                log.warning("weight store does not answer, trying again", error=str(error))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        answer = asyncio.run_coroutine_threadsafe(question(), self.loop)
        while not wait([answer], _LOOK_S).done:
            if self.given_up.is_set():
                answer.cancel()
                raise VersionRefusedError("given up before it was fetched")
        return answer.result()


class StoreVersions:
    """Brings versions from a weight store into the cache.

    Blocking calls, for the thread that prepares checkpoints, but for `stamp`. What the store is asked runs in the
    worker's event loop.
    """

    def __init__(
        self, *, store: WeightStore, cache: WeightsCache, model: Path | None, max_adapter_bytes: int = 2**30
    ) -> None:
        """Read the headers and the config of `model` now, because its folder may be gone later. None: any model."""
        self._store = store
        self._max_adapter_bytes = max_adapter_bytes
        self._cache = cache
        self._booted = None if model is None else checkpoint.Booted(folder=model)
        self._lacked: dict[str, str] = {}
        """The chunk that the newest refused version lacked, by the version's name."""
        self._config = b"{}" if model is None else _config(model)
        self._spoilt: set[str] = set()
        """Digests of versions in the cache whose copies had other bytes than they should: nothing is built on them."""

    def prepare(
        self,
        name: str,
        sha256: str,
        loop: asyncio.AbstractEventLoop,
        given_up: Event,
        *,
        is_adapter: bool = False,
    ) -> Kept:
        """The version `name` of the store, whose tensors have the digest `sha256`. An adapter's config is in its
        folder's `config.json`.

        Raises `VersionRefusedError`, `CheckpointRefusedError`. Nothing is left of one that is refused.
        """
        if (found := self._cache.find(sha256)) is not None:
            return found
        began, store = time.monotonic(), _Questions(loop=loop, given_up=given_up)
        bases = {
            kept.sha256: kept
            for kept in self._cache.kept
            if kept.tensors and kept.sha256 not in self._spoilt and self._cache.find(kept.sha256)
        }
        try:
            check = self._check_adapter if is_adapter else self._check_checkpoint
            chain = store.ask(partial(find_chain, self._store, name, sha256, check, bases))
            nbytes = file_bytes(chain.table) + len(chain.config or self._config)
            with self._cache.writing(name, nbytes, chain.base) as folder:
                self._write(folder, chain, store)
                kept = self._keep(folder, chain, sha256)
        except (WeightStoreError, SchemaError) as error:
            raise _refused(name, error) from None
        seconds = round(time.monotonic() - began, 3)
        base = None if chain.base is None else chain.base.folder.name
        log.info(
            "weights fetched", weights=name, base=base, deltas=len(chain.links), bytes=chain.num_bytes, seconds=seconds
        )
        return kept

    async def stamp(self, name: str) -> checkpoint.Stamp:
        """Whether the store has a version now, and what it lacked at the last try. Never raises."""
        parts = {name, self._lacked.get(name, name)}
        with suppress(WeightStoreError, SchemaError, TimeoutError):
            async with asyncio.timeout(_STAMP_S):
                return tuple((part, size, 0) for part, size in sorted((await self._store.sizes(parts)).items()))
        return ()

    def _check_checkpoint(self, manifest: WeightsManifest) -> None:
        if manifest.config:
            raise VersionRefusedError(f"weights {manifest.name}: an adapter, and announced as a checkpoint")
        if self._booted is not None:
            headers = {
                one.name: TensorHeader(dtype=one.dtype, shape=one.shape, start=0, end=0) for one in manifest.tensors
            }
            checkpoint.check_tensors(Path(manifest.name), headers, self._booted)

    def _check_adapter(self, manifest: WeightsManifest) -> None:
        """The rest is checked as for any adapter, once it is here."""
        if not manifest.config:
            raise VersionRefusedError(f"weights {manifest.name}: no adapter, and announced as one")
        if (nbytes := file_bytes(manifest.tensors)) > self._max_adapter_bytes:
            problem = f"{nbytes} bytes exceed the worker's --max-adapter-bytes {self._max_adapter_bytes}"
            raise VersionRefusedError(f"weights {manifest.name}: {problem}")

    def _write(self, folder: Path, chain: Chain, store: _Questions) -> None:
        with new_file(folder, chain.table) as file, ThreadPoolExecutor(AT_ONCE, "weights") as pool:
            if chain.base is None:
                file.begin()
            else:
                file.copy_from(chain.base.folder / WEIGHTS, store.given_up)
            touched: set[int] = set()
            for link in chain.links:  # one after another: a later one overwrites what an earlier one wrote
                fetch = partial(self._patch, chain.name, file, link, store)
                touched.update(*_each(pool, store.given_up, fetch, link.chunks))
            # All of them, because a disk or a memory may have changed what was copied. The longest first: no thread
            # is then left with a long one at the end.
            order = sorted(range(len(chain.table)), key=lambda at: -chain.table[at].num_bytes)
            try:
                _each(pool, store.given_up, partial(_verify, chain, file, store.given_up), order)
            except _OtherBytesError as error:
                if chain.base is not None and error.tensor not in touched:
                    self._spoilt.add(chain.base.sha256)
                raise

    def _patch(self, name: str, file: TensorFile, link: Link, store: _Questions, chunk: Chunk) -> set[int]:
        """Fetch a chunk and write what it changes. Returns which tensors that concerns."""
        try:
            plain = store.ask(partial(read_chunk, self._store, chunk, link.compression))
        except WeightStoreError:
            self._lacked = {name: chunk.sha256}
            raise
        touched = set()
        for record in read_records(plain, file.table):
            file.apply(record)
            touched.add(record.tensor)
        return touched

    def _keep(self, folder: Path, chain: Chain, sha256: str) -> Kept:
        (folder / checkpoint.CONFIG).write_bytes(chain.config or self._config)
        content = checkpoint.store_content(folder, sha256)
        kept = Kept(sha256=sha256, folder=folder, content=content, tensors=chain.table)
        self._cache.keep(kept)
        self._spoilt &= {one.sha256 for one in self._cache.kept} - {sha256}
        return kept


class _OtherBytesError(NotInStoreError):
    """Raised when a tensor of the result is not what the manifest says; `tensor` is its place in the table."""

    def __init__(self, weights: str, name: str, tensor: int) -> None:
        super().__init__(
            f"weights {weights}: tensor {name} is not what was published: the next anchor brings all weights"
        )
        self.tensor = tensor


def _refused(name: str, error: WeightStoreError | SchemaError) -> VersionRefusedError:
    lacks = isinstance(error, SchemaError) or error.reason in (StoreProblem.MISSING, StoreProblem.BROKEN)
    return (NotInStoreError if lacks else VersionRefusedError)(f"weights {name}: {error}")


def _each(pool: Executor, given_up: Event, call: Callable[[T], R], items: Iterable[T]) -> Sequence[R]:
    """`call` for each item, several at once. After an error none is begun any more, and those that wait give up."""
    calls = [pool.submit(call, item) for item in items]
    wait(calls, return_when=FIRST_EXCEPTION)
    failed = next((error for one in calls if one.done() and (error := one.exception()) is not None), None)
    if failed is not None:
        given_up.set()
        for one in calls:
            one.cancel()
        raise failed
    return [one.result() for one in calls]


def _verify(chain: Chain, file: TensorFile, given_up: Event, tensor: int) -> None:
    entry = chain.table[tensor]
    sha256, is_finite = file.digest(tensor, given_up)
    if sha256 != entry.sha256:
        raise _OtherBytesError(chain.name, chain.table[tensor].name, tensor)
    if not is_finite and not is_computed(entry.name, entry.shape):
        raise CheckpointRefusedError(Path(chain.name), WEIGHTS, not_finite(entry.name))


def _config(model: Path) -> bytes:
    """Empty for a model without a readable one; the engine says what is wrong with it."""
    with suppress(OSError):
        return (model / checkpoint.CONFIG).read_bytes()
    return b"{}"
