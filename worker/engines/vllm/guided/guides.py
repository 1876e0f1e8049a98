"""Guides (regex, JSON schema, choice, grammar): whether one compiles within bounds, before the engine sees it.

Only `worker.engines.vllm.engine` imports this, after it has prepared the environment that vLLM reads at import.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from typing import Any

import structlog
import xgrammar
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

from rollstream.schemas import ErrorCode
from rollstream.schemas.generation.generation_parts import Guided

from ....errors import DataError
from ..causes import with_cause
from ..gate import REFUSALS
from ..inside.guide_costs import TOO_SLOW
from . import guide_compiler
from .text_rules import guide_parts

LIMITS = {"cpu_s": 10.0, "wall_s": 60.0, "read_s": 0.05, "memory": 2**30}
"""For one guide: seconds of a processor and on the clock, seconds of a processor for reading alone (the worker reads it
again for each group, and answers nobody meanwhile), bytes of memory."""

START_S = 120.0
"""Seconds until the compiler must have answered its first guide, beside that guide's own."""

SLOW = "in the middle of a completion it took too long to say what may follow: write it with fewer ways to read a text"

MAX_VERDICTS = 1024
"""Guides of which it is remembered whether they compile."""

_log = structlog.get_logger()


class Guides:
    """Asks a process of its own whether guides compile, and remembers what it said. It starts with the first guide."""

    def __init__(self, *, tokenizer: Any, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._verdicts: dict[bytes, str] = {}
        self._asked: dict[bytes, asyncio.Task[str]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._compiler: Process | None = None

    async def check(self, guided: Guided | None) -> None:
        """Raises `DataError` for a guide that does not compile within `LIMITS`, or that vLLM refuses."""
        if guided is None:
            return
        parts = guide_parts(guided)
        question = _question(parts)
        digest = _digest(question)
        problem = self._verdicts.get(digest)
        if problem is None:
            if digest not in self._asked:
                self._asked[digest] = asyncio.create_task(self._decide(parts, question))
                self._asked[digest].add_done_callback(lambda _: self._asked.pop(digest))
            # A job that is cancelled meanwhile must not leave the compiler's answer unread.
            problem = await asyncio.shield(self._asked[digest])
            self._remember(digest, problem)
        if problem:
            said = f"guided.{guided.way}: {problem}"
            raise DataError(ErrorCode.INVALID_CONFIG, "guided", said)

    def check_ended(self, guided: Guided | None, output: Any) -> None:
        """Raises `DataError` where EngineCore ended a completion for its guide's cost; it is refused from then on."""
        if guided is None or all(one.stop_reason != TOO_SLOW for one in output.outputs):
            return
        self._remember(_digest(_question(guide_parts(guided))), SLOW)
        raise DataError(ErrorCode.INVALID_CONFIG, "guided", f"guided.{guided.way}: {SLOW}")

    async def end(self) -> None:
        """End the compiler's process."""
        compiler, self._compiler = self._compiler, None
        if compiler is not None:
            with contextlib.suppress(ProcessLookupError):
                compiler.kill()
            await compiler.wait()
            if compiler.stdin is not None:
                compiler.stdin.close()

    def _remember(self, digest: bytes, problem: str) -> None:
        self._verdicts[digest] = problem
        while len(self._verdicts) > MAX_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]

    async def _decide(self, parts: dict[str, Any], question: str) -> str:
        async with self._one_at_a_time:
            try:
                problem = await self._compile(question)
            except (OSError, ValueError, EOFError, TimeoutError) as error:
                await self.end()
                _log.warning("guides cannot be compiled", why=f"{type(error).__name__}: {error}")
                said = (
                    f"guided: no guide can be compiled in a process of its own here ({type(error).__name__}: {error})"
                )
                raise DataError(ErrorCode.ENGINE_REFUSED, "guided", said) from error
        return problem or _refused_by_vllm(parts)

    async def _compile(self, question: str) -> str:
        """What the compiler says; raises what pipes raise where it is gone."""
        starts = self._compiler is None
        compiler = self._compiler or await self._start()
        if compiler.stdin is None or compiler.stdout is None:
            raise EOFError("it has no pipes")
        compiler.stdin.write(f"{question}\n".encode())
        await compiler.stdin.drain()
        async with asyncio.timeout(LIMITS["wall_s"] * 2 + (START_S if starts else 0)):
            line = await compiler.stdout.readline()
        if not line:
            raise EOFError("its process ended")
        return str(json.loads(line))

    async def _start(self) -> Process:
        # -P: without it the modules beside the script would hide libraries of the same names.
        command = [sys.executable, "-P", guide_compiler.__file__]
        quiet = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        compiler = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=quiet, start_new_session=True
        )
        self._compiler = compiler
        tokenizer = await asyncio.to_thread(self._described)
        if compiler.stdin is not None:
            compiler.stdin.write(f"{json.dumps({**LIMITS, 'tokenizer': tokenizer})}\n".encode())
        return compiler

    def _described(self) -> str:
        described = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=self._vocab_size)
        return str(described.serialize_json())


def _question(parts: dict[str, Any]) -> str:
    return json.dumps(next(iter(parts.items())))


def _digest(question: str) -> bytes:
    return hashlib.sha256(question.encode()).digest()


def _refused_by_vllm(parts: dict[str, Any]) -> str:
    """Why vLLM refuses a guide that compiles, as a schema that xgrammar follows in part only; "" if it does not."""
    try:
        validate_xgrammar_grammar(SamplingParams(structured_outputs=StructuredOutputsParams(**parts)))
    except REFUSALS as error:
        return with_cause(error)
    return ""
