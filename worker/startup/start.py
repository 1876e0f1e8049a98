"""A worker from its first contact with Redis until its engine is ready: its name is unique, its state `starting`."""

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
from typing import TYPE_CHECKING, Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Golden, Keys
from rollstream.schemas.hashes.worker_report import DRAIN, PROCESS_FIELD, REPORT_FIELDS, WorkerReport, WorkerState
from rollstream.schemas.printable import printable
from rollstream.schemas.times import STARTING_REPORT_TTL_S, report_ttl_s
from rollstream.schemas.weights.regular_files import open_regular
from rollstream.schemas.wire.proofs.probe import Probe

from ..config import WorkerSettings
from ..engine import EngineInfo
from ..engine_registry import ENGINES
from ..errors import SettingsError
from ..measure.measures import Measures
from ..measure.redis_errors import FAILED
from ..operations import early_end
from ..operations.health import Health
from ..operations.heartbeat import Heartbeat
from ..redis_io.connections import connect, never_passes, retrying
from .boot_probe import read_probe
from .golden_jobs import read_golden_jobs
from .metrics import serve_metrics
from .redis_checks import wait_for_redis

if TYPE_CHECKING:
    from rollstream.transport.metrics.server import MetricsServer

_LOOK_S = 0.2
_JOIN_S = 2.0

log = structlog.get_logger()


class Start:
    """Checks what needs no engine, then reports `starting` from a thread, since vLLM's start blocks the main one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._keys = Keys(settings.policy, partitions=settings.partitions)
        self._key = self._keys.worker(settings.consumer)
        self._process = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._started_at = round(time.time(), 3)
        self.measures = Measures()
        self.health = Health(engine_timeout_s=settings.engine_timeout_s, load_timeout_s=settings.load_timeout_s)
        self.metrics: MetricsServer | None = None
        """What answers Prometheus and probes, from `begin` to `close`; None without `--metrics-port`."""
        self._info: EngineInfo | None = None
        self.probe: Probe | None = None
        """That of the boot model, from `begin` on; None without `--probe`."""
        self.golden: Golden | None = None
        """The jobs of `--golden`, from `begin` on."""
        self._over = threading.Event()
        self._retire = False
        self._thread: threading.Thread | None = None

    async def begin(self) -> None:
        """Return once Redis can serve, this worker owns its name and the report is written. A second call does nothing.

        Raises `SettingsError`.
        """
        if self._thread is not None:
            return
        _check_folders(self._settings)
        self.probe = read_probe(self._settings.probe) if self._settings.probe is not None else None
        self.golden = read_golden_jobs(self._settings)
        self._starting()
        self.metrics = serve_metrics(self._settings, self.measures, self.health.pages())
        redis = connect(self._settings.access)
        try:
            await wait_for_redis(redis, self._settings)
            await self._claim(redis)
        finally:
            await redis.aclose()
        log.info("starting", engine=self._settings.engine, model=self._settings.model_name)
        self._thread = threading.Thread(target=self._report_until_over, name="starting", daemon=True)
        self._thread.start()
        early_end.before_end(self._end_reports)

    def over(self, info: EngineInfo | None = None) -> None:
        """The engine is ready, and the worker reports by itself: stop the thread. Blocks while a report is written.

        `info`: what the ready engine says of itself, for `report`.
        """
        self._info = info or self._info
        self._over.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def close(self) -> None:
        """Stop the thread, and answer Prometheus no more. Safe to call twice."""
        self._end_reports()
        if self.metrics is not None:
            self.metrics.close()
            self.metrics = None

    def _end_reports(self) -> None:
        """Stop the thread; if the engine never became ready, remove the report too."""
        self._retire = not self._over.is_set()
        self.over()

    def report(self) -> WorkerReport:
        """The report of a starting worker, with all that stays the same as long as the process lives."""
        return WorkerReport(
            state=WorkerState.STARTING,
            engine=self._settings.engine,
            model=self._settings.model_name,
            partitions=self._settings.partitions,
            takes_checkpoints=self._settings.checkpoint_dir is not None,
            takes_store=self._settings.weights is not None,
            takes_rounds=self._settings.weight_transfer or "",
            takes_adapters=self._settings.serves_adapters,
            lease_s=self._settings.lease_s,
            heartbeat_s=self._settings.heartbeat_s,
            vocab_size=None if self._info is None else self._info.vocab_size,
            max_logprobs=None if self._info is None else self._info.max_logprobs,
            max_model_len=None if self._info is None else self._info.max_model_len,
            dtype="" if self._info is None else self._info.dtype,
            runs_on="" if self._info is None else self._info.runs_on,
            metrics_port=None if self.metrics is None else self.metrics.port,
            process=self._process,
            started_at=self._started_at,
        )

    def _starting(self) -> WorkerReport:
        self.measures.report = report = self.report()
        return report

    async def _claim(self, redis: Redis) -> None:
        """Take the name. Two workers of one name would mix up their jobs. Raises `SettingsError` if it is taken."""
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
        """Try to take the name; None if it is ours. Else the process that has it, and when it reported last."""
        told = WorkerReport()
        try:
            values: Any = await redis.hmget(self._key, REPORT_FIELDS)
            told = WorkerReport.of_values(values) or told
        except RedisError as error:
            if not never_passes(error):
                raise
            await redis.delete(self._key)  # it is no hash, so no worker wrote it
        if told.process and not _is_gone(told.process):
            return told.process, told.seen_at
        async with redis.pipeline(transaction=True) as pipe:
            if told.process:
                pipe.delete(self._key)
            pipe.hdel(self._key, DRAIN)  # that request was for a former process of this name
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
        redis = connect(self._settings.access)
        heartbeat = Heartbeat(
            redis=redis,
            keys=self._keys,
            consumer=self._settings.consumer,
            interval_s=self._settings.heartbeat_s,
            report=self._starting,
            ttl_s=self._ttl_s,
        )
        while True:
            try:
                await heartbeat.beat()
            except RedisError as error:
                FAILED.add()
                log.warning("heartbeat missed", error=str(error), consumer=self._settings.consumer)
            if self._over.wait(self._settings.heartbeat_s):  # blocks this thread's loop, which does nothing else
                break
        if self._retire:
            await heartbeat.retire()
        with suppress(RedisError):
            await redis.aclose()


def _is_gone(process: str) -> bool:
    """Whether that process ran on this host and has ended. In a container an earlier one may have had our pid."""
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
    """Raises `SettingsError` for faults of folders that would else be found only after the model is loaded."""
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
        return  # the engine tells what a model's folder needs
    except OSError as error:
        raise SettingsError(f"--model: {error.filename or model}: {error.strerror}") from None
