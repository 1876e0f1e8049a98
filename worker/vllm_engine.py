"""The only importer of vLLM in our process: an `AsyncLLM` that hangs no caller, and whose errors are ours.

vLLM reads its environment while it is imported, hence the order of the first lines.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import msgspec
import structlog

from schemas import ErrorCode, GenerationConfig
from worker import vllm_setup, vllm_translation
from worker.config import WorkerSettings
from worker.engine import Adapter, Completion, EngineInfo, GenerateRequest
from worker.errors import DataError, EngineDiedError, SettingsError
from worker.vllm_plugin import WORKER_PID

vllm_setup.prepare_environment(os.environ)

import vllm.exceptions  # noqa: E402 - see above, for all of these
from vllm import AsyncEngineArgs, SamplingParams  # noqa: E402
from vllm.inputs import tokens_input  # noqa: E402
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402
from vllm.v1.engine.async_llm import AsyncLLM  # noqa: E402
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError  # noqa: E402
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder  # noqa: E402

T = TypeVar("T")

log = structlog.get_logger()

SHUTDOWN_S = 10.0
"""What EngineCore and its workers get to end by themselves before SIGKILL; an interpreter's exit alone takes 5 s."""

# What vLLM raises for a request that it will not run. 0.26 uses ValueError and TypeError; later it has its own base,
# and wraps any other error of adding a request in EngineGenerateError.
_REFUSALS = (
    ValueError,
    TypeError,
    OverflowError,
    EngineGenerateError,
    msgspec.MsgspecError,
    vllm.exceptions.VLLMValidationError,
    getattr(vllm.exceptions, "VLLMClientError", ValueError),
)

_encoder, _decoder = MsgpackEncoder(), MsgpackDecoder(SamplingParams)


