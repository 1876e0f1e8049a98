"""When the sequences of a real engine are under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rollstream.worker.engines.vllm.engine import VllmEngine


async def until_under_way(engines: Sequence[VllmEngine], sequences: int, tokens: int) -> None:
    """Until these engines run just so many sequences, each of which has as many tokens. Raises `TimeoutError`."""

    def reached() -> bool:
        states = [state for engine in engines for state in engine._llm.output_processor.request_states.values()]
        lengths = [state.detokenizer.num_output_tokens() for state in states]
        return len(lengths) == sequences and min(lengths) >= tokens

    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.005)
