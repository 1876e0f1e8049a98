"""The engine over vLLM's `AsyncLLM`: no call hangs, and all errors are our own.

vLLM reads environment variables while it is imported, so the first lines must keep their order.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from rollstream.schemas import GenerationConfig

from ...config import WorkerSettings
from ...engine import Collector, EngineInfo, Prove, SwapMode
from ...errors import EngineDiedError, SettingsError
from ...requests import Adapter, Completion, Expanded, GenerateRequest, NextTokens, ScoreRequest, Scores
from ...weights import checkpoint
from .. import vllm_versions
from . import one_more, setup, translation
from .calls import Calls
from .guided.text_rules import rule_fields, with_forced
from .images.expanding import Images
from .inside import logits
from .loaded_adapters import LoadedAdapters
from .metrics import sparse_statistics
from .partials import Partials
from .plugin import WORKER_PID
from .processes import AT_ONCE_S, IN_ORDER_S, Processes, collect_less
from .routing.offer import with_routing
from .start import getting_ready, listening, secrets_of, why_not_started
from .swapping.new_weights import Weights
from .swapping.proving import Prover
from .swapping.swap import Swapper
from .swapping.transfers import Transfers
from .version_spans import Versions
from .words import special_tokens

UNTESTED = vllm_versions.check(os.environ, vllm_versions.installed())
"""The version of vLLM if nobody has run it and the operator wants it; else ''."""
setup.prepare_environment(os.environ)

from vllm import AsyncEngineArgs  # noqa: E402 - see above, for all of these
from vllm.platforms import current_platform  # noqa: E402
from vllm.v1.engine import EngineCoreOutput  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError  # noqa: E402

from .adapters import Adapters  # noqa: E402
from .features import all_facts, with_rules  # noqa: E402
from .gate import banned_words, passed_gate  # noqa: E402
from .guided.guides import Guides  # noqa: E402
from .log_lines import hand_up  # noqa: E402
from .metrics.stat_logger import EngineStatistics  # noqa: E402
from .requests import Requests  # noqa: E402

log = structlog.get_logger()


class VllmEngine(Transfers, Partials, Images, Adapters):
    """An `Engine` (see `worker.engine`) over `AsyncLLM`, on CUDA or on the CPU.

    `start` sets what is known of vLLM once, before the first request. After that a swap alone changes which version
    serves, and `_swaps` has those under way, so that a cancelled caller leaves none unwatched.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._llm: Any = None
        self._info: EngineInfo | None = None
        self._calls = Calls(
            dead=EngineDeadError, step_limit_s=settings.engine_timeout_s, load_limit_s=settings.load_timeout_s
        )
        self._adapters = LoadedAdapters(add=self._add_lora, remove=self._remove_lora, forget=self._forget_lora)
        self._versions = Versions()
        self._swapper: Swapper | None = None
        self._requests: Any = None
        self._running: dict[str, tuple[GenerateRequest, translation.Words]] = {}
        self._guides: Any = None
        self._watched = False
        self._special: dict[int, str] = {}
        self._swaps: set[asyncio.Task[float]] = set()
        self._processes = Processes()
        self._closing = asyncio.Lock()
        self._statistics = EngineStatistics() if settings.engine_metrics else None

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`; known once `start` has returned."""
        if self._info is None:
            raise EngineDiedError("the engine was never started")
        return self._info

    @property
    def policy_version(self) -> int:
        """The version that samples new requests; 0 is the boot model."""
        return self._versions.now

    @property
    def experts_reached(self) -> tuple[int, int] | None:
        """See `Engine.experts_reached`."""
        return None if self._swapper is None else self._swapper.experts_reached

    def each(self) -> tuple[VllmEngine]:
        """Itself."""
        return (self,)

    async def start(self) -> None:
        """Load the model and run a first request of each kind. Blocks the event loop while vLLM starts.

        Do not call it in a thread: Linux ends the engine's processes with the thread that started them.
        Raises `SettingsError` with vLLM's reason.
        """
        if UNTESTED:
            log.warning(
                "nobody has run this vLLM: what it samples may be wrong", vllm=UNTESTED, runs=vllm_versions.runs()
            )
        setup.check_plugin_installed()
        on_cpu = current_platform.is_cpu()
        arguments = with_rules(setup.engine_arguments(self._settings, on_cpu=on_cpu), self._settings)
        for name in setup.prepare_cpu_environment(os.environ) if on_cpu else ():
            log.warning("setting ignored: it kills vLLM's engine on the CPU", name=name)
        os.environ[WORKER_PID] = str(os.getpid())
        sparse_statistics.tell(os.environ, on=self._settings.engine_metrics)
        loggers = None if self._statistics is None else [self._statistics.logger_class()]
        model = Path(arguments["model"])
        booted = Weights(folder=model, content=checkpoint.unread_content(model))  # before vLLM reads them
        if left_out := checkpoint.unread(model):
            log.warning("the model's folder holds weights that vLLM may leave out", file=left_out)
        secrets = secrets_of(self._settings.engine_args, os.environ)
        with listening(os.environ) as report:
            try:
                asked = AsyncEngineArgs(**arguments)
                hand_up(asked)
                with self._processes.collect():
                    self._llm = AsyncLLM.from_engine_args(
                        one_more.given(setup.sparing_states(asked)), stat_loggers=loggers
                    )
            except Exception as error:
                # vLLM raises nearly every type here, and each means that the model or a setting does not work.
                cause = why_not_started(error, report, secrets)
                raise SettingsError(f"--model {self._settings.model}: vLLM did not start: {cause}") from error
            with getting_ready(self._settings.model, report, secrets, lambda: self._processes.exit_codes):
                await self._get_ready(booted)
        collect_less()
        self._llm.output_handler.add_done_callback(lambda _: self._calls.die("its process ended"))

    async def _get_ready(self, booted: Weights) -> None:
        """All that is asked of an engine before it serves."""
        self._info = setup.read_info(self._llm.vllm_config, self._llm.tokenizer, all_facts(self._llm))
        self._guides = Guides(tokenizer=self._llm.tokenizer, vocab_size=self._info.vocab_size)
        self._requests = Requests(llm=self._llm, calls=self._calls, adapters=self._adapters, versions=self._versions)
        prover = Prover(llm=self._llm, calls=self._calls, score=self._requests.score_alone)
        self._swapper = Swapper(
            llm=self._llm, calls=self._calls, booted=booted, adapters=self._adapters, versions=self._versions,
            prover=prover, stage_limit_s=self._settings.load_timeout_s,
        )  # fmt: skip
        self._special = special_tokens(self._llm.tokenizer)
        if (doubt := await self._swapper.look()) and self._settings.checkpoint_dir is not None:
            log.warning("every checkpoint that is published will be refused", why=doubt)
        await prover.look()
        await self._check_model()
        await self._swapper.label(self.policy_version)
        await self._watch_logits()
        await self._warm_up()
        await self._look_at_images()
        self._info = await with_routing(
            self.info, asked=self._settings.routed_experts, on_cpu=current_platform.is_cpu(), llm=self._llm,
            calls=self._calls, generate=self.generate,
        )  # fmt: skip
        if self._statistics is not None:
            self._statistics.begin()

    async def _check_model(self) -> None:
        found = await self._calls.utility(self._llm.collective_rpc("rollstream_model_doubt"))
        if doubt := next(filter(None, found), ""):
            raise SettingsError(f"--model {self._settings.model}: {doubt}")

    async def _watch_logits(self) -> None:
        """See `inside.logits`. If the engine has no such count, every request asks for log-probs."""
        watching = await self._calls.utility(self._llm.collective_rpc("rollstream_watch_logits"))
        self._watched = all(watching) and logits.can_end_lost(EngineCoreOutput.__struct_fields__)
        if not self._watched:
            log.warning("this vLLM does not count NaNs: log-probs are computed also for jobs that want none")

    async def _warm_up(self) -> None:
        # Two tokens, so that holding back a token until the next one is tried before there is a job to lose.
        config = GenerationConfig(max_new_tokens=2, num_return_sequences=2, logprobs=self.info.logprobs_flavour)
        await self.generate(
            GenerateRequest(request_id="warm-up", prompt=[0], config=config, stop_token_ids=(), seed=None, adapter=None)
        )
        await self.next_tokens("warm-up-beam", [0], 2, None)

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """The n completions, in order. Raises `DataError` for a request that vLLM refuses, `EngineDiedError`."""
        await self._guides.check(request.config.guided)
        fields = translation.sampling_fields(request, self.info, always_logprobs=not self._watched)
        params = passed_gate(request.prompt, fields | rule_fields(request.config))
        words = translation.Words(special=self._special, bad=banned_words(params, self._llm.tokenizer, self.info))
        asked = request.request_id, request.prompt, params, request.adapter
        with self._readable(request, words):
            output, start = await self._requests.run(*asked, goes_on=request.goes_on, images=request.images)
        self._guides.check_ended(request.config.guided, output)
        spans = [self._versions.spans(one, start, time.monotonic()) for one in output.outputs]
        found = translation.completions(output, request, spans, words, self.info)
        return with_forced(found, request, self.info.thinking_marks)

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None, images: Expanded | None = None
    ) -> NextTokens:
        """The k likeliest next tokens (fewer if the vocabulary is smaller), with raw log-probs.

        The request is greedy: vLLM's processed log-probs are then the raw ones.
        """
        params = passed_gate(prompt, translation.candidate_fields(min(k, self.info.vocab_size)))
        output, start = await self._requests.run(request_id, prompt, params, adapter, images=images)
        found = translation.candidates(output)
        ((version, _),), exact = self._versions.spans(output.outputs[0], start, time.monotonic())
        return NextTokens(candidates=tuple(found[:k]), version=version, version_exact=exact)

    async def score(self, request: ScoreRequest) -> Scores:
        """See `Engine.score`. Raises `DataError`, `EngineDiedError`."""
        scored: Scores = await self._requests.score(request)
        return scored

    async def prepare(self, path: Path, content: checkpoint.Content) -> None:
        """See `Engine.prepare`. Reading and mapping may take `load_timeout_s` each."""
        if self._swapper is None:
            raise EngineDiedError("the engine was never started")
        await self._swapper.prepare(path, content)

    async def load_checkpoint(
        self,
        version: int,
        path: Path,
        mode: SwapMode,
        content: checkpoint.Content | None = None,
        prove: Prove | None = None,
    ) -> float:
        """See `Engine.load_checkpoint`. The pause is over when this returns or raises.

        Reading weights may take `load_timeout_s`, each other step `engine_timeout_s`; waiting for completions any time.
        """
        if self._swapper is None:
            raise EngineDiedError("the engine was never started")
        swapping = asyncio.create_task(self._swapper.swap(version, path, mode, content, prove))
        self._swaps.add(swapping)
        swapping.add_done_callback(self._swap_over)
        return await asyncio.shield(swapping)

    def collectors(self) -> Sequence[Collector]:
        """With `--engine-metrics`, vLLM's statistics since `start`."""
        return () if self._statistics is None else self._statistics.collectors()

    async def check(self) -> None:
        """A utility call, which EngineCore answers between two steps. Raises `EngineDiedError` after the timeout.

        Waits for the end of a load, which has a limit of its own.
        """
        await self._calls.loaded()
        await self._calls.utility(self._llm.is_sleeping())

    async def close(self) -> None:
        """End the engine's processes, with SIGKILL if need be; pending calls raise `EngineDiedError`."""
        already_dead = self._calls.death is not None
        self._calls.die("it was closed")
        async with self._closing:
            if already_dead:  # a hung engine ignores a shutdown, and waiting would delay the takeover of its jobs
                self._processes.signal()
            if self._llm is not None:
                await self._processes.shut_down(self._llm, AT_ONCE_S if self._is_alone() else IN_ORDER_S)
            await self._processes.kill()
        if self._swapper is not None:
            self._swapper.end()
        if self._guides is not None:
            await self._guides.end()
        gc.unfreeze()  # at the end of the process triton warns of objects that were not collected

    def _is_alone(self) -> bool:
        """Whether the engine is one process with nothing but memory, which would take 3 s of a core to end in order."""
        config = self._llm.vllm_config
        is_one = config.parallel_config.world_size == 1 and config.kv_transfer_config is None
        return is_one and current_platform.is_cpu()
