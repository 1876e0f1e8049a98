"""A worker is one task group of roles: if one role fails, all others end, and the process with them."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import structlog

from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.schemas.pause_reason import PauseReason
from rollstream.transport.traces.application import traces_of

from .adapters.disk_watch import watch_disk
from .adapters.make_adapters import make_adapters
from .cache_folder import CacheFolder
from .checkpoints.make_checkpoints import make_checkpoints
from .config import WorkerSettings
from .delivery.admission import Admission
from .delivery.answer_publisher import AnswerPublisher
from .delivery.lease import Leases
from .delivery.lease_agreement import LeaseAgreement
from .delivery.make_parts import make_parts
from .engine import Engine
from .errors import EngineDiedError, first_cause
from .intake.make_consumer import make_consumer
from .jobs.deadlines import RedisClock
from .jobs.job_trace import JobTraces
from .jobs.make_runner import make_runner
from .operations import logs
from .operations.control import Control
from .operations.early_end import end_by
from .operations.grace import Grace
from .operations.heartbeat import Heartbeat
from .operations.history import History
from .operations.memory_watch import MemoryWatch
from .operations.rate_meter import Filled
from .operations.reports import Reports
from .operations.rights_watch import watch_rights
from .operations.watchdog import watch
from .redis_io.connections import connect
from .rounds.make_rounds import make_rounds
from .startup.boot_probe import prove_boot_weights
from .startup.golden_jobs import reproduce
from .startup.start import Start
from .versions.activator import Activator
from .versions.make_follower import make_follower
from .versions.proofs import Proofs

log = structlog.get_logger()


class Worker:
    """Consumer, heartbeat and watchdog around one engine."""

    def __init__(self, *, settings: WorkerSettings, engine: Engine, start: Start | None = None) -> None:
        """`start`: an earlier start, if the engine took long to make and the worker should be seen meanwhile."""
        self._settings = settings
        self._start = start or Start(settings)
        self._engine = engine
        self._blocking = connect(settings.access)
        self._commands = connect(settings.access)
        self._upkeep = connect(settings.access)  # leases and heartbeats must not wait behind thousands of answers
        keys = Keys(settings.policy, partitions=settings.partitions)
        self._admission = Admission(
            limit=settings.admitted_sequences, limit_bytes=settings.inflight_bytes, places=settings.places
        )
        self._measures = measures = self._start.measures
        self._memory = MemoryWatch(engine=engine, admission=self._admission, measures=measures, by=settings.admission)
        self._proofs = Proofs()
        self._parts, contents = make_parts(
            settings=settings, redis=self._commands, keys=keys, engine=engine, measures=measures,
            check_proven=self._proofs.check, nearly_full=lambda: PauseReason.MEMORY in self._admission.paused,
        )  # fmt: skip
        self._publisher = AnswerPublisher(
            redis=self._commands,
            keys=keys,
            result_ttl_s=settings.result_ttl_s,
            measures=measures,
            check_proven=self._proofs.check,
            newest=lambda: self._follower.newest,
            wait=settings.redis_wait,
            parts=self._parts,
        )
        clock = RedisClock()
        self._traces = traces_of(
            os.environ,
            service="rollstream-worker",
            instance=settings.consumer,
            tell=log.bind(policy=settings.policy, consumer=settings.consumer).warning,  # in a thread, too
        )
        self._adapter_cache = CacheFolder(settings.adapter_cache)
        self._adapters = make_adapters(
            settings=settings, redis=self._commands, keys=keys, engine=engine, cache=self._adapter_cache
        )
        self._checkpoints = make_checkpoints(settings=settings, redis=self._commands, keys=keys)
        self._rounds = make_rounds(
            settings=settings, redis=self._commands, keys=keys, engine=engine, checkpoints=self._checkpoints
        )
        self._follower = make_follower(
            redis=self._commands,
            keys=keys,
            engine=engine,
            adapters=self._adapters,
            checkpoints=self._checkpoints,
            proofs=self._proofs,
            contents=contents,
            swap=settings.swap,
            changed=self._on_version,
            measures=measures,
            rounds=self._rounds,
        )
        self._runner, self._keeper = make_runner(
            settings=settings, redis=self._commands, keys=keys, engine=engine, adapters=self._adapters,
            publisher=self._publisher, parts=self._parts, admission=self._admission, follower=self._follower,
            clock=clock, measures=measures,
        )  # fmt: skip
        upkeep, expiring = self._upkeep, self._keeper.hurry
        self._leases = Leases(redis=upkeep, lease_s=settings.lease_s, measures=measures, expiring=expiring)
        self._reports = Reports(
            lasting=self._start.report,
            state=lambda: self.state,
            engine=engine,
            follower=self._follower,
            proofs=self._proofs,
            admission=self._admission,
            leases=self._leases,
            measures=measures,
        )
        self._heartbeat = Heartbeat(
            redis=self._upkeep,
            keys=keys,
            consumer=settings.consumer,
            interval_s=settings.heartbeat_s,
            report=self._reports.next,
            history=History(
                redis=self._upkeep,
                keys=keys,
                consumer=settings.consumer,
                sums=measures.sums,
                filled=lambda: Filled.of(
                    generates=self._admission.load.tokens > 0, is_full=self._admission.is_supplied
                ),
            ),
            roundtrip=measures.redis_roundtrip,
        )
        self._consumer = make_consumer(
            settings=settings,
            blocking=self._blocking,
            commands=self._commands,
            leases=self._leases,
            admission=self._admission,
            runner=self._runner,
            follower=self._follower,
            traces=JobTraces(tracer=self._traces.tracer, policy=settings.policy, clock=clock),
            clock=clock,
            measures=measures,
            failing=self._keeper.failing,
        )
        self._activator = Activator(redis=self._upkeep, keys=keys, consumer=settings.consumer, follower=self._follower)
        self._agreement = LeaseAgreement(redis=self._upkeep, keys=keys, lease_s=settings.lease_s)
        self._control = Control(
            redis=self._upkeep,
            keys=keys,
            consumer=settings.consumer,
            admission=self._admission,
            runner=self._runner,
            clock=clock,
            lease=self._agreement,
            drain=self._begin_drain,
        )
        self._start.health.follow(
            state=lambda: self.state,
            paused_for=lambda: self._admission.paused,
            is_loading=lambda: self._follower.loading is not None,
        )
        self._grace = Grace(keeper=self._keeper)
        self._starting = True
        self._signalled = False

    def __repr__(self) -> str:
        return f"<Worker {self.state} {self._consumer!r} groups={self._measures.groups}>"

    @property
    def state(self) -> WorkerState:
        """The state is starting until the newest policy version is loaded."""
        if self._admission.closed:
            return WorkerState.DRAINING
        if self._starting:
            return WorkerState.STARTING
        return WorkerState.PAUSED if self._admission.paused else WorkerState.SERVING

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or an operator asks for a drain, then finish what the grace period allows.

        Raises `SettingsError` before anything was served, `EngineDiedError` when the engine is gone.
        """
        async with AsyncExitStack() as ending:
            ending.push_async_callback(self._traces.aclose)
            for client in (self._commands, self._blocking, self._upkeep):
                ending.push_async_callback(client.aclose)
            ending.callback(self._start.close)
            await self._start.begin()
            await self._agreement.begin()
            ending.callback(self._adapter_cache.close)
            ending.push_async_callback(self._checkpoints.close)
            if self._rounds is not None:
                ending.push_async_callback(self._rounds.aclose)
            ending.push_async_callback(self._adapters.close)
            ending.push_async_callback(self._engine.close)
            if self._settings.serves_adapters:
                self._adapter_cache.open()
            self._checkpoints.open()
            await self._engine.start()
            logs.take_over()
            await prove_boot_weights(self._start.probe, self._engine, self._proofs)
            await reproduce(self._start.golden, self._engine, self._settings)
            self._start.over(self._engine.info)
            self._start.health.started()
            if self._start.metrics is not None:
                self._start.metrics.add(self._engine.collectors())
            ending.push_async_callback(self._heartbeat.retire)
            self._listen_for_signals()
            try:
                await self._serve()
            except ExceptionGroup as group:
                await self._leave(counted=True)
                raise first_cause(group) from group
            await self._leave(counted=False)

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as roles:
            start = self._keeper.begin(roles.create_task)
            others = [
                start(watch(self._engine, self._settings.engine_timeout_s, self._start.health.stepped)),
                start(self._start.health.run()),
                start(self._leases.run()),
                start(watch_rights(self._upkeep, self._settings)),
                start(watch_disk(self._adapters, self._admission)),
                start(self._memory.run()),
            ]
            try:
                async with self._grace.over:
                    await self._control.begin()
                    others += [start(self._control.run()), start(self._heartbeat.run())]
                    await self._begin()
                    # Where it fails with an engine that lives, nobody knows which weights sampled last.
                    others += [start(self._follower.run(), EngineDiedError), start(self._activator.run())]
                    await self._consumer.run()
                log.info("drained", groups=self._measures.groups)
            except TimeoutError:
                log.warning("grace period over", groups=self._measures.groups)
            self._grace.end()
            for other in others:
                other.cancel()

    async def _leave(self, *, counted: bool) -> None:
        """Hand over what running completions had, and then the jobs: a worker that takes one must find its parts."""
        await self._keeper.hand_in()
        await self._consumer.leave(counted=counted)

    async def _begin(self) -> None:
        """Admit jobs once the newest complete policy version is loaded, or if none is announced."""
        await self._follower.begin()
        self._starting = False
        self._heartbeat.hurry()
        log.info("serving", engine=self._settings.engine, max_num_seqs=self._engine.info.max_num_seqs)

    def _on_version(self) -> None:
        self._admission.set_paused(PauseReason.POLICY, on=self._follower.waits)
        self._heartbeat.hurry()

    def _listen_for_signals(self) -> None:
        # Until now `early_end` handles the signals: no job is held yet, and vLLM's processes end with this one
        # (engines/vllm/plugin.py).
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: int) -> None:
        if self._signalled:
            log.warning("second signal, ending hard")
            end_by(number)
        self._signalled = True
        if not self._admission.closed:
            self._begin_drain(signal.Signals(number).name)

    def _begin_drain(self, asked_by: str = "operator") -> None:
        grace_s = 0 if self._starting else self._settings.grace_s  # no job is held during the start
        log.info("draining", asked_by=asked_by, grace_s=grace_s, jobs=len(self._leases))
        self._consumer.stop()
        self._grace.begin(grace_s)
