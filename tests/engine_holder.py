"""A process that holds a vLLM engine until it is killed: `python -m tests.engine_holder MODEL`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from worker.config import WorkerSettings
from worker.vllm_engine import VllmEngine


async def hold(model: Path) -> None:
    engine = VllmEngine(WorkerSettings(policy="held", model=model, dtype="float32", kv_cache_bytes=64 * 2**20))
    await engine.start()
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(Path(sys.argv[1])))
