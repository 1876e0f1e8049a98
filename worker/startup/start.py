"""A worker from its first word to Redis until its engine is there: seen while it loads, under a name of its own."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.schemas.printable import printable
from rollstream.schemas.times import STARTING_REPORT_TTL_S, report_ttl_s
from rollstream.schemas.weights.regular_files import open_regular
from rollstream.schemas.worker_report import DRAIN, PROCESS_FIELD, REPORT_FIELDS, WorkerReport, WorkerState

from ..config import WorkerSettings
from ..engine_registry import ENGINES
from ..errors import SettingsError
from ..operations import process_end
from ..operations.heartbeat import Heartbeat
from ..redis_io.connections import connect, never_passes, retrying
from .redis_checks import wait_for_redis

_LOOK_S = 0.2
_JOIN_S = 2.0

log = structlog.get_logger()


class Start:
    """Checks what can be checked without an engine, then reports `starting` from a thread: vLLM's start blocks ours."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._key = Keys(settings.policy, settings.partitions).worker(settings.consumer)
        self._process = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._started_at = round(time.time(), 3)
        self._over = threading.Event()
        self._retire = False
        self._thread: threading.Thread | None = None

    async def begin(self) -> None:
        """Return once Redis can serve, the name is ours and the report is there. A second time changes nothing.

        Raises `SettingsError`.
        """
        if self._thread is not None:
            return
        _check_folders(self._settings)
        redis = connect(self._settings.redis)
        try:
            await wait_for_redis(redis, self._settings)
            await self._claim(redis)
        finally:
            await redis.aclose()
        log.info("starting", engine=self._settings.engine, model=self._settings.model_name)
        self._thread = threading.Thread(target=self._report_until_over, name="starting", daemon=True)
        self._thread.start()
        process_end.before_end(self.close)

    def over(self) -> None:
        """The engine is there: the worker reports for itself. Blocks for as long as a report takes."""
        self._over.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def close(self) -> None:
        """The same, and where it did not come so far the report goes: nobody is starting any more."""
        self._retire = not self._over.is_set()
        self.over()

    def report(self) -> WorkerReport:
        """That it starts, and what stays the same as long as this process lives."""
        return WorkerReport(
            state=WorkerState.STARTING,
            engine=self._settings.engine,
            model=self._settings.model_name,
            partitions=self._settings.partitions,
            takes_checkpoints=self._settings.checkpoint_dir is not None,
            takes_adapters=self._settings.serves_adapters,
            lease_s=self._settings.lease_s,
            process=self._process,
            started_at=self._started_at,
        )

    async def _claim(self, redis: Redis) -> None:
        """Two workers of one name would take each other's jobs for their own. Raises `SettingsError`."""
        before = None
        while (found := await retrying("claim the name", self._try, redis)) is not None:
            if before is not None and found != before:
                name = f"--consumer {self._settings.consumer}"
                where = printable(found[0])
                raise SettingsError(f"{name}: a live worker has this name ({where}): give each worker one of its own")
            if before is None:
                log.info("a worker reported under this name, waiting to see whether it lives", process=found[0])
            before = found
            await asyncio.sleep(_LOOK_S)

    async def _try(self, redis: Redis) -> tuple[str, float | None] | None:
        """None: the name is ours. Else who has it, and when that one reported last."""
        told = WorkerReport()
        try:
            values: Any = await redis.hmget(self._key, REPORT_FIELDS)
            told = WorkerReport.of_values(values) or told
        except RedisError as error:
            if not never_passes(error):
                raise
            await redis.delete(self._key)  # it is no hash: no worker wrote it
        if told.process and not _is_gone(told.process):
            return told.process, told.seen_at
        async with redis.pipeline(transaction=True) as pipe:
            if told.process:
                pipe.delete(self._key)
            pipe.hdel(self._key, DRAIN)  # it was asked of a former process of our name
            pipe.hsetnx(self._key, PROCESS_FIELD, self._process)
            pipe.expire(self._key, self._ttl_s)
            pipe.hget(self._key, PROCESS_FIELD)
            *_, taken_by = await pipe.execute()
        return None if taken_by == self._process.encode() else (taken_by.decode(errors="replace"), None)

    @property
    def _ttl_s(self) -> int:
        return max(STARTING_REPORT_TTL_S, report_ttl_s(self._settings.heartbeat_s))

    def _report_until_over(self) -> None:
        asyncio.run(self._beat())

    async def _beat(self) -> None:
        redis = connect(self._settings.redis)
        heartbeat = Heartbeat(
            redis=redis, key=self._key, interval_s=self._settings.heartbeat_s, report=self.report, ttl_s=self._ttl_s
        )
        while True:
            try:
                await heartbeat.beat()
            except RedisError as error:
                log.warning("heartbeat missed", error=str(error), consumer=self._settings.consumer)
            if self._over.wait(self._settings.heartbeat_s):  # blocks this thread's loop, which has nothing else to do
                break
        if self._retire:
            await heartbeat.retire()
        with suppress(RedisError):
            await redis.aclose()


def _is_gone(process: str) -> bool:
    """Whether that process ran on this host and ended: it may be our former self, in a container also of our pid."""
    host, _, pid = process.rpartition("/")[0].rpartition("/")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _check_folders(settings: WorkerSettings) -> None:
    """Raises `SettingsError` for what would be found out only once the model is loaded."""
    loads_model = ENGINES[settings.engine].loads_model
    if loads_model and settings.model is not None:
        _check_model(settings.model)
    for flag, folder in (("--adapter-dir", settings.adapter_dir), ("--checkpoint-dir", settings.checkpoint_dir)):
        if folder is not None:
            try:
                next(iter(os.scandir(folder)), None)
            except OSError as error:
                raise SettingsError(f"{flag}: {folder} cannot be read: {error.strerror}") from None
    if loads_model or (settings.serves_adapters and settings.adapter_cache is None):
        try:
            tempfile.gettempdir()
        except OSError:
            problem = "no folder for temporary files can be written: set TMPDIR to one, or mount one at /tmp"
            raise SettingsError(problem) from None


def _check_model(model: Path) -> None:
    try:
        with open_regular(model / "config.json") as file:
            file.read(1)
    except FileNotFoundError:
        return  # told with what a model's folder needs
    except OSError as error:
        raise SettingsError(f"--model: {error.filename or model}: {error.strerror}") from None