class VllmEngine:
    """An `Engine` (see `worker.engine`) over `AsyncLLM`, on CUDA or on the CPU."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.policy_version = 0
        """What the version spans of completions say: 0 is what the worker booted with."""
        self._settings = settings
        self._llm: Any = None
        self._info: EngineInfo | None = None
        self._death: str | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._adapters: dict[int, asyncio.Task[None]] = {}
        self._processes: list[BaseProcess] = []
        self._closing = asyncio.Lock()

    @property
    def info(self) -> EngineInfo:
        """Known once `start` has returned."""
        if self._info is None:
            raise EngineDiedError("the engine was never started")
        return self._info

    async def start(self) -> None:
        """Load the model and run a first request of each kind. Blocks the event loop while vLLM starts.

        Not in a thread: Linux ends an engine's processes with the thread that started them (PR_SET_PDEATHSIG).
        Raises `SettingsError` with vLLM's reason.
        """
        vllm_setup.check_plugin_installed()
        on_cpu = current_platform.is_cpu()
        arguments = vllm_setup.engine_arguments(self._settings, on_cpu=on_cpu)
        for name in vllm_setup.prepare_cpu_environment(os.environ) if on_cpu else ():
            log.warning("setting ignored: it kills vLLM's engine on the CPU", name=name)
        os.environ[WORKER_PID] = str(os.getpid())
        before = multiprocessing.active_children()
        try:
            self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        except Exception as error:
            # vLLM raises nearly every type here, and each means that the model or a setting does not work.
            raise SettingsError(f"--model {self._settings.model}: vLLM did not start: {error}") from error
        finally:
            self._processes = [child for child in multiprocessing.active_children() if child not in before]
        self._info = vllm_setup.read_info(self._llm.vllm_config, self._settings)
        await self._warm_up()
        self._llm.output_handler.add_done_callback(lambda _: self._die("its process ended"))

    async def _warm_up(self) -> None:
        config = GenerationConfig(max_new_tokens=1, num_return_sequences=2, logprobs=self.info.logprobs_flavour)
        await self.generate(GenerateRequest("warm-up", [0], config, (), None, None))
        await self.next_tokens("warm-up-beam", [0], 2, None)

    async def generate(self, request: GenerateRequest) -> list[Completion]:
        """The n completions, in order. Raises `DataError` for what vLLM refuses, `EngineDiedError`."""
        params = _passed_gate(request.prompt, vllm_translation.sampling_fields(request))
        output = await self._answer(self._run(request.request_id, request.prompt, params, request.adapter))
        return vllm_translation.completions(output, request.config, self.policy_version)

    async def next_tokens(
        self, request_id: str, prompt: list[int], k: int, adapter: Adapter | None
    ) -> list[tuple[int, float]]:
        """The k likeliest next tokens (fewer where the vocabulary is smaller), raw log-probs, likeliest first.

        Greedy, where vLLM's processed log-probs are the raw ones.
        """
        params = _passed_gate(prompt, vllm_translation.candidate_fields(min(k, self.info.vocab_size)))
        output = await self._answer(self._run(request_id, prompt, params, adapter))
        return vllm_translation.candidates(output)[:k]

    async def load_adapter(self, adapter: Adapter) -> None:
        """Load it once, whoever else waits for it. Raises `DataError` (`adapter_refused`); it may then be tried again.

        A request that names an adapter which vLLM cannot read kills the engine; `add_lora` only refuses it.
        """
        loading = self._adapters.get(adapter.int_id)
        if loading is None:
            loading = self._adapters[adapter.int_id] = asyncio.create_task(self._add_lora(adapter))
            loading.add_done_callback(lambda task: self._forget_failed(adapter, task))
        await asyncio.shield(loading)

    async def check(self) -> None:
        """A utility call, which EngineCore answers between two steps. Raises `EngineDiedError` after the timeout."""
        await self._utility(self._llm.is_sleeping())

    async def close(self) -> None:
        """End the engine's processes, with SIGKILL if need be; pending calls raise `EngineDiedError`."""
        already_dead = self._death is not None
        self._die("it was closed")
        async with self._closing:
            if already_dead:  # a hung engine obeys no shutdown: waiting for it would only delay the takeover
                for process in self._processes:
                    process.kill()
            if self._llm is not None:
                await self._shut_down()
            for process in self._processes:
                process.kill()
                await asyncio.to_thread(process.join)
            self._processes = []

    async def _run(self, request_id: str, prompt: list[int], params: Any, adapter: Adapter | None) -> Any:
        """The final `RequestOutput`."""
        output = None
        try:
            lora = None if adapter is None else _lora_request(adapter)
            async for latest in self._llm.generate(tokens_input(prompt), params, request_id, lora_request=lora):
                output = latest
        except asyncio.CancelledError:
            if self._death is None:
                # vLLM issue 57061: one that is cancelled while it is being added goes on running.
                await self._llm.abort(request_id)
            raise
        except _REFUSALS as error:
            if self._llm.errored:
                raise self._died("it failed while a request was added") from error
            raise _refusal(error.__cause__ or error) from error
        return output

    async def _add_lora(self, adapter: Adapter) -> None:
        try:
            await self._utility(self._llm.add_lora(_lora_request(adapter)))
        except EngineDiedError:
            raise
        except Exception as error:
            # A failed utility call is a bare Exception in every vLLM.
            reason = str(error).replace(str(adapter.path), adapter.name)
            raise DataError(ErrorCode.ADAPTER_REFUSED, "adapter", f"adapter {adapter.name!r}: {reason}") from error

    def _forget_failed(self, adapter: Adapter, loading: asyncio.Task[None]) -> None:
        if loading.cancelled() or loading.exception() is not None:
            del self._adapters[adapter.int_id]

    async def _utility(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._settings.engine_timeout_s):
                return await self._answer(call)
        except TimeoutError:
            raise self._died(f"no step in {self._settings.engine_timeout_s:g} s") from None

    async def _answer(self, call: Coroutine[Any, Any, T]) -> T:
        """The result of `call`. Raises `EngineDiedError` as soon as the engine is known to be dead.

        vLLM itself leaves utility calls waiting for ever when the engine dies, and any call when it is shut down.
        """
        if self._death is not None:
            call.close()
            raise EngineDiedError(self._death)
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if self._death is None or (caller is not None and caller.cancelling()):
                raise
            raise EngineDiedError(self._death) from None
        except EngineDeadError as error:
            raise self._died("its process ended") from error

    def _died(self, reason: str) -> EngineDiedError:
        self._die(reason)
        return EngineDiedError(self._death)

    def _die(self, reason: str) -> None:
        """The first reason stays; every pending call ends."""
        if self._death is None:
            self._death = f"the vLLM engine is gone: {reason}"
        for task in self._calls:
            task.cancel()

    async def _shut_down(self) -> None:
        """vLLM's own shutdown blocks. In a daemon thread: one that hangs must not keep our process."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            try:
                self._llm.shutdown(timeout=SHUTDOWN_S)
            finally:
                loop.call_soon_threadsafe(ended.set)

        self._llm.output_handler.cancel()  # else it logs the end of its engine as an error
        threading.Thread(target=shut_down, name="vllm-shutdown", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(SHUTDOWN_S + 5):
                await ended.wait()


def _passed_gate(prompt: list[int], fields: dict[str, Any]) -> Any:
    """`SamplingParams` that EngineCore is sure to decode: it does so outside any try, and what fails there hangs it.

    Raises `DataError` (`engine_refused`).
    """
    try:
        if {type(token) for token in prompt} != {int}:
            raise TypeError("prompt ids must be integers")
        params = SamplingParams(**fields, output_kind=RequestOutputKind.FINAL_ONLY, flat_logprobs=True)
        _decoder.decode(_encoder.encode(params))
    except _REFUSALS as error:
        raise _refusal(error) from error
    return params


def _refusal(error: BaseException) -> DataError:
    return DataError(ErrorCode.ENGINE_REFUSED, "config", f"vLLM refuses the request: {error}")


def _lora_request(adapter: Adapter) -> Any:
    return LoRARequest(lora_name=adapter.name, lora_int_id=adapter.int_id, lora_path=str(adapter.path))
